//! Sixteen rows of a quantized weight, unpacked and interleaved, times columns of int8.
//!
//! A lane is a row: a line of 64 bytes holds four successive values of each of 16 rows, so four
//! activations of a column are one broadcast, no sum goes across lanes, and one vector holds the
//! scales of all rows. Where values have four bits, a line holds eight: the first four in the low
//! halves of its bytes. The sum over a sub-block (16 or 32 values) is an exact integer; it enters
//! the row's float32 sum by one fused multiply-add, sub-block after sub-block:
//!
//! `y = fma(sum(q * x), scale * d, y)`, then with a minimum `y = fma(-min, d * sum(x), y)`.

use super::activation::{ActivationBlock, BLOCK};
use super::matmul_float;
use super::simd::{LANES, Simd};
use super::unpack::{Format, Unpacked};

/// Four or eight values of each row.
pub(super) type Line = [u8; 64];

/// Room for one panel.
#[derive(Default)]
pub struct Panel {
    lines: Vec<Line>,
    scale: Vec<[f32; LANES]>,
    min: Vec<[f32; LANES]>,
    /// Room for a product of floats.
    pub(super) floats: matmul_float::Room,
}

impl Panel {
    /// Bytes that a panel of rows of `cols` values takes at most.
    pub const fn bytes(cols: usize) -> usize {
        cols * LANES + 2 * cols / 16 * LANES * size_of::<f32>() + matmul_float::Room::bytes(cols)
    }

    /// Unpacks up to 16 rows: `rows` is their bytes, one row of `cols` values after the other.
    #[inline(always)]
    pub(super) fn unpack<F: Format>(&mut self, rows: &[u8], cols: usize) -> View<'_> {
        let size = Size::of::<F>(cols);
        self.lines.resize(size.lines, [0; 64]);
        self.scale.resize(size.subs, [0.0; LANES]);
        self.min.resize(size.minima, [0.0; LANES]);
        unpack::<F>(rows, cols, &mut self.lines, &mut self.scale, &mut self.min);
        View { lines: &self.lines, scale: &self.scale, min: &self.min }
    }
}

/// The parts of a panel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Size {
    /// Lines of values.
    pub lines: usize,
    /// Vectors of scales.
    pub subs: usize,
    /// Vectors of minima: as many, or none.
    pub minima: usize,
}

impl Size {
    /// A panel of rows of `cols` values.
    pub(super) const fn of<F: Format>(cols: usize) -> Size {
        let subs = cols / F::SUB;
        Size { lines: cols / if F::NIBBLES { 8 } else { 4 }, subs, minima: if F::MIN { subs } else { 0 } }
    }
}

/// Unpacks up to 16 rows into the parts of a panel. Missing rows are 0.
#[inline(always)]
pub(super) fn unpack<F: Format>(
    rows: &[u8],
    cols: usize,
    lines: &mut [Line],
    scale: &mut [[f32; LANES]],
    min: &mut [[f32; LANES]],
) {
    let row_bytes = cols / F::BLOCK * F::BYTES;
    let count = (rows.len() / row_bytes).min(LANES);
    // All rows of a block, then their lines: a line of the panel is written once.
    let mut blocks = [const { Unpacked::ZERO }; LANES];
    let lines = lines.chunks_exact_mut(F::BLOCK / if F::NIBBLES { 8 } else { 4 });
    let scales = scale.chunks_exact_mut(F::BLOCK / F::SUB);
    let mut minima = min.chunks_exact_mut(F::BLOCK / F::SUB);
    for (i, (lines, scales)) in lines.zip(scales).enumerate() {
        let start = i * F::BYTES;
        for (row, block) in blocks[..count].iter_mut().enumerate() {
            F::unpack(&rows[row * row_bytes + start..][..F::BYTES], block);
        }
        for (g, line) in lines.iter_mut().enumerate() {
            for (row, to) in line.as_chunks_mut::<4>().0.iter_mut().enumerate() {
                let fours = blocks[row].u.as_chunks::<4>().0;
                *to = match F::NIBBLES {
                    true => {
                        let (low, high) = (fours[2 * g], fours[2 * g + 1]);
                        std::array::from_fn(|i| low[i] & 15 | high[i] << 4)
                    }
                    false => fours[g],
                };
            }
        }
        for (sub, scales) in scales.iter_mut().enumerate() {
            *scales = std::array::from_fn(|row| blocks[row].scale[sub]);
        }
        if F::MIN
            && let Some(minima) = minima.next()
        {
            for (sub, minima) in minima.iter_mut().enumerate() {
                *minima = std::array::from_fn(|row| blocks[row].min[sub]);
            }
        }
    }
}

/// A panel.
#[derive(Clone, Copy)]
pub(super) struct View<'a> {
    /// `[cols / 4, 16, 4]` values, or `[cols / 8, 16, 4]` pairs of them.
    pub lines: &'a [Line],
    /// `[cols / SUB, 16]`.
    pub scale: &'a [[f32; LANES]],
    /// `[cols / SUB, 16]`, where the format has it.
    pub min: &'a [[f32; LANES]],
}

impl View<'_> {
    /// The 16 products of each of `C` columns, `x[c]` being the blocks of one column.
    #[inline(always)]
    pub(super) fn multiply<S: Simd, F: Format, const C: usize>(
        &self,
        s: S,
        x: [&[ActivationBlock]; C],
    ) -> [[f32; LANES]; C] {
        let subs = BLOCK / F::SUB;
        let blocks = self.scale.len() / subs;
        let x = x.map(|x| &x[..blocks]);
        let mut sums = [s.splat(0.0); C];
        let lines = self.lines.chunks_exact(F::SUB / if F::NIBBLES { 8 } else { 4 });
        for (sub, (lines, scale)) in lines.zip(self.scale).enumerate() {
            let (block, half) = (sub / subs, sub % subs);
            let mut dots = [s.splat_i32(0); C];
            let mut column_sums = [0i32; C];
            for c in 0..C {
                let [a, b] = x[c][block].sums.map(i32::from);
                column_sums[c] = match (F::SUB, half) {
                    (16, 0) => a,
                    (16, _) => b,
                    _ => a + b,
                };
                dots[c] = if F::HIGH {
                    s.start_high(column_sums[c])
                } else {
                    s.splat_i32(-F::OFFSET * column_sums[c])
                };
            }
            let four = |c: usize, g: usize| {
                let at = F::SUB * half + 4 * g;
                let q: &[i8; BLOCK] = &x[c][block].q;
                i32::from_le_bytes([q[at], q[at + 1], q[at + 2], q[at + 3]].map(|q| q as u8))
            };
            for (g, line) in lines.iter().enumerate() {
                let bytes = s.load_bytes(line);
                if F::NIBBLES {
                    let (low, high) = (s.low_nibbles(bytes), s.high_nibbles(bytes));
                    for (c, dot) in dots.iter_mut().enumerate() {
                        *dot = s.dot4(*dot, low, four(c, 2 * g));
                    }
                    for (c, dot) in dots.iter_mut().enumerate() {
                        *dot = s.dot4(*dot, high, four(c, 2 * g + 1));
                    }
                } else {
                    for (c, dot) in dots.iter_mut().enumerate() {
                        let four = four(c, g);
                        *dot =
                            if F::HIGH { s.dot4_high(*dot, bytes, four) } else { s.dot4(*dot, bytes, four) };
                    }
                }
            }
            let scale = s.load(scale);
            for c in 0..C {
                let d = x[c][block].d;
                sums[c] = s.fma(s.to_f32(dots[c]), s.mul(scale, s.splat(d)), sums[c]);
                if F::MIN {
                    let min = s.sub(s.splat(-0.0), s.load(&self.min[sub]));
                    sums[c] = s.fma(min, s.splat(d * column_sums[c] as f32), sums[c]);
                }
            }
        }
        let mut out = [[0.0; LANES]; C];
        for c in 0..C {
            s.store(sums[c], &mut out[c]);
        }
        out
    }
}
