//! `mdl serve` as a client sees it: a process on a free port, with a store of its own.

#![allow(dead_code, reason = "each test binary uses a part of it")]

use std::io::{BufRead as _, BufReader, Read, Write as _};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc;
use std::time::{Duration, Instant};

use serde_json::{Value, json};
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

/// An answer with its head, as it came.
#[derive(Debug)]
pub struct Raw {
    pub status: u16,
    /// In lower case, each ended by `\r\n`.
    pub head: String,
    /// Without the sizes of chunks.
    pub body: String,
}

impl Raw {
    /// Reads until the connection ends.
    pub fn read(mut stream: impl Read) -> Raw {
        let mut bytes = Vec::new();
        // A connection that breaks leaves what came before.
        let _ = stream.read_to_end(&mut bytes);
        let end = bytes.windows(4).position(|w| w == b"\r\n\r\n").unwrap_or(bytes.len());
        let (head, mut rest) = (String::from_utf8_lossy(&bytes[..end]), &bytes[(end + 4).min(bytes.len())..]);
        let status = head.split(' ').nth(1).and_then(|s| s.parse().ok()).unwrap_or(0);
        let head = format!("{}\r\n", head.to_lowercase());
        let mut body = Vec::new();
        if head.contains("transfer-encoding: chunked") {
            while let Some(line) = rest.windows(2).position(|w| w == b"\r\n") {
                let size = String::from_utf8_lossy(&rest[..line]);
                let start = line + 2;
                let end = usize::from_str_radix(&size, 16).unwrap_or(0).saturating_add(start).min(rest.len());
                body.extend_from_slice(&rest[start..end]);
                rest = &rest[(end + 2).min(rest.len())..];
            }
        } else {
            body.extend_from_slice(rest);
        }
        let body = String::from_utf8_lossy(&body).into_owned();
        Raw { status, head, body }
    }

    /// The value of a header.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.head.lines().find_map(|l| l.strip_prefix(name)?.strip_prefix(": "))
    }

    /// The body as JSON.
    pub fn json(&self) -> Value {
        serde_json::from_str(&self.body).unwrap_or_else(|e| panic!("{e}: {}", self.body))
    }
}

/// A request whose answer does not end by itself.
pub fn endless() -> String {
    let options = json!({"temperature": 0, "num_predict": 1_000_000});
    json!({"model": "story", "prompt": "Emma was", "raw": true, "options": options}).to_string()
}

/// Waits until something holds.
pub fn until(what: &str, time: Duration, holds: impl Fn() -> bool) {
    let end = Instant::now() + time;
    while !holds() {
        assert!(Instant::now() < end, "{what} does not hold after {time:?}");
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// A request after which the connection ends.
pub fn http(method: &str, path: &str, headers: &str, body: &str) -> String {
    let host = if headers.to_lowercase().contains("host:") { "" } else { "Host: localhost\r\n" };
    let length = body.len();
    format!(
        "{method} {path} HTTP/1.1\r\n{host}Connection: close\r\n{headers}Content-Length: {length}\r\n\r\n{body}"
    )
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

/// What a server is started with. Its store has the storyteller as `story`.
pub struct Setup {
    command: Command,
    place: tempfile::TempDir,
}

impl Setup {
    /// At a free port.
    pub fn new() -> Setup {
        Setup::at("127.0.0.1:0")
    }

    /// At an address; `{}` in it stands for a directory of the test's own.
    pub fn at(host: &str) -> Setup {
        let place = tempfile::tempdir().unwrap();
        let built = mdl(place.path())
            .args(["--progress", "none", "build", "-q", "q8_0", "-t", "story"])
            .arg(testdata("storyteller/Modelfile"))
            .output()
            .unwrap();
        assert!(built.status.success(), "{}", String::from_utf8_lossy(&built.stderr));
        let mut command = mdl(place.path());
        let host = host.replace("{}", place.path().to_str().unwrap());
        command.args(["--threads", "2", "serve", "--host", &host]);
        Setup { command, place }
    }

    /// A directory of the test's own.
    pub fn place(&self) -> &Path {
        self.place.path()
    }

    pub fn arguments<A: AsRef<std::ffi::OsStr>>(mut self, arguments: impl IntoIterator<Item = A>) -> Setup {
        self.command.args(arguments);
        self
    }

    pub fn variable(mut self, name: &str, value: &str) -> Setup {
        self.command.env(name, value);
        self
    }

    /// Starts it and waits until it listens.
    pub fn start(mut self) -> Server {
        let mut child = self.command.stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
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
        Server { child, url, agent: config.into(), place: self.place }
    }
}

impl Server {
    /// A server whose store has the storyteller as `story`.
    pub fn start() -> Server {
        Server::start_with(&[])
    }

    /// The same, with more arguments.
    pub fn start_with(arguments: &[&str]) -> Server {
        Setup::new().arguments(arguments).start()
    }

    /// Sends a request, with all of its head but the method, the path and what says how it ends, and leaves
    /// the answer to be read.
    pub fn open(&self, method: &str, path: &str, headers: &str, body: &str) -> TcpStream {
        let mut stream = TcpStream::connect(self.url.trim_start_matches("http://")).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
        stream.write_all(http(method, path, headers, body).as_bytes()).unwrap();
        stream
    }

    /// Sends a request with headers, each ended by `\r\n`, and reads the whole answer, head included.
    pub fn raw(&self, method: &str, path: &str, headers: &str, body: &str) -> Raw {
        Raw::read(self.open(method, path, headers, body))
    }

    /// Asks the process to end.
    pub fn terminate(&self) {
        let killed = Command::new("kill").args(["-TERM", &self.child.id().to_string()]).status().unwrap();
        assert!(killed.success());
    }

    /// Waits for the process's end, so long at most.
    pub fn ends_within(&mut self, time: Duration) -> ExitStatus {
        let until = Instant::now() + time;
        loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                return status;
            }
            assert!(Instant::now() < until, "the server still runs after {time:?}");
            std::thread::sleep(Duration::from_millis(10));
        }
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
    // A test that wants a network says so.
    command.env("MDL_OFFLINE", "1");
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}
