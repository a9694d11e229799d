//! Float weights times float32 columns.
//!
//! A product is a sum over sixteen lanes: lane i adds the terms k with k % 16 = i, in order, each
//! by one fused multiply-add; a last, shorter step counts as zeros. The lanes are then added as
//! `Simd::sum` does.

use std::ops::Range;

use super::matmul::Weight;
use super::on_level;
use super::simd::{LANES, Simd};
use crate::{Level, TensorType};

/// How a float type is read.
trait Float {
    /// Bytes of one value.
    const BYTES: usize;

    /// Values `at..at + 16` of a row; zeros beyond its end.
    fn load<S: Simd>(s: S, row: &[u8], at: usize) -> S::F;
}

/// Sixteen values' bytes from value `at`, filled with zeros beyond the end.
#[inline(always)]
fn bytes<const N: usize>(row: &[u8], at: usize) -> [u8; N] {
    let row = &row[at * (N / LANES)..];
    match row.first_chunk() {
        Some(chunk) => *chunk,
        None => {
            let mut chunk = [0; N];
            chunk[..row.len()].copy_from_slice(row);
            chunk
        }
    }
}

struct F32;
struct F16;
struct Bf16;

impl Float for F32 {
    const BYTES: usize = 4;
    #[inline(always)]
    fn load<S: Simd>(s: S, row: &[u8], at: usize) -> S::F {
        s.load_f32(&bytes(row, at))
    }
}

impl Float for F16 {
    const BYTES: usize = 2;
    #[inline(always)]
    fn load<S: Simd>(s: S, row: &[u8], at: usize) -> S::F {
        s.load_f16(&bytes(row, at))
    }
}

impl Float for Bf16 {
    const BYTES: usize = 2;
    #[inline(always)]
    fn load<S: Simd>(s: S, row: &[u8], at: usize) -> S::F {
        s.load_bf16(&bytes(row, at))
    }
}

/// Gives `put(row, column, values)` the products of consecutive rows with each of `n` columns.
pub(super) fn multiply(
    level: Level,
    weight: &Weight<'_>,
    rows: Range<usize>,
    x: &[f32],
    n: usize,
    put: &mut dyn FnMut(usize, usize, &[f32]),
) {
    type Put<'a> = &'a mut dyn FnMut(usize, usize, &[f32]);
    assert_eq!(x.len(), n * weight.cols(), "an input column has a value for each of the weight's columns");
    macro_rules! run {
        ($float:ident) => {{
            #[inline(always)]
            fn body<S: Simd>(s: S, weight: &Weight<'_>, rows: Range<usize>, x: &[f32], put: Put<'_>) {
                if S::WIDE_TILE {
                    tiles::<S, $float, 4, 4>(s, weight, rows, x, put);
                } else {
                    tiles::<S, $float, 2, 2>(s, weight, rows, x, put);
                }
            }
            on_level!(level, body(weight: &Weight<'_>, rows: Range<usize>, x: &[f32], put: Put<'_>))
        }};
    }
    match weight.tensor_type() {
        TensorType::F32 => run!(F32),
        TensorType::F16 => run!(F16),
        TensorType::BF16 => run!(Bf16),
        ty => panic!("type {ty} takes blocks of activations"),
    }
}

/// Tiles of `R` rows and `C` columns, then what is left one row or column at a time.
#[inline(always)]
fn tiles<S: Simd, T: Float, const R: usize, const C: usize>(
    s: S,
    weight: &Weight<'_>,
    rows: Range<usize>,
    x: &[f32],
    put: &mut dyn FnMut(usize, usize, &[f32]),
) {
    let cols = weight.cols();
    let row_bytes = cols * T::BYTES;
    let n = x.len() / cols;
    let bytes = weight.row_range(rows.clone());
    let mut row = 0;
    macro_rules! rows_of {
        ($r:expr) => {
            while rows.len() - row >= $r {
                let w: [&[u8]; $r] =
                    std::array::from_fn(|i| &bytes[(row + i) * row_bytes..(row + i + 1) * row_bytes]);
                let mut c = 0;
                while n - c >= C {
                    let tile = dots::<S, T, $r, C>(
                        s,
                        w,
                        std::array::from_fn(|i| &x[(c + i) * cols..(c + i + 1) * cols]),
                    );
                    for (i, values) in tile.iter().enumerate() {
                        put(rows.start + row, c + i, values);
                    }
                    c += C;
                }
                while c < n {
                    let [values] = dots::<S, T, $r, 1>(s, w, [&x[c * cols..(c + 1) * cols]]);
                    put(rows.start + row, c, &values);
                    c += 1;
                }
                row += $r;
            }
        };
    }
    rows_of!(R);
    rows_of!(1);
}

#[inline(always)]
fn dots<S: Simd, T: Float, const R: usize, const C: usize>(
    s: S,
    w: [&[u8]; R],
    x: [&[f32]; C],
) -> [[f32; R]; C] {
    let cols = x[0].len();
    let w = w.map(|w| &w[..cols * T::BYTES]);
    let x = x.map(|x| &x[..cols]);
    let mut sums = [[s.splat(0.0); R]; C];
    let mut at = 0;
    while at + LANES <= cols {
        let mut columns = [s.splat(0.0); C];
        for c in 0..C {
            let mut chunk = [0.0; LANES];
            chunk.copy_from_slice(&x[c][at..at + LANES]);
            columns[c] = s.load(&chunk);
        }
        for r in 0..R {
            let weights = T::load(s, w[r], at);
            for c in 0..C {
                sums[c][r] = s.fma(weights, columns[c], sums[c][r]);
            }
        }
        at += LANES;
    }
    if at < cols {
        for c in 0..C {
            let mut rest = [0.0; LANES];
            rest[..cols - at].copy_from_slice(&x[c][at..]);
            let column = s.load(&rest);
            for r in 0..R {
                sums[c][r] = s.fma(T::load(s, w[r], at), column, sums[c][r]);
            }
        }
    }
    let mut out = [[0.0; R]; C];
    for c in 0..C {
        for r in 0..R {
            out[c][r] = s.sum(sums[c][r]);
        }
    }
    out
}
