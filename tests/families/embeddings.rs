//! Encoders, and decoders that make embeddings.

use std::sync::{Arc, mpsc};

use mdl::runtime::batch::{Engine, EngineOptions};
use mdl::runtime::loaded::Loaded;
use mdl::tokenizer::EncodeOptions;

use crate::fixture::{Fixture, copy_directory, floats, ids};

fn embed(engine: &Engine, tokens: Vec<u32>) -> Vec<f32> {
    let (sender, receiver) = mpsc::channel();
    engine.embed(tokens, Arc::default(), Box::new(move |result| sender.send(result).unwrap()));
    receiver.recv().unwrap().unwrap().values
}

fn cosine(a: &[f32], b: &[f32]) -> f64 {
    assert_eq!(a.len(), b.len());
    let dot = |a: &[f32], b: &[f32]| a.iter().zip(b).map(|(a, b)| f64::from(*a) * f64::from(*b)).sum::<f64>();
    dot(a, b) / (dot(a, a) * dot(b, b)).sqrt()
}

fn engine(loaded: Loaded) -> (Arc<Loaded>, Engine) {
    let loaded = Arc::new(loaded);
    let options = EngineOptions { parallel: 2, context: 128, columns: 64, kv: None };
    let engine = Engine::start(loaded.clone(), options).unwrap();
    (loaded, engine)
}

#[test]
fn embeddings_are_those_of_transformers() {
    let out = tempfile::tempdir().unwrap();
    let (mut problems, mut cases) = (Vec::new(), 0);
    for fixture in Fixture::all() {
        let Some(reference) = fixture.json("reference.json") else { continue };
        let Some(inputs) = reference.get("inputs").and_then(|v| v.as_array()).cloned() else { continue };
        let name = &fixture.name;
        for (preset, least) in [("f32", 0.999_99), ("q8_0", 0.995)] {
            let (loaded, engine) = match fixture.load(preset, out.path()) {
                Ok(loaded) => engine(loaded),
                Err(e) => {
                    problems.push(e);
                    continue;
                }
            };
            for input in &inputs {
                cases += 1;
                let tokens = ids(&input["ids"]);
                let text = input["text"].as_str().unwrap();
                let options = EncodeOptions { add_special: true, parse_special: false };
                let own = loaded.tokenizer.encode(text, options);
                if own != tokens {
                    problems.push(format!("{name}: {text:?} is {own:?}, not {tokens:?}"));
                }
                let similarity = cosine(&embed(&engine, tokens), &floats(&input["embedding"]));
                println!("{name:>24} {preset}: {similarity:.7}");
                if similarity < least {
                    problems.push(format!("{name} {preset}: {similarity} for {text:?}"));
                }
            }
        }
    }
    println!("{cases} cases");
    assert!(problems.is_empty(), "{}", problems.join("\n"));
}

/// Embedding models are published without a head, whatever their configuration says of it.
#[test]
fn a_decoder_that_makes_embeddings_needs_no_head() {
    let out = tempfile::tempdir().unwrap();
    let fixture = Fixture::all().into_iter().find(|f| f.name == "qwen3-embedding").unwrap();
    let copy = out.path().join("copy");
    copy_directory(&fixture.directory, &copy);
    let config = std::fs::read_to_string(copy.join("config.json")).unwrap();
    let untied = config.replace("\"tie_word_embeddings\": true", "\"tie_word_embeddings\": false");
    assert_ne!(config, untied);
    std::fs::write(copy.join("config.json"), untied).unwrap();
    let headless = Fixture { name: "headless".to_owned(), directory: copy };
    assert!(headless.load("f32", out.path()).unwrap().makes_embeddings());
}

#[test]
fn an_encoder_prints_the_vector_of_a_text() {
    let directory = tempfile::tempdir().unwrap();
    let fixture = Fixture::all().into_iter().find(|f| f.name == "bert").unwrap();
    let mdl = |arguments: &[&str]| {
        let mut command = assert_cmd::Command::cargo_bin("mdl").unwrap();
        command
            .arg("--store")
            .arg(directory.path().join("store"))
            .args(["--progress", "none"])
            .args(arguments);
        command.output().unwrap()
    };
    let folder = fixture.directory.to_str().unwrap();
    assert!(mdl(&["build", "-q", "f32", "-t", "encoder", folder]).status.success());
    let input = &fixture.json("reference.json").unwrap()["inputs"][0];
    let output = mdl(&["run", "encoder", input["text"].as_str().unwrap()]);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let values: Vec<f32> = serde_json::from_slice(&output.stdout).unwrap();
    assert!(cosine(&values, &floats(&input["embedding"])) > 0.999_99);
    let length: f64 = values.iter().map(|v| f64::from(*v).powi(2)).sum();
    assert!((length - 1.0).abs() < 1e-5, "{length}");
}
