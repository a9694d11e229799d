//! Requests that mean no good: each gets its status, and the server goes on.

#![allow(clippy::unwrap_used, clippy::expect_used)]

mod server;

use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::time::{Duration, Instant};

use server::Server;

/// Sends bytes and reads what comes until the connection ends. The status is 0 where nothing came.
fn raw(server: &Server, bytes: &[u8]) -> (u16, String) {
    let mut stream = TcpStream::connect(address(server)).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
    // The server may answer and close before all has been sent.
    let _ = stream.write_all(bytes);
    let mut answer = Vec::new();
    let _ = stream.read_to_end(&mut answer);
    let text = String::from_utf8_lossy(&answer).into_owned();
    let status = text.split(' ').nth(1).and_then(|s| s.parse().ok()).unwrap_or(0);
    (status, text)
}

fn address(server: &Server) -> &str {
    server.url.trim_start_matches("http://")
}

fn http(method: &str, path: &str, headers: &[(&str, &str)], body: &[u8]) -> Vec<u8> {
    let mut head = format!("{method} {path} HTTP/1.1\r\nConnection: close\r\n");
    if !headers.iter().any(|(n, _)| n.eq_ignore_ascii_case("host")) {
        head.push_str("Host: 127.0.0.1\r\n");
    }
    for (name, value) in headers {
        head.push_str(&format!("{name}: {value}\r\n"));
    }
    head.push_str(&format!("Content-Length: {}\r\n\r\n", body.len()));
    [head.as_bytes(), body].concat()
}

struct Case {
    name: String,
    bytes: Vec<u8>,
    /// What may come back.
    expected: &'static [u16],
}

#[derive(Default)]
struct Table(Vec<Case>);

impl Table {
    fn raw(&mut self, name: impl Into<String>, bytes: impl Into<Vec<u8>>, expected: &'static [u16]) {
        self.0.push(Case { name: name.into(), bytes: bytes.into(), expected });
    }

    fn post(&mut self, path: &str, body: impl AsRef<[u8]>, expected: &'static [u16]) {
        let body = body.as_ref();
        let name = format!("{path} {}", String::from_utf8_lossy(&body[..body.len().min(60)]));
        self.raw(name, http("POST", path, &[], body), expected);
    }

    fn get(&mut self, path: &str, headers: &[(&str, &str)], expected: &'static [u16]) {
        self.raw(format!("GET {path} {headers:?}"), http("GET", path, headers, b""), expected);
    }
}

fn table() -> Table {
    let mut t = Table::default();
    let bad: &[u16] = &[400];
    // Bodies that are no JSON, or not the JSON that is asked for.
    for path in ["/api/generate", "/api/chat", "/v1/chat/completions", "/v1/messages"] {
        t.post(path, "", bad);
        t.post(path, "   ", bad);
        t.post(path, "{", bad);
        t.post(path, "nonsense", bad);
        t.post(path, "[]", bad);
        t.post(path, b"{\"model\": \"\xff\xfe\"}", bad);
        t.post(path, r#"{"model": 7}"#, bad);
        t.post(path, r#"{"model": "story"} {"model": "story"}"#, bad);
        t.post(path, "[".repeat(100_000), bad);
        t.post(path, format!("{{\"model\": {}1{}}}", "{\"a\":".repeat(5000), "}".repeat(5000)), bad);
        t.post(path, format!("{{\"model\": \"{}\"}}", "x".repeat(9 << 20)), &[413]);
    }
    // Numbers.
    for value in ["1e999", "NaN", "\"many\"", "[]", "1.5", "{}"] {
        let options =
            format!(r#"{{"model": "story", "prompt": "a", "options": {{"num_predict": {value}}}}}"#);
        t.post("/api/generate", options, bad);
    }
    for (name, value) in [
        ("temperature", "-1"),
        ("temperature", "\"hot\""),
        ("top_p", "2"),
        ("top_k", "9223372036854775808"),
        ("seed", "1e300"),
        ("num_ctx", "\"x\""),
        ("stop", "7"),
        ("repeat_penalty", "null, \"top_p\": []"),
    ] {
        let options = format!(r#"{{"model": "story", "prompt": "a", "options": {{"{name}": {value}}}}}"#);
        t.post("/api/generate", options, bad);
    }
    for (name, value) in [
        ("n", "0"),
        ("n", "100000"),
        ("temperature", "99"),
        ("top_logprobs", "21"),
        ("max_tokens", "-1"),
        ("logit_bias", "{\"x\": 1}"),
        ("logit_bias", "{\"99999999\": 1}"),
        ("no_such_field", "1"),
        ("stop", "[1]"),
        ("messages", "7"),
        ("messages", "[]"),
        ("response_format", "{\"type\": \"xml\"}"),
        ("tool_choice", "\"must\""),
        ("stream", "\"yes\""),
    ] {
        let messages =
            if name == "messages" { "" } else { r#", "messages": [{"role": "user", "content": "a"}]"# };
        t.post("/v1/chat/completions", format!(r#"{{"model": "story", "{name}": {value}{messages}}}"#), bad);
    }
    t.post("/api/generate", r#"{"model": "story", "prompt": "a", "top_logprobs": 99}"#, bad);
    t.post("/api/generate", r#"{"model": "story", "prompt": "a", "keep_alive": "soon"}"#, bad);
    t.post("/api/generate", r#"{"model": "story", "prompt": "a", "format": "xml"}"#, bad);
    t.post(
        "/api/generate",
        r#"{"model": "story", "prompt": "a", "format": {"type": "object", "not": {}}}"#,
        bad,
    );
    t.post("/api/generate", r#"{"model": "story", "prompt": "a", "raw": true, "system": "b"}"#, bad);
    t.post("/api/chat", r#"{"model": "story", "messages": [{"role": 3}]}"#, bad);
    t.post("/v1/messages", r#"{"model": "story", "messages": [{"role": "user", "content": "a"}]}"#, bad);
    t.post(
        "/v1/messages",
        r#"{"model": "story", "max_tokens": 0, "messages": [{"role": "user", "content": "a"}]}"#,
        bad,
    );
    t.post("/api/embed", r#"{"model": "story", "input": 7}"#, bad);
    t.post("/v1/embeddings", r#"{"model": "story", "input": []}"#, bad);
    // Names and digests that look like paths.
    let none: &[u16] = &[400, 404];
    for name in [
        "../../etc/passwd",
        "/etc/passwd",
        "a/../../b",
        "..",
        "%2e%2e",
        "a\\u0000b",
        "c:\\\\x",
        "story:../x",
        "",
    ] {
        t.post("/api/show", format!(r#"{{"model": "{name}"}}"#), none);
        t.post("/api/generate", format!(r#"{{"model": "{name}", "prompt": "a"}}"#), none);
    }
    t.post("/api/show", format!(r#"{{"model": "{}"}}"#, "n".repeat(10_000)), none);
    t.post("/api/copy", r#"{"source": "../x", "destination": "y"}"#, none);
    t.post("/api/copy", r#"{"source": "story", "destination": "../../y"}"#, none);
    t.post("/api/create", r#"{"model": "x", "from": "/etc/passwd", "stream": false}"#, none);
    t.post("/api/create", r#"{"model": "x", "files": {"../x": "sha256:00"}, "stream": false}"#, none);
    for digest in [
        "sha256:",
        "sha256:..%2f..%2fx",
        "sha256:zz",
        &format!("sha256:{}", "0".repeat(63)),
        &format!("sha256:{}", "0".repeat(65)),
        "..",
        "%00",
    ] {
        t.raw(format!("HEAD blob {digest}"), http("HEAD", &format!("/api/blobs/{digest}"), &[], b""), none);
        t.raw(format!("POST blob {digest}"), http("POST", &format!("/api/blobs/{digest}"), &[], b"x"), none);
    }
    t.raw(
        "a blob of other bytes",
        http("POST", &format!("/api/blobs/sha256:{}", "0".repeat(64)), &[], b"x"),
        bad,
    );
    // Paths and methods.
    t.get("/no/such/path", &[], &[404]);
    t.get("/../../etc/passwd", &[], &[400, 404]);
    t.get("/v1/models/..%2f..%2fetc", &[], none);
    t.get("/page/..%2f..%2fetc%2fpasswd", &[], none);
    t.get("/api/generate", &[], &[405]);
    t.raw("DELETE /api/tags", http("DELETE", "/api/tags", &[], b""), &[405]);
    t.raw("an unknown method", http("BREW", "/api/tags", &[], b""), &[405]);
    t.get(&format!("/{}", "a".repeat(100_000)), &[], &[414, 431, 400, 404]);
    // Who speaks.
    for host in ["evil.example", "localhost.evil.example", "8.8.8.8", "evil.example:11434"] {
        t.get("/api/tags", &[("Host", host)], &[403]);
    }
    for origin in ["https://evil.example", "null", "http://localhost.evil.example", "file"] {
        t.get("/api/tags", &[("Origin", origin)], &[403]);
        let simple = http(
            "POST",
            "/api/generate",
            &[("Origin", origin), ("Content-Type", "text/plain")],
            b"{\"model\": \"story\"}",
        );
        t.raw(format!("a simple request of {origin}"), simple, &[403]);
    }
    // HTTP itself.
    t.raw("no HTTP", b"hello\r\n\r\n".as_slice(), &[400]);
    t.raw("binary", (0..=255u8).collect::<Vec<u8>>(), &[400, 0]);
    t.raw(
        "TLS on a plain port",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n".as_slice(),
        &[400, 0],
    );
    t.raw(
        "two lengths",
        b"POST /api/chat HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\nContent-Length: 4\r\n\r\nabc".as_slice(),
        &[400],
    );
    t.raw(
        "a negative length",
        b"POST /api/chat HTTP/1.1\r\nHost: localhost\r\nContent-Length: -1\r\n\r\n".as_slice(),
        &[400],
    );
    t.raw(
        "a huge length",
        b"POST /api/chat HTTP/1.1\r\nHost: localhost\r\nContent-Length: 99999999999999\r\n\r\n".as_slice(),
        &[413],
    );
    t.raw("a bad chunk", b"POST /api/chat HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n".as_slice(), &[400]);
    t.raw("length and chunks", b"POST /api/chat HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nContent-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n".as_slice(), &[400]);
    let many: String = (0..10_000).map(|i| format!("x-{i}: y\r\n")).collect();
    t.raw("many headers", format!("GET /api/tags HTTP/1.1\r\nHost: localhost\r\n{many}\r\n"), &[431]);
    let long = "y".repeat(1 << 20);
    t.raw("a long header", format!("GET /api/tags HTTP/1.1\r\nHost: localhost\r\nx: {long}\r\n\r\n"), &[431]);
    t.raw(
        "garbage in the pipeline",
        [&http("GET", "/api/version", &[], b"")[..], b"\x00\x01garbage\r\n\r\n"].concat(),
        &[200],
    );
    t
}

#[test]
fn each_gets_its_status_and_the_server_goes_on() {
    let server = Server::start_with(&["--limit-body-idle", "2", "--limit-header-time", "2"]);
    let table = table();
    assert!(table.0.len() >= 80, "{} cases", table.0.len());
    let mut wrong = Vec::new();
    for case in &table.0 {
        let started = Instant::now();
        let (status, answer) = raw(&server, &case.bytes);
        if !case.expected.contains(&status) {
            let shown: String = answer.chars().take(300).collect();
            wrong.push(format!("{}: {status}, expected {:?}\n    {shown}", case.name, case.expected));
        }
        if answer.contains("/tmp/") || answer.contains("/root") || answer.contains("panicked") {
            wrong.push(format!("{}: tells of the host: {answer}", case.name));
        }
        if started.elapsed() > Duration::from_secs(5) {
            wrong.push(format!("{}: took {:?}", case.name, started.elapsed()));
        }
        let (status, _) = raw(&server, &http("GET", "/api/version", &[], b""));
        assert_eq!(status, 200, "after {}", case.name);
    }
    println!("{} cases", table.0.len());
    assert!(wrong.is_empty(), "{} of {}:\n{}", wrong.len(), table.0.len(), wrong.join("\n"));
}

/// A prompt larger than any context is cut, or refused with both sizes.
#[test]
fn a_prompt_of_megabytes_is_an_answer() {
    let server = Server::start_with(&[]);
    let prompt = "Once upon a time. ".repeat(200_000);
    let body = serde_json::json!({"model": "story", "prompt": prompt, "stream": false, "options": {"num_predict": 2}});
    let (status, answer) = raw(&server, &http("POST", "/api/generate", &[], body.to_string().as_bytes()));
    assert_eq!(status, 200, "{}", answer.chars().take(300).collect::<String>());
    assert!(answer.contains("\"truncated\""), "{}", answer.chars().take(300).collect::<String>());
    let body = serde_json::json!({"model": "story", "messages": [{"role": "user", "content": prompt}]});
    let (status, answer) =
        raw(&server, &http("POST", "/v1/chat/completions", &[], body.to_string().as_bytes()));
    assert_eq!(status, 400);
    assert!(answer.contains("context_length_exceeded") && answer.contains("tokens"), "{answer}");
}

#[test]
fn slow_clients_are_not_waited_for() {
    let server = Server::start_with(&["--limit-body-idle", "1", "--limit-header-time", "1"]);
    let slow = |head: &str| {
        let mut stream = TcpStream::connect(address(&server)).unwrap();
        stream.write_all(head.as_bytes()).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
        let (started, mut answer) = (Instant::now(), String::new());
        let _ = stream.read_to_string(&mut answer);
        assert!(started.elapsed() < Duration::from_secs(5), "{head} {:?}", started.elapsed());
        answer
    };
    let body = slow("POST /api/chat HTTP/1.1\r\nHost: localhost\r\nContent-Length: 100\r\n\r\n{\"model\"");
    assert!(body.starts_with("HTTP/1.1 408"), "{body}");
    // No status at all, or 408: the connection ends.
    slow("GET /api/tags HTTP/1.1\r\nHost: localhost\r\nX-Slow");
    // A client that closes its side at once.
    let stream = TcpStream::connect(address(&server)).unwrap();
    stream.shutdown(std::net::Shutdown::Write).unwrap();
    drop(stream);
    let many: Vec<TcpStream> = (0..200).map(|_| TcpStream::connect(address(&server)).unwrap()).collect();
    let started = Instant::now();
    let (status, _) = raw(&server, &http("GET", "/api/version", &[], b""));
    assert_eq!(status, 200);
    assert!(started.elapsed() < Duration::from_millis(500));
    drop(many);
}
