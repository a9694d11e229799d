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

/// How weights are read and multiplied: in steps, each of which takes a value, or a pair of them, of sixteen rows
/// and one word of 32 bits of each column, the next one.
pub(super) trait Float<S: Simd> {
    /// What lies together: one term of sixteen rows, or two.
    type Chunk;
    /// Terms of a chunk.
    const TERMS: usize;
    /// Steps in which a chunk is multiplied.
    const STEPS: usize;
    /// Terms in a line of a column's words.
    const LINE: usize = Self::TERMS * LANES / Self::STEPS;

    /// The weights of a step.
    fn load(s: S, chunk: &Self::Chunk, step: usize) -> S::F;

    /// Adds the products of a step's weights and a column's word.
    #[inline(always)]
    fn add_product(s: S, w: S::F, x: S::F, sum: S::F) -> S::F {
        s.fma(w, x, sum)
    }

    /// Makes words of a line of terms.
    #[inline(always)]
    fn words(_s: S, terms: &[[f32; LANES]], to: &mut [f32; LANES]) {
        *to = terms[0];
    }
}

/// A type that weights are stored as.
pub(super) trait Stored<S: Simd>: Float<S> {
    /// Whether a block of panels is widened first, each step's weights to a line, where many columns share it.
    const WIDEN: bool;

    /// Whole panels in chunks.
    fn chunks(panels: &[u8]) -> &[Self::Chunk];
}

pub(super) struct F32;
pub(super) struct F16;
/// What has been widened to float32.
pub(super) struct Wide;

macro_rules! float {
    ($name:ident, $bytes:literal, $load:ident, $widen:literal) => {
        impl<S: Simd> Float<S> for $name {
            type Chunk = [u8; $bytes * LANES];
            const TERMS: usize = 1;
            const STEPS: usize = 1;

            #[inline(always)]
            fn load(s: S, chunk: &Self::Chunk, _step: usize) -> S::F {
                s.$load(chunk)
            }
        }

        impl<S: Simd> Stored<S> for $name {
            const WIDEN: bool = $widen;

            #[inline(always)]
            fn chunks(panels: &[u8]) -> &[Self::Chunk] {
                panels.as_chunks().0
            }
        }
    };
}
float!(F32, 4, load_f32, false);
float!(F16, 2, load_f16, true);

impl<S: Simd> Float<S> for Wide {
    type Chunk = Line;
    const TERMS: usize = 1;
    const STEPS: usize = 1;

    #[inline(always)]
    fn load(s: S, chunk: &Line, _step: usize) -> S::F {
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

/// Puts the words of some terms of every column as tiles take them, `[tile][lines][columns of the tile][16]`:
/// all that a step of a tile reads lies together, wherever the columns are. What is missing is 0.
#[inline(always)]
pub(super) fn arrange<S: Simd, T: Float<S>>(
    s: S,
    x: &[f32],
    cols: usize,
    terms: Range<usize>,
    tiles: [usize; 3],
    to: &mut Vec<Line>,
) {
    let n = x.len() / cols;
    let lines = terms.len().div_ceil(T::LINE);
    to.resize(n.next_multiple_of(tiles[2]) * lines, Line::ZERO);
    for (first, width) in widths(n, tiles) {
        let to = &mut to[first * lines..(first + width) * lines];
        for c in 0..width {
            if first + c >= n {
                to[c..].iter_mut().step_by(width).for_each(|line| *line = Line::ZERO);
                continue;
            }
            let column = &x[(first + c) * cols..][terms.clone()];
            for (terms, to) in column.chunks(T::LINE).zip(to[c..].iter_mut().step_by(width)) {
                if terms.len() == T::LINE {
                    T::words(s, terms.as_chunks().0, &mut to.0);
                    continue;
                }
                let mut whole = [[0.0; LANES]; 2];
                whole.as_flattened_mut()[..terms.len()].copy_from_slice(terms);
                T::words(s, &whole, &mut to.0);
            }
        }
    }
}

/// The sums of one block: `a` has the block's chunks of each panel, `x` the words as [`arrange`] puts them.
#[inline(always)]
fn block<S: Simd, T: Float<S>, const P: usize, const C: usize>(
    s: S,
    a: [&[T::Chunk]; P],
    x: &[[f32; LANES]],
) -> [[S::F; C]; P] {
    let mut sums = [[s.splat(0.0); C]; P];
    let len = a[0].len();
    let x = x.as_chunks::<C>().0;
    // No closures here: one would not have the target feature. And no loop over steps: after one, the compiler keeps
    // factors of many steps, more than there are registers for.
    macro_rules! step {
        ($a:expr, $x:expr, $k:expr, $step:literal) => {
            let mut w = [s.splat(0.0); P];
            for p in 0..P {
                w[p] = T::load(s, &$a[p][$k], $step);
            }
            for c in 0..C {
                let x = s.splat($x[c][$k * T::STEPS + $step]);
                for p in 0..P {
                    sums[p][c] = T::add_product(s, w[p], x, sums[p][c]);
                }
            }
        };
    }
    macro_rules! chunk {
        ($a:expr, $x:expr, $k:expr) => {
            step!($a, $x, $k, 0);
            if T::STEPS == 2 {
                step!($a, $x, $k, 1);
            }
        };
    }
    // The chunks for which a line has words.
    macro_rules! lines {
        ($chunks:literal) => {
            let a = a.map(|a| a[..len].as_chunks::<$chunks>());
            let (whole, rest) = (len / $chunks, len % $chunks);
            let lines = a.map(|a| &a.0[..whole]);
            for (i, x) in x[..whole].iter().enumerate() {
                let mut a = [&lines[0][i]; P];
                for p in 1..P {
                    a[p] = &lines[p][i];
                }
                for k in (0..$chunks).step_by(4) {
                    chunk!(a, x, k);
                    chunk!(a, x, k + 1);
                    chunk!(a, x, k + 2);
                    chunk!(a, x, k + 3);
                }
            }
            if rest > 0 {
                let (a, x) = (a.map(|a| &a.1[..rest]), &x[whole]);
                for k in 0..rest {
                    chunk!(a, x, k);
                }
            }
        };
    }
    match T::STEPS {
        1 => {
            lines!(16);
        }
        _ => {
            lines!(8);
        }
    }
    sums
}

/// The products of `P` panels with `C` columns: all terms, block after block.
#[inline(always)]
pub(super) fn product<S: Simd, T: Float<S>, const P: usize, const C: usize>(
    s: S,
    a: [&[T::Chunk]; P],
    x: &[Line],
) -> [[[f32; LANES]; P]; C] {
    let len = a[0].len();
    let x: &[[f32; LANES]] = bytemuck::cast_slice(x);
    let mut out = [[[0.0; LANES]; P]; C];
    for start in (0..len).step_by(BLOCK / T::TERMS) {
        let end = (start + BLOCK / T::TERMS).min(len);
        let x = &x[start * T::TERMS / T::LINE * C..];
        let sums = block::<S, T, P, C>(s, a.map(|a| &a[start..end]), x);
        for c in 0..C {
            for p in 0..P {
                let sum = if start == 0 { sums[p][c] } else { s.add(s.load(&out[c][p]), sums[p][c]) };
                s.store(sum, &mut out[c][p]);
            }
        }
    }
    out
}

/// [`product`] with one column, a chunk at a time.
#[inline(always)]
pub(super) fn column<S: Simd, T: Float<S>, const P: usize>(
    s: S,
    a: [&[T::Chunk]; P],
    x: &[Line],
) -> [[[f32; LANES]; P]; 1] {
    let len = a[0].len();
    let x: &[f32] = bytemuck::cast_slice(x);
    let mut out = [[[0.0; LANES]; P]];
    for start in (0..len).step_by(BLOCK / T::TERMS) {
        let chunks = start..(start + BLOCK / T::TERMS).min(len);
        let x = &x[chunks.start * T::STEPS..chunks.end * T::STEPS];
        let a = a.map(|a| &a[chunks.clone()]);
        let mut sums = [s.splat(0.0); P];
        for (k, x) in x.chunks_exact(T::STEPS).enumerate() {
            let first = s.splat(x[0]);
            for p in 0..P {
                sums[p] = T::add_product(s, T::load(s, &a[p][k], 0), first, sums[p]);
            }
            if T::STEPS == 2 {
                let second = s.splat(x[1]);
                for p in 0..P {
                    sums[p] = T::add_product(s, T::load(s, &a[p][k], 1), second, sums[p]);
                }
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
pub(super) fn add_block<S: Simd, T: Float<S>, const P: usize, const C: usize>(
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
