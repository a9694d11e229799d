//! How a value must be quoted to be read back as it is.

use super::ast::Quoting;
use super::parse::is_edge;

/// The bare form reads back as `text`.
pub(super) fn fits_bare(text: &str) -> bool {
    !text.is_empty()
        && !text.contains(['\r', '\n'])
        && !text.starts_with('"')
        && !text.starts_with(is_edge)
        && !text.ends_with(is_edge)
}

/// `"text"` reads back as `text`: no quote in it closes early, and it does not begin as `"""`.
pub(super) fn fits_single(text: &str) -> bool {
    text != "\"" && !text.starts_with("\"\"") && !closes_early(text, "\"")
}

/// `"""text"""` reads back as `text`: no quote in it closes early.
pub(super) fn fits_triple(text: &str) -> bool {
    !closes_early(text, "\"\"\"")
}

/// True when `quote` stands at the end of one of the lines of `text` but the last. (On the last
/// line it is followed by the closing quote.)
fn closes_early(text: &str, quote: &str) -> bool {
    let mut lines = text.split(['\r', '\n']);
    lines.next_back();
    lines.any(|line| line.trim_end_matches(is_edge).ends_with(quote))
}

/// Writes a value in the first of `preferred` that it fits in; no preference means one of them.
/// `None` when no form fits, which is so only for a text that has `"""` at the end of a line and
/// was never read from a Modelfile.
pub(super) fn quote(text: &str, preferred: &[Quoting]) -> Option<String> {
    const ALL: [Quoting; 3] = [Quoting::Bare, Quoting::Triple, Quoting::Single];
    preferred.iter().chain(&ALL).find_map(|quoting| match quoting {
        Quoting::Bare => fits_bare(text).then(|| text.to_owned()),
        Quoting::Single => fits_single(text).then(|| format!("\"{text}\"")),
        Quoting::Triple => fits_triple(text).then(|| format!("\"\"\"{text}\"\"\"")),
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::modelfile::parse;

    fn read_back(written: &str) -> Option<(Quoting, String)> {
        let parsed = parse("m", format!("SYSTEM {written}\nFROM x\n").as_bytes());
        let first = parsed.ast.instructions().next()?;
        (parsed.diagnostics.is_empty() && parsed.ast.instructions().count() == 2)
            .then(|| (first.value.quoting, parsed.ast.text(&first.value.text).to_owned()))
    }

    fn check(text: &str) {
        for (fits, quoting, written) in [
            (fits_bare(text), Quoting::Bare, text.to_owned()),
            (fits_single(text), Quoting::Single, format!("\"{text}\"")),
            (fits_triple(text), Quoting::Triple, format!("\"\"\"{text}\"\"\"")),
        ] {
            // A bare nothing parses, but says too little to write it.
            if !(text.is_empty() && quoting == Quoting::Bare) {
                assert_eq!(fits, read_back(&written) == Some((quoting, text.to_owned())), "{written:?}");
            }
        }
    }

    #[test]
    fn what_fits_is_what_reads_back() {
        for text in
            ["", "a", " a", "a\t", "\"", "\"\"", "\"\"\"", "\"a\"", "a\"", "a\n", "\"\n", "\"\"\n", "a\"\nb"]
        {
            check(text);
        }
        check("\"\"\" \nb");
        check("a\u{A0}");
        check("\u{FEFF}a");
    }

    proptest! {
        #[test]
        fn what_fits_reads_back_in_general(text in "[\"a \n\r\u{200B}]{0,9}") {
            check(&text);
        }
    }
}
