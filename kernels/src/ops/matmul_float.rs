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
    /// The bytes of sixteen values.
    type Chunk;

    /// A row in sixteens, and the bytes that are left.
    fn chunks(row: &[u8]) -> (&[Self::Chunk], &[u8]);

    fn load<S: Simd>(s: S, chunk: &Self::Chunk) -> S::F;

    /// Fewer than sixteen values, filled with zeros.
    fn load_rest<S: Simd>(s: S, rest: &[u8]) -> S::F;
}

struct F32;
struct F16;
struct Bf16;

macro_rules! float {
    ($name:ident, $bytes:literal, $load:ident) => {
        impl Float for $name {
            const BYTES: usize = $bytes;
            type Chunk = [u8; $bytes * LANES];

            #[inline(always)]
            fn chunks(row: &[u8]) -> (&[Self::Chunk], &[u8]) {
                row.as_chunks()
            }
            #[inline(always)]
            fn load<S: Simd>(s: S, chunk: &Self::Chunk) -> S::F {
                s.$load(chunk)
            }
            #[inline(always)]
            fn load_rest<S: Simd>(s: S, rest: &[u8]) -> S::F {
                let mut chunk = [0; $bytes * LANES];
                chunk[..rest.len()].copy_from_slice(rest);
                s.$load(&chunk)
            }
        }
    };
}
float!(F32, 4, load_f32);
float!(F16, 2, load_f16);
float!(Bf16, 2, load_bf16);

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
    let steps = x[0].len() / LANES;
    let chunks = w.map(|w| &T::chunks(w).0[..steps]);
    let columns = x.map(|x| &x.as_chunks::<LANES>().0[..steps]);
    let mut sums = [[s.splat(0.0); R]; C];
    for i in 0..steps {
        let x: [S::F; C] = std::array::from_fn(|c| s.load(&columns[c][i]));
        for r in 0..R {
            let weights = T::load(s, &chunks[r][i]);
            for c in 0..C {
                sums[c][r] = s.fma(weights, x[c], sums[c][r]);
            }
        }
    }
    let rest = steps * LANES;
    if rest < x[0].len() {
        for c in 0..C {
            let mut last = [0.0; LANES];
            last[..x[c].len() - rest].copy_from_slice(&x[c][rest..]);
            let column = s.load(&last);
            for r in 0..R {
                sums[c][r] = s.fma(T::load_rest(s, T::chunks(w[r]).1), column, sums[c][r]);
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
