//! Go's fmt: `print`, `println`, `printf`.

use std::fmt::{self, Write};

use super::float;
use super::json::write_json;
use super::quote;
use super::text::Text;
use super::value::{Display, Value};

/// The flags, width and precision of a verb.
#[derive(Clone, Copy, Debug)]
pub struct Spec {
    verb: char,
    plus: bool,
    minus: bool,
    sharp: bool,
    space: bool,
    zero: bool,
    width: Option<usize>,
    precision: Option<usize>,
}

impl Spec {
    const fn plain(verb: char) -> Spec {
        Spec {
            verb,
            plus: false,
            minus: false,
            sharp: false,
            space: false,
            zero: false,
            width: None,
            precision: None,
        }
    }
}

/// The values as `print` shows them: a space between two of which neither is a string.
pub fn sprint(out: &mut Text, args: &[Value]) -> fmt::Result {
    let mut after_string = true;
    for arg in args {
        let string = matches!(arg, Value::String(_));
        if !after_string && !string {
            out.write_char(' ')?;
        }
        write_value(out, Spec::plain('v'), arg)?;
        after_string = string;
    }
    Ok(())
}

/// The values as `println` shows them: a space between any two, a newline at the end.
pub fn sprintln(out: &mut Text, args: &[Value]) -> fmt::Result {
    for (i, arg) in args.iter().enumerate() {
        if i > 0 {
            out.write_char(' ')?;
        }
        write_value(out, Spec::plain('v'), arg)?;
    }
    out.write_char('\n')
}

/// Widths and precisions above this are refused, as in Go.
const MOST_WIDTH: usize = 1_000_000;

/// The values in the places that `format` gives them.
pub fn sprintf(out: &mut Text, format: &str, args: &[Value]) -> fmt::Result {
    let mut directives = Directives { rest: format, args, next: 0, reordered: false, closes: true };
    while let Some(at) = directives.rest.find('%') {
        out.write_str(&directives.rest[..at])?;
        directives.rest = &directives.rest[at + 1..];
        directives.one(out)?;
    }
    out.write_str(directives.rest)?;
    if !directives.reordered && directives.next < args.len() {
        out.write_str("%!(EXTRA ")?;
        for (i, arg) in args[directives.next..].iter().enumerate() {
            if i > 0 {
                out.write_str(", ")?;
            }
            if arg.is_nil() {
                out.write_str("<nil>")?;
                continue;
            }
            write!(out, "{}=", arg.type_name())?;
            write_value(out, Spec::plain('v'), arg)?;
        }
        out.write_char(')')?;
    }
    Ok(())
}

/// What is left of a format and its arguments.
struct Directives<'a> {
    rest: &'a str,
    args: &'a [Value],
    next: usize,
    reordered: bool,
    /// False once no `]` is left in `rest`: looking for it again would cost as much each time.
    closes: bool,
}

impl Directives<'_> {
    /// Reads and writes what follows a percent sign.
    fn one(&mut self, out: &mut Text) -> fmt::Result {
        let mut spec = Spec::plain('v');
        let mut bad_index = false;
        while let Some(c) = self.rest.chars().next() {
            match c {
                '#' => spec.sharp = true,
                '0' => spec.zero = true,
                '+' => spec.plus = true,
                '-' => spec.minus = true,
                ' ' => spec.space = true,
                _ => break,
            }
            self.rest = &self.rest[1..];
        }
        bad_index |= !self.index();
        match self.amount() {
            Amount::None => {}
            Amount::Number(n) => spec.width = Some(n),
            Amount::Negative(n) => (spec.width, spec.minus) = (Some(n), true),
            Amount::Bad => out.write_str("%!(BADWIDTH)")?,
        }
        if let Some(rest) = self.rest.strip_prefix('.') {
            self.rest = rest;
            bad_index |= !self.index();
            match self.amount() {
                Amount::None => spec.precision = Some(0),
                Amount::Number(n) => spec.precision = Some(n),
                Amount::Negative(_) | Amount::Bad => out.write_str("%!(BADPREC)")?,
            }
        }
        bad_index |= !self.index();
        let Some(verb) = self.rest.chars().next() else { return out.write_str("%!(NOVERB)") };
        self.rest = &self.rest[verb.len_utf8()..];
        spec.verb = verb;
        spec.zero &= !spec.minus;
        if verb == '%' {
            return out.write_char('%');
        }
        if bad_index {
            return write!(out, "%!{verb}(BADINDEX)");
        }
        let Some(arg) = self.args.get(self.next) else { return write!(out, "%!{verb}(MISSING)") };
        self.next += 1;
        write_value(out, spec, arg)
    }

    /// Reads `[2]`, the number of the next argument; false when there is no such argument.
    fn index(&mut self) -> bool {
        let Some(rest) = self.rest.strip_prefix('[') else { return true };
        self.reordered = true;
        let Some((number, rest)) = self.closes.then(|| rest.split_once(']')).flatten() else {
            (self.rest, self.closes) = (rest, false);
            return false;
        };
        self.rest = rest;
        match number.parse::<usize>() {
            Ok(n) if (1..=self.args.len()).contains(&n) => {
                self.next = n - 1;
                true
            }
            _ => false,
        }
    }

    /// Reads a width or precision: digits, or `*` for an argument.
    fn amount(&mut self) -> Amount {
        if let Some(rest) = self.rest.strip_prefix('*') {
            self.rest = rest;
            let arg = self.args.get(self.next);
            self.next += usize::from(arg.is_some());
            return match arg {
                Some(Value::Int(n)) if n.unsigned_abs() <= MOST_WIDTH as u64 => {
                    let size = n.unsigned_abs() as usize;
                    if *n < 0 { Amount::Negative(size) } else { Amount::Number(size) }
                }
                _ => Amount::Bad,
            };
        }
        let digits = self.rest.len() - self.rest.trim_start_matches(|c: char| c.is_ascii_digit()).len();
        let (number, rest) = self.rest.split_at(digits);
        self.rest = rest;
        if number.is_empty() {
            return Amount::None;
        }
        // Go gives the whole format up at the digit that follows a number over the most.
        let all_but_last = &number[..number.len() - 1];
        match (all_but_last.parse().unwrap_or(0), number.parse()) {
            (before, Ok(n)) if before <= MOST_WIDTH => Amount::Number(n),
            _ => {
                self.rest = "";
                Amount::None
            }
        }
    }
}

enum Amount {
    None,
    Number(usize),
    Negative(usize),
    Bad,
}

/// A value as `{{.X}}` prints it.
pub fn print_value(out: &mut Text, value: &Value) -> fmt::Result {
    if value.is_nil() { out.write_str("<no value>") } else { write_value(out, Spec::plain('v'), value) }
}

fn write_value(out: &mut Text, spec: Spec, value: &Value) -> fmt::Result {
    let Spec { verb, sharp, plus, .. } = spec;
    if verb == 'T' {
        let name = if value.is_nil() { "<nil>" } else { value.type_name() };
        return padded(out, spec, name, false);
    }
    let go_syntax = verb == 'v' && sharp;
    if value.display() != Display::Go && matches!(verb, 'v' | 's' | 'q' | 'x' | 'X') && !go_syntax {
        let mut text = Text::new(out.room());
        write_shown(&mut text, value)?;
        let verb = if verb == 'v' { 's' } else { verb };
        let (text, before) = (text.into_string(), out.room());
        write_string(out, Spec { verb, ..spec }, &text)?;
        // A precision cuts what was made, not what making it cost.
        return out.charge(text.len().saturating_sub(before - out.room()));
    }
    match value {
        Value::Nil | Value::Null if verb == 'v' => padded(out, spec, "<nil>", false),
        Value::Nil | Value::Null => write!(out, "%!{verb}(<nil>)"),
        Value::Bool(b) if matches!(verb, 'v' | 't') => {
            padded(out, spec, if *b { "true" } else { "false" }, false)
        }
        Value::Int(i) => write_int(out, spec, *i),
        Value::Float(f) => write_float(out, spec, *f),
        Value::String(s) => write_string(out, spec, s),
        Value::Bool(_) => bad_verb(out, verb, value),
        Value::List(list) => {
            out.write_str(if go_syntax { "[]interface {}{" } else { "[" })?;
            for (i, item) in list.items.iter().enumerate() {
                if i > 0 {
                    out.write_str(if go_syntax { ", " } else { " " })?;
                }
                write_element(out, spec, item)?;
            }
            out.write_str(if go_syntax { "}" } else { "]" })
        }
        Value::Map(map) => {
            out.write_str(if go_syntax { "map[string]interface {}{" } else { "map[" })?;
            for (i, (key, item)) in map.entries.iter().enumerate() {
                if i > 0 {
                    out.write_str(if go_syntax { ", " } else { " " })?;
                }
                write_string(out, spec, key)?;
                out.write_char(':')?;
                write_element(out, spec, item)?;
            }
            out.write_str(if go_syntax { "}" } else { "]" })
        }
        Value::Struct(s) => {
            let named = verb == 'v' && (sharp || plus);
            out.write_str(if go_syntax { s.kind.name } else { "" })?;
            out.write_char('{')?;
            for (i, (field, item)) in s.kind.fields.iter().zip(&s.fields).enumerate() {
                if i > 0 {
                    out.write_str(if go_syntax { ", " } else { " " })?;
                }
                if named {
                    write!(out, "{}:", field.name)?;
                }
                write_element(out, spec, item)?;
            }
            out.write_char('}')
        }
    }
}

/// A value inside another one: nil is shown whatever the verb.
fn write_element(out: &mut Text, spec: Spec, value: &Value) -> fmt::Result {
    match value {
        Value::Nil | Value::Null if spec.verb == 'v' && spec.sharp => out.write_str("interface {}(nil)"),
        Value::Nil | Value::Null => out.write_str("<nil>"),
        _ => write_value(out, spec, value),
    }
}

/// The value as it says itself, where it does.
fn write_shown(out: &mut Text, value: &Value) -> fmt::Result {
    match (value, value.display()) {
        (Value::List(list), Display::OneOrMany) => match list.items.as_slice() {
            [] => Ok(()),
            [one] => write_value(out, Spec::plain('v'), one),
            many => write_value(out, Spec::plain('v'), &Value::list(many.to_vec())),
        },
        _ => write_json(out, value),
    }
}

fn bad_verb(out: &mut Text, verb: char, value: &Value) -> fmt::Result {
    write!(out, "%!{verb}({}=", value.type_name())?;
    write_value(out, Spec::plain('v'), value)?;
    out.write_char(')')
}

/// Writes `body` at its width; zeros go between sign and digits of a number.
fn padded(out: &mut Text, spec: Spec, body: &str, number: bool) -> fmt::Result {
    let width = spec.width.unwrap_or(0);
    let missing = width.saturating_sub(body.chars().count());
    if missing > out.room() {
        return Err(fmt::Error);
    }
    if spec.minus {
        out.write_str(body)?;
        return out.write_str(&" ".repeat(missing));
    }
    let pad = if spec.zero { "0" } else { " " }.repeat(missing);
    match body.strip_prefix(['+', '-', ' ']).filter(|_| number && spec.zero) {
        Some(digits) => {
            out.write_str(&body[..1])?;
            out.write_str(&pad)?;
            out.write_str(digits)
        }
        None => {
            out.write_str(&pad)?;
            out.write_str(body)
        }
    }
}

fn write_string(out: &mut Text, spec: Spec, s: &str) -> fmt::Result {
    let cut = match spec.precision {
        Some(most) => s.char_indices().nth(most).map_or(s, |(at, _)| &s[..at]),
        None => s,
    };
    let mut text = Text::new(out.room());
    match spec.verb {
        'v' if spec.sharp => quote::go_string(&mut text, cut, false)?,
        'v' | 's' if spec.width.is_none() => return out.write_str(cut),
        'v' | 's' => text.write_str(cut)?,
        'q' if spec.sharp && !cut.contains('`') && cut.chars().all(|c| c == '\t' || quote::is_print(c)) => {
            write!(text, "`{cut}`")?;
        }
        'q' => quote::go_string(&mut text, cut, spec.plus)?,
        'x' | 'X' => {
            let bytes = &s.as_bytes()[..spec.precision.unwrap_or(s.len()).min(s.len())];
            let prefix = if spec.verb == 'x' { "0x" } else { "0X" };
            for (i, byte) in bytes.iter().enumerate() {
                let space = spec.space && i > 0;
                text.write_str(if space { " " } else { "" })?;
                text.write_str(if spec.sharp && (i == 0 || space) { prefix } else { "" })?;
                match spec.verb {
                    'x' => write!(text, "{byte:02x}")?,
                    _ => write!(text, "{byte:02X}")?,
                }
            }
        }
        verb => return bad_verb(out, verb, &Value::from(s)),
    }
    padded(out, spec, &text.into_string(), false)
}

fn write_int(out: &mut Text, spec: Spec, i: i64) -> fmt::Result {
    let magnitude = i.unsigned_abs();
    let char_of = || u32::try_from(i).ok().and_then(char::from_u32).unwrap_or('\u{fffd}');
    let (prefix, digits) = match spec.verb {
        'v' | 'd' => ("", magnitude.to_string()),
        'b' => ("0b", format!("{magnitude:b}")),
        'o' => ("0", format!("{magnitude:o}")),
        'O' => ("0o", format!("{magnitude:o}")),
        'x' => ("0x", format!("{magnitude:x}")),
        'X' => ("0X", format!("{magnitude:X}")),
        'c' => return padded(out, spec, &char_of().to_string(), false),
        'q' => {
            let mut text = Text::new(16);
            quote::go_char(&mut text, char_of(), spec.plus)?;
            return padded(out, spec, &text.into_string(), false);
        }
        'U' => {
            let width = spec.precision.unwrap_or(4).max(4);
            if width > out.room() {
                return Err(fmt::Error);
            }
            let shown = if spec.sharp && quote::is_print(char_of()) {
                format!(" '{}'", char_of())
            } else {
                String::new()
            };
            let digits = format!("{magnitude:X}");
            let zeros = "0".repeat(width.saturating_sub(digits.len()));
            return padded(out, Spec { zero: false, ..spec }, &format!("U+{zeros}{digits}{shown}"), false);
        }
        verb => return bad_verb(out, verb, &Value::Int(i)),
    };
    let sign = match (i < 0, spec.plus && spec.verb != 'v', spec.space) {
        (true, ..) => "-",
        (_, true, _) => "+",
        (_, _, true) => " ",
        _ => "",
    };
    let prefix = if spec.verb == 'O' || spec.sharp && spec.verb != 'v' { prefix } else { "" };
    let least = spec.precision.unwrap_or(0);
    if least > out.room() {
        return Err(fmt::Error);
    }
    let digits = if spec.precision == Some(0) && i == 0 { String::new() } else { digits };
    // Zeros that fill the width stand after sign and prefix, and only without a precision.
    let fill = match spec.width {
        Some(width) if spec.zero && spec.precision.is_none() => width.saturating_sub(sign.len()),
        _ => least,
    };
    if fill > out.room() {
        return Err(fmt::Error);
    }
    let zeros = "0".repeat(fill.saturating_sub(digits.len()));
    let body = format!("{sign}{prefix}{zeros}{digits}");
    padded(out, Spec { zero: false, ..spec }, &body, true)
}

fn write_float(out: &mut Text, spec: Spec, f: f64) -> fmt::Result {
    let verb = match spec.verb {
        'v' => 'g',
        'F' => 'f',
        'e' | 'E' | 'f' | 'g' | 'G' => spec.verb,
        verb => return bad_verb(out, verb, &Value::Float(f)),
    };
    let precision = spec.precision.or(if matches!(verb, 'g' | 'G') { None } else { Some(6) });
    if precision.is_some_and(|p| p > out.room()) {
        return Err(fmt::Error);
    }
    let mut body = float::format(f, verb, precision);
    if !body.starts_with('-') && !(body.starts_with('+')) {
        if spec.plus && spec.verb != 'v' {
            body.insert(0, '+');
        } else if spec.space {
            body.insert(0, ' ');
        }
    }
    padded(out, Spec { zero: spec.zero && f.is_finite(), ..spec }, &body, true)
}
