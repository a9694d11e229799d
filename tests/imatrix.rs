//! `mdl imatrix`: what it writes is read, and makes better models.

#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::Arc;

use mdl::formats::gguf::Gguf;
use serde_json::Value;

fn testdata(name: &str) -> String {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("testdata").join(name).display().to_string()
}

struct Place(tempfile::TempDir);

impl Place {
    fn new() -> Place {
        let place = Place(tempfile::tempdir().unwrap());
        place.ok(&["build", "-q", "f32", "-t", "story:full", &testdata("storyteller/Modelfile")]);
        place
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn mdl(&self, arguments: &[&str]) -> Output {
        let mut command = Command::new(env!("CARGO_BIN_EXE_mdl"));
        command.current_dir(self.0.path()).arg("--store").arg(self.path("store"));
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

    fn divergence(&self, model: &str) -> f64 {
        let text = testdata("storyteller-lora/heldout.txt");
        let out =
            self.ok(&["eval", model, "--against", "story:full", "-f", &text, "--chunks", "4", "--json"]);
        let json: Value = serde_json::from_str(&out).unwrap();
        json["kl_divergence"]["value"].as_f64().unwrap()
    }
}

#[test]
fn it_is_written_as_others_read_it_and_makes_a_better_model() {
    let place = Place::new();
    let text = testdata("storyteller/heldout.txt");
    let printed = place.ok(&["imatrix", "story:full", "-f", &text, "--chunks", "4"]);
    assert_eq!(printed, "imatrix.gguf: 28 tensors, 4 chunks of 512 tokens\n");
    let bytes: Arc<[u8]> = std::fs::read(place.path("imatrix.gguf")).unwrap().into();
    let gguf = Gguf::read(Path::new("imatrix.gguf"), &bytes).unwrap();
    assert_eq!(gguf.metadata.str("general.type"), Some("imatrix"));
    assert_eq!(gguf.metadata.u64("imatrix.chunk_count"), Some(4));
    assert_eq!(gguf.metadata.u64("imatrix.chunk_size"), Some(512));
    let names: Vec<&str> = gguf.tensors.iter().map(|t| t.name.as_str()).take(2).collect();
    assert_eq!(names, ["blk.0.attn_k.weight.in_sum2", "blk.0.attn_k.weight.counts"]);

    let modelfile = testdata("storyteller/Modelfile");
    place.ok(&["build", "-q", "q2_K", "-t", "story:plain", &modelfile]);
    place.ok(&["build", "-q", "q2_K", "--imatrix", "imatrix.gguf", "-t", "story:weighed", &modelfile]);
    let (plain, weighed) = (place.divergence("story:plain"), place.divergence("story:weighed"));
    assert!(weighed < plain, "{weighed} {plain}");
}

/// A quantized model is observed where its inputs are still floats, so its sums are nearly those of the
/// float model.
#[test]
fn a_quantized_model_gives_nearly_the_same() {
    let place = Place::new();
    place.ok(&["build", "-q", "q8_0", "-t", "story:q8", &testdata("storyteller/Modelfile")]);
    let text = testdata("storyteller/heldout.txt");
    let sums = |model: &str, out: &str| {
        place.ok(&["imatrix", model, "-f", &text, "--ctx", "128", "--chunks", "2", "-o", out]);
        let bytes: Arc<[u8]> = std::fs::read(place.path(out)).unwrap().into();
        mdl::formats::imatrix::read(Path::new(out), &bytes).unwrap()
    };
    let (full, quantized) = (sums("story:full", "a"), sums("story:q8", "b"));
    assert_eq!(full.len(), 28);
    for (name, sums) in &full {
        let (a, b): (f32, f32) = (sums.iter().sum(), quantized[name].iter().sum());
        assert!((a / b - 1.0).abs() < 0.02, "{name}: {a} {b}");
    }
    // The same sums, whoever computes them: the bytes depend on the text and the model alone.
    let again = |threads: &str, out: &str| {
        let arguments = ["imatrix", "story:q8", "-f", &text, "--ctx", "128", "--chunks", "2", "-o", out];
        let mut command = Command::new(env!("CARGO_BIN_EXE_mdl"));
        command.arg("--store").arg(place.path("store")).args(["--progress", "none", "--threads", threads]);
        assert!(command.current_dir(place.0.path()).args(arguments).output().unwrap().status.success());
        std::fs::read(place.path(out)).unwrap()
    };
    assert_eq!(again("1", "c"), again("2", "d"));
}

#[test]
fn nothing_is_written_where_it_fails() {
    let place = Place::new();
    std::fs::write(place.path("short"), "Emma was").unwrap();
    let message = place.fails(1, &["imatrix", "story:full", "-f", "short"]);
    assert!(message.contains("at least one chunk"), "{message}");
    place.fails(1, &["imatrix", "story:full", "-f", "absent"]);
    place.fails(2, &["imatrix", "story:full"]);
    assert!(!place.path("imatrix.gguf").exists());
}
