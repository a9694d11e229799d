//! Vocabularies of SentencePiece, from its own `tokenizer.model`.

use serde_json::{Map, Value};

use super::super::vocabulary::{SPACE, TokenType};
use super::json::{AddedToken, TokenizerJson};
use super::pipeline::{self, Template};
use super::protobuf::ModelProto;
use super::special_tokens::object;
use super::tokens::{ADDED_SCORE, Entry};
use super::{Draft, HfTokenizerFiles};
use crate::diagnostic::Result;

pub(super) const TOKENIZER_MODEL: &str = "tokenizer.model";
const ADDED_TOKENS: &str = "added_tokens.json";
const TOKENIZER_CONFIG: &str = "tokenizer_config.json";

/// The most ids beyond the pieces: added tokens and room in the embedding.
const MAX_ADDED: usize = 1 << 16;

/// Reads `tokenizer.model`, and the tokens that other files add to it: as `added_tokens.json` says, then
/// `tokenizer_config.json`, then `tokenizer.json` where neither did.
pub(super) fn import(
    files: &HfTokenizerFiles<'_>,
    bytes: &[u8],
    json: Option<&TokenizerJson>,
) -> Result<Draft> {
    let wrong =
        |why: &str| files.error(TOKENIZER_MODEL, "", format!("this is no SentencePiece model: {why}"));
    let model = ModelProto::read(bytes).map_err(wrong)?;
    let unigram = match model.model_type {
        1 => true,
        2 => false,
        _ => return Err(wrong("it is neither BPE nor Unigram").into()),
    };
    if model.treat_whitespace_as_suffix {
        return Err(wrong("words end with their space, which is not supported").into());
    }
    let most = model.pieces.len().saturating_add(MAX_ADDED);
    let size = match files.vocab_size {
        // BERT's kind has room of its own; others' embeddings have a row for each id and no more.
        Some(size) => usize::try_from(size).ok().filter(|&size| size <= most).ok_or_else(|| {
            let pieces = model.pieces.len();
            let message = format!("`vocab_size` is {size}, but the tokenizer has only {pieces} tokens");
            files.error("config.json", "vocab_size", message)
        })?,
        None => model.pieces.len(),
    };
    let mut entries: Vec<Entry> = Vec::with_capacity(size);
    for (id, piece) in model.pieces.iter().take(size).enumerate() {
        let kind = match piece.kind {
            2 => TokenType::Unknown,
            3 => TokenType::Control,
            5 => TokenType::Unused,
            6 => TokenType::Byte,
            1 | 4 => TokenType::Normal,
            other => return Err(wrong(&format!("piece {id} has the type {other}")).into()),
        };
        entries.push(Entry::own(piece.text.to_owned(), kind, piece.score));
    }
    let mut added = Added { entries, size, files };
    added.rest(model.pieces.len(), most)?;
    added.read_added_tokens()?;
    let config = object(files, TOKENIZER_CONFIG, files.tokenizer_config)?;
    added.read_decoder(&config)?;
    for (index, token) in json.map_or(&[][..], |json| &json.added_tokens).iter().enumerate() {
        added.fill(token, index);
    }
    let [unknown, bos, eos, padding] = model.special;
    // The model's file says what stands before and after a text; only tokenizer.json speaks of two together.
    let between = json.and_then(|json| pipeline::template(&json.post_processor)).and_then(|t| t.between);
    let prefix = config.get("add_prefix_space").and_then(Value::as_bool).unwrap_or(model.add_dummy_prefix);
    Ok(Draft {
        file: TOKENIZER_MODEL,
        model: if unigram { "t5" } else { "llama" },
        pre: "default",
        entries: added.entries,
        scored: true,
        space_prefix: Some(prefix),
        merge_spaces: unigram.then_some(model.remove_extra_whitespaces),
        charsmap: model.charsmap.to_vec(),
        template: Template { between, ..Template::default() },
        ids: vec![("unk", unknown), ("bos", bos), ("eos", eos), ("pad", padding)],
        add_bos: !unigram,
        add_eos: unigram.then_some(true),
        ..Draft::default()
    })
}

struct Added<'a> {
    entries: Vec<Entry>,
    /// Ids there are to be.
    size: usize,
    files: &'a HfTokenizerFiles<'a>,
}

impl Added<'_> {
    /// Fills up to the size that the model says; where it says none, up to the last added token.
    fn rest(&mut self, pieces: usize, most: usize) -> Result<()> {
        if self.files.vocab_size.is_none() {
            let names = object(self.files, ADDED_TOKENS, self.files.added_tokens)?;
            let ids = names.values().filter_map(Value::as_u64).filter_map(|id| usize::try_from(id).ok());
            self.size = ids.filter(|&id| id < most).map(|id| id + 1).max().unwrap_or(0).max(pieces);
        }
        self.entries.extend((self.entries.len()..self.size).map(Entry::unused));
        Ok(())
    }

    fn at(&mut self, id: u64) -> Option<&mut Entry> {
        // A token beyond the embedding is none.
        self.entries.get_mut(usize::try_from(id).ok()?)
    }

    fn read_added_tokens(&mut self) -> Result<()> {
        for (text, id) in object(self.files, ADDED_TOKENS, self.files.added_tokens)? {
            let wrong = || self.files.error(ADDED_TOKENS, text.clone(), "this is no id");
            let id = id.as_u64().ok_or_else(wrong)?;
            if let Some(entry) = self.at(id) {
                *entry = Entry::own(text, TokenType::UserDefined, ADDED_SCORE);
            }
        }
        Ok(())
    }

    fn read_decoder(&mut self, config: &Map<String, Value>) -> Result<()> {
        let Some(Value::Object(tokens)) = config.get("added_tokens_decoder") else { return Ok(()) };
        for (key, value) in tokens {
            let place = || format!("added_tokens_decoder[{key:?}]");
            let wrong = |why: &str| self.files.error(TOKENIZER_CONFIG, place(), why);
            let id: u64 = key.parse().map_err(|_| wrong("this is no id"))?;
            let content = value.get("content").and_then(Value::as_str);
            let content = content.ok_or_else(|| wrong("the token has no `content`"))?;
            let flag = |name: &str| value.get(name).and_then(Value::as_bool).unwrap_or(false);
            let token = AddedToken {
                id,
                content: content.to_owned(),
                lstrip: flag("lstrip"),
                rstrip: flag("rstrip"),
                single_word: flag("single_word"),
                special: flag("special"),
            };
            if let Some(entry) = self.at(id) {
                *entry = Entry::added(&token, 0);
            }
        }
        Ok(())
    }

    /// Gives a token to an id that has none, and a type to one that is plain text so far.
    fn fill(&mut self, token: &AddedToken, index: usize) {
        let Some(entry) = self.at(token.id) else { return };
        let same = || entry.text.replace(SPACE, " ") == token.content.replace(SPACE, " ");
        if entry.kind == TokenType::Unused || entry.kind == TokenType::Normal && same() {
            *entry = Entry::added(token, index);
        }
    }
}
