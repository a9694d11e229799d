//! Names from files, made fit to print.

/// Characters of a foreign text that a message shows.
const SHOWN: usize = 120;

/// `text` in backticks: control characters escaped, so that a file cannot write to a terminal, and
/// cut where it is long.
pub(crate) fn quoted(text: &str) -> String {
    format!("`{}`", clipped(text, SHOWN))
}

/// At most `limit` characters of `text`, control characters escaped.
pub(crate) fn clipped(text: &str, limit: usize) -> String {
    let mut shown = String::new();
    for (i, c) in text.chars().enumerate() {
        if i == limit {
            shown.push('…');
            break;
        }
        // The bidirectional controls can make a line read as another one.
        if c.is_control() || matches!(c, '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}') {
            shown.extend(c.escape_unicode());
        } else {
            shown.push(c);
        }
    }
    shown
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_cannot_speak_to_the_terminal() {
        assert_eq!(quoted("blk.0"), "`blk.0`");
        assert_eq!(quoted("a\u{1b}[2Jb\n"), "`a\\u{1b}[2Jb\\u{a}`");
        assert_eq!(quoted("\u{202e}x"), "`\\u{202e}x`");
        assert_eq!(quoted(&"x".repeat(500)).chars().count(), SHOWN + 3);
    }
}
