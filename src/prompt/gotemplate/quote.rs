//! Quoting: Go's `%q`, and the escapes for HTML, JavaScript and URL queries.

use std::fmt::{self, Write};

use unicode_general_category::{GeneralCategory, get_general_category};

/// True for what Go prints as it is: letters, marks, numbers, punctuation, symbols, and the space.
pub fn is_print(c: char) -> bool {
    use GeneralCategory::*;
    if c == ' ' {
        return true;
    }
    !matches!(
        get_general_category(c),
        Control
            | Format
            | Surrogate
            | PrivateUse
            | Unassigned
            | SpaceSeparator
            | LineSeparator
            | ParagraphSeparator
    )
}

/// A Go string literal; with `ascii`, nothing above U+007E is left as it is.
pub fn go_string(out: &mut impl Write, s: &str, ascii: bool) -> fmt::Result {
    let special =
        |c: char| matches!(c, '"' | '\\') || !c.is_ascii_graphic() && (ascii || !is_print(c)) && c != ' ';
    out.write_char('"')?;
    in_runs(out, s, special, |out, c| escape(out, c, '"', ascii))?;
    out.write_char('"')
}

/// A Go character literal.
pub fn go_char(out: &mut impl Write, c: char, ascii: bool) -> fmt::Result {
    out.write_char('\'')?;
    escape(out, c, '\'', ascii)?;
    out.write_char('\'')
}

fn escape(out: &mut impl Write, c: char, quote: char, ascii: bool) -> fmt::Result {
    match c {
        c if c == quote || c == '\\' => write!(out, "\\{c}"),
        '\u{7}' => out.write_str("\\a"),
        '\u{8}' => out.write_str("\\b"),
        '\u{c}' => out.write_str("\\f"),
        '\n' => out.write_str("\\n"),
        '\r' => out.write_str("\\r"),
        '\t' => out.write_str("\\t"),
        '\u{b}' => out.write_str("\\v"),
        c if (c.is_ascii() || !ascii) && is_print(c) => out.write_char(c),
        c if (c as u32) < 0x20 || c == '\u{7f}' => write!(out, "\\x{:02x}", c as u32),
        c if (c as u32) < 0x10000 => write!(out, "\\u{:04x}", c as u32),
        c => write!(out, "\\U{:08x}", c as u32),
    }
}

/// Text in HTML.
pub fn html(out: &mut impl Write, s: &str) -> fmt::Result {
    let special = |c| matches!(c, '"' | '\'' | '&' | '<' | '>' | '\0');
    in_runs(out, s, special, |out, c| {
        out.write_str(match c {
            '"' => "&#34;",
            '\'' => "&#39;",
            '&' => "&amp;",
            '<' => "&lt;",
            '>' => "&gt;",
            _ => "\u{fffd}",
        })
    })
}

/// Writes a string: runs without a `special` character as they are, those through `replace`.
pub fn in_runs<W: Write>(
    out: &mut W,
    s: &str,
    special: impl Fn(char) -> bool,
    replace: impl Fn(&mut W, char) -> fmt::Result,
) -> fmt::Result {
    let mut rest = s;
    while let Some(at) = rest.find(&special) {
        out.write_str(&rest[..at])?;
        let mut after = rest[at..].chars();
        if let Some(c) = after.next() {
            replace(out, c)?;
        }
        rest = after.as_str();
    }
    out.write_str(rest)
}

/// Text in a JavaScript string.
pub fn javascript(out: &mut impl Write, s: &str) -> fmt::Result {
    let special = |c: char| {
        matches!(c, '\\' | '\'' | '"' | '<' | '>' | '&' | '=') || !c.is_ascii_graphic() && !is_print(c)
    };
    in_runs(out, s, special, |out, c| match c {
        '\\' => out.write_str("\\\\"),
        '\'' => out.write_str("\\'"),
        '"' => out.write_str("\\\""),
        c => write!(out, "\\u{:04X}", c as u32),
    })
}

/// Text as a value of a URL's query.
pub fn url_query(out: &mut impl Write, s: &str) -> fmt::Result {
    s.bytes().try_for_each(|b| match b {
        b' ' => out.write_char('+'),
        b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'_' | b'.' | b'~' => out.write_char(b.into()),
        b => write!(out, "%{b:02X}"),
    })
}
