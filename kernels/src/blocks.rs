//! How each format lays out one block: plain structs over bytes.
//!
//! Every field is made of bytes, so a block has alignment 1 and a byte slice of whole blocks can
//! be viewed as a slice of blocks in place (`bytemuck::cast_slice`). Numbers are little-endian.

use bytemuck::{Pod, Zeroable};
use half::f16;

use crate::TensorType;

/// Values in one superblock of the K formats.
pub const SUPERBLOCK: usize = 256;

/// An IEEE 754 half-precision number as stored: two little-endian bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(transparent)]
pub struct Half(pub [u8; 2]);

impl Half {
    /// The nearest half, ties to even; a magnitude of 65520 or more becomes infinite.
    #[inline(always)]
    pub const fn from_f32(value: f32) -> Half {
        Half(f16::from_f32_const(value).to_le_bytes())
    }

    /// The same value in single precision.
    #[inline(always)]
    pub const fn to_f32(self) -> f32 {
        f16::from_le_bytes(self.0).to_f32_const()
    }

    /// False for infinities and NaN.
    #[inline(always)]
    pub const fn is_finite(self) -> bool {
        self.0[1] & 0x7c != 0x7c
    }
}

// SAFETY: a transparent wrapper of `[u8; 2]`: no padding, every bit pattern valid.
unsafe impl Zeroable for Half {}
// SAFETY: as above.
unsafe impl Pod for Half {}

macro_rules! blocks {
    ($($(#[$doc:meta])* $name:ident = $ty:ident, $bytes:literal {
        $($(#[$field_doc:meta])* $field:ident: $field_ty:ty,)*
    })*) => {$(
        $(#[$doc])*
        #[allow(non_camel_case_types)]
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        #[repr(C)]
        pub struct $name {
            $($(#[$field_doc])* pub $field: $field_ty,)*
        }

        const _: () = assert!(size_of::<$name>() == $bytes && align_of::<$name>() == 1);
        const _: () = assert!($bytes == TensorType::$ty.block_bytes());

        // SAFETY: `repr(C)`, every field is bytes and alignment is 1, so there is no padding and
        // every bit pattern is valid.
        unsafe impl Zeroable for $name {}
        // SAFETY: as above.
        unsafe impl Pod for $name {}
    )*};
}

blocks! {
    /// 32 values `d * (q - 8)`.
    BlockQ4_0 = Q4_0, 18 {
        /// Scale.
        d: Half,
        /// Quants `j` (low nibble) and `j + 16` (high nibble).
        qs: [u8; 16],
    }
    /// 32 values `d * q + m`.
    BlockQ4_1 = Q4_1, 20 {
        /// Scale.
        d: Half,
        /// Minimum.
        m: Half,
        /// Quants `j` (low nibble) and `j + 16` (high nibble).
        qs: [u8; 16],
    }
    /// 32 values `d * (q - 16)`.
    BlockQ5_0 = Q5_0, 22 {
        /// Scale.
        d: Half,
        /// Bit 4 of quant `j` at bit `j` of a little-endian word.
        qh: [u8; 4],
        /// Low bits of quants `j` (low nibble) and `j + 16` (high nibble).
        qs: [u8; 16],
    }
    /// 32 values `d * q + m`.
    BlockQ5_1 = Q5_1, 24 {
        /// Scale.
        d: Half,
        /// Minimum.
        m: Half,
        /// Bit 4 of quant `j` at bit `j` of a little-endian word.
        qh: [u8; 4],
        /// Low bits of quants `j` (low nibble) and `j + 16` (high nibble).
        qs: [u8; 16],
    }
    /// 32 values `d * q`.
    BlockQ8_0 = Q8_0, 34 {
        /// Scale.
        d: Half,
        /// Quants.
        qs: [i8; 32],
    }
    /// 256 values in 16 sub-blocks of 16: `d * sc * q - dmin * m`.
    BlockQ2_K = Q2_K, 84 {
        /// Per sub-block: scale `sc` (low nibble) and minimum `m` (high nibble).
        scales: [u8; 16],
        /// Byte `32 h + l` holds quants `128 h + l + {0, 32, 64, 96}`, two bits each.
        qs: [u8; 64],
        /// Scale of the scales.
        d: Half,
        /// Scale of the minimums.
        dmin: Half,
    }
    /// 256 values in 16 sub-blocks of 16: `d * (sc - 32) * (q - 4)`.
    BlockQ3_K = Q3_K, 110 {
        /// Bit 2 of quant `32 b + l` at bit `b` of byte `l`.
        hmask: [u8; 32],
        /// Byte `32 h + l` holds the low bits of quants `128 h + l + {0, 32, 64, 96}`.
        qs: [u8; 64],
        /// Sixteen 6-bit scales: see [`unpack_q3_scales`].
        scales: [u8; 12],
        /// Scale of the scales.
        d: Half,
    }
    /// 256 values in 8 sub-blocks of 32: `d * sc * q - dmin * m`.
    BlockQ4_K = Q4_K, 144 {
        /// Scale of the scales.
        d: Half,
        /// Scale of the minimums.
        dmin: Half,
        /// Eight 6-bit scales and minimums: see [`unpack_k4_scales`].
        scales: [u8; 12],
        /// Byte `32 g + l` holds quants `64 g + l` (low nibble) and `64 g + l + 32` (high).
        qs: [u8; 128],
    }
    /// 256 values in 8 sub-blocks of 32: `d * sc * q - dmin * m`.
    BlockQ5_K = Q5_K, 176 {
        /// Scale of the scales.
        d: Half,
        /// Scale of the minimums.
        dmin: Half,
        /// Eight 6-bit scales and minimums: see [`unpack_k4_scales`].
        scales: [u8; 12],
        /// Bit 4 of quant `32 b + l` at bit `b` of byte `l`.
        qh: [u8; 32],
        /// Byte `32 g + l` holds the low bits of quants `64 g + l` and `64 g + l + 32`.
        qs: [u8; 128],
    }
    /// 256 values in 16 sub-blocks of 16: `d * sc * (q - 32)`.
    BlockQ6_K = Q6_K, 210 {
        /// Byte `64 h + l` holds the low bits of quants `128 h + l` and `128 h + l + 64`.
        ql: [u8; 128],
        /// Byte `32 h + l` holds bits 4 and 5 of quants `128 h + l + {0, 32, 64, 96}`.
        qh: [u8; 64],
        /// Scales of the sub-blocks.
        scales: [i8; 16],
        /// Scale of the scales.
        d: Half,
    }
    /// 256 values `d * q`: activations, never a file's tensor.
    BlockQ8_K = Q8_K, 292 {
        /// Scale: a little-endian single.
        d: [u8; 4],
        /// Quants.
        qs: [i8; 256],
        /// Sum of each 16 quants: little-endian `i16`.
        bsums: [[u8; 2]; 16],
    }
    /// 32 values `d * IQ4_VALUES[q]`.
    BlockIQ4_NL = IQ4_NL, 18 {
        /// Scale.
        d: Half,
        /// Quants `j` (low nibble) and `j + 16` (high nibble).
        qs: [u8; 16],
    }
    /// 256 values in 8 sub-blocks of 32: `d * (sc - 32) * IQ4_VALUES[q]`.
    BlockIQ4_XS = IQ4_XS, 136 {
        /// Scale of the scales.
        d: Half,
        /// Bits 4 and 5 of scale `b` at bit `2 b` of a little-endian word.
        scales_h: [u8; 2],
        /// Low bits of scales `2 i` (low nibble) and `2 i + 1` (high nibble).
        scales_l: [u8; 4],
        /// Byte `16 b + j` holds quants `32 b + j` (low nibble) and `32 b + j + 16` (high).
        qs: [u8; 128],
    }
    /// 32 values `2^(e - 127) * FP4_VALUES[q] / 2`.
    BlockMXFP4 = MXFP4, 17 {
        /// Scale: a biased exponent (E8M0); 255 is NaN.
        e: u8,
        /// Quants `j` (low nibble) and `j + 16` (high nibble).
        qs: [u8; 16],
    }
}

/// The sixteen levels of IQ4_NL and IQ4_XS.
pub const IQ4_VALUES: [i8; 16] = [-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113];

/// The sixteen levels of MXFP4 (E2M1), doubled so that they are whole.
pub const FP4_VALUES: [i8; 16] = [0, 1, 2, 3, 4, 6, 8, 12, 0, -1, -2, -3, -4, -6, -8, -12];

/// The scale of an MXFP4 block for the doubled levels: `2^(e - 128)`, exact down to `e = 0`.
#[inline(always)]
pub const fn mxfp4_scale(e: u8) -> f32 {
    f32::from_bits(if e < 2 { 0x0020_0000 << e } else { (e as u32 - 1) << 23 })
}

/// The eight scales and the eight minimums (0 to 63) of a Q4_K or Q5_K superblock.
///
/// Of the first four, byte `j` holds a scale and byte `4 + j` a minimum; of the last four, byte
/// `4 + j` holds the low nibbles of both, and their two high bits sit on top of bytes `j - 4`
/// and `j`.
#[inline(always)]
pub const fn unpack_k4_scales(packed: &[u8; 12]) -> ([u8; 8], [u8; 8]) {
    let (mut scales, mut mins) = ([0; 8], [0; 8]);
    let mut j = 0;
    while j < 4 {
        scales[j] = packed[j] & 63;
        mins[j] = packed[j + 4] & 63;
        scales[j + 4] = (packed[j + 8] & 15) | ((packed[j] >> 6) << 4);
        mins[j + 4] = (packed[j + 8] >> 4) | ((packed[j + 4] >> 6) << 4);
        j += 1;
    }
    (scales, mins)
}

/// The inverse of [`unpack_k4_scales`] for scales and minimums up to 63; higher bits spill over, as
/// they do in the reference.
#[inline(always)]
pub const fn pack_k4_scales(scales: &[u8; 8], mins: &[u8; 8]) -> [u8; 12] {
    let mut packed = [0; 12];
    let mut j = 0;
    while j < 4 {
        packed[j] = scales[j] | ((scales[j + 4] >> 4) << 6);
        packed[j + 4] = mins[j] | ((mins[j + 4] >> 4) << 6);
        packed[j + 8] = (scales[j + 4] & 15) | (mins[j + 4] << 4);
        j += 1;
    }
    packed
}

/// The sixteen scales (0 to 63, to be read less 32) of a Q3_K superblock.
///
/// Low nibbles: bytes 0 to 7, the first eight scales in the low half. High bits: bytes 8 to 11,
/// scale `j` at bit `2 (j / 4)` of byte `8 + j % 4`.
#[inline(always)]
pub const fn unpack_q3_scales(packed: &[u8; 12]) -> [u8; 16] {
    let mut scales = [0; 16];
    let mut j = 0;
    while j < 16 {
        let low = if j < 8 { packed[j] & 15 } else { packed[j - 8] >> 4 };
        scales[j] = low | (((packed[8 + j % 4] >> (2 * (j / 4))) & 3) << 4);
        j += 1;
    }
    scales
}

/// The inverse of [`unpack_q3_scales`].
#[inline(always)]
pub const fn pack_q3_scales(scales: &[u8; 16]) -> [u8; 12] {
    let mut packed = [0; 12];
    let mut j = 0;
    while j < 16 {
        packed[j % 8] |= (scales[j] & 15) << (4 * (j / 8));
        packed[8 + j % 4] |= ((scales[j] >> 4) & 3) << (2 * (j / 4));
        j += 1;
    }
    packed
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn halves_round_to_nearest_even_and_overflow_to_infinity() {
        for bits in 0..=u16::MAX {
            let half = Half(bits.to_le_bytes());
            if half.is_finite() {
                assert_eq!(Half::from_f32(half.to_f32()), half);
            }
        }
        // Between two halves the middle goes to the even one, and a hair decides otherwise.
        for bits in (0..0x7bff_u16).step_by(7) {
            let (low, high) = (Half(bits.to_le_bytes()), Half((bits + 1).to_le_bytes()));
            let middle = (low.to_f32() + high.to_f32()) / 2.0;
            assert_eq!(Half::from_f32(middle), if bits % 2 == 0 { low } else { high });
            assert_eq!(Half::from_f32(middle.next_down()), low);
            assert_eq!(Half::from_f32(middle.next_up()), high);
        }
        assert_eq!(Half::from_f32(65519.996).to_f32(), 65504.0);
        assert_eq!(Half::from_f32(-65520.0).to_f32(), f32::NEG_INFINITY);
        assert_eq!(Half::from_f32(2f32.powi(-25)).0, [0, 0]);
        assert_eq!(Half::from_f32(-0.0).0, [0, 0x80]);
    }

    #[test]
    fn mxfp4_scales_are_powers_of_two() {
        for e in 0..255u8 {
            assert_eq!(mxfp4_scale(e), 2f64.powi(i32::from(e) - 128) as f32);
        }
    }

    proptest! {
        #[test]
        fn packed_scales_round_trip(scales: [u8; 8], mins: [u8; 8], sixteen: [u8; 16]) {
            let (scales, mins, sixteen) = (scales.map(|v| v & 63), mins.map(|v| v & 63), sixteen.map(|v| v & 63));
            prop_assert_eq!(unpack_k4_scales(&pack_k4_scales(&scales, &mins)), (scales, mins));
            prop_assert_eq!(unpack_q3_scales(&pack_q3_scales(&sixteen)), sixteen);
        }
    }
}
