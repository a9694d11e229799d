//! Byte-level BPE, from `tokenizer.json` or from the two files that came before it.

use serde_json::Value;

use super::super::bpe::Bpe;
use super::super::byte_level;
use super::super::pre_tokenizer::PreTokenizer;
use super::super::vocabulary::{BadToken, TokenType, Vocabulary, shown};
use super::json::{AddedToken, Merge, TokenizerJson, Vocab};
use super::pipeline::Pipeline;
use super::special_tokens::object;
use super::tokens::{self, Entry};
use super::{Draft, HfTokenizerFiles, TOKENIZER_JSON, unsupported_model};
use crate::diagnostic::Result;

const VOCAB: &str = "vocab.json";
const MERGES: &str = "merges.txt";

/// Reads `tokenizer.json`.
pub(super) fn import(files: &HfTokenizerFiles<'_>, json: TokenizerJson) -> Result<Draft> {
    let Vocab::Ids(vocab) = &json.model.vocab else { return Err(unsupported_model(files, &json).into()) };
    let pipeline = Pipeline::read(files, &json)?;
    let own = vocab.iter().map(|(text, id)| (Entry::own(text.clone(), TokenType::Normal, 0.0), *id));
    let mut draft = Draft {
        file: TOKENIZER_JSON,
        model: "gpt2",
        pre: pipeline.pre,
        entries: tokens::by_id(files, own, &json.added_tokens)?,
        ..Draft::default()
    };
    let vocabulary = draft.vocabulary(files)?;
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
    draft.merges = Some(merges);
    draft.template = pipeline.template;
    Ok(draft)
}

/// Reads `vocab.json` and `merges.txt`, which do not say how text is cut: the caller may, else the name of the
/// tokenizer's class does, else it is GPT-2's way, whose format this is.
pub(super) fn import_old(files: &HfTokenizerFiles<'_>, vocab: &[u8], merges: &[u8]) -> Result<Draft> {
    let config = object(files, "tokenizer_config.json", files.tokenizer_config)?;
    let class = config.get("tokenizer_class").and_then(Value::as_str).unwrap_or_default();
    let of_class = if class.starts_with("Qwen2Tokenizer") { "qwen2" } else { "gpt-2" };
    let pre = files.pre_hint.unwrap_or(of_class);
    let known = PreTokenizer::names()
        .find(|name| *name == pre)
        .and_then(|name| Some((name, PreTokenizer::from_name(name)?)));
    let (pre, pre_tokenizer) = known.ok_or_else(|| {
        files.error(
            VOCAB,
            "",
            format!("the pre-tokenizer {} of the model\u{2019}s family is not known", shown(pre)),
        )
    })?;

    let mut own = Vec::new();
    for (text, id) in object(files, VOCAB, Some(vocab))? {
        let wrong = || files.error(VOCAB, shown(&text), "this is no id");
        own.push((id.as_u64().ok_or_else(wrong)?, text));
    }
    let mut added = Vec::new();
    for (content, id) in object(files, "added_tokens.json", files.added_tokens)? {
        let wrong = || files.error("added_tokens.json", shown(&content), "this is no id");
        let id = id.as_u64().ok_or_else(wrong)?;
        added.push(AddedToken { id, content, special: false, ..AddedToken::default() });
    }
    mark_special(&config, &mut added, &own);
    let own = own.into_iter().map(|(id, text)| (Entry::own(text, TokenType::Normal, 0.0), id));
    let mut draft = Draft {
        file: VOCAB,
        model: "gpt2",
        pre,
        entries: tokens::by_id(files, own.collect::<Vec<_>>().into_iter(), &added)?,
        ..Draft::default()
    };

    let text = std::str::from_utf8(merges)
        .map_err(|e| files.error(MERGES, format!("byte {}", e.valid_up_to()), "this is no UTF-8"))?;
    // The first line may name the version; later ones may begin with `#`, which merges too.
    let lines: Vec<(usize, &str)> = text
        .split('\n')
        .map(|line| line.trim_end_matches('\r'))
        .enumerate()
        .filter(|(at, line)| !(line.is_empty() || *at == 0 && line.starts_with("#version")))
        .collect();
    let at_merge = |e: BadToken| {
        let line = lines.get(e.index).map_or(0, |(at, _)| at + 1);
        files.error(MERGES, format!("line {line}"), e.reason)
    };
    let vocabulary = draft.vocabulary(files)?;
    let lists = lines.iter().map(|(_, line)| *line);
    Bpe::new(&vocabulary, lists, pre_tokenizer.ignore_merges).map_err(at_merge)?;
    draft.merges = Some(lines.iter().map(|(_, line)| (*line).to_owned()).collect());
    Ok(draft)
}

/// Makes special tokens of those that the configuration names.
fn mark_special(config: &serde_json::Map<String, Value>, added: &mut Vec<AddedToken>, own: &[(u64, String)]) {
    let text = |value: &Value| -> Option<String> {
        let text = value.as_str().or_else(|| value.get("content")?.as_str())?;
        Some(text.to_owned())
    };
    let mut names: Vec<String> = ["bos", "eos", "unk", "sep", "pad", "cls", "mask"]
        .iter()
        .filter_map(|name| text(config.get(&format!("{name}_token"))?))
        .collect();
    if let Some(more) = config.get("additional_special_tokens").and_then(Value::as_array) {
        names.extend(more.iter().filter_map(text));
    }
    if let Some(Value::Object(decoder)) = config.get("added_tokens_decoder") {
        for (id, value) in decoder {
            let (Ok(id), Some(content)) = (id.parse::<u64>(), text(value)) else { continue };
            let flag = |name: &str| value.get(name).and_then(Value::as_bool).unwrap_or(false);
            added.retain(|token| token.id != id);
            added.push(AddedToken {
                id,
                content,
                special: flag("special"),
                lstrip: flag("lstrip"),
                rstrip: flag("rstrip"),
                single_word: flag("single_word"),
            });
        }
    }
    for name in names {
        if let Some(token) = added.iter_mut().find(|token| token.content == name) {
            token.special = true;
        } else if let Some((id, _)) = own.iter().find(|(_, text)| *text == name) {
            added.push(AddedToken { id: *id, content: name, special: true, ..AddedToken::default() });
        }
    }
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
