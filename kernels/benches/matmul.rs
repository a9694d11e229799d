//! Products of quantized weights on one thread, by level, format and number of columns: 10^9 multiply-adds a
//! second, and the packed bytes that go by. The minimum of many runs.
//!
//! ```text
//! cargo bench -p mdl-kernels --bench matmul [FILTER]
//! ```
#![expect(clippy::unwrap_used, reason = "what cannot be set up cannot be measured")]

use std::time::Instant;

use mdl_kernels::ops::activation::{ActivationBlock, BLOCK, quantize_activations};
use mdl_kernels::ops::matmul::{Activations, Packed, Panel, Product, Store, Weight, matmul};
use mdl_kernels::{Level, TensorType, quantize};

const TYPES: [TensorType; 10] = [
    TensorType::Q4_0,
    TensorType::Q4_1,
    TensorType::Q5_0,
    TensorType::Q8_0,
    TensorType::Q2_K,
    TensorType::Q3_K,
    TensorType::Q4_K,
    TensorType::Q5_K,
    TensorType::Q6_K,
    TensorType::IQ4_XS,
];

fn main() {
    // Run as a test, there is nothing to measure.
    if !std::env::args().any(|a| a == "--bench") {
        return;
    }
    let filter = std::env::args().skip(1).find(|a| !a.starts_with('-')).unwrap_or_default();
    let (rows, cols) = (1536, 768);
    let values: Vec<f32> = (0..rows * cols).map(|i| ((i * 2_654_435) % 1999) as f32 / 999.0 - 1.0).collect();
    println!("{:8} {:12} {:>6} {:>9} {:>7}", "type", "level", "columns", "GMAC/s", "GB/s");
    for ty in TYPES {
        if !ty.to_string().starts_with(&filter) {
            continue;
        }
        let mut bytes = vec![0; rows * cols / ty.block_len() * ty.block_bytes()];
        quantize(ty, &values, cols, None, &mut bytes).unwrap();
        let weight = Weight::new(ty, rows, cols, &bytes).unwrap();
        let mut packing = f64::MAX;
        for _ in 0..20 {
            let started = Instant::now();
            assert!(Packed::new(&weight).unwrap().is_some());
            packing = packing.min(started.elapsed().as_secs_f64());
        }
        let packed = Packed::new(&weight).unwrap().unwrap();
        println!("{ty:8} packed at {:.2} GB/s", bytes.len() as f64 / packing / 1e9);
        for level in Level::available().into_iter().skip(1) {
            for columns in [1, 2, 4, 8, 16, 512] {
                let mut x = vec![ActivationBlock::default(); columns * cols / BLOCK];
                quantize_activations(level, &values[..columns * cols], &mut x);
                let mut out = vec![vec![0.0; rows]; columns];
                let product = Product {
                    weight,
                    packed: Some(&packed),
                    rows: 0..rows,
                    x: Activations::Blocks(&x),
                    columns: 0..columns,
                    store: Store::Set,
                };
                let mut panel = Panel::default();
                let mut best = f64::MAX;
                for _ in 0..(4000 / columns).clamp(12, 300) {
                    let started = Instant::now();
                    matmul(level, &product, &mut out[..], &mut panel);
                    best = best.min(started.elapsed().as_secs_f64());
                }
                let macs = (rows * cols * columns) as f64 / best / 1e9;
                let moved = Packed::bytes(&weight).unwrap_or(0) as f64 / best / 1e9;
                println!("{ty:8} {:12} {columns:6} {macs:9.1} {moved:7.1}", format!("{level:?}"));
            }
        }
    }
}
