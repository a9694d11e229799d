//! Vocabularies of the field in GGUF files: every text takes the tokens that llama.cpp gives it.
//!
//! See `testdata/tokenizer/README.md` for where the files come from.
#![allow(clippy::unwrap_used)] // tests' own helpers

use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use mdl::formats::gguf::Gguf;
use mdl::tokenizer::{EncodeOptions, Tokenizer};
use mdl::world::{SystemWorld, World};

const PLAIN: EncodeOptions = EncodeOptions { add_special: false, parse_special: false };
const WHOLE: EncodeOptions = EncodeOptions { add_special: true, parse_special: true };

fn testdata() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("testdata/tokenizer")
}

fn tokenizer(path: &Path) -> Tokenizer {
    let file = SystemWorld.open(path).unwrap();
    let gguf = Gguf::read(path, &*file).unwrap();
    Tokenizer::from_metadata(&gguf.metadata).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
}

/// A line of ids for each text.
fn ids(path: &Path) -> Vec<Vec<u32>> {
    let text = std::fs::read_to_string(path).unwrap();
    text.lines().map(|line| line.split_whitespace().map(|id| id.parse().unwrap()).collect()).collect()
}

/// The texts that have something that may be a special token.
fn special(texts: &[String]) -> Vec<String> {
    texts.iter().filter(|text| text.contains(['<', '['])).cloned().collect()
}

/// Compares every text, and says what is different.
fn compare(directory: &Path, texts: &[String]) -> (usize, String) {
    let mut vocabularies: Vec<PathBuf> = std::fs::read_dir(directory)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.extension().is_some_and(|e| e == "gguf"))
        .collect();
    vocabularies.sort();
    let (mut compared, mut report) = (0, String::new());
    for path in vocabularies {
        let name = path.file_stem().unwrap().to_string_lossy().into_owned();
        let tokenizer = tokenizer(&path);
        for (kind, options, texts) in [("ids", PLAIN, texts), ("special", WHOLE, &special(texts))] {
            let expected = ids(&path.with_extension(kind));
            assert_eq!(expected.len(), texts.len(), "{name}.{kind}");
            let mut different = 0;
            for (text, expected) in texts.iter().zip(&expected) {
                let ours = tokenizer.encode(text, options);
                compared += 1;
                if ours != *expected {
                    different += 1;
                    if different <= 12 {
                        let spelt = |ids: &[u32]| -> Vec<String> {
                            ids.iter().map(|&id| tokenizer.token_text(id).unwrap_or("?").to_owned()).collect()
                        };
                        let (ours, theirs) = (spelt(&ours), spelt(expected));
                        writeln!(report, "{name}.{kind}: {text:?}\n    {ours:?}\n    {theirs:?}").unwrap();
                    }
                }
            }
            println!("{name}.{kind}: {} texts, {different} different", texts.len());
        }
    }
    (compared, report)
}

#[test]
fn every_text_takes_the_tokens_that_are_stored() {
    let texts: Vec<String> =
        serde_json::from_slice(&std::fs::read(testdata().join("texts.json")).unwrap()).unwrap();
    assert!(texts.len() >= 2000);
    let (compared, report) = compare(&testdata().join("vocabularies"), &texts);
    println!("{compared} comparisons");
    assert!(compared >= 18 * texts.len(), "{compared}");
    assert!(report.is_empty(), "{report}");
}
