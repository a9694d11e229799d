//! `mdl run` as a person and a pipe use it, on the storyteller.

#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::io::{Read as _, Write as _};
use std::path::Path;
use std::process::{Command, Output, Stdio};

struct Place(tempfile::TempDir);

impl Place {
    /// A store with the storyteller as `story`.
    fn new() -> Place {
        let place = Place(tempfile::tempdir().unwrap());
        let modelfile = Path::new(env!("CARGO_MANIFEST_DIR")).join("testdata/storyteller/Modelfile");
        let built = place.mdl().args(["build", "-q", "q8_0", "-t", "story"]).arg(modelfile).output().unwrap();
        assert!(built.status.success(), "{}", String::from_utf8_lossy(&built.stderr));
        place
    }

    fn mdl(&self) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_mdl"));
        command.arg("--store").arg(self.0.path().join("store")).args([
            "--progress",
            "none",
            "--threads",
            "2",
        ]);
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        command
    }

    fn run(&self, arguments: &[&str]) -> Output {
        self.mdl().arg("run").args(arguments).output().unwrap()
    }

    fn says(&self, arguments: &[&str]) -> String {
        let output = self.run(arguments);
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap()
    }
}

#[test]
fn a_seed_decides_what_is_said() {
    let place = Place::new();
    let say = |seed: &str| place.says(&["story", "--set", seed, "--set", "num_predict=30", "Her sister had"]);
    assert_eq!(say("seed=1"), say("seed=1"));
    assert_ne!(say("seed=1"), say("seed=2"));
}

#[test]
fn greedy_text_is_the_reference_text() {
    let place = Place::new();
    let text =
        std::fs::read(Path::new(env!("CARGO_MANIFEST_DIR")).join("testdata/storyteller/reference.json"));
    let reference: serde_json::Value = serde_json::from_slice(&text.unwrap()).unwrap();
    let prompt = &reference["prompts"][0];
    let arguments = ["story", "--raw", "--set", "temperature=0", "--set", "num_predict=8"];
    let said = place.says(&[&arguments[..], &[prompt["text"].as_str().unwrap()]].concat());
    assert!(said.trim().len() > 8, "{said}");
    assert!(prompt["greedy_text"].as_str().unwrap().starts_with(said.trim_end()), "{said}");
}

#[test]
fn the_path_of_a_file_is_a_model() {
    let place = Place::new();
    let blobs = place.0.path().join("store/blobs");
    let blobs = std::fs::read_dir(blobs).unwrap().map(|entry| entry.unwrap());
    let weights = blobs.max_by_key(|entry| entry.metadata().unwrap().len()).unwrap().path();
    let say = |model: &str| {
        place.says(&[model, "--raw", "--set", "temperature=0", "--set", "num_predict=8", "Her sister had"])
    };
    assert_eq!(say(weights.to_str().unwrap()), say("story"));
}

/// A checkpoint runs where it is: nothing of it is added to the store.
#[test]
fn a_directory_is_a_model() {
    let place = Place::new();
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("testdata");
    let reference = std::fs::read(root.join("storyteller/reference.json")).unwrap();
    let reference: serde_json::Value = serde_json::from_slice(&reference).unwrap();
    let prompt = &reference["prompts"][0];
    let storyteller = root.join("storyteller");
    let directory = storyteller.to_str().unwrap();
    let arguments = [directory, "--raw", "--set", "temperature=0", "--set", "num_predict=8"];
    let said = place.says(&[&arguments[..], &[prompt["text"].as_str().unwrap()]].concat());
    assert!(said.trim().len() > 8, "{said}");
    assert!(prompt["greedy_text"].as_str().unwrap().starts_with(said.trim_end()), "{said}");
    let listed = String::from_utf8(place.mdl().arg("list").output().unwrap().stdout).unwrap();
    assert_eq!(listed.lines().count(), 2, "{listed}");
}

#[test]
fn an_embedding_is_a_line_of_json() {
    let place = Place::new();
    let model = Path::new(env!("CARGO_MANIFEST_DIR")).join("testdata/families/bert");
    let model = model.to_str().unwrap();
    let vector = |arguments: &[&str]| -> Vec<f32> {
        serde_json::from_str(&place.says(&[&[model, "a text"], arguments].concat())).unwrap()
    };
    let whole = vector(&[]);
    let short = vector(&["--dimensions", "4"]);
    assert!(whole.len() > 4 && short.len() == 4);
    for values in [&whole, &short] {
        assert!((values.iter().map(|v| v * v).sum::<f32>() - 1.0).abs() < 1e-4);
    }
    assert!((short[0] / short[1] - whole[0] / whole[1]).abs() < 1e-3);
    let long = "word ".repeat(2000);
    assert_eq!(place.run(&[model, "--truncate=false", &long]).status.code(), Some(1));
    assert_eq!(place.run(&[model, "--dimensions", "100000", "x"]).status.code(), Some(1));
}

#[test]
fn a_prompt_comes_through_a_pipe_and_from_arguments() {
    let place = Place::new();
    let mut child = place
        .mdl()
        .args(["run", "story", "--raw", "--set", "temperature=0", "--set", "num_predict=8"])
        .stdin(Stdio::piped())
        .spawn()
        .unwrap();
    child.stdin.take().unwrap().write_all(b"Emma was very much\n").unwrap();
    let piped = child.wait_with_output().unwrap();
    let argued = place.says(&[
        "story",
        "--raw",
        "--set",
        "temperature=0",
        "--set",
        "num_predict=8",
        "Emma was very much",
    ]);
    assert_eq!(String::from_utf8(piped.stdout).unwrap(), argued);
    let nothing = place.run(&["story"]);
    assert_eq!(nothing.status.code(), Some(2), "no prompt at all");
}

#[test]
fn stop_texts_are_not_shown() {
    let place = Place::new();
    let whole =
        place.says(&["story", "--raw", "--set", "temperature=0", "--set", "num_predict=12", "Emma was"]);
    let word = whole.split_whitespace().nth(3).unwrap();
    let stop = format!("stop={word}");
    let cut = place.says(&[
        "story",
        "--raw",
        "--set",
        "temperature=0",
        "--set",
        "num_predict=12",
        "--set",
        &stop,
        "Emma was",
    ]);
    assert_eq!(cut.trim_end_matches('\n'), whole.split(word).next().unwrap());
}

#[test]
fn counts_and_rates_are_printed_on_demand() {
    let place = Place::new();
    let output = place.run(&["story", "--verbose", "--set", "num_predict=5", "Her sister"]);
    let printed = String::from_utf8(output.stderr).unwrap();
    for name in ["total duration:", "load duration:", "prompt eval rate:", "eval count:", "eval rate:"] {
        assert!(printed.contains(name), "{name}: {printed}");
    }
}

#[test]
fn bad_parameters_are_usage_errors() {
    let place = Place::new();
    for bad in ["temprature=1", "temperature=x", "top_p=3", "temperature"] {
        let output = place.run(&["story", "--set", bad, "Hi"]);
        assert_eq!(output.status.code(), Some(2), "{bad}");
    }
}

/// The first interrupt ends the answer, not the line it stands in.
#[cfg(unix)]
#[test]
fn an_interrupt_ends_it_cleanly() {
    let place = Place::new();
    let mut child = place
        .mdl()
        .args(["run", "story", "--raw", "--set", "temperature=0", "--set", "num_predict=-1", "Emma was"])
        .spawn()
        .unwrap();
    let mut out = child.stdout.take().unwrap();
    let mut first = [0; 16];
    out.read_exact(&mut first).unwrap();
    let interrupted = Command::new("kill").args(["-INT", &child.id().to_string()]).status().unwrap();
    assert!(interrupted.success());
    let mut rest = Vec::new();
    out.read_to_end(&mut rest).unwrap();
    assert_eq!(child.wait().unwrap().code(), Some(130));
    assert_eq!(rest.last(), Some(&b'\n'), "the line is ended");
    std::str::from_utf8(&[&first[..], &rest].concat()).expect("no character is split");
}

/// A damaged blob is refused with its name, never run.
#[test]
fn damaged_weights_are_refused() {
    let place = Place::new();
    let blobs = place.0.path().join("store/blobs");
    let blob =
        std::fs::read_dir(blobs).unwrap().map(|e| e.unwrap()).max_by_key(|e| e.metadata().unwrap().len());
    let path = blob.unwrap().path();
    let mut bytes = std::fs::read(&path).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    std::fs::write(&path, bytes).unwrap();
    let output = place.run(&["story", "Hi"]);
    let message = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(1), "{message}");
    assert!(message.contains("story:latest") && message.contains("sha256:"), "{message}");
}
