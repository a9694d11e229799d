//! `json.dumps` as Python writes it, for the filter `tojson` of chat templates.

use std::fmt::Write;

use minijinja::value::{Kwargs, Rest, ValueKind};
use minijinja::{Error, ErrorKind, State, Value};

/// Nesting of a value that is written.
const MOST_DEPTH: usize = 128;

/// The filter `tojson` as transformers defines it: `json.dumps` with `ensure_ascii=False`.
///
/// # Errors
/// The value has no JSON form, is nested too deeply, or the fuel runs out.
pub fn tojson(
    state: &State<'_, '_>,
    value: &Value,
    args: Rest<Value>,
    kwargs: Kwargs,
) -> Result<Value, Error> {
    let argument = |position: usize, name: &str| -> Result<Option<Value>, Error> {
        let named: Option<Value> = kwargs.get(name)?;
        Ok(named.or_else(|| args.get(position).cloned()).filter(|v| !v.is_none() && !v.is_undefined()))
    };
    let ensure_ascii = argument(0, "ensure_ascii")?.is_some_and(|v| v.is_true());
    let indent = match argument(1, "indent")? {
        None => None,
        Some(v) => Some(match v.as_str() {
            Some(text) => text.to_owned(),
            None => " ".repeat(usize::try_from(v)?.min(64)),
        }),
    };
    let (item_separator, key_separator) = match argument(2, "separators")? {
        Some(pair) => (part(&pair, 0)?, part(&pair, 1)?),
        None if indent.is_some() => (",".to_owned(), ": ".to_owned()),
        None => (", ".to_owned(), ": ".to_owned()),
    };
    let sort_keys = argument(3, "sort_keys")?.is_some_and(|v| v.is_true());
    kwargs.assert_all_used()?;
    let mut dump = Dump {
        state,
        out: String::new(),
        charged: 0,
        ensure_ascii,
        indent,
        item_separator,
        key_separator,
        sort_keys,
    };
    dump.value(value, 0)?;
    Ok(Value::from(dump.out))
}

fn part(pair: &Value, index: usize) -> Result<String, Error> {
    let part = pair.get_item_by_index(index)?;
    part.as_str()
        .map(str::to_owned)
        .ok_or_else(|| Error::new(ErrorKind::InvalidOperation, "a separator is not a string"))
}

struct Dump<'a, 't, 'e> {
    state: &'a State<'t, 'e>,
    out: String,
    /// Bytes of `out` that fuel was taken for.
    charged: usize,
    ensure_ascii: bool,
    indent: Option<String>,
    item_separator: String,
    key_separator: String,
    sort_keys: bool,
}

impl Dump<'_, '_, '_> {
    /// Takes fuel for a value, and for what was written since the last time: one per 16 bytes.
    fn charge(&mut self) -> Result<(), Error> {
        let fuel = (self.out.len() - self.charged) / 16;
        self.charged += fuel * 16;
        self.state.consume_fuel(fuel as u64 + 1)
    }

    fn value(&mut self, value: &Value, depth: usize) -> Result<(), Error> {
        if depth > MOST_DEPTH {
            return Err(Error::new(ErrorKind::InvalidOperation, "a value is nested too deeply for tojson"));
        }
        self.charge()?;
        match value.kind() {
            ValueKind::None => self.out.push_str("null"),
            ValueKind::Bool => self.out.push_str(if value.is_true() { "true" } else { "false" }),
            ValueKind::Number => self.number(value),
            ValueKind::String => self.string(value.as_str().unwrap_or_default()),
            ValueKind::Seq | ValueKind::Iterable => {
                let items = value.try_iter()?;
                self.out.push('[');
                let mut any = false;
                for item in items {
                    self.separate(any, depth + 1);
                    any = true;
                    self.value(&item, depth + 1)?;
                }
                self.close(any, depth, ']');
            }
            ValueKind::Map => self.map(value, depth)?,
            kind => {
                let message = format!("a value of type {kind} has no JSON form");
                return Err(Error::new(ErrorKind::BadSerialization, message));
            }
        }
        Ok(())
    }

    fn map(&mut self, value: &Value, depth: usize) -> Result<(), Error> {
        let mut keys: Vec<Value> = value.try_iter()?.collect();
        if self.sort_keys {
            keys.sort();
        }
        self.out.push('{');
        for (i, key) in keys.iter().enumerate() {
            self.separate(i > 0, depth + 1);
            match key.kind() {
                ValueKind::String => self.string(key.as_str().unwrap_or_default()),
                ValueKind::None => self.out.push_str("\"null\""),
                ValueKind::Bool => self.out.push_str(if key.is_true() { "\"true\"" } else { "\"false\"" }),
                ValueKind::Number => {
                    self.out.push('"');
                    self.number(key);
                    self.out.push('"');
                }
                kind => {
                    let message = format!("a key of type {kind} has no JSON form");
                    return Err(Error::new(ErrorKind::BadSerialization, message));
                }
            }
            let separator = std::mem::take(&mut self.key_separator);
            self.out.push_str(&separator);
            self.key_separator = separator;
            self.value(&value.get_item(key)?, depth + 1)?;
        }
        self.close(!keys.is_empty(), depth, '}');
        Ok(())
    }

    fn separate(&mut self, between: bool, depth: usize) {
        if between {
            self.out.push_str(&self.item_separator);
        }
        self.new_line(depth);
    }

    fn close(&mut self, any: bool, depth: usize, bracket: char) {
        if any {
            self.new_line(depth);
        }
        self.out.push(bracket);
    }

    fn new_line(&mut self, depth: usize) {
        if let Some(indent) = &self.indent {
            self.out.push('\n');
            (0..depth).for_each(|_| self.out.push_str(indent));
        }
    }

    fn number(&mut self, value: &Value) {
        match f64::try_from(value.clone()) {
            Ok(f) if !value.is_integer() => self.out.push_str(&float_repr(f)),
            _ => self.out.push_str(&value.to_string()),
        }
    }

    fn string(&mut self, s: &str) {
        self.out.push('"');
        for c in s.chars() {
            match c {
                '"' => self.out.push_str("\\\""),
                '\\' => self.out.push_str("\\\\"),
                '\n' => self.out.push_str("\\n"),
                '\r' => self.out.push_str("\\r"),
                '\t' => self.out.push_str("\\t"),
                '\u{8}' => self.out.push_str("\\b"),
                '\u{c}' => self.out.push_str("\\f"),
                '\0'..='\u{1f}' => self.unicode_escape(c as u16),
                c if self.ensure_ascii && !(c.is_ascii() && c != '\u{7f}') => {
                    c.encode_utf16(&mut [0; 2]).iter().for_each(|unit| self.unicode_escape(*unit));
                }
                c => self.out.push(c),
            }
        }
        self.out.push('"');
    }

    fn unicode_escape(&mut self, unit: u16) {
        // Writing to a string does not fail.
        let _ = write!(self.out, "\\u{unit:04x}");
    }
}

/// A float as Python's `repr` has it, and JSON's names for what is not finite.
pub fn float_repr(f: f64) -> String {
    if f.is_nan() {
        return "NaN".to_owned();
    }
    if f.is_infinite() {
        return if f > 0.0 { "Infinity" } else { "-Infinity" }.to_owned();
    }
    // Both languages write an exponent below 1e-4 and from 1e16 on.
    let text = format!("{f:?}");
    match text.split_once('e') {
        None => text,
        Some((mantissa, exponent)) => {
            let mantissa = mantissa.strip_suffix(".0").unwrap_or(mantissa);
            match exponent.strip_prefix('-') {
                Some(digits) => format!("{mantissa}e-{digits:0>2}"),
                None => format!("{mantissa}e+{exponent:0>2}"),
            }
        }
    }
}
