//! JSON as Go's encoding/json writes it: keys of maps sorted, fields of structs in their order,
//! no spaces, and `<`, `>`, `&` escaped.

use std::fmt::{self, Write};

use super::quote::in_runs;
use super::value::{Display, FieldType, Value};

/// Writes a value as JSON. Infinite and NaN numbers, which JSON lacks, are written as `null`.
pub fn write_json(out: &mut impl Write, value: &Value) -> fmt::Result {
    match value {
        Value::Nil | Value::Null => out.write_str("null"),
        Value::Bool(b) => write!(out, "{b}"),
        Value::Int(i) => write!(out, "{i}"),
        Value::Float(f) => write_float(out, *f),
        Value::String(s) => write_string(out, s),
        Value::List(list) => match (list.display, list.items.as_slice()) {
            (Display::OneOrMany, [one]) => write_json(out, one),
            (_, items) => {
                out.write_char('[')?;
                for (i, item) in items.iter().enumerate() {
                    if i > 0 {
                        out.write_char(',')?;
                    }
                    write_json(out, item)?;
                }
                out.write_char(']')
            }
        },
        Value::Map(map) => write_members(out, map.entries.iter().map(|(k, v)| (k.as_str(), v))),
        Value::Struct(s) => {
            let kept = |(f, v): &(&FieldType, &Value)| !f.omit_empty || v.is_true();
            let members = s.kind.fields.iter().zip(&s.fields).filter(kept).map(|(f, v)| (f.json, v));
            write_members(out, members)
        }
    }
}

fn write_members<'a>(
    out: &mut impl Write,
    members: impl Iterator<Item = (&'a str, &'a Value)>,
) -> fmt::Result {
    out.write_char('{')?;
    for (i, (key, value)) in members.enumerate() {
        if i > 0 {
            out.write_char(',')?;
        }
        write_string(out, key)?;
        out.write_char(':')?;
        write_json(out, value)?;
    }
    out.write_char('}')
}

fn write_float(out: &mut impl Write, f: f64) -> fmt::Result {
    if !f.is_finite() {
        return out.write_str("null");
    }
    // As JavaScript does: an exponent only for very small and very large numbers.
    if f != 0.0 && (f.abs() < 1e-6 || f.abs() >= 1e21) {
        let text = format!("{f:e}");
        return match text.split_once('e') {
            Some((mantissa, exponent)) if !exponent.starts_with('-') => write!(out, "{mantissa}e+{exponent}"),
            _ => out.write_str(&text),
        };
    }
    write!(out, "{f}")
}

fn write_string(out: &mut impl Write, s: &str) -> fmt::Result {
    let special = |c| matches!(c, '"' | '\\' | '<' | '>' | '&' | '\u{2028}' | '\u{2029}' | '\0'..='\u{1f}');
    out.write_char('"')?;
    in_runs(out, s, special, |out, c| match c {
        '"' => out.write_str("\\\""),
        '\\' => out.write_str("\\\\"),
        '\u{8}' => out.write_str("\\b"),
        '\u{c}' => out.write_str("\\f"),
        '\n' => out.write_str("\\n"),
        '\r' => out.write_str("\\r"),
        '\t' => out.write_str("\\t"),
        c => write!(out, "\\u{:04x}", c as u32),
    })?;
    out.write_char('"')
}
