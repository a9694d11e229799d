//! Broken and hostile tokenizers: each is refused, and the message says what and where.
#![allow(clippy::unwrap_used)] // tests' own helpers

use std::path::Path;

use mdl::diagnostic::Result;
use mdl::ir::{Metadata, Value};
use mdl::tokenizer::hf::{HfTokenizerFiles, import};
use mdl::tokenizer::{EncodeOptions, TokenType, Tokenizer};
use serde_json::{Value as Json, json};

/// A whole small tokenizer.
fn small() -> Json {
    json!({
        "added_tokens": [
            {"id": 4, "content": "<s>", "special": true},
            {"id": 5, "content": "<|im_end|>", "special": true},
            {"id": 6, "content": "<think>", "special": false},
        ],
        "normalizer": null,
        "pre_tokenizer": {"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": true},
        "post_processor": null,
        "decoder": {"type": "ByteLevel", "add_prefix_space": true, "trim_offsets": true, "use_regex": true},
        "model": {
            "type": "BPE", "dropout": null, "unk_token": null, "continuing_subword_prefix": null,
            "end_of_word_suffix": null, "fuse_unk": false, "byte_fallback": false, "ignore_merges": false,
            "vocab": {"a": 0, "b": 1, "ab": 2, "Ġ": 3},
            "merges": [["a", "b"]],
        },
    })
}

fn small_config() -> Json {
    json!({"bos_token": "<s>", "eos_token": {"content": "<|im_end|>", "special": true}})
}

struct Files {
    tokenizer: Vec<u8>,
    config: Vec<u8>,
    generation: Vec<u8>,
    template: Option<Vec<u8>>,
    vocab_size: Option<u64>,
}

impl Files {
    fn new() -> Files {
        Files {
            tokenizer: small().to_string().into(),
            config: small_config().to_string().into(),
            generation: b"{}".into(),
            template: None,
            vocab_size: None,
        }
    }

    fn import(&self) -> Result<Metadata> {
        import(&HfTokenizerFiles {
            tokenizer_json: Some(&self.tokenizer),
            tokenizer_config: Some(&self.config),
            generation_config: Some(&self.generation),
            chat_template: self.template.as_deref(),
            vocab_size: self.vocab_size,
            ..HfTokenizerFiles::none(Path::new("model"))
        })
    }
}

/// The small tokenizer with the value at a JSON pointer replaced.
fn tokenizer_with(pointer: &str, value: Json) -> Files {
    let mut json = small();
    match json.pointer_mut(pointer) {
        Some(place) => *place = value,
        None => {
            let (parent, key) = pointer.rsplit_once('/').unwrap();
            json.pointer_mut(parent).unwrap()[key] = value;
        }
    }
    Files { tokenizer: json.to_string().into(), ..Files::new() }
}

fn config_with(key: &str, value: Json) -> Files {
    let mut json = small_config();
    json[key] = value;
    Files { config: json.to_string().into(), ..Files::new() }
}

fn generation(json: &str) -> Files {
    Files { generation: json.into(), ..Files::new() }
}

fn raw(tokenizer: impl Into<Vec<u8>>) -> Files {
    Files { tokenizer: tokenizer.into(), ..Files::new() }
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
fn the_small_tokenizer_is_fine() {
    let metadata = Files { vocab_size: Some(9), ..Files::new() }.import().unwrap();
    let tokenizer = Tokenizer::from_metadata(&metadata).unwrap();
    let options = EncodeOptions { add_special: true, parse_special: true };
    assert_eq!(tokenizer.encode("ab<think>ba<|im_end|>", options), [2, 6, 1, 0, 5]);
    assert_eq!((tokenizer.vocab_size(), tokenizer.token_text(8)), (9, Some("[PAD8]")));
    assert_eq!(tokenizer.token_type(8), Some(TokenType::Unused));
    assert!(tokenizer.encode("[PAD8]", options).iter().all(|&id| id != 8));
    assert!(tokenizer.is_end_of_generation(5));
    assert!(!tokenizer.adds_bos());
}

#[test]
fn what_configures_the_ids_is_read() {
    let has_bos = |files: Files| {
        let tokenizer = Tokenizer::from_metadata(&files.import().unwrap()).unwrap();
        tokenizer.encode("a", EncodeOptions { add_special: true, ..Default::default() })
    };
    let template = |single: Json| json!({"type": "TemplateProcessing", "single": single, "pair": [], "special_tokens": {}});
    let token = |text: &str| json!({"SpecialToken": {"id": text, "type_id": 0}});
    let text = json!({"Sequence": {"id": "A", "type_id": 0}});
    assert_eq!(has_bos(config_with("add_bos_token", json!(true))), [4, 0]);
    assert_eq!(has_bos(config_with("add_eos_token", json!(true))), [0, 5]);
    let both = template(json!([token("<s>"), text, token("<|im_end|>")]));
    assert_eq!(has_bos(tokenizer_with("/post_processor", both.clone())), [4, 0, 5]);
    let mut files = tokenizer_with("/post_processor", both);
    files.config =
        json!({"bos_token": "<s>", "eos_token": "<|im_end|>", "add_bos_token": false}).to_string().into();
    assert_eq!(has_bos(files), [0, 5]);

    let ids = generation(r#"{"bos_token_id": 4, "eos_token_id": [6, 5]}"#).import().unwrap();
    assert_eq!(ids.u64("tokenizer.ggml.eos_token_id"), Some(5));
    assert_eq!(ids.get("tokenizer.ggml.eos_token_ids"), Some(&Value::from(vec![6i32, 5])));
    let mut files = generation(r#"{"bos_token_id": 4, "eos_token_id": 6}"#);
    files.config = b"{}".into();
    let ids = files.import().unwrap();
    assert_eq!(ids.u64("tokenizer.ggml.bos_token_id"), Some(4));
    assert_eq!(ids.u64("tokenizer.ggml.eos_token_id"), Some(6));
    assert_eq!(ids.get("tokenizer.ggml.eos_token_ids"), None);

    let template = |files: Files| files.import().unwrap().str("tokenizer.chat_template").map(str::to_owned);
    assert_eq!(template(config_with("chat_template", json!("x"))).as_deref(), Some("x"));
    let named = json!([{"name": "tool_use", "template": "t"}, {"name": "default", "template": "d"}]);
    assert_eq!(template(config_with("chat_template", named)).as_deref(), Some("d"));
    let mut files = config_with("chat_template", json!("x"));
    files.template = Some(b"from\r\nthe file\n".into());
    assert_eq!(template(files).as_deref(), Some("from\nthe file\n"));
    assert_eq!(template(Files::new()), None);
}

#[test]
fn broken_files_are_refused() {
    let deep = "[".repeat(100_000);
    let split = |regex: &str| json!({"type": "Split", "pattern": {"Regex": regex}, "behavior": "Isolated", "invert": false});
    let bytes =
        json!({"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": false});
    let cases: Vec<(&str, Files)> = vec![
        ("no file", raw("")),
        ("no JSON", raw("hello")),
        ("no UTF-8", raw(b"{\"model\": {\"vocab\": {\"\xff\": 0}}}".to_vec())),
        ("deep", raw(deep.clone())),
        ("deep in a field", raw(format!("{{\"normalizer\": {deep}"))),
        ("no model", raw("{}")),
        (
            "Unigram",
            tokenizer_with("/model", json!({"type": "Unigram", "unk_id": 0, "vocab": [["a", -1.5]]})),
        ),
        ("WordPiece", tokenizer_with("/model/type", json!("WordPiece"))),
        ("vocab is a number", tokenizer_with("/model/vocab", json!(3))),
        ("id is a string", tokenizer_with("/model/vocab/a", json!("0"))),
        ("id below 0", tokenizer_with("/model/vocab/a", json!(-1))),
        ("id 2^31", tokenizer_with("/model/vocab/a", json!(1u64 << 31))),
        ("id 2^63", tokenizer_with("/model/vocab/a", json!(1u64 << 63))),
        ("id twice", tokenizer_with("/model/vocab/a", json!(1))),
        ("token twice", raw(small().to_string().replace(r#""b":1"#, r#""a":1"#))),
        (
            "no tokens",
            raw(
                r#"{"model": {"type": "BPE", "vocab": {}, "merges": []}, "pre_tokenizer": {"type": "ByteLevel", "add_prefix_space": false}}"#,
            ),
        ),
        ("added id 2^31", tokenizer_with("/added_tokens/0/id", json!(1u64 << 31))),
        ("added id is another's", tokenizer_with("/added_tokens/0/id", json!(2))),
        ("added token twice", tokenizer_with("/added_tokens/1/content", json!("<s>"))),
        ("added id twice", tokenizer_with("/added_tokens/1/id", json!(4))),
        ("single_word", tokenizer_with("/added_tokens/0/single_word", json!(true))),
        ("long special token", tokenizer_with("/added_tokens/0/content", json!("x".repeat(5 << 20)))),
        ("merge of one", tokenizer_with("/model/merges", json!(["ab"]))),
        ("merge of three", tokenizer_with("/model/merges", json!([["a", "b", "ab"]]))),
        ("merge of nothing", tokenizer_with("/model/merges", json!([["", "b"]]))),
        ("merge with a space", tokenizer_with("/model/merges", json!([["a b", "b"]]))),
        ("merge is a number", tokenizer_with("/model/merges", json!(["a b", 7]))),
        ("merge of no token", tokenizer_with("/model/merges", json!(["a b", "a c"]))),
        ("merge to no token", tokenizer_with("/model/merges", json!(["a b", "ab a"]))),
        ("merge twice", tokenizer_with("/model/merges", json!(["a b", "a b"]))),
        ("merges are an object", tokenizer_with("/model/merges", json!({}))),
        ("normalizer", tokenizer_with("/normalizer", json!({"type": "Lowercase"}))),
        (
            "normalizer in a sequence",
            tokenizer_with(
                "/normalizer",
                json!({"type": "Sequence", "normalizers": [{"type": "NFC"}, {"type": "StripAccents"}]}),
            ),
        ),
        ("NFKC before GPT-2", tokenizer_with("/normalizer", json!({"type": "NFKC"}))),
        ("no pre-tokenizer", tokenizer_with("/pre_tokenizer", Json::Null)),
        ("prefix space", tokenizer_with("/pre_tokenizer/add_prefix_space", json!(true))),
        (
            "unknown expression",
            tokenizer_with(
                "/pre_tokenizer",
                json!({"type": "Sequence", "pretokenizers": [split(r"(a+)+$"), bytes]}),
            ),
        ),
        ("long expression", tokenizer_with("/pre_tokenizer", split(&"(a|b)+".repeat(500)))),
        ("ignore_merges", tokenizer_with("/model/ignore_merges", json!(true))),
        (
            "post-processor",
            tokenizer_with(
                "/post_processor",
                json!({"type": "RobertaProcessing", "sep": ["</s>", 2], "cls": ["<s>", 0]}),
            ),
        ),
        (
            "template without text",
            tokenizer_with("/post_processor", json!({"type": "TemplateProcessing", "single": []})),
        ),
        (
            "template of another token",
            tokenizer_with(
                "/post_processor",
                json!({"type": "TemplateProcessing", "single": [{"SpecialToken": {"id": "<think>", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}]}),
            ),
        ),
        ("template of no token", {
            let mut files = tokenizer_with(
                "/post_processor",
                json!({"type": "TemplateProcessing", "single": [{"SpecialToken": {"id": "<bos>", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}]}),
            );
            files.config = b"{}".into();
            files
        }),
        ("decoder", tokenizer_with("/decoder", json!({"type": "Metaspace"}))),
        ("byte_fallback", tokenizer_with("/model/byte_fallback", json!(true))),
        ("dropout", tokenizer_with("/model/dropout", json!(0.1))),
        ("prefix", tokenizer_with("/model/continuing_subword_prefix", json!("##"))),
        ("unk_token", tokenizer_with("/model/unk_token", json!("<s>"))),
        ("vocab_size 2^40", Files { vocab_size: Some(1 << 40), ..Files::new() }),
        ("vocab_size 2^64-1", Files { vocab_size: Some(u64::MAX), ..Files::new() }),
        ("config is a list", Files { config: b"[]".into(), ..Files::new() }),
        ("config is cut", Files { config: b"{\"bos".into(), ..Files::new() }),
        ("bos_token is a number", config_with("bos_token", json!(1))),
        ("bos_token is no token", config_with("bos_token", json!("<bos>"))),
        ("add_bos_token is a string", config_with("add_bos_token", json!("true"))),
        ("add_bos_token without bos", Files { config: br#"{"add_bos_token": true}"#.into(), ..Files::new() }),
        ("chat_template is a number", config_with("chat_template", json!(1))),
        ("chat_template without a template", config_with("chat_template", json!([{"name": "default"}]))),
        ("chat template is no UTF-8", Files { template: Some(b"ab\xff".into()), ..Files::new() }),
        ("eos id out of range", generation(r#"{"eos_token_id": [5, 7]}"#)),
        ("eos id 2^31", generation(r#"{"eos_token_id": 2147483648}"#)),
        ("eos id is a string", generation(r#"{"eos_token_id": "5"}"#)),
    ];
    let mut messages = String::new();
    for (name, files) in cases {
        let error = files.import().err().unwrap_or_else(|| panic!("{name} is accepted"));
        assert_eq!(error.exit_code(), 1);
        messages += &format!("{name}\n    {error}\n");
    }
    snapshot!("tokenizer_broken_files", messages);
}

#[test]
fn a_file_cut_anywhere_is_refused() {
    let whole = Files::new().tokenizer;
    for len in 0..whole.len() {
        assert!(raw(&whole[..len]).import().is_err(), "{len} of {} bytes are accepted", whole.len());
    }
}

#[test]
fn broken_metadata_is_refused() {
    let strings = |texts: &[&str]| Value::from(texts.iter().map(|t| t.to_string()).collect::<Vec<_>>());
    let cases: Vec<(&str, Option<Value>)> = vec![
        ("model", None),
        ("model", Some("llama".into())),
        ("model", Some(7u32.into())),
        ("pre", Some("gpt-5".into())),
        ("pre", Some("x\n".repeat(1000).into())),
        ("tokens", None),
        ("tokens", Some(strings(&[]))),
        ("tokens", Some(vec![1u32].into())),
        ("tokens", Some(strings(&["a", "a", "ab", "Ġ", "<s>", "<|im_end|>", "<think>"]))),
        ("token_type", Some(vec![1i32; 6].into())),
        ("token_type", Some(vec![1i32, 1, 1, 1, 3, -1, 4].into())),
        ("token_type", Some(vec![1u8, 1, 1, 1, 3, 7, 4].into())),
        ("token_type", Some(vec![1.0f32; 7].into())),
        ("merges", None),
        ("merges", Some(strings(&["a b", "b ab"]))),
        ("bos_token_id", Some(7u32.into())),
        ("bos_token_id", Some((1u32 << 31).into())),
        ("bos_token_id", Some((-1i32).into())),
        ("bos_token_id", Some("4".into())),
        ("eos_token_id", Some(u64::MAX.into())),
        ("eot_token_id", Some(99u32.into())),
        ("eos_token_ids", Some(vec![5i32, -5].into())),
        ("eos_token_ids", Some(5u32.into())),
        ("add_bos_token", Some(1u32.into())),
        ("bos_token_id", None),
    ];
    let mut messages = String::new();
    for (key, value) in cases {
        let mut metadata = Files::new().import().unwrap();
        metadata.set("tokenizer.ggml.add_bos_token", true);
        let key = format!("tokenizer.ggml.{key}");
        match value {
            Some(value) => metadata.set(key, value),
            None => drop(metadata.remove(&key)),
        }
        messages += &format!("{}\n", Tokenizer::from_metadata(&metadata).unwrap_err());
    }
    snapshot!("tokenizer_broken_metadata", messages);
}

#[test]
fn no_merges_and_missing_bytes_are_no_error() {
    let mut metadata = Files::new().import().unwrap();
    // Nothing in an empty array says of which type it is.
    metadata.set("tokenizer.ggml.merges", Value::from(Vec::<u8>::new()));
    let tokenizer = Tokenizer::from_metadata(&metadata).unwrap();
    assert_eq!(tokenizer.encode("ab cé", EncodeOptions::default()), [0, 1, 3]);
}
