//! The functions a template may call. There are no others: none of these reads or reaches
//! anything but its arguments and the date.

use std::fmt::Write;

use jiff::civil::Date;

use super::compare::{self, Ordering};
use super::format::{sprint, sprintf, sprintln};
use super::json::write_json;
use super::quote;
use super::text::Text;
use super::value::{Display, Value};

/// A function by what it does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum Function {
    And,
    Or,
    Not,
    Len,
    Index,
    Slice,
    Equal,
    NotEqual,
    Order(Ordering),
    Print,
    Printf,
    Println,
    Html,
    Js,
    UrlQuery,
    Call,
    Json,
    CurrentDate,
    YesterdayDate,
    ToTypeScriptType,
}

/// Every function: Go's own, then the four that Ollama adds.
const FUNCTIONS: [(&str, Function); 23] = [
    ("and", Function::And),
    ("call", Function::Call),
    ("eq", Function::Equal),
    ("ge", Function::Order(Ordering::GreaterOrEqual)),
    ("gt", Function::Order(Ordering::Greater)),
    ("html", Function::Html),
    ("index", Function::Index),
    ("js", Function::Js),
    ("le", Function::Order(Ordering::LessOrEqual)),
    ("len", Function::Len),
    ("lt", Function::Order(Ordering::Less)),
    ("ne", Function::NotEqual),
    ("not", Function::Not),
    ("or", Function::Or),
    ("print", Function::Print),
    ("printf", Function::Printf),
    ("println", Function::Println),
    ("slice", Function::Slice),
    ("urlquery", Function::UrlQuery),
    ("currentDate", Function::CurrentDate),
    ("json", Function::Json),
    ("toTypeScriptType", Function::ToTypeScriptType),
    ("yesterdayDate", Function::YesterdayDate),
];

/// The names of all functions.
pub fn function_names() -> impl Iterator<Item = &'static str> {
    FUNCTIONS.iter().map(|(name, _)| *name)
}

/// Why a call failed.
#[derive(Debug, PartialEq, Eq)]
pub enum Fault {
    /// The arguments are wrong.
    Arguments(String),
    /// The result has no room.
    OutOfRoom,
}

impl From<std::fmt::Error> for Fault {
    fn from(_: std::fmt::Error) -> Fault {
        Fault::OutOfRoom
    }
}

impl From<String> for Fault {
    fn from(message: String) -> Fault {
        Fault::Arguments(message)
    }
}

impl From<&str> for Fault {
    fn from(message: &str) -> Fault {
        Fault::Arguments(message.to_owned())
    }
}

impl Function {
    /// The function with this name.
    pub fn named(name: &str) -> Option<Function> {
        FUNCTIONS.iter().find(|(n, _)| *n == name).map(|(_, f)| *f)
    }

    /// Its name.
    pub fn name(self) -> &'static str {
        FUNCTIONS.iter().find(|(_, f)| *f == self).map_or("", |(n, _)| n)
    }

    /// The least and the most arguments it takes.
    fn arity(self) -> (usize, usize) {
        match self {
            Function::And
            | Function::Or
            | Function::Call
            | Function::Index
            | Function::Slice
            | Function::Equal => (1, usize::MAX),
            Function::Printf => (1, usize::MAX),
            Function::Not | Function::Len | Function::Json | Function::ToTypeScriptType => (1, 1),
            Function::NotEqual | Function::Order(_) => (2, 2),
            Function::Print | Function::Println | Function::Html | Function::Js | Function::UrlQuery => {
                (0, usize::MAX)
            }
            Function::CurrentDate | Function::YesterdayDate => (0, usize::MAX),
        }
    }

    /// Checks the number of arguments.
    ///
    /// # Errors
    /// There are too few or too many.
    pub fn check_arity(self, count: usize) -> Result<(), Fault> {
        let (least, most) = self.arity();
        if (least..=most).contains(&count) {
            return Ok(());
        }
        let wanted = if count < least { least } else { most };
        let s = if wanted == 1 { "" } else { "s" };
        Err(format!("it takes {wanted} argument{s}, {count} given").into())
    }

    /// Calls it; `room` is how many bytes of text the result may have. `and` and `or` see all their
    /// arguments here; the evaluator stops before those that do not matter.
    ///
    /// # Errors
    /// The arguments do not fit the function, or the result does not fit the room.
    pub fn call(self, args: &[Value], room: usize, today: Date) -> Result<Value, Fault> {
        self.check_arity(args.len())?;
        let mut text = Text::new(room);
        let first = args.first().unwrap_or(&Value::Nil);
        match self {
            Function::And => {
                return Ok(args.iter().find(|v| !v.is_true()).or(args.last()).cloned().unwrap_or(Value::Nil));
            }
            Function::Or => {
                return Ok(args.iter().find(|v| v.is_true()).or(args.last()).cloned().unwrap_or(Value::Nil));
            }
            Function::Not => return Ok(Value::Bool(!first.is_true())),
            Function::Len => return length(first),
            Function::Index => return index(first, &args[1..]),
            Function::Slice => return slice(first, &args[1..], room),
            Function::Equal => return compare::equal(first, &args[1..]).map(Value::Bool),
            Function::NotEqual => return compare::equal(first, &args[1..]).map(|b| Value::Bool(!b)),
            Function::Order(ordering) => return compare::order(ordering, first, &args[1]).map(Value::Bool),
            Function::Call => {
                return Err(if first.is_nil() { "call of nil" } else { "a value is not a function" }.into());
            }
            Function::Print => sprint(&mut text, args)?,
            Function::Println => sprintln(&mut text, args)?,
            Function::Printf => match first {
                Value::String(format) => sprintf(&mut text, format, &args[1..])?,
                other => return Err(format!("the format is a {}, not a string", other.type_name()).into()),
            },
            Function::Html => quote::html(&mut text, &joined(args, room)?)?,
            Function::Js => quote::javascript(&mut text, &joined(args, room)?)?,
            Function::UrlQuery => quote::url_query(&mut text, &joined(args, room)?)?,
            Function::Json => write_json(&mut text, first)?,
            Function::CurrentDate => write!(text, "{today}")?,
            Function::YesterdayDate => write!(text, "{}", today.yesterday().unwrap_or(today))?,
            Function::ToTypeScriptType => write_typescript(&mut text, first)?,
        }
        Ok(Value::from(text.into_string()))
    }
}

/// The arguments as `print` puts them together, nil as `{{.X}}` prints it.
fn joined(args: &[Value], room: usize) -> Result<String, Fault> {
    let shown = |arg: &Value| if arg.is_nil() { Value::from("<no value>") } else { arg.clone() };
    let args: Vec<Value> = args.iter().map(shown).collect();
    let mut text = Text::new(room);
    sprint(&mut text, &args)?;
    Ok(text.into_string())
}

fn length(value: &Value) -> Result<Value, Fault> {
    let len = match value {
        Value::String(s) => s.len(),
        Value::List(list) => list.items.len(),
        Value::Map(map) => map.entries.len(),
        Value::Nil | Value::Null => return Err("len of nil".into()),
        other => return Err(format!("len of type {}", other.type_name()).into()),
    };
    Ok(Value::Int(len as i64))
}

/// An index between 0 and `most`.
fn position(index: &Value, most: usize) -> Result<usize, Fault> {
    match index {
        Value::Int(i) => usize::try_from(*i)
            .ok()
            .filter(|i| *i <= most)
            .ok_or_else(|| Fault::Arguments(format!("index out of range: {i}"))),
        Value::Nil | Value::Null => Err("an index is nil".into()),
        other => Err(format!("an index has type {}", other.type_name()).into()),
    }
}

fn index(value: &Value, indices: &[Value]) -> Result<Value, Fault> {
    let mut value = value.clone();
    if value.is_nil() {
        return Err("index of untyped nil".into());
    }
    for index in indices {
        value = match &value {
            Value::Nil | Value::Null => return Err("index of nil".into()),
            Value::String(s) => {
                let at = position(index, s.len().saturating_sub(1))?;
                let byte = s.as_bytes().get(at).ok_or_else(|| format!("index out of range: {at}"))?;
                Value::Int((*byte).into())
            }
            Value::List(list) => {
                let at = position(index, list.items.len().saturating_sub(1))?;
                list.items.get(at).ok_or_else(|| format!("index out of range: {at}"))?.clone()
            }
            Value::Map(map) => match index {
                Value::String(key) => map.entries.get(&**key).cloned().unwrap_or(Value::Null),
                Value::Nil | Value::Null => return Err("a key is nil".into()),
                other => return Err(format!("a key has type {}, not string", other.type_name()).into()),
            },
            other => return Err(format!("cannot index a value of type {}", other.type_name()).into()),
        };
    }
    Ok(value)
}

/// Bytes a list's slot is charged at.
const SLOT_BYTES: usize = size_of::<Value>();

fn slice(value: &Value, bounds: &[Value], room: usize) -> Result<Value, Fault> {
    let (len, most_bounds) = match value {
        Value::String(s) => (s.len(), 2),
        Value::List(list) => (list.items.len(), 3),
        Value::Nil | Value::Null => return Err("slice of untyped nil".into()),
        other => return Err(format!("cannot slice a value of type {}", other.type_name()).into()),
    };
    if bounds.len() > most_bounds {
        return Err(format!("too many slice indexes: {}", bounds.len()).into());
    }
    let mut at = [0, len, len];
    for (at, bound) in at.iter_mut().zip(bounds) {
        *at = position(bound, len)?;
    }
    let [start, end, capacity] = at;
    if start > end || end > capacity {
        return Err(format!("invalid slice index: {start} > {end}").into());
    }
    match value {
        Value::String(s) => {
            let bytes = s.as_bytes().get(start..end).unwrap_or_default();
            if bytes.len() > room {
                return Err(Fault::OutOfRoom);
            }
            // A slice may cut a character: its pieces become U+FFFD.
            Ok(Value::from(String::from_utf8_lossy(bytes).as_ref()))
        }
        Value::List(list) => {
            let items = list.items.get(start..end).unwrap_or_default();
            if items.len().saturating_mul(SLOT_BYTES) > room {
                return Err(Fault::OutOfRoom);
            }
            Ok(Value::list_as(items.to_vec(), list.display))
        }
        _ => Ok(Value::Nil),
    }
}

/// Bytes of text, and of slots, that a function's result takes from the budget.
pub fn cost(value: &Value) -> usize {
    match value {
        Value::String(s) => s.len(),
        Value::List(list) => list.items.len().saturating_mul(SLOT_BYTES),
        _ => 0,
    }
}

/// The result of a method that a value has besides its fields: `String` of what prints as it says
/// itself, `ToTypeScriptType` of a tool's property.
pub fn method(value: &Value, name: &str, room: usize) -> Option<Result<Value, std::fmt::Error>> {
    let mut text = Text::new(room);
    let written = match name {
        "String" if value.display() != Display::Go => sprint(&mut text, std::slice::from_ref(value)),
        "ToTypeScriptType" if is_property(value) => write_typescript(&mut text, value),
        _ => return None,
    };
    Some(written.map(|()| Value::from(text.into_string())))
}

fn is_property(value: &Value) -> bool {
    matches!(value, Value::Struct(s) if s.field("AnyOf").is_some())
}

/// The TypeScript type of a tool's property: its JSON schema's `type`, or the alternatives of `anyOf`.
pub fn write_typescript(text: &mut Text, property: &Value) -> std::fmt::Result {
    let Value::Struct(property) = property else { return text.write_str("any") };
    if property.field("AnyOf").is_none() {
        return text.write_str("any");
    }
    let items = |name| match property.field(name) {
        Some(Value::List(list)) => list.items.as_slice(),
        _ => &[],
    };
    let alternatives = items("AnyOf");
    let types = items("Type");
    if alternatives.is_empty() && types.is_empty() {
        return text.write_str("any");
    }
    if !alternatives.is_empty() {
        for (i, alternative) in alternatives.iter().enumerate() {
            if i > 0 {
                text.write_str(" | ")?;
            }
            write_typescript(text, alternative)?;
        }
        return Ok(());
    }
    for (i, name) in types.iter().enumerate() {
        if i > 0 {
            text.write_str(" | ")?;
        }
        text.write_str(match name {
            Value::String(s) => match &**s {
                "string" => "string",
                "number" | "integer" => "number",
                "boolean" => "boolean",
                "array" => "any[]",
                "object" => "Record<string, any>",
                "null" => "null",
                _ => "any",
            },
            _ => "any",
        })?;
    }
    Ok(())
}
