//! Models made over Ollama's API: blobs and `/api/create`.

#![allow(clippy::unwrap_used, clippy::expect_used)]

mod server;

use std::io::Write as _;
use std::net::TcpStream;

use serde_json::json;
use server::{Answer, Server, digest, keeps_the_place_secret, names, testdata};

/// Uploads a file of the testdata and returns its digest.
fn upload(server: &Server, path: &str) -> String {
    let bytes = std::fs::read(testdata(path)).unwrap();
    let digest = digest(&bytes);
    let answer = server.send("POST", &format!("/api/blobs/{digest}"), bytes);
    assert!(matches!(answer.status, 200 | 201), "{}", answer.body);
    digest
}

fn statuses(answer: &Answer) -> Vec<String> {
    answer.lines().iter().map(|l| l["status"].as_str().unwrap_or("-").to_owned()).collect()
}

#[test]
fn blobs_are_uploaded_once_and_whole() {
    let server = Server::start();
    let bytes = vec![7; 3 << 20];
    let path = format!("/api/blobs/{}", digest(&bytes));
    assert_eq!(server.send("HEAD", &path, "").status, 404);
    assert_eq!(server.send("HEAD", "/api/blobs/x", "").status, 400);
    let wrong = server.send("POST", &path, "x");
    assert!(wrong.error(400).starts_with("digest mismatch, expected \"sha256:"));
    // Nothing is left of what was not what it should be.
    assert_eq!(server.send("HEAD", &format!("/api/blobs/{}", digest(b"x")), "").status, 404);
    // A client that goes away leaves nothing, either.
    let mut stream = TcpStream::connect(server.url.strip_prefix("http://").unwrap()).unwrap();
    write!(stream, "POST {path} HTTP/1.1\r\nHost: localhost\r\nContent-Length: {}\r\n\r\nxxx", bytes.len())
        .unwrap();
    drop(stream);
    let statuses: Vec<u16> = std::thread::scope(|scope| {
        let send = || server.send("POST", &path, bytes.clone()).status;
        let all = [scope.spawn(send), scope.spawn(send), scope.spawn(send)];
        all.into_iter().map(|t| t.join().unwrap()).collect()
    });
    assert!(statuses.iter().all(|s| matches!(s, 200 | 201)) && statuses.contains(&201), "{statuses:?}");
    assert_eq!(server.send("POST", &path, bytes).status, 200);
    assert_eq!(server.send("HEAD", &path, "").status, 200);
    let is_blob = |name: &String| name.starts_with("sha256-") && name.len() == 71;
    let left = || {
        let all = std::fs::read_dir(server.store().join("blobs")).unwrap();
        let names = all.map(|entry| entry.unwrap().file_name().into_string().unwrap());
        names.filter(|name| !is_blob(name)).collect::<Vec<_>>()
    };
    for _ in 0..100 {
        if left().is_empty() {
            return;
        }
        std::thread::sleep(std::time::Duration::from_millis(100));
    }
    panic!("{:?}", left());
}

#[test]
fn a_model_is_made_of_an_uploaded_checkpoint() {
    let server = Server::start();
    let mut files = serde_json::Map::new();
    for name in [
        "config.json",
        "generation_config.json",
        "model.safetensors",
        "tokenizer.json",
        "tokenizer_config.json",
    ] {
        files.insert(name.to_owned(), json!(upload(&server, &format!("storyteller/{name}"))));
    }
    let mut adapters = serde_json::Map::new();
    for name in ["adapter_config.json", "adapter_model.safetensors"] {
        adapters.insert(name.to_owned(), json!(upload(&server, &format!("storyteller-lora/{name}"))));
    }
    let make = |quantize: &str| {
        let made = server.post("/api/create", json!({"model": "mine", "files": files, "quantize": quantize}));
        let lines = statuses(&made);
        assert_eq!(lines.first().unwrap(), "converting model");
        assert_eq!(lines.last().unwrap(), "success", "{}", made.body);
        lines
    };
    let lines = make("Q4_K_M");
    assert!(lines.iter().any(|l| l.starts_with("quantizing BF16 model to Q4_K_M")), "{lines:?}");
    // The same weights as `mdl build` made of the same files: found, not written again.
    let lines = make("q8_0");
    assert!(lines[1].starts_with("using existing layer sha256:"), "{lines:?}");
    let made = server.post("/api/create", json!({"model": "mine", "files": files}));
    server.conforms("POST", "/api/create", &made);
    let fused = json!({"model": "fused", "files": files, "adapters": adapters, "stream": false});
    let made = server.post("/api/create", fused);
    assert_eq!((made.status, made.json()), (200, json!({"status": "success"})), "{}", made.body);
    assert_eq!(names(&server).len(), 3);

    // What is wrong is told with the client's own names.
    files.remove("tokenizer.json");
    files.insert("config.json".to_owned(), json!(upload(&server, "storyteller/tokenizer.json")));
    let broken = server.post("/api/create", json!({"model": "bad", "files": files, "stream": false}));
    let error = broken.error(400);
    keeps_the_place_secret(&server, &broken);
    assert!(error.contains("config.json") && !error.contains("uploads"), "{error}");
    let streamed = server.post("/api/create", json!({"model": "bad", "files": files}));
    assert_eq!(streamed.lines().last().unwrap()["error"], error);
    assert_eq!(names(&server).len(), 3);
}

#[test]
fn a_model_is_made_of_an_uploaded_gguf_file() {
    let server = Server::start();
    let file = server.store().with_file_name("model.gguf");
    let modelfile = testdata("storyteller/Modelfile");
    let built = server
        .mdl()
        .args(["build", "-q", "q4_K_M", "--emit", "gguf", "-o"])
        .arg(&file)
        .arg(modelfile)
        .output()
        .unwrap();
    assert!(built.status.success(), "{}", String::from_utf8_lossy(&built.stderr));
    let bytes = std::fs::read(&file).unwrap();
    let blob = digest(&bytes);
    assert_eq!(server.send("POST", &format!("/api/blobs/{blob}"), bytes).status, 201);
    let made = server.post("/api/create", json!({"name": "story", "files": {"my model.gguf": blob}}));
    let lines = statuses(&made);
    assert_eq!(lines.first().unwrap(), "parsing GGUF");
    assert_eq!(lines.last().unwrap(), "success", "{}", made.body);
    // The weights are the blob itself.
    assert!(lines.contains(&format!("using existing layer {blob}")), "{lines:?}");
    let shown = server.post("/api/show", json!({"model": "story"})).json();
    assert_eq!(shown["details"]["quantization_level"], "Q4_K_M");
    let missing = json!({"model": "m", "files": {"a.gguf": digest(b"nothing")}});
    assert!(server.post("/api/create", missing).error(400).starts_with("files/a.gguf: blob "));
    let text = digest(b"no GGUF");
    server.send("POST", &format!("/api/blobs/{text}"), "no GGUF");
    let bad = server.post("/api/create", json!({"model": "m", "files": {"a.gguf": text}, "stream": false}));
    assert!(bad.error(400).starts_with("files/a.gguf"), "{}", bad.body);
}

#[test]
fn a_model_is_made_of_another() {
    let server = Server::start();
    let request = json!({
        "model": "pirate", "from": "story", "system": "Speak like a pirate.", "parameters": {"seed": 7, "stop": ["x"]},
        "license": "MIT", "messages": [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "Arr"}],
        "template": "{{ .System }} {{ .Prompt }}",
    });
    let lines = statuses(&server.post("/api/create", request));
    assert_eq!((lines[0].as_str(), lines.last().unwrap().as_str()), ("reading model metadata", "success"));
    let shown = server.post("/api/show", json!({"model": "pirate"})).json();
    assert_eq!(shown["system"], "Speak like a pirate.");
    assert_eq!(shown["template"], "{{ .System }} {{ .Prompt }}");
    assert_eq!(shown["messages"][1], json!({"role": "assistant", "content": "Arr"}));
    assert_eq!(shown["license"], "CC0-1.0\nMIT");
    for parameter in [
        "temperature                    0.7",
        "seed                           7",
        "stop                           \"x\"",
    ] {
        assert!(shown["parameters"].as_str().unwrap().contains(parameter), "{shown:#}");
    }
    let mut told = String::new();
    for request in [
        json!({"model": "m", "from": "none"}),
        json!({"model": "m", "from": "none", "stream": false}),
        json!({"model": "m", "from": "story", "template": "{{ if }}"}),
        json!({"model": "m", "from": "story", "quantize": "q9_9"}),
        json!({"model": "m", "from": "story", "quantize": "q4_K_M", "stream": false}),
        json!({"model": "m", "from": "story", "parameters": {"temprature": 1}}),
        json!({"model": "m", "modelfile": "FROM story"}),
        json!({"from": "story"}),
    ] {
        let answer = server.post("/api/create", request.clone());
        keeps_the_place_secret(&server, &answer);
        told.push_str(&format!("{request}\n    {} {}\n", answer.status, answer.json()["error"]));
    }
    insta::with_settings!({
        snapshot_path => concat!(env!("CARGO_MANIFEST_DIR"), "/snapshots"),
        prepend_module_to_snapshot => false,
    }, {
        insta::assert_snapshot!("server_ollama_create_errors", told);
    });
    assert_eq!(names(&server).len(), 2);
}

#[test]
fn a_read_only_server_changes_nothing() {
    let server = Server::start_with(&["--read-only"]);
    for (method, path, body) in [
        ("POST", "/api/create", json!({"model": "m", "from": "story"})),
        ("POST", "/api/copy", json!({"source": "story", "destination": "x"})),
        ("DELETE", "/api/delete", json!({"model": "story"})),
        ("POST", "/api/pull", json!({"model": "x"})),
        ("POST", &format!("/api/blobs/{}", digest(b"x")), json!({})),
    ] {
        assert_eq!(
            server.send(method, path, body.to_string()).error(403),
            "the server is read-only",
            "{path}"
        );
    }
    assert_eq!(names(&server), ["story:latest"]);
}
