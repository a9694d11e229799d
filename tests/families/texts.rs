//! Texts to tokens as Hugging Face's tokenizer of the same files has them, and back.

use mdl::passes::resolve;
use mdl::tokenizer::{EncodeOptions, Tokenizer};
use mdl::world::SystemWorld;

use crate::fixture::{Fixture, ids};

/// SentencePiece, which made `tokenizer.model`, puts a space before every text; the `tokenizer.json` that was converted
/// from it only before one without. Ours is the former, as Mistral's own code and llama.cpp.
const SPACES: &str = "mistral";

/// Encodings of texts that begin with a space, by that fixture's tokenizer.
const WITH_SPACES: usize = 14;

fn tokenizer(fixture: &Fixture, out: &std::path::Path) -> Result<Tokenizer, String> {
    let gguf = fixture.compile("q8_0", out)?;
    let module = resolve::open_gguf(&SystemWorld, &gguf).map_err(|e| e.to_string())?;
    Tokenizer::from_metadata(&module.metadata).map_err(|e| e.to_string())
}

#[test]
fn texts_become_the_tokens_of_the_checkpoints_own_tokenizer() {
    let out = tempfile::tempdir().unwrap();
    let (mut problems, mut count, mut files, mut spaces) = (Vec::new(), 0, 0, 0);
    for fixture in Fixture::all() {
        let cases = fixture.json("tokenizer-cases.json").expect("every fixture has cases");
        let tokenizer = match tokenizer(&fixture, out.path()) {
            Ok(tokenizer) => tokenizer,
            Err(e) => {
                problems.push(format!("{}: {e}", fixture.name));
                continue;
            }
        };
        files += 1;
        for case in cases["cases"].as_array().unwrap() {
            let text = case["text"].as_str().unwrap();
            for (key, add_special) in [("ids", false), ("ids_with_special", true)] {
                count += 1;
                let expected = ids(&case[key]);
                // Special tokens in a text are what they say, as in the library.
                let options = EncodeOptions { add_special, parse_special: true };
                let found = tokenizer.encode(text, options);
                if found != expected && fixture.name == SPACES && text.starts_with(' ') {
                    spaces += 1;
                } else if found != expected {
                    problems.push(format!("{} {key} {text:?}: {found:?}, not {expected:?}", fixture.name));
                }
            }
        }
    }
    assert_eq!(spaces, WITH_SPACES);
    println!("{count} encodings by {files} tokenizers");
    assert!(problems.is_empty(), "{} of {count}:\n{}", problems.len(), problems.join("\n"));
}
