//! Formats that round: the block's extremes fix the grid, each value goes to its nearest point.

use half::slice::HalfFloatSliceExt;
use half::{bf16, f16};

use super::lanes::{Eight, nearest};
use super::search::extreme;
use crate::TensorType;
use crate::blocks::*;

/// The greatest number below a half: adding a half itself would lift 0.49999997 to 1.
const UP_TO_HALF: f32 = 0.5f32.next_down();

/// What the formats of 32 values do to a block. The bodies here are the definition; the numbers are finite.
pub(super) trait Rounding {
    /// The number of greatest magnitude (the first of several; 0 where all are 0), and that magnitude.
    #[inline(always)]
    fn extreme(x: &[f32; 32]) -> (f32, f32) {
        extreme(x)
    }

    /// The least and the greatest number, each the first of several.
    #[inline(always)]
    fn ends(x: &[f32; 32]) -> (f32, f32) {
        let (mut min, mut max) = (f32::MAX, -f32::MAX);
        for &v in x {
            min = if v < min { v } else { min };
            max = if v > max { v } else { max };
        }
        (min, max)
    }

    /// The low bytes of `(x - origin) * factor + offset` without its fraction, at most `top`.
    #[inline(always)]
    fn levels(x: &[f32; 32], origin: f32, factor: f32, offset: f32, top: i32) -> [u8; 32] {
        let mut levels = [0; 32];
        for (l, v) in levels.iter_mut().zip(x) {
            *l = truncate((v - origin) * factor + offset).min(top) as u8;
        }
        levels
    }

    /// The integers nearest to `x * factor`, half-way cases away from zero; the low bytes.
    #[inline(always)]
    fn rounded(x: &[f32; 32], factor: f32) -> [i8; 32] {
        let mut rounded = [0; 32];
        for (r, v) in rounded.iter_mut().zip(x) {
            let v = v * factor;
            *r = truncate(v + UP_TO_HALF.copysign(v)) as i8;
        }
        rounded
    }

    /// Bit 4 of level `j` at bit `j`.
    #[inline(always)]
    fn fifth_bits(levels: &[u8; 32]) -> [u8; 4] {
        fifth_bits(levels)
    }

    /// The nearest half, ties to even.
    #[inline(always)]
    fn half(value: f32) -> Half {
        Half::from_f32(value)
    }

    /// The nearest halves, ties to even.
    #[inline(always)]
    fn halves(values: &[f32], out: &mut [u8]) {
        let mut halves = [f16::ZERO; 64];
        for (values, out) in values.chunks(64).zip(out.chunks_mut(128)) {
            let halves = &mut halves[..values.len()];
            halves.convert_from_f32_slice(values);
            for (b, half) in out.as_chunks_mut().0.iter_mut().zip(halves) {
                *b = half.to_le_bytes();
            }
        }
    }
}

impl Rounding for Eight {}

/// Rows of finite values into exactly their blocks.
#[inline(always)]
pub(super) fn encode<R: Rounding>(ty: TensorType, values: &[f32], out: &mut [u8]) {
    match ty {
        TensorType::F32 => {
            for (b, v) in out.as_chunks_mut().0.iter_mut().zip(values) {
                *b = v.to_le_bytes();
            }
        }
        TensorType::BF16 => {
            for (b, v) in out.as_chunks_mut().0.iter_mut().zip(values) {
                *b = bf16::from_f32(*v).to_le_bytes();
            }
        }
        TensorType::F16 => R::halves(values, out),
        TensorType::Q4_0 => encode_blocks::<R, BlockQ4_0, 32>(values, out),
        TensorType::Q4_1 => encode_blocks::<R, BlockQ4_1, 32>(values, out),
        TensorType::Q5_0 => encode_blocks::<R, BlockQ5_0, 32>(values, out),
        TensorType::Q5_1 => encode_blocks::<R, BlockQ5_1, 32>(values, out),
        TensorType::Q8_0 => encode_blocks::<R, BlockQ8_0, 32>(values, out),
        TensorType::Q8_K => encode_blocks::<R, BlockQ8_K, 256>(values, out),
        _ => {}
    }
}

trait Round<const N: usize>: bytemuck::Pod {
    fn round<R: Rounding>(x: &[f32; N]) -> Self;
}

#[inline(always)]
fn encode_blocks<R: Rounding, B: Round<N>, const N: usize>(values: &[f32], out: &mut [u8]) {
    let blocks: &mut [B] = bytemuck::cast_slice_mut(out);
    for (block, x) in blocks.iter_mut().zip(values.as_chunks::<N>().0) {
        *block = B::round::<R>(x);
    }
}

/// `value` without its fraction. Only a scale that is no normal number makes it leave +-256 or be
/// NaN; that gives 0.
#[inline(always)]
fn truncate(value: f32) -> i32 {
    let value = if value.abs() < 256.0 { value } else { 0.0 };
    // SAFETY: within +-256.
    unsafe { value.to_int_unchecked() }
}

/// `1 / d`, and 0 for 0.
#[inline(always)]
fn inverse(d: f32) -> f32 {
    if d == 0.0 { 0.0 } else { 1.0 / d }
}

/// The scale that puts the value of greatest magnitude at level `-half`, and the levels from 0.
#[inline(always)]
fn symmetric<R: Rounding>(x: &[f32; 32], half: f32) -> (Half, [u8; 32]) {
    let (max, _) = R::extreme(x);
    let d = max / -half;
    (R::half(d), R::levels(x, 0.0, inverse(d), half + 0.5, 2 * half as i32 - 1))
}

/// The scale and minimum that put the extremes at levels 0 and `top`, and the levels.
#[inline(always)]
fn affine<R: Rounding>(x: &[f32; 32], top: f32) -> (Half, Half, [u8; 32]) {
    let (min, max) = R::ends(x);
    let d = (max - min) / top;
    (R::half(d), R::half(min), R::levels(x, min, inverse(d), 0.5, top as i32))
}

impl Round<32> for BlockQ4_0 {
    #[inline(always)]
    fn round<R: Rounding>(x: &[f32; 32]) -> Self {
        let (d, levels) = symmetric::<R>(x, 8.0);
        BlockQ4_0 { d, qs: nibbles(&levels) }
    }
}

impl Round<32> for BlockQ4_1 {
    #[inline(always)]
    fn round<R: Rounding>(x: &[f32; 32]) -> Self {
        let (d, m, levels) = affine::<R>(x, 15.0);
        BlockQ4_1 { d, m, qs: nibbles(&levels) }
    }
}

impl Round<32> for BlockQ5_0 {
    #[inline(always)]
    fn round<R: Rounding>(x: &[f32; 32]) -> Self {
        let (d, levels) = symmetric::<R>(x, 16.0);
        BlockQ5_0 { d, qh: R::fifth_bits(&levels), qs: nibbles(&levels) }
    }
}

impl Round<32> for BlockQ5_1 {
    #[inline(always)]
    fn round<R: Rounding>(x: &[f32; 32]) -> Self {
        let (d, m, levels) = affine::<R>(x, 31.0);
        BlockQ5_1 { d, m, qh: R::fifth_bits(&levels), qs: nibbles(&levels) }
    }
}

/// Low nibbles of levels `j` and `j + 16` in byte `j`.
#[inline(always)]
pub(super) fn nibbles(levels: &[u8; 32]) -> [u8; 16] {
    let mut qs = [0; 16];
    for j in 0..16 {
        qs[j] = (levels[j] & 15) | levels[j + 16] << 4;
    }
    qs
}

/// Bit 4 of level `j` at bit `j`.
#[inline(always)]
pub(super) fn fifth_bits(levels: &[u8; 32]) -> [u8; 4] {
    let mut bits = 0u32;
    for (j, l) in levels.iter().enumerate() {
        bits |= (u32::from(*l) >> 4 & 1) << j;
    }
    bits.to_le_bytes()
}

impl Round<32> for BlockQ8_0 {
    #[inline(always)]
    fn round<R: Rounding>(x: &[f32; 32]) -> Self {
        let (_, magnitude) = R::extreme(x);
        let d = magnitude / 127.0;
        BlockQ8_0 { d: R::half(d), qs: R::rounded(x, inverse(d)) }
    }
}

impl Round<256> for BlockQ8_K {
    #[inline(always)]
    fn round<R: Rounding>(x: &[f32; 256]) -> Self {
        let (max, magnitude) = extreme(x);
        let mut block = BlockQ8_K { d: [0; 4], qs: [0; 256], bsums: [[0; 2]; 16] };
        if magnitude == 0.0 {
            return block;
        }
        let inverse = -127.0 / max;
        for (q, v) in block.qs.iter_mut().zip(x) {
            *q = nearest(inverse * v).min(127) as i8;
        }
        for (sum, qs) in block.bsums.iter_mut().zip(block.qs.as_chunks::<16>().0) {
            *sum = qs.iter().fold(0i16, |sum, q| sum + i16::from(*q)).to_le_bytes();
        }
        block.d = (1.0 / inverse).to_le_bytes();
        block
    }
}
