//! The tree polices itself: imports run downward, `unsafe` stays in kernels/, files stay small.

#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::fs;
use std::path::{Path, PathBuf};

/// The rooms of the root crate, top to bottom. A room imports only from rooms below it.
const ROOMS: &[&str] = &[
    "main",
    "cli",
    "terminal",
    "client",
    "server",
    "lsp",
    "doctor",
    "pipeline",
    "runtime",
    "prompt",
    "registry",
    "provenance",
    "archive",
    "bucket",
    "passes",
    "codegen",
    "signing",
    "store",
    "modelfile",
    "families",
    "tokenizer",
    "formats",
    "ir",
    "world",
    "diagnostic",
];

/// Files over the limit, each with the reason.
const LONG_FILES: &[(&str, &str)] = &[];

const MOST_LINES: usize = 600;

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

fn sources(directory: &str) -> Vec<(String, String)> {
    let mut found = Vec::new();
    let mut pending = vec![root().join(directory)];
    while let Some(directory) = pending.pop() {
        for entry in fs::read_dir(&directory).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                if path.file_name().is_none_or(|n| n != "target") {
                    pending.push(path);
                }
            } else if path.extension().is_some_and(|e| e == "rs") {
                let name = path.strip_prefix(root()).unwrap().to_str().unwrap().replace('\\', "/");
                found.push((name, fs::read_to_string(&path).unwrap()));
            }
        }
    }
    found.sort();
    found
}

/// The room of a file: the first folder or file name below src.
fn room(path: &str) -> &str {
    let inside = path.strip_prefix("src/").unwrap();
    inside.split('/').next().unwrap().trim_end_matches(".rs")
}

#[test]
fn imports_run_downward() {
    let mut wrong = Vec::new();
    for (path, text) in sources("src") {
        let Some(here) = ROOMS.iter().position(|r| *r == room(&path)) else {
            assert_eq!(room(&path), "lib", "{path} is in no room of the list");
            continue;
        };
        for (number, line) in text.lines().enumerate() {
            let code = line.split("//").next().unwrap();
            for (at, _) in code.match_indices("crate::") {
                let target = &code[at + "crate::".len()..];
                let end = target.find(|c: char| !c.is_alphanumeric() && c != '_').unwrap_or(target.len());
                let there = ROOMS.iter().position(|r| *r == &target[..end]);
                if there.is_some_and(|there| there < here) {
                    wrong.push(format!("{path}:{}: {}", number + 1, line.trim()));
                }
            }
        }
    }
    assert!(wrong.is_empty(), "imports that run upward:\n{}", wrong.join("\n"));
}

#[test]
fn unsafe_stays_in_kernels() {
    for (path, text) in sources("src") {
        for (number, line) in text.lines().enumerate() {
            let code = line.split("//").next().unwrap();
            let word = code.split(|c: char| !c.is_alphanumeric() && c != '_').any(|w| w == "unsafe");
            assert!(!word, "{path}:{}: {line}", number + 1);
        }
    }
}

#[test]
fn files_stay_small() {
    for directory in ["src", "kernels", "tests", "benches", "fuzz"] {
        if !root().join(directory).exists() {
            continue;
        }
        for (path, text) in sources(directory) {
            let lines = text.lines().count();
            let excused = LONG_FILES.iter().any(|(file, reason)| *file == path && !reason.is_empty());
            assert!(lines <= MOST_LINES || excused, "{path} has {lines} lines");
        }
    }
}

#[test]
fn the_excuses_are_needed() {
    for (path, _) in LONG_FILES {
        let lines = fs::read_to_string(root().join(Path::new(path))).unwrap().lines().count();
        assert!(lines > MOST_LINES, "{path} is short enough now");
    }
}

/// The grammar that colours Modelfiles knows every instruction.
#[test]
fn the_grammar_of_editors_is_complete() {
    let text = fs::read_to_string(root().join("editors/modelfile.tmLanguage.json")).unwrap();
    let _: serde_json::Value = serde_json::from_str(&text).unwrap();
    for (_, name) in mdl::modelfile::Keyword::ALL {
        assert!(
            text.contains(&format!("({name})"))
                || text.contains(&format!("{name}|"))
                || text.contains(&format!("|{name})")),
            "{name}"
        );
    }
}
