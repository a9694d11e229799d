//! `mdl eval` as a person and a pipeline use it, on the storyteller.

#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use serde_json::Value;

fn testdata(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("testdata").join(name)
}

struct Place(tempfile::TempDir);

impl Place {
    /// A store with the storyteller as `story:full`.
    fn new() -> Place {
        let place = Place(tempfile::tempdir().unwrap());
        place.ok(&["build", "-q", "f32", "-t", "story:full", &modelfile()]);
        place
    }

    /// And as `story:small`.
    fn with_small() -> Place {
        let place = Place::new();
        place.ok(&["build", "-q", "q4_0", "-t", "story:small", &modelfile()]);
        place
    }

    fn mdl(&self, arguments: &[&str]) -> Output {
        let mut command = Command::new(env!("CARGO_BIN_EXE_mdl"));
        command.arg("--store").arg(self.0.path().join("store"));
        command.args(["--progress", "none", "--color", "never", "--threads", "2"]).args(arguments);
        command.stdin(Stdio::null()).output().unwrap()
    }

    fn ok(&self, arguments: &[&str]) -> String {
        let output = self.mdl(arguments);
        assert!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap()
    }

    fn fails(&self, code: i32, arguments: &[&str]) -> String {
        let output = self.mdl(arguments);
        assert_eq!(output.status.code(), Some(code), "{}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stderr).unwrap()
    }
}

fn modelfile() -> String {
    testdata("storyteller/Modelfile").display().to_string()
}

fn heldout() -> String {
    testdata("storyteller/heldout.txt").display().to_string()
}

/// Digits of figures as `#`: the last ones may differ between machines.
fn masked(table: &str) -> String {
    let mask = |line: &str| match line.char_indices().nth(26) {
        Some((at, _)) => line[..at].to_owned() + &line[at..].replace(|c: char| c.is_ascii_digit(), "#"),
        None => line.to_owned(),
    };
    let (head, figures) = table.split_once("\n\n").unwrap();
    format!("{head}\n\n{}", figures.lines().map(mask).collect::<Vec<_>>().join("\n"))
}

fn snapshot(name: &str, text: &str) {
    insta::with_settings!({
        snapshot_path => concat!(env!("CARGO_MANIFEST_DIR"), "/snapshots"),
        prepend_module_to_snapshot => false,
        omit_expression => true,
    }, { insta::assert_snapshot!(name, text) });
}

#[test]
fn perplexity_is_that_of_the_reference() {
    let place = Place::new();
    let reference = std::fs::read(testdata("storyteller/reference.json")).unwrap();
    let reference: Value = serde_json::from_slice(&reference).unwrap();
    let expected = reference["perplexity"][0]["perplexity"].as_f64().unwrap();
    let out = place.ok(&["eval", "story:full", "-f", &heldout(), "--json"]);
    let json: Value = serde_json::from_str(&out).unwrap();
    let found = json["perplexity"]["value"].as_f64().unwrap();
    assert!((found / expected - 1.0).abs() < 1e-5, "{found} {expected}");
    assert!(json["perplexity"]["error"].as_f64().unwrap() > 0.0);
    assert_eq!(json.get("kl_divergence"), None, "nothing to diverge from");
}

#[test]
fn a_model_is_held_against_its_source() {
    let place = Place::with_small();
    let against = ["eval", "story:small", "--against", "story:full", "-f", &heldout(), "--chunks", "2"];
    snapshot("eval_against", &masked(&place.ok(&against)));

    let json = place.ok(&[&against[..], &["--json"]].concat());
    let json: Value = serde_json::from_str(&json).unwrap();
    let number = |path: &str| json.pointer(path).and_then(Value::as_f64).expect(path);
    assert_eq!((number("/context"), number("/chunks"), number("/scored_tokens")), (512.0, 2.0, 510.0));
    let ratio = number("/perplexity/value") / number("/against/perplexity/value");
    assert!((ratio / number("/perplexity_ratio/value") - 1.0).abs() < 1e-9);
    let of = |name: &str| number(&format!("/kl_divergence/{name}"));
    let sorted = ["median", "p90", "p99", "p99_9", "max"].map(of);
    assert!(of("value") > 1e-4 && sorted.is_sorted(), "{json:#}");
    assert!((0.5..1.0).contains(&number("/same_top/value")), "{json:#}");
}

#[test]
fn a_file_is_the_model_of_the_same_weights() {
    let place = Place::new();
    let path = place.0.path().join("full.gguf").display().to_string();
    place.ok(&["build", "-q", "f32", "--emit", "gguf", "-o", &path, &modelfile()]);
    let out = place.ok(&["eval", &path, "--against", "story:full", "--ctx", "64", "--chunks", "2", "--json"]);
    let json: Value = serde_json::from_str(&out).unwrap();
    assert_eq!(json["kl_divergence"]["max"].as_f64(), Some(0.0));
    assert_eq!(json["same_top"]["value"].as_f64(), Some(1.0));
    assert_eq!(json["text"], Value::Null, "the sample that mdl brings");
}

#[test]
fn a_limit_fails_a_pipeline() {
    let place = Place::with_small();
    let against = ["eval", "story:small", "--against", "story:full", "--ctx", "128", "--chunks", "3"];
    place.ok(&[&against[..], &["--max-kld", "5"]].concat());
    let message = place.fails(1, &[&against[..], &["--max-kld", "0.001"]].concat());
    assert!(message.contains("mean KL divergence") && message.contains("above the 0.001"), "{message}");
    place.fails(2, &["eval", "story:small", "--max-kld", "1"]);
}

#[test]
fn errors_say_what_to_do() {
    let place = Place::new();
    let write = |name: &str, bytes: &[u8]| {
        let path = place.0.path().join(name);
        std::fs::write(&path, bytes).unwrap();
        path.display().to_string()
    };
    let short = place.fails(1, &["eval", "story:full", "-f", &write("short", b"Emma was")]);
    assert!(short.contains("at least one chunk of 512") && short.contains("smaller context"), "{short}");
    let binary = place.fails(1, &["eval", "story:full", "-f", &write("binary", b"ab\xff")]);
    assert!(binary.contains("no UTF-8") && binary.contains("byte 2"), "{binary}");
    assert!(place.fails(1, &["eval", "absent"]).contains("absent"));
    assert!(place.fails(1, &["eval", &write("x.gguf", b"GGUF")]).contains("x.gguf"));
    place.fails(2, &["eval", "story:full", "--ctx", "3"]);
    place.fails(2, &["eval", "story:full", "--chunks", "0"]);
    let directory = place.0.path().display().to_string();
    assert!(place.fails(1, &["eval", &directory]).contains("mdl build"));
}

/// The files of a store's models and blobs.
fn files(place: &Place) -> Vec<String> {
    let mut found = Vec::new();
    let mut pending = vec![place.0.path().join("store/blobs"), place.0.path().join("store/manifests")];
    while let Some(directory) = pending.pop() {
        for entry in std::fs::read_dir(directory).unwrap() {
            let path = entry.unwrap().path();
            match path.is_dir() {
                true => pending.push(path),
                false => found.push(path.display().to_string()),
            }
        }
    }
    found.sort();
    found
}

#[test]
fn a_build_beyond_the_limit_leaves_the_store_as_it_was() {
    let place = Place::new();
    let before = files(&place);
    let build = ["build", "-q", "q2_K", "-t", "story:small", "--max-kld", "0.01", &modelfile()];
    let output = place.mdl(&build);
    assert_eq!(output.status.code(), Some(1));
    assert!(output.stdout.is_empty(), "no name was given");
    let message = String::from_utf8(output.stderr).unwrap();
    let digits = |c: char| if c.is_ascii_digit() { '#' } else { c };
    snapshot("eval_build_beyond_limit", &message.chars().map(digits).collect::<String>());
    assert_eq!(files(&place), before);
    place.ok(&["verify"]);
}

#[test]
fn a_build_within_the_limit_is_the_same_build() {
    let place = Place::new();
    let plain = place.ok(&["build", "-q", "q4_K_M", "-t", "story:k", &modelfile()]);
    let before = files(&place);
    let text = place.0.path().join("text").display().to_string();
    std::fs::write(&text, &std::fs::read(heldout()).unwrap()[..6000]).unwrap();
    let limited =
        ["build", "-q", "q4_K_M", "-t", "story:k", "--max-kld", "2", "--eval-text", &text, &modelfile()];
    let output = place.mdl(&limited);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    assert_eq!(String::from_utf8(output.stdout).unwrap(), plain, "the same artifacts");
    assert_eq!(files(&place), before, "nothing else is left");
    // What the build says is what `mdl eval` says.
    let said = String::from_utf8(output.stderr).unwrap();
    let against = ["eval", "story:k", "--against", "story:full", "-f", &text, "--json"];
    let json: Value = serde_json::from_str(&place.ok(&against)).unwrap();
    let mean = json["kl_divergence"]["value"].as_f64().unwrap();
    let found: f64 = said.split_whitespace().nth(3).unwrap().parse().unwrap();
    assert!((found / mean - 1.0).abs() < 0.02, "{said} {mean}");
}

#[test]
fn a_limit_is_of_a_build() {
    let place = Place::new();
    for bad in ["-1", "nan", "x"] {
        place.fails(2, &["build", "-q", "q4_0", &format!("--max-kld={bad}"), &modelfile()]);
    }
    place.fails(2, &["build", "--max-kld", "1", "--dry-run", &modelfile()]);
    place.fails(2, &["build", "--eval-text", "x", &modelfile()]);
}
