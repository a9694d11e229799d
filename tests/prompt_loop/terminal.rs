//! A pseudo-terminal with `mdl run` on it, and a store with the storyteller.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use expectrl::process::unix::WaitStatus;
use expectrl::session::OsSession;
use expectrl::{Eof, Expect as _, Session};

/// Shown wherever nothing has been typed yet.
pub const READY: &str = "Send a message (/? for help)";

/// A home and a store, with the storyteller as `story`.
pub struct Place(tempfile::TempDir);

impl Place {
    pub fn new() -> Place {
        let place = Place(tempfile::tempdir().unwrap());
        place.build("story", &root("testdata/storyteller/Modelfile"));
        place
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    pub fn build(&self, name: &str, modelfile: &Path) {
        let built = self.mdl(&["build", "-q", "q8_0", "-t", name]).arg(modelfile).output().unwrap();
        assert!(built.status.success(), "{}", String::from_utf8_lossy(&built.stderr));
    }

    /// A model of another one: its weights stay as they are.
    pub fn build_here(&self, name: &str, modelfile: &Path) {
        let built = self.mdl(&["build", "-t", name]).arg(modelfile).output().unwrap();
        assert!(built.status.success(), "{}", String::from_utf8_lossy(&built.stderr));
    }

    pub fn mdl(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_mdl"));
        for (name, _) in std::env::vars().filter(|(n, _)| n.starts_with("MDL_") || n.starts_with("OLLAMA_")) {
            command.env_remove(name);
        }
        for name in ["NO_COLOR", "XDG_DATA_HOME", "EDITOR", "VISUAL", "LC_ALL"] {
            command.env_remove(name);
        }
        command
            .env("HOME", self.0.path())
            .env("TERM", "xterm-256color")
            .env("MDL_HOST", "127.0.0.1:1")
            .current_dir(self.0.path());
        command.arg("--store").arg(self.path("store")).args(["--progress", "none", "--threads", "2"]);
        command.args(arguments);
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        command
    }

    /// What a command prints.
    pub fn says(&self, arguments: &[&str]) -> String {
        let output = self.mdl(arguments).output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap()
    }

    /// The messages of a model.
    pub fn messages(&self, model: &str) -> Vec<(String, String)> {
        let shown: serde_json::Value = serde_json::from_str(&self.says(&["show", model, "--json"])).unwrap();
        let text = |value: &serde_json::Value| value.as_str().unwrap().to_owned();
        let messages = shown["messages"].as_array().unwrap();
        messages.iter().map(|m| (text(&m["role"]), text(&m["content"]))).collect()
    }

    /// A conversation, at its first prompt.
    pub fn run(&self, arguments: &[&str]) -> Terminal {
        self.run_with(arguments, |_| ())
    }

    /// The same, in another environment.
    pub fn run_with(&self, arguments: &[&str], change: impl FnOnce(&mut Command)) -> Terminal {
        let few = ["--set", "temperature=0", "--set", "num_predict=6"];
        let mut command = self.mdl(&[&["run"], &few[..], arguments].concat());
        command.stdin(Stdio::inherit()).stdout(Stdio::inherit()).stderr(Stdio::inherit());
        change(&mut command);
        let mut session = Session::spawn(command).unwrap();
        session.set_expect_timeout(Some(Duration::from_secs(60)));
        Terminal { session }
    }
}

pub fn root(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(path)
}

pub struct Terminal {
    session: OsSession,
}

impl Terminal {
    /// Waits for a text; gives what came before it.
    pub fn until(&mut self, text: &str) -> String {
        match self.session.expect(text) {
            Ok(found) => String::from_utf8_lossy(found.before()).into_owned(),
            Err(e) => {
                let mut rest = vec![0; 1 << 16];
                let read = self.session.try_read(&mut rest).unwrap_or(0);
                panic!("{text:?} did not come: {e}\nthere is {:?}", String::from_utf8_lossy(&rest[..read]));
            }
        }
    }

    /// Waits for the next prompt; gives what came before it.
    pub fn ready(&mut self) -> String {
        self.until(READY)
    }

    /// Presses keys.
    pub fn keys(&mut self, keys: &str) {
        self.session.send(keys).unwrap();
    }

    /// Types a line, and waits for the prompt after it; gives what was shown.
    pub fn says(&mut self, line: &str) -> String {
        self.keys(line);
        self.keys("\r");
        self.ready()
    }

    pub fn resize(&mut self, columns: u16) {
        self.session.get_process_mut().set_window_size(columns, 24).unwrap();
    }

    /// The exit code, and what was shown until then.
    pub fn end(mut self) -> (i32, String) {
        let rest = self.session.expect(Eof).unwrap();
        let rest = String::from_utf8_lossy(rest.as_bytes()).into_owned();
        match self.session.get_process().wait().unwrap() {
            WaitStatus::Exited(_, code) => (code, rest),
            other => panic!("{other:?}: {rest}"),
        }
    }
}

/// A text without the control sequences of the line editor.
pub fn plain(text: &str) -> String {
    let sequences = regex::Regex::new("\u{1b}\\[[0-9;?]*[a-zA-Z]").unwrap();
    sequences.replace_all(text, "").replace('\r', "")
}
