//! Sixteen rows of a quantized weight, unpacked and interleaved, times columns of int8.
//!
//! A lane is a row: byte `64 * (k / 4) + 4 * row + k % 4` of a panel is value k of a row, so four
//! activations of a column are one broadcast, no sum goes across lanes, and one vector holds the
//! scales of all rows. The sum over a sub-block (16 or 32 values) is an exact integer; it enters
//! the row's float32 sum by one fused multiply-add, sub-block after sub-block:
//!
//! `y = fma(sum(q * x), scale * d, y)`, then with a minimum `y = fma(-min, d * sum(x), y)`.

use super::activation::{ActivationBlock, BLOCK};
use super::simd::{LANES, Simd};
use super::unpack::{Format, Unpacked};

/// Room for one panel.
#[derive(Default)]
pub struct Panel {
    /// `[cols / 4, 16, 4]`.
    u: Vec<[u8; 64]>,
    /// `[cols / SUB, 16]`.
    scale: Vec<[f32; LANES]>,
    /// `[cols / SUB, 16]`, where the format has it.
    min: Vec<[f32; LANES]>,
}

impl Panel {
    /// Bytes that a panel of rows of `cols` values takes at most.
    pub const fn bytes(cols: usize) -> usize {
        cols * LANES + 2 * cols / 16 * LANES * size_of::<f32>()
    }

    /// Unpacks up to 16 rows: `rows` is their bytes, one row of `cols` values after the other.
    /// Missing rows are 0.
    #[inline(always)]
    pub(super) fn unpack<F: Format>(&mut self, rows: &[u8], cols: usize) {
        let (groups, subs) = (cols / 4, cols / F::SUB);
        let row_bytes = cols / F::BLOCK * F::BYTES;
        let count = (rows.len() / row_bytes).min(LANES);
        self.u.resize(groups, [0; 64]);
        self.scale.resize(subs, [0.0; LANES]);
        self.min.resize(if F::MIN { subs } else { 0 }, [0.0; LANES]);
        // All rows of a block, then their groups: a line of the panel is written once.
        let mut blocks = [const { Unpacked::ZERO }; LANES];
        let groups = self.u.chunks_exact_mut(F::BLOCK / 4);
        let scales = self.scale.chunks_exact_mut(F::BLOCK / F::SUB);
        let mut minima = self.min.chunks_exact_mut(F::BLOCK / F::SUB);
        for (i, (groups, scales)) in groups.zip(scales).enumerate() {
            let start = i * F::BYTES;
            for (row, block) in blocks[..count].iter_mut().enumerate() {
                F::unpack(&rows[row * row_bytes + start..][..F::BYTES], block);
            }
            for (g, group) in groups.iter_mut().enumerate() {
                for (row, to) in group.as_chunks_mut::<4>().0.iter_mut().enumerate() {
                    *to = blocks[row].u.as_chunks::<4>().0[g];
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
        let groups = self.u.chunks_exact(F::SUB / 4);
        for (sub, (groups, scale)) in groups.zip(&self.scale).enumerate() {
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
            for (g, u) in groups.iter().enumerate() {
                for c in 0..C {
                    let at = F::SUB * half + 4 * g;
                    let q = &x[c][block].q;
                    let four = [q[at], q[at + 1], q[at + 2], q[at + 3]].map(|q| q as u8);
                    let four = i32::from_le_bytes(four);
                    dots[c] = if F::HIGH { s.dot4_high(dots[c], u, four) } else { s.dot4(dots[c], u, four) };
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
