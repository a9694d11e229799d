//! WordPiece, from `tokenizer.json` or `vocab.txt`.

use serde_json::Value;

use super::super::vocabulary::{SPACE, TokenType};
use super::json::{AddedToken, TokenizerJson, Vocab};
use super::pipeline::{excerpt, kind, parts, template};
use super::special_tokens::object;
use super::tokens::{self, Entry};
use super::{Draft, HfTokenizerFiles, TOKENIZER_JSON, unsupported_model};
use crate::diagnostic::Result;

const VOCAB: &str = "vocab.txt";
/// What goes on with a word in these files.
const GOES_ON: &str = "##";

/// Reads `tokenizer.json`.
pub(super) fn from_json(files: &HfTokenizerFiles<'_>, json: &TokenizerJson) -> Result<Draft> {
    let Vocab::Ids(vocab) = &json.model.vocab else { return Err(unsupported_model(files, json).into()) };
    let refuse = |place: &str, value: &Value| {
        let message = format!("this {place} is not supported: {}", excerpt(&value.to_string()));
        files.error(TOKENIZER_JSON, place, message).help("with WordPiece, only what BERT does is")
    };
    let flag = |name: &str| json.normalizer.get(name).and_then(Value::as_bool);
    if kind(&json.normalizer) != "BertNormalizer"
        || flag("clean_text") == Some(false)
        || flag("handle_chinese_chars") == Some(false)
    {
        return Err(refuse("normalizer", &json.normalizer).into());
    }
    if parts(&json.pre_tokenizer, "pretokenizers").iter().map(|p| kind(p)).ne(["BertPreTokenizer"]) {
        return Err(refuse("pre_tokenizer", &json.pre_tokenizer).into());
    }
    let prefix = json.model.continuing_subword_prefix.as_deref();
    let longest = json.model.max_input_chars_per_word;
    if prefix.is_some_and(|prefix| prefix != GOES_ON) || longest.is_some_and(|longest| longest != 100) {
        let message = "only words of at most 100 characters that go on with `##` are supported";
        return Err(files.error(TOKENIZER_JSON, "model", message).into());
    }
    let own = vocab.iter().map(|(text, id)| (Entry::own(text.clone(), TokenType::Normal, 0.0), *id));
    let mut entries = tokens::by_id(files, own, &json.added_tokens)?;
    write_spaces(&mut entries);
    let lowercase = flag("lowercase").unwrap_or(true);
    // Whatever it says, BERT's texts are between CLS and SEP.
    let template = template(&json.post_processor).unwrap_or_default();
    Ok(Draft { file: TOKENIZER_JSON, entries, template, ..draft(lowercase, flag("strip_accents")) })
}

/// Reads `vocab.txt`, a token a line.
pub(super) fn from_text(files: &HfTokenizerFiles<'_>, vocab: &[u8]) -> Result<Draft> {
    let text = std::str::from_utf8(vocab)
        .map_err(|e| files.error(VOCAB, format!("byte {}", e.valid_up_to()), "this is no UTF-8"))?;
    let config = object(files, "tokenizer_config.json", files.tokenizer_config)?;
    let named = |name: &str, default: &str| {
        let value = config.get(&format!("{name}_token"));
        let text = value.and_then(|value| value.as_str().or_else(|| value.get("content")?.as_str()));
        text.unwrap_or(default).to_owned()
    };
    let special =
        [("unk", "[UNK]"), ("sep", "[SEP]"), ("pad", "[PAD]"), ("cls", "[CLS]"), ("mask", "[MASK]")]
            .map(|(name, default)| (name, named(name, default)));
    let text = text.strip_suffix('\n').unwrap_or(text);
    let lines: Vec<&str> = text.split('\n').map(|line| line.trim_end_matches('\r')).collect();
    let mut added = Vec::new();
    let mut ids = Vec::new();
    for (name, content) in special {
        if let Some(id) = lines.iter().position(|line| *line == content) {
            ids.push((name, Some(id as u64)));
            added.push(AddedToken { id: id as u64, content, special: true, ..AddedToken::default() });
        }
    }
    let own = lines.iter().map(|line| Entry::own((*line).to_owned(), TokenType::Normal, 0.0));
    let mut entries = tokens::by_id(files, own.zip(0..).collect::<Vec<_>>().into_iter(), &added)?;
    write_spaces(&mut entries);
    let flag = |name: &str| config.get(name).and_then(Value::as_bool);
    let lowercase = flag("do_lower_case").unwrap_or(true);
    Ok(Draft { file: VOCAB, entries, ids, ..draft(lowercase, flag("strip_accents")) })
}

fn draft(lowercase: bool, strip_accents: Option<bool>) -> Draft {
    Draft {
        model: "bert",
        pre: "default",
        lowercase: Some(lowercase),
        // What no file says depends on the case, for every reader.
        strip_accents,
        add_bos: true,
        add_eos: Some(true),
        ..Draft::default()
    }
}

/// Writes where words begin instead of where they go on.
fn write_spaces(entries: &mut [Entry]) {
    for entry in entries.iter_mut().filter(|e| !matches!(e.kind, TokenType::Control | TokenType::Unused)) {
        entry.text = match entry.text.strip_prefix(GOES_ON) {
            Some(rest) => rest.to_owned(),
            None => format!("{SPACE}{}", entry.text),
        };
    }
}
