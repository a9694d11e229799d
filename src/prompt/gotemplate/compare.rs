//! Comparisons as Go's templates make them: only values of one basic kind compare.

use super::functions::Fault;
use super::value::Value;

/// `lt`, `le`, `gt`, `ge`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum Ordering {
    Less,
    LessOrEqual,
    Greater,
    GreaterOrEqual,
}

const INCOMPATIBLE: &str = "incompatible types for comparison";

/// True when `first` equals one of `others`.
///
/// # Errors
/// There is nothing to compare with, or a comparison on the way makes no sense.
pub fn equal(first: &Value, others: &[Value]) -> Result<bool, Fault> {
    if others.is_empty() {
        return Err("missing argument for comparison".into());
    }
    for other in others {
        let same = match (first, other) {
            (Value::Bool(a), Value::Bool(b)) => a == b,
            (Value::Int(a), Value::Int(b)) => a == b,
            (Value::Float(a), Value::Float(b)) => a == b,
            (Value::String(a), Value::String(b)) => a == b,
            (a, b) if a.is_nil() || b.is_nil() => a.is_nil() && b.is_nil(),
            (a, b) if is_basic(a) || is_basic(b) => return Err(incompatible(a, b)),
            (a, b) => {
                let message = format!("non-comparable types {} and {}", a.type_name(), b.type_name());
                return Err(message.into());
            }
        };
        if same {
            return Ok(true);
        }
    }
    Ok(false)
}

fn is_basic(value: &Value) -> bool {
    matches!(value, Value::Bool(_) | Value::Int(_) | Value::Float(_) | Value::String(_))
}

fn incompatible(a: &Value, b: &Value) -> Fault {
    format!("{INCOMPATIBLE}: {} and {}", a.type_name(), b.type_name()).into()
}

/// Compares two integers, floats or strings.
///
/// # Errors
/// They are of other kinds or not of the same.
pub fn order(ordering: Ordering, a: &Value, b: &Value) -> Result<bool, Fault> {
    let less = match (a, b) {
        (Value::Int(a), Value::Int(b)) => a < b,
        (Value::Float(a), Value::Float(b)) => a < b,
        (Value::String(a), Value::String(b)) => a < b,
        (Value::Bool(_), Value::Bool(_)) => return Err("invalid type for comparison: bool".into()),
        (a, b) => return Err(incompatible(a, b)),
    };
    let same = || equal(a, std::slice::from_ref(b));
    Ok(match ordering {
        Ordering::Less => less,
        Ordering::LessOrEqual => less || same()?,
        Ordering::Greater => !(less || same()?),
        Ordering::GreaterOrEqual => !less,
    })
}
