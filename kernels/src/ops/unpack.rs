//! Blocks of every quantized format as one thing: unsigned 8-bit values with a float32 scale and
//! minimum for each 16 or 32 of them.
//!
//! `w = scale * (u - OFFSET) - min`. The products that make `scale` and `min` of a K-quant (a half
//! times at most 8 bits) are exact in float32. Layouts are those of the GGUF formats.

use super::simd::f16_to_f32;

/// What a block unpacks to. Formats with blocks of 32 use the first 32 values.
pub(super) struct Unpacked {
    /// Values, 0 to 255.
    pub u: [u8; 256],
    /// A scale for each [`Format::SUB`] values.
    pub scale: [f32; 16],
    /// What is taken off, for each [`Format::SUB`] values; unused without [`Format::MIN`].
    pub min: [f32; 16],
}

impl Unpacked {
    pub const ZERO: Unpacked = Unpacked { u: [0; 256], scale: [0.0; 16], min: [0.0; 16] };
}

/// A block format.
pub(super) trait Format {
    /// Values in a block.
    const BLOCK: usize;
    /// Bytes of a block.
    const BYTES: usize;
    /// Values that share a scale: 16 or 32.
    const SUB: usize;
    /// Whether there is a minimum.
    const MIN: bool = false;
    /// What `u` is above the quantized value.
    const OFFSET: i32 = 0;
    /// Whether `u` can be over 127; then `OFFSET` is 128.
    const HIGH: bool = false;
    /// Whether `u` is at most 15.
    const NIBBLES: bool = false;

    /// Unpacks one block of [`Format::BYTES`] bytes.
    fn unpack(block: &[u8], to: &mut Unpacked);
}

#[inline(always)]
fn half(b: &[u8], at: usize) -> f32 {
    f16_to_f32(u16::from_le_bytes([b[at], b[at + 1]]))
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
    ($name:ident: $block:literal values, $bytes:literal bytes, a scale for $sub:literal;
     $(const $const:ident: $ty:ty = $value:expr;)* |$b:ident, $to:ident| $body:block) => {
        pub(super) struct $name;
        impl Format for $name {
            const BLOCK: usize = $block;
            const BYTES: usize = $bytes;
            const SUB: usize = $sub;
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
format! { Q4_0: 32 values, 18 bytes, a scale for 32; const OFFSET: i32 = 8; const NIBBLES: bool = true; |b, to| {
    to.scale[0] = half(b, 0);
    nibbles(&b[2..], &mut to.u);
}}

// d, m: half, 32 nibbles; w = d * q + m.
format! { Q4_1: 32 values, 20 bytes, a scale for 32; const MIN: bool = true; const NIBBLES: bool = true; |b, to| {
    to.scale[0] = half(b, 0);
    to.min[0] = -half(b, 2);
    nibbles(&b[4..], &mut to.u);
}}

// d: half, 32 fifth bits, 32 nibbles; w = d * (q - 16).
format! { Q5_0: 32 values, 22 bytes, a scale for 32; const OFFSET: i32 = 16; |b, to| {
    to.scale[0] = half(b, 0);
    nibbles(&b[6..], &mut to.u);
    fifth_bits(&b[2..], &mut to.u);
}}

// d, m: half, 32 fifth bits, 32 nibbles; w = d * q + m.
format! { Q5_1: 32 values, 24 bytes, a scale for 32; const MIN: bool = true; |b, to| {
    to.scale[0] = half(b, 0);
    to.min[0] = -half(b, 2);
    nibbles(&b[8..], &mut to.u);
    fifth_bits(&b[4..], &mut to.u);
}}

// d: half, 32 int8; w = d * q.
format! { Q8_0: 32 values, 34 bytes, a scale for 32; const OFFSET: i32 = 128; const HIGH: bool = true; |b, to| {
    to.scale[0] = half(b, 0);
    for (u, q) in to.u[..32].iter_mut().zip(&b[2..]) {
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
format! { Iq4Nl: 32 values, 18 bytes, a scale for 32; const OFFSET: i32 = 128; const HIGH: bool = true; |b, to| {
    to.scale[0] = half(b, 0);
    nibbles(&b[2..], &mut to.u);
    for u in &mut to.u[..32] {
        *u = IQ4[usize::from(*u & 15)];
    }
}}

// d: half, high 2 bits of 8 scales, low 4 bits of them, 256 nibbles; w = d * (scale - 32) * table[q].
format! { Iq4Xs: 256 values, 136 bytes, a scale for 32; const OFFSET: i32 = 128; const HIGH: bool = true; |b, to| {
    let d = half(b, 0);
    let high = u16::from_le_bytes([b[2], b[3]]);
    for j in 0..8 {
        let low = b[4 + j / 2] >> (4 * (j % 2)) & 15;
        let scale = low | ((high >> (2 * j)) as u8 & 3) << 4;
        to.scale[j] = d * f32::from(scale as i8 - 32);
        nibbles(&b[8 + 16 * j..], &mut to.u[32 * j..]);
    }
    for u in &mut to.u {
        *u = IQ4[usize::from(*u & 15)];
    }
}}

// 16 scales and minima of 4 bits, 256 values of 2 bits, d, dmin: half; w = d * s * q - dmin * m.
format! { Q2K: 256 values, 84 bytes, a scale for 16; const MIN: bool = true; const NIBBLES: bool = true; |b, to| {
    let (d, dmin) = (half(b, 80), half(b, 82));
    for (j, packed) in b[..16].iter().enumerate() {
        to.scale[j] = d * f32::from(packed & 15);
        to.min[j] = dmin * f32::from(packed >> 4);
    }
    for (i, u) in to.u.iter_mut().enumerate() {
        *u = b[16 + i / 128 * 32 + i % 32] >> (2 * (i % 128 / 32)) & 3;
    }
}}

// 256 third bits, 256 values of 2 bits, 16 scales of 6 bits, d: half; w = d * (s - 32) * (q - 4).
format! { Q3K: 256 values, 110 bytes, a scale for 16; const OFFSET: i32 = 4; const NIBBLES: bool = true; |b, to| {
    let d = half(b, 108);
    let packed = &b[96..108];
    for j in 0..16 {
        let low = packed[j % 8] >> (4 * (j / 8)) & 15;
        let high = packed[8 + j % 4] >> (2 * (j / 4)) & 3;
        to.scale[j] = d * f32::from((low | high << 4) as i8 - 32);
    }
    for (i, u) in to.u.iter_mut().enumerate() {
        let low = b[32 + i / 128 * 32 + i % 32] >> (2 * (i % 128 / 32)) & 3;
        let high = b[i % 32] >> (i / 32) & 1;
        *u = low | high << 2;
    }
}}

/// The 6-bit scales and minima of Q4_K and Q5_K, times `d` and `dmin`.
#[inline(always)]
fn scales_and_minima(b: &[u8], to: &mut Unpacked) {
    let (d, dmin) = (half(b, 0), half(b, 2));
    let p = &b[4..16];
    for j in 0..8 {
        let (scale, min) = if j < 4 {
            (p[j] & 63, p[j + 4] & 63)
        } else {
            (p[j + 4] & 15 | p[j - 4] >> 6 << 4, p[j + 4] >> 4 | p[j] >> 6 << 4)
        };
        to.scale[j] = d * f32::from(scale);
        to.min[j] = dmin * f32::from(min);
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
format! { Q4K: 256 values, 144 bytes, a scale for 32; const MIN: bool = true; const NIBBLES: bool = true; |b, to| {
    scales_and_minima(b, to);
    nibbles_of_64(&b[16..144], &mut to.u);
}}

// As Q4_K, with 256 fifth bits before the nibbles.
format! { Q5K: 256 values, 176 bytes, a scale for 32; const MIN: bool = true; |b, to| {
    scales_and_minima(b, to);
    nibbles_of_64(&b[48..176], &mut to.u);
    for (i, u) in to.u.iter_mut().enumerate() {
        *u |= (b[16 + i % 32] >> (i / 32) & 1) << 4;
    }
}}

// 256 low nibbles, 256 high pairs, 16 scales int8, d: half; w = d * s * (q - 32).
format! { Q6K: 256 values, 210 bytes, a scale for 16; const OFFSET: i32 = 32; |b, to| {
    let d = half(b, 208);
    for j in 0..16 {
        to.scale[j] = d * f32::from(b[192 + j] as i8);
    }
    for h in 0..2 {
        let (low, high, u) =
            (&b[64 * h..64 * h + 64], &b[128 + 32 * h..160 + 32 * h], &mut to.u[128 * h..]);
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
                    assert_eq!(F::HIGH, F::OFFSET == 128, "{ty}");
                    known += 1;
                },
                {}
            );
        }
        assert_eq!(known, 12);
    }
}
