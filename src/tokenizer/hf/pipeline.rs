//! Recognises what a `tokenizer.json` does besides BPE: normalizer, pre-tokenizer, post-processor, decoder.
//!
//! GGUF has a name for the whole of it, `tokenizer.ggml.pre`. A pipeline that has none is refused.

use std::borrow::Cow;

use serde_json::Value;
use sha2::{Digest, Sha256};

use super::json::TokenizerJson;
use super::{HfTokenizerFiles, TOKENIZER_JSON};
use crate::diagnostic::{Diagnostic, Result};

/// Llama 3's expression, which OpenAI's cl100k began.
const LLAMA3: &str = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";
/// Qwen 2's: a digit at a time.
const QWEN2: &str = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";
/// Qwen 3.5's: marks belong to words.
const QWEN35: &str = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?[\p{L}\p{M}]+|\p{N}| ?[^\s\p{L}\p{M}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";
/// MiniCPM 5's: an earlier step cuts numbers.
const MINICPM5: &str = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}+| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";
const SEED_CODER: &str = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1}| ?[^\s\p{L}\p{N}\r\n]+|\s*[\r\n]+|\s+(?!\S)|\s+";
/// Ling's, which matches what Qwen 2's does.
const BAILING: &str = r"'(?i:[sdmt]|ll|ve|re)|[^\r\n\p{L}\p{N}]?+\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]++[\r\n]*|\s*[\r\n]|\s+(?!\S)|\s+";
/// OpenAI's o200k.
const O200K: &str = r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+(?i:'s|'t|'re|'ve|'m|'ll|'d)?|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*(?i:'s|'t|'re|'ve|'m|'ll|'d)?|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+";
/// Mistral's.
pub(super) const TEKKEN: &str = r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+";
/// DeepSeek 3's last.
const DEEPSEEK3: &str = r##"[!"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+| ?[\p{P}\p{S}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"##;
/// Chinese and Japanese.
const CJK: &str = "[一-龥\u{3040}-ゟ゠-ヿ]+";
/// GPT-2's, which the step `ByteLevel` has built in.
const GPT2: &str = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+";
const BLOOM: &str = r" ?[^(\s|[.,!?…。，、।۔،])]+";

/// A step of a pre-tokenizer that some model known here uses.
#[derive(Debug, PartialEq, Eq)]
enum Step<'a> {
    /// Cuts around what the expression matches.
    Split(&'a str),
    /// Cuts around each digit.
    Digits,
    /// Cuts around runs of digits.
    DigitRuns,
    /// Cuts around runs of punctuation.
    PunctuationRuns,
    /// Writes bytes in GPT-2's alphabet.
    Bytes,
    /// Cuts with [`GPT2`], then does the same.
    SplitAndBytes,
}

/// A pipeline with a name.
struct Known {
    pre: &'static str,
    steps: &'static [Step<'static>],
    /// `None` where it makes no difference: every token is what the merges make of its text.
    ignore_merges: Option<bool>,
    nfc: bool,
}

static KNOWN: &[Known] = {
    use Step::*;
    const fn known(
        pre: &'static str,
        steps: &'static [Step<'static>],
        ignore_merges: Option<bool>,
        nfc: bool,
    ) -> Known {
        Known { pre, steps, ignore_merges, nfc }
    }
    const NO: Option<bool> = Some(false);
    const YES: Option<bool> = Some(true);
    &[
        known("llama-bpe", &[Split(LLAMA3), Bytes], YES, false),
        known("dbrx", &[Split(LLAMA3), Bytes], NO, false),
        known("qwen2", &[Split(QWEN2), Bytes], NO, true),
        known("deepseek-r1-qwen", &[Split(QWEN2), Bytes], NO, false),
        known("bailingmoe", &[Split(BAILING), Bytes], NO, false),
        known("qwen35", &[Split(QWEN35), Bytes], NO, true),
        known("seed-coder", &[Split(SEED_CODER), Bytes], NO, false),
        known("minicpm5", &[Split(NUMBERS_BY_THREE), Split(MINICPM5), Bytes], YES, false),
        known("gpt-4o", &[Split(O200K), Bytes], None, false),
        known("tiny_aya", &[Split(DIGITS_FROM_THE_RIGHT), Split(O200K), Bytes], NO, false),
        known("tekken", &[Split(TEKKEN), Bytes], None, false),
        known("deepseek-v3", &[Split(NUMBERS_BY_THREE), Split(CJK), Split(DEEPSEEK3), Bytes], NO, false),
        known("gpt-2", &[SplitAndBytes], NO, false),
        known("gpt-2", &[Split(GPT2), Bytes], NO, false),
        known("olmo", &[SplitAndBytes], NO, true),
        known("smollm", &[Digits, SplitAndBytes], NO, false),
        known("command-r", &[Digits, SplitAndBytes], NO, true),
        known("falcon", &[PunctuationRuns, SplitAndBytes, DigitRuns, Split("[0-9][0-9][0-9]")], NO, false),
        known("bloom", &[Split(BLOOM), Bytes], NO, false),
    ]
};

const NUMBERS_BY_THREE: &str = r"\p{N}{1,3}";
const DIGITS_FROM_THE_RIGHT: &str = r"\d{1,3}(?=(?:\d{3})*\b)";

/// Pipelines known by the SHA-256 of their expressions, one after the other. Other steps may stand
/// between them; the names were given to exactly one family each.
const KNOWN_BY_DIGEST: &[(&str, &str, bool)] = &[
    ("deepseek-llm", "03df5c5863ad70781dcfdef491ead25140f895fe8010964be0daefe27be32b02", false),
    ("deepseek-coder", "21cde974d587f0d54dc8d56b183cc1e6239600172035c68fbd6d4b9f8da0576e", false),
    ("qwen35", "00431aed57e696b747435f734d1e3b9b1bfd931a121fb5cac7129e97c181e9ba", true),
];

/// What a post-processor puts around a text.
#[derive(Debug, Default)]
pub(super) struct Template {
    pub(super) before: Option<String>,
    /// More special tokens after that one.
    pub(super) then: Vec<String>,
    pub(super) after: Option<String>,
    /// Whether a token stands between two texts that are read together; `None` where nothing says so.
    pub(super) between: Option<bool>,
    /// The post-processor is there, so that what it does not put is not put.
    pub(super) decides: bool,
}

/// Everything around BPE, recognised.
#[derive(Debug)]
pub(super) struct Pipeline {
    /// The value of `tokenizer.ggml.pre`.
    pub(super) pre: &'static str,
    pub(super) ignore_merges: bool,
    pub(super) template: Template,
}

impl Pipeline {
    /// # Errors
    /// A step that is not known, or known ones in a combination that has no name.
    pub(super) fn read(files: &HfTokenizerFiles<'_>, json: &TokenizerJson) -> Result<Pipeline> {
        let refuse = |place: &str, value: &Value| {
            let json = value.to_string();
            files
                .error(TOKENIZER_JSON, place, format!("this {place} is not supported: {}", excerpt(&json)))
                .help("with another one the model would be fed tokens it was not trained on")
        };
        let model = &json.model;
        let nonempty = |text: &Option<String>| text.as_deref().is_some_and(|t| !t.is_empty());
        for (asked, field) in [
            (model.byte_fallback, "byte_fallback"),
            (model.dropout.is_some_and(|d| d != 0.0), "dropout"),
            (nonempty(&model.continuing_subword_prefix), "continuing_subword_prefix"),
            (nonempty(&model.end_of_word_suffix), "end_of_word_suffix"),
        ] {
            if asked {
                let message = format!("`{field}` is not supported");
                return Err(files.error(TOKENIZER_JSON, format!("model.{field}"), message).into());
            }
        }
        let nfc = match parts(&json.normalizer, "normalizers").as_slice() {
            [] => false,
            [only] if kind(only) == "NFC" => true,
            _ => return Err(refuse("normalizer", &json.normalizer).into()),
        };
        if parts(&json.decoder, "decoders").iter().any(|d| kind(d) != "ByteLevel") {
            return Err(refuse("decoder", &json.decoder).into());
        }
        let template =
            template(&json.post_processor).ok_or_else(|| refuse("post_processor", &json.post_processor))?;
        let steps: Option<Vec<Step<'_>>> =
            parts(&json.pre_tokenizer, "pretokenizers").into_iter().map(step).collect();
        let name = steps.as_deref().and_then(|steps| name(steps, model.ignore_merges, nfc));
        let pre = name.ok_or_else(|| unknown(files, json, nfc))?;
        Ok(Pipeline { pre, ignore_merges: model.ignore_merges, template })
    }
}

fn unknown(files: &HfTokenizerFiles<'_>, json: &TokenizerJson, nfc: bool) -> Diagnostic {
    let mut message =
        format!("this pre-tokenizer is not supported: {}", excerpt(&json.pre_tokenizer.to_string()));
    if json.model.ignore_merges {
        message += " with `ignore_merges`";
    }
    if nfc {
        message += " after the normalizer NFC";
    }
    let names: Vec<_> = KNOWN.iter().map(|k| k.pre).collect();
    files
        .error(TOKENIZER_JSON, "pre_tokenizer", message)
        .help(format!("supported are those of {}", names.join(", ")))
        .help("with another one the model would be fed tokens it was not trained on")
}

fn name(steps: &[Step<'_>], ignore_merges: bool, nfc: bool) -> Option<&'static str> {
    let known = KNOWN.iter().find(|k| {
        same(k.steps, steps) && k.ignore_merges.is_none_or(|ignores| ignores == ignore_merges) && k.nfc == nfc
    });
    if let Some(known) = known {
        return Some(known.pre);
    }
    if steps.last() != Some(&Step::Bytes) || ignore_merges {
        return None;
    }
    let mut hash = Sha256::new();
    for step in steps {
        if let Step::Split(expression) = step {
            hash.update(expression.as_bytes());
        }
    }
    let digest: String = hash.finalize().iter().map(|b| format!("{b:02x}")).collect();
    KNOWN_BY_DIGEST.iter().find(|(_, d, n)| *d == digest && *n == nfc).map(|(pre, ..)| *pre)
}

/// The steps of a component: those in its `list` if it is a sequence, itself if it is one step.
pub(super) fn parts<'a>(component: &'a Value, list: &str) -> Vec<&'a Value> {
    match component {
        Value::Null => Vec::new(),
        Value::Object(_) if kind(component) == "Sequence" => {
            match component.get(list).and_then(Value::as_array) {
                Some(steps) => steps.iter().collect(),
                None => vec![component],
            }
        }
        _ => vec![component],
    }
}

pub(super) fn kind(component: &Value) -> &str {
    component.get("type").and_then(Value::as_str).unwrap_or("")
}

fn step(value: &Value) -> Option<Step<'_>> {
    let flag = |name: &str| value.get(name).and_then(Value::as_bool);
    match kind(value) {
        "Split" => {
            let expression = value.get("pattern")?.get("Regex")?.as_str()?;
            // What the expression leaves is a piece, or there is nothing that it leaves.
            let inverted = flag("invert") == Some(true);
            let cuts = match value.get("behavior")?.as_str()? {
                "Isolated" => !inverted,
                "Removed" => inverted && expression.ends_with(r"\s+"),
                _ => false,
            };
            cuts.then_some(Step::Split(expression))
        }
        "Digits" if flag("individual_digits") == Some(true) => Some(Step::Digits),
        "Digits" => Some(Step::DigitRuns),
        "Punctuation" => (value.get("behavior")?.as_str()? == "Contiguous").then_some(Step::PunctuationRuns),
        "ByteLevel" if flag("add_prefix_space") == Some(false) => match flag("use_regex") {
            Some(false) => Some(Step::Bytes),
            Some(true) | None => Some(Step::SplitAndBytes),
        },
        _ => None,
    }
}

fn same(known: &[Step<'_>], steps: &[Step<'_>]) -> bool {
    let same = |(known, step): (&Step<'_>, &Step<'_>)| match (known, step) {
        (Step::Split(known), Step::Split(expression)) => *known == escaped(expression),
        (known, step) => known == step,
    };
    known.len() == steps.len() && known.iter().zip(steps).all(same)
}

/// Newlines in an expression, written as such or as what they are.
fn escaped(expression: &str) -> Cow<'_, str> {
    match expression.contains(['\r', '\n']) {
        true => Cow::Owned(expression.replace('\r', r"\r").replace('\n', r"\n")),
        false => Cow::Borrowed(expression),
    }
}

/// What the post-processor puts around a text; `None` if it does anything else.
pub(super) fn template(post_processor: &Value) -> Option<Template> {
    let mut found = None;
    let mut decides = false;
    for part in parts(post_processor, "processors") {
        match kind(part) {
            // Moves offsets only.
            "ByteLevel" => decides = true,
            "TemplateProcessing" if found.is_none() => {
                let pieces: Option<Vec<Option<&str>>> =
                    part.get("single")?.as_array()?.iter().map(template_piece).collect();
                let mut template = around(&pieces?)?;
                template.between = between(part, &template);
                found = Some(template);
            }
            "RobertaProcessing" | "BertProcessing" if found.is_none() => {
                let of = |field: &str| Some(part.get(field)?.get(0)?.as_str()?.to_owned());
                let (before, after) = (Some(of("cls")?), Some(of("sep")?));
                found = Some(Template { before, after, between: Some(true), ..Template::default() });
            }
            _ => return None,
        }
    }
    Some(Template { decides, ..found.unwrap_or_default() })
}

/// The special tokens around the text, which is there once.
fn around(pieces: &[Option<&str>]) -> Option<Template> {
    let text = pieces.iter().position(Option::is_none)?;
    let (before, after) = (&pieces[..text], &pieces[text + 1..]);
    let mut before = before.iter().map(|piece| piece.map(str::to_owned));
    let mut template = Template { before: before.next().flatten(), ..Template::default() };
    template.then = before.flatten().collect();
    template.after = match after {
        [] => None,
        [after] => Some((*after)?.to_owned()),
        _ => return None,
    };
    Some(template)
}

/// Whether the template of a pair of texts has a separator between them, beside what stands around one text.
fn between(part: &Value, template: &Template) -> Option<bool> {
    let token = |piece: &Value| Some(piece.get("SpecialToken")?.get("id")?.as_str()?.to_owned());
    let is = |piece: &Value, name: &str| {
        piece.get("Sequence").and_then(|s| s.get("id")).and_then(Value::as_str) == Some(name)
    };
    let mut pair = part.get("pair")?.as_array()?.as_slice();
    if let [first, rest @ ..] = pair
        && template.before.is_some()
        && token(first) == template.before
    {
        pair = rest;
    }
    if let [rest @ .., last] = pair
        && template.after.is_some()
        && token(last) == template.after
    {
        pair = rest;
    }
    match pair {
        [a, middle @ .., b] if is(a, "A") && is(b, "B") && !middle.is_empty() => {
            let second = middle.get(1).and_then(token);
            Some(middle.len() == 2 && second.is_some() && second == template.after)
        }
        _ => None,
    }
}

/// A piece of a template: a special token's text, or `Some(None)` for the text itself.
fn template_piece(piece: &Value) -> Option<Option<&str>> {
    match (piece.get("SpecialToken"), piece.get("Sequence")) {
        (Some(token), None) => Some(Some(token.get("id")?.as_str()?)),
        (None, Some(sequence)) => (sequence.get("id")?.as_str()? == "A").then_some(None),
        _ => None,
    }
}

/// JSON for a message: cut if it is long.
pub(super) fn excerpt(json: &str) -> String {
    const MOST: usize = 600;
    match json.char_indices().nth(MOST) {
        Some((at, _)) => format!("{} ... ({} bytes)", &json[..at], json.len()),
        None => json.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn expressions_have_the_digests_that_other_converters_know() {
        let digest = |e: &str| Sha256::digest(e).iter().map(|b| format!("{b:02x}")).collect::<String>();
        assert_eq!(digest(LLAMA3), "d98f9631be1e9607a9848c26c1f9eac1aa9fc21ac6ba82a2fc0741af9780a48f");
        assert_eq!(digest(QWEN2), "1ff7f41064896984db5d1bb6ff64fa4bc29007d08c1b439e505b7392777a319e");
    }

    #[test]
    fn every_known_pipeline_can_be_run() {
        for known in KNOWN {
            let pre = crate::tokenizer::pre_tokenizer::PreTokenizer::from_name(known.pre).unwrap();
            let ignores = known.ignore_merges.unwrap_or(pre.ignore_merges);
            assert_eq!((pre.ignore_merges, pre.nfc), (ignores, known.nfc), "{}", known.pre);
        }
    }

    #[test]
    fn a_pipeline_is_known_as_a_whole() {
        use Step::*;
        assert_eq!(name(&[Split(LLAMA3), Bytes], true, false), Some("llama-bpe"));
        assert_eq!(name(&[Split(LLAMA3), Bytes], true, true), None);
        assert_eq!(name(&[Split(LLAMA3), SplitAndBytes], true, false), None);
        assert_eq!(name(&[Split(QWEN2), Bytes], true, true), None);
        assert_eq!(name(&[], false, false), None);
        assert_eq!(name(&[Bytes], false, false), None);
        let qwen35 =
            QWEN2.replace(r"?\p{L}+", r"?[\p{L}\p{M}]+").replace(r"[^\s\p{L}\p{N}]", r"[^\s\p{L}\p{M}\p{N}]");
        assert_eq!(name(&[Split(&qwen35), Bytes], false, true), Some("qwen35"));
        assert_eq!(name(&[Split(&qwen35), Bytes], false, false), None);
    }
}
