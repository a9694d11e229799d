//! Special tokens' ids, what ends a generation, and the chat template.

use serde_json::{Map, Value};

use super::super::end;
use super::super::metadata::PREFIX;
use super::super::vocabulary::{Vocabulary, shown};
use super::HfTokenizerFiles;
use super::pipeline::Template;
use crate::diagnostic::Result;
use crate::ir::Metadata;

const TOKENIZER_CONFIG: &str = "tokenizer_config.json";
const SPECIAL_TOKENS_MAP: &str = "special_tokens_map.json";
const CONFIG: &str = "config.json";
const GENERATION_CONFIG: &str = "generation_config.json";
const CHAT_TEMPLATE: &str = "chat_template.jinja";

/// A special token's name in Hugging Face's files and in GGUF's keys.
const NAMES: &[(&str, &str)] = &[
    ("bos", "bos"),
    ("eos", "eos"),
    ("unk", "unknown"),
    ("sep", "seperator"), // as the format spells it
    ("pad", "padding"),
    ("mask", "mask"),
];

/// What holds where the files that all kinds of tokenizers share are silent.
pub(super) struct Defaults<'a> {
    pub(super) template: &'a Template,
    /// Names and ids.
    pub(super) ids: &'a [(&'static str, Option<u64>)],
    pub(super) add_bos: bool,
    pub(super) add_eos: Option<bool>,
    /// A text begins with CLS and ends with SEP.
    pub(super) first_is_cls: bool,
}

/// Writes the keys that follow the vocabulary, which is in `vocabulary_file`.
pub(super) fn import(
    files: &HfTokenizerFiles<'_>,
    vocabulary_file: &'static str,
    vocabulary: &Vocabulary,
    defaults: &Defaults<'_>,
    metadata: &mut Metadata,
) -> Result<()> {
    let template = defaults.template;
    let config = object(files, TOKENIZER_CONFIG, files.tokenizer_config)?;
    let generation = object(files, GENERATION_CONFIG, files.generation_config)?;
    let generation = Generation { files, object: &generation, vocabulary };
    let model_config = object(files, CONFIG, files.config)?;
    let mut ids = ids(files, vocabulary_file, vocabulary, &config, &generation, &model_config)?;
    // A text may begin with a token that only the post-processor names.
    if !ids.iter().any(|(name, ..)| *name == "bos")
        && let Some(id) = template.before.as_deref().and_then(|text| vocabulary.id(text))
    {
        ids.push(("bos", "bos", id));
    }
    for &(name, id) in defaults.ids {
        let key = NAMES.iter().find(|(n, _)| *n == name).map(|(_, key)| *key);
        let id = id.and_then(|id| u32::try_from(id).ok()).filter(|&id| (id as usize) < vocabulary.len());
        if let (Some(key), Some(id), false) = (key, id, ids.iter().any(|(n, ..)| *n == name)) {
            ids.push((name, key, id));
        }
    }
    // BERT and its kin have no other first and last token than these.
    if defaults.first_is_cls {
        let cls = match content(
            files,
            TOKENIZER_CONFIG,
            "cls_token",
            config.get("cls_token").unwrap_or(&Value::Null),
        )? {
            Some(text) => vocabulary.id(text),
            None => template.before.as_deref().and_then(|text| vocabulary.id(text)),
        };
        let cls = cls.or(defaults
            .ids
            .iter()
            .find(|(n, _)| *n == "cls")
            .and_then(|(_, id)| u32::try_from((*id)?).ok()));
        let of = |name: &str| ids.iter().find(|(n, ..)| *n == name).map(|(.., id)| *id);
        let missing = [("bos", of("bos"), cls), ("eos", of("eos"), of("sep"))];
        for (name, own, other) in missing {
            ids.extend(other.filter(|_| own.is_none()).map(|id| (name, name, id)));
        }
    }
    let id = |name: &str| ids.iter().find(|(n, ..)| *n == name).map(|(.., id)| *id);
    for (_, key, id) in &ids {
        metadata.set(format!("tokenizer.ggml.{key}_token_id"), *id);
    }
    ends(&generation, id("eos"), metadata)?;

    let around = Around { files, vocabulary_file, vocabulary, config: &config };
    // Always written: what its absence means differs from one pre-tokenizer to another.
    let add_bos = around.adds("bos", id("bos"), template.before.as_deref())?;
    let add_bos = add_bos.unwrap_or(defaults.add_bos && id("bos").is_some());
    metadata.set("tokenizer.ggml.add_bos_token", add_bos);
    let add_eos = around.adds("eos", id("eos"), template.after.as_deref())?;
    let add_eos = add_eos.or(defaults.add_eos.map(|adds| adds && id("eos").is_some()));
    if let Some(add_eos) = add_eos.or(template.decides.then_some(false)) {
        metadata.set("tokenizer.ggml.add_eos_token", add_eos);
    }
    if let Some(between) = template.between {
        metadata.set("tokenizer.ggml.add_sep_token", between);
    }
    if add_bos && !template.then.is_empty() {
        let ids = template.then.iter().map(|text| {
            match vocabulary.id(text).and_then(|id| i32::try_from(id).ok()) {
                Some(id) => Ok(id),
                None => {
                    let message =
                        format!("the post-processor puts {} before a text, which is no token", shown(text));
                    Err(files.error(vocabulary_file, "post_processor", message))
                }
            }
        });
        let ids: std::result::Result<Vec<i32>, _> = ids.collect();
        metadata.set(PREFIX, ids?);
    }
    if let Some(template) = chat_template(files, &config)? {
        metadata.set("tokenizer.chat_template", template);
    }
    Ok(())
}

/// The special tokens that the files name: Hugging Face's name, GGUF's, and the id.
fn ids(
    files: &HfTokenizerFiles<'_>,
    vocabulary_file: &'static str,
    vocabulary: &Vocabulary,
    config: &Map<String, Value>,
    generation: &Generation<'_>,
    model_config: &Map<String, Value>,
) -> Result<Vec<(&'static str, &'static str, u32)>> {
    let map = object(files, SPECIAL_TOKENS_MAP, files.special_tokens_map)?;
    let mut ids = Vec::new();
    for &(name, key) in NAMES {
        let field = format!("{name}_token");
        let needed = matches!(name, "bos" | "eos");
        let (file, value) = match config.get(&field) {
            Some(value) => (TOKENIZER_CONFIG, value),
            None => (SPECIAL_TOKENS_MAP, map.get(&field).unwrap_or(&Value::Null)),
        };
        let id = match content(files, file, &field, value)? {
            Some(text) => {
                let id = vocabulary.id(text);
                // The others do not take part in generation.
                if id.is_none() && needed {
                    let message = format!("{} is not in the vocabulary of {vocabulary_file}", shown(text));
                    return Err(files.error(file, field, message).into());
                }
                id
            }
            None => match of_config(model_config, name, vocabulary) {
                None if needed => generation.ids(&format!("{name}_token_id"))?.first().copied(),
                id => id,
            },
        };
        ids.extend(id.map(|id| (name, key, id)));
    }
    Ok(ids)
}

/// The id that the model's configuration has for a special token, if it is one number of the vocabulary.
fn of_config(config: &Map<String, Value>, name: &str, vocabulary: &Vocabulary) -> Option<u32> {
    let id = config.get(&format!("{name}_token_id"))?.as_u64()?;
    u32::try_from(id).ok().filter(|id| (*id as usize) < vocabulary.len())
}

/// What is put before and after a text.
struct Around<'a> {
    files: &'a HfTokenizerFiles<'a>,
    vocabulary_file: &'static str,
    vocabulary: &'a Vocabulary,
    config: &'a Map<String, Value>,
}

impl Around<'_> {
    /// Whether the token `name`, whose id is `id`, is put there. `tokenizer_config.json` may say, else
    /// the post-processor does, which puts `put` there; `None` if neither has anything to say.
    fn adds(&self, name: &str, id: Option<u32>, put: Option<&str>) -> Result<Option<bool>> {
        if let Some(put) = put
            && (id.is_none() || self.vocabulary.id(put) != id)
        {
            let message =
                format!("the post-processor puts {} around a text, which is not {name}", shown(put));
            return Err(self.files.error(self.vocabulary_file, "post_processor", message).into());
        }
        let field = format!("add_{name}_token");
        let bad = |message: &str| self.files.error(TOKENIZER_CONFIG, &field, format!("`{field}` {message}"));
        match self.config.get(&field) {
            Some(Value::Bool(true)) if id.is_none() => Err(bad("is true, but there is no such token").into()),
            Some(Value::Bool(adds)) => Ok(Some(*adds)),
            Some(Value::Null) | None => Ok(put.map(|_| true)),
            Some(_) => Err(bad("is not a boolean").into()),
        }
    }
}

/// Writes which tokens end a generation, besides EOS.
fn ends(generation: &Generation<'_>, eos: Option<u32>, metadata: &mut Metadata) -> Result<()> {
    let ends = generation.ids("eos_token_id")?;
    let others = || ends.iter().copied().filter(|&id| Some(id) != eos);
    let text = |id: u32| generation.vocabulary.text(id).unwrap_or_default();
    if let Some(eot) = others().find(|&id| end::ends_turn(text(id))) {
        metadata.set("tokenizer.ggml.eot_token_id", eot);
    }
    if let Some(eom) = others().find(|&id| text(id) == end::END_OF_MESSAGE) {
        metadata.set("tokenizer.ggml.eom_token_id", eom);
    }
    if others().next().is_some() {
        let ids: Vec<i32> = ends.iter().filter_map(|&id| i32::try_from(id).ok()).collect();
        metadata.set("tokenizer.ggml.eos_token_ids", ids);
    }
    Ok(())
}

/// `generation_config.json`, whose ids are checked against the vocabulary.
struct Generation<'a> {
    files: &'a HfTokenizerFiles<'a>,
    object: &'a Map<String, Value>,
    vocabulary: &'a Vocabulary,
}

impl Generation<'_> {
    /// An id or a list of them; empty where there is none.
    fn ids(&self, field: &str) -> Result<Vec<u32>> {
        let values = match self.object.get(field) {
            None | Some(Value::Null) => &[][..],
            Some(Value::Array(values)) => values,
            Some(value) => std::slice::from_ref(value),
        };
        let mut ids = Vec::with_capacity(values.len());
        for value in values {
            let id = value.as_u64().and_then(|id| u32::try_from(id).ok());
            ids.push(id.filter(|&id| (id as usize) < self.vocabulary.len()).ok_or_else(|| {
                let message = format!("`{field}` is not the id of a token: {value}");
                self.files.error(GENERATION_CONFIG, field, message)
            })?);
        }
        Ok(ids)
    }
}

/// A JSON object; empty where there is no file.
pub(super) fn object(
    files: &HfTokenizerFiles<'_>,
    file: &str,
    bytes: Option<&[u8]>,
) -> Result<Map<String, Value>> {
    let Some(bytes) = bytes else { return Ok(Map::new()) };
    let object = serde_json::from_slice(bytes)
        .map_err(|e| files.error(file, "", format!("this is no JSON object: {e}")))?;
    Ok(object)
}

/// A token's text: a string, or an object with the string `content`.
fn content<'v>(
    files: &HfTokenizerFiles<'_>,
    file: &str,
    field: &str,
    value: &'v Value,
) -> Result<Option<&'v str>> {
    match value {
        Value::Null => Ok(None),
        Value::String(text) => Ok(Some(text)),
        _ => match value.get("content").and_then(Value::as_str) {
            Some(text) => Ok(Some(text)),
            None => {
                let message = format!("`{field}` is neither a string nor has one as `content`");
                Err(files.error(file, field, message).into())
            }
        },
    }
}

fn chat_template(files: &HfTokenizerFiles<'_>, config: &Map<String, Value>) -> Result<Option<String>> {
    if let Some(bytes) = files.chat_template {
        let text = std::str::from_utf8(bytes).map_err(|e| {
            files.error(CHAT_TEMPLATE, format!("byte {}", e.valid_up_to()), "this is no UTF-8")
        })?;
        // Python reads it as text, so that templates see one kind of newline.
        return Ok(Some(text.replace("\r\n", "\n")));
    }
    let wrong = || {
        let message = "`chat_template` is neither a string nor a list of `name` and `template`";
        files.error(TOKENIZER_CONFIG, "chat_template", message)
    };
    match config.get("chat_template") {
        None | Some(Value::Null) => Ok(None),
        Some(Value::String(text)) => Ok(Some(text.clone())),
        Some(Value::Array(named)) => {
            for entry in named {
                let field = |name| entry.get(name).and_then(Value::as_str);
                if field("name").ok_or_else(wrong)? == "default" {
                    return Ok(Some(field("template").ok_or_else(wrong)?.to_owned()));
                }
            }
            Ok(None)
        }
        Some(_) => Err(wrong().into()),
    }
}
