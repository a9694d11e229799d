//! Hugging Face's tokenizer files to the `tokenizer.*` keys of a GGUF file.
//!
//! What the keys cannot say or this crate does not do is refused by name, never dropped: a
//! tokenizer that is nearly right feeds a model tokens it was not trained on.

mod json;
mod pipeline;
mod special_tokens;
mod tokens;

use std::path::Path;

use json::{Merge, TokenizerJson, Vocab};
use pipeline::Pipeline;

use super::bpe::Bpe;
use super::byte_level;
use super::special::{Special, Strip};
use super::vocabulary::{Alphabet, BadToken, TokenType, Vocabulary, shown};
use crate::diagnostic::{Diagnostic, Result};
use crate::ir::Metadata;

/// A checkpoint's files about its tokenizer, read by the caller.
#[derive(Clone, Copy, Debug)]
pub struct HfTokenizerFiles<'a> {
    /// The directory they are in, for messages.
    pub directory: &'a Path,
    /// `tokenizer.json`.
    pub tokenizer_json: &'a [u8],
    /// `tokenizer_config.json`.
    pub tokenizer_config: Option<&'a [u8]>,
    /// `special_tokens_map.json`: tells what `tokenizer_config.json` does not.
    pub special_tokens_map: Option<&'a [u8]>,
    /// `generation_config.json`: which tokens end a generation.
    pub generation_config: Option<&'a [u8]>,
    /// `chat_template.jinja`: goes before the template in `tokenizer_config.json`.
    pub chat_template: Option<&'a [u8]>,
    /// `vocab_size` of `config.json`: the tokens are filled up to it.
    pub vocab_size: Option<u64>,
}

impl HfTokenizerFiles<'_> {
    /// An error in one of the files.
    fn error(&self, file: &str, place: impl Into<String>, message: impl Into<String>) -> Diagnostic {
        Diagnostic::error(message).in_file(self.directory.join(file), place).code("bad-tokenizer")
    }
}

const TOKENIZER_JSON: &str = "tokenizer.json";

/// The keys that describe the tokenizer: `tokenizer.ggml.{model,pre,tokens,token_type,merges}`, the ids of
/// special tokens, `add_bos_token`, `add_eos_token` where there is one, and `tokenizer.chat_template`.
///
/// # Errors
/// A file is broken, or asks for something that is not supported; the message names file and place.
pub fn import(files: &HfTokenizerFiles<'_>) -> Result<Metadata> {
    let json: TokenizerJson = serde_json::from_slice(files.tokenizer_json)
        .map_err(|e| files.error(TOKENIZER_JSON, "", format!("this is no tokenizer: {e}")))?;
    let Vocab::Ids(vocab) = &json.model.vocab else { return Err(unsupported_model(files, &json).into()) };
    if !matches!(json.model.kind.as_deref(), Some("BPE") | None) {
        return Err(unsupported_model(files, &json).into());
    }
    let pipeline = Pipeline::read(files, &json)?;

    let entries = tokens::by_id(files, vocab, &json.added_tokens)?;
    let tokens: Vec<String> = entries.iter().map(|e| e.text.clone()).collect();
    let types: Vec<TokenType> = entries.iter().map(|e| e.kind).collect();
    let token_type: Vec<i32> = types.iter().map(|&t| t as i32).collect();
    let at_token = |e: BadToken| {
        let place = entries.get(e.index).map_or_else(String::new, |entry| entry.place());
        files.error(TOKENIZER_JSON, place, e.reason)
    };
    let vocabulary = Vocabulary::new(&tokens, types, Alphabet::ByteLevel).map_err(at_token)?;
    Special::new(&vocabulary, &Strip::default()).map_err(at_token)?;
    check_unknown(files, &json, &vocabulary)?;

    let mut merges = Vec::with_capacity(json.model.merges.len());
    let at_merge = |e: BadToken| files.error(TOKENIZER_JSON, format!("model.merges[{}]", e.index), e.reason);
    for (index, merge) in json.model.merges.into_iter().enumerate() {
        merges.push(match merge {
            Merge::Joined(text) => text,
            Merge::Pair(left, right) if !left.contains(' ') && !right.contains(' ') => {
                format!("{left} {right}")
            }
            Merge::Pair(left, right) => {
                let reason =
                    format!("{} or {} has a space, which no byte is written as", shown(&left), shown(&right));
                return Err(at_merge(BadToken { index, reason }).into());
            }
        });
    }
    Bpe::new(&vocabulary, merges.iter().map(String::as_str), pipeline.ignore_merges).map_err(at_merge)?;

    let mut metadata = Metadata::default();
    metadata.set("tokenizer.ggml.model", "gpt2");
    metadata.set("tokenizer.ggml.pre", pipeline.pre);
    metadata.set("tokenizer.ggml.tokens", tokens);
    metadata.set("tokenizer.ggml.token_type", token_type);
    metadata.set("tokenizer.ggml.merges", merges);
    special_tokens::import(files, &vocabulary, &pipeline.template, &mut metadata)?;
    Ok(metadata)
}

fn unsupported_model(files: &HfTokenizerFiles<'_>, json: &TokenizerJson) -> Diagnostic {
    let kind = json.model.kind.as_deref().unwrap_or("without a type");
    files
        .error(
            TOKENIZER_JSON,
            "model.type",
            format!("the tokenizer model {} is not supported yet", shown(kind)),
        )
        .help("only byte-level `BPE` is")
}

/// A byte without a token would become the unknown token; here it is left out.
fn check_unknown(files: &HfTokenizerFiles<'_>, json: &TokenizerJson, vocabulary: &Vocabulary) -> Result<()> {
    let Some(unknown) = json.model.unk_token.as_deref().filter(|t| !t.is_empty()) else { return Ok(()) };
    let missing = (0..=255u8).find(|&byte| {
        let in_utf8 = !matches!(byte, 0xC0 | 0xC1 | 0xF5..);
        in_utf8 && vocabulary.id(byte_level::char_of(byte).encode_utf8(&mut [0; 4])).is_none()
    });
    match missing {
        Some(byte) => {
            let message = format!(
                "the byte 0x{byte:02x} has no token and would become {}, which is not supported",
                shown(unknown)
            );
            Err(files.error(TOKENIZER_JSON, "model.unk_token", message).into())
        }
        None => Ok(()),
    }
}
