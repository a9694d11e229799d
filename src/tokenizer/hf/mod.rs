//! Hugging Face's tokenizer files to the `tokenizer.*` keys of a GGUF file.
//!
//! What the keys cannot say or this crate does not do is refused by name, never dropped: a
//! tokenizer that is nearly right feeds a model tokens it was not trained on.
//!
//! Each kind of vocabulary is drafted from the files that describe it, in this order of trust:
//!
//! ```text
//! tokenizer.json, byte-level BPE        ──▶ gpt2      byte_level.rs, pipeline.rs
//! tekken.json without a tokenizer.json  ──▶ gpt2      tekken.rs
//! tokenizer.model                       ──▶ llama, t5 sentencepiece.rs, protobuf.rs
//! tokenizer.json, BPE over characters   ──▶ llama     characters.rs
//! tokenizer.json, Unigram               ──▶ t5        unigram.rs
//! tokenizer.json or vocab.txt, WordPiece ─▶ bert      wordpiece.rs
//! vocab.json and merges.txt             ──▶ gpt2      byte_level.rs
//! ```

mod byte_level;
mod characters;
mod json;
mod pipeline;
mod protobuf;
mod sentencepiece;
mod special_tokens;
mod tekken;
mod tokens;
mod unigram;
mod wordpiece;

use std::path::Path;

use json::{TokenizerJson, Vocab};
use pipeline::Template;
use tokens::Entry;

use super::metadata::{LSTRIP, RSTRIP};
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
    pub tokenizer_json: Option<&'a [u8]>,
    /// `tokenizer.model`: SentencePiece's own.
    pub tokenizer_model: Option<&'a [u8]>,
    /// `added_tokens.json`: what is added to `tokenizer.model` or `vocab.json`.
    pub added_tokens: Option<&'a [u8]>,
    /// `vocab.json` of byte-level BPE; looked at where there is no `tokenizer.json`.
    pub vocab_json: Option<&'a [u8]>,
    /// `merges.txt`, which goes with it.
    pub merges_txt: Option<&'a [u8]>,
    /// `vocab.txt` of WordPiece; looked at where there is no `tokenizer.json`.
    pub vocab_txt: Option<&'a [u8]>,
    /// `tokenizer_config.json`.
    pub tokenizer_config: Option<&'a [u8]>,
    /// `special_tokens_map.json`: tells what `tokenizer_config.json` does not.
    pub special_tokens_map: Option<&'a [u8]>,
    /// `generation_config.json`: which tokens end a generation.
    pub generation_config: Option<&'a [u8]>,
    /// `tekken.json`: Mistral's own.
    pub tekken: Option<&'a [u8]>,
    /// `config.json`: ids of special tokens that no other file names.
    pub config: Option<&'a [u8]>,
    /// `chat_template.jinja`: goes before the template in `tokenizer_config.json`.
    pub chat_template: Option<&'a [u8]>,
    /// `vocab_size` of `config.json`: the tokens are filled up to it.
    pub vocab_size: Option<u64>,
    /// The `tokenizer.ggml.pre` of the model's family, for byte-level files that do not say how text is cut.
    pub pre_hint: Option<&'a str>,
}

impl<'a> HfTokenizerFiles<'a> {
    /// No file at all.
    pub fn none(directory: &'a Path) -> HfTokenizerFiles<'a> {
        HfTokenizerFiles {
            directory,
            tokenizer_json: None,
            tokenizer_model: None,
            added_tokens: None,
            vocab_json: None,
            merges_txt: None,
            vocab_txt: None,
            tokenizer_config: None,
            special_tokens_map: None,
            generation_config: None,
            tekken: None,
            config: None,
            chat_template: None,
            vocab_size: None,
            pre_hint: None,
        }
    }

    /// An error in one of the files.
    fn error(&self, file: &str, place: impl Into<String>, message: impl Into<String>) -> Diagnostic {
        Diagnostic::error(message).in_file(self.directory.join(file), place).code("bad-tokenizer")
    }
}

const TOKENIZER_JSON: &str = "tokenizer.json";

/// The keys that describe the tokenizer: `tokenizer.ggml.*` and `tokenizer.chat_template`, with the values that
/// llama.cpp's converter writes.
///
/// # Errors
/// There is no tokenizer, a file is broken, or asks for something that is not supported; the message names
/// file and place.
pub fn import(files: &HfTokenizerFiles<'_>) -> Result<Metadata> {
    let json: Option<TokenizerJson> = match files.tokenizer_json {
        Some(bytes) => Some(
            serde_json::from_slice(bytes)
                .map_err(|e| files.error(TOKENIZER_JSON, "", format!("this is no tokenizer: {e}")))?,
        ),
        None => None,
    };
    let kind = |json: &TokenizerJson| match (json.model.kind.as_deref(), &json.model.vocab) {
        (Some("BPE") | None, Vocab::Ids(_)) if !characters::is_over_characters(json) => Kind::ByteLevel,
        (Some("BPE") | None, Vocab::Ids(_)) => Kind::Characters,
        (Some("WordPiece"), Vocab::Ids(_)) => Kind::WordPiece,
        (Some("Unigram"), Vocab::Scores(_)) => Kind::Unigram,
        _ => Kind::Other,
    };
    let draft = match (json, files.tokenizer_model) {
        (Some(json), _) if kind(&json) == Kind::ByteLevel => byte_level::import(files, json)?,
        (None, _) if files.tekken.is_some() => tekken::import(files, files.tekken.unwrap_or_default())?,
        (json, Some(model)) => sentencepiece::import(files, model, json.as_ref())?,
        (Some(json), None) => match kind(&json) {
            Kind::Characters => characters::import(files, &json)?,
            Kind::Unigram => unigram::import(files, &json)?,
            Kind::WordPiece => wordpiece::from_json(files, &json)?,
            Kind::ByteLevel | Kind::Other => return Err(unsupported_model(files, &json).into()),
        },
        (None, None) => match (files.vocab_json, files.merges_txt, files.vocab_txt) {
            (Some(vocab), Some(merges), _) => byte_level::import_old(files, vocab, merges)?,
            (_, _, Some(vocab)) => wordpiece::from_text(files, vocab)?,
            _ => {
                return Err(Diagnostic::error("the checkpoint has no tokenizer")
                    .in_file(files.directory, "")
                    .code("no-tokenizer")
                    .help("a tokenizer is tokenizer.json, tekken.json, tokenizer.model, vocab.json with merges.txt, or vocab.txt")
                    .help("download the whole repository, not the weights alone")
                    .into());
            }
        },
    };
    draft.finish(files)
}

#[derive(PartialEq, Eq)]
enum Kind {
    ByteLevel,
    Characters,
    Unigram,
    WordPiece,
    Other,
}

fn unsupported_model(files: &HfTokenizerFiles<'_>, json: &TokenizerJson) -> Diagnostic {
    let kind = json.model.kind.as_deref().unwrap_or("without a type");
    files
        .error(TOKENIZER_JSON, "model.type", format!("the tokenizer model {} is not supported", shown(kind)))
        .help("supported are `BPE`, `Unigram` and `WordPiece`")
}

/// A tokenizer as the files of one kind describe it; the files that all kinds share complete it.
#[derive(Debug, Default)]
struct Draft {
    /// The file that the vocabulary is from.
    file: &'static str,
    /// `tokenizer.ggml.model`
    model: &'static str,
    /// `tokenizer.ggml.pre`
    pre: &'static str,
    entries: Vec<Entry>,
    /// The entries have scores.
    scored: bool,
    /// `left right`, earliest first.
    merges: Option<Vec<String>>,
    space_prefix: Option<bool>,
    merge_spaces: Option<bool>,
    charsmap: Vec<u8>,
    lowercase: Option<bool>,
    strip_accents: Option<bool>,
    template: Template,
    /// Special tokens that the vocabulary's own file names, for where no other does.
    ids: Vec<(&'static str, Option<u64>)>,
    /// What is put around a text where no file says.
    add_bos: bool,
    add_eos: Option<bool>,
}

impl Draft {
    /// The tokens, to look up special ones.
    fn vocabulary(&self, files: &HfTokenizerFiles<'_>) -> Result<Vocabulary> {
        let tokens = self.entries.iter().map(|e| &e.text).collect();
        let types: Vec<TokenType> = self.entries.iter().map(|e| e.kind).collect();
        let alphabet = if self.model == "gpt2" { Alphabet::ByteLevel } else { Alphabet::Spaced };
        let at_token = |e: BadToken| {
            let place = self.entries.get(e.index).map_or_else(String::new, Entry::place);
            files.error(self.file, place, e.reason)
        };
        let vocabulary = Vocabulary::new(tokens, types, alphabet).map_err(at_token)?;
        Special::new(&vocabulary, &Strip::default()).map_err(at_token)?;
        Ok(vocabulary)
    }

    fn finish(self, files: &HfTokenizerFiles<'_>) -> Result<Metadata> {
        let vocabulary = self.vocabulary(files)?;
        let mut metadata = Metadata::default();
        metadata.set("tokenizer.ggml.model", self.model);
        metadata.set("tokenizer.ggml.pre", self.pre);
        let tokens: Vec<String> = self.entries.iter().map(|e| e.text.clone()).collect();
        metadata.set("tokenizer.ggml.tokens", tokens);
        if self.scored {
            metadata.set("tokenizer.ggml.scores", self.entries.iter().map(|e| e.score).collect::<Vec<_>>());
        }
        let types: Vec<i32> = self.entries.iter().map(|e| e.kind as i32).collect();
        metadata.set("tokenizer.ggml.token_type", types);
        if let Some(merges) = self.merges {
            metadata.set("tokenizer.ggml.merges", merges);
        }
        for (key, flag) in [
            // Where the key is missing, there is one.
            ("add_space_prefix", self.space_prefix.filter(|prefix| !prefix || self.model == "t5")),
            ("remove_extra_whitespaces", self.merge_spaces),
            ("normalizer.lowercase", self.lowercase),
            ("normalizer.strip_accents", self.strip_accents),
        ] {
            if let Some(flag) = flag {
                metadata.set(format!("tokenizer.ggml.{key}"), flag);
            }
        }
        if !self.charsmap.is_empty() {
            metadata.set("tokenizer.ggml.precompiled_charsmap", self.charsmap);
        }
        let added: special_tokens::Defaults<'_> = special_tokens::Defaults {
            template: &self.template,
            ids: &self.ids,
            add_bos: self.add_bos,
            add_eos: self.add_eos,
            first_is_cls: self.model == "bert",
        };
        special_tokens::import(files, self.file, &vocabulary, &added, &mut metadata)?;
        let stripping = |side: fn(&Entry) -> bool| -> Vec<i32> {
            let ids = self.entries.iter().zip(0..).filter(|(entry, _)| side(entry));
            ids.map(|(_, id)| id).collect()
        };
        for (key, ids) in [(LSTRIP, stripping(|e| e.strip.0)), (RSTRIP, stripping(|e| e.strip.1))] {
            if !ids.is_empty() {
                metadata.set(key, ids);
            }
        }
        Ok(metadata)
    }
}
