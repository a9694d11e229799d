//! How long an idle model stays in memory.

use std::time::Duration;

use serde_json::Value as Json;

/// How long an idle model stays.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KeepAlive {
    /// Until it is unloaded by name or another model needs the room.
    Forever,
    /// So long after its last request; zero unloads it at once.
    For(Duration),
}

impl KeepAlive {
    /// Reads a number of seconds or a Go duration; what is negative means for ever.
    ///
    /// # Errors
    /// The text is neither.
    pub fn parse(text: &str) -> Result<KeepAlive, String> {
        match text.parse::<f64>() {
            Ok(seconds) => KeepAlive::seconds(seconds),
            Err(_) => KeepAlive::duration(text),
        }
    }

    /// Reads the `keep_alive` of a request: a number of seconds, or a Go duration as a string.
    ///
    /// # Errors
    /// It is neither.
    pub fn from_json(value: &Json) -> Result<KeepAlive, String> {
        match value {
            Json::Number(n) => KeepAlive::seconds(n.as_f64().unwrap_or(f64::NAN)),
            Json::String(text) => KeepAlive::duration(text),
            _ => Err("keep_alive must be a number of seconds or a duration such as \"5m\"".to_owned()),
        }
    }

    fn seconds(seconds: f64) -> Result<KeepAlive, String> {
        match seconds {
            s if s < 0.0 => Ok(KeepAlive::Forever),
            s => Duration::try_from_secs_f64(s).map(KeepAlive::For).or(if s > 0.0 {
                Ok(KeepAlive::Forever)
            } else {
                Err(format!("`{s}` is no time"))
            }),
        }
    }

    /// Go's `time.ParseDuration`.
    fn duration(text: &str) -> Result<KeepAlive, String> {
        let wrong = || format!("time: invalid duration {text:?}");
        let (negative, mut rest) = match text.as_bytes().first() {
            Some(b'-') => (true, &text[1..]),
            Some(b'+') => (false, &text[1..]),
            _ => (false, text),
        };
        if rest == "0" {
            return Ok(KeepAlive::For(Duration::ZERO));
        }
        if rest.is_empty() {
            return Err(wrong());
        }
        let mut seconds = 0.0;
        while !rest.is_empty() {
            let digits = rest.find(|c: char| !c.is_ascii_digit() && c != '.').ok_or_else(wrong)?;
            let number: f64 = rest[..digits].parse().map_err(|_| wrong())?;
            rest = &rest[digits..];
            let unit = rest.find(|c: char| c.is_ascii_digit() || c == '.').unwrap_or(rest.len());
            seconds += number
                * match &rest[..unit] {
                    "ns" => 1e-9,
                    "us" | "µs" | "μs" => 1e-6,
                    "ms" => 1e-3,
                    "s" => 1.0,
                    "m" => 60.0,
                    "h" => 3600.0,
                    _ => return Err(wrong()),
                };
            rest = &rest[unit..];
        }
        KeepAlive::seconds(if negative { -seconds } else { seconds })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn durations_are_gos() {
        let ms = |n| Ok(KeepAlive::For(Duration::from_millis(n)));
        for (value, expected) in [
            (json!(10), ms(10_000)),
            (json!(0), ms(0)),
            (json!(-1), Ok(KeepAlive::Forever)),
            (json!("5m"), ms(300_000)),
            (json!("1h30m"), ms(5_400_000)),
            (json!("1.5s"), ms(1500)),
            (json!("0"), ms(0)),
            (json!("-1m"), Ok(KeepAlive::Forever)),
            (json!(1e300), Ok(KeepAlive::Forever)),
        ] {
            assert_eq!(KeepAlive::from_json(&value), expected, "{value}");
        }
        for bad in [
            json!("-1"),
            json!("5"),
            json!("m"),
            json!(""),
            json!("1h x"),
            json!("1.2.3s"),
            json!([]),
            json!(true),
        ] {
            assert!(KeepAlive::from_json(&bad).is_err(), "{bad}");
        }
        assert_eq!(KeepAlive::parse("-1"), Ok(KeepAlive::Forever));
        assert_eq!(KeepAlive::parse("30"), ms(30_000));
    }
}
