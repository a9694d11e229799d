//! The tokens in the order of their ids.

use super::json::AddedToken;
use super::{HfTokenizerFiles, TOKENIZER_JSON, TokenType, shown};
use crate::diagnostic::Result;

/// The most ids without a token, between tokens and after them. Makers round the size of the
/// embedding up by some hundreds; the rest is room.
const MAX_UNNAMED: usize = 1 << 16;

/// One id's token.
#[derive(Debug)]
pub(super) struct Entry {
    pub(super) text: String,
    pub(super) kind: TokenType,
    /// Its index among the added tokens, if it is one.
    added: Option<usize>,
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
    vocab: &[(String, u64)],
    added_tokens: &[AddedToken],
) -> Result<Vec<Entry>> {
    let named = vocab.len() + added_tokens.len();
    let mut table = Table { files, named, most: named.saturating_add(MAX_UNNAMED), entries: Vec::new() };
    for (text, id) in vocab {
        table.put(*id, Entry { text: text.clone(), kind: TokenType::Normal, added: None })?;
    }
    for (index, token) in added_tokens.iter().enumerate() {
        let kind = if token.special { TokenType::Control } else { TokenType::UserDefined };
        let entry = Entry { text: token.content.clone(), kind, added: Some(index) };
        let asked = [("lstrip", token.lstrip), ("rstrip", token.rstrip), ("single_word", token.single_word)];
        if let Some((field, _)) = asked.iter().find(|(_, asked)| *asked) {
            let message = format!("`{field}` of the added token {} is not supported", shown(&token.content));
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
            && (entry.added.is_none() || other.added.is_some() || other.text != entry.text)
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
        let unused = |id: usize| Entry { text: format!("[PAD{id}]"), kind: TokenType::Unused, added: None };
        Ok(self.entries.into_iter().enumerate().map(|(id, e)| e.unwrap_or_else(|| unused(id))).collect())
    }
}
