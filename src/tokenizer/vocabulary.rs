//! The tokens: their texts, types and bytes, and the way from text to id.

use hashbrown::HashTable;
use hashbrown::hash_table::Entry;

use super::byte_level;
use super::seeded::Seeded;
use crate::ir::Strings;

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

/// How the texts of plain tokens are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Alphabet {
    /// A character for each byte; see [`byte_level`].
    ByteLevel,
    /// As they are, but for [`SPACE`].
    Spaced,
}

/// What SentencePiece writes for a space: lower one eighth block.
pub(super) const SPACE: char = '\u{2581}';

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
    texts: Strings,
    bytes: Arena,
    types: Vec<TokenType>,
    /// By their texts, which stay where they are.
    ids: HashTable<u32>,
    hashes: Seeded,
}

impl Vocabulary {
    /// Takes the texts as they stand in `tokenizer.ggml.tokens`; `types` is as long.
    ///
    /// # Errors
    /// Two tokens have the same text, or there are more than ids.
    pub(super) fn new(
        texts: Strings,
        types: Vec<TokenType>,
        alphabet: Alphabet,
    ) -> Result<Vocabulary, BadToken> {
        let mut bytes = Arena::with_capacity(texts.len());
        let hashes = Seeded::new();
        let hash_of = |&id: &u32| hashes.text(texts.get(id as usize).unwrap_or_default());
        let mut ids = HashTable::with_capacity(texts.len());
        for (index, (text, kind)) in texts.iter().zip(&types).enumerate() {
            let bad = |reason| BadToken { index, reason };
            // Token ids are int32 everywhere outside.
            let id = u32::try_from(index).ok().filter(|&id| id <= i32::MAX as u32);
            let id = id.ok_or_else(|| bad("there are more tokens than 2^31".into()))?;
            use TokenType::*;
            match (kind, alphabet) {
                (Control | UserDefined | Unknown, _) => bytes.push(text.as_bytes()),
                (Byte, _) if let Some(byte) = byte_of(text) => bytes.push(&[byte]),
                (_, Alphabet::ByteLevel) => {
                    bytes.push_all(byte_level::read(text)).unwrap_or_else(|| bytes.push(text.as_bytes()));
                }
                (_, Alphabet::Spaced) => bytes.push(text.replace(SPACE, " ").as_bytes()),
            }
            // Nothing leads to a token without a text.
            if *kind == Unused || text.is_empty() {
                continue;
            }
            let same = |&other: &u32| texts.get(other as usize) == Some(text);
            match ids.entry(hashes.text(text), same, hash_of) {
                Entry::Occupied(first) => {
                    return Err(bad(format!("{} is token {} already", shown(text), first.get())));
                }
                Entry::Vacant(place) => drop(place.insert(id)),
            }
        }
        Ok(Vocabulary { texts, bytes, types, ids, hashes })
    }

    pub(super) fn len(&self) -> usize {
        self.types.len()
    }

    /// The text as the file has it.
    pub(super) fn text(&self, id: u32) -> Option<&str> {
        self.texts.get(id as usize)
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
        let same = |&id: &u32| self.text(id) == Some(text);
        self.ids.find(self.hashes.text(text), same).copied()
    }

    /// The tokens of single bytes, `<0x00>` to `<0xFF>`, where there are such.
    pub(super) fn byte_ids(&self) -> [Option<u32>; 256] {
        let mut ids = [None; 256];
        for (id, _) in self.types().filter(|(_, kind)| *kind == TokenType::Byte) {
            if let Some(byte) = self.text(id).and_then(byte_of) {
                ids[usize::from(byte)] = Some(id);
            }
        }
        ids
    }

    /// The ids and texts of the tokens that plain text becomes, but for single bytes.
    pub(super) fn plain(&self) -> impl Iterator<Item = (u32, &str)> {
        let plain = self.types().filter(|(_, kind)| *kind == TokenType::Normal);
        plain.filter_map(|(id, _)| Some((id, self.text(id)?)))
    }

    /// Ids and types, in order.
    pub(super) fn types(&self) -> impl Iterator<Item = (u32, TokenType)> {
        self.types.iter().enumerate().map(|(id, &kind)| (id as u32, kind))
    }
}

/// The byte that a text like `<0x0A>` means.
pub(super) fn byte_of(text: &str) -> Option<u8> {
    let digits = text.strip_prefix("<0x")?.strip_suffix('>')?;
    let hexadecimal = digits.len() == 2 && digits.bytes().all(|b| b.is_ascii_hexdigit());
    u8::from_str_radix(digits, 16).ok().filter(|_| hexadecimal)
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
    fn with_capacity(count: usize) -> Arena {
        Arena { bytes: Vec::new(), ends: Vec::with_capacity(count) }
    }

    /// Adds the bytes of an entry; nothing, and `None`, where one of them is none.
    fn push_all(&mut self, bytes: impl Iterator<Item = Option<u8>>) -> Option<()> {
        let start = self.bytes.len();
        for byte in bytes {
            match byte {
                Some(byte) => self.bytes.push(byte),
                None => {
                    self.bytes.truncate(start);
                    return None;
                }
            }
        }
        self.ends.push(self.bytes.len());
        Some(())
    }

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
        let texts = tokens.iter().map(|(t, _)| t).collect();
        Vocabulary::new(texts, tokens.iter().map(|(_, t)| *t).collect(), Alphabet::ByteLevel)
    }

    #[test]
    fn spaces_and_bytes_are_read() {
        let texts = ["▁a▁", "<0x0A>", "<0x0a>", "<0x0A>x", "▁"].into_iter().collect();
        let v = Vocabulary::new(texts, vec![Normal, Byte, Normal, Byte, UserDefined], Alphabet::Spaced);
        let v = v.unwrap();
        assert_eq!(v.bytes(0), Some(&b" a "[..]));
        assert_eq!(v.bytes(1), Some(&b"\n"[..]));
        assert_eq!(v.bytes(2), Some(&b"<0x0a>"[..]));
        assert_eq!(v.bytes(3), Some(&b"<0x0A>x"[..]));
        assert_eq!(v.bytes(4), Some("▁".as_bytes()));
        assert_eq!((v.byte_ids()[10], v.byte_ids()[11]), (Some(1), None));
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
