//! The tokens in the order of their ids.

use super::super::vocabulary::{SPACE, TokenType, shown};
use super::json::AddedToken;
use super::{HfTokenizerFiles, TOKENIZER_JSON};
use crate::diagnostic::Result;

/// The most ids without a token, between tokens and after them. Makers round the size of the
/// embedding up by some hundreds; the rest is room.
const MAX_UNNAMED: usize = 1 << 16;

/// One id's token.
#[derive(Debug)]
pub(super) struct Entry {
    pub(super) text: String,
    pub(super) kind: TokenType,
    /// How good a merge into it is, or how likely it is; only some models have scores.
    pub(super) score: f32,
    /// It takes the white space before and after it.
    pub(super) strip: (bool, bool),
    /// Its index among the added tokens, if it is one.
    added: Option<usize>,
}

/// True for the texts of control tokens that makers forgot to call special.
pub(super) fn looks_special(text: &str) -> bool {
    let within = |start, end| text.starts_with(start) && text.ends_with(end);
    matches!(text, "<pad>" | "<mask>" | "<2mass>" | "[@BOS@]")
        || within("<|", "|>")
        || within("<｜", "｜>")
        || within("<unused", ">")
}

/// The score of tokens that were added to a vocabulary with scores.
pub(super) const ADDED_SCORE: f32 = -1000.0;
/// The score of ids without a token.
pub(super) const UNUSED_SCORE: f32 = -10000.0;

impl Entry {
    /// A token of a model's own vocabulary.
    pub(super) fn own(text: String, kind: TokenType, score: f32) -> Entry {
        Entry { text, kind, score, strip: (false, false), added: None }
    }

    /// An added token, the `index`th.
    pub(super) fn added(token: &AddedToken, index: usize) -> Entry {
        // The texts of control tokens are matched as they are; those of others are plain text with spaces.
        let (kind, text) = match token.special || looks_special(&token.content) {
            true => (TokenType::Control, token.content.clone()),
            false => (TokenType::UserDefined, token.content.replace(SPACE, " ")),
        };
        let strip = (token.lstrip, token.rstrip);
        Entry { text, kind, score: ADDED_SCORE, strip, added: Some(index) }
    }

    /// What stands for an id without a token.
    pub(super) fn unused(id: usize) -> Entry {
        Entry::own(format!("[PAD{id}]"), TokenType::Unused, UNUSED_SCORE)
    }
}

impl Entry {
    /// Where in `tokenizer.json` it stands.
    pub(super) fn place(&self) -> String {
        match self.added {
            Some(index) => format!("added_tokens[{index}]"),
            None => format!("model.vocab[{}]", shown(&self.text)),
        }
    }
}

/// Every id's token, up to `vocab_size`; an id without one gets an unused token, named after it.
///
/// # Errors
/// An id is far from the others or has two tokens, or an added token asks for more than to be found.
pub(super) fn by_id(
    files: &HfTokenizerFiles<'_>,
    vocab: impl ExactSizeIterator<Item = (Entry, u64)>,
    added_tokens: &[AddedToken],
) -> Result<Vec<Entry>> {
    let named = vocab.len() + added_tokens.len();
    let mut table = Table { files, named, most: named.saturating_add(MAX_UNNAMED), entries: Vec::new() };
    for (entry, id) in vocab {
        table.put(id, entry)?;
    }
    for (index, token) in added_tokens.iter().enumerate() {
        let entry = Entry::added(token, index);
        if token.single_word {
            let message =
                format!("`single_word` of the added token {} is not supported", shown(&token.content));
            return Err(files.error(TOKENIZER_JSON, entry.place(), message).into());
        }
        table.put(token.id, entry)?;
    }
    table.finish()
}

struct Table<'a> {
    files: &'a HfTokenizerFiles<'a>,
    /// Tokens that the file names.
    named: usize,
    /// The most ids there may be.
    most: usize,
    entries: Vec<Option<Entry>>,
}

impl Table<'_> {
    fn put(&mut self, id: u64, entry: Entry) -> Result<()> {
        let at = usize::try_from(id).ok().filter(|&at| at < self.most);
        let at = at.ok_or_else(|| {
            let message = format!("the id {id} is too high: there are only {} tokens", self.named);
            self.files.error(TOKENIZER_JSON, entry.place(), message)
        })?;
        self.grow(at + 1);
        // An added token may be one of the vocabulary too; it is what the added one says.
        if let Some(other) = &self.entries[at]
            && (entry.added.is_none()
                || other.added.is_some()
                || other.text.replace(SPACE, " ") != entry.text.replace(SPACE, " "))
        {
            let message = format!("the id {id} is that of {} already", shown(&other.text));
            return Err(self.files.error(TOKENIZER_JSON, entry.place(), message).into());
        }
        self.entries[at] = Some(entry);
        Ok(())
    }

    fn grow(&mut self, len: usize) {
        if self.entries.len() < len {
            self.entries.resize_with(len, || None);
        }
    }

    fn finish(mut self) -> Result<Vec<Entry>> {
        if self.named == 0 {
            return Err(self.files.error(TOKENIZER_JSON, "model.vocab", "there are no tokens").into());
        }
        if let Some(vocab_size) = self.files.vocab_size {
            let size = usize::try_from(vocab_size).ok().filter(|&size| size <= self.most);
            self.grow(size.ok_or_else(|| {
                let named = self.named;
                let message =
                    format!("`vocab_size` is {vocab_size}, but the tokenizer has only {named} tokens");
                self.files.error("config.json", "vocab_size", message)
            })?);
        }
        let entries = self.entries.into_iter().enumerate();
        Ok(entries.map(|(id, entry)| entry.unwrap_or_else(|| Entry::unused(id))).collect())
    }
}
