//! Nanoseconds for a thousand values of each operation that is not a product, by level.
//!
//! `cargo bench -p mdl-kernels --bench elementwise`; one thread, values in the first cache.

use std::time::{Duration, Instant};

use mdl_kernels::Level;
use mdl_kernels::ops::activation::{ActivationBlock, BLOCK, quantize_activations};
use mdl_kernels::ops::elementwise::{
    Activation, add, all_finite, from_f16, gated, greatest, scale, soft_cap, to_f16,
};
use mdl_kernels::ops::norm::{layer_norm, rms_norm};
use mdl_kernels::ops::rope::{RopeKind, rope};

/// Values of a call.
const N: usize = 1536;
/// Calls that are timed together.
const CALLS: usize = 20;

/// Nanoseconds for a thousand values, at best.
fn time(mut run: impl FnMut()) -> f64 {
    let mut best = f64::MAX;
    let begin = Instant::now();
    while begin.elapsed() < Duration::from_millis(20) {
        let start = Instant::now();
        (0..CALLS).for_each(|_| run());
        best = best.min(start.elapsed().as_secs_f64());
    }
    best * 1e9 / (N * CALLS) as f64 * 1e3
}

fn main() {
    // Run as a test, there is nothing to measure.
    if !std::env::args().any(|a| a == "--bench") {
        return;
    }
    let levels: Vec<Level> = Level::available();
    print!("{:12}", "");
    levels.iter().for_each(|level| print!(" {:>12}", format!("{level:?}")));
    println!();
    let x: Vec<f32> = (0..N).map(|i| (i * 37 % 101) as f32 / 17.0 - 3.0).collect();
    let (ones, y) = (vec![1.0; N], x.clone());
    let mut out = vec![0.0; N];
    let mut blocks = vec![ActivationBlock::default(); N / BLOCK];
    let mut halves = vec![0u16; N];
    let row = |name: &str, run: &mut dyn FnMut(Level)| {
        print!("{name:12}");
        levels.iter().for_each(|level| print!(" {:12.0}", time(|| run(*level))));
        println!();
    };
    row("rms_norm", &mut |l| rms_norm(l, &x, &ones, 1e-5, &mut out));
    row("layer_norm", &mut |l| layer_norm(l, &x, &ones, Some(&ones), 1e-5, &mut out));
    row("quantize", &mut |l| quantize_activations(l, &x, &mut blocks));
    row("silu gate", &mut |l| gated(l, Activation::Silu, &x, &y, &mut out));
    row("gelu gate", &mut |l| gated(l, Activation::GeluTanh, &x, &y, &mut out));
    row("erf gate", &mut |l| gated(l, Activation::GeluErf, &x, &y, &mut out));
    row("relu gate", &mut |l| gated(l, Activation::Relu, &x, &y, &mut out));
    let mut head = x.clone();
    row("rope neox", &mut |l| {
        head.chunks_exact_mut(64).for_each(|head| rope(l, RopeKind::Neox, head, &ones[..64]));
    });
    row("rope norm", &mut |l| {
        head.chunks_exact_mut(64).for_each(|head| rope(l, RopeKind::Norm, head, &ones[..64]));
    });
    row("add", &mut |l| add(l, &mut out, &x));
    row("scale", &mut |l| scale(l, &mut out, 1.0));
    row("soft_cap", &mut |l| soft_cap(l, &mut out, 30.0));
    row("to_f16", &mut |l| to_f16(l, &x, &mut halves));
    row("from_f16", &mut |l| from_f16(l, &halves, &mut out));
    row("all_finite", &mut |l| assert!(all_finite(l, &x)));
    row("greatest", &mut |l| assert!(greatest(l, &x).is_some()));
}
