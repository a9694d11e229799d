//! Blocks back to single precision.
//!
//! One definition per format, compiled for plain machines and for AVX2. Each value is computed on its own,
//! with the operations in the order written, so every level gives the same bits.

use std::fmt;

use bytemuck::Pod;
use half::f16;
use half::slice::HalfFloatSliceExt;

use crate::blocks::*;
use crate::{Level, TensorType};

/// Why bytes could not be decoded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum DequantizeError {
    /// There is no decoder for this type.
    Unsupported(TensorType),
    /// The bytes are not the whole blocks that `values` values take.
    Length {
        /// The type asked for.
        ty: TensorType,
        /// Bytes given.
        bytes: usize,
        /// Values asked for.
        values: usize,
    },
}

impl fmt::Display for DequantizeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            DequantizeError::Unsupported(ty) => write!(f, "{ty} cannot be decoded to single precision"),
            DequantizeError::Length { ty, bytes, values } => write!(
                f,
                "{bytes} bytes do not hold {values} values of {ty}: a block of {} values takes {} bytes",
                ty.block_len(),
                ty.block_bytes()
            ),
        }
    }
}

impl std::error::Error for DequantizeError {}

/// Whether [`dequantize`] knows the type.
pub const fn dequantizable(ty: TensorType) -> bool {
    use TensorType::*;
    matches!(
        ty,
        F32 | F16
            | BF16
            | F64
            | F8_E4M3
            | F8_E5M2
            | F8_E8M0
            | Q4_0
            | Q4_1
            | Q5_0
            | Q5_1
            | Q8_0
            | Q2_K
            | Q3_K
            | Q4_K
            | Q5_K
            | Q6_K
            | Q8_K
            | IQ4_NL
            | IQ4_XS
            | MXFP4
    )
}

/// Decodes whole blocks of `ty` into `out`, at the current [`Level`].
///
/// # Errors
/// When the type has no decoder, or `bytes` are not exactly the blocks of `out.len()` values.
pub fn dequantize(ty: TensorType, bytes: &[u8], out: &mut [f32]) -> Result<(), DequantizeError> {
    dequantize_at(Level::current(), ty, bytes, out)
}

/// [`dequantize`] at a given level, or the best this machine has if that is lower.
///
/// # Errors
/// As [`dequantize`].
pub fn dequantize_at(
    level: Level,
    ty: TensorType,
    bytes: &[u8],
    out: &mut [f32],
) -> Result<(), DequantizeError> {
    if !dequantizable(ty) {
        return Err(DequantizeError::Unsupported(ty));
    }
    if ty.row_bytes(out.len() as u64) != Some(bytes.len() as u64) {
        return Err(DequantizeError::Length { ty, bytes: bytes.len(), values: out.len() });
    }
    match level.min(Level::detect()) {
        Level::Portable => decode_values(ty, bytes, out),
        // With AVX-512 the compiler makes gathers and byte permutations that are slower, and memory
        // is the bound before arithmetic is.
        #[cfg(target_arch = "x86_64")]
        // SAFETY: `Level::detect` found every feature of AVX2's level.
        _ => unsafe { decode_values_avx2(ty, bytes, out) },
        #[cfg(not(target_arch = "x86_64"))]
        _ => decode_values(ty, bytes, out),
    }
    Ok(())
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,f16c")]
fn decode_values_avx2(ty: TensorType, bytes: &[u8], out: &mut [f32]) {
    match ty {
        TensorType::F16 => decode_f16_f16c(bytes, out),
        _ => decode_values(ty, bytes, out),
    }
}

/// [`decode_f16`], eight at a time.
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,f16c")]
fn decode_f16_f16c(bytes: &[u8], out: &mut [f32]) {
    use std::arch::x86_64::*;
    let whole = out.len() / 8;
    let (front, rest) = out.split_at_mut(8 * whole);
    let (halves, last) = bytes.as_chunks::<16>();
    for (values, halves) in front.as_chunks_mut::<8>().0.iter_mut().zip(halves) {
        // SAFETY: eight halves and room for eight values are there, neither of which need be aligned.
        unsafe {
            _mm256_storeu_ps(values.as_mut_ptr(), _mm256_cvtph_ps(_mm_loadu_si128(halves.as_ptr().cast())))
        };
    }
    decode_f16(last, rest);
}

/// `bytes` are exactly the blocks of `out`, and `ty` is [`dequantizable`].
#[inline(always)]
fn decode_values(ty: TensorType, bytes: &[u8], out: &mut [f32]) {
    match ty {
        TensorType::F32 => {
            for (v, b) in out.iter_mut().zip(bytes.as_chunks().0) {
                *v = f32::from_le_bytes(*b);
            }
        }
        TensorType::F64 => {
            for (v, b) in out.iter_mut().zip(bytes.as_chunks().0) {
                *v = f64::from_le_bytes(*b) as f32;
            }
        }
        TensorType::BF16 => {
            for (v, b) in out.iter_mut().zip(bytes.as_chunks().0) {
                *v = f32::from_bits(u32::from(u16::from_le_bytes(*b)) << 16);
            }
        }
        TensorType::F16 => decode_f16(bytes, out),
        TensorType::F8_E4M3 => decode_bytes(&E4M3_VALUES, bytes, out),
        TensorType::F8_E5M2 => decode_bytes(&E5M2_VALUES, bytes, out),
        TensorType::F8_E8M0 => decode_bytes(&E8M0_VALUES, bytes, out),
        TensorType::Q4_0 => decode_blocks::<BlockQ4_0, 32>(bytes, out),
        TensorType::Q4_1 => decode_blocks::<BlockQ4_1, 32>(bytes, out),
        TensorType::Q5_0 => decode_blocks::<BlockQ5_0, 32>(bytes, out),
        TensorType::Q5_1 => decode_blocks::<BlockQ5_1, 32>(bytes, out),
        TensorType::Q8_0 => decode_blocks::<BlockQ8_0, 32>(bytes, out),
        TensorType::Q2_K => decode_blocks::<BlockQ2_K, 256>(bytes, out),
        TensorType::Q3_K => decode_blocks::<BlockQ3_K, 256>(bytes, out),
        TensorType::Q4_K => decode_blocks::<BlockQ4_K, 256>(bytes, out),
        TensorType::Q5_K => decode_blocks::<BlockQ5_K, 256>(bytes, out),
        TensorType::Q6_K => decode_blocks::<BlockQ6_K, 256>(bytes, out),
        TensorType::Q8_K => decode_blocks::<BlockQ8_K, 256>(bytes, out),
        TensorType::IQ4_NL => decode_blocks::<BlockIQ4_NL, 32>(bytes, out),
        TensorType::IQ4_XS => decode_blocks::<BlockIQ4_XS, 256>(bytes, out),
        TensorType::MXFP4 => decode_blocks::<BlockMXFP4, 32>(bytes, out),
        _ => {}
    }
}

#[inline(always)]
fn decode_f16(bytes: &[u8], out: &mut [f32]) {
    // The bytes may lie at an odd address, which a slice of halves may not.
    let mut halves = [f16::ZERO; 64];
    for (values, bytes) in out.chunks_mut(64).zip(bytes.chunks(128)) {
        let halves = &mut halves[..values.len()];
        for (half, b) in halves.iter_mut().zip(bytes.as_chunks().0) {
            *half = f16::from_le_bytes(*b);
        }
        halves.convert_to_f32_slice(values);
    }
}

/// The values of `F8_E4M3`, by their bytes: a sign, four bits of exponent (bias 7), three of
/// mantissa; no infinity, and NaN only where all seven are set (the OCP's 8-bit floating point, E4M3).
static E4M3_VALUES: [f32; 256] = {
    let mut values = [0.0; 256];
    let mut byte = 0;
    while byte < 256 {
        let sign = (byte as u32 & 0x80) << 24;
        let (exponent, mantissa) = (byte as u32 >> 3 & 15, byte as u32 & 7);
        let magnitude = match (exponent, mantissa) {
            (15, 7) => f32::NAN,
            (0, m) => m as f32 * (1.0 / 512.0),
            (e, m) => f32::from_bits((e + 120) << 23 | m << 20),
        };
        values[byte] = f32::from_bits(magnitude.to_bits() | sign);
        byte += 1;
    }
    values
};

/// The values of `F8_E5M2`: the upper byte of a half.
static E5M2_VALUES: [f32; 256] = {
    let mut values = [0.0; 256];
    let mut byte = 0;
    while byte < 256 {
        values[byte] = f16::from_bits((byte as u16) << 8).to_f32_const();
        byte += 1;
    }
    values
};

/// The values of `F8_E8M0`: powers of two, `2^(byte - 127)`, and NaN for 255 (OCP Microscaling).
static E8M0_VALUES: [f32; 256] = {
    let mut values = [f32::NAN; 256];
    values[0] = f32::from_bits(0x0040_0000);
    let mut byte = 1;
    while byte < 255 {
        values[byte] = f32::from_bits((byte as u32) << 23);
        byte += 1;
    }
    values
};

#[inline(always)]
fn decode_bytes(values: &[f32; 256], bytes: &[u8], out: &mut [f32]) {
    for (v, b) in out.iter_mut().zip(bytes) {
        *v = values[usize::from(*b)];
    }
}

/// A block of `N` values.
trait Decode<const N: usize>: Pod {
    /// The values of the block.
    fn decode(&self, out: &mut [f32; N]);
}

#[inline(always)]
fn decode_blocks<B: Decode<N>, const N: usize>(bytes: &[u8], out: &mut [f32]) {
    let blocks: &[B] = bytemuck::cast_slice(bytes);
    for (block, values) in blocks.iter().zip(out.as_chunks_mut::<N>().0) {
        block.decode(values);
    }
}

impl Decode<32> for BlockQ4_0 {
    #[inline(always)]
    fn decode(&self, out: &mut [f32; 32]) {
        let d = self.d.to_f32();
        for j in 0..16 {
            out[j] = (i32::from(self.qs[j] & 15) - 8) as f32 * d;
            out[j + 16] = (i32::from(self.qs[j] >> 4) - 8) as f32 * d;
        }
    }
}

impl Decode<32> for BlockQ4_1 {
    #[inline(always)]
    fn decode(&self, out: &mut [f32; 32]) {
        let (d, m) = (self.d.to_f32(), self.m.to_f32());
        for j in 0..16 {
            out[j] = f32::from(self.qs[j] & 15) * d + m;
            out[j + 16] = f32::from(self.qs[j] >> 4) * d + m;
        }
    }
}

/// The 32 five-bit quants of a Q5_0 or Q5_1 block.
#[inline(always)]
fn five_bits(qs: &[u8; 16], qh: [u8; 4]) -> [i32; 32] {
    let high = u32::from_le_bytes(qh);
    let mut quants = [0; 32];
    for j in 0..16 {
        quants[j] = i32::from(qs[j] & 15) | ((high >> j) as i32 & 1) << 4;
        quants[j + 16] = i32::from(qs[j] >> 4) | ((high >> (j + 16)) as i32 & 1) << 4;
    }
    quants
}

impl Decode<32> for BlockQ5_0 {
    #[inline(always)]
    fn decode(&self, out: &mut [f32; 32]) {
        let d = self.d.to_f32();
        let quants = five_bits(&self.qs, self.qh);
        for (v, q) in out.iter_mut().zip(quants) {
            *v = (q - 16) as f32 * d;
        }
    }
}

impl Decode<32> for BlockQ5_1 {
    #[inline(always)]
    fn decode(&self, out: &mut [f32; 32]) {
        let (d, m) = (self.d.to_f32(), self.m.to_f32());
        let quants = five_bits(&self.qs, self.qh);
        for (v, q) in out.iter_mut().zip(quants) {
            *v = q as f32 * d + m;
        }
    }
}

impl Decode<32> for BlockQ8_0 {
    #[inline(always)]
    fn decode(&self, out: &mut [f32; 32]) {
        let d = self.d.to_f32();
        for (v, q) in out.iter_mut().zip(self.qs) {
            *v = f32::from(q) * d;
        }
    }
}

/// Each byte holds two bits of four quants, which lie 32 apart.
#[inline(always)]
fn two_bits(qs: &[u8; 64]) -> [u8; 256] {
    let mut quants = [0; 256];
    for (quants, qs) in quants.as_chunks_mut::<128>().0.iter_mut().zip(qs.as_chunks::<32>().0) {
        for part in 0..4 {
            for l in 0..32 {
                quants[32 * part + l] = (qs[l] >> (2 * part)) & 3;
            }
        }
    }
    quants
}

impl Decode<256> for BlockQ2_K {
    #[inline(always)]
    fn decode(&self, out: &mut [f32; 256]) {
        let (d, dmin) = (self.d.to_f32(), self.dmin.to_f32());
        let quants = two_bits(&self.qs);
        for j in 0..16 {
            let scale = d * f32::from(self.scales[j] & 15);
            let min = dmin * f32::from(self.scales[j] >> 4);
            for l in 16 * j..16 * j + 16 {
                out[l] = scale * f32::from(quants[l]) - min;
            }
        }
    }
}

impl Decode<256> for BlockQ3_K {
    #[inline(always)]
    fn decode(&self, out: &mut [f32; 256]) {
        let d = self.d.to_f32();
        let scales = unpack_q3_scales(&self.scales);
        let mut quants = two_bits(&self.qs);
        for (part, quants) in quants.as_chunks_mut::<32>().0.iter_mut().enumerate() {
            for (q, high) in quants.iter_mut().zip(&self.hmask) {
                *q |= ((high >> part) & 1) << 2;
            }
        }
        for (j, scale) in scales.iter().enumerate() {
            let scale = d * (i32::from(*scale) - 32) as f32;
            for l in 16 * j..16 * j + 16 {
                out[l] = scale * (i32::from(quants[l]) - 4) as f32;
            }
        }
    }
}

impl Decode<256> for BlockQ4_K {
    #[inline(always)]
    fn decode(&self, out: &mut [f32; 256]) {
        let (d, dmin) = (self.d.to_f32(), self.dmin.to_f32());
        let (scales, mins) = unpack_k4_scales(&self.scales);
        for j in 0..8 {
            let (scale, min) = (d * f32::from(scales[j]), dmin * f32::from(mins[j]));
            let (qs, shift) = (&self.qs[j / 2 * 32..][..32], j % 2 * 4);
            let values = &mut out[32 * j..][..32];
            for l in 0..32 {
                values[l] = scale * f32::from((qs[l] >> shift) & 15) - min;
            }
        }
    }
}

impl Decode<256> for BlockQ5_K {
    #[inline(always)]
    fn decode(&self, out: &mut [f32; 256]) {
        let (d, dmin) = (self.d.to_f32(), self.dmin.to_f32());
        let (scales, mins) = unpack_k4_scales(&self.scales);
        for j in 0..8 {
            let (scale, min) = (d * f32::from(scales[j]), dmin * f32::from(mins[j]));
            let (qs, shift) = (&self.qs[j / 2 * 32..][..32], j % 2 * 4);
            let values = &mut out[32 * j..][..32];
            for l in 0..32 {
                let quant = ((qs[l] >> shift) & 15) | ((self.qh[l] >> j) & 1) << 4;
                values[l] = scale * f32::from(quant) - min;
            }
        }
    }
}

impl Decode<256> for BlockQ6_K {
    #[inline(always)]
    fn decode(&self, out: &mut [f32; 256]) {
        let d = self.d.to_f32();
        let mut quants = two_bits(&self.qh);
        for (quants, ql) in quants.as_chunks_mut::<128>().0.iter_mut().zip(self.ql.as_chunks::<64>().0) {
            for l in 0..64 {
                quants[l] = quants[l] << 4 | (ql[l] & 15);
                quants[64 + l] = quants[64 + l] << 4 | ql[l] >> 4;
            }
        }
        for j in 0..16 {
            let scale = d * f32::from(self.scales[j]);
            for l in 16 * j..16 * j + 16 {
                out[l] = scale * (i32::from(quants[l]) - 32) as f32;
            }
        }
    }
}

impl Decode<256> for BlockQ8_K {
    #[inline(always)]
    fn decode(&self, out: &mut [f32; 256]) {
        let d = f32::from_le_bytes(self.d);
        for (v, q) in out.iter_mut().zip(self.qs) {
            *v = d * f32::from(q);
        }
    }
}

/// `scale * table[q]` for 32 quants in nibbles.
#[inline(always)]
fn decode_table(scale: f32, table: &[i8; 16], qs: &[u8; 16], out: &mut [f32; 32]) {
    for j in 0..16 {
        out[j] = scale * f32::from(table[usize::from(qs[j] & 15)]);
        out[j + 16] = scale * f32::from(table[usize::from(qs[j] >> 4)]);
    }
}

impl Decode<32> for BlockIQ4_NL {
    #[inline(always)]
    fn decode(&self, out: &mut [f32; 32]) {
        decode_table(self.d.to_f32(), &IQ4_VALUES, &self.qs, out);
    }
}

impl Decode<256> for BlockIQ4_XS {
    #[inline(always)]
    fn decode(&self, out: &mut [f32; 256]) {
        let d = self.d.to_f32();
        let high = u16::from_le_bytes(self.scales_h);
        let sub_blocks = self.qs.as_chunks::<16>().0.iter().zip(out.as_chunks_mut::<32>().0);
        for (j, (qs, values)) in sub_blocks.enumerate() {
            let low = (self.scales_l[j / 2] >> (j % 2 * 4)) & 15;
            let scale = d * (i32::from(low) + (i32::from(high >> (2 * j) & 3) << 4) - 32) as f32;
            decode_table(scale, &IQ4_VALUES, qs, values);
        }
    }
}

impl Decode<32> for BlockMXFP4 {
    #[inline(always)]
    fn decode(&self, out: &mut [f32; 32]) {
        decode_table(mxfp4_scale(self.e), &FP4_VALUES, &self.qs, out);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn floats_decode_exactly_from_any_address() {
        let mut bytes = vec![0u8];
        for v in [1.5f32, -2.0, 0.25, 65504.0, -0.0] {
            bytes.extend(f16::from_f32(v).to_le_bytes());
        }
        let mut out = [0.0; 5];
        dequantize(TensorType::F16, &bytes[1..], &mut out).unwrap();
        assert_eq!(out, [1.5, -2.0, 0.25, 65504.0, 0.0]);
        assert!(out[4].is_sign_negative());

        dequantize(TensorType::BF16, &[0, 0x3f, 0x80, 0xc0], &mut out[..2]).unwrap();
        assert_eq!(out[..2], [0.5, -4.0]);
        dequantize(TensorType::F64, &0.1f64.to_le_bytes(), &mut out[..1]).unwrap();
        assert_eq!(out[0], 0.1f32);
    }

    #[test]
    fn eight_bit_floats_are_what_their_bits_say() {
        let all: Vec<u8> = (0..=255).collect();
        let mut out = [0.0; 256];
        dequantize(TensorType::F8_E4M3, &all, &mut out).unwrap();
        for (byte, v) in all.iter().zip(out) {
            let (e, m) = (i32::from(byte >> 3 & 15), f64::from(byte & 7));
            let magnitude = if e == 0 { m / 512.0 } else { (1.0 + m / 8.0) * 2f64.powi(e - 7) };
            let signed = if *byte & 128 != 0 { -magnitude } else { magnitude };
            assert!(if byte & 127 == 127 { v.is_nan() } else { f64::from(v).to_bits() == signed.to_bits() });
        }
        assert_eq!(out[0x7e], 448.0);
        dequantize(TensorType::F8_E5M2, &all, &mut out).unwrap();
        for (byte, v) in all.iter().zip(out) {
            let (e, m) = (i32::from(byte >> 2 & 31), f64::from(byte & 3));
            let magnitude = if e == 0 { m * 2f64.powi(-16) } else { (1.0 + m / 4.0) * 2f64.powi(e - 15) };
            let signed = if *byte & 128 != 0 { -magnitude } else { magnitude };
            match (e, byte & 3) {
                (31, 0) => assert_eq!(v, signed.signum() as f32 * f32::INFINITY),
                (31, _) => assert!(v.is_nan()),
                _ => assert_eq!(f64::from(v).to_bits(), signed.to_bits()),
            }
        }
        dequantize(TensorType::F8_E8M0, &all, &mut out).unwrap();
        for (byte, v) in all.iter().zip(out).take(255) {
            assert_eq!(f64::from(v), 2f64.powi(i32::from(*byte) - 127));
        }
        assert!(out[255].is_nan());
    }

    #[test]
    fn mxfp4_decodes_its_sixteen_levels() {
        let mut block = [0u8; 17];
        block[0] = 129; // a scale of 4
        for (j, b) in block[1..].iter_mut().enumerate() {
            *b = j as u8;
        }
        let mut out = [0.0; 32];
        dequantize(TensorType::MXFP4, &block, &mut out).unwrap();
        assert_eq!(out[..8], [0.0, 2.0, 4.0, 6.0, 8.0, 12.0, 16.0, 24.0]);
        assert_eq!(out[9..16], [-2.0, -4.0, -6.0, -8.0, -12.0, -16.0, -24.0]);
    }

    #[test]
    fn lengths_and_types_are_checked() {
        let mut out = [0.0; 32];
        let error = dequantize(TensorType::Q4_0, &[0; 17], &mut out).unwrap_err();
        assert_eq!(
            error.to_string(),
            "17 bytes do not hold 32 values of Q4_0: a block of 32 values takes 18 bytes"
        );
        assert!(dequantize(TensorType::Q4_0, &[0; 18], &mut out[..31]).is_err());
        let error = dequantize(TensorType::IQ2_XXS, &[], &mut []).unwrap_err();
        assert_eq!(error, DequantizeError::Unsupported(TensorType::IQ2_XXS));
    }
}
