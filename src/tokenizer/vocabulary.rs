//! The tokens: their texts, types and bytes, and the way from text to id.

use std::collections::HashMap;

use super::byte_level;

/// What a token is for; the numbers are those of `tokenizer.ggml.token_type`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum TokenType {
    /// A piece of text, written in the vocabulary's alphabet.
    Normal = 1,
    /// Stands for text that has no token.
    Unknown = 2,
    /// Steers the model; its text means the token only where special tokens are parsed.
    Control = 3,
    /// Added by the model's makers; its text means the token everywhere.
    UserDefined = 4,
    /// A row of the embedding that no text leads to.
    Unused = 5,
    /// One byte.
    Byte = 6,
}

impl TokenType {
    /// The type with this number.
    pub fn from_id(id: u64) -> Option<TokenType> {
        use TokenType::*;
        [Normal, Unknown, Control, UserDefined, Unused, Byte].into_iter().find(|t| *t as u64 == id)
    }
}

/// Why a list of tokens is none.
#[derive(Debug)]
pub(super) struct BadToken {
    /// Its index in the list.
    pub(super) index: usize,
    /// What is wrong with it.
    pub(super) reason: String,
}

/// Every token, by id and by text.
#[derive(Debug)]
pub(super) struct Vocabulary {
    texts: Arena,
    bytes: Arena,
    types: Vec<TokenType>,
    ids: HashMap<Box<str>, u32>,
}

impl Vocabulary {
    /// Takes the texts as they stand in `tokenizer.ggml.tokens`; `types` is as long.
    ///
    /// # Errors
    /// Two tokens have the same text, or there are more than ids.
    pub(super) fn new(tokens: &[String], types: Vec<TokenType>) -> Result<Vocabulary, BadToken> {
        let mut texts = Arena::default();
        let mut bytes = Arena::default();
        let mut ids: HashMap<Box<str>, u32> = HashMap::with_capacity(tokens.len());
        for (index, (text, kind)) in tokens.iter().zip(&types).enumerate() {
            let bad = |reason| BadToken { index, reason };
            // Token ids are int32 everywhere outside.
            let id = u32::try_from(index).ok().filter(|&id| id <= i32::MAX as u32);
            let id = id.ok_or_else(|| bad("there are more tokens than 2^31".into()))?;
            texts.push(text.as_bytes());
            let literal = matches!(kind, TokenType::Control | TokenType::UserDefined | TokenType::Unknown);
            match byte_level::read(text) {
                Some(read) if !literal => bytes.push(&read),
                _ => bytes.push(text.as_bytes()),
            }
            if *kind == TokenType::Unused {
                continue;
            }
            if let Some(first) = ids.insert(text.as_str().into(), id) {
                return Err(bad(format!("{} is token {first} already", shown(text))));
            }
        }
        Ok(Vocabulary { texts, bytes, types, ids })
    }

    pub(super) fn len(&self) -> usize {
        self.types.len()
    }

    /// The text as the file has it.
    pub(super) fn text(&self, id: u32) -> Option<&str> {
        // Each entry was pushed from a `str`.
        std::str::from_utf8(self.texts.get(id)?).ok()
    }

    /// The bytes that the token stands for.
    pub(super) fn bytes(&self, id: u32) -> Option<&[u8]> {
        self.bytes.get(id)
    }

    pub(super) fn token_type(&self, id: u32) -> Option<TokenType> {
        self.types.get(id as usize).copied()
    }

    /// The token with this text; unused ones have none.
    pub(super) fn id(&self, text: &str) -> Option<u32> {
        self.ids.get(text).copied()
    }

    /// Ids and types, in order.
    pub(super) fn types(&self) -> impl Iterator<Item = (u32, TokenType)> {
        self.types.iter().enumerate().map(|(id, &kind)| (id as u32, kind))
    }
}

/// A token's text for a message: quoted, and cut if it is long.
pub(super) fn shown(text: &str) -> String {
    const MOST: usize = 60;
    match text.char_indices().nth(MOST) {
        Some((at, _)) => format!("`{}...` ({} bytes)", text[..at].escape_debug(), text.len()),
        None => format!("`{}`", text.escape_debug()),
    }
}

/// Byte strings end to end: one allocation for a whole vocabulary.
#[derive(Debug, Default)]
struct Arena {
    bytes: Vec<u8>,
    ends: Vec<usize>,
}

impl Arena {
    fn push(&mut self, bytes: &[u8]) {
        self.bytes.extend_from_slice(bytes);
        self.ends.push(self.bytes.len());
    }

    fn get(&self, index: u32) -> Option<&[u8]> {
        let index = index as usize;
        let end = *self.ends.get(index)?;
        let start = match index.checked_sub(1) {
            Some(before) => *self.ends.get(before)?,
            None => 0,
        };
        self.bytes.get(start..end)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use TokenType::*;

    fn vocabulary(tokens: &[(&str, TokenType)]) -> Result<Vocabulary, BadToken> {
        let texts: Vec<String> = tokens.iter().map(|(t, _)| t.to_string()).collect();
        Vocabulary::new(&texts, tokens.iter().map(|(_, t)| *t).collect())
    }

    #[test]
    fn only_plain_tokens_are_written_in_the_byte_alphabet() {
        let v = vocabulary(&[("Ġthe", Normal), ("Ġé", UserDefined), ("<｜end｜>", Control), ("a b", Normal)])
            .unwrap();
        assert_eq!(v.bytes(0), Some(" the".as_bytes()));
        assert_eq!(v.bytes(1), Some("Ġé".as_bytes()));
        assert_eq!(v.bytes(2), Some("<｜end｜>".as_bytes()));
        assert_eq!(v.bytes(3), Some("a b".as_bytes()));
        assert_eq!(v.bytes(4), None);
        assert_eq!(v.text(0), Some("Ġthe"));
        assert_eq!(v.id("Ġthe"), Some(0));
        assert_eq!(v.token_type(2), Some(Control));
        assert_eq!(v.len(), 4);
    }

    #[test]
    fn a_text_is_there_once_unless_it_is_unused() {
        let twice = vocabulary(&[("a", Normal), ("b", Normal), ("a", Control)]).unwrap_err();
        assert_eq!((twice.index, twice.reason.as_str()), (2, "`a` is token 0 already"));
        let v = vocabulary(&[("a", Unused), ("a", Normal), ("a", Unused)]).unwrap();
        assert_eq!(v.id("a"), Some(1));
    }

    #[test]
    fn long_texts_are_cut_in_messages() {
        assert_eq!(shown("a\n"), "`a\\n`");
        assert_eq!(shown(&"é".repeat(100)), format!("`{}...` (200 bytes)", "é".repeat(60)));
    }
}
