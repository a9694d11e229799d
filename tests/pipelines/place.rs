//! A folder with a store of its own, in which `mdl` runs.

use std::path::{Path, PathBuf};
use std::process::Output;

use assert_cmd::Command;

/// A path of the repository.
pub fn root(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(name)
}

/// A folder that goes when the test ends.
pub struct Place {
    directory: tempfile::TempDir,
}

impl Place {
    pub fn new() -> Place {
        Place { directory: tempfile::tempdir().unwrap() }
    }

    /// A folder with the storyteller, an adapter and a Modelfile of both that has these lines too.
    pub fn with_sources(more: &str) -> Place {
        let place = Place::new();
        copy(&root("testdata/storyteller"), &place.path("model"));
        copy(&root("testdata/storyteller-lora"), &place.path("lora"));
        place.write("Modelfile", &format!("FROM ./model\nADAPTER ./lora\n{more}"));
        place
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    pub fn write(&self, name: &str, text: &str) -> PathBuf {
        let path = self.path(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(&path, text).unwrap();
        path
    }

    pub fn read(&self, name: &str) -> String {
        std::fs::read_to_string(self.path(name)).unwrap()
    }

    /// A process of mdl in this place, on its store, with nothing that the machine's owner has set up.
    pub fn command(&self) -> Command {
        let mut command = Command::new(assert_cmd::cargo::cargo_bin!("mdl"));
        for (name, _) in std::env::vars_os() {
            let text = name.to_string_lossy();
            if text.starts_with("OLLAMA_") || text.starts_with("MDL_") || text.starts_with("AWS_") {
                command.env_remove(&name);
            }
        }
        command.current_dir(self.directory.path()).env("MDL_MODELS", self.path("store"));
        command
    }

    pub fn mdl(&self, arguments: &[&str]) -> Output {
        self.command().args(["--progress", "none"]).args(arguments).output().unwrap()
    }

    /// Runs mdl, which must succeed; returns what it printed.
    pub fn ok(&self, arguments: &[&str]) -> String {
        let output = self.mdl(arguments);
        assert!(output.status.success(), "{arguments:?}: {}", text(&output.stderr));
        text(&output.stdout)
    }

    /// Runs mdl, which must fail with this exit code; returns its diagnostics.
    pub fn fails(&self, code: i32, arguments: &[&str]) -> String {
        let output = self.mdl(arguments);
        assert_eq!(output.status.code(), Some(code), "{arguments:?}: {}", text(&output.stderr));
        text(&output.stderr).replace(&self.directory.path().display().to_string(), "PLACE")
    }
}

/// Copies the files of a folder.
pub fn copy(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        std::fs::copy(entry.path(), to.join(entry.file_name())).unwrap();
    }
}

pub fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).unwrap()
}

/// The manifest's digest: the last line that a build prints.
pub fn digest(printed: &str) -> String {
    let last = printed.lines().last().unwrap().to_owned();
    assert!(last.starts_with("sha256:"), "{printed}");
    last
}

/// Compares with a snapshot of the repository.
pub fn snapshot(name: &str, text: &str) {
    insta::with_settings!({
        snapshot_path => concat!(env!("CARGO_MANIFEST_DIR"), "/snapshots"),
        prepend_module_to_snapshot => false,
        omit_expression => true,
    }, { insta::assert_snapshot!(name, text) });
}

/// What a schema of the repository finds wrong in a value.
pub fn violations(schema: &str, value: &serde_json::Value) -> Vec<String> {
    let text = std::fs::read_to_string(root(schema)).unwrap();
    let schema: serde_json::Value = serde_json::from_str(&text).unwrap();
    let validator = jsonschema::validator_for(&schema).unwrap();
    validator.iter_errors(value).map(|e| format!("{}: {e}", e.instance_path())).collect()
}

/// Fails where a value is not what a schema of the repository says.
pub fn valid(schema: &str, value: &serde_json::Value) {
    let violations = violations(schema, value);
    assert!(violations.is_empty(), "{schema}: {violations:#?}\n{value:#}");
}
