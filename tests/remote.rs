//! Commands that speak to a running server: `ps`, `stop`, and `run` where a server serves the same store.

#![allow(clippy::unwrap_used, clippy::expect_used)]

mod server;

use std::process::{Command, Output};
use std::time::Duration;

use serde_json::json;
use server::{Server, Setup, until};

fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).unwrap()
}

fn says(command: &mut Command) -> String {
    let output = command.output().unwrap();
    assert!(output.status.success(), "{}", text(&output.stderr));
    text(&output.stdout)
}

/// Blanks between columns as one.
fn columns(text: &str) -> Vec<String> {
    text.lines().map(|l| l.split_whitespace().collect::<Vec<_>>().join(" ")).collect()
}

const HEADER: &str = "NAME ID SIZE PROCESSOR CONTEXT UNTIL";

#[test]
fn what_is_in_memory_is_listed_and_stopped() {
    let server = Server::start();
    let ps = || columns(&says(server.mdl().args(["ps", "--host", &server.url])));
    assert_eq!(ps(), [HEADER]);
    server.post("/api/generate", json!({"model": "story", "keep_alive": "10m"}));
    let loaded = ps();
    assert_eq!(loaded.len(), 2, "{loaded:?}");
    let words: Vec<&str> = loaded[1].split(' ').collect();
    assert_eq!((words[0], words[1].len()), ("story:latest", 12));
    assert!(loaded[1].contains(" MB 100% CPU ") && loaded[1].ends_with(" 9 minutes from now"), "{loaded:?}");
    server.post("/api/generate", json!({"model": "story", "keep_alive": -1}));
    assert!(ps()[1].ends_with(" Forever"), "{:?}", ps());
    // By the environment, ours before Ollama's.
    let mut stop = server.mdl();
    stop.args(["stop", "story"]).env("OLLAMA_HOST", "127.0.0.1:1").env("MDL_HOST", &server.url);
    assert_eq!(says(&mut stop), "");
    until("nothing is loaded", Duration::from_secs(10), || ps() == [HEADER]);
    let unknown = server.mdl().args(["stop", "nothing", "--host", &server.url]).output().unwrap();
    assert_eq!(unknown.status.code(), Some(1));
    assert!(text(&unknown.stderr).contains("couldn't find model \"nothing\" to stop"));
    // Nobody is there.
    let nobody = server.mdl().args(["ps", "--host", "127.0.0.1:1"]).output().unwrap();
    assert_eq!(nobody.status.code(), Some(3));
    assert!(text(&nobody.stderr).contains("could not connect to a server at http://127.0.0.1:1"));
}

#[test]
fn a_key_opens_a_server_and_a_socket_is_a_place() {
    let setup = Setup::new();
    let keys = setup.place().join("keys");
    std::fs::write(&keys, "a-key-of-more-than-thirty-two-letters-for-this\n").unwrap();
    let server = setup.arguments(["--api-keys-file", keys.to_str().unwrap()]).start();
    let ps = |key: &str| {
        let mut command = server.mdl();
        command.args(["ps", "--host", &server.url]).env("OLLAMA_API_KEY", key).output().unwrap()
    };
    let refused: Output = ps("another");
    assert_eq!(refused.status.code(), Some(1), "{}", text(&refused.stderr));
    assert!(ps("a-key-of-more-than-thirty-two-letters-for-this").status.success());
}

#[cfg(unix)]
#[test]
fn a_socket_is_a_place() {
    let setup = Setup::at("unix:{}/socket");
    let address = format!("unix:{}/socket", setup.place().display());
    let server = setup.start();
    assert_eq!(columns(&says(server.mdl().args(["ps", "--host", &address]))), [HEADER]);
    let mut run = server.mdl();
    run.args(["run", "story", "--host", &address, "--set", "num_predict=4", "Emma was"]);
    assert!(says(&mut run).trim().len() > 2);
}

#[test]
fn a_server_of_the_same_store_computes_and_says_the_same() {
    let server = Server::start();
    let other = Server::start();
    let run = |place: &str, arguments: &[&str]| {
        let mut command = server.mdl();
        command.args(["--threads", "2", "run", "story", "--set", "num_predict=24"]).args(arguments);
        says(command.arg("Emma was very much").env("MDL_HOST", place))
    };
    let loaded = |of: &Server| columns(&says(server.mdl().args(["ps", "--host", &of.url]))).len() - 1;
    for how in [
        &["--set", "temperature=0"][..],
        &["--set", "seed=7"],
        &["--set", "seed=7", "--raw"],
        &["--set", "seed=7", "--format", "json"],
    ] {
        let here = run(&server.url, &[how, &["--local"]].concat());
        assert_eq!(loaded(&server), 0, "--local asks nobody");
        // The other server has another store, though its model has the same name.
        assert_eq!(run(&other.url, how), here);
        assert_eq!(loaded(&other), 0);
        assert_eq!(run("127.0.0.1:1", how), here);
        assert_eq!(run(&server.url, how), here);
        assert_eq!(loaded(&server), 1, "the server computed it");
        assert_eq!(run("127.0.0.1:1", &[how, &["--host", &server.url]].concat()), here);
        says(server.mdl().args(["stop", "story", "--host", &server.url]));
        until("nothing is loaded", Duration::from_secs(10), || loaded(&server) == 0);
    }
    // It is unloaded when it should be.
    run(&server.url, &["--keepalive", "0"]);
    until("nothing is loaded", Duration::from_secs(10), || loaded(&server) == 0);
    let missing = server.mdl().args(["run", "nothing", "x", "--host", &server.url]).output().unwrap();
    assert_eq!(missing.status.code(), Some(1), "{}", text(&missing.stderr));
    // What it tells of its store is no path, and nothing is told to those from elsewhere.
    let version = server.raw("GET", "/api/version", "", "");
    let told = version.header("mdl-store").unwrap();
    assert!(told.len() == 32 && told.chars().all(|c| c.is_ascii_hexdigit()), "{told}");
    let public = Setup::at("0.0.0.0:0").arguments(["--public"]).start();
    assert_eq!(public.raw("GET", "/api/version", "", "").header("mdl-store"), None);
}
