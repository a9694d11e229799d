//! Million values a second for each type and level, to memory and back.
//!
//! `cargo bench -p mdl-kernels --bench quantize -- [TYPE...]`; one thread.

use std::time::Instant;

use mdl_kernels::{Level, TensorType, dequantizable, dequantize_at, quantizable, quantize_at};

const COLS: usize = 4096;
const ROWS: usize = 16;

/// The best of several timed runs, in million values a second.
fn rate(mut run: impl FnMut()) -> f64 {
    let mut best = f64::MAX;
    let begin = Instant::now();
    while begin.elapsed().as_millis() < 300 {
        let start = Instant::now();
        run();
        best = best.min(start.elapsed().as_secs_f64());
    }
    (ROWS * COLS) as f64 / best / 1e6
}

fn main() {
    // Run as a test, there is nothing to measure.
    if !std::env::args().any(|a| a == "--bench") {
        return;
    }
    let only: Vec<String> = std::env::args().skip(1).filter(|a| !a.starts_with('-')).collect();
    // Bell-shaped: sums of four uniform numbers from SplitMix64.
    let mut state = 1u64;
    let mut uniform = || {
        state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (state ^ (state >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((z ^ (z >> 31)) >> 40) as f32 / (1 << 24) as f32
    };
    let rows: Vec<f32> = (0..ROWS * COLS)
        .map(|_| uniform() + uniform() + uniform() + uniform() - 2.0)
        .map(|v| v * 0.05)
        .collect();
    let importance: Vec<f32> = (0..COLS).map(|_| uniform() * 4.0 + 0.01).collect();

    println!("{:8} {:12} {:>10} {:>10} {:>10}", "type", "level", "plain", "weighted", "decode");
    for &ty in TensorType::ALL {
        if !dequantizable(ty) || !(only.is_empty() || only.iter().any(|o| o.eq_ignore_ascii_case(ty.name())))
        {
            continue;
        }
        let mut bytes = vec![0; rows.len() / ty.block_len() * ty.block_bytes()];
        let mut values = vec![0.0; rows.len()];
        for level in Level::available() {
            let mut encode = |importance| {
                if !quantizable(ty) {
                    return f64::NAN;
                }
                rate(|| {
                    if let Err(error) = quantize_at(level, ty, &rows, COLS, importance, &mut bytes) {
                        panic!("{error}");
                    }
                })
            };
            let (plain, weighted) = (encode(None), encode(Some(&importance[..])));
            let decode = rate(|| {
                if let Err(error) = dequantize_at(level, ty, &bytes, &mut values) {
                    panic!("{error}");
                }
            });
            println!(
                "{:8} {:12} {plain:10.1} {weighted:10.1} {decode:10.0}",
                ty.name(),
                format!("{level:?}")
            );
        }
    }
}
