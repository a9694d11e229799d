//! Decoders: logits and greedy text.

use mdl::runtime::engine::SessionOptions;
use mdl::runtime::loaded::Loaded;
use serde_json::Value;

use crate::fixture::{Fixture, floats, ids};

/// Logits of a float32 build differ from those of `transformers` by no more.
const WORST: f32 = 1e-3;

/// Logits of a `q8_0` build differ by no more, in parts of the largest logit. (Random weights carry an error further
/// than trained ones.)
const WORST_Q8_0: f32 = 0.1;

/// The largest difference at the reference's positions, and the largest logit.
fn worst(loaded: &Loaded, case: &Value) -> (f32, f32) {
    let prompt = ids(&case["prompt"]);
    let vocabulary = case["shape"][1].as_u64().unwrap() as usize;
    let expected = floats(&case["logits"]);
    let (mut worst, mut largest) = (0f32, 0f32);
    let options = options(case);
    for (position, expected) in ids(&case["positions"]).iter().zip(expected.chunks_exact(vocabulary)) {
        let mut session = loaded.model.session(&options).unwrap();
        let logits = session.prefill(&prompt[..=*position as usize]).unwrap();
        assert_eq!(logits.len(), vocabulary);
        for (found, expected) in logits.iter().zip(expected) {
            worst = worst.max((found - expected).abs());
            largest = largest.max(expected.abs());
        }
    }
    (worst, largest)
}

/// Room for the prompt and what follows.
fn options(case: &Value) -> SessionOptions {
    let context = case["prompt"].as_array().unwrap().len() + 32;
    SessionOptions { context, columns: 32, outputs: 1, kv: None }
}

fn highest(logits: &[f32]) -> u32 {
    (0..logits.len()).max_by(|a, b| logits[*a].total_cmp(&logits[*b]).then(b.cmp(a))).unwrap() as u32
}

/// The tokens that follow the prompt.
fn greedy(loaded: &Loaded, case: &Value, count: usize) -> Vec<u32> {
    let mut session = loaded.model.session(&options(case)).unwrap();
    let mut next = highest(session.prefill(&ids(&case["prompt"])).unwrap());
    let mut all = vec![next];
    while all.len() < count {
        next = highest(session.decode(next).unwrap());
        all.push(next);
    }
    all
}

#[test]
fn decoders_compute_what_transformers_computes() {
    let out = tempfile::tempdir().unwrap();
    let (mut problems, mut cases) = (Vec::new(), 0);
    for fixture in Fixture::all() {
        let Some(reference) = fixture.json("reference.json").filter(|r| r.get("logits").is_some()) else {
            continue;
        };
        let name = &fixture.name;
        let (loaded, quantized) = match (fixture.load("f32", out.path()), fixture.load("q8_0", out.path())) {
            (Ok(loaded), Ok(quantized)) => (loaded, quantized),
            (loaded, quantized) => {
                problems.extend([loaded.err(), quantized.err()].into_iter().flatten());
                continue;
            }
        };
        // LongRoPE turns by other factors in a short context.
        for case in std::iter::once(&reference).chain(reference.get("short")) {
            cases += 1;
            let (difference, largest) = worst(&loaded, case);
            let expected = ids(&case["greedy"]);
            let found = greedy(&loaded, case, expected.len());
            let same = found.iter().zip(&expected).take_while(|(a, b)| a == b).count();
            println!("{name:>24} f32: {difference:.1e} of {largest:.1}, {same} of {} tokens", expected.len());
            if difference > WORST || same < expected.len() {
                problems.push(format!("{name}: f32 logits differ by {difference}, {same} tokens agree"));
            }
        }
        let (difference, largest) = worst(&quantized, &reference);
        println!("{name:>24} q8_0: {:.4} of the largest", difference / largest);
        if difference > WORST_Q8_0 * largest {
            problems.push(format!("{name}: q8_0 logits differ by {difference} of {largest}"));
        }
    }
    println!("{cases} cases");
    assert!(problems.is_empty(), "{}", problems.join("\n"));
    assert!(cases >= 28, "only {cases} cases");
}
