//! The storyteller, compiled by the whole pipeline, against its reference outputs: a forward pass in
//! float64 that shares no code with ours.

#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::path::{Path, PathBuf};

use mdl::passes::resolve;
use mdl::runtime::chunks::Chunks;
use mdl::runtime::device::Compute;
use mdl::runtime::engine::{Session, SessionOptions};
use mdl::runtime::generate::{Greedy, Sampler as _};
use mdl::runtime::loaded::Loaded;
use mdl::runtime::perplexity::perplexity;
use mdl::tokenizer::EncodeOptions;
use mdl::world::SystemWorld;

fn testdata(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("testdata").join(name)
}

/// Compiles a Modelfile to a GGUF file and opens it.
fn compile(directory: &Path, modelfile: &str, preset: &str) -> Loaded {
    let source = directory.join("Modelfile");
    std::fs::write(&source, modelfile).unwrap();
    let gguf = directory.join(format!("{preset}.gguf"));
    assert_cmd::Command::cargo_bin("mdl")
        .unwrap()
        .args(["build", "--progress", "none", "-q", preset, "--emit", "gguf", "-o"])
        .arg(&gguf)
        .arg(&source)
        .assert()
        .success();
    Loaded::open(&resolve::open_gguf(&SystemWorld, &gguf).unwrap(), Compute::cpu(Some(2))).unwrap()
}

fn reference(name: &str) -> serde_json::Value {
    serde_json::from_slice(&std::fs::read(testdata(name).join("reference.json")).unwrap()).unwrap()
}

fn numbers(value: &serde_json::Value) -> Vec<f64> {
    value.as_array().unwrap().iter().map(|v| v.as_f64().unwrap()).collect()
}

fn ids(value: &serde_json::Value) -> Vec<u32> {
    value.as_array().unwrap().iter().map(|v| v.as_u64().unwrap() as u32).collect()
}

fn session(loaded: &Loaded) -> Session {
    let options = SessionOptions { context: 512, columns: 128, outputs: 64, kv: None };
    loaded.model.session(&options).unwrap()
}

/// The largest difference of logits over the largest logit, over all prompts.
fn worst_logits(loaded: &Loaded, reference: &serde_json::Value) -> f64 {
    let mut session = session(loaded);
    let mut worst = 0.0f64;
    for prompt in reference["prompts"].as_array().unwrap() {
        let expected = numbers(&prompt["logits"]);
        session.truncate(0);
        let logits = session.prefill(&ids(&prompt["ids"])).unwrap();
        let largest = expected.iter().fold(0.0f64, |m, v| m.max(v.abs()));
        let difference =
            logits.iter().zip(&expected).fold(0.0f64, |m, (a, b)| m.max((f64::from(*a) - b).abs()));
        worst = worst.max(difference / largest);
    }
    worst
}

/// Greedy text equals the reference's up to the first step that `error` could turn.
fn check_greedy(loaded: &Loaded, reference: &serde_json::Value, error: f64) {
    let mut session = session(loaded);
    for prompt in reference["prompts"].as_array().unwrap() {
        let (expected, gaps) = (ids(&prompt["greedy_ids"]), numbers(&prompt["greedy_gaps"]));
        let start = ids(&prompt["ids"]);
        session.truncate(0);
        let mut token = Greedy.sample(session.prefill(&start).unwrap()).unwrap();
        for (step, (want, gap)) in expected.iter().zip(gaps).enumerate() {
            if gap < 2.0 * error {
                break;
            }
            assert_eq!(token, *want, "{} step {step}", prompt["name"]);
            token = Greedy.sample(session.decode(token).unwrap()).unwrap();
        }
    }
}

fn check_perplexity(loaded: &Loaded, reference: &serde_json::Value, limit: f64) {
    for entry in reference["perplexity"].as_array().unwrap() {
        let text =
            std::fs::read_to_string(testdata(&entry["text"].as_str().unwrap().replace("tiny-", ""))).unwrap();
        let options = EncodeOptions { add_special: true, parse_special: false };
        let tokens = loaded.tokenizer.encode(&text, options);
        let mut session = session(loaded);
        let chunks = Chunks::new(tokens, loaded.tokenizer.bos(), 512, None).unwrap();
        let found = perplexity(&mut session, &chunks, |_, _| ()).unwrap().value().value;
        let expected = entry["perplexity"].as_f64().unwrap();
        let relative = (found - expected).abs() / expected;
        assert!(relative < limit, "{} {found} {expected}", entry["text"]);
    }
}

#[test]
fn float32_is_exact() {
    let place = tempfile::tempdir().unwrap();
    let modelfile = format!("FROM {}\n", testdata("storyteller").display());
    let loaded = compile(place.path(), &modelfile, "f32");
    let reference = reference("storyteller");
    let worst = worst_logits(&loaded, &reference);
    assert!(worst < 1e-5, "{worst}");
    check_greedy(&loaded, &reference, 1e-4);
    check_perplexity(&loaded, &reference, 1e-5);
}

#[test]
fn a_fused_adapter_is_exact_in_float32() {
    let place = tempfile::tempdir().unwrap();
    let (base, adapter) = (testdata("storyteller"), testdata("storyteller-lora"));
    let modelfile = format!("FROM {}\nADAPTER {}\n", base.display(), adapter.display());
    let loaded = compile(place.path(), &modelfile, "f32");
    let reference = reference("storyteller-lora");
    let worst = worst_logits(&loaded, &reference);
    assert!(worst < 1e-5, "{worst}");
    check_greedy(&loaded, &reference, 1e-4);
    check_perplexity(&loaded, &reference, 1e-5);
}

/// Quantized weights are off by what their format allows, and not by more.
#[test]
fn quantized_weights_stay_within_their_format() {
    let place = tempfile::tempdir().unwrap();
    let modelfile = format!("FROM {}\n", testdata("storyteller").display());
    let reference = reference("storyteller");
    for (preset, logits, perplexity) in [
        ("bf16", 2e-2, 1e-3),
        ("q8_0", 3e-2, 5e-3),
        ("q6_K", 1e-1, 1e-2),
        ("q5_K_M", 2e-1, 2e-2),
        ("q4_K_M", 3e-1, 5e-2),
        ("q4_0", 4e-1, 5e-2),
    ] {
        let loaded = compile(place.path(), &modelfile, preset);
        let worst = worst_logits(&loaded, &reference);
        assert!(worst < logits, "{preset}: {worst}");
        check_perplexity(&loaded, &reference, perplexity);
    }
}

#[test]
fn the_tokenizer_gives_the_reference_ids() {
    let place = tempfile::tempdir().unwrap();
    let modelfile = format!("FROM {}\n", testdata("storyteller").display());
    let loaded = compile(place.path(), &modelfile, "q4_0");
    for prompt in reference("storyteller")["prompts"].as_array().unwrap() {
        let Some(text) = prompt["text"].as_str() else { continue };
        let add = prompt["add_special_tokens"].as_bool().unwrap_or(false);
        let options = EncodeOptions { add_special: add, parse_special: true };
        assert_eq!(loaded.tokenizer.encode(text, options), ids(&prompt["ids"]), "{}", prompt["name"]);
    }
}

/// Builds a Modelfile into a store of its own and opens the model as it is run.
fn build(directory: &Path, modelfile: &str, arguments: &[&str]) -> Loaded {
    let source = directory.join("Modelfile");
    std::fs::write(&source, modelfile).unwrap();
    let store = directory.join("store");
    assert_cmd::Command::cargo_bin("mdl")
        .unwrap()
        .args(["build", "--progress", "none", "-t", "m", "--store"])
        .arg(&store)
        .args(arguments)
        .arg(&source)
        .assert()
        .success();
    let store = mdl::store::Store::open(&store).unwrap();
    let model = store.read(&mdl::store::Name::parse("m").unwrap()).unwrap();
    Loaded::open(&mdl::runtime::stored::open(&store, &model).unwrap(), Compute::cpu(Some(2))).unwrap()
}

/// An adapter beside the model gives what the fused one gives, to rounding.
#[test]
fn a_kept_adapter_is_exact_in_float32() {
    let place = tempfile::tempdir().unwrap();
    let (base, adapter) = (testdata("storyteller"), testdata("storyteller-lora"));
    let modelfile = format!("FROM {}\nADAPTER {}\n", base.display(), adapter.display());
    let loaded = build(place.path(), &modelfile, &["-q", "f32", "--no-fuse"]);
    let reference = reference("storyteller-lora");
    let worst = worst_logits(&loaded, &reference);
    assert!(worst < 1e-5, "{worst}");
    check_greedy(&loaded, &reference, 1e-4);

    // Two halves are a whole.
    let halves = format!("FROM {0}\nADAPTER {1} 0.5\nADAPTER {1} 0.5\n", base.display(), adapter.display());
    let loaded = build(place.path(), &halves, &["-q", "f32", "--no-fuse"]);
    let worst = worst_logits(&loaded, &reference);
    assert!(worst < 1e-5, "{worst}");

    // What the store holds can be fused later.
    let store = place.path().join("store");
    let loaded = build(place.path(), "FROM m\n", &["-q", "f32"]);
    assert!(worst_logits(&loaded, &reference) < 1e-5);
    let shown = assert_cmd::Command::cargo_bin("mdl")
        .unwrap()
        .args(["show", "m", "--modelfile", "--store"])
        .arg(&store)
        .output()
        .unwrap();
    assert!(!String::from_utf8(shown.stdout).unwrap().contains("ADAPTER"));
}

#[test]
fn a_kept_adapter_acts_beside_quantized_weights() {
    let place = tempfile::tempdir().unwrap();
    let (base, adapter) = (testdata("storyteller"), testdata("storyteller-lora"));
    let modelfile = format!("FROM {}\nADAPTER {}\n", base.display(), adapter.display());
    let loaded = build(place.path(), &modelfile, &["-q", "q8_0", "--no-fuse"]);
    let reference = reference("storyteller-lora");
    let worst = worst_logits(&loaded, &reference);
    assert!(worst < 3e-2, "{worst}");
    let shown = assert_cmd::Command::cargo_bin("mdl")
        .unwrap()
        .args(["show", "m", "--modelfile", "--store"])
        .arg(place.path().join("store"))
        .output()
        .unwrap();
    let shown = String::from_utf8(shown.stdout).unwrap();
    assert_eq!(shown.lines().filter(|line| line.starts_with("ADAPTER ")).count(), 1, "{shown}");
}
