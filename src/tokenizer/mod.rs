//! Text to tokens and back.
//!
//! A [`Tokenizer`] is read from the arrays of a GGUF file. Text takes this way:
//!
//! ```text
//! text ──special──▶ special tokens │ plain text                    special.rs
//! plain text ──▶ tokens, in one of four ways                       model.rs
//!     gpt2   (NFC) ──▶ pieces ──▶ a token per byte ──merges──▶     pre_tokenizer/, byte_level.rs, bpe.rs
//!     llama  spaces ──▶ characters ──best score first──▶           spaces.rs, sentencepiece.rs
//!     t5     normal form, spaces ──most likely tokens──▶           charsmap.rs, spaces.rs, unigram.rs
//!     bert   normal form ──▶ words ──longest tokens──▶             wordpiece.rs
//! tokens ──▶ bytes ──▶ text                                        vocabulary.rs, utf8_stream.rs
//! ```
//!
//! [`hf`] writes those arrays from Hugging Face's tokenizer files.

mod bpe;
mod byte_level;
mod charsmap;
mod end;
pub mod hf;
mod keys;
mod merge;
mod metadata;
mod model;
mod pre_tokenizer;
mod seeded;
mod sentencepiece;
mod spaces;
mod special;
mod trie;
mod unigram;
mod utf8_stream;
mod vocabulary;
mod wordpiece;
mod words;

pub use utf8_stream::Utf8Stream;
pub use vocabulary::TokenType;

use model::{Model, Scratch};
use special::{Fragment, Special};
use vocabulary::Vocabulary;

use crate::diagnostic::{Diagnostic, Result};
use crate::ir::Metadata;

/// How [`Tokenizer::encode`] reads a text.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct EncodeOptions {
    /// Put BOS before and EOS after, where the model wants them. A rendered chat template often
    /// writes BOS itself; leave this off there.
    pub add_special: bool,
    /// The texts of control tokens mean the tokens. Off for text that a user wrote: then no text
    /// leads to a control token.
    pub parse_special: bool,
}

/// A model's tokenizer.
#[derive(Debug)]
pub struct Tokenizer {
    vocabulary: Vocabulary,
    special: Special,
    model: Model,
    bos: Option<u32>,
    eos: Option<u32>,
    /// What `add_special` puts before a text.
    before: Vec<u32>,
    /// What it puts after one.
    after: Option<u32>,
    /// Sorted.
    end_of_generation: Vec<u32>,
    warnings: Vec<Diagnostic>,
}

impl Tokenizer {
    /// Reads `tokenizer.ggml.*`.
    ///
    /// # Errors
    /// A key is missing or has another type than the format gives it, the model or pre-tokenizer is
    /// not known, an entry is broken or an id out of range; the message names the key and entry.
    pub fn from_metadata(metadata: &Metadata) -> Result<Tokenizer> {
        metadata::read(metadata)
    }

    /// The tokens of a text.
    ///
    /// Takes time O(n log n) and memory O(n) in the bytes of the text. Bytes that a byte-level vocabulary has
    /// no token for are left out, as they were in training; most have all that UTF-8 uses. Other vocabularies
    /// have a token for what is unknown.
    pub fn encode(&self, text: &str, options: EncodeOptions) -> Vec<u32> {
        let mut ids = Vec::new();
        let mut scratch = Scratch::default();
        if options.add_special {
            ids.extend(&self.before);
        }
        let mut first = true;
        self.special.split(text, options.parse_special, |fragment| match fragment {
            Fragment::Token(id) => {
                ids.push(id);
                first = true;
            }
            Fragment::Text(text) => {
                self.model.encode(&self.vocabulary, text, first, &mut scratch, &mut ids);
                first = false;
            }
        });
        ids.extend(self.after.filter(|_| options.add_special));
        ids
    }

    /// The bytes a token stands for; empty for an id that is no token. One token may hold a part of a
    /// character: join them with a [`Utf8Stream`].
    pub fn decode_bytes(&self, id: u32) -> &[u8] {
        self.vocabulary.bytes(id).unwrap_or_default()
    }

    /// The text of tokens, special ones included, without the space that [`Tokenizer::encode`] may have put
    /// before it; bytes that are no UTF-8 become U+FFFD.
    pub fn decode(&self, ids: &[u32]) -> String {
        let bytes: Vec<u8> = ids.iter().flat_map(|&id| self.decode_bytes(id)).copied().collect();
        let added = self.model.adds_space()
            && ids.first().is_some_and(|&id| self.token_type(id) == Some(TokenType::Normal));
        let bytes = bytes.strip_prefix(b" ").filter(|_| added).unwrap_or(&bytes);
        String::from_utf8_lossy(bytes).into_owned()
    }

    /// A token as the vocabulary spells it, such as `Ġthe`; `None` for an id that is no token.
    pub fn token_text(&self, id: u32) -> Option<&str> {
        self.vocabulary.text(id)
    }

    /// The token that the vocabulary spells like this.
    pub fn token_id(&self, text: &str) -> Option<u32> {
        self.vocabulary.id(text)
    }

    /// What a token is for; `None` for an id that is no token.
    pub fn token_type(&self, id: u32) -> Option<TokenType> {
        self.vocabulary.token_type(id)
    }

    /// The number of tokens; ids are below it.
    pub fn vocab_size(&self) -> usize {
        self.vocabulary.len()
    }

    /// The token that begins a text.
    pub fn bos(&self) -> Option<u32> {
        self.bos
    }

    /// The token that ends a text.
    pub fn eos(&self) -> Option<u32> {
        self.eos
    }

    /// True if [`EncodeOptions::add_special`] puts BOS first.
    pub fn adds_bos(&self) -> bool {
        !self.before.is_empty()
    }

    /// What the metadata leaves open and was guessed, as a person should know.
    pub fn warnings(&self) -> &[Diagnostic] {
        &self.warnings
    }

    /// True if generation ends with this token: the ids that the metadata names as end of text, turn
    /// or message, and control tokens known by name.
    pub fn is_end_of_generation(&self, id: u32) -> bool {
        self.end_of_generation.binary_search(&id).is_ok()
    }
}
