//! The server as its operator sees it: sockets, keys, readiness, metrics, the end.

#![allow(clippy::unwrap_used, clippy::expect_used)]

mod server;

use std::collections::BTreeMap;
use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::os::unix::net::{UnixListener, UnixStream};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use server::{Raw, Server, Setup, endless, http, until};

const KEY: &str = "0123456789abcdef0123456789abcdef";

/// Method and path of every operation that is described; what is variable stands for something.
fn routes(description: &Value) -> Vec<(String, String)> {
    let digest = format!("sha256:{}", "0".repeat(64));
    let mut all = Vec::new();
    for (path, item) in description["paths"].as_object().unwrap() {
        let path = path.replace("{digest}", &digest).replace("{model}", "story");
        for method in ["get", "head", "post", "delete", "put", "patch"] {
            if item[method].is_object() {
                all.push((method.to_uppercase(), path.clone()));
            }
        }
    }
    assert!(all.len() >= 28, "{all:?}");
    all
}

#[test]
fn running_answers_may_end_when_it_is_told_to_stop() {
    let mut server = Server::start_with(&["--limit-drain", "3", "--parallel", "16"]);
    let short =
        json!({"model": "story", "prompt": "Emma was", "max_tokens": 50, "temperature": 0, "stream": true});
    let mut readers = Vec::new();
    for i in 0..16 {
        let mut stream = match i % 2 {
            0 => server.open("POST", "/api/generate", "", &endless()),
            _ => server.open("POST", "/v1/completions", "", &short.to_string()),
        };
        // The answer has begun.
        let mut start = [0; 12];
        stream.read_exact(&mut start).unwrap();
        assert_eq!(&start, b"HTTP/1.1 200");
        readers.push(std::thread::spawn(move || (i, Raw::read(start.as_slice().chain(stream)))));
    }
    let idle = TcpStream::connect(server.url.trim_start_matches("http://")).unwrap();
    let address = server.url.trim_start_matches("http://").to_owned();
    let told = Instant::now();
    server.terminate();
    // Within a moment, and for all the time that the rest takes.
    std::thread::sleep(Duration::from_millis(300));
    for _ in 0..5 {
        if let Ok(mut stream) = TcpStream::connect(&address) {
            let _ = stream.write_all(http("GET", "/api/tags", "", "").as_bytes());
            let status = Raw::read(stream).status;
            assert!(matches!(status, 0 | 503), "{status}");
        }
        std::thread::sleep(Duration::from_millis(100));
    }
    let status = server.ends_within(Duration::from_secs(8));
    let took = told.elapsed();
    assert_eq!(status.code(), Some(0));
    assert!(took >= Duration::from_secs(3) && took < Duration::from_secs(6), "{took:?}");
    for reader in readers {
        let (i, answer) = reader.join().unwrap();
        if i % 2 == 1 {
            assert!(answer.body.ends_with("data: [DONE]\n\n"), "{}", answer.body);
        } else {
            let last = answer.body.lines().last().unwrap();
            assert_eq!(last, r#"{"error":"the server is shutting down"}"#);
            assert!(answer.body.lines().count() > 10);
        }
    }
    drop(idle);
}

#[test]
fn an_idle_server_stops_at_once() {
    let mut server = Server::start();
    assert_eq!(server.get("/api/version").status, 200);
    let told = Instant::now();
    server.terminate();
    assert_eq!(server.ends_within(Duration::from_secs(5)).code(), Some(0));
    assert!(told.elapsed() < Duration::from_secs(2), "{:?}", told.elapsed());
}

#[test]
fn every_route_but_those_of_health_asks_for_a_key() {
    let setup = Setup::new();
    let keys = setup.place().join("keys");
    std::fs::write(&keys, format!("# of the test\nfedcba9876543210fedcba9876543210\n{KEY}\n")).unwrap();
    let server = setup.arguments(["--api-keys-file", keys.to_str().unwrap()]).start();
    let bearer = format!("Authorization: Bearer {KEY}\r\n");
    let x_api_key = format!("x-api-key: {KEY}\r\n");
    let description = server.raw("GET", "/openapi.json", &bearer, "").json();
    let mut all = routes(&description);
    all.push(("GET".to_owned(), "/openapi.json".to_owned()));
    all.push(("GET".to_owned(), "/no/such/path".to_owned()));
    for (method, path) in &all {
        let status = |headers: &str| server.raw(method, path, headers, "{}").status;
        let open = matches!(path.as_str(), "/healthz" | "/readyz");
        for wrong in [
            "",
            "Authorization: Bearer 0123456789abcdef0123456789abcdee\r\n",
            "Authorization: Bearer \r\n",
            "Authorization: Basic 0123456789abcdef0123456789abcdef\r\n",
            "x-api-key: 0123456789abcdef\r\n",
            "Cookie: key=0123456789abcdef0123456789abcdef\r\n",
        ] {
            assert_eq!(status(wrong) == 401, !open, "{method} {path} {wrong}");
        }
        for right in [&bearer, &x_api_key, &bearer.replace("Bearer", "bearer")] {
            let status = status(right);
            assert!(status != 401 && status < 502, "{method} {path} {right}: {status}");
        }
    }
    // A refusal has the shape of its dialect, and says what is wanted.
    let refused = |path: &str| server.raw("POST", path, "", "{}");
    assert_eq!(refused("/api/chat").header("www-authenticate"), Some("bearer"));
    assert!(refused("/api/chat").json()["error"].is_string());
    assert_eq!(refused("/v1/chat/completions").json()["error"]["type"], "authentication_error");
    assert_eq!(refused("/v1/messages").json()["type"], "error");
    for path in ["/", "/reference"] {
        assert_eq!(server.raw("GET", path, "", "").status, 200, "{path}");
    }
}

#[test]
fn pages_of_other_sites_may_not_call() {
    let server = Server::start_with(&["--origin", "https://*.friend.example"]);
    let allowed = "access-control-allow-origin";
    for (origin, may) in [
        ("https://evil.example", false),
        ("https://friend.example.evil.example", false),
        ("null", false),
        ("https://a.friend.example", true),
        ("http://localhost:3000", true),
        ("http://127.0.0.1", true),
    ] {
        let header = format!("Origin: {origin}\r\n");
        let asked = format!("{header}Access-Control-Request-Method: POST\r\n");
        let before = server.raw("OPTIONS", "/api/chat", &asked, "");
        let answer = server.raw("GET", "/api/tags", &header, "");
        let statuses = (before.status, answer.status);
        assert_eq!(statuses, if may { (204, 200) } else { (403, 403) }, "{origin}");
        for answer in [&before, &answer] {
            assert_eq!(answer.header(allowed), may.then_some(origin), "{origin}");
            assert_eq!(answer.head.contains("access-control"), may, "{origin}: {}", answer.head);
        }
        if may {
            assert!(before.header("access-control-allow-headers").unwrap().contains("authorization"));
            assert!(before.header("access-control-allow-methods").unwrap().contains("post"));
        }
    }
    // Errors can be read, too.
    let missing = server.raw("GET", "/no/such/path", "Origin: http://localhost\r\n", "");
    assert_eq!((missing.status, missing.header(allowed)), (404, Some("http://localhost")));
    assert!(!server.raw("GET", "/api/tags", "", "").head.contains("access-control"));
}

#[test]
fn a_read_only_server_answers_and_changes_nothing() {
    let server = Server::start_with(&["--read-only"]);
    let changes = ["/api/create", "/api/copy", "/api/delete", "/api/pull", "/api/push", "/api/blobs/"];
    let mut refused = 0;
    for (method, path) in routes(&server.get("/openapi.json").json()) {
        let change = method != "HEAD" && changes.iter().any(|c| path.starts_with(c));
        let body = if matches!(method.as_str(), "POST" | "DELETE") { "{}" } else { "" };
        let status = server.send(&method, &path, body).status;
        assert_eq!(status == 403, change, "{method} {path}: {status}");
        refused += usize::from(change);
    }
    assert_eq!(refused, changes.len());
    let ask = json!({"model": "story", "prompt": "Emma", "stream": false, "options": {"num_predict": 2}});
    assert_eq!(server.post("/api/generate", ask).status, 200);
    assert_eq!(server.get("/api/tags").json()["models"].as_array().unwrap().len(), 1);
}

/// What is refused before its body has come does not end the connection, unless it says so.
#[test]
fn a_connection_outlives_a_refusal() {
    let server = Server::start_with(&["--read-only"]);
    let after = |method: &str, path: &str, headers: &str, length: usize| {
        let mut stream = TcpStream::connect(server.url.trim_start_matches("http://")).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
        let head = format!(
            "{method} {path} HTTP/1.1\r\nHost: localhost\r\n{headers}Content-Length: {length}\r\n\r\n"
        );
        stream.write_all(head.as_bytes()).unwrap();
        std::thread::sleep(Duration::from_millis(50));
        let _ = stream.write_all(&vec![b' '; length]);
        let _ = stream.write_all(http("GET", "/api/version", "", "").as_bytes());
        let mut all = String::new();
        let _ = stream.read_to_string(&mut all);
        all
    };
    for (method, path, headers) in [
        ("POST", "/api/create", ""),
        ("POST", "/api/chat", "Origin: https://evil.example\r\n"),
        ("POST", "/no/such/path", ""),
        ("PUT", "/api/chat", ""),
    ] {
        let all = after(method, path, headers, 1000);
        assert!(all.starts_with("HTTP/1.1 40"), "{method} {path}: {all}");
        assert!(all.contains("HTTP/1.1 200 OK"), "{method} {path}: {all}");
        let all = after(method, path, headers, 8 << 20).to_lowercase();
        assert!(all.contains("connection: close") && !all.contains("200 ok"), "{method} {path}: {all}");
    }
}

#[test]
fn a_socket_in_the_file_system() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("mdl.sock");
    // What a killed server leaves.
    drop(UnixListener::bind(&path).unwrap());
    assert!(path.exists());
    let host = format!("unix:{}", path.display());
    let mut server = Setup::at(&host).start();
    let mut stream = UnixStream::connect(&path).unwrap();
    stream.write_all(http("GET", "/api/tags", "", "").as_bytes()).unwrap();
    let answer = Raw::read(stream);
    assert_eq!((answer.status, &answer.json()["models"][0]["name"]), (200, &json!("story:latest")));
    // It belongs to the one that listens.
    let second = server.mdl().args(["serve", "--host", &host]).output().unwrap();
    assert!(!second.status.success());
    assert!(String::from_utf8_lossy(&second.stderr).contains("mdl.sock"));
    assert!(UnixStream::connect(&path).is_ok());
    server.terminate();
    assert_eq!(server.ends_within(Duration::from_secs(5)).code(), Some(0));
    assert!(!path.exists());
    // A file that is no socket is left alone.
    std::fs::write(&path, "precious").unwrap();
    let third = server.mdl().args(["serve", "--host", &host]).output().unwrap();
    assert!(!third.status.success());
    assert_eq!(std::fs::read_to_string(&path).unwrap(), "precious");
}

#[test]
fn https() {
    if Command::new("openssl").arg("version").output().is_err() {
        eprintln!("skipped: there is no openssl");
        return;
    }
    let setup = Setup::new();
    let (certificate, key) = (setup.place().join("certificate.pem"), setup.place().join("key.pem"));
    let made = Command::new("openssl")
        .args([
            "req",
            "-x509",
            "-newkey",
            "ec",
            "-pkeyopt",
            "ec_paramgen_curve:P-256",
            "-nodes",
            "-days",
            "1",
        ])
        .args(["-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost"])
        .arg("-keyout")
        .arg(&key)
        .arg("-out")
        .arg(&certificate)
        .output()
        .unwrap();
    assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
    let flags = ["--tls-cert".as_ref(), certificate.as_os_str(), "--tls-key".as_ref(), key.as_os_str()];
    let server = setup.arguments(flags).start();
    let address = server.url.strip_prefix("https://").unwrap().to_owned();
    let mut client = Command::new("openssl")
        .args(["s_client", "-quiet", "-verify_return_error", "-verify_hostname", "localhost"])
        .args(["-connect", &address, "-CAfile"])
        .arg(&certificate)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let mut input = client.stdin.take().unwrap();
    input.write_all(http("GET", "/api/tags", "", "").as_bytes()).unwrap();
    let answer = Raw::read(client.stdout.take().unwrap());
    drop(input);
    client.wait().unwrap();
    assert_eq!((answer.status, &answer.json()["models"][0]["name"]), (200, &json!("story:latest")));
    // What speaks no TLS hears nothing of the models.
    let mut plain = TcpStream::connect(&address).unwrap();
    plain.write_all(http("GET", "/api/tags", "", "").as_bytes()).unwrap();
    let answer = Raw::read(plain);
    assert!(answer.status != 200 && !answer.body.contains("story"), "{answer:?}");
    // Files that are no certificate are named.
    let swapped = ["--tls-cert".as_ref(), key.as_os_str(), "--tls-key".as_ref(), certificate.as_os_str()];
    let wrong = server.mdl().args(["serve", "--host", "127.0.0.1:0"]).args(swapped).output().unwrap();
    assert_eq!(wrong.status.code(), Some(2), "{}", String::from_utf8_lossy(&wrong.stderr));
    assert!(String::from_utf8_lossy(&wrong.stderr).contains(".pem"));
}

#[test]
fn it_is_ready_once_what_it_preloads_is_loaded() {
    let server = Server::start_with(&["--preload", "story"]);
    let end = Instant::now() + Duration::from_secs(20);
    loop {
        let ready = server.get("/readyz");
        let loaded = server.get("/api/ps").json()["models"].as_array().unwrap().len();
        match (ready.status, ready.body.as_str()) {
            (200, "ready") => break assert_eq!(loaded, 1),
            (503, "loading") => assert!(Instant::now() < end),
            other => panic!("{other:?}"),
        }
    }
    assert!(server.get("/api/ps").json()["models"][0]["expires_at"].as_str().unwrap() > "2300");
    assert_eq!(server.get("/api/mdl/usage").json()["models"][0]["expires_in_seconds"], Value::Null);

    let server = Server::start_with(&["--preload", "nobody"]);
    for _ in 0..10 {
        assert_eq!(server.get("/readyz").status, 503);
        std::thread::sleep(Duration::from_millis(100));
    }
    assert_eq!(server.get("/healthz").status, 200);
    // Those who ask are answered: not to be ready is for what sends them here.
    assert_eq!(server.get("/api/tags").status, 200);
}

#[test]
fn a_public_address_needs_keys_or_a_word() {
    let place = tempfile::tempdir().unwrap();
    let mut serve = Command::new(env!("CARGO_BIN_EXE_mdl"));
    serve.arg("--store").arg(place.path()).arg("serve");
    for name in ["MDL_HOST", "MDL_API_KEYS_FILE", "OLLAMA_API_KEYS_FILE"] {
        serve.env_remove(name);
    }
    // As Ollama's users say it.
    let refused = serve.env("OLLAMA_HOST", "0.0.0.0:0").output().unwrap();
    assert_eq!(refused.status.code(), Some(2));
    let by_flag = serve.args(["--host", "[::]:0"]).output().unwrap();
    assert_eq!(by_flag.status.code(), Some(2));
    let told =
        format!("{}\n{}", String::from_utf8_lossy(&refused.stderr), String::from_utf8_lossy(&by_flag.stderr));
    insta::with_settings!({
        snapshot_path => concat!(env!("CARGO_MANIFEST_DIR"), "/snapshots"),
        prepend_module_to_snapshot => false,
    }, {
        insta::assert_snapshot!("server_operations_public", told);
    });
}

/// The samples of an OpenMetrics text, checked line by line.
fn samples(text: &str) -> BTreeMap<String, f64> {
    let mut types = BTreeMap::new();
    let mut all = BTreeMap::new();
    let lines: Vec<&str> = text.lines().collect();
    assert_eq!(lines.last(), Some(&"# EOF"));
    for line in &lines[..lines.len() - 1] {
        if let Some(rest) = line.strip_prefix("# ") {
            let words: Vec<&str> = rest.splitn(3, ' ').collect();
            assert!(matches!(words[0], "HELP" | "TYPE" | "UNIT") && words.len() == 3, "{line}");
            if words[0] == "TYPE" {
                assert!(matches!(words[2], "counter" | "gauge" | "histogram"), "{line}");
                assert!(types.insert(words[1], words[2]).is_none(), "{line}");
            }
            continue;
        }
        let (series, value) = line.rsplit_once(' ').unwrap();
        let value: f64 = value.parse().unwrap_or_else(|_| panic!("{line}"));
        let name = series.split('{').next().unwrap();
        let of = |suffix: &str| name.strip_suffix(suffix).and_then(|n| types.get(n)).copied();
        let is_known = types.get(name) == Some(&"gauge")
            || of("_total") == Some("counter")
            || ["_bucket", "_sum", "_count"].iter().any(|s| of(s) == Some("histogram"));
        assert!(is_known, "{line} has no type");
        if let Some((_, labels)) = series.split_once('{') {
            let labels = labels.strip_suffix('}').unwrap();
            assert!(labels.split(',').all(|l| l.contains("=\"") && l.ends_with('"')), "{line}");
        }
        assert!(all.insert(series.to_owned(), value).is_none(), "{line} comes twice");
    }
    all
}

#[test]
fn metrics_add_up() {
    let server = Server::start_with(&["--parallel", "2"]);
    let scrape = || samples(&server.get("/metrics").body);
    let answers = |all: &BTreeMap<String, f64>| {
        ["started_total", "finished_total", "failed_total", "cancelled_total", "running"]
            .map(|n| all[&format!("mdl_answers_{n}")] as u64)
    };
    let head = server.get("/metrics").content_type;
    assert!(head.starts_with("application/openmetrics-text; version=1.0.0"), "{head}");
    assert_eq!(answers(&scrape()), [0; 5]);
    let ask = |stream: bool| json!({"model": "story", "prompt": "Emma", "stream": stream, "options": {"num_predict": 4, "temperature": 0}});
    for stream in [true, false, true] {
        assert_eq!(server.post("/api/generate", ask(stream)).status, 200);
    }
    let several = json!({"model": "story", "n": 3, "max_tokens": 4, "temperature": 0, "messages": [{"role": "user", "content": "Emma"}]});
    assert_eq!(server.post("/v1/chat/completions", several).status, 200);
    // These begin no answer.
    assert_eq!(server.post("/api/generate", json!({"model": "nobody", "prompt": "x"})).status, 404);
    assert_eq!(server.post("/api/generate", json!({"model": "story", "prompt": 1})).status, 400);
    assert_eq!(answers(&scrape()), [6, 6, 0, 0, 0]);
    // Two run, three wait; then all go.
    let open: Vec<TcpStream> = (0..5).map(|_| server.open("POST", "/api/generate", "", &endless())).collect();
    let moment = Duration::from_secs(5);
    until("all run or wait", moment, || answers(&scrape()) == [11, 6, 0, 0, 5]);
    until("three wait", moment, || scrape()["mdl_requests_waiting"] == 3.0);
    drop(open);
    until("all have gone", moment, || answers(&scrape()) == [11, 6, 0, 5, 0]);
    until("none waits", moment, || scrape()["mdl_requests_waiting"] == 0.0);
    let all = scrape();
    assert_eq!(all["mdl_slots{model=\"story:latest\"}"], 2.0);
    assert_eq!(all["mdl_generated_tokens_total"], 24.0);
    for histogram in ["prompt", "time_to_first_token", "inter_token"] {
        let name = format!("mdl_{histogram}_seconds");
        let mut buckets: Vec<(f64, f64)> = Vec::new();
        for (series, count) in all.iter().filter(|(s, _)| s.starts_with(&format!("{name}_bucket"))) {
            let le = series.split("le=\"").nth(1).unwrap().trim_end_matches("\"}");
            buckets.push((if le == "+Inf" { f64::INFINITY } else { le.parse().unwrap() }, *count));
        }
        buckets.sort_by(|a, b| a.0.total_cmp(&b.0));
        assert!(buckets.windows(2).all(|w| w[0].1 <= w[1].1), "{name}");
        assert_eq!(buckets.last(), Some(&(f64::INFINITY, all[&format!("{name}_count")])), "{name}");
        assert!(all[&format!("{name}_sum")] > 0.0, "{name}");
    }
}
