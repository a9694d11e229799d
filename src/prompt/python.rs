//! What chat templates expect of Python: methods of strings, how floats print, what a sequence is.

use minijinja::value::{Tuple, ValueKind, from_args};
use minijinja::{Error, ErrorKind, Output, State, Value};
use minijinja_contrib::pycompat::unknown_method_callback;

use super::tojson::float_repr;

/// Prints a value as `{{ }}` does: floats as Python, the rest as the engine.
///
/// # Errors
/// The output refuses it.
pub fn print(out: &mut Output<'_>, state: &mut State<'_, '_>, value: &Value) -> Result<(), Error> {
    if value.kind() == ValueKind::Number
        && !value.is_integer()
        && let Ok(f) = f64::try_from(value.clone())
    {
        let text = match f {
            f if f.is_nan() => "nan".to_owned(),
            f if f.is_infinite() => if f > 0.0 { "inf" } else { "-inf" }.to_owned(),
            f => float_repr(f),
        };
        return out.write_str(&text).map_err(Error::from);
    }
    walk(state, value, 0)?;
    minijinja::escape_formatter(out, state, value)
}

/// Takes fuel for every value that a container holds, counted as often as it is held: what the
/// engine spends on showing or comparing it before it charges for that.
fn walk(state: &State<'_, '_>, value: &Value, depth: usize) -> Result<(), Error> {
    if !matches!(value.kind(), ValueKind::Seq | ValueKind::Iterable | ValueKind::Map | ValueKind::Plain) {
        return Ok(());
    }
    if depth > MOST_DEPTH {
        return Err(Error::new(ErrorKind::InvalidOperation, "a value is nested too deeply"));
    }
    let is_map = value.kind() == ValueKind::Map;
    let Ok(items) = value.try_iter() else { return Ok(()) };
    for item in items {
        state.consume_fuel(1)?;
        walk(state, &item, depth + 1)?;
        if is_map {
            walk(state, &value.get_item(&item)?, depth + 1)?;
        }
    }
    Ok(())
}

/// Python's sequences: what has a length and is indexed, dicts and strings among them.
pub fn is_sequence(value: &Value) -> bool {
    matches!(value.kind(), ValueKind::Seq | ValueKind::Map | ValueKind::String | ValueKind::Bytes)
}

/// What Python iterates over: of that which holds no items, the undefined value alone.
pub fn is_iterable(value: &Value) -> bool {
    value.is_undefined() || (!value.is_none() && value.try_iter().is_ok())
}

/// A string with HTML's special characters as markupsafe writes them.
///
/// # Errors
/// The value is no string, or the fuel runs out.
pub fn escape(state: &State<'_, '_>, value: &Value) -> Result<Value, Error> {
    let Some(text) = value.as_str() else {
        return Err(Error::new(ErrorKind::InvalidOperation, "only strings are escaped"));
    };
    if value.is_safe() {
        return Ok(value.clone());
    }
    state.consume_fuel((text.len() / 16) as u64)?;
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '\'' => out.push_str("&#39;"),
            '"' => out.push_str("&#34;"),
            c => out.push(c),
        }
    }
    Ok(Value::from_safe_string(out))
}

/// A method of a string, list or dict that the engine itself does not have.
///
/// # Errors
/// There is no such method, or its arguments are wrong.
pub fn method(state: &mut State<'_, '_>, value: &Value, name: &str, args: &[Value]) -> Result<Value, Error> {
    for container in args.iter().chain((name == "count").then_some(value)) {
        walk(state, container, 0)?;
    }
    let Some(s) = value.as_str() else { return unknown_method_callback(state, value, name, args) };
    state.consume_fuel((s.len() / 64) as u64)?;
    match name {
        "removeprefix" => {
            let (prefix,): (&str,) = from_args(args)?;
            Ok(Value::from(s.strip_prefix(prefix).unwrap_or(s)))
        }
        "removesuffix" => {
            let (suffix,): (&str,) = from_args(args)?;
            Ok(Value::from(s.strip_suffix(suffix).unwrap_or(s)))
        }
        "partition" | "rpartition" => {
            let (separator,): (&str,) = from_args(args)?;
            let parts = match (name, s.split_once(separator), s.rsplit_once(separator)) {
                _ if separator.is_empty() => {
                    return Err(Error::new(ErrorKind::InvalidOperation, "empty separator"));
                }
                ("partition", Some((before, after)), _) | ("rpartition", _, Some((before, after))) => {
                    [before, separator, after]
                }
                ("partition", ..) => [s, "", ""],
                _ => ["", "", s],
            };
            Ok(Value::from_object(Tuple::from(parts.map(Value::from).to_vec())))
        }
        "index" => {
            let (part,): (&str,) = from_args(args)?;
            let at =
                s.find(part).ok_or_else(|| Error::new(ErrorKind::InvalidOperation, "substring not found"))?;
            Ok(Value::from(s[..at].chars().count()))
        }
        "rsplit" => {
            let (separator, most): (Option<&str>, Option<i64>) = from_args(args)?;
            let most = most.and_then(|n| usize::try_from(n).ok()).map_or(usize::MAX, |n| n.saturating_add(1));
            let mut parts = rsplit(state, s, separator, most)?;
            parts.reverse();
            Ok(Value::from(parts))
        }
        _ => unknown_method_callback(state, value, name, args),
    }
}

/// The parts of a string from its end, at most `most`; no separator means runs of white space.
fn rsplit(state: &State<'_, '_>, s: &str, separator: Option<&str>, most: usize) -> Result<Vec<Value>, Error> {
    let mut parts = Vec::new();
    match separator {
        Some("") => Err(Error::new(ErrorKind::InvalidOperation, "empty separator")),
        Some(separator) => {
            for part in s.rsplitn(most, separator) {
                state.consume_fuel(1)?;
                parts.push(Value::from(part));
            }
            Ok(parts)
        }
        None => {
            let mut rest = s.trim_end();
            while !rest.is_empty() {
                let cut = if parts.len() + 1 < most { rest.rfind(char::is_whitespace) } else { None };
                let (before, part) = match cut {
                    Some(at) => {
                        let space = rest[at..].chars().next().map_or(1, char::len_utf8);
                        (&rest[..at], &rest[at + space..])
                    }
                    None => ("", rest),
                };
                state.consume_fuel(1)?;
                parts.push(Value::from(part));
                rest = before.trim_end();
            }
            Ok(parts)
        }
    }
}

/// Nesting of a value that is written.
const MOST_DEPTH: usize = 128;
