//! Unigram, from `tokenizer.json`.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::Value;

use super::super::charsmap::Charsmap;
use super::super::vocabulary::{TokenType, byte_of};
use super::json::{TokenizerJson, Vocab};
use super::pipeline::{excerpt, kind, parts, template};
use super::tokens::{self, Entry};
use super::{Draft, HfTokenizerFiles, TOKENIZER_JSON, unsupported_model};
use crate::diagnostic::{Diagnostic, Result};

/// Reads the file.
pub(super) fn import(files: &HfTokenizerFiles<'_>, json: &TokenizerJson) -> Result<Draft> {
    let Vocab::Scores(pieces) = &json.model.vocab else { return Err(unsupported_model(files, json).into()) };
    let steps = Steps::read(files, json)?;
    let own = pieces.iter().zip(0u64..).map(|((text, score), id)| {
        let kind = match json.model.unk_id == Some(id) {
            true => TokenType::Unknown,
            false if json.model.byte_fallback && byte_of(text).is_some() => TokenType::Byte,
            false => TokenType::Normal,
        };
        (Entry::own(text.clone(), kind, *score as f32), id)
    });
    let own: Vec<_> = own.collect();
    let mut entries = tokens::by_id(files, own.into_iter(), &json.added_tokens)?;
    // The unknown token is an added one too, and stays what it is.
    let unknown = json.model.unk_id.and_then(|id| usize::try_from(id).ok());
    if let Some(entry) = unknown.and_then(|id| entries.get_mut(id)) {
        entry.kind = TokenType::Unknown;
    }
    // Those that were added keep the score of the piece.
    for (entry, (_, score)) in entries.iter_mut().zip(pieces) {
        entry.score = *score as f32;
    }
    Ok(Draft {
        file: TOKENIZER_JSON,
        model: "t5",
        pre: "default",
        entries,
        scored: true,
        space_prefix: Some(steps.prefix),
        merge_spaces: Some(steps.merge),
        charsmap: steps.charsmap,
        template: template(&json.post_processor)
            .ok_or_else(|| refuse(files, "post_processor", &json.post_processor))?,
        ids: vec![("unk", json.model.unk_id)],
        ..Draft::default()
    })
}

fn refuse(files: &HfTokenizerFiles<'_>, place: &str, value: &Value) -> Diagnostic {
    let message = format!("this {place} is not supported: {}", excerpt(&value.to_string()));
    files.error(TOKENIZER_JSON, place, message).help("with Unigram, only what SentencePiece does is")
}

/// What happens before a text is cut.
struct Steps {
    prefix: bool,
    merge: bool,
    charsmap: Vec<u8>,
}

impl Steps {
    fn read(files: &HfTokenizerFiles<'_>, json: &TokenizerJson) -> Result<Steps> {
        let mut steps = Steps { prefix: false, merge: false, charsmap: Vec::new() };
        for step in parts(&json.normalizer, "normalizers") {
            let text = |field: &str| step.get(field).and_then(Value::as_str);
            match kind(step) {
                "Precompiled" if steps.charsmap.is_empty() => {
                    let map = text("precompiled_charsmap").and_then(|text| STANDARD.decode(text).ok());
                    let map = map.filter(|map| map.is_empty() || Charsmap::read(map).is_ok());
                    steps.charsmap = map.ok_or_else(|| refuse(files, "normalizer", step))?;
                }
                "Replace" if step.pointer("/pattern/Regex").and_then(Value::as_str) == Some(" {2,}") => {
                    steps.merge = true;
                }
                "Strip" => {}
                _ => return Err(refuse(files, "normalizer", step).into()),
            }
        }
        for step in parts(&json.pre_tokenizer, "pretokenizers") {
            match kind(step) {
                "WhitespaceSplit" => steps.merge = true,
                "Metaspace" => {
                    let scheme = step.get("prepend_scheme").and_then(Value::as_str);
                    let old = step.get("add_prefix_space").and_then(Value::as_bool);
                    steps.prefix = scheme.map_or(old != Some(false), |scheme| scheme != "never");
                }
                _ => return Err(refuse(files, "pre_tokenizer", step).into()),
            }
        }
        Ok(steps)
    }
}
