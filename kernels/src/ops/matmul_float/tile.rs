//! Tiles of a product: the sums of some panels and columns, all in registers.

use std::ops::Range;

use super::super::simd::{LANES, Simd};
use super::BLOCK;

/// Sixteen float32 in a cache line of their own.
#[derive(Clone, Copy, bytemuck::Pod, bytemuck::Zeroable)]
#[repr(C, align(64))]
pub(super) struct Line(pub [f32; LANES]);

impl Line {
    pub(super) const ZERO: Line = Line([0.0; LANES]);
}

/// How sixteen rows' values at one position are read.
pub(super) trait Float {
    /// Sixteen values.
    type Chunk;

    fn load<S: Simd>(s: S, chunk: &Self::Chunk) -> S::F;
}

/// A type that weights are stored as.
pub(super) trait Stored: Float {
    /// Whole panels in sixteens.
    fn chunks(panels: &[u8]) -> &[Self::Chunk];
}

pub(super) struct F32;
pub(super) struct F16;
pub(super) struct Bf16;
/// A panel that has been widened to float32.
pub(super) struct Wide;

macro_rules! float {
    ($name:ident, $bytes:literal, $load:ident) => {
        impl Float for $name {
            type Chunk = [u8; $bytes * LANES];

            #[inline(always)]
            fn load<S: Simd>(s: S, chunk: &Self::Chunk) -> S::F {
                s.$load(chunk)
            }
        }

        impl Stored for $name {
            #[inline(always)]
            fn chunks(panels: &[u8]) -> &[Self::Chunk] {
                panels.as_chunks().0
            }
        }
    };
}
float!(F32, 4, load_f32);
float!(F16, 2, load_f16);
float!(Bf16, 2, load_bf16);

impl Float for Wide {
    type Chunk = Line;

    #[inline(always)]
    fn load<S: Simd>(s: S, chunk: &Line) -> S::F {
        s.load(&chunk.0)
    }
}

/// The tiles of `n` columns: where each starts, and how many columns it takes. The last may go beyond `n`.
#[inline(always)]
pub(super) fn widths(n: usize, [c3, c2, c1]: [usize; 3]) -> impl Iterator<Item = (usize, usize)> {
    let padded = n.next_multiple_of(c1);
    let mut at = 0;
    std::iter::from_fn(move || {
        let width = match padded - at {
            0 => return None,
            left if left >= c3 => c3,
            left if left >= c2 => c2,
            _ => c1,
        };
        at += width;
        Some((at - width, width))
    })
}

/// Copies some terms of every column as tiles take them, `[tile][terms / 16][columns of the tile][16]`:
/// all that a step of a tile reads lies together, wherever the columns are. What is missing is 0.
#[inline(always)]
pub(super) fn arrange(x: &[f32], cols: usize, terms: Range<usize>, tiles: [usize; 3], to: &mut Vec<Line>) {
    let n = x.len() / cols;
    let lines = terms.len().div_ceil(LANES);
    to.resize(n.next_multiple_of(tiles[2]) * lines, Line::ZERO);
    for (first, width) in widths(n, tiles) {
        let to = &mut to[first * lines..(first + width) * lines];
        for c in 0..width {
            if first + c >= n {
                to[c..].iter_mut().step_by(width).for_each(|line| *line = Line::ZERO);
                continue;
            }
            let column = &x[(first + c) * cols..][terms.clone()];
            let (whole, rest) = column.as_chunks::<LANES>();
            let mut to = to[c..].iter_mut().step_by(width);
            for (from, to) in whole.iter().zip(&mut to) {
                to.0 = *from;
            }
            if let Some(to) = to.next() {
                to.0 = [0.0; LANES];
                to.0[..rest.len()].copy_from_slice(rest);
            }
        }
    }
}

/// The sums of one block: `a` has a chunk for each term of each panel, `x` the terms as [`arrange`] puts
/// them.
#[inline(always)]
fn block<S: Simd, T: Float, const P: usize, const C: usize>(
    s: S,
    a: [&[T::Chunk]; P],
    x: &[[f32; LANES]],
) -> [[S::F; C]; P] {
    let mut sums = [[s.splat(0.0); C]; P];
    let len = a[0].len();
    let a = a.map(|a| a[..len].as_chunks::<LANES>());
    let x = x.as_chunks::<C>().0;
    // No closures here: one would not have the target feature.
    macro_rules! step {
        ($a:expr, $x:expr, $k:expr) => {
            let mut w = [s.splat(0.0); P];
            for p in 0..P {
                w[p] = T::load(s, &$a[p][$k]);
            }
            for c in 0..C {
                let x = s.splat($x[c][$k]);
                for p in 0..P {
                    sums[p][c] = s.fma(w[p], x, sums[p][c]);
                }
            }
        };
    }
    let (whole, rest) = (len / LANES, len % LANES);
    let lines = a.map(|a| &a.0[..whole]);
    for (i, x) in x[..whole].iter().enumerate() {
        let mut a = [&lines[0][i]; P];
        for p in 1..P {
            a[p] = &lines[p][i];
        }
        for k in (0..LANES).step_by(4) {
            step!(a, x, k);
            step!(a, x, k + 1);
            step!(a, x, k + 2);
            step!(a, x, k + 3);
        }
    }
    if rest > 0 {
        let (a, x) = (a.map(|a| &a.1[..rest]), &x[whole]);
        for k in 0..rest {
            step!(a, x, k);
        }
    }
    sums
}

/// The products of `P` panels with `C` columns: all terms, block after block.
#[inline(always)]
pub(super) fn product<S: Simd, T: Float, const P: usize, const C: usize>(
    s: S,
    a: [&[T::Chunk]; P],
    x: &[Line],
) -> [[[f32; LANES]; P]; C] {
    let len = a[0].len();
    let x: &[[f32; LANES]] = bytemuck::cast_slice(x);
    let mut out = [[[0.0; LANES]; P]; C];
    for start in (0..len).step_by(BLOCK) {
        let end = (start + BLOCK).min(len);
        let sums = block::<S, T, P, C>(s, a.map(|a| &a[start..end]), &x[start / LANES * C..]);
        for c in 0..C {
            for p in 0..P {
                let sum = if start == 0 { sums[p][c] } else { s.add(s.load(&out[c][p]), sums[p][c]) };
                s.store(sum, &mut out[c][p]);
            }
        }
    }
    out
}

/// [`product`] with one column as it is.
#[inline(always)]
pub(super) fn column<S: Simd, T: Float, const P: usize>(
    s: S,
    a: [&[T::Chunk]; P],
    x: &[f32],
) -> [[[f32; LANES]; P]; 1] {
    let len = a[0].len();
    let mut out = [[[0.0; LANES]; P]];
    for start in (0..len).step_by(BLOCK) {
        let terms = start..(start + BLOCK).min(len);
        let x = &x[terms.clone()];
        let a = a.map(|a| &a[terms.clone()]);
        let mut sums = [s.splat(0.0); P];
        for (k, x) in x.iter().enumerate() {
            let x = s.splat(*x);
            for p in 0..P {
                sums[p] = s.fma(T::load(s, &a[p][k]), x, sums[p]);
            }
        }
        for p in 0..P {
            let sum = if start == 0 { sums[p] } else { s.add(s.load(&out[0][p]), sums[p]) };
            s.store(sum, &mut out[0][p]);
        }
    }
    out
}

/// Adds one block's sums to `sums`, `[C, P]`; the first block's sums replace them.
#[inline(always)]
pub(super) fn add_block<S: Simd, T: Float, const P: usize, const C: usize>(
    s: S,
    a: [&[T::Chunk]; P],
    x: &[Line],
    sums: &mut [Line],
    first: bool,
) {
    let of_block = block::<S, T, P, C>(s, a, bytemuck::cast_slice(x));
    let Some(to) = sums.as_chunks_mut::<P>().0.first_chunk_mut::<C>() else { return };
    for c in 0..C {
        for p in 0..P {
            let to = &mut to[c][p].0;
            s.store(if first { of_block[p][c] } else { s.add(s.load(to), of_block[p][c]) }, to);
        }
    }
}
