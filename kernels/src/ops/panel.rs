//! Sixteen rows of a quantized weight, interleaved, times columns of int8.
//!
//! A lane is a row: a line of 64 bytes holds four successive values of each of 16 rows, so four
//! activations of a column are one broadcast, no sum goes across lanes, and one vector holds the
//! scales of all rows. The sum over a sub-block (16 or 32 values) is an exact integer; it enters
//! the row's float32 sum by one fused multiply-add, sub-block after sub-block:
//!
//! `y = fma(sum(q * x), scale * d, y)`, then with a minimum `y = fma(-min, d * sum(x), y)`.
//!
//! A few columns take the values out of the packed lines as they go; for many, panels are spread out first into
//! a [`Panel`] that stays in the cache. Columns are taken in tiles, whose activations are laid out so that what
//! a step needs of them lies side by side ([`Unit`]).

use std::ops::Range;

use super::activation::{ActivationBlock, BLOCK as UNIT};
use super::dots::Dots;
use super::matmul_float;
use super::packed::Line;
use super::simd::LANES;
use super::spread::{self, SpreadPanel};
use super::unpack::Format;

/// Where the values of sixteen rows come from.
pub(super) trait Source: Copy {
    /// The values `u` of group `g` of a unit: four of each row of a part.
    fn values<D: Dots>(&self, d: D, unit: usize, g: usize, part: usize) -> D::B;
    /// The scales of a sub-block.
    fn scale<D: Dots>(&self, d: D, sub: usize, part: usize) -> D::F;
    /// The minima of a sub-block.
    fn min<D: Dots>(&self, d: D, sub: usize, part: usize) -> D::F;
    /// Asks for what is read some units later.
    fn fetch<D: Dots>(&self, d: D, unit: usize);
}

/// Calls `$body` for each of the eight groups of four values in a unit, the number being a constant: a loop
/// that the compiler does not unroll would keep registers in memory.
macro_rules! for_each_group {
    ($g:ident => $body:block) => {
        for_each_group!(@ $g $body 0 1 2 3 4 5 6 7)
    };
    (@ $g:ident $body:block $($n:literal)*) => {
        $({
            const $g: usize = $n;
            $body
        })*
    };
}

pub(super) use for_each_group;

/// What a format makes of 32 values of a tile of `C` columns.
#[derive(Clone, Copy)]
#[repr(C, align(64))]
pub(super) struct Unit<const C: usize> {
    /// Groups of four int8, little-endian: `[C, 8]`.
    pub q: [[i32; 8]; C],
    /// Scales.
    pub d: [f32; C],
    /// What the integer sums of up to two sub-blocks start with: less the offset times the sum of `q`.
    pub start: [[i32; C]; 2],
    /// `d` times the sum of `q` in each sub-block.
    pub sum: [[f32; C]; 2],
}

impl<const C: usize> Unit<C> {
    const ZERO: Unit<C> = Unit { q: [[0; 8]; C], d: [0.0; C], start: [[0; C]; 2], sum: [[0.0; C]; 2] };

    /// The blocks `part` of columns of `x`, which have `units` blocks each, from column `first` on; the last column
    /// stands for those beyond the end. What the format has no use for stays as it was; with `SIGNED`, weights are
    /// less their offset already.
    #[inline(always)]
    pub(super) fn lay_out<F: Format, const SIGNED: bool>(
        room: &mut Vec<Unit<C>>,
        x: &[ActivationBlock],
        first: usize,
        units: usize,
        part: &Range<usize>,
    ) {
        if room.len() != part.len() {
            room.resize(part.len(), Unit::ZERO);
        }
        let last = x.len() / units - 1;
        for c in 0..C {
            let column = (first + c).min(last);
            let blocks = &x[column * units + part.start..column * units + part.end];
            for (unit, block) in room.iter_mut().zip(blocks) {
                unit.q[c] = bytemuck::cast(block.q);
                unit.d[c] = block.d;
                if (F::OFFSET == 0 || SIGNED) && !F::MIN {
                    continue;
                }
                let [mut first, second] = [i32::from(block.sums[0]), i32::from(block.sums[1])];
                if F::SUB == UNIT {
                    first += second;
                } else {
                    unit.start[1][c] = -F::OFFSET * second;
                    unit.sum[1][c] = block.d * second as f32;
                }
                unit.start[0][c] = -F::OFFSET * first;
                if F::MIN {
                    unit.sum[0][c] = block.d * first as f32;
                }
            }
        }
    }
}

/// Columns that are laid out, in tiles of each size.
#[derive(Default)]
pub(super) struct LaidOut {
    pub one: Vec<Unit<1>>,
    pub four: Vec<Unit<4>>,
    pub eight: Vec<Unit<8>>,
    pub sixteen: Vec<Unit<16>>,
}

/// Room for panels and columns.
#[derive(Default)]
pub struct Panel {
    pub(super) packed: Vec<Line>,
    pub(super) spread: Vec<SpreadPanel>,
    pub(super) columns: LaidOut,
    pub(super) products: Vec<f32>,
    /// Room for a product of floats.
    pub(super) floats: matmul_float::Room,
}

impl Panel {
    /// Bytes that rows of `cols` values take at most, with so many columns.
    pub const fn bytes(cols: usize, columns: usize) -> usize {
        let packed = cols * LANES * 2;
        let laid_out = 2 * (16 + 8 + 4 + 1) * cols;
        let spread = spread::bytes(cols.div_ceil(UNIT), columns);
        spread.saturating_add(packed + laid_out + matmul_float::Room::bytes(cols))
    }
}

/// Steps of four values whose products a sum of [`Dots::dot`] holds before [`Dots::fold`].
const fn steps<F: Format>() -> usize {
    match F::BITS {
        6 => 2,
        5 => 4,
        _ => 8,
    }
}

/// The 16 products of each of `C` columns, added to `out`.
#[inline(always)]
#[expect(clippy::needless_range_loop, reason = "an iterator would not be inlined with the target feature")]
pub(super) fn multiply<D: Dots, F: Format, S: Source, const C: usize>(
    d: D,
    source: S,
    x: &[Unit<C>],
    out: &mut [[f32; LANES]; C],
) {
    for part in 0..LANES / D::LANES {
        let mut sums = [d.splat(0.0); C];
        for c in 0..C {
            sums[c] = d.load(&out[c], part);
        }
        for (unit, x) in x.iter().enumerate() {
            if part == 0 {
                source.fetch(d, unit);
            }
            let wide = F::OFFSET == 128;
            let start = |half: usize, c: usize| x.start[half][c];
            let mut dots = [d.start(0); C];
            for_each_group!(G => {
                let (half, groups) = (G / (F::SUB / 4), F::SUB / 4);
                let values = source.values(d, unit, G, part);
                for c in 0..C {
                    if G.is_multiple_of(groups) {
                        dots[c] = match F::OFFSET {
                            0 => d.start(0),
                            128 => d.start_wide(start(half, c)),
                            _ => d.start(start(half, c)),
                        };
                    }
                    dots[c] = if wide { d.dot_wide(dots[c], values, x.q[c][G]) } else { d.dot(dots[c], values, x.q[c][G]) };
                    if !wide && ((G + 1).is_multiple_of(const { steps::<F>() }) || (G + 1).is_multiple_of(groups)) {
                        dots[c] = d.fold(dots[c]);
                    }
                }
                if (G + 1).is_multiple_of(groups) {
                    let sub = UNIT / F::SUB * unit + half;
                    let scale = source.scale(d, sub, part);
                    for c in 0..C {
                        sums[c] = d.fma(d.float(dots[c]), d.mul(scale, d.splat(x.d[c])), sums[c]);
                    }
                    if F::MIN {
                        let min = d.negated(source.min(d, sub, part));
                        for c in 0..C {
                            sums[c] = d.fma(min, d.splat(x.sum[half][c]), sums[c]);
                        }
                    }
                }
            });
        }
        for c in 0..C {
            d.store(sums[c], &mut out[c], part);
        }
    }
}
