//! The makers' own clients of the three APIs, as they are published, against the real server.

#![allow(clippy::unwrap_used, clippy::expect_used)]

#[path = "clients/server.rs"]
mod server;

use std::path::PathBuf;
use std::process::Command;
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
    let Some(mut python) = server::python("schemathesis") else { return };
    let place = Place::new();
    place.build_story();
    let server = place.serve(&[]);
    python.arg(root("tests/clients/openapi.py")).args([&server.url, "15"]);
    server::succeeds(python, place.path(), Duration::from_secs(240));
}
