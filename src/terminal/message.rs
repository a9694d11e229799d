//! What was typed, as a message: several lines between `"""`.

const QUOTES: &str = "\"\"\"";

/// What may be between `"""`: the whole text, or what follows `/set system`.
fn body(text: &str) -> &str {
    let text = text.trim_start();
    let after = |rest: &'_ str, word: &str| -> Option<usize> {
        let left = rest.trim_start().strip_prefix(word)?;
        left.starts_with([' ', '\t', '\n', '"']).then_some(rest.len() - left.len())
    };
    let system = || {
        let set = after(text, "/set")?;
        let system = after(&text[set..], "system")?;
        Some(text[set + system..].trim_start())
    };
    system().unwrap_or(text)
}

/// True of a text that goes on in the next line: its `"""` is not closed.
pub(super) fn is_open(text: &str) -> bool {
    match body(text).strip_prefix(QUOTES) {
        Some(inside) => !inside.trim_end().ends_with(QUOTES),
        None => false,
    }
}

/// A text without the quotes around it: `"""`, or `"`.
pub(super) fn unquoted(text: &str) -> &str {
    let trimmed = text.trim();
    for quotes in [QUOTES, "\""] {
        if let Some(inside) = trimmed.strip_prefix(quotes).and_then(|t| t.strip_suffix(quotes)) {
            return inside;
        }
    }
    trimmed
}

/// The message that was typed: only `"""` are taken off, and blank lines around.
pub(super) fn message(text: &str) -> &str {
    let trimmed = text.trim();
    let inside = trimmed.strip_prefix(QUOTES).and_then(|t| t.strip_suffix(QUOTES));
    inside.map_or(trimmed, |t| t.trim_matches('\n'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn three_quotes_go_on_until_three_quotes() {
        for open in
            ["\"\"\"", "\"\"\"a", "  \"\"\"a\nb", "/set system \"\"\"a", "/set  system\"\"\"a\nb", "\"\"\"\""]
        {
            assert!(is_open(open), "{open}");
        }
        for closed in [
            "",
            "a",
            "\"\"\"a\"\"\"",
            "\"\"\"a\nb\"\"\" ",
            "/set system a",
            "a \"\"\"",
            "/set systems \"\"\"a",
        ] {
            assert!(!is_open(closed), "{closed}");
        }
    }

    #[test]
    fn quotes_are_taken_off() {
        assert_eq!(message("\"\"\"\na\n  b\n\"\"\""), "a\n  b");
        assert_eq!(message(" say \"hi\" "), "say \"hi\"");
        assert_eq!(message("\"hi\""), "\"hi\"");
        assert_eq!(unquoted(" \"hi\" "), "hi");
        assert_eq!(unquoted("\"\"\"a\nb\"\"\""), "a\nb");
        assert_eq!((unquoted("\""), unquoted("\"\"\"")), ("\"", "\""));
    }
}
