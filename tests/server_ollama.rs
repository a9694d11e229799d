//! Ollama's API as a client sees it.

#![allow(clippy::unwrap_used, clippy::expect_used)]

mod server;

use std::io::{Read as _, Write as _};
use std::net::TcpStream;

use serde_json::{Value, json};
use server::{Server, digest, keeps_the_place_secret, names};

#[test]
fn models_are_listed_shown_copied_and_removed() {
    let server = Server::start();
    assert_eq!(server.get("/api/version").json(), json!({"version": env!("CARGO_PKG_VERSION")}));
    assert_eq!(server.get("/api/status").json()["cloud"]["disabled"], true);
    assert_eq!(server.send("HEAD", "/api/version", "").status, 200);
    assert_eq!(server.send("HEAD", "/api/tags", "").status, 200);

    let tags = server.get("/api/tags").json();
    let story = &tags["models"][0];
    assert_eq!((&story["name"], &story["model"]), (&json!("story:latest"), &json!("story:latest")));
    assert_eq!(story["digest"].as_str().unwrap().len(), 64);
    assert!(story["size"].as_u64().unwrap() > 1_000_000);
    assert_eq!(story["details"]["quantization_level"], "Q8_0");
    assert_eq!(story["details"]["family"], "llama");
    assert_eq!(story["details"]["parent_model"], "");
    assert_eq!(story["capabilities"][0], "completion");
    assert_eq!(server.get("/api/ps").json(), json!({"models": []}));

    let mut shown = server.post("/api/show", json!({"model": "Story"})).json();
    assert!(shown["modified_at"].as_str().unwrap().ends_with('Z'));
    shown["modified_at"] = json!("TIME");
    assert!(!shown.to_string().contains(server.store().to_str().unwrap()));
    let tensors = shown["tensors"].take();
    assert!(
        tensors.as_array().unwrap().iter().any(|t| t["name"] == "token_embd.weight" && t["type"] == "Q8_0")
    );
    insta::with_settings!({
        snapshot_path => concat!(env!("CARGO_MANIFEST_DIR"), "/snapshots"),
        prepend_module_to_snapshot => false,
    }, {
        insta::assert_snapshot!("server_ollama_show", format!("{shown:#}"));
    });
    let verbose = server.post("/api/show", json!({"name": "story", "verbose": true})).json();
    assert!(verbose["model_info"]["tokenizer.ggml.tokens"].as_array().unwrap().len() > 100);
    let other =
        server.post("/api/show", json!({"name": "story", "system": "S!", "options": {"seed": 3}})).json();
    assert_eq!(other["system"], "S!");
    assert!(other["parameters"].as_str().unwrap().contains("seed                           3"));
    assert!(other["modelfile"].as_str().unwrap().contains("SYSTEM S!"));

    let copied = server.post("/api/copy", json!({"source": "story", "destination": "other/tale:1"}));
    assert_eq!((copied.status, copied.body.as_str()), (200, ""));
    assert_eq!(names(&server).len(), 2);
    server.conforms("POST", "/api/copy", &copied);
    for path in ["/api/version", "/api/status", "/api/tags", "/api/ps"] {
        server.conforms("GET", path, &server.get(path));
    }
    server.conforms(
        "POST",
        "/api/show",
        &server.post("/api/show", json!({"model": "story", "verbose": true})),
    );
    let removed = server.send("DELETE", "/api/delete", json!({"name": "other/tale:1"}).to_string());
    assert_eq!((removed.status, removed.body.as_str()), (200, ""));
    assert_eq!(names(&server), ["story:latest"]);
    let weights = server.post("/api/show", json!({"model": "story"}));
    assert_eq!(weights.status, 200, "{}", weights.body);
}

#[test]
fn errors_are_ollamas() {
    let server = Server::start();
    let mut told = String::new();
    let mut tell = |method: &str, path: &str, body: &str| {
        let answer = server.send(method, path, body);
        assert!(answer.status >= 400, "{method} {path} {body}: {}", answer.body);
        assert_eq!(answer.content_type, "application/json", "{method} {path} {body}");
        keeps_the_place_secret(&server, &answer);
        if answer.status != 405 && path != "/api/none" {
            let path = if path.starts_with("/api/blobs") { "/api/blobs/{digest}" } else { path };
            server.conforms(method, path, &answer);
        }
        told.push_str(&format!(
            "{method} {path} {body}\n    {} {}\n",
            answer.status,
            answer.error(answer.status)
        ));
    };
    for path in ["generate", "chat", "embed", "embeddings", "show", "create", "pull"] {
        tell("POST", &format!("/api/{path}"), "");
        tell("POST", &format!("/api/{path}"), "{");
    }
    tell("POST", "/api/generate", "[]");
    tell("POST", "/api/generate", r#"{"model":"none","prompt":"x"}"#);
    tell("POST", "/api/generate", r#"{"model":"..","prompt":"x"}"#);
    tell("POST", "/api/generate", r#"{"prompt":"x"}"#);
    tell("POST", "/api/generate", r#"{"model":"story","prompt":"x","raw":true,"system":"y"}"#);
    tell("POST", "/api/generate", r#"{"model":"story","prompt":"x","top_logprobs":21}"#);
    tell("POST", "/api/generate", r#"{"model":"story","prompt":"x","context":[-1]}"#);
    tell("POST", "/api/generate", r#"{"model":"story","prompt":5}"#);
    tell("POST", "/api/chat", r#"{"messages":[{"role":"user","content":"x"}]}"#);
    tell("POST", "/api/chat", r#"{"model":"none","messages":[]}"#);
    tell("POST", "/api/chat", r#"{"model":"story","messages":"x"}"#);
    tell("POST", "/api/chat", r#"{"model":"story","messages":[],"keep_alive":"soon"}"#);
    tell("POST", "/api/chat", r#"{"model":"story","format":"yaml"}"#);
    tell("POST", "/api/embed", r#"{"model":"none","input":"x"}"#);
    tell("POST", "/api/embed", r#"{"model":"story","input":{"a":1}}"#);
    tell("POST", "/api/embed", r#"{"model":"story","input":"x","dimensions":-1}"#);
    tell("POST", "/api/embeddings", r#"{"model":"none","prompt":"x"}"#);
    tell("POST", "/api/show", r#"{"model":"none"}"#);
    tell("POST", "/api/show", r#"{}"#);
    tell("POST", "/api/copy", r#"{"source":"none","destination":"x"}"#);
    tell("POST", "/api/copy", r#"{"source":"","destination":"x"}"#);
    tell("POST", "/api/copy", r#"{"source":"story","destination":"a b"}"#);
    tell("DELETE", "/api/delete", r#"{"model":"none"}"#);
    tell("DELETE", "/api/delete", r#"{"model":"/"}"#);
    tell("POST", "/api/pull", r#"{"model":"llama3.2"}"#);
    tell("POST", "/api/pull", r#"{"model":"http://h/n/m"}"#);
    tell("POST", "/api/push", r#"{"name":"me/story","stream":false}"#);
    tell("POST", "/api/blobs/sha256:12", "x");
    tell("POST", "/api/blobs/%ff", "x");
    tell("POST", &format!("/api/blobs/{}", digest(b"y")), "x");
    tell("PUT", "/api/show", "{}");
    tell("GET", "/api/none", "");
    insta::with_settings!({
        snapshot_path => concat!(env!("CARGO_MANIFEST_DIR"), "/snapshots"),
        prepend_module_to_snapshot => false,
    }, {
        insta::assert_snapshot!("server_ollama_errors", told);
    });
}

#[test]
fn the_description_names_every_route() {
    let server = Server::start();
    let api = server.get("/openapi.json").json();
    let routes: Vec<String> = api["paths"]
        .as_object()
        .unwrap()
        .iter()
        .flat_map(|(path, item)| {
            let methods =
                item.as_object().unwrap().keys().filter(|k| !matches!(k.as_str(), "parameters" | "summary"));
            methods.map(|m| format!("{} {path}", m.to_uppercase())).collect::<Vec<_>>()
        })
        .collect();
    for route in [
        "GET /api/version",
        "GET /api/status",
        "GET /api/tags",
        "GET /api/ps",
        "POST /api/show",
        "POST /api/generate",
        "POST /api/chat",
        "POST /api/embed",
        "POST /api/embeddings",
        "POST /api/create",
        "POST /api/copy",
        "DELETE /api/delete",
        "HEAD /api/blobs/{digest}",
        "POST /api/blobs/{digest}",
        "POST /api/pull",
        "POST /api/push",
    ] {
        assert!(routes.iter().any(|r| r == route), "{route}: {routes:?}");
    }
    // Every reference leads somewhere.
    let text = api.to_string();
    for reference in text.split("\"#/components/schemas/").skip(1) {
        let name = reference.split('"').next().unwrap();
        assert!(!api["components"]["schemas"][name].is_null(), "{name}");
    }
}

fn metrics_are_there(last: &Value) {
    for field in
        ["total_duration", "prompt_eval_count", "prompt_eval_duration", "eval_count", "eval_duration"]
    {
        assert!(last[field].as_u64().unwrap() > 0, "{field}: {last}");
    }
}

#[test]
fn a_prompt_is_answered_whole_and_in_lines() {
    let server = Server::start();
    let options = json!({"temperature": 0, "num_predict": 8});
    let request = |stream: bool| json!({"model": "story", "prompt": "Emma was", "raw": true, "stream": stream, "options": options});
    let whole = server.post("/api/generate", request(false)).json();
    let lines = server.post("/api/generate", request(true)).lines();
    let text: String = lines.iter().map(|l| l["response"].as_str().unwrap()).collect();
    assert_eq!(whole["response"], text);
    for stream in [true, false] {
        server.conforms("POST", "/api/generate", &server.post("/api/generate", request(stream)));
    }
    let last = lines.last().unwrap();
    assert_eq!((&last["done"], &last["done_reason"]), (&json!(true), &json!("length")));
    assert!(lines[..lines.len() - 1].iter().all(|l| l["done"] == false && l["done_reason"].is_null()));
    metrics_are_there(last);
    assert!(last["context"].is_null());
    assert_eq!(last["eval_count"], 8);
    let running = server.get("/api/ps").json();
    assert_eq!(running["models"][0]["name"], "story:latest");
    let rendered = json!({"model": "story", "prompt": "Emma", "_debug_render_only": true});
    assert!(
        server.post("/api/generate", rendered).json()["_debug_info"]["rendered_template"]
            .as_str()
            .unwrap()
            .contains("Emma")
    );
}

#[test]
fn an_answer_is_gone_on_from() {
    let server = Server::start();
    let options = json!({"temperature": 0, "num_predict": 4});
    let first = server
        .post(
            "/api/generate",
            json!({"model": "story", "prompt": "Emma", "stream": false, "options": options}),
        )
        .json();
    let context = first["context"].as_array().unwrap();
    assert!(context.len() > 4);
    let second = server
        .post("/api/generate", json!({"model": "story", "prompt": "And", "context": context, "stream": false, "options": options}))
        .json();
    assert!(second["context"].as_array().unwrap().len() > context.len());
}

#[test]
fn a_conversation_is_answered() {
    let server = Server::start();
    let request = json!({
        "model": "story", "messages": [{"role": "user", "content": "Once"}], "logprobs": true, "top_logprobs": 2,
        "options": {"temperature": 0, "num_predict": 5}, "stream": false,
    });
    let answer = server.post("/api/chat", request);
    server.conforms("POST", "/api/chat", &answer);
    let answer = answer.json();
    assert_eq!(answer["message"]["role"], "assistant");
    assert!(!answer["message"]["content"].as_str().unwrap().is_empty());
    assert_eq!(answer["logprobs"].as_array().unwrap().len(), 5);
    assert_eq!(answer["logprobs"][0]["top_logprobs"].as_array().unwrap().len(), 2);
    metrics_are_there(&answer);
    let tools = json!({"model": "story", "messages": [{"role": "user", "content": "x"}], "tools": [{"type": "function", "function": {"name": "f"}}]});
    assert_eq!(server.post("/api/chat", tools).error(400), "story:latest does not support tools");
    let thinks = json!({"model": "story", "messages": [{"role": "user", "content": "x"}], "think": true});
    assert_eq!(server.post("/api/chat", thinks).error(400), "\"story:latest\" does not support thinking");
    let sees = json!({"model": "story", "messages": [{"role": "user", "content": "x", "images": ["aGk="]}]});
    assert_eq!(server.post("/api/chat", sees).error(400), "story:latest does not support vision");
}

#[test]
fn a_long_conversation_says_what_was_left_out() {
    let server = Server::start();
    let messages: Vec<Value> =
        (0..40).map(|i| json!({"role": "user", "content": format!("Letter {i} from her sister")})).collect();
    let request = |truncate: bool| {
        json!({
            "model": "story", "messages": messages, "truncate": truncate, "stream": false,
            "options": {"num_ctx": 64, "num_predict": 2},
        })
    };
    let answer = server.post("/api/chat", request(true)).json();
    assert!(answer["truncated"]["messages"].as_u64().unwrap() > 0, "{answer}");
    assert_eq!(answer["truncated"]["context"], 64);
    assert_eq!(server.post("/api/chat", request(false)).status, 400);
}

#[test]
fn a_model_is_loaded_and_unloaded() {
    let server = Server::start();
    let loaded = server.post("/api/generate", json!({"model": "story", "keep_alive": -1}));
    assert_eq!(loaded.content_type, "application/json");
    assert_eq!((&loaded.json()["done_reason"], &loaded.json()["done"]), (&json!("load"), &json!(true)));
    server.conforms("GET", "/api/ps", &server.get("/api/ps"));
    let running = server.get("/api/ps").json();
    assert!(running["models"][0]["expires_at"].as_str().unwrap() > "2300");
    assert!(running["models"][0]["context_length"].as_u64().unwrap() > 0);
    let gone = server.post("/api/chat", json!({"model": "story", "messages": [], "keep_alive": 0})).json();
    assert_eq!(gone["done_reason"], "unload");
    assert_eq!(server.get("/api/ps").json(), json!({"models": []}));
}

#[test]
fn an_answer_keeps_to_its_format() {
    let server = Server::start();
    let schema = json!({
        "type": "object", "properties": {"a": {"type": "boolean"}}, "required": ["a"], "additionalProperties": false,
    });
    let options = json!({"num_predict": 200, "seed": 1});
    let request =
        json!({"model": "story", "prompt": "x", "format": schema, "stream": false, "options": options});
    let answer = server.post("/api/generate", request).json();
    assert_eq!(answer["done_reason"], "stop", "{answer}");
    let value: Value = serde_json::from_str(answer["response"].as_str().unwrap()).unwrap();
    assert!(value["a"].is_boolean(), "{value}");
    let wrong = json!({"model": "story", "prompt": "x", "format": {"type": "nonsense"}});
    assert_eq!(server.post("/api/generate", wrong).status, 400);
}

#[test]
fn what_the_model_reads_is_told() {
    let server = Server::start();
    let template = "{{ if .Suffix }}<PRE>{{ .Prompt }}<SUF>{{ .Suffix }}<MID>{{ else }}[{{ .System }}] {{ .Prompt }}{{ end }}";
    let made = server.post(
        "/api/create",
        json!({"model": "infill", "from": "story", "template": template, "system": "Kind.", "stream": false}),
    );
    assert_eq!(made.status, 200, "{}", made.body);
    let capabilities = server.post("/api/show", json!({"model": "infill"})).json()["capabilities"].clone();
    assert_eq!(capabilities, json!(["completion", "insert"]));
    let read = |request: Value| {
        let mut all = json!({"model": "infill", "prompt": "Emma", "_debug_render_only": true});
        all.as_object_mut().unwrap().extend(request.as_object().unwrap().clone());
        let answer = server.post("/api/generate", all);
        server.conforms("POST", "/api/generate", &answer);
        answer.json()["_debug_info"]["rendered_template"].as_str().unwrap().to_owned()
    };
    assert_eq!(read(json!({"suffix": "the end"})), "<PRE>Emma<SUF>the end<MID>");
    assert_eq!(read(json!({})), "[Kind.] Emma");
    assert_eq!(read(json!({"system": "Rude."})), "[Rude.] Emma");
    assert_eq!(read(json!({"template": "<{{ .Prompt }}>"})), "<Emma>");
    assert_eq!(read(json!({"raw": true})), "Emma");
    let plain = json!({"model": "story", "prompt": "a", "suffix": "b"});
    assert_eq!(server.post("/api/generate", plain).error(400), "story:latest does not support insert");
    let seen = json!({"model": "story", "prompt": "a", "raw": true, "images": ["aGk="]});
    assert_eq!(server.post("/api/generate", seen).error(400), "story:latest does not support vision");
}

#[test]
fn texts_are_embedded() {
    let server = Server::start();
    let one = server.post("/api/embed", json!({"model": "story", "input": "Emma"})).json();
    let all = server
        .post("/api/embed", json!({"model": "story", "input": ["Emma", "Jane"], "dimensions": 16}))
        .json();
    let length =
        |v: &Value| v.as_array().unwrap().iter().map(|x| x.as_f64().unwrap().powi(2)).sum::<f64>().sqrt();
    assert!((length(&one["embeddings"][0]) - 1.0).abs() < 1e-4);
    assert_eq!(all["embeddings"].as_array().unwrap().len(), 2);
    assert!(
        all["embeddings"]
            .as_array()
            .unwrap()
            .iter()
            .all(|e| e.as_array().unwrap().len() == 16 && (length(e) - 1.0).abs() < 1e-4)
    );
    assert!(one["prompt_eval_count"].as_u64().unwrap() > 0);
    for (path, field) in [("/api/embed", "input"), ("/api/embeddings", "prompt")] {
        server.conforms("POST", path, &server.post(path, json!({"model": "story", field: "Emma"})));
    }
    let old = server.post("/api/embeddings", json!({"model": "story", "prompt": "Emma"})).json();
    assert_eq!(old["embedding"].as_array().unwrap().len(), one["embeddings"][0].as_array().unwrap().len());
    assert_eq!(
        server.post("/api/embed", json!({"model": "story", "input": []})).json()["embeddings"],
        json!([])
    );
    assert_eq!(server.post("/api/embeddings", json!({"model": "story"})).json(), json!({"embedding": []}));
    let long = "word ".repeat(5000);
    let refused = server.post("/api/embed", json!({"model": "story", "input": long, "truncate": false}));
    assert_eq!(refused.error(400), "the input length exceeds the context length");
    assert_eq!(server.post("/api/embed", json!({"model": "story", "input": long})).status, 200);
}

#[test]
fn a_client_that_goes_away_stops_its_answer() {
    let server = Server::start();
    let body = json!({"model": "story", "prompt": "Emma", "options": {"num_predict": -1}}).to_string();
    let mut stream = TcpStream::connect(server.url.strip_prefix("http://").unwrap()).unwrap();
    write!(
        stream,
        "POST /api/generate HTTP/1.1\r\nHost: localhost\r\nContent-Length: {}\r\n\r\n{body}",
        body.len()
    )
    .unwrap();
    let mut some = [0; 512];
    assert!(stream.read(&mut some).unwrap() > 0);
    drop(stream);
    let gone = json!({"model": "story", "keep_alive": 0});
    assert_eq!(server.post("/api/generate", gone).json()["done_reason"], "unload");
    for _ in 0..100 {
        if server.get("/api/ps").json() == json!({"models": []}) {
            return;
        }
        std::thread::sleep(std::time::Duration::from_millis(100));
    }
    panic!("the answer goes on");
}
