//! The makers' own clients of the three APIs, and an editor's, as they are published, against the real program.

#![allow(clippy::unwrap_used, clippy::expect_used)]

#[path = "clients/server.rs"]
mod server;

use std::io::Write as _;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::Duration;

use server::{KEY, Place, root};

/// What the scripts in Python import.
const CLIENTS: &str = "ollama, openai, anthropic, pydantic, jsonschema";

/// The weights of a store that has one model: its largest blob.
fn weights(place: &Place) -> PathBuf {
    let blobs = std::fs::read_dir(place.path().join("store/blobs")).unwrap();
    blobs.map(|b| b.unwrap().path()).max_by_key(|p| p.metadata().unwrap().len()).unwrap()
}

/// Runs a script of tests/clients with the addresses of two servers, one of which wants a key.
fn run(interpreter: Option<Command>, script: &str) {
    let Some(mut command) = interpreter else { return };
    let place = Place::new();
    place.build_story();
    let gguf = place.path().join("model.gguf");
    std::fs::copy(weights(&place), &gguf).unwrap();
    place.build(&root("tests/clients/tools.modelfile"), "tools");
    place.build(&root("tests/clients/thinks.modelfile"), "thinks");
    let keys = place.path().join("keys");
    std::fs::write(&keys, KEY).unwrap();
    let open = place.serve(&[]);
    let locked = place.serve(&["--api-keys-file", keys.to_str().unwrap()]);
    command.arg(root("tests/clients").join(script)).args([&open.url, &locked.url, KEY]).arg(gguf);
    server::succeeds(command, place.path(), Duration::from_secs(240));
}

#[test]
fn ollama_for_python() {
    run(server::python(CLIENTS), "with_ollama.py");
}

#[test]
fn openai_for_python() {
    run(server::python(CLIENTS), "with_openai.py");
}

#[test]
fn anthropic_for_python() {
    run(server::python(CLIENTS), "with_anthropic.py");
}

#[test]
fn ollama_for_javascript() {
    run(server::node(), "with_ollama.mjs");
}

#[test]
fn openai_for_javascript() {
    run(server::node(), "with_openai.mjs");
}

/// Requests made of the API's description, proper ones and others.
#[test]
fn the_description_holds() {
    let Some(mut python) = server::python("schemathesis, jsonschema") else { return };
    let place = Place::new();
    place.build_story();
    let server = place.serve(&[]);
    python.arg(root("tests/clients/openapi.py")).args([&server.url, "15"]);
    server::succeeds(python, place.path(), Duration::from_secs(240));
}

/// A client that others keep, and a hundred random edits of the Modelfiles of testdata.
#[test]
fn an_editor_is_told_what_check_says() {
    let Some(mut python) = server::python("pytest_lsp, pytest") else { return };
    let place = Place::new();
    place.build_story();
    python.args(["-m", "pytest", "--quiet", "-p", "no:cacheprovider", "-o", "asyncio_mode=auto"]);
    python.arg(root("tests/clients/test_lsp.py"));
    python.env("MDL", env!("CARGO_BIN_EXE_mdl")).env("STORE", place.path().join("store"));
    python.env("MODELFILES", root("testdata/modelfile"));
    server::succeeds(python, place.path(), Duration::from_secs(240));
}

/// Bytes that are no protocol end the server with an error, not with a panic.
#[test]
fn what_is_no_protocol_is_an_error() {
    for input in ["", "FROM x\n", "Content-Length: 5\r\n\r\n{\"a\":", "Content-Length: -1\r\n\r\n"] {
        let mut child = Command::new(env!("CARGO_BIN_EXE_mdl"))
            .arg("lsp")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        child.stdin.take().unwrap().write_all(input.as_bytes()).unwrap();
        let output = child.wait_with_output().unwrap();
        let said = String::from_utf8(output.stderr).unwrap();
        assert!(!output.status.success() && said.contains("error"), "{input:?}: {said}");
        assert!(!said.contains("panicked"), "{input:?}: {said}");
        assert!(output.stdout.is_empty(), "{input:?}");
    }
}
