//! Our bytes against ggml's reference: `testdata/golden/quantize` says how those were made.

#![allow(clippy::unwrap_used, reason = "this is all tests")]

use std::fs;
use std::path::PathBuf;

use mdl_kernels::{Level, TensorType, dequantize_at, quantize_at};
use rayon::prelude::*;
use sha2::{Digest, Sha256};

const COLS: usize = 1024;

const TYPES: [TensorType; 12] = [
    TensorType::Q4_0,
    TensorType::Q4_1,
    TensorType::Q5_0,
    TensorType::Q5_1,
    TensorType::Q8_0,
    TensorType::Q2_K,
    TensorType::Q3_K,
    TensorType::Q4_K,
    TensorType::Q5_K,
    TensorType::Q6_K,
    TensorType::IQ4_NL,
    TensorType::IQ4_XS,
];

fn golden(name: &str) -> Vec<u8> {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../testdata/golden/quantize").join(name);
    fs::read(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
}

fn floats(name: &str) -> Vec<f32> {
    golden(name).as_chunks().0.iter().map(|b| f32::from_le_bytes(*b)).collect()
}

/// Quantizes with the rows spread over this many threads, a row a task.
fn quantize_on(
    threads: usize,
    level: Level,
    ty: TensorType,
    rows: &[f32],
    importance: Option<&[f32]>,
) -> Vec<u8> {
    let row_bytes = ty.row_bytes(COLS as u64).unwrap() as usize;
    let mut out = vec![0xa5; rows.len() / COLS * row_bytes];
    let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
    pool.install(|| {
        out.par_chunks_mut(row_bytes).zip(rows.par_chunks(COLS)).for_each(|(out, row)| {
            quantize_at(level, ty, row, COLS, importance, out).unwrap();
        });
    });
    out
}

fn expect(ty: TensorType, what: &str, ours: &[u8], theirs: &[u8]) {
    assert_eq!(ours.len(), theirs.len(), "{ty} {what}: length");
    if let Some(at) = ours.iter().zip(theirs).position(|(a, b)| a != b) {
        let size = ty.block_bytes();
        let block = at / size * size..(at / size + 1) * size;
        let row = at / ty.row_bytes(COLS as u64).unwrap() as usize;
        panic!(
            "{ty} {what}: row {row}, block {}, byte {}\nours   {:02x?}\ntheirs {:02x?}",
            at / size,
            at % size,
            &ours[block.clone()],
            &theirs[block]
        );
    }
}

#[test]
fn every_format_gives_the_reference_bytes_on_every_level() {
    let rows = floats("input.f32");
    let importance = floats("imatrix.f32");
    for level in Level::available() {
        for ty in TYPES {
            let plain = golden(&format!("{ty}.bin"));
            let weighted = golden(&format!("{ty}.imatrix.bin"));
            for threads in [1, 2] {
                let what = format!("at {level:?} on {threads} threads");
                expect(ty, &what, &quantize_on(threads, level, ty, &rows, None), &plain);
                let ours = quantize_on(threads, level, ty, &rows, Some(&importance));
                expect(ty, &format!("weighted {what}"), &ours, &weighted);
            }
            let mut whole = vec![0; plain.len()];
            quantize_at(level, ty, &rows, COLS, Some(&importance), &mut whole).unwrap();
            expect(ty, "all rows at once", &whole, &weighted);
        }
    }
}

#[test]
fn every_format_decodes_to_the_reference_values_on_every_level() {
    let sums = String::from_utf8(golden("dequantized.sha256")).unwrap();
    for level in Level::available() {
        for ty in TYPES {
            let bytes = golden(&format!("{ty}.bin"));
            let mut values = vec![0f32; 16 * COLS];
            dequantize_at(level, ty, &bytes, &mut values).unwrap();
            let mut hash = Sha256::new();
            for v in &values {
                hash.update(v.to_le_bytes());
            }
            let sum: String = hash.finalize().iter().map(|b| format!("{b:02x}")).collect();
            let line = format!("{sum}  {ty}.dequant.f32");
            assert!(sums.lines().any(|l| l == line), "{ty} at {level:?}: no line {line}");
        }
    }
}
