//! Products with float weights: billion multiply-adds a second against the machine's peak, and gigabytes of
//! weights a second with few columns; what packing takes.
//!
//! `cargo bench -p mdl-kernels --bench matmul_float -- [PART...]`, the cases whose names have every
//! part; one thread. Rounds of all cases follow
//! each other and the best of each counts, so that a busy machine disturbs all alike.

use std::hint::black_box;
use std::time::Instant;

use mdl_kernels::ops::matmul::{Activations, Packed, Panel, Product, Store, Weight, matmul};
use mdl_kernels::{Level, TensorType};

/// Rows and columns of a weight, and columns of activations.
const SHAPES: [(usize, usize, usize); 9] = [
    (1536, 576, 512),
    (576, 1536, 512),
    (8192, 2048, 512),
    (1536, 576, 1),
    (8192, 2048, 1),
    (8192, 2048, 2),
    (8192, 2048, 4),
    (8192, 2048, 8),
    (8192, 2048, 16),
];

/// Rows of one call, as a step's tiles have them.
const ROWS: usize = 256;

/// Columns that are bound by memory: what counts is a pass over all rows.
const FEW: usize = 16;

const ROUNDS: usize = 100;

fn seconds(run: impl FnOnce()) -> f64 {
    let start = Instant::now();
    run();
    start.elapsed().as_secs_f64()
}

/// Multiply-adds a second of independent sums, sixteen lanes each.
#[cfg(target_arch = "x86_64")]
mod peak {
    use std::arch::x86_64::*;
    use std::hint::black_box;

    const STEPS: usize = 5_000;

    #[target_feature(enable = "avx512f")]
    fn avx512(x: f32) -> f32 {
        let x = _mm512_set1_ps(x);
        // Different values, or the sums would be one.
        let mut sums = std::array::from_fn::<_, 12, _>(|i| _mm512_set1_ps(black_box(i as f32)));
        for _ in 0..STEPS {
            for sum in &mut sums {
                *sum = _mm512_fmadd_ps(x, x, *sum);
            }
        }
        sums.iter().fold(0.0, |total, sum| total + _mm512_reduce_add_ps(*sum))
    }

    #[target_feature(enable = "avx2,fma")]
    fn avx2(x: f32) -> f32 {
        let x = _mm256_set1_ps(x);
        let mut sums = std::array::from_fn::<_, 12, _>(|i| _mm256_set1_ps(black_box(i as f32)));
        for _ in 0..STEPS {
            for sum in &mut sums {
                *sum = _mm256_fmadd_ps(x, x, *sum);
            }
        }
        sums.iter().fold(0.0, |total, sum| total + _mm256_cvtss_f32(*sum))
    }

    /// Billion multiply-adds a second; nothing where it is not known.
    pub fn rate(level: super::Level) -> f64 {
        let x = black_box(0.5);
        let mut lanes = 0;
        let seconds = super::seconds(|| {
            let sum = match level {
                super::Level::Portable => f32::NAN,
                super::Level::Avx2 => {
                    lanes = 12 * 8;
                    // SAFETY: the level is one that the machine has.
                    unsafe { avx2(x) }
                }
                super::Level::Avx512Vnni | super::Level::Amx => {
                    lanes = 12 * 16;
                    // SAFETY: as above.
                    unsafe { avx512(x) }
                }
            };
            black_box(sum);
        });
        (lanes * STEPS) as f64 / seconds / 1e9
    }
}

/// Unknown on other machines.
#[cfg(not(target_arch = "x86_64"))]
mod peak {
    pub fn rate(_: super::Level) -> f64 {
        0.0
    }
}

struct Case {
    ty: TensorType,
    shape: (usize, usize, usize),
    best: f64,
}

impl Case {
    fn name(&self) -> String {
        let (rows, cols, n) = self.shape;
        format!("{:5} {rows}x{cols}x{n}", self.ty.name())
    }
}

fn main() {
    // Run as a test, there is nothing to measure.
    if !std::env::args().any(|a| a == "--bench") {
        return;
    }
    let only: Vec<String> = std::env::args().skip(1).filter(|a| !a.starts_with('-')).collect();
    let levels = Level::available().into_iter().filter(|l| *l != Level::Portable);
    for level in levels {
        let mut peak = 0f64;
        let mut cases = Vec::new();
        for ty in [TensorType::F16, TensorType::BF16, TensorType::F32] {
            cases.extend(SHAPES.map(|shape| Case { ty, shape, best: f64::MAX }));
        }
        cases.retain(|case| only.iter().all(|part| case.name().contains(part)));
        let mut room = Panel::default();
        let mut packing = f64::MAX;
        for case in &mut cases {
            let (rows, cols, n) = case.shape;
            // Any bytes but infinities: 0x3c is in the exponent of every type.
            let bytes = vec![0x3c; rows * cols * case.ty.block_bytes()];
            let weight = match Weight::new(case.ty, rows, cols, &bytes) {
                Ok(weight) => weight,
                Err(error) => panic!("{error}"),
            };
            let mut packed = None;
            for _ in 0..5 {
                let time = seconds(|| packed = Packed::new(&weight).ok().flatten());
                packing = packing.min(time / bytes.len() as f64);
            }
            let x: Vec<f32> = (0..n * cols).map(|i| (i % 7) as f32 - 3.0).collect();
            let mut out = vec![vec![0.0; ROWS]; n];
            let begin = Instant::now();
            let mut round = 0;
            while round < ROUNDS && (round < 3 || begin.elapsed().as_millis() < 700) {
                round += 1;
                let mut all = 0.0;
                for start in (0..rows).step_by(ROWS) {
                    peak = peak.max(peak::rate(level));
                    let product = Product {
                        weight,
                        packed: packed.as_ref(),
                        rows: start..(start + ROWS).min(rows),
                        x: Activations::F32(&x),
                        columns: 0..n,
                        store: Store::Set,
                    };
                    let count = product.rows.len();
                    out.iter_mut().for_each(|column| column.resize(count, 0.0));
                    let time = seconds(|| matmul(level, black_box(&product), &mut out[..], &mut room));
                    all += time;
                    if n > FEW {
                        // Bound by arithmetic: each call is as good as the other.
                        case.best = case.best.min(time / count as f64);
                    }
                }
                if n <= FEW {
                    case.best = case.best.min(all / rows as f64);
                }
            }
        }
        println!("{level:?}: peak {peak:.1} G/s, packing {:.1} GB/s", 1e-9 / packing);
        for case in &cases {
            let (_, cols, n) = case.shape;
            let macs = (cols * n) as f64 / case.best / 1e9;
            let bytes = (cols * case.ty.block_bytes()) as f64 / case.best / 1e9;
            println!("{:24} {macs:7.1} G/s {:5.1} % {bytes:7.1} GB/s", case.name(), 100.0 * macs / peak);
        }
    }
}
