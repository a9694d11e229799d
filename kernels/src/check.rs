//! Finding blocks that could only decode to NaN or infinity.
//!
//! A format is described by where its scales are; the quants themselves are always finite.

use std::fmt;

use crate::TensorType;
use crate::blocks::*;

/// A block that holds no usable numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BadBlock {
    /// Which block, from 0. For types without blocks, which value.
    pub index: usize,
    /// What is wrong with it: "the scale is not finite".
    pub what: &'static str,
}

impl fmt::Display for BadBlock {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "block {}: {}", self.index, self.what)
    }
}

impl std::error::Error for BadBlock {}

const VALUE: &str = "the value is not finite";
const SCALE: &str = "the scale is not finite";
const MIN: &str = "the minimum's scale is not finite";
const SUM: &str = "the sum is not finite";
const SHORT: &str = "the block is cut short";

/// A number in a block.
enum Number {
    /// Half precision at this byte.
    Half(usize),
    /// Single precision at this byte.
    Single(usize),
    /// Double precision at this byte.
    Double(usize),
    /// The upper half of a single at this byte.
    Brain(usize),
    /// A biased power of two at this byte; 255 is NaN.
    Exponent(usize),
    /// A half scattered over the top nibbles of the four little-endian words at this byte.
    Nibbles(usize),
}

impl Number {
    /// `block` is a whole block of the type the number belongs to.
    #[inline(always)]
    fn is_finite(&self, block: &[u8]) -> bool {
        match *self {
            Number::Half(at) => block[at + 1] & 0x7c != 0x7c,
            Number::Brain(at) => block[at + 1] & 0x7f != 0x7f || block[at] & 0x80 == 0,
            Number::Single(at) => block[at + 3] & 0x7f != 0x7f || block[at + 2] & 0x80 == 0,
            Number::Double(at) => block[at + 7] & 0x7f != 0x7f || block[at + 6] & 0xf0 != 0xf0,
            Number::Exponent(at) => block[at] != 255,
            Number::Nibbles(at) => {
                // Bits 10 to 14 of the half: the low three of the last word's nibble, the high
                // two of the one before.
                block[at + 7] & 0x70 != 0x70 || block[at + 5] & 0xc0 != 0xc0
            }
        }
    }
}

/// Where the numbers of a block of this type are, and what to say of one that is not finite.
const fn numbers(ty: TensorType) -> &'static [(Number, &'static str)] {
    use Number::*;
    use TensorType::*;
    use std::mem::offset_of;
    match ty {
        F32 => &[(Single(0), VALUE)],
        F16 => &[(Half(0), VALUE)],
        BF16 => &[(Brain(0), VALUE)],
        F64 => &[(Double(0), VALUE)],
        I8 | I16 | I32 | I64 => &[],
        // No artifact has them: what is made of them is checked.
        F8_E4M3 | F8_E5M2 | F8_E8M0 | BOOL | U8 | U16 | U32 | U64 => &[],
        Q4_0 | Q5_0 | Q8_0 | IQ4_NL | IQ4_XS => &[(Half(0), SCALE)],
        Q4_1 | Q5_1 => &[(Half(0), SCALE), (Half(2), "the minimum is not finite")],
        Q8_1 => &[(Half(0), SCALE), (Half(2), SUM)],
        Q4_K | Q5_K => &[(Half(0), SCALE), (Half(2), MIN)],
        Q2_K => &[(Half(offset_of!(BlockQ2_K, d)), SCALE), (Half(offset_of!(BlockQ2_K, dmin)), MIN)],
        Q3_K => &[(Half(offset_of!(BlockQ3_K, d)), SCALE)],
        Q6_K => &[(Half(offset_of!(BlockQ6_K, d)), SCALE)],
        Q8_K => &[(Single(0), SCALE)],
        IQ2_XXS | IQ2_XS | IQ2_S | IQ3_XXS | IQ3_S | IQ1_S => &[(Half(0), SCALE)],
        IQ1_M => &[(Nibbles(48), SCALE)],
        TQ1_0 => &[(Half(52), SCALE)],
        TQ2_0 => &[(Half(64), SCALE)],
        MXFP4 => &[(Exponent(0), "the scale is NaN")],
    }
}

/// Looks at every scale (for F16, BF16, F32 and F64: every value) of `bytes`.
///
/// # Errors
/// The first block with a NaN or an infinity, or the last one if it is not whole.
pub fn check(ty: TensorType, bytes: &[u8]) -> Result<(), BadBlock> {
    let size = ty.block_bytes();
    if !all_finite(ty, bytes) {
        for (index, block) in bytes.chunks_exact(size).enumerate() {
            if let Some((_, what)) = numbers(ty).iter().find(|(number, _)| !number.is_finite(block)) {
                return Err(BadBlock { index, what });
            }
        }
    }
    match bytes.len() % size {
        0 => Ok(()),
        _ => Err(BadBlock { index: bytes.len() / size, what: SHORT }),
    }
}

/// Without a branch per number: sources are almost always clean.
fn all_finite(ty: TensorType, bytes: &[u8]) -> bool {
    // One more exponent carries into the sign bit of exactly those that are not finite.
    let half = |exponent: u16| {
        let carry = |c: u16, b: &[u8; 2]| c | ((u16::from_le_bytes(*b) & 0x7fff) + exponent);
        bytes.as_chunks().0.iter().fold(0, carry) >> 15 == 0
    };
    match ty {
        TensorType::F16 => half(0x0400),
        TensorType::BF16 => half(0x0080),
        TensorType::F32 => {
            let carry = |c, b: &[u8; 4]| c | ((u32::from_le_bytes(*b) & 0x7fff_ffff) + 0x0080_0000);
            bytes.as_chunks().0.iter().fold(0, carry) >> 31 == 0
        }
        _ => numbers(ty).iter().all(|(number, _)| {
            bytes.chunks_exact(ty.block_bytes()).fold(true, |clean, block| clean & number.is_finite(block))
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_number_of_every_type_is_found() {
        for &ty in TensorType::ALL {
            let size = ty.block_bytes();
            for (number, what) in numbers(ty) {
                let patterns: &[(usize, &[u8])] = &match number {
                    Number::Half(at) => [(*at, &[0, 0x7c][..]), (*at, &[1, 0xfe])],
                    Number::Brain(at) => [(*at, &[0x80, 0x7f][..]), (*at, &[0xc0, 0xff])],
                    Number::Single(at) => [(*at, &[0, 0, 0x80, 0x7f][..]), (*at, &[1, 0, 0xc0, 0xff])],
                    Number::Double(at) => {
                        [(*at, &[0, 0, 0, 0, 0, 0, 0xf0, 0x7f][..]), (*at, &[0, 0, 0, 0, 0, 1, 0xf8, 0xff])]
                    }
                    Number::Exponent(at) => [(*at, &[255][..]), (*at, &[255])],
                    Number::Nibbles(at) => [
                        (*at, &[0, 0, 0, 0, 0, 0xc0, 0, 0x70][..]),
                        (*at, &[0, 0xf0, 0, 0, 0, 0xd0, 0, 0xf0]),
                    ],
                };
                for (at, pattern) in patterns {
                    let mut bytes = vec![0u8; size * 200];
                    assert_eq!(check(ty, &bytes), Ok(()), "{ty}");
                    bytes[size * 130 + at..][..pattern.len()].copy_from_slice(pattern);
                    assert_eq!(check(ty, &bytes), Err(BadBlock { index: 130, what }), "{ty}");
                }
            }
        }
    }

    #[test]
    fn the_largest_finite_numbers_pass() {
        assert_eq!(check(TensorType::F32, &f32::MAX.to_le_bytes()), Ok(()));
        assert_eq!(check(TensorType::F64, &f64::MIN.to_le_bytes()), Ok(()));
        assert_eq!(check(TensorType::F16, &0xfbff_u16.to_le_bytes()), Ok(()));
        assert_eq!(check(TensorType::BF16, &0x7f7f_u16.to_le_bytes()), Ok(()));
    }

    #[test]
    fn the_first_of_several_bad_blocks_is_named() {
        let mut bytes = vec![0u8; 144 * 4];
        bytes[144 * 3 + 1] = 0x7c;
        bytes[144 + 3] = 0xfc;
        let bad = check(TensorType::Q4_K, &bytes).unwrap_err();
        assert_eq!(bad.to_string(), "block 1: the minimum's scale is not finite");
    }

    #[test]
    fn a_block_cut_short_is_refused() {
        assert_eq!(check(TensorType::Q8_0, &[0; 67]), Err(BadBlock { index: 1, what: SHORT }));
        assert_eq!(check(TensorType::I8, &[0xff; 67]), Ok(()));
        assert_eq!(check(TensorType::Q8_0, &[]), Ok(()));
    }
}
