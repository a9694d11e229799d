//! How fast text becomes tokens, on one core.
//!
//! `cargo bench --bench tokenizer -- [MODEL.gguf] [TEXT]`: without a model, the cut-down vocabularies of the tests; without a text, the
//! storyteller's held-out one. For each vocabulary the time to read it, and the rate for the whole text in one call and for
//! its paragraphs one by one, each the best of five.

use std::path::{Path, PathBuf};
use std::time::Instant;

use mdl::formats::gguf::Gguf;
use mdl::tokenizer::{EncodeOptions, Tokenizer};
use mdl::world::{SystemWorld, World};

const RUNS: usize = 5;

fn main() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let arguments: Vec<String> =
        std::env::args().skip(1).filter(|argument| !argument.starts_with("--")).collect();
    let text = arguments.iter().find(|argument| !argument.ends_with(".gguf")).map(PathBuf::from);
    let text = std::fs::read_to_string(text.unwrap_or_else(|| root.join("testdata/storyteller/heldout.txt")));
    let text = text.unwrap_or_else(|e| panic!("the text cannot be read: {e}"));
    let mut models: Vec<PathBuf> =
        arguments.iter().filter(|a| a.ends_with(".gguf")).map(PathBuf::from).collect();
    if models.is_empty() {
        let names = ["llama-bpe", "qwen2", "llama-spm", "nomic-bert-moe", "bert-bge", "deepseek-llm"];
        models.extend(names.map(|name| root.join(format!("testdata/tokenizer/vocabularies/{name}.gguf"))));
    }
    println!("{} bytes of text", text.len());
    for path in models {
        measure(&path, &text);
    }
}

fn measure(path: &Path, text: &str) {
    let gguf = SystemWorld
        .open(path)
        .map_err(|e| e.to_string())
        .and_then(|file| Gguf::read(path, &*file).map_err(|e| e.to_string()));
    let gguf = gguf.unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    let start = Instant::now();
    let tokenizer =
        Tokenizer::from_metadata(&gguf.metadata).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    let read = start.elapsed();
    let options = EncodeOptions::default();
    let rate = |encode: &dyn Fn() -> usize| {
        let (mut best, mut tokens) = (f64::INFINITY, 0);
        for _ in 0..RUNS {
            let start = Instant::now();
            tokens = encode();
            best = best.min(start.elapsed().as_secs_f64());
        }
        (text.len() as f64 / 1e6 / best, tokens)
    };
    let (whole, tokens) = rate(&|| tokenizer.encode(text, options).len());
    let (parts, _) = rate(&|| text.split("\n\n").map(|part| tokenizer.encode(part, options).len()).sum());
    let name = path.file_stem().unwrap_or_default().to_string_lossy();
    println!(
        "{name}: {} tokens read in {read:.0?}; {whole:.1} MB/s whole, {parts:.1} MB/s by paragraphs ({tokens} tokens)",
        tokenizer.vocab_size()
    );
}
