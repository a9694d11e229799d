//! What SentencePiece does to a text before it is cut: normal forms, and spaces that can be seen.

use super::charsmap::Charsmap;
use super::vocabulary::SPACE;

/// The steps that a model's makers chose.
#[derive(Debug)]
pub(super) struct Spaces {
    /// A space goes before a text, and before what follows a special token.
    pub(super) prefix: bool,
    /// Runs of spaces become one, and those around a text are dropped.
    pub(super) merge: bool,
    pub(super) charsmap: Option<Charsmap>,
}

impl Spaces {
    /// `text` with [`SPACE`] for each space. `first`: it begins the text or follows a special token.
    pub(super) fn write(&self, text: &str, first: bool) -> String {
        let mapped;
        let text = match &self.charsmap {
            Some(charsmap) => {
                mapped = charsmap.apply(text);
                mapped.as_str()
            }
            None => text,
        };
        let text = if self.merge { text.trim_matches(' ') } else { text };
        let mut out = String::with_capacity(text.len() + text.len() / 2 + SPACE.len_utf8());
        if self.prefix && first && !text.is_empty() {
            out.push(SPACE);
        }
        let mut after_space = false;
        for c in text.chars() {
            let space = c == ' ';
            if !(self.merge && space && after_space) {
                out.push(if space { SPACE } else { c });
            }
            after_space = space;
        }
        out
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spaces_are_written_prefixed_and_merged() {
        let written =
            |prefix, merge, text, first| Spaces { prefix, merge, charsmap: None }.write(text, first);
        assert_eq!(written(false, false, " a  b ", true), "▁a▁▁b▁");
        assert_eq!(written(true, false, " a  b ", true), "▁▁a▁▁b▁");
        assert_eq!(written(true, false, " a  b ", false), "▁a▁▁b▁");
        assert_eq!(written(true, true, "  a  b ", true), "▁a▁b");
        assert_eq!(written(true, true, "  ", true), "");
        assert_eq!(written(true, false, "", true), "");
        assert_eq!(written(false, true, " a\n b", true), "a\n▁b");
    }
}
