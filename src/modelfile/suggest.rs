//! "Did you mean": the nearest known word, and unknown text made fit to print.

/// The candidate that `word` is most likely a misspelling of, case apart: at most a third of its
/// letters may be wrong.
pub fn nearest<'a>(word: &str, candidates: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    const LONGEST: usize = 40;
    let letters = word.chars().take(LONGEST + 1).count();
    if letters > LONGEST {
        return None;
    }
    let word = word.to_lowercase();
    candidates
        .into_iter()
        .map(|candidate| (strsim::damerau_levenshtein(&word, &candidate.to_lowercase()), candidate))
        .filter(|(distance, candidate)| *distance <= (letters.min(candidate.len()) / 3).max(1))
        .min_by_key(|(distance, _)| *distance)
        .map(|(_, candidate)| candidate)
}

/// Text from the file for use inside a message: on one line, short, invisible characters escaped.
pub(super) fn excerpt(text: &str) -> String {
    const LONGEST: usize = 40;
    let mut out = String::new();
    for (i, c) in text.chars().enumerate() {
        if i == LONGEST {
            out.push('…');
            break;
        }
        if c.is_control() || is_invisible(c) { out.extend(c.escape_unicode()) } else { out.push(c) }
    }
    out
}

/// True for a character that prints as nothing, or as a space that is none.
pub(super) fn is_invisible(c: char) -> bool {
    use unicode_general_category::{GeneralCategory::*, get_general_category};
    !c.is_ascii()
        && matches!(get_general_category(c), Format | SpaceSeparator | LineSeparator | ParagraphSeparator)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_word_is_near_when_most_of_it_is_right() {
        let known = ["FROM", "SYSTEM", "temperature"];
        assert_eq!(nearest("form", known), Some("FROM"));
        assert_eq!(nearest("SYTSEM", known), Some("SYSTEM"));
        assert_eq!(nearest("Temprature", known), Some("temperature"));
        assert_eq!(nearest("You", known), None);
        assert_eq!(nearest("x", known), None);
        assert_eq!(nearest(&"x".repeat(1 << 20), known), None);
    }

    #[test]
    fn an_excerpt_is_short_and_visible() {
        assert_eq!(excerpt("a\u{200B}b\n"), r"a\u{200b}b\u{a}");
        assert_eq!(excerpt(&"é".repeat(1000)).chars().count(), 41);
    }
}
