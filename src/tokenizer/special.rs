//! Finds the tokens that are matched as text, ahead of any pre-tokenizer and merge.

use aho_corasick::{AhoCorasick, AhoCorasickKind, MatchKind};

use super::vocabulary::{BadToken, TokenType, Vocabulary};
use crate::ir::Metadata;

/// The most that the texts of all special tokens may take, in bytes: it bounds the automaton.
const MAX_BYTES: usize = 4 << 20;

/// What text is cut into before anything else.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Fragment<'t> {
    /// Plain text, not empty.
    Text(&'t str),
    /// A special token.
    Token(u32),
}

/// Looks for special tokens: the leftmost one first, the longest of those that begin there.
#[derive(Debug)]
pub(super) struct Special {
    /// User-defined tokens only.
    added: Option<Automaton>,
    /// Control and unknown tokens too.
    all: Option<Automaton>,
}

#[derive(Debug)]
struct Automaton {
    search: AhoCorasick,
    /// The token of each pattern.
    ids: Vec<u32>,
    strip: Strip,
}

/// Tokens that take the white space beside them. A GGUF cannot say which; a few models' are known by name.
#[derive(Clone, Debug, Default)]
pub(super) struct Strip {
    /// Sorted ids of tokens that take what is before them.
    left: Vec<u32>,
    /// Sorted ids of tokens that take what follows.
    right: Vec<u32>,
}

impl Strip {
    pub(super) fn new(mut left: Vec<u32>, mut right: Vec<u32>) -> Strip {
        left.sort_unstable();
        right.sort_unstable();
        Strip { left, right }
    }

    /// Those of the model that the metadata describes.
    pub(super) fn known(metadata: &Metadata, vocabulary: &Vocabulary) -> Strip {
        let text = |key: &str| metadata.str(key).unwrap_or_default();
        let name = text("general.name").to_lowercase();
        let mut strip = Strip::default();
        if text("tokenizer.ggml.pre").starts_with("jina-v2")
            || matches!(text("general.architecture"), "nomic-bert-moe" | "jina-bert-v3")
        {
            strip.left.extend(vocabulary.id("<mask>"));
        } else if name.contains("modern-bert") || name.contains("modernbert") {
            strip.left.extend(vocabulary.id("[MASK]"));
        } else if text("tokenizer.ggml.model") == "llama"
            && (text("general.architecture") == "phi3" || name.contains("phi-3"))
        {
            let keeps = |id| matches!(vocabulary.text(id), Some("<unk>" | "<s>" | "<|endoftext|>"));
            let special = vocabulary.types().filter(|(_, kind)| {
                matches!(kind, TokenType::Control | TokenType::UserDefined | TokenType::Unknown)
            });
            strip.right.extend(special.map(|(id, _)| id).filter(|&id| !keeps(id)));
        }
        strip
    }
}

impl Special {
    /// # Errors
    /// The texts are longer in total than any model's.
    pub(super) fn new(vocabulary: &Vocabulary, strip: &Strip) -> Result<Special, BadToken> {
        use TokenType::*;
        let added = Automaton::new(vocabulary, &[UserDefined], strip)?;
        let all = Automaton::new(vocabulary, &[UserDefined, Control, Unknown], strip)?;
        Ok(Special { added, all })
    }

    /// Calls `fragment` with what `text` consists of, in order. Control tokens are looked for only
    /// if `parse_special`.
    pub(super) fn split<'t>(
        &self,
        text: &'t str,
        parse_special: bool,
        mut fragment: impl FnMut(Fragment<'t>),
    ) {
        let automaton = if parse_special { &self.all } else { &self.added };
        let mut at = 0;
        if let Some(automaton) = automaton {
            for found in automaton.search.find_iter(text) {
                let id = automaton.ids[found.pattern().as_usize()];
                // A token before may have taken white space that this one begins with.
                let mut before = text.get(at..found.start()).unwrap_or_default();
                if automaton.strip.left.binary_search(&id).is_ok() {
                    before = before.trim_end();
                }
                if !before.is_empty() {
                    fragment(Fragment::Text(before));
                }
                fragment(Fragment::Token(id));
                at = found.end();
                if automaton.strip.right.binary_search(&id).is_ok() {
                    at = text.len() - text[at..].trim_start().len();
                }
            }
        }
        if at < text.len() {
            fragment(Fragment::Text(&text[at..]));
        }
    }
}

impl Automaton {
    fn new(
        vocabulary: &Vocabulary,
        types: &[TokenType],
        strip: &Strip,
    ) -> Result<Option<Automaton>, BadToken> {
        let mut ids = Vec::new();
        let mut texts = Vec::new();
        let mut bytes = 0;
        for (id, kind) in vocabulary.types() {
            if !types.contains(&kind) {
                continue;
            }
            let text = vocabulary.text(id).unwrap_or_default();
            if text.is_empty() {
                continue;
            }
            bytes += text.len();
            if bytes > MAX_BYTES {
                let reason =
                    format!("the texts of special tokens take more than {} MiB up to here", MAX_BYTES >> 20);
                return Err(BadToken { index: id as usize, reason });
            }
            ids.push(id);
            texts.push(text);
        }
        if ids.is_empty() {
            return Ok(None);
        }
        let search = AhoCorasick::builder()
            .match_kind(MatchKind::LeftmostLongest)
            .kind(Some(AhoCorasickKind::ContiguousNFA))
            .build(&texts)
            .map_err(|e| BadToken {
                index: ids[0] as usize,
                reason: format!("too many special tokens: {e}"),
            })?;
        Ok(Some(Automaton { search, ids, strip: strip.clone() }))
    }
}

#[cfg(test)]
mod tests {
    use super::super::vocabulary::Alphabet;
    use super::*;
    use TokenType::*;

    fn special(tokens: &[(&str, TokenType)]) -> Special {
        let texts = tokens.iter().map(|(t, _)| t).collect();
        let vocabulary =
            Vocabulary::new(texts, tokens.iter().map(|(_, t)| *t).collect(), Alphabet::ByteLevel).unwrap();
        Special::new(&vocabulary, &Strip::default()).unwrap()
    }

    fn split(special: &Special, text: &str, parse_special: bool) -> String {
        let mut parts = Vec::new();
        special.split(text, parse_special, |f| {
            parts.push(match f {
                Fragment::Text(t) => format!("{t:?}"),
                Fragment::Token(id) => id.to_string(),
            });
        });
        parts.join(" ")
    }

    #[test]
    fn the_leftmost_then_the_longest_wins() {
        let s = special(&[("<a>", Control), ("<a><b>", Control), ("b><c>", UserDefined), ("x", Normal)]);
        assert_eq!(split(&s, "x<a><b><c>", true), r#""x" 1 "<c>""#);
        assert_eq!(split(&s, "<a><a>", true), "0 0");
        assert_eq!(split(&s, "x<a><b><c>", false), r#""x<a><" 2"#);
        assert_eq!(split(&s, "", true), "");
        assert_eq!(split(&s, "x", true), r#""x""#);
    }

    #[test]
    fn empty_and_unused_tokens_are_never_found() {
        let s = special(&[("", Control), ("u", Unused), ("?", Unknown)]);
        assert_eq!(split(&s, "au?", true), r#""au" 2"#);
        assert_eq!(split(&s, "au?", false), r#""au?""#);
    }

    #[test]
    fn the_automaton_is_bounded() {
        let texts = vec!["a".repeat(3 << 20), "b".repeat(3 << 20)];
        let vocabulary = Vocabulary::new(texts.into(), vec![Control; 2], Alphabet::ByteLevel).unwrap();
        let error = Special::new(&vocabulary, &Strip::default()).unwrap_err();
        assert_eq!((error.index, error.reason.contains("4 MiB")), (1, true));
    }
}
