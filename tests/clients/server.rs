//! Starts the real server on a store of its own, and runs what speaks to it.

use std::fs;
use std::io::{BufRead as _, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// The key of a server that wants one.
pub const KEY: &str = "0123456789abcdef0123456789abcdef";

/// A path of the repository.
pub fn root(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(path)
}

/// A store with models in it.
pub struct Place(tempfile::TempDir);

impl Place {
    /// A store with nothing in it.
    pub fn new() -> Place {
        Place(tempfile::tempdir().unwrap())
    }

    /// The folder of the store and of what a test needs beside it.
    pub fn path(&self) -> &Path {
        self.0.path()
    }

    fn mdl(&self) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_mdl"));
        // Nothing that the machine's owner has set up.
        for (name, _) in std::env::vars_os() {
            let text = name.to_string_lossy();
            if text.starts_with("OLLAMA_") || (text.starts_with("MDL_") && text != "MDL_LOG") {
                command.env_remove(&name);
            }
        }
        command.arg("--store").arg(self.path().join("store")).args(["--progress", "none", "--threads", "2"]);
        // Nobody elsewhere is spoken to.
        command.env("MDL_OFFLINE", "1").stdin(Stdio::null());
        command
    }

    /// Builds a Modelfile and gives the result a name.
    pub fn build(&self, modelfile: &Path, name: &str) {
        let built = self.mdl().args(["build", "-q", "q8_0", "-t", name]).arg(modelfile).output().unwrap();
        assert!(built.status.success(), "{}", String::from_utf8_lossy(&built.stderr));
    }

    /// Builds the storyteller as `story`.
    pub fn build_story(&self) {
        self.build(&root("testdata/storyteller/Modelfile"), "story");
    }

    /// Serves the store at a free port.
    pub fn serve(&self, arguments: &[&str]) -> Server {
        let mut child = self
            .mdl()
            .args(["serve", "--host", "127.0.0.1:0"])
            .args(arguments)
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut log = BufReader::new(child.stderr.take().unwrap());
        let mut head = String::new();
        let url = loop {
            let start = head.len();
            assert!(log.read_line(&mut head).unwrap() > 0, "the server did not start:\n{head}");
            if let Some((_, url)) = head[start..].split_once("listening on ") {
                break url.trim().to_owned();
            }
        };
        // What is not read would stop the server; what it says helps when a test fails.
        std::thread::spawn(move || {
            for line in log.lines().map_while(Result::ok) {
                if std::env::var_os("MDL_LOG").is_some() {
                    eprintln!("{line}");
                }
            }
        });
        Server { child, url }
    }
}

/// A server; dropping it ends it.
pub struct Server {
    child: Child,
    /// `http://127.0.0.1:PORT`.
    pub url: String,
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// True where tests of clients must run; else those whose programs are missing are skipped.
fn required() -> bool {
    std::env::var_os("MDL_REQUIRE_CLIENTS").is_some_and(|v| v == "1")
}

/// Says that a test is skipped, or fails where it must run.
pub fn skip(why: &str) {
    assert!(!required(), "{why}, and MDL_REQUIRE_CLIENTS is 1");
    eprintln!("skipped: {why}");
}

/// Node, where it and the packages of `tests/clients/package.json` are there.
pub fn node() -> Option<Command> {
    let program = std::env::var_os("MDL_NODE").unwrap_or_else(|| "node".into());
    let runs = Command::new(&program).arg("--version").output().is_ok_and(|o| o.status.success());
    if !runs {
        skip("there is no node");
        return None;
    }
    if !root("tests/clients/node_modules/playwright-core").exists() {
        skip("there is no tests/clients/node_modules; `npm ci` makes it");
        return None;
    }
    Some(Command::new(program))
}

/// Python, where it has these packages of `tests/clients/requirements.txt`: `MDL_PYTHON`, or `python3`.
#[allow(dead_code, reason = "the tests of the page need none")]
pub fn python(packages: &str) -> Option<Command> {
    let program = std::env::var_os("MDL_PYTHON").unwrap_or_else(|| "python3".into());
    let imports = format!("import {packages}");
    let runs = Command::new(&program).args(["-c", &imports]).output().is_ok_and(|o| o.status.success());
    if !runs {
        skip(&format!("there is no python with {packages}"));
        return None;
    }
    let mut command = Command::new(program);
    command.env("PYTHONDONTWRITEBYTECODE", "1");
    Some(command)
}

/// Runs a script that must succeed within a time; what it says is in the failure.
pub fn succeeds(mut command: Command, directory: &Path, time: Duration) {
    let path = directory.join(format!("said-{:?}.txt", std::thread::current().id()));
    let said = fs::File::create(&path).unwrap();
    // Proxies are for what is elsewhere.
    for name in ["http_proxy", "https_proxy", "all_proxy", "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"] {
        command.env_remove(name);
    }
    let mut child =
        command.stdin(Stdio::null()).stdout(said.try_clone().unwrap()).stderr(said).spawn().unwrap();
    let end = Instant::now() + time;
    let status = loop {
        match child.try_wait().unwrap() {
            Some(status) => break status.to_string(),
            None if Instant::now() > end => {
                let _ = child.kill();
                let _ = child.wait();
                break format!("killed after {time:?}");
            }
            None => std::thread::sleep(Duration::from_millis(50)),
        }
    };
    let text = fs::read_to_string(&path).unwrap();
    assert!(status == "exit status: 0", "{status}\n{text}");
    println!("{text}");
}
