//! Decimal forms of a float64, as Go's strconv chooses between them.

/// Decimals after which a float64 has only zeros.
const MOST_DIGITS: usize = 1_100;

/// `f` by the verb `e`, `f` or `g` (or upper case); no precision means the fewest digits that read
/// back as `f`. Infinity is `+Inf` or `-Inf`.
pub fn format(f: f64, verb: char, precision: Option<usize>) -> String {
    if f.is_nan() {
        return "NaN".to_owned();
    }
    if f.is_infinite() {
        return if f > 0.0 { "+Inf" } else { "-Inf" }.to_owned();
    }
    let zeros = "0".repeat(precision.map_or(0, |p| p.saturating_sub(MOST_DIGITS)));
    let precision = precision.map(|p| p.min(MOST_DIGITS));
    let text = match verb {
        'f' => match precision {
            Some(p) => format!("{f:.p$}{zeros}"),
            None => format!("{f}"),
        },
        'g' | 'G' => general(f, precision),
        _ => exponent_form(&match precision {
            Some(p) => format!("{f:.p$e}").replacen('e', &format!("{zeros}e"), 1),
            None => format!("{f:e}"),
        }),
    };
    if verb.is_ascii_uppercase() { text.to_ascii_uppercase() } else { text }
}

/// `%g`: an exponent when it is below -4 or not below the precision (6 when the shortest form is
/// asked for), trailing zeros dropped.
fn general(f: f64, precision: Option<usize>) -> String {
    let scientific = match precision {
        Some(p) => format!("{f:.*e}", p.max(1) - 1),
        None => format!("{f:e}"),
    };
    let (mantissa, exponent) = scientific.split_once('e').unwrap_or((&scientific, "0"));
    let exponent: i32 = exponent.parse().unwrap_or(0);
    let digits = mantissa.bytes().filter(u8::is_ascii_digit).count();
    let kept = mantissa.bytes().filter(u8::is_ascii_digit).rev().skip_while(|b| *b == b'0').count().max(1);
    let threshold = match precision {
        None => 6,
        Some(p) if p.max(1) > kept && kept as i32 > exponent => kept as i32,
        Some(p) => p.max(1) as i32,
    };
    debug_assert!(digits >= kept);
    if exponent < -4 || exponent >= threshold {
        return exponent_form(&format!("{f:.*e}", kept - 1));
    }
    let decimals = usize::try_from(kept as i32 - 1 - exponent).unwrap_or(0);
    match precision {
        Some(_) => format!("{:.decimals$}", scientific.parse::<f64>().unwrap_or(f)),
        None => format!("{f}"),
    }
}

/// Rust's `1.5e-7` as Go's `1.5e-07`.
fn exponent_form(text: &str) -> String {
    let Some((mantissa, exponent)) = text.split_once('e') else { return text.to_owned() };
    let (sign, digits) = match exponent.strip_prefix('-') {
        Some(digits) => ('-', digits),
        None => ('+', exponent),
    };
    format!("{mantissa}e{sign}{digits:0>2}")
}
