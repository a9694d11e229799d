//! The product that both halves of attention are: rows of coefficients times a panel of vectors.

use std::ops::Range;

use super::CHUNK;
use crate::ops::simd::{LANES, Simd};

/// Values of a row of a panel: four vectors.
pub(super) const WIDTH: usize = 4 * LANES;

/// Rows that share each load of a panel.
pub(super) const ROWS: usize = 6;

/// A row of coefficients.
pub(super) type Row = [f32; CHUNK];

/// Where the sums of rows go: row `r` at `r * stride`.
pub(super) struct Output<'a> {
    pub values: &'a mut [f32],
    pub stride: usize,
    /// The sums start at what is there.
    pub add: bool,
}

/// `out[r][lanes of vectors] = sum over i in span of rows[r][i] * panel[i - span.start]`, in order, each term a
/// fused multiply-add.
#[inline(always)]
pub(super) fn product<S: Simd>(
    s: S,
    rows: &[Row],
    span: Range<usize>,
    panel: &[[f32; WIDTH]],
    vectors: Range<usize>,
    out: Output<'_>,
) {
    let Output { values, stride, add } = out;
    let mut first = 0;
    macro_rules! take {
        ($q:literal) => {
            while rows.len() - first >= $q {
                let values = &mut values[first * stride..];
                let rows = &rows[first..];
                let mut at = vectors.start;
                // As many sums as registers hold, and enough of them to hide an addition's latency.
                if S::WIDE_TILE || $q == 1 {
                    while at + 4 <= vectors.end {
                        let out = Output { values: &mut *values, stride, add };
                        tile::<S, $q, 4>(s, rows, span.clone(), panel, at, out);
                        at += 4;
                    }
                }
                while at < vectors.end {
                    let out = Output { values: &mut *values, stride, add };
                    tile::<S, $q, 1>(s, rows, span.clone(), panel, at, out);
                    at += 1;
                }
                first += $q;
            }
        };
    }
    take!(6);
    take!(4);
    take!(3);
    take!(2);
    take!(1);
}

/// `N` vectors from vector `at` on, for `Q` rows.
#[inline(always)]
fn tile<S: Simd, const Q: usize, const N: usize>(
    s: S,
    rows: &[Row],
    span: Range<usize>,
    panel: &[[f32; WIDTH]],
    at: usize,
    out: Output<'_>,
) {
    let Output { values: out, stride, add } = out;
    let Some(rows) = rows.first_chunk::<Q>() else { return };
    assert!(at + N <= WIDTH / LANES && span.end <= CHUNK && (Q - 1) * stride + WIDTH <= out.len());
    // Indices, not iterators: only such loops are unrolled before the sums are given registers.
    let mut sums = [[s.splat(0.0); N]; Q];
    if add {
        for q in 0..Q {
            let out = out[q * stride..].as_chunks::<LANES>().0;
            for n in 0..N {
                sums[q][n] = s.load(&out[at + n]);
            }
        }
    }
    let panel = &panel[..span.len()];
    for i in 0..panel.len() {
        let values = panel[i].as_chunks::<LANES>().0;
        let mut vectors = [s.splat(0.0); N];
        for n in 0..N {
            vectors[n] = s.load(&values[at + n]);
        }
        for q in 0..Q {
            let coefficient = s.splat(rows[q][span.start + i]);
            for n in 0..N {
                sums[q][n] = s.fma(coefficient, vectors[n], sums[q][n]);
            }
        }
    }
    for q in 0..Q {
        let out = out[q * stride..].as_chunks_mut::<LANES>().0;
        for n in 0..N {
            s.store(sums[q][n], &mut out[at + n]);
        }
    }
}
