//! Blocks of every quantized format as one thing: codes of a few bits, with a scale and a minimum for each 16
//! or 32 of them.
//!
//! A code stands for `u`: itself, or what a table has for it. `w = scale * (u - OFFSET) - min`, where `scale` is
//! the product of a half and an 8-bit integer, which is exact in float32, and so is `min`. Layouts are those of
//! the GGUF formats.

use super::simd::f16_to_f32;

/// What a block unpacks to. Formats with blocks of 32 use the first 32 codes.
pub(super) struct Unpacked {
    /// Codes, each less than 2 to the power of [`Format::BITS`].
    pub codes: [u8; 256],
    /// The block's scale, a half.
    pub d: u16,
    /// The block's minimum, a half; unused without [`Format::MIN`].
    pub dmin: u16,
    /// What `d` is multiplied with, for each [`Format::SUB`] values; 1 without [`Format::SCALES`].
    pub scales: [i8; 16],
    /// What `dmin` is multiplied with.
    pub minima: [u8; 16],
}

impl Unpacked {
    pub const ZERO: Unpacked = Unpacked { codes: [0; 256], d: 0, dmin: 0, scales: [1; 16], minima: [1; 16] };

    /// The scale of a sub-block.
    #[inline(always)]
    pub fn scale(&self, sub: usize) -> f32 {
        f16_to_f32(self.d) * f32::from(self.scales[sub])
    }

    /// The minimum of a sub-block.
    #[inline(always)]
    pub fn min(&self, sub: usize) -> f32 {
        f16_to_f32(self.dmin) * f32::from(self.minima[sub])
    }
}

/// A block format.
pub(super) trait Format {
    /// Values in a block.
    const BLOCK: usize;
    /// Bytes of a block.
    const BYTES: usize;
    /// Values that share a scale: 16 or 32.
    const SUB: usize;
    /// Bits of a code: 2 to 6, or 8.
    const BITS: u32;
    /// Whether sub-blocks have scales of their own.
    const SCALES: bool = false;
    /// Whether there is a minimum.
    const MIN: bool = false;
    /// What `u` is above the quantized value. 128 where `u` can be over 127; then there is no minimum.
    const OFFSET: i32 = 0;
    /// What codes stand for, where not for themselves.
    const TABLE: Option<&'static [u8; 16]> = None;

    /// Unpacks one block of [`Format::BYTES`] bytes.
    fn unpack(block: &[u8], to: &mut Unpacked);
}

/// What a code stands for.
#[inline(always)]
pub(super) fn value<F: Format>(code: u8) -> u8 {
    match F::TABLE {
        Some(table) => table[usize::from(code & 15)],
        None => code,
    }
}

#[inline(always)]
fn half(b: &[u8], at: usize) -> u16 {
    u16::from_le_bytes([b[at], b[at + 1]])
}

/// 16 bytes to 32 nibbles: the low ones first.
#[inline(always)]
fn nibbles(b: &[u8], to: &mut [u8]) {
    for (i, &b) in b[..16].iter().enumerate() {
        to[i] = b & 15;
        to[i + 16] = b >> 4;
    }
}

/// Bit i of `bits` becomes bit 4 of value i.
#[inline(always)]
fn fifth_bits(bits: &[u8], to: &mut [u8]) {
    let bits = u32::from_le_bytes([bits[0], bits[1], bits[2], bits[3]]);
    for (i, u) in to[..32].iter_mut().enumerate() {
        *u |= ((bits >> i) as u8 & 1) << 4;
    }
}

macro_rules! format {
    ($name:ident: $block:literal values, $bytes:literal bytes, a scale for $sub:literal; $bits:literal bits;
     $(const $const:ident: $ty:ty = $value:expr;)* |$b:ident, $to:ident| $body:block) => {
        pub(super) struct $name;
        impl Format for $name {
            const BLOCK: usize = $block;
            const BYTES: usize = $bytes;
            const SUB: usize = $sub;
            const BITS: u32 = $bits;
            $(const $const: $ty = $value;)*

            #[inline(always)]
            fn unpack($b: &[u8], $to: &mut Unpacked) {
                let $b = &$b[..$bytes];
                $body
            }
        }
    };
}

// d: half, 32 nibbles; w = d * (q - 8).
format! { Q4_0: 32 values, 18 bytes, a scale for 32; 4 bits; const OFFSET: i32 = 8; |b, to| {
    to.d = half(b, 0);
    nibbles(&b[2..], &mut to.codes);
}}

// d, m: half, 32 nibbles; w = d * q + m.
format! { Q4_1: 32 values, 20 bytes, a scale for 32; 4 bits; const MIN: bool = true; |b, to| {
    to.d = half(b, 0);
    // Less a minimum is plus `m`.
    to.dmin = half(b, 2) ^ 0x8000;
    nibbles(&b[4..], &mut to.codes);
}}

// d: half, 32 fifth bits, 32 nibbles; w = d * (q - 16).
format! { Q5_0: 32 values, 22 bytes, a scale for 32; 5 bits; const OFFSET: i32 = 16; |b, to| {
    to.d = half(b, 0);
    nibbles(&b[6..], &mut to.codes);
    fifth_bits(&b[2..], &mut to.codes);
}}

// d, m: half, 32 fifth bits, 32 nibbles; w = d * q + m.
format! { Q5_1: 32 values, 24 bytes, a scale for 32; 5 bits; const MIN: bool = true; |b, to| {
    to.d = half(b, 0);
    // Less a minimum is plus `m`.
    to.dmin = half(b, 2) ^ 0x8000;
    nibbles(&b[8..], &mut to.codes);
    fifth_bits(&b[4..], &mut to.codes);
}}

// d: half, 32 int8; w = d * q.
format! { Q8_0: 32 values, 34 bytes, a scale for 32; 8 bits; const OFFSET: i32 = 128; |b, to| {
    to.d = half(b, 0);
    for (u, q) in to.codes[..32].iter_mut().zip(&b[2..]) {
        *u = q ^ 128;
    }
}}

/// The values of IQ4_NL and IQ4_XS, plus 128.
const IQ4: [u8; 16] = {
    let values: [i32; 16] = [-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113];
    let mut table = [0; 16];
    let mut i = 0;
    while i < 16 {
        table[i] = (values[i] + 128) as u8;
        i += 1;
    }
    table
};

// d: half, 32 nibbles; w = d * table[q].
format! { Iq4Nl: 32 values, 18 bytes, a scale for 32; 4 bits; const OFFSET: i32 = 128; const TABLE: Option<&'static [u8; 16]> = Some(&IQ4); |b, to| {
    to.d = half(b, 0);
    nibbles(&b[2..], &mut to.codes);
}}

// d: half, high 2 bits of 8 scales, low 4 bits of them, 256 nibbles; w = d * (scale - 32) * table[q].
format! { Iq4Xs: 256 values, 136 bytes, a scale for 32; 4 bits; const SCALES: bool = true; const OFFSET: i32 = 128; const TABLE: Option<&'static [u8; 16]> = Some(&IQ4); |b, to| {
    to.d = half(b, 0);
    let high = u16::from_le_bytes([b[2], b[3]]);
    for j in 0..8 {
        let low = b[4 + j / 2] >> (4 * (j % 2)) & 15;
        let scale = low | ((high >> (2 * j)) as u8 & 3) << 4;
        to.scales[j] = scale as i8 - 32;
        nibbles(&b[8 + 16 * j..], &mut to.codes[32 * j..]);
    }
}}

// 16 scales and minima of 4 bits, 256 values of 2 bits, d, dmin: half; w = d * s * q - dmin * m.
format! { Q2K: 256 values, 84 bytes, a scale for 16; 2 bits; const SCALES: bool = true; const MIN: bool = true; |b, to| {
    (to.d, to.dmin) = (half(b, 80), half(b, 82));
    for (j, packed) in b[..16].iter().enumerate() {
        to.scales[j] = (packed & 15) as i8;
        to.minima[j] = packed >> 4;
    }
    for (i, u) in to.codes.iter_mut().enumerate() {
        *u = b[16 + i / 128 * 32 + i % 32] >> (2 * (i % 128 / 32)) & 3;
    }
}}

// 256 third bits, 256 values of 2 bits, 16 scales of 6 bits, d: half; w = d * (s - 32) * (q - 4).
format! { Q3K: 256 values, 110 bytes, a scale for 16; 3 bits; const SCALES: bool = true; const OFFSET: i32 = 4; |b, to| {
    to.d = half(b, 108);
    let packed = &b[96..108];
    for j in 0..16 {
        let low = packed[j % 8] >> (4 * (j / 8)) & 15;
        let high = packed[8 + j % 4] >> (2 * (j / 4)) & 3;
        to.scales[j] = (low | high << 4) as i8 - 32;
    }
    for (i, u) in to.codes.iter_mut().enumerate() {
        let low = b[32 + i / 128 * 32 + i % 32] >> (2 * (i % 128 / 32)) & 3;
        let high = b[i % 32] >> (i / 32) & 1;
        *u = low | high << 2;
    }
}}

/// The 6-bit scales and minima of Q4_K and Q5_K, times `d` and `dmin`.
#[inline(always)]
fn scales_and_minima(b: &[u8], to: &mut Unpacked) {
    (to.d, to.dmin) = (half(b, 0), half(b, 2));
    let p = &b[4..16];
    for j in 0..8 {
        let (scale, min) = if j < 4 {
            (p[j] & 63, p[j + 4] & 63)
        } else {
            (p[j + 4] & 15 | p[j - 4] >> 6 << 4, p[j + 4] >> 4 | p[j] >> 6 << 4)
        };
        to.scales[j] = scale as i8;
        to.minima[j] = min;
    }
}

/// 128 bytes to 256 nibbles: of each 32 bytes the low ones, then the high ones.
#[inline(always)]
fn nibbles_of_64(b: &[u8], u: &mut [u8; 256]) {
    for j in 0..4 {
        for i in 0..32 {
            let b = b[32 * j + i];
            u[64 * j + i] = b & 15;
            u[64 * j + 32 + i] = b >> 4;
        }
    }
}

// d, dmin: half, 8 scales and minima of 6 bits, 256 nibbles; w = d * s * q - dmin * m.
format! { Q4K: 256 values, 144 bytes, a scale for 32; 4 bits; const SCALES: bool = true; const MIN: bool = true; |b, to| {
    scales_and_minima(b, to);
    nibbles_of_64(&b[16..144], &mut to.codes);
}}

// As Q4_K, with 256 fifth bits before the nibbles.
format! { Q5K: 256 values, 176 bytes, a scale for 32; 5 bits; const SCALES: bool = true; const MIN: bool = true; |b, to| {
    scales_and_minima(b, to);
    nibbles_of_64(&b[48..176], &mut to.codes);
    for (i, u) in to.codes.iter_mut().enumerate() {
        *u |= (b[16 + i % 32] >> (i / 32) & 1) << 4;
    }
}}

// 256 low nibbles, 256 high pairs, 16 scales int8, d: half; w = d * s * (q - 32).
format! { Q6K: 256 values, 210 bytes, a scale for 16; 6 bits; const SCALES: bool = true; const OFFSET: i32 = 32; |b, to| {
    to.d = half(b, 208);
    for j in 0..16 {
        to.scales[j] = b[192 + j] as i8;
    }
    for h in 0..2 {
        let (low, high, u) =
            (&b[64 * h..64 * h + 64], &b[128 + 32 * h..160 + 32 * h], &mut to.codes[128 * h..]);
        for i in 0..32 {
            u[i] = low[i] & 15 | (high[i] & 3) << 4;
            u[i + 32] = low[i + 32] & 15 | (high[i] >> 2 & 3) << 4;
            u[i + 64] = low[i] >> 4 | (high[i] >> 4 & 3) << 4;
            u[i + 96] = low[i + 32] >> 4 | (high[i] >> 6) << 4;
        }
    }
}}

/// Calls `$call` with `$format` standing for the format of the quantized type `$ty`; `$otherwise`
/// for a type that has none here.
macro_rules! with_format {
    ($ty:expr, $format:ident => $call:expr, $otherwise:expr) => {{
        use $crate::TensorType as T;
        use $crate::ops::unpack as u;
        match $ty {
            T::Q4_0 => {
                type $format = u::Q4_0;
                $call
            }
            T::Q4_1 => {
                type $format = u::Q4_1;
                $call
            }
            T::Q5_0 => {
                type $format = u::Q5_0;
                $call
            }
            T::Q5_1 => {
                type $format = u::Q5_1;
                $call
            }
            T::Q8_0 => {
                type $format = u::Q8_0;
                $call
            }
            T::Q2_K => {
                type $format = u::Q2K;
                $call
            }
            T::Q3_K => {
                type $format = u::Q3K;
                $call
            }
            T::Q4_K => {
                type $format = u::Q4K;
                $call
            }
            T::Q5_K => {
                type $format = u::Q5K;
                $call
            }
            T::Q6_K => {
                type $format = u::Q6K;
                $call
            }
            T::IQ4_NL => {
                type $format = u::Iq4Nl;
                $call
            }
            T::IQ4_XS => {
                type $format = u::Iq4Xs;
                $call
            }
            _ => $otherwise,
        }
    }};
}
pub(super) use with_format;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::TensorType;

    /// The table of formats agrees with the geometry of the types.
    #[test]
    fn formats_have_the_geometry_of_their_types() {
        let mut known = 0;
        for &ty in TensorType::ALL {
            with_format!(
                ty,
                F => {
                    assert_eq!((F::BLOCK, F::BYTES), (ty.block_len(), ty.block_bytes()), "{ty}");
                    assert_eq!(F::BITS == 8 || F::TABLE.is_some(), F::OFFSET == 128, "{ty}");
                    known += 1;
                },
                {}
            );
        }
        assert_eq!(known, 12);
    }
}
