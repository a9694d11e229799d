//! JSON as Go's `json.Encoder` writes it, so that equal content has equal bytes, and so an equal
//! digest, whichever program wrote it.

use std::io::{self, Write};

use serde::Serialize;
use serde_json::ser::{Formatter, Serializer};

use crate::diagnostic::{Diagnostic, Result};

/// Encodes `value` as Go's `json.NewEncoder(w).Encode(value)` does: compact, `<`, `>`, `&`, U+2028
/// and U+2029 in strings escaped, floats in the shortest form with an exponent below 1e-6 and from
/// 1e21 on, a line feed at the end. The order of fields and keys is the caller's.
///
/// # Errors
/// `value` has a map whose keys are no strings.
pub fn to_go_json<T: Serialize + ?Sized>(value: &T) -> Result<Vec<u8>> {
    let mut bytes = Vec::new();
    value
        .serialize(&mut Serializer::with_formatter(&mut bytes, Go))
        .map_err(|e| Diagnostic::error(format!("cannot be written as JSON: {e}")))?;
    bytes.push(b'\n');
    Ok(bytes)
}

struct Go;

impl Formatter for Go {
    fn write_string_fragment<W: ?Sized + Write>(&mut self, writer: &mut W, fragment: &str) -> io::Result<()> {
        let mut rest = fragment;
        while let Some(at) = rest.find(['<', '>', '&', '\u{2028}', '\u{2029}']) {
            let (before, after) = rest.split_at(at);
            writer.write_all(before.as_bytes())?;
            let mut chars = after.chars();
            if let Some(c) = chars.next() {
                write!(writer, "\\u{:04x}", u32::from(c))?;
            }
            rest = chars.as_str();
        }
        writer.write_all(rest.as_bytes())
    }

    fn write_f32<W: ?Sized + Write>(&mut self, writer: &mut W, value: f32) -> io::Result<()> {
        let magnitude = value.abs();
        let exponent = magnitude != 0.0 && !(1e-6..1e21).contains(&magnitude);
        write_float(writer, if exponent { format!("{value:e}") } else { value.to_string() })
    }

    fn write_f64<W: ?Sized + Write>(&mut self, writer: &mut W, value: f64) -> io::Result<()> {
        let magnitude = value.abs();
        let exponent = magnitude != 0.0 && !(1e-6..1e21).contains(&magnitude);
        write_float(writer, if exponent { format!("{value:e}") } else { value.to_string() })
    }
}

/// Go signs a positive exponent, Rust does not.
fn write_float<W: ?Sized + Write>(writer: &mut W, text: String) -> io::Result<()> {
    match text.split_once('e') {
        Some((digits, exponent)) if !exponent.starts_with('-') => write!(writer, "{digits}e+{exponent}"),
        _ => writer.write_all(text.as_bytes()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn go<T: Serialize>(value: T) -> String {
        String::from_utf8(to_go_json(&value).unwrap()).unwrap()
    }

    #[test]
    fn strings_are_escaped_as_go_escapes_them() {
        assert_eq!(
            go("<|im_start|> & \u{2028}\u{2029}"),
            "\"\\u003c|im_start|\\u003e \\u0026 \\u2028\\u2029\"\n"
        );
        assert_eq!(
            go("\"\\/\u{8}\u{c}\n\r\t\u{1}\u{1f}\u{7f}é😀"),
            "\"\\\"\\\\/\\b\\f\\n\\r\\t\\u0001\\u001f\u{7f}é😀\"\n"
        );
        assert_eq!(go(""), "\"\"\n");
        assert_eq!(go(serde_json::json!({"<": ["&"]})), "{\"\\u003c\":[\"\\u0026\"]}\n");
    }

    #[test]
    fn floats_have_gos_shortest_form() {
        for (value, text) in [
            (0.0, "0"),
            (-0.0, "-0"),
            (1.0, "1"),
            (0.7, "0.7"),
            (1.1, "1.1"),
            (-2.5, "-2.5"),
            (1e-6, "0.000001"),
            (1e-7, "1e-7"),
            (1.5e-9, "1.5e-9"),
            (1e20, "100000000000000000000"),
            (1e21, "1e+21"),
            (1.25e300, "1.25e+300"),
        ] {
            assert_eq!(go(value), format!("{text}\n"));
        }
        assert_eq!(go(0.7f32), "0.7\n");
        assert_eq!(go(1e21f32), "1e+21\n");
        assert_eq!(go(1e-7f32), "1e-7\n");
        assert_eq!(go(f64::NAN), "null\n");
        assert_eq!(go(4096), "4096\n");
    }
}
