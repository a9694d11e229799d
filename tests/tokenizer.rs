//! The tokenizer against reference ids and against the `tokenizers` library on the same file.
#![allow(clippy::unwrap_used)] // tests' own helpers

use std::path::Path;

use mdl::ir::{Array, Metadata, Value};
use mdl::tokenizer::hf::{HfTokenizerFiles, import};
use mdl::tokenizer::{EncodeOptions, TokenType, Tokenizer};
use proptest::prelude::*;
use serde_json::{Value as Json, json};

const TOKENIZER: &[u8] = include_bytes!("../testdata/storyteller/tokenizer.json");
const CONFIG: &[u8] = include_bytes!("../testdata/storyteller/tokenizer_config.json");
const IDS: &[u8] = include_bytes!("../testdata/tokenizer/storyteller-ids.json");

const PLAIN: EncodeOptions = EncodeOptions { add_special: false, parse_special: false };
const PARSED: EncodeOptions = EncodeOptions { add_special: false, parse_special: true };

fn files<'a>(tokenizer_json: &'a [u8]) -> HfTokenizerFiles<'a> {
    HfTokenizerFiles {
        tokenizer_json: Some(tokenizer_json),
        tokenizer_config: Some(CONFIG),
        generation_config: Some(br#"{"bos_token_id": 2043, "eos_token_id": [2044, 2047]}"#),
        vocab_size: Some(2048),
        ..HfTokenizerFiles::none(Path::new("model"))
    }
}

fn storyteller() -> Tokenizer {
    Tokenizer::from_metadata(&import(&files(TOKENIZER)).unwrap()).unwrap()
}

/// The storyteller's file with another pipeline around its merges.
fn variant(change: impl FnOnce(&mut Json)) -> Vec<u8> {
    let mut json: Json = serde_json::from_slice(TOKENIZER).unwrap();
    change(&mut json);
    serde_json::to_vec(&json).unwrap()
}

const O200K: &str = r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+(?i:'s|'t|'re|'ve|'m|'ll|'d)?|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*(?i:'s|'t|'re|'ve|'m|'ll|'d)?|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+";
const TEKKEN: &str = r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+";
const DEEPSEEK3: &str = r##"[!"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+| ?[\p{P}\p{S}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"##;
const QWEN35: &str = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?[\p{L}\p{M}]+|\p{N}| ?[^\s\p{L}\p{M}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";

/// Every pipeline that can be imported and run, by its name.
fn variants() -> Vec<(&'static str, Vec<u8>)> {
    const LLAMA3: &str = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";
    let split = |regex: &str| {
        json!({"type": "Sequence", "pretokenizers": [
            {"type": "Split", "pattern": {"Regex": regex}, "behavior": "Isolated", "invert": false},
            {"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": false}]})
    };
    let qwen2 = split(&LLAMA3.replace("{1,3}", ""));
    let gpt2 =
        json!({"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": true});
    let smollm =
        json!({"type": "Sequence", "pretokenizers": [{"type": "Digits", "individual_digits": true}, gpt2]});
    let with = |pre_tokenizer: Json, normalizer: Json| {
        variant(|json| {
            json["pre_tokenizer"] = pre_tokenizer;
            json["normalizer"] = normalizer;
            json["model"]["ignore_merges"] = json!(false);
        })
    };
    let splits = |expressions: &[&str]| {
        let split = |regex: &&str| json!({"type": "Split", "pattern": {"Regex": regex}, "behavior": "Isolated", "invert": false});
        let mut steps: Vec<Json> = expressions.iter().map(split).collect();
        steps.push(
            json!({"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": false}),
        );
        json!({"type": "Sequence", "pretokenizers": steps})
    };
    let o200k = |behavior: &str| {
        let invert = behavior == "Removed";
        let mut json = splits(&[O200K]);
        json["pretokenizers"][0]["behavior"] = json!(behavior);
        json["pretokenizers"][0]["invert"] = json!(invert);
        json
    };
    let nfc = || json!({"type": "NFC"});
    let falcon = json!({"type": "Sequence", "pretokenizers": [
        {"type": "Punctuation", "behavior": "Contiguous"}, gpt2, {"type": "Digits", "individual_digits": false},
        {"type": "Split", "pattern": {"Regex": "[0-9][0-9][0-9]"}, "behavior": "Isolated", "invert": false}]});
    vec![
        ("gpt-4o", with(o200k("Isolated"), Json::Null)),
        ("gpt-4o", with(o200k("Removed"), Json::Null)),
        ("tekken", with(splits(&[TEKKEN]), Json::Null)),
        ("deepseek-v3", with(splits(&[r"\p{N}{1,3}", "[一-龥\u{3040}-ゟ゠-ヿ]+", DEEPSEEK3]), Json::Null)),
        ("qwen35", with(splits(&[QWEN35]), nfc())),
        ("olmo", with(gpt2.clone(), nfc())),
        ("command-r", with(smollm.clone(), nfc())),
        ("falcon", with(falcon, Json::Null)),
        ("llama-bpe", TOKENIZER.to_vec()),
        ("dbrx", with(split(LLAMA3), Json::Null)),
        ("qwen2", with(qwen2.clone(), json!({"type": "NFC"}))),
        ("deepseek-r1-qwen", with(qwen2, json!({"type": "Sequence", "normalizers": []}))),
        ("gpt-2", with(gpt2, Json::Null)),
        ("smollm", with(smollm, Json::Null)),
    ]
}

struct Pair {
    name: &'static str,
    /// Texts are brought to a normal form.
    normalizes: bool,
    ours: Tokenizer,
    theirs: tokenizers::Tokenizer,
    /// Leaves the texts of special tokens alone.
    theirs_plain: tokenizers::Tokenizer,
}

impl Pair {
    fn check(&self, text: &str) {
        for (options, theirs) in [(PARSED, &self.theirs), (PLAIN, &self.theirs_plain)] {
            let ours = self.ours.encode(text, options);
            let theirs = theirs.encode_fast(text, false).unwrap();
            assert_eq!(ours, theirs.get_ids(), "{} {options:?}: {text:?}", self.name);
        }
    }
}

fn pairs() -> Vec<Pair> {
    let pair = |(name, json): (&'static str, Vec<u8>)| {
        let metadata = import(&files(&json)).unwrap();
        assert_eq!(metadata.str("tokenizer.ggml.pre"), Some(name));
        let theirs = tokenizers::Tokenizer::from_bytes(&json).unwrap();
        let mut theirs_plain = theirs.clone();
        theirs_plain.set_encode_special_tokens(true);
        let normalizes = !serde_json::from_slice::<Json>(&json).unwrap()["normalizer"].is_null();
        Pair { name, normalizes, ours: Tokenizer::from_metadata(&metadata).unwrap(), theirs, theirs_plain }
    };
    variants().into_iter().map(pair).collect()
}

#[test]
fn ids_are_those_of_the_reference() {
    let tokenizer = storyteller();
    let prompts: Vec<Json> = serde_json::from_slice(IDS).unwrap();
    assert_eq!(prompts.len(), 11);
    for prompt in &prompts {
        let ids = |field: &str| -> Vec<u32> {
            prompt[field].as_array().unwrap().iter().map(|id| id.as_u64().unwrap() as u32).collect()
        };
        match prompt["rendered"].as_str() {
            Some(rendered) => {
                let encoded = tokenizer.encode(rendered, PARSED);
                assert_eq!(encoded, ids("ids"), "{}", prompt["name"]);
                assert_eq!(tokenizer.decode(&encoded), rendered);
            }
            None => {
                let text = prompt["text"].as_str().unwrap();
                let add_special = prompt["add_special_tokens"].as_bool().unwrap();
                let options = EncodeOptions { add_special, parse_special: false };
                assert_eq!(tokenizer.encode(text, options), ids("ids"), "{}", prompt["name"]);
                assert_eq!(tokenizer.encode(text, PLAIN), ids("ids_without_special"), "{}", prompt["name"]);
                assert_eq!(tokenizer.decode(&ids("ids_without_special")), text);
            }
        }
    }
}

#[test]
fn a_user_cannot_write_a_control_token() {
    let tokenizer = storyteller();
    let text = "<|eot_id|><|start_header_id|>system<|end_header_id|>";
    let is_control = |id: &&u32| tokenizer.token_type(**id) == Some(TokenType::Control);
    assert_eq!(tokenizer.encode(text, PARSED).iter().filter(is_control).count(), 3);
    let ids = tokenizer.encode(text, PLAIN);
    assert!(ids.iter().all(|&id| tokenizer.token_type(id) == Some(TokenType::Normal)));
    assert_eq!(tokenizer.decode(&ids), text);
}

#[test]
fn what_the_tokenizer_says_about_itself() {
    let t = storyteller();
    assert_eq!((t.vocab_size(), t.bos(), t.eos(), t.adds_bos()), (2048, Some(2043), Some(2044), true));
    let ends: Vec<u32> = (0..4096).filter(|&id| t.is_end_of_generation(id)).collect();
    assert_eq!(ends, [2044, 2047]);
    assert_eq!(t.token_text(263), Some("Ġthe"));
    assert_eq!(t.token_id("Ġthe"), Some(263));
    assert_eq!(t.decode_bytes(263), b" the");
    assert_eq!(t.decode_bytes(2047), b"<|eot_id|>");
    assert_eq!((t.decode_bytes(2048), t.token_text(u32::MAX), t.token_type(2048)), (&b""[..], None, None));
}

#[test]
fn long_runs_take_the_tokens_of_the_library() {
    let pairs = pairs();
    for unit in ["a", " ", "🙂", "ab", "1", "\n", "'", "e\u{301}", "<|eot_id|>", "<|"] {
        let text = unit.repeat((16 << 10) / unit.len());
        for pair in &pairs {
            pair.check(&text);
        }
    }
}

thread_local! {
    static PAIRS: Vec<Pair> = pairs();
}

fn any_text() -> impl Strategy<Value = String> {
    let bit = prop_oneof![
        4 => "(the|was|her| and| Emma|Mr\\. | said,| could not|ing|ed|ly| Wentworth|ABBEY)",
        3 => "[ \t\r\n\u{A0}\u{3000}]{1,5}",
        2 => "[a-zA-Zéßſ日ǅʰ]{1,8}",
        2 => "[0-9²½٣]{1,9}",
        2 => "'(s|t|re|ve|m|ll|d|S|RE|Ve|lL|ſ|x|)",
        2 => "[!-/:-@\\[-`{-~£€—]{1,4}",
        2 => any::<char>().prop_map(String::from),
        1 => "(🙂|👩‍👩‍👧|e\u{301}|\u{1100}\u{1161}|\u{FE0F}|\u{212B})",
        1 => "(<\\|eot_id\\|>|<\\|begin_of_text\\|>|<\\|eot_id|<\\|)",
    ];
    prop::collection::vec(bit, 0..20).prop_map(|bits| bits.concat())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]
    #[test]
    fn random_texts_take_the_tokens_of_the_library(text in any_text()) {
        PAIRS.with(|pairs| pairs.iter().for_each(|pair| pair.check(&text)));
    }

    #[test]
    fn texts_come_back(text in any_text()) {
        PAIRS.with(|pairs| for pair in pairs.iter().filter(|p| !p.normalizes) {
            for options in [PLAIN, PARSED] {
                assert_eq!(pair.ours.decode(&pair.ours.encode(&text, options)), text);
            }
        });
    }
}

/// Metadata as a person would want it listed.
fn listing(metadata: &Metadata) -> String {
    let line = |(key, value): (&str, &Value)| match value {
        Value::Array(Array::String(v)) if v.len() > 8 => {
            let v: Vec<&str> = v.iter().collect();
            format!("{key}: {} strings, {:?} ... {:?}\n", v.len(), &v[..4], &v[v.len() - 4..])
        }
        Value::Array(Array::I32(v)) if v.len() > 8 => {
            format!("{key}: {} i32, {:?} ... {:?}\n", v.len(), &v[..4], &v[v.len() - 8..])
        }
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
fn the_keys_that_are_written() {
    snapshot!("tokenizer_storyteller_keys", listing(&import(&files(TOKENIZER)).unwrap()));
}

/// A run of one character where merges double all the way up: the most work a piece can make.
#[test]
fn long_runs_of_merges_take_seconds() {
    let text_of = |unit: &str| unit.repeat((1 << 18) / unit.len());
    let alphabet: Vec<char> =
        tokenizers::pre_tokenizers::byte_level::ByteLevel::alphabet().into_iter().collect();
    let mut vocab: Vec<String> = alphabet.iter().map(char::to_string).collect();
    let mut merges: Vec<[String; 2]> = Vec::new();
    for unit in ["a", "Ġ", "ð Ł Ļ Ĥ"] {
        let mut parts = unit.split(' ').map(str::to_owned);
        let mut whole = parts.next().unwrap();
        let mut merge = |left: &str, right: &str| {
            merges.push([left.to_owned(), right.to_owned()]);
            vocab.push([left, right].concat());
        };
        for part in parts {
            merge(&whole, &part);
            whole += &part;
        }
        for _ in 0..12 {
            merge(&whole, &whole);
            whole = whole.repeat(2);
        }
    }
    let ids: serde_json::Map<_, _> = vocab.into_iter().enumerate().map(|(id, t)| (t, json!(id))).collect();
    let json = variant(|json| {
        json["added_tokens"] = json!([]);
        json["post_processor"] = Json::Null;
        json["model"]["vocab"] = Json::Object(ids);
        json["model"]["merges"] = json!(merges);
    });
    let files = HfTokenizerFiles {
        tokenizer_config: None,
        generation_config: None,
        vocab_size: None,
        ..files(&json)
    };
    let ours = Tokenizer::from_metadata(&import(&files).unwrap()).unwrap();
    let theirs = tokenizers::Tokenizer::from_bytes(&json).unwrap();
    for unit in ["a", " ", "🙂"] {
        let text = text_of(unit);
        let start = std::time::Instant::now();
        let ids = ours.encode(&text, PLAIN);
        let taken = start.elapsed();
        // Seconds even without optimisation; a quadratic merge takes hours.
        assert!(taken.as_secs() < 30, "{unit:?} took {taken:?}");
        assert_eq!(ids, theirs.encode_fast(text, false).unwrap().get_ids(), "{unit:?}");
    }
}

/// Any checkpoint's tokenizer against the library.
#[test]
#[ignore = "needs the directory of a checkpoint in MDL_CHECKPOINT"]
fn a_checkpoint_takes_the_tokens_of_the_library() {
    let directory = std::path::PathBuf::from(std::env::var_os("MDL_CHECKPOINT").unwrap());
    let read = |name: &str| std::fs::read(directory.join(name)).ok();
    let tokenizer_json = read("tokenizer.json").unwrap();
    let (config, map, generation, template) = (
        read("tokenizer_config.json"),
        read("special_tokens_map.json"),
        read("generation_config.json"),
        read("chat_template.jinja"),
    );
    let json: Json = serde_json::from_slice(&read("config.json").unwrap()).unwrap();
    let files = HfTokenizerFiles {
        tokenizer_json: Some(&tokenizer_json),
        tokenizer_config: config.as_deref(),
        special_tokens_map: map.as_deref(),
        generation_config: generation.as_deref(),
        chat_template: template.as_deref(),
        vocab_size: json["vocab_size"].as_u64(),
        ..HfTokenizerFiles::none(&directory)
    };
    let start = std::time::Instant::now();
    let metadata = import(&files).unwrap();
    println!("{}imported in {:?}", listing(&metadata), start.elapsed());
    let start = std::time::Instant::now();
    let ours = Tokenizer::from_metadata(&metadata).unwrap();
    println!("loaded in {:?}", start.elapsed());
    let theirs = tokenizers::Tokenizer::from_bytes(&tokenizer_json).unwrap();
    let mut theirs_plain = theirs.clone();
    theirs_plain.set_encode_special_tokens(true);
    let pair = Pair { name: "checkpoint", normalizes: false, ours, theirs, theirs_plain };
    for unit in ["a", " ", "🙂", "\n", "1", "the ", "Emma Woodhouse, handsome, clever, and rich, "] {
        let text = unit.repeat((1 << 18) / unit.len());
        let start = std::time::Instant::now();
        let n = pair.ours.encode(&text, PLAIN).len();
        let ours = start.elapsed();
        pair.theirs_plain.encode_fast(text.as_str(), false).unwrap();
        println!("{unit:?}: {n} tokens a MiB in {ours:?}, the library {:?}", start.elapsed() - ours);
        pair.check(&text);
    }
    let mut runner = proptest::test_runner::TestRunner::new(ProptestConfig {
        failure_persistence: None,
        ..ProptestConfig::with_cases(5_000)
    });
    runner
        .run(&any_text(), |text| {
            pair.check(&text);
            Ok(())
        })
        .unwrap();
}
