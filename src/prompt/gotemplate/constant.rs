//! Constants: what the numbers, characters and strings of a template mean.

use super::value::Value;

/// The value of a number, which is an integer unless it has a point or an exponent.
///
/// # Errors
/// What is wrong with it.
pub fn number(text: &str) -> Result<Value, String> {
    let (negative, digits) = match text.strip_prefix('-') {
        Some(rest) => (true, rest),
        None => (false, text.strip_prefix('+').unwrap_or(text)),
    };
    if digits.ends_with('i') && !digits.starts_with("0x") {
        return Err("complex numbers are not supported".to_owned());
    }
    let lower = digits.to_ascii_lowercase();
    if lower.contains("__") || lower.ends_with('_') || lower.contains("_.") || lower.contains("._") {
        return Err(format!("`{text}` is not a number"));
    }
    let lower = lower.replace('_', "");
    let (base, body) = match lower.as_bytes() {
        [b'0', b'x', ..] => (16, &lower[2..]),
        [b'0', b'b', ..] => (2, &lower[2..]),
        [b'0', b'o', ..] => (8, &lower[2..]),
        [b'0', _, ..] if lower.bytes().all(|b| b.is_ascii_digit()) => (8, &lower[1..]),
        _ => (10, lower.as_str()),
    };
    let invalid = || format!("`{text}` is not a number");
    if base == 10 && lower.contains(['.', 'e']) {
        // Rust reads `inf` and `nan` too; these do not start with a digit.
        let f: f64 = lower.parse().map_err(|_| invalid())?;
        if f.is_infinite() {
            return Err(format!("`{text}` is too large a number"));
        }
        return Ok(Value::Float(if negative { -f } else { f }));
    }
    if base == 16 && body.contains(['.', 'p']) {
        return hexadecimal_float(body)
            .map(|f| Value::Float(if negative { -f } else { f }))
            .ok_or_else(invalid);
    }
    if body.is_empty() || !body.chars().all(|c| c.is_digit(base)) {
        return Err(invalid());
    }
    let magnitude = i128::from_str_radix(body, base).map_err(|_| format!("`{text}` overflows an integer"))?;
    let value = if negative { -magnitude } else { magnitude };
    i64::try_from(value).map(Value::Int).map_err(|_| format!("`{text}` overflows an integer"))
}

/// `1.8p3`: hexadecimal digits times a power of two.
fn hexadecimal_float(body: &str) -> Option<f64> {
    let (mantissa, exponent) = body.split_once('p')?;
    let exponent: i32 = exponent.parse().ok()?;
    let (whole, fraction) = mantissa.split_once('.').unwrap_or((mantissa, ""));
    if whole.len() + fraction.len() > 13 || whole.is_empty() && fraction.is_empty() {
        return None;
    }
    let digits = u64::from_str_radix(&format!("{whole}{fraction}"), 16).ok()?;
    let f = digits as f64 * 2f64.powi(exponent.checked_sub(4 * fraction.len() as i32)?);
    f.is_finite().then_some(f)
}

/// The number of a character in single quotes.
///
/// # Errors
/// What is wrong with it.
pub fn character(text: &str) -> Result<Value, String> {
    let invalid = || format!("{text} is not one character");
    let body = text.get(1..text.len().saturating_sub(1)).ok_or_else(invalid)?;
    let mut rest = body.chars();
    let c = match rest.next().ok_or_else(invalid)? {
        '\\' => match escape(&mut rest, '\'')? {
            Escaped::Char(c) => c as u32,
            Escaped::Byte(b) => b.into(),
        },
        c => c as u32,
    };
    if rest.next().is_some() {
        return Err(invalid());
    }
    Ok(Value::Int(c.into()))
}

/// What a string means, in double quotes or backquotes. Bytes that are no UTF-8, which `\xff`
/// can write, become U+FFFD.
///
/// # Errors
/// What is wrong with it.
pub fn string(text: &str) -> Result<String, String> {
    let body = text.get(1..text.len().saturating_sub(1)).ok_or("unterminated string")?;
    if text.starts_with('`') {
        return Ok(body.replace('\r', ""));
    }
    if !body.contains('\\') {
        return Ok(body.to_owned());
    }
    let mut bytes = Vec::with_capacity(body.len());
    let mut rest = body.chars();
    while let Some(c) = rest.next() {
        let c = match c {
            '\\' => match escape(&mut rest, '"')? {
                Escaped::Char(c) => c,
                Escaped::Byte(b) => {
                    bytes.push(b);
                    continue;
                }
            },
            c => c,
        };
        bytes.extend_from_slice(c.encode_utf8(&mut [0; 4]).as_bytes());
    }
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

enum Escaped {
    Char(char),
    Byte(u8),
}

/// What follows a backslash; `quote` is the only quotation mark that may.
fn escape(rest: &mut std::str::Chars<'_>, quote: char) -> Result<Escaped, String> {
    let c = rest.next().ok_or("a backslash at the end")?;
    let mut digits = |first: Option<char>, count: usize, base: u32| -> Result<u32, String> {
        let mut value = 0_u32;
        for d in first.into_iter().chain(rest.by_ref()).take(count) {
            let d = d.to_digit(base).ok_or_else(|| format!("`\\{c}` wants {count} digits"))?;
            value = value.wrapping_mul(base).wrapping_add(d);
        }
        Ok(value)
    };
    let scalar = |v: u32| char::from_u32(v).map(Escaped::Char).ok_or(format!("`\\{c}` names no character"));
    Ok(Escaped::Char(match c {
        'a' => '\u{7}',
        'b' => '\u{8}',
        'f' => '\u{c}',
        'n' => '\n',
        'r' => '\r',
        't' => '\t',
        'v' => '\u{b}',
        '\\' => '\\',
        c if c == quote => c,
        'x' => return Ok(Escaped::Byte(digits(None, 2, 16)? as u8)),
        '0'..='7' => {
            let value = digits(Some(c), 3, 8)?;
            return u8::try_from(value)
                .map(Escaped::Byte)
                .map_err(|_| "an octal escape over \\377".to_owned());
        }
        'u' => return scalar(digits(None, 4, 16)?),
        'U' => return scalar(digits(None, 8, 16)?),
        c => return Err(format!("`\\{c}` is not an escape")),
    }))
}
