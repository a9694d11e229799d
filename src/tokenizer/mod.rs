//! Text to tokens and back.
//!
//! A [`Tokenizer`] is read from the arrays of a GGUF file. Text takes this way:
//!
//! ```text
//! text ──special──▶ special tokens │ plain text          special.rs
//! plain text ──(NFC)──▶ pieces                           pre_tokenizer.rs
//! piece ──▶ one token per byte ──merges──▶ tokens        byte_level.rs, bpe.rs
//! tokens ──▶ bytes ──▶ text                              vocabulary.rs, utf8_stream.rs
//! ```
//!
//! [`hf`] writes those arrays from a Hugging Face `tokenizer.json`.

mod bpe;
mod merge;
mod byte_level;
mod end;
pub mod hf;
mod metadata;
mod pre_tokenizer;
mod special;
mod utf8_stream;
mod vocabulary;

pub use utf8_stream::Utf8Stream;
pub use vocabulary::TokenType;

use std::borrow::Cow;

use bpe::Bpe;
use merge::Scratch;
use pre_tokenizer::PreTokenizer;
use special::{Fragment, Special};
use unicode_normalization::{IsNormalized, UnicodeNormalization, is_nfc_quick};
use vocabulary::Vocabulary;

use crate::diagnostic::Result;
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
    pre_tokenizer: &'static PreTokenizer,
    bpe: Bpe,
    bos: Option<u32>,
    eos: Option<u32>,
    add_bos: bool,
    add_eos: bool,
    /// Sorted.
    end_of_generation: Vec<u32>,
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
    /// Takes time O(n log n) and memory O(n) in the bytes of the text. Bytes that the vocabulary has no
    /// token for are left out, as they were in training; most vocabularies have all that UTF-8 uses.
    pub fn encode(&self, text: &str, options: EncodeOptions) -> Vec<u32> {
        let mut ids = Vec::new();
        let mut scratch = Scratch::default();
        ids.extend(self.bos.filter(|_| options.add_special && self.add_bos));
        self.special.split(text, options.parse_special, |fragment| match fragment {
            Fragment::Token(id) => ids.push(id),
            Fragment::Text(text) => {
                let text = match self.pre_tokenizer.nfc && is_nfc_quick(text.chars()) != IsNormalized::Yes {
                    true => Cow::Owned(text.nfc().collect()),
                    false => Cow::Borrowed(text),
                };
                self.pre_tokenizer.split(&text, &mut |piece| {
                    self.bpe.encode(&self.vocabulary, piece, &mut scratch, &mut ids);
                });
            }
        });
        ids.extend(self.eos.filter(|_| options.add_special && self.add_eos));
        ids
    }

    /// The bytes a token stands for; empty for an id that is no token. One token may hold a part of a
    /// character: join them with a [`Utf8Stream`].
    pub fn decode_bytes(&self, id: u32) -> &[u8] {
        self.vocabulary.bytes(id).unwrap_or_default()
    }

    /// The text of tokens, special ones included; bytes that are no UTF-8 become U+FFFD.
    pub fn decode(&self, ids: &[u32]) -> String {
        let bytes: Vec<u8> = ids.iter().flat_map(|&id| self.decode_bytes(id)).copied().collect();
        String::from_utf8_lossy(&bytes).into_owned()
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
        self.add_bos && self.bos.is_some()
    }

    /// True if generation ends with this token: the ids that the metadata names as end of text, turn
    /// or message, and control tokens known by name.
    pub fn is_end_of_generation(&self, id: u32) -> bool {
        self.end_of_generation.binary_search(&id).is_ok()
    }
}
