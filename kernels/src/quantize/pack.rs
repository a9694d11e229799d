//! From the searched scales of sub-blocks to a block: quantize the scales, then put each value at
//! its nearest level under the scale as stored.

use super::lanes::{Lanes, nearest};
use super::round::{fifth_bits, nibbles};
use super::scheme::{Scales, Search};
use super::search::{self, Affine, ZERO};
use crate::blocks::*;

/// What the searches found for the `SUBS` sub-blocks of a block: see [`search::Fit`].
pub(super) struct BlockFits<'a, const SUBS: usize> {
    pub search: Search,
    pub scales: Scales,
    /// Of the scales and of the minimums, where [`Scales::Searched`].
    pub super_scales: [SuperScale; 2],
    pub scale: &'a [f32; SUBS],
    pub min: &'a [f32; SUBS],
    pub inverse: &'a [f32; SUBS],
    pub origin: &'a [f32; SUBS],
    /// The sum of the weights.
    pub weight: &'a [f32; SUBS],
}

/// Scales (or minimums) of up to sixteen sub-blocks as `d * level`.
#[derive(Clone, Copy)]
pub(super) struct SuperScale {
    pub d: Half,
    pub levels: [u8; 16],
}

impl SuperScale {
    pub const ZERO: SuperScale = SuperScale { d: Half([0; 2]), levels: [0; 16] };

    /// The greatest of `scales`, none of which is negative, at `top`.
    #[inline(always)]
    fn greatest(scales: &[f32], top: u8) -> SuperScale {
        let mut max = 0.0;
        for &s in scales {
            max = if s > max { s } else { max };
        }
        let inverse = if max > 0.0 { f32::from(top) / max } else { 0.0 };
        let mut levels = [0; 16];
        for (l, s) in levels.iter_mut().zip(scales) {
            *l = (nearest(inverse * s) as u8).min(top);
        }
        SuperScale { d: Half::from_f32(max / f32::from(top)), levels }
    }
}

/// A block of `N` values in `SUBS` sub-blocks.
pub(super) trait Pack<const N: usize, const SUBS: usize>: bytemuck::Pod {
    fn pack<S: Lanes>(x: &[f32; N], fits: &BlockFits<'_, SUBS>) -> Self;
}

impl<const SUBS: usize> BlockFits<'_, SUBS> {
    /// The levels at which the search found sub-block `j`, which holds `x`: those that count
    /// where no scale is stored.
    #[inline(always)]
    fn levels<const LEN: usize>(&self, j: usize, x: &[f32; LEN], levels: &mut [u8; LEN]) {
        let inverse = self.inverse[j];
        match self.search {
            Search::Affine(Affine { top, .. }) => {
                for (l, v) in levels.iter_mut().zip(x) {
                    *l = nearest(inverse * (v - self.origin[j])).clamp(0, top as i32) as u8;
                }
            }
            Search::Symmetric(_) if inverse == 0.0 => *levels = [0; LEN],
            Search::Symmetric(half) => {
                let half = half as i32;
                for (l, v) in levels.iter_mut().zip(x) {
                    *l = (nearest(inverse * v).clamp(-half, half - 1) + half) as u8;
                }
            }
            Search::Greedy(half) => {
                for (l, level) in levels.iter_mut().zip(search::greedy(x, half).1) {
                    *l = level as u8;
                }
            }
            Search::Nonlinear => {}
        }
    }
}

/// The levels from `low` to `high` nearest to `(x + min) / scale`, counted from `low`.
#[inline(always)]
fn levels_at<const LEN: usize>(
    x: &[f32; LEN],
    scale: f32,
    min: f32,
    (low, high): (i32, i32),
    levels: &mut [u8; LEN],
) {
    for (l, v) in levels.iter_mut().zip(x) {
        *l = (nearest((v + min) / scale).clamp(low, high) - low) as u8;
    }
}

/// What Q2_K, Q4_K and Q5_K share: two scales, the sub-blocks' scales and minimums as packed in
/// `BYTES` bytes, and levels.
struct AffineBlock<const BYTES: usize> {
    d: Half,
    dmin: Half,
    packed: [u8; BYTES],
    levels: [u8; 256],
}

/// `pack` and `unpack` need not be inverses: a search under sparse weights may give scales that do
/// not fit their bits, and the levels follow what is stored.
#[inline(always)]
fn affine_block<const LEN: usize, const SUBS: usize, const BYTES: usize>(
    x: &[f32; 256],
    fits: &BlockFits<'_, SUBS>,
    top: i32,
    pack: impl Fn(&[u8; SUBS], &[u8; SUBS]) -> [u8; BYTES],
    unpack: impl Fn(&[u8; BYTES]) -> ([u8; SUBS], [u8; SUBS]),
) -> AffineBlock<BYTES> {
    let [scale, min] = match fits.scales {
        Scales::Greatest(top) => {
            [SuperScale::greatest(fits.scale, top), SuperScale::greatest(&fits.min.map(|m| -m), top)]
        }
        _ => fits.super_scales,
    };
    let (d, dmin) = (scale.d, min.d);
    let (mut scales, mut mins) = ([0; SUBS], [0; SUBS]);
    scales.copy_from_slice(&scale.levels[..SUBS]);
    mins.copy_from_slice(&min.levels[..SUBS]);
    let packed = pack(&scales, &mins);
    let (scales, mins) = unpack(&packed);
    let mut levels = [0; 256];
    let sub_blocks = x.as_chunks::<LEN>().0.iter().zip(levels.as_chunks_mut::<LEN>().0);
    for (j, (x, levels)) in sub_blocks.enumerate() {
        let scale = d.to_f32() * f32::from(scales[j]);
        if scale == 0.0 {
            fits.levels(j, x, levels);
        } else {
            levels_at(x, scale, dmin.to_f32() * f32::from(mins[j]), (0, top), levels);
        }
    }
    AffineBlock { d, dmin, packed, levels }
}

/// A scale in the low nibble, a minimum in the high one.
#[inline(always)]
fn pack_q2_scales(scales: &[u8; 16], mins: &[u8; 16]) -> [u8; 16] {
    let mut packed = [0; 16];
    for j in 0..16 {
        packed[j] = scales[j] | mins[j] << 4;
    }
    packed
}

/// The inverse of [`pack_q2_scales`] for scales and minimums up to 15.
#[inline(always)]
fn unpack_q2_scales(packed: &[u8; 16]) -> ([u8; 16], [u8; 16]) {
    let (mut scales, mut mins) = ([0; 16], [0; 16]);
    for j in 0..16 {
        scales[j] = packed[j] & 15;
        mins[j] = packed[j] >> 4;
    }
    (scales, mins)
}

/// As [`pack_k4_scales`], with scales and minimums limited to what fits.
#[inline(always)]
fn pack_q5_scales(scales: &[u8; 8], mins: &[u8; 8]) -> [u8; 12] {
    let (mut scales, mut mins) = (*scales, *mins);
    for j in 0..8 {
        scales[j] = scales[j].min(63);
        mins[j] = mins[j].min(63);
    }
    pack_k4_scales(&scales, &mins)
}

/// The levels of a block with one scale per sub-block, from `-half` to below `half`.
#[inline(always)]
fn symmetric_levels(
    x: &[f32; 256],
    fits: &BlockFits<'_, 16>,
    d: Half,
    scales: &[i8; 16],
    half: i32,
) -> [u8; 256] {
    let mut levels = [0; 256];
    let sub_blocks = x.as_chunks::<16>().0.iter().zip(levels.as_chunks_mut::<16>().0);
    for (j, (x, levels)) in sub_blocks.enumerate() {
        let scale = d.to_f32() * f32::from(scales[j]);
        if scale == 0.0 {
            fits.levels(j, x, levels);
        } else {
            levels_at(x, scale, 0.0, (-half, half - 1), levels);
        }
    }
    levels
}

/// Two bits of four levels per byte: those of one byte lie 32 apart.
#[inline(always)]
fn two_bits(levels: &[u8; 256], shift: u8) -> [u8; 64] {
    let mut qs = [0; 64];
    for (qs, levels) in qs.as_chunks_mut::<32>().0.iter_mut().zip(levels.as_chunks::<128>().0) {
        for l in 0..32 {
            for part in 0..4 {
                qs[l] |= ((levels[32 * part + l] >> shift) & 3) << (2 * part);
            }
        }
    }
    qs
}

/// The low nibbles of two levels per byte, which lie 32 apart.
#[inline(always)]
fn far_nibbles(levels: &[u8; 256]) -> [u8; 128] {
    let mut qs = [0; 128];
    for (qs, levels) in qs.as_chunks_mut::<32>().0.iter_mut().zip(levels.as_chunks::<64>().0) {
        for l in 0..32 {
            qs[l] = (levels[l] & 15) | levels[32 + l] << 4;
        }
    }
    qs
}

/// One bit of eight levels per byte, which lie 32 apart.
#[inline(always)]
fn far_bits(levels: &[u8; 256], bit: u8) -> [u8; 32] {
    let mut bits = [0; 32];
    for (part, levels) in levels.as_chunks::<32>().0.iter().enumerate() {
        for l in 0..32 {
            bits[l] |= ((levels[l] >> bit) & 1) << part;
        }
    }
    bits
}

impl Pack<256, 16> for BlockQ2_K {
    #[inline(always)]
    fn pack<S: Lanes>(x: &[f32; 256], fits: &BlockFits<'_, 16>) -> Self {
        let AffineBlock { d, dmin, packed, levels } =
            affine_block::<16, 16, 16>(x, fits, 3, pack_q2_scales, unpack_q2_scales);
        BlockQ2_K { scales: packed, qs: two_bits(&levels, 0), d, dmin }
    }
}

impl Pack<256, 8> for BlockQ4_K {
    #[inline(always)]
    fn pack<S: Lanes>(x: &[f32; 256], fits: &BlockFits<'_, 8>) -> Self {
        let AffineBlock { d, dmin, packed, levels } =
            affine_block::<32, 8, 12>(x, fits, 15, pack_k4_scales, unpack_k4_scales);
        BlockQ4_K { d, dmin, scales: packed, qs: far_nibbles(&levels) }
    }
}

impl Pack<256, 8> for BlockQ5_K {
    #[inline(always)]
    fn pack<S: Lanes>(x: &[f32; 256], fits: &BlockFits<'_, 8>) -> Self {
        let AffineBlock { d, dmin, packed, levels } =
            affine_block::<32, 8, 12>(x, fits, 31, pack_q5_scales, unpack_k4_scales);
        BlockQ5_K { d, dmin, scales: packed, qh: far_bits(&levels, 4), qs: far_nibbles(&levels) }
    }
}

impl Pack<256, 16> for BlockQ3_K {
    #[inline(always)]
    fn pack<S: Lanes>(x: &[f32; 256], fits: &BlockFits<'_, 16>) -> Self {
        // From 0 to 63, standing for -32 to 31.
        let mut packed = [0; 16];
        let d = if fits.scales == Scales::Symmetric {
            let fit = search::symmetric(fits.scale, fits.weight, 32.0);
            let of_scales =
                BlockFits { search: Search::Symmetric(32.0), inverse: &[fit.inverse; 16], ..*fits };
            of_scales.levels(0, fits.scale, &mut packed);
            fit.scale
        } else {
            let (max, _) = search::extreme(fits.scale);
            if max == 0.0 {
                0.0
            } else {
                let inverse = -32.0 / max;
                for (p, s) in packed.iter_mut().zip(fits.scale) {
                    *p = ((nearest(inverse * s) as i8).clamp(-32, 31) + 32) as u8;
                }
                1.0 / inverse
            }
        };
        let d = Half::from_f32(d);
        let mut scales = [0; 16];
        for (s, p) in scales.iter_mut().zip(packed) {
            *s = p as i8 - 32;
        }
        let levels = symmetric_levels(x, fits, d, &scales, 4);
        BlockQ3_K {
            hmask: far_bits(&levels, 2),
            qs: two_bits(&levels, 0),
            scales: pack_q3_scales(&packed),
            d,
        }
    }
}

impl Pack<256, 16> for BlockQ6_K {
    #[inline(always)]
    fn pack<S: Lanes>(x: &[f32; 256], fits: &BlockFits<'_, 16>) -> Self {
        let (max, magnitude) = search::extreme(fits.scale);
        if magnitude < ZERO {
            return bytemuck::Zeroable::zeroed();
        }
        let inverse = -128.0 / max;
        let d = Half::from_f32(1.0 / inverse);
        let mut scales = [0; 16];
        for (s, scale) in scales.iter_mut().zip(fits.scale) {
            *s = nearest(inverse * scale).min(127) as i8;
        }
        let levels = symmetric_levels(x, fits, d, &scales, 32);
        let mut ql = [0; 128];
        for (ql, levels) in ql.as_chunks_mut::<64>().0.iter_mut().zip(levels.as_chunks::<128>().0) {
            for l in 0..64 {
                ql[l] = (levels[l] & 15) | levels[64 + l] << 4;
            }
        }
        BlockQ6_K { ql, qh: two_bits(&levels, 4), scales, d }
    }
}

impl Pack<32, 1> for BlockQ4_0 {
    #[inline(always)]
    fn pack<S: Lanes>(x: &[f32; 32], fits: &BlockFits<'_, 1>) -> Self {
        let mut levels = [0; 32];
        fits.levels(0, x, &mut levels);
        BlockQ4_0 { d: Half::from_f32(fits.scale[0]), qs: nibbles(&levels) }
    }
}

impl Pack<32, 1> for BlockQ4_1 {
    #[inline(always)]
    fn pack<S: Lanes>(x: &[f32; 32], fits: &BlockFits<'_, 1>) -> Self {
        let mut levels = [0; 32];
        fits.levels(0, x, &mut levels);
        let (d, m) = (Half::from_f32(fits.scale[0]), Half::from_f32(fits.min[0]));
        BlockQ4_1 { d, m, qs: nibbles(&levels) }
    }
}

impl Pack<32, 1> for BlockQ5_0 {
    #[inline(always)]
    fn pack<S: Lanes>(x: &[f32; 32], fits: &BlockFits<'_, 1>) -> Self {
        let mut levels = [0; 32];
        fits.levels(0, x, &mut levels);
        BlockQ5_0 { d: Half::from_f32(fits.scale[0]), qh: fifth_bits(&levels), qs: nibbles(&levels) }
    }
}

impl Pack<32, 1> for BlockQ5_1 {
    #[inline(always)]
    fn pack<S: Lanes>(x: &[f32; 32], fits: &BlockFits<'_, 1>) -> Self {
        let mut levels = [0; 32];
        fits.levels(0, x, &mut levels);
        let (d, m) = (Half::from_f32(fits.scale[0]), Half::from_f32(fits.min[0]));
        BlockQ5_1 { d, m, qh: fifth_bits(&levels), qs: nibbles(&levels) }
    }
}

/// The levels of IQ4 nearest to `x * inverse`, packed as [`nibbles`].
#[inline(always)]
fn iq4_nibbles<S: Lanes>(x: &[f32; 32], inverse: f32) -> [u8; 16] {
    let mut indices = [0.0; 32];
    for at in (0..32).step_by(S::COUNT) {
        let (index, _) = (S::splat(inverse) * S::load(&x[at..])).nearest_iq4();
        index.store(&mut indices[at..]);
    }
    let mut levels = [0; 32];
    for (l, index) in levels.iter_mut().zip(indices) {
        *l = index as u8;
    }
    nibbles(&levels)
}

impl Pack<32, 1> for BlockIQ4_NL {
    #[inline(always)]
    fn pack<S: Lanes>(x: &[f32; 32], fits: &BlockFits<'_, 1>) -> Self {
        let scale = fits.scale[0];
        let inverse = if scale == 0.0 { 0.0 } else { 1.0 / scale };
        BlockIQ4_NL { d: Half::from_f32(scale), qs: iq4_nibbles::<S>(x, inverse) }
    }
}

impl Pack<256, 8> for BlockIQ4_XS {
    #[inline(always)]
    fn pack<S: Lanes>(x: &[f32; 256], fits: &BlockFits<'_, 8>) -> Self {
        let (max, _) = search::extreme(fits.scale);
        let d = -max / 32.0;
        let inverse = if d == 0.0 { 0.0 } else { 1.0 / d };
        let mut scales_h = 0u16;
        let mut scales_l = [0u8; 4];
        let mut qs = [0; 128];
        for (j, (x, qs)) in x.as_chunks::<32>().0.iter().zip(qs.as_chunks_mut::<16>().0).enumerate() {
            let scale = nearest(inverse * fits.scale[j]).clamp(-32, 31);
            let exact = d * scale as f32;
            *qs = iq4_nibbles::<S>(x, if exact == 0.0 { 0.0 } else { 1.0 / exact });
            let stored = (scale + 32) as u16;
            scales_l[j / 2] |= ((stored & 15) as u8) << (j % 2 * 4);
            scales_h |= (stored >> 4) << (2 * j);
        }
        BlockIQ4_XS { d: Half::from_f32(d), scales_h: scales_h.to_le_bytes(), scales_l, qs }
    }
}
