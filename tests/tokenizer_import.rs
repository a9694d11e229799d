//! Every kind of tokenizer file, imported: its texts take the tokens that its own library gives them.
#![allow(clippy::unwrap_used)] // tests' own helpers

use std::path::{Path, PathBuf};

use mdl::formats::gguf::Gguf;
use mdl::ir::{Array, Metadata, Value};
use mdl::tokenizer::hf::{HfTokenizerFiles, import};
use mdl::tokenizer::{EncodeOptions, TokenType, Tokenizer};
use mdl::world::{SystemWorld, World};
use serde_json::{Value as Json, json};

const PLAIN: EncodeOptions = EncodeOptions { add_special: false, parse_special: false };
const PARSED: EncodeOptions = EncodeOptions { add_special: false, parse_special: true };
const WHOLE: EncodeOptions = EncodeOptions { add_special: true, parse_special: true };

fn testdata() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("testdata/tokenizer")
}

fn bytes(name: &str) -> Vec<u8> {
    std::fs::read(testdata().join(name)).unwrap()
}

fn texts() -> Vec<String> {
    let texts: Vec<String> = serde_json::from_slice(&bytes("texts.json")).unwrap();
    assert!(texts.len() >= 2000);
    texts
}

fn none() -> HfTokenizerFiles<'static> {
    HfTokenizerFiles::none(Path::new("model"))
}

fn tokenizer(files: &HfTokenizerFiles<'_>) -> Tokenizer {
    Tokenizer::from_metadata(&import(files).unwrap()).unwrap()
}

/// Compares every text; says how many there were and which are different.
fn compare(
    name: &str,
    encode: impl Fn(&str) -> Vec<u32>,
    expected: impl Fn(usize, &str) -> Vec<u32>,
) -> Vec<String> {
    let texts = texts();
    let mut different = Vec::new();
    for (at, text) in texts.iter().enumerate() {
        let (ours, theirs) = (encode(text), expected(at, text));
        if ours != theirs {
            different.push(format!("{text:?}\n    {ours:?}\n    {theirs:?}"));
        }
    }
    println!("{name}: {} texts, {} different", texts.len(), different.len());
    different
}

fn stored(name: &str) -> Vec<Vec<u32>> {
    let text = String::from_utf8(bytes(name)).unwrap();
    let ids = |line: &str| line.split_whitespace().map(|id| id.parse().unwrap()).collect();
    text.lines().map(ids).collect()
}

/// Metadata as a person would want it listed.
fn listing(metadata: &Metadata) -> String {
    let line = |(key, value): (&str, &Value)| match value {
        Value::Array(Array::String(v)) if v.len() > 8 => {
            let v: Vec<&str> = v.iter().collect();
            format!("{key}: {} strings, {:?} ... {:?}\n", v.len(), &v[..8], &v[v.len() - 4..])
        }
        Value::Array(Array::I32(v)) if v.len() > 8 => {
            format!("{key}: {} i32, {:?} ... {:?}\n", v.len(), &v[..8], &v[v.len() - 8..])
        }
        Value::Array(Array::F32(v)) if v.len() > 8 => {
            format!("{key}: {} f32, {:?} ... {:?}\n", v.len(), &v[..8], &v[v.len() - 4..])
        }
        Value::Array(v) if v.len() > 8 => format!("{key}: {} {:?}\n", v.len(), v.element_type()),
        value => format!("{key}: {value:?}\n"),
    };
    metadata.iter().map(line).collect()
}

macro_rules! snapshot {
    ($name:literal, $value:expr) => {
        insta::with_settings!({
            snapshot_path => concat!(env!("CARGO_MANIFEST_DIR"), "/snapshots"),
            prepend_module_to_snapshot => false,
            omit_expression => true,
        }, { insta::assert_snapshot!($name, $value) })
    };
}

#[test]
fn sentencepiece_models_take_the_tokens_of_sentencepiece() {
    for name in ["bpe", "uni"] {
        let model = bytes(&format!("sentencepiece/{name}.model"));
        let ours = tokenizer(&HfTokenizerFiles { tokenizer_model: Some(&model), ..none() });
        let ids = stored(&format!("sentencepiece/{name}.ids"));
        let different = compare(name, |text| ours.encode(text, PLAIN), |at, _| ids[at].clone());
        assert!(different.is_empty(), "{}", different[..different.len().min(20)].join("\n"));
    }
}

/// The library on the same `tokenizer.json`, with special tokens or with their texts as plain ones.
fn library(json: &[u8]) -> (tokenizers::Tokenizer, tokenizers::Tokenizer) {
    let parsed = tokenizers::Tokenizer::from_bytes(json).unwrap();
    let mut plain = parsed.clone();
    plain.set_encode_special_tokens(true);
    (parsed, plain)
}

fn library_ids(library: &tokenizers::Tokenizer, text: &str, special: bool) -> Vec<u32> {
    library.encode_fast(text, special).unwrap().get_ids().to_vec()
}

#[test]
fn merges_over_characters_take_the_tokens_of_the_library() {
    let json = bytes("sentencepiece/bpe.json");
    let config = br#"{"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"}"#;
    let files = HfTokenizerFiles { tokenizer_json: Some(&json), tokenizer_config: Some(config), ..none() };
    let ours = tokenizer(&files);
    let (parsed, plain) = library(&json);
    for (name, options, theirs) in [("plain", PLAIN, &plain), ("parsed", PARSED, &parsed)] {
        let encode = |text: &str| ours.encode(text, options);
        let different = compare(name, encode, |_, text| library_ids(theirs, text, false));
        assert!(different.is_empty(), "{}", different[..different.len().min(20)].join("\n"));
    }
}

#[test]
fn unigram_takes_the_tokens_of_the_library() {
    let json = bytes("sentencepiece/uni.json");
    let config = br#"{"eos_token": "</s>", "unk_token": "<unk>", "pad_token": "<pad>"}"#;
    let files = HfTokenizerFiles { tokenizer_json: Some(&json), tokenizer_config: Some(config), ..none() };
    let ours = tokenizer(&files);
    let (parsed, _) = library(&json);
    let encode = |text: &str| ours.encode(text, WHOLE);
    let different = compare("unigram", encode, |_, text| library_ids(&parsed, text, true));
    // SentencePiece itself gives the tokens that are given here; the library maps a letter and the marks after it
    // as one, and cuts at U+0085 too.
    let marks = fancy_regex::Regex::new(r"\\u\{(3[0-9a-f]{2}|957|85|200d|fe0f)\}").unwrap();
    assert!(different.iter().all(|d| marks.is_match(d).unwrap()), "{}", different.join("\n"));
    assert!(different.len() <= 12, "{}", different.len());
}

/// A small WordPiece model: BERT's own, cut down to the texts.
fn wordpiece() -> (Vec<String>, Json) {
    let path = testdata().join("vocabularies/bert-bge.gguf");
    let gguf = Gguf::read(&path, &*SystemWorld.open(&path).unwrap()).unwrap();
    let tokens = gguf.metadata.array("tokenizer.ggml.tokens").unwrap().as_strings().unwrap();
    let types = match gguf.metadata.array("tokenizer.ggml.token_type").unwrap() {
        Array::I32(types) => types.clone(),
        other => panic!("{other:?}"),
    };
    let tokens: Vec<String> = tokens
        .iter()
        .zip(&types)
        .map(|(token, kind)| match (token.strip_prefix('▁'), kind) {
            (_, 3) => token.to_owned(),
            (Some(word), _) => word.to_owned(),
            (None, _) => format!("##{token}"),
        })
        .collect();
    let id = |text: &str| tokens.iter().position(|t| t == text).unwrap();
    let vocab: serde_json::Map<_, _> =
        tokens.iter().enumerate().map(|(id, token)| (token.clone(), json!(id))).collect();
    let special = ["[UNK]", "[CLS]", "[SEP]", "[PAD]", "[MASK]"].map(|text| {
        json!({"id": id(text), "content": text, "special": true, "lstrip": text == "[MASK]", "rstrip": false,
            "normalized": false, "single_word": false})
    });
    let json = json!({
        "added_tokens": special,
        "normalizer": {"type": "BertNormalizer", "clean_text": true, "handle_chinese_chars": true,
            "strip_accents": null, "lowercase": true},
        "pre_tokenizer": {"type": "BertPreTokenizer"},
        "post_processor": {"type": "TemplateProcessing",
            "single": [{"SpecialToken": {"id": "[CLS]", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}},
                {"SpecialToken": {"id": "[SEP]", "type_id": 0}}],
            "pair": [{"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 1}}],
            "special_tokens": {
                "[CLS]": {"id": "[CLS]", "ids": [id("[CLS]")], "tokens": ["[CLS]"]},
                "[SEP]": {"id": "[SEP]", "ids": [id("[SEP]")], "tokens": ["[SEP]"]}}},
        "decoder": {"type": "WordPiece", "prefix": "##", "cleanup": true},
        "model": {"type": "WordPiece", "unk_token": "[UNK]", "continuing_subword_prefix": "##",
            "max_input_chars_per_word": 100, "vocab": vocab},
    });
    (tokens, json)
}

const BERT_CONFIG: &[u8] = br#"{"unk_token": "[UNK]", "sep_token": "[SEP]", "pad_token": "[PAD]",
    "cls_token": "[CLS]", "mask_token": "[MASK]", "do_lower_case": true}"#;

#[test]
fn wordpiece_takes_the_tokens_of_the_library() {
    for (lowercase, strip_accents) in [(true, Json::Null), (false, Json::Null), (true, json!(false))] {
        let (_, mut json) = wordpiece();
        json["normalizer"]["lowercase"] = json!(lowercase);
        json["normalizer"]["strip_accents"] = strip_accents;
        let json = serde_json::to_vec(&json).unwrap();
        let files =
            HfTokenizerFiles { tokenizer_json: Some(&json), tokenizer_config: Some(BERT_CONFIG), ..none() };
        let ours = tokenizer(&files);
        let (parsed, _) = library(&json);
        let encode = |text: &str| ours.encode(text, WHOLE);
        let different = compare("wordpiece", encode, |_, text| library_ids(&parsed, text, true));
        assert!(different.is_empty(), "{}", different[..different.len().min(20)].join("\n"));
    }
}

#[test]
fn a_list_of_words_is_the_same_tokenizer() {
    let (tokens, json) = wordpiece();
    let json = serde_json::to_vec(&json).unwrap();
    let text = tokens.join("\n") + "\n";
    let config = Some(BERT_CONFIG);
    let from_json =
        import(&HfTokenizerFiles { tokenizer_json: Some(&json), tokenizer_config: config, ..none() });
    let from_text =
        import(&HfTokenizerFiles { vocab_txt: Some(text.as_bytes()), tokenizer_config: config, ..none() });
    let mut from_json = from_json.unwrap();
    // A line cannot say what a token does to the white space beside it.
    assert!(from_json.remove("mdl.tokenizer.lstrip_token_ids").is_some());
    assert_eq!(listing(&from_json), listing(&from_text.unwrap()));
}

#[test]
fn the_old_files_of_byte_level_bpe_are_the_same_tokenizer() {
    let json: Json =
        serde_json::from_slice(include_bytes!("../testdata/storyteller/tokenizer.json")).unwrap();
    let vocab = serde_json::to_vec(&json["model"]["vocab"]).unwrap();
    let mut merges = String::from("#version: 0.2\n");
    for merge in json["model"]["merges"].as_array().unwrap() {
        match merge.as_array() {
            Some(pair) => merges += &format!("{} {}\n", pair[0].as_str().unwrap(), pair[1].as_str().unwrap()),
            None => merges += &format!("{}\n", merge.as_str().unwrap()),
        }
    }
    let added: serde_json::Map<_, _> = json["added_tokens"]
        .as_array()
        .unwrap()
        .iter()
        .map(|token| (token["content"].as_str().unwrap().to_owned(), token["id"].clone()))
        .collect();
    let added = serde_json::to_vec(&added).unwrap();
    let config: &[u8] = include_bytes!("../testdata/storyteller/tokenizer_config.json");
    let files = HfTokenizerFiles {
        vocab_json: Some(&vocab),
        merges_txt: Some(merges.as_bytes()),
        added_tokens: Some(&added),
        tokenizer_config: Some(config),
        pre_hint: Some("llama-bpe"),
        ..none()
    };
    let old = tokenizer(&files);
    let json: &[u8] = include_bytes!("../testdata/storyteller/tokenizer.json");
    let new =
        tokenizer(&HfTokenizerFiles { tokenizer_json: Some(json), tokenizer_config: Some(config), ..none() });
    let different = compare("old files", |text| old.encode(text, PARSED), |_, text| new.encode(text, PARSED));
    assert!(different.is_empty(), "{}", different.join("\n"));
    // Whoever gives no hint gets GPT-2's way.
    let metadata = import(&HfTokenizerFiles { pre_hint: None, ..files }).unwrap();
    assert_eq!(metadata.str("tokenizer.ggml.pre"), Some("gpt-2"));
    assert!(import(&HfTokenizerFiles { pre_hint: Some("gpt-5"), ..files }).is_err());
}

#[test]
fn the_keys_that_each_kind_writes() {
    let (bpe, uni) = (bytes("sentencepiece/bpe.model"), bytes("sentencepiece/uni.model"));
    let (bpe_json, uni_json) = (bytes("sentencepiece/bpe.json"), bytes("sentencepiece/uni.json"));
    let bert = serde_json::to_vec(&wordpiece().1).unwrap();
    let llama = br#"{"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>", "added_tokens_decoder": {
        "0": {"content": "<unk>", "special": true}, "2": {"content": "</s>", "special": true},
        "2000": {"content": "<|tool|>", "special": false}, "2001": {"content": "\u2581\u2581word", "rstrip": true},
        "9999": {"content": "<beyond>", "special": true}}}"#;
    let t5 = br#"{"eos_token": "</s>", "unk_token": "<unk>", "pad_token": "<pad>"}"#;
    let cases = [
        ("tokenizer.model, BPE", HfTokenizerFiles { tokenizer_model: Some(&bpe), ..none() }),
        (
            "tokenizer.model, BPE, with added tokens and room for more",
            HfTokenizerFiles {
                tokenizer_model: Some(&bpe),
                tokenizer_config: Some(llama),
                added_tokens: Some(br#"{"<extra>": 2002}"#),
                vocab_size: Some(2005),
                ..none()
            },
        ),
        (
            "tokenizer.json, BPE over characters",
            HfTokenizerFiles { tokenizer_json: Some(&bpe_json), tokenizer_config: Some(llama), ..none() },
        ),
        (
            "tokenizer.model, Unigram",
            HfTokenizerFiles { tokenizer_model: Some(&uni), tokenizer_config: Some(t5), ..none() },
        ),
        (
            "tokenizer.json, Unigram",
            HfTokenizerFiles { tokenizer_json: Some(&uni_json), tokenizer_config: Some(t5), ..none() },
        ),
        (
            "tokenizer.json, WordPiece",
            HfTokenizerFiles { tokenizer_json: Some(&bert), tokenizer_config: Some(BERT_CONFIG), ..none() },
        ),
    ];
    let mut all = String::new();
    for (name, files) in cases {
        let metadata = import(&files).unwrap();
        Tokenizer::from_metadata(&metadata).unwrap();
        all += &format!("== {name}\n{}\n", listing(&metadata));
    }
    snapshot!("tokenizer_import_keys", all);
}

#[test]
fn broken_sentencepiece_models_are_refused() {
    let model = bytes("sentencepiece/bpe.model");
    let import = |model: &[u8]| import(&HfTokenizerFiles { tokenizer_model: Some(model), ..none() });
    for len in (0..model.len()).step_by(97) {
        // Cut anywhere it has no type, or it is cut within a piece.
        if let Ok(metadata) = import(&model[..len]) {
            assert_eq!(metadata.str("tokenizer.ggml.model"), Some("t5"), "{len}");
        }
    }
    let mut messages = String::new();
    for bytes in [
        &b""[..],
        b"\x0A\xFF\xFF\xFF\xFF\xFF\xFF\xFF\xFF\xFF\x01",
        b"{}",
        b"\x0A\x03\x0A\x01\xFF",
        b"\x0A\x02\x18\x09",
    ] {
        messages += &format!("{}\n", import(bytes).unwrap_err());
    }
    snapshot!("tokenizer_broken_sentencepiece", messages);
}

/// Long runs in every kind of vocabulary: quadratic time would be minutes for each.
#[test]
fn a_mebibyte_of_anything_takes_seconds() {
    let (bpe, uni) = (bytes("sentencepiece/bpe.model"), bytes("sentencepiece/uni.model"));
    let bert = serde_json::to_vec(&wordpiece().1).unwrap();
    let tokenizers = [
        ("bpe", tokenizer(&HfTokenizerFiles { tokenizer_model: Some(&bpe), ..none() })),
        ("unigram", tokenizer(&HfTokenizerFiles { tokenizer_model: Some(&uni), ..none() })),
        (
            "wordpiece",
            tokenizer(&HfTokenizerFiles {
                tokenizer_json: Some(&bert),
                tokenizer_config: Some(BERT_CONFIG),
                ..none()
            }),
        ),
    ];
    for (name, tokenizer) in tokenizers {
        for unit in ["a", " ", "日", "\u{301}", "▁", "<|im_start|>", "a "] {
            let text = unit.repeat((1 << 18) / unit.len());
            let start = std::time::Instant::now();
            let ids = tokenizer.encode(&text, PARSED);
            assert!(start.elapsed().as_secs() < 20, "{name} {unit:?} took {:?}", start.elapsed());
            assert!(ids.len() <= text.len() + 1);
        }
    }
}

#[test]
fn texts_come_back_and_never_as_control_tokens() {
    let model = bytes("sentencepiece/bpe.model");
    let tokenizer = tokenizer(&HfTokenizerFiles { tokenizer_model: Some(&model), ..none() });
    for text in texts() {
        let ids = tokenizer.encode(&text, PLAIN);
        // A literal U+2581 is a space to SentencePiece, and a text may begin with a special one.
        if !text.contains('▁') && !text.starts_with(['<', '[']) {
            assert_eq!(tokenizer.decode(&ids), text, "{ids:?}");
        }
        assert!(ids.iter().all(|&id| tokenizer.token_type(id) != Some(TokenType::Control)), "{text:?}");
    }
}
