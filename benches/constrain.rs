//! What a constraint costs per token on a vocabulary of 128,000 tokens.
//!
//! `cargo bench --bench constrain`: the time to read the vocabulary, to compile a schema, and of a token's mask
//! (mean, 99th percentile) while a text is written, for three grammars. The share is that of the mean in a token of
//! 8 ms, a fast one on a CPU for a model with such a vocabulary.

use std::time::{Duration, Instant};

use mdl::ir::{Array, Metadata, Value};
use mdl::runtime::constrain::{Constraint, Grammar, Grammars};
use mdl::tokenizer::Tokenizer;
use serde_json::json;

const TOKENS: usize = 128_000;

/// SplitMix64.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn below(&mut self, n: usize) -> usize {
        (self.next() % n as u64) as usize
    }
}

/// The alphabet, and words of it in the mixture of a real vocabulary: most begin with a blank, some hold punctuation
/// and digits.
fn vocabulary() -> Tokenizer {
    let mut random = Random(5);
    let mut seen = std::collections::HashSet::new();
    let mut tokens = Vec::with_capacity(TOKENS);
    let mut add = |token: String, tokens: &mut Vec<String>| {
        if seen.insert(token.clone()) {
            tokens.push(token);
        }
    };
    let printable = (33..127u32).chain(161..173).chain(174..256).filter_map(char::from_u32);
    printable.chain((256..324u32).filter_map(char::from_u32)).for_each(|c| add(c.to_string(), &mut tokens));
    let letters: Vec<char> = "etaoinshrdlucmfwypvbgkjqxz".chars().collect();
    let marks: Vec<char> = "\"{}[]:,._-=()/\\;0123456789".chars().collect();
    while tokens.len() < TOKENS - 1 {
        let mut word = String::new();
        if random.below(10) < 6 {
            word.push('\u{120}');
        }
        let letters_of = 1 + random.below(9);
        for _ in 0..letters_of {
            // The first letters of the list are the frequent ones.
            word.push(letters[random.below(letters.len()).min(random.below(letters.len()))]);
        }
        for _ in 0..if random.below(12) == 0 { 1 + random.below(3) } else { 0 } {
            word.push(marks[random.below(marks.len())]);
        }
        add(word, &mut tokens);
    }
    tokens.push("<|end|>".to_owned());
    let mut types = vec![1i32; TOKENS];
    types[TOKENS - 1] = 3;
    let mut metadata = Metadata::default();
    metadata.set("tokenizer.ggml.model", Value::String("gpt2".to_owned()));
    metadata.set("tokenizer.ggml.pre", Value::String("llama-bpe".to_owned()));
    metadata.set("tokenizer.ggml.tokens", Value::Array(Array::String(tokens.into())));
    metadata.set("tokenizer.ggml.token_type", Value::Array(Array::I32(types)));
    metadata.set("tokenizer.ggml.merges", Value::Array(Array::String(Vec::new().into())));
    metadata.set("tokenizer.ggml.eos_token_id", Value::U32(TOKENS as u32 - 1));
    match Tokenizer::from_metadata(&metadata) {
        Ok(tokenizer) => tokenizer,
        Err(errors) => panic!("{errors}"),
    }
}

/// Writes random text under the constraint, and times each mask.
fn masks(tokenizer: &Tokenizer, mut fresh: impl FnMut() -> Constraint, times: &mut Vec<Duration>) {
    let mut random = Random(9);
    let mut logits = vec![0.0f32; TOKENS];
    while times.len() < 1500 {
        let mut constraint = fresh();
        for _ in 0..200 {
            logits.fill(0.0);
            let start = Instant::now();
            constraint.mask(&mut logits).unwrap_or_else(|e| panic!("{e}"));
            times.push(start.elapsed());
            let allowed: Vec<u32> = (0..).zip(&logits).filter(|(_, l)| **l == 0.0).map(|(i, _)| i).collect();
            let token = allowed[random.below(allowed.len())];
            if tokenizer.is_end_of_generation(token)
                || constraint.accept(token, tokenizer.decode_bytes(token)).is_err()
                || constraint.is_complete()
            {
                break;
            }
        }
    }
}

fn main() {
    // Run as a test, there is nothing to measure.
    if !std::env::args().any(|a| a == "--bench") {
        return;
    }
    let tokenizer = vocabulary();
    let start = Instant::now();
    let grammars = match Grammars::new(&tokenizer) {
        Ok(grammars) => grammars,
        Err(errors) => panic!("{errors}"),
    };
    println!("vocabulary of {TOKENS} tokens read in {:.0} ms", start.elapsed().as_secs_f64() * 1e3);
    let person = json!({"type": "object", "properties": {
        "name": {"type": "string"}, "age": {"type": "integer", "minimum": 0, "maximum": 150},
        "tags": {"type": "array", "items": {"enum": ["red", "green", "blue"]}},
        "address": {"type": "object", "properties": {"street": {"type": "string"}, "zip": {"type": "string", "pattern": "[0-9]{5}"}},
            "required": ["street", "zip"], "additionalProperties": false}},
        "required": ["name", "age", "tags", "address"], "additionalProperties": false});
    let free =
        json!({"type": "object", "additionalProperties": {"type": ["string", "number", "boolean", "null"]}});
    for (name, grammar) in
        [("json", Grammar::Json), ("a schema", Grammar::Schema(person)), ("free keys", Grammar::Schema(free))]
    {
        let start = Instant::now();
        let fresh = || grammars.constraint(&grammar, None).unwrap_or_else(|e| panic!("{e}"));
        drop(fresh());
        let compile = start.elapsed();
        let mut times = Vec::new();
        masks(&tokenizer, fresh, &mut times);
        times.sort_unstable();
        let mean = times.iter().sum::<Duration>().as_secs_f64() / times.len() as f64;
        let p99 = times[times.len() * 99 / 100].as_secs_f64();
        println!(
            "{name:10} compiled in {:6.1} ms   mask: mean {:6.1} us, p99 {:7.1} us   {:.2} % of 8 ms",
            compile.as_secs_f64() * 1e3,
            mean * 1e6,
            p99 * 1e6,
            mean / 0.008 * 100.0
        );
    }
}
