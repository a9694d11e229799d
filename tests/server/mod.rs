//! `mdl serve` as a client sees it: a process on a free port, with a store of its own.

#![allow(dead_code, reason = "each test binary uses a part of it")]

use std::io::{BufRead as _, BufReader, Read as _};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc;
use std::time::Duration;

use serde_json::Value;
use sha2::{Digest as _, Sha256};

/// A running server. It is killed when this is dropped.
pub struct Server {
    child: Child,
    /// `http://127.0.0.1:PORT`.
    pub url: String,
    agent: ureq::Agent,
    place: tempfile::TempDir,
}

/// An answer.
pub struct Answer {
    pub status: u16,
    pub content_type: String,
    pub body: String,
}

impl Answer {
    /// The body as JSON.
    pub fn json(&self) -> Value {
        serde_json::from_str(&self.body).unwrap_or_else(|e| panic!("{e}: {}", self.body))
    }

    /// The body as lines of JSON.
    pub fn lines(&self) -> Vec<Value> {
        assert_eq!(self.content_type, "application/x-ndjson", "{}", self.body);
        self.body.lines().map(|l| serde_json::from_str(l).unwrap()).collect()
    }

    /// The text of the error that it is, of this status.
    pub fn error(&self, status: u16) -> String {
        assert_eq!(self.status, status, "{}", self.body);
        self.json()["error"].as_str().unwrap_or_else(|| panic!("{}", self.body)).to_owned()
    }
}

pub fn testdata(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("testdata").join(path)
}

impl Server {
    /// A server whose store has the storyteller as `story`.
    pub fn start() -> Server {
        Server::start_with(&[])
    }

    /// The same, with more arguments.
    pub fn start_with(arguments: &[&str]) -> Server {
        let place = tempfile::tempdir().unwrap();
        let built = mdl(place.path())
            .args(["--progress", "none", "build", "-q", "q8_0", "-t", "story"])
            .arg(testdata("storyteller/Modelfile"))
            .output()
            .unwrap();
        assert!(built.status.success(), "{}", String::from_utf8_lossy(&built.stderr));
        let mut child = mdl(place.path())
            .args(["--threads", "2", "serve", "--host", "127.0.0.1:0"])
            .args(arguments)
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut log = BufReader::new(child.stderr.take().unwrap());
        let (sender, found) = mpsc::channel();
        std::thread::spawn(move || {
            let mut line = String::new();
            // Read to the end, so that the server never waits for room to log.
            while log.read_line(&mut line).is_ok_and(|n| n > 0) {
                if let Some((_, url)) = line.split_once("listening on ") {
                    let _ = sender.send(url.trim().to_owned());
                }
                if std::env::var_os("MDL_TEST_LOG").is_some() {
                    eprint!("{line}");
                }
                line.clear();
            }
        });
        let url = found.recv_timeout(Duration::from_secs(30)).expect("the server did not start");
        let config = ureq::Agent::config_builder()
            .http_status_as_error(false)
            .timeout_global(Some(Duration::from_secs(120)))
            .build();
        Server { child, url, agent: config.into(), place }
    }

    /// The store's directory.
    pub fn store(&self) -> PathBuf {
        self.place.path().join("store")
    }

    /// `mdl` on the server's store.
    pub fn mdl(&self) -> Command {
        mdl(self.place.path())
    }

    /// Any request.
    pub fn send(&self, method: &str, path: &str, body: impl Into<Vec<u8>>) -> Answer {
        let request = ureq::http::Request::builder()
            .method(method)
            .uri(format!("{}{path}", self.url))
            .body(body.into())
            .unwrap();
        let request = self.agent.configure_request(request).allow_non_standard_methods(true).build();
        let mut response = self.agent.run(request).unwrap();
        let content_type = response.headers().get("content-type");
        let content_type = content_type.map(|v| v.to_str().unwrap().to_owned()).unwrap_or_default();
        let status = response.status().as_u16();
        let mut body = Vec::new();
        response.body_mut().as_reader().read_to_end(&mut body).unwrap();
        Answer { status, content_type, body: String::from_utf8(body).unwrap() }
    }

    /// Asserts that the API's description has this answer to this request, and that its body is as described.
    pub fn conforms(&self, method: &str, path: &str, answer: &Answer) {
        let api = self.send("GET", "/openapi.json", "").json();
        let item = &api["paths"][path][method.to_lowercase()];
        let described = &item["responses"][answer.status.to_string()];
        assert!(described.is_object(), "{method} {path}: {} is not described", answer.status);
        let content_type = answer.content_type.as_str();
        if answer.body.is_empty() {
            return;
        }
        let mut schema = described["content"][content_type]["schema"].clone();
        assert!(schema.is_object(), "{method} {path} {}: {content_type} is not described", answer.status);
        schema["components"] = api["components"].clone();
        let validator = jsonschema::validator_for(&schema).unwrap();
        let bodies = match content_type {
            "application/x-ndjson" => answer.lines(),
            _ => vec![answer.json()],
        };
        for body in bodies {
            let wrong: Vec<String> =
                validator.iter_errors(&body).map(|e| format!("{}: {e}", e.instance_path())).collect();
            assert!(wrong.is_empty(), "{method} {path}: {wrong:#?}\n{body}");
        }
    }

    pub fn get(&self, path: &str) -> Answer {
        self.send("GET", path, "")
    }

    pub fn post(&self, path: &str, body: Value) -> Answer {
        self.send("POST", path, body.to_string())
    }
}

/// `sha256:` and 64 digits.
pub fn digest(bytes: &[u8]) -> String {
    let hex: String = Sha256::digest(bytes).iter().map(|b| format!("{b:02x}")).collect();
    format!("sha256:{hex}")
}

/// The names of the models there are.
pub fn names(server: &Server) -> Vec<String> {
    let models = server.get("/api/tags").json()["models"].clone();
    models.as_array().unwrap().iter().map(|m| m["name"].as_str().unwrap().to_owned()).collect()
}

/// No error tells where the store is.
pub fn keeps_the_place_secret(server: &Server, answer: &Answer) {
    let place = server.store();
    let secret = place.parent().unwrap().to_str().unwrap();
    assert!(!answer.body.contains(secret), "{}", answer.body);
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn mdl(place: &Path) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_mdl"));
    command.arg("--store").arg(place.join("store"));
    for (name, _) in std::env::vars().filter(|(n, _)| n.starts_with("MDL_") || n.starts_with("OLLAMA_")) {
        command.env_remove(name);
    }
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}
