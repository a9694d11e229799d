//! `mdl diff` as a person and a pipeline use it, on the storyteller.

#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use serde_json::Value;

fn testdata(name: &str) -> String {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("testdata").join(name).display().to_string()
}

struct Place(tempfile::TempDir);

impl Place {
    fn new() -> Place {
        Place(tempfile::tempdir().unwrap())
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

    /// Builds the storyteller with more lines in its Modelfile.
    fn build(&self, name: &str, preset: &str, more: &str) {
        std::fs::write(self.path("Modelfile"), format!("FROM {}\n{more}", testdata("storyteller"))).unwrap();
        let output = self.mdl(&["build", "-q", preset, "-t", name, "Modelfile"]);
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    }

    /// What `mdl diff` prints, and its exit code.
    fn diff(&self, arguments: &[&str]) -> (i32, String) {
        let output = self.mdl(&[&["diff"], arguments].concat());
        let text = [output.stdout, output.stderr].concat();
        (output.status.code().unwrap(), String::from_utf8(text).unwrap())
    }
}

fn snapshot(name: &str, text: &str) {
    insta::with_settings!({
        snapshot_path => concat!(env!("CARGO_MANIFEST_DIR"), "/snapshots"),
        prepend_module_to_snapshot => false,
        omit_expression => true,
    }, { insta::assert_snapshot!(name, text) });
}

#[test]
fn texts_are_shown_as_changes() {
    let place = Place::new();
    let (system, license) = ("SYSTEM \"\"\"You tell stories.\nShort ones.\n\"\"\"\n", "LICENSE one\n");
    place.build("a", "q4_0", &format!("{system}{license}PARAMETER temperature 0.3\nPARAMETER stop END\n"));
    let system = "SYSTEM \"\"\"You tell stories.\nLong ones.\n\"\"\"\n";
    let messages = "MESSAGE user Hello\nMESSAGE assistant Once\n";
    place.build(
        "b",
        "q4_0",
        &format!("{system}{license}{messages}PARAMETER temperature 0.7\nPARAMETER stop END\n"),
    );
    let (code, text) = place.diff(&["a", "b"]);
    assert_eq!(code, 1);
    snapshot("diff_texts", &text);
    let (code, text) = place.diff(&["a", "a", "--weights"]);
    assert_eq!((code, text.as_str()), (0, "a and a do not differ\n"));
}

#[test]
fn types_metadata_and_weights_are_shown() {
    let place = Place::new();
    place.build("small", "q4_0", "");
    place.build("large", "q8_0", "");
    let (code, text) = place.diff(&["small", "large"]);
    assert_eq!(code, 1);
    snapshot("diff_types", &text);

    let (code, text) = place.diff(&["small", "large", "--weights", "--top", "3", "--json"]);
    assert_eq!(code, 1);
    let json: Value = serde_json::from_str(&text).unwrap();
    assert_eq!(json["equal"], false);
    assert_eq!(json["metadata"][0]["key"], "general.file_type");
    let weights = json["weights"].as_array().unwrap();
    let relative: Vec<f64> = weights.iter().map(|w| w["relative_norm"].as_f64().unwrap()).collect();
    assert_eq!(relative.len(), 3);
    // Four bits of a weight lose about 9 % of its norm, and the furthest comes first.
    assert!((0.05..0.2).contains(&relative[0]) && relative.is_sorted_by(|a, b| a >= b), "{relative:?}");
    let (_, table) = place.diff(&["small", "large", "--weights", "--top", "2"]);
    assert!(table.contains("RELATIVE NORM") && table.contains("and 27 more"), "{table}");
}

#[test]
fn a_changed_byte_is_found_and_measured() {
    let place = Place::new();
    std::fs::write(place.path("Modelfile"), format!("FROM {}\n", testdata("storyteller"))).unwrap();
    let built = place.mdl(&["build", "-q", "f32", "--emit", "gguf", "-o", "a.gguf", "Modelfile"]);
    assert!(built.status.success());
    let mut bytes = std::fs::read(place.path("a.gguf")).unwrap();
    std::fs::write(place.path("same.gguf"), &bytes).unwrap();
    let last = bytes.len() - 4;
    let value = f32::from_le_bytes(bytes[last..].try_into().unwrap());
    bytes[last..].copy_from_slice(&(value + 0.5).to_le_bytes());
    std::fs::write(place.path("b.gguf"), bytes).unwrap();
    assert_eq!(place.diff(&["a.gguf", "same.gguf"]).0, 0, "the same bytes elsewhere");
    let (code, text) = place.diff(&["a.gguf", "b.gguf", "--weights", "--json"]);
    assert_eq!(code, 1);
    let json: Value = serde_json::from_str(&text).unwrap();
    assert_eq!(json["metadata"].as_array().unwrap().len(), 0);
    assert_eq!(json["tensors"].as_array().unwrap().len(), 1);
    assert_eq!(json["tensors"][0]["values"], true);
    assert_eq!(json["tensors"][0]["name"], json["weights"][0]["name"]);
    assert!((json["weights"][0]["largest"].as_f64().unwrap() - 0.5).abs() < 1e-6, "{json:#}");
}

#[test]
fn what_cannot_be_compared_is_no_difference() {
    let place = Place::new();
    place.build("a", "q4_0", "");
    assert_eq!(place.diff(&["a", "absent"]).0, 2);
    std::fs::write(place.path("x.gguf"), b"GGUF").unwrap();
    let (code, text) = place.diff(&["a", "x.gguf"]);
    assert!(code == 2 && text.contains("x.gguf"), "{text}");
    assert_eq!(place.diff(&["a"]).0, 2);
    assert_eq!(place.diff(&["a", "a", "--top", "3"]).0, 2);
}
