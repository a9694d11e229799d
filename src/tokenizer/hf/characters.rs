//! BPE over characters, which is SentencePiece's written as a list of merges, from `tokenizer.json`.
//!
//! GGUF has it with scores. A token's score here is its first merge's place, negated: what makes it is
//! then merged in the order of the list, as long as the list has every pair that makes a token, one
//! token after the other. A list that has not is refused.

use std::collections::HashMap;

use serde_json::Value;

use super::super::vocabulary::{SPACE, TokenType, byte_of, shown};
use super::json::{Merge, TokenizerJson, Vocab};
use super::pipeline::{excerpt, kind, parts, template};
use super::tokens::{self, Entry, UNUSED_SCORE};
use super::{Draft, HfTokenizerFiles, TOKENIZER_JSON, unsupported_model};
use crate::diagnostic::Result;

/// The longest token, in bytes.
const MAX_TOKEN: usize = 512;

/// True if the model is fed characters, not bytes written as characters.
pub(super) fn is_over_characters(json: &TokenizerJson) -> bool {
    let spaces = parts(&json.normalizer, "normalizers").iter().any(|n| spaces_written(n))
        || parts(&json.pre_tokenizer, "pretokenizers").iter().any(|p| kind(p) == "Metaspace");
    spaces && (json.model.byte_fallback || json.model.unk_token.is_some())
}

/// True for the step that writes [`SPACE`] for a space.
fn spaces_written(step: &Value) -> bool {
    let text = |pointer: &str| step.pointer(pointer).and_then(Value::as_str);
    kind(step) == "Replace" && text("/pattern/String") == Some(" ") && text("/content") == Some("\u{2581}")
}

/// Reads the file.
pub(super) fn import(files: &HfTokenizerFiles<'_>, json: &TokenizerJson) -> Result<Draft> {
    let Vocab::Ids(vocab) = &json.model.vocab else { return Err(unsupported_model(files, json).into()) };
    let refuse = |place: &str, value: &Value| {
        let message = format!("this {place} is not supported: {}", excerpt(&value.to_string()));
        files
            .error(TOKENIZER_JSON, place, message)
            .help("with BPE over characters, only what SentencePiece does is")
    };
    let (prefix, words) = spaces(json).map_err(|(place, value)| refuse(place, value))?;
    let nonempty = |text: &Option<String>| text.as_deref().is_some_and(|t| !t.is_empty());
    for (asked, field) in [
        (json.model.ignore_merges, "ignore_merges"),
        (json.model.dropout.is_some_and(|d| d != 0.0), "dropout"),
        (nonempty(&json.model.continuing_subword_prefix), "continuing_subword_prefix"),
        (nonempty(&json.model.end_of_word_suffix), "end_of_word_suffix"),
    ] {
        if asked {
            let message = format!("`{field}` is not supported");
            return Err(files.error(TOKENIZER_JSON, format!("model.{field}"), message).into());
        }
    }
    let scores = scores(files, json, vocab, words)?;
    let unknown = json.model.unk_token.as_deref();
    let own: Vec<_> = vocab
        .iter()
        .map(|(text, id)| {
            let made = scores.get(text.as_str()).copied();
            let kind = match text.as_str() {
                text if Some(text) == unknown => TokenType::Unknown,
                text if json.model.byte_fallback && byte_of(text).is_some() => TokenType::Byte,
                // No text leads there.
                text if made.is_none() && text.chars().nth(1).is_some() => TokenType::Unused,
                _ => TokenType::Normal,
            };
            (Entry::own(text.clone(), kind, made.unwrap_or(UNUSED_SCORE)), *id)
        })
        .collect();
    // Floats count whole numbers to 2^24.
    let lowest = -(scores.len() as f32);
    let mut entries = tokens::by_id(files, own.into_iter(), &json.added_tokens)?;
    for entry in entries.iter_mut().filter(|e| e.score == UNUSED_SCORE) {
        entry.score = entry.score.min(lowest);
    }
    let template =
        template(&json.post_processor).ok_or_else(|| refuse("post_processor", &json.post_processor))?;
    let unknown = unknown.and_then(|text| vocab.iter().find(|(t, _)| t == text)).map(|(_, id)| *id);
    Ok(Draft {
        file: TOKENIZER_JSON,
        model: "llama",
        pre: "default",
        entries,
        scored: true,
        space_prefix: Some(prefix),
        template,
        ids: vec![("unk", unknown)],
        ..Draft::default()
    })
}

/// Whether a space goes before a text, and whether it is cut into words; or the step that is not known.
fn spaces(json: &TokenizerJson) -> Result<(bool, bool), (&'static str, &Value)> {
    let (mut prefix, mut words) = (false, false);
    for step in parts(&json.normalizer, "normalizers") {
        match kind(step) {
            "Prepend" if step.get("prepend").and_then(Value::as_str) == Some("\u{2581}") => prefix = true,
            _ if spaces_written(step) => {}
            _ => return Err(("normalizer", step)),
        }
    }
    for step in parts(&json.pre_tokenizer, "pretokenizers") {
        match kind(step) {
            "Metaspace" => {
                let scheme = step.get("prepend_scheme").and_then(Value::as_str);
                let old = step.get("add_prefix_space").and_then(Value::as_bool);
                prefix = scheme.map_or(old != Some(false), |scheme| scheme != "never");
                words = step.get("split").and_then(Value::as_bool) != Some(false);
            }
            // The normalizer left no space to cut at.
            "Split" if step.pointer("/pattern/String").and_then(Value::as_str) == Some(" ") => {}
            _ => return Err(("pre_tokenizer", step)),
        }
    }
    Ok((prefix, words))
}

/// The scores of the tokens that merges make.
fn scores<'j>(
    files: &HfTokenizerFiles<'_>,
    json: &'j TokenizerJson,
    vocab: &'j [(String, u64)],
    words: bool,
) -> Result<HashMap<&'j str, f32>> {
    let wrong = |index: usize, message: String| {
        files.error(TOKENIZER_JSON, format!("model.merges[{index}]"), message)
    };
    let known: HashMap<&str, u64> = vocab.iter().map(|(text, id)| (text.as_str(), *id)).collect();
    let mut pairs = std::collections::HashSet::with_capacity(json.model.merges.len());
    let mut scores: HashMap<&str, f32> = HashMap::new();
    // The token that the merge before this one makes.
    let mut last = "";
    for (index, merge) in json.model.merges.iter().enumerate() {
        let pair = match merge {
            Merge::Joined(text) => text.split_once(' '),
            Merge::Pair(left, right) => Some((left.as_str(), right.as_str())),
        };
        let (left, right) = pair.ok_or_else(|| wrong(index, "this is no pair of tokens".into()))?;
        let joined = [left, right].concat();
        let missing = [left, right, &joined].into_iter().find(|text| !known.contains_key(text));
        if let Some(missing) = missing {
            return Err(wrong(index, format!("{} is not in the vocabulary", shown(missing))).into());
        }
        let Some((made, _)) = known.get_key_value(joined.as_str()) else { continue };
        if scores.contains_key(made) && last != *made {
            let message =
                format!("{} is made again, after other tokens: scores cannot say that", shown(made));
            return Err(wrong(index, message).into());
        }
        last = made;
        let place = scores.len();
        scores.entry(made).or_insert(-(place as f32));
        pairs.insert((left, right));
    }
    for made in scores.keys() {
        if made.len() > MAX_TOKEN || words && made.chars().skip(1).any(|c| c == SPACE) {
            let message =
                format!("the token {} is not supported: it is too long or has a space in it", shown(made));
            return Err(files.error(TOKENIZER_JSON, "model.vocab", message).into());
        }
        for (at, _) in made.char_indices().skip(1) {
            let (left, right) = made.split_at(at);
            let reached = |text: &str| {
                scores.contains_key(text) || known.contains_key(text) && text.chars().nth(1).is_none()
            };
            if reached(left) && reached(right) && !pairs.contains(&(left, right)) {
                let (left, right) = (shown(left), shown(right));
                let message = format!("{left} and {right} are not merged: scores cannot say that");
                return Err(files.error(TOKENIZER_JSON, "model.merges", message).into());
            }
        }
    }
    Ok(scores)
}
