//! `/api/pull` and `/api/push`, against a registry of the test's own.
#![allow(clippy::unwrap_used, clippy::expect_used, missing_docs)]

#[path = "registry/double.rs"]
#[allow(dead_code)]
mod double;
mod server;

use mdl::store::{Digest, media};
use serde_json::json;

use double::{Registry, Reply};
use server::{Server, Setup};

fn server() -> Server {
    Setup::new().variable("MDL_OFFLINE", "0").start()
}

/// A registry with `me/tale:1`.
fn shelf() -> Registry {
    let registry = Registry::default();
    let one = |kind: &str, bytes: &[u8]| {
        format!(r#"{{"mediaType":"{kind}","digest":"{}","size":{}}}"#, registry.blob(bytes), bytes.len())
    };
    let text = format!(
        r#"{{"schemaVersion":2,"mediaType":"{}","config":{},"layers":[{}]}}"#,
        media::MANIFEST,
        one(media::CONFIG, b"{\"model_format\":\"gguf\"}\n"),
        one(media::MODEL, b"weights")
    );
    registry.manifest("me/tale:1", media::MANIFEST, text);
    registry
}

#[test]
fn a_model_is_pulled_and_pushed_with_ollamas_statuses() {
    let registry = shelf();
    let host = registry.serve().host();
    let server = server();
    let model = format!("{host}/me/tale:1");
    let answer = server.post("/api/pull", json!({"model": model, "insecure": true}));
    assert_eq!(answer.status, 200, "{}", answer.body);
    server.conforms("POST", "/api/pull", &answer);
    let lines = answer.lines();
    let statuses: Vec<&str> = lines.iter().map(|l| l["status"].as_str().unwrap()).collect();
    let weights = Digest::of(b"weights");
    assert_eq!(statuses[0], "pulling manifest");
    assert_eq!(statuses[statuses.len() - 3..], ["verifying sha256 digest", "writing manifest", "success"]);
    let pulled = lines.iter().rfind(|l| l["digest"] == weights.to_string()).unwrap();
    assert_eq!(pulled["status"], format!("pulling {}", weights.short()));
    assert_eq!((&pulled["total"], &pulled["completed"]), (&json!(7), &json!(7)));

    let whole = server.post("/api/pull", json!({"name": model, "insecure": true, "stream": false}));
    assert_eq!(whole.json(), json!({"status": "success"}));

    let to = Registry::default();
    let name = format!("{}/me/tale:2", to.serve().host());
    assert_eq!(server.post("/api/copy", json!({"source": model, "destination": name})).status, 200);
    let answer = server.post("/api/push", json!({"model": name, "insecure": true}));
    server.conforms("POST", "/api/push", &answer);
    let lines = answer.lines();
    assert_eq!(lines[0]["status"], "retrieving manifest");
    assert_eq!(lines.last().unwrap()["status"], "success");
    assert_eq!(to.0.lock().unwrap().blobs[&weights.to_string()], b"weights");
}

#[test]
fn what_goes_wrong_is_told() {
    let server = server();
    let host = shelf().serve().host();
    let missing = server.post("/api/pull", json!({"model": format!("{host}/me/none"), "insecure": true}));
    let lines = missing.lines();
    assert_eq!(lines.last().unwrap(), &json!({"error": "pull model manifest: file does not exist"}));
    let ask = json!({"model": format!("{host}/me/none"), "insecure": true, "stream": false});
    assert_eq!(server.post("/api/pull", ask).error(404), "pull model manifest: file does not exist");
    let broken = double::Server::start(|_| Reply::new(400, "\u{1b}[2J")).host();
    let ask = json!({"model": format!("{broken}/me/tale"), "insecure": true, "stream": false});
    let told = server.post("/api/pull", ask).error(502);
    assert!(told.contains("answers 400") && !told.contains('\u{1b}'), "{told}");
    assert_eq!(
        server.post("/api/push", json!({"model": "none"})).error(404),
        "model 'none:latest' not found"
    );
    let by_option = Setup::new().variable("MDL_OFFLINE", "0").arguments(["--offline"]).start();
    for offline in [Server::start(), by_option] {
        let ask = json!({"model": format!("{host}/me/tale:1"), "insecure": true, "stream": false});
        assert_eq!(offline.post("/api/pull", ask).error(403), "the server does not use the network");
    }
}
