//! BF16 weights in pairs, times columns that are rounded to BF16.
//!
//! A lane holds a pair of a row: the term of even number in its low half, the one after it in the high half. The
//! instruction for such pairs (vdpbf16ps, of AVX-512 BF16) adds the product of the high halves to a float32 sum,
//! then that of the low ones, each by one fused multiply-add, rounded to nearest even: that is the order of the
//! definition, so two fused multiply-adds are the same elsewhere.
//!
//! Except for denormals, which the instruction takes for zeros and makes zeros, whatever the machine is told to
//! do. So that there are none, on any instruction set:
//!
//! - An activation of less than 2^-50 becomes 0 when it is rounded: far below what a float32 sum keeps of
//!   activations of any use.
//! - A weight is multiplied in this way only if none of its finite values but zeros is less than 2^-62 ([`round`]);
//!   else all of it is multiplied with float32 activations, in the order of its terms. That depends on nothing but
//!   the whole weight, so it is the same on every machine and for any rows.
//!
//! Values of BF16 have eight bits, so they are multiples of 2^-57 and 2^-69 then, and products are multiples of
//! 2^-126, the least float32 that is no denormal. So is each sum of them: rounding leaves one that is less than
//! 2^-102 as it is, and makes a larger one a multiple of more. A sum is 0, or no denormal.

use std::ops::Range;

use super::super::matmul::Weight;
use super::super::on_level;
#[cfg(target_arch = "x86_64")]
use super::super::simd::Avx512;
use super::super::simd::{LANES, Simd};
use super::tile::{Float, Stored};
use crate::{Level, TensorType};

/// 2^-50: an activation of less is 0.
const LEAST_ACTIVATION: f32 = f32::from_bits((127 - 50) << 23);

/// The bits of 2^-62 in BF16.
const LEAST_WEIGHT: u16 = (127 - 62) << 7;

/// True when these rows do not keep a weight from being multiplied with rounded activations.
pub(super) fn round(level: Level, weight: &Weight<'_>, rows: Range<usize>) -> bool {
    if weight.tensor_type() != TensorType::BF16 {
        return false;
    }
    let bytes = weight.row_range(rows);
    on_level!(level, none_is_tiny(bytes: &[u8]) -> bool)
}

#[inline(always)]
fn none_is_tiny<S: Simd>(_s: S, bytes: &[u8]) -> bool {
    let mut least = u16::MAX;
    for value in bytes.as_chunks::<2>().0 {
        // Zero becomes the greatest.
        let magnitude = u16::from_le_bytes(*value) & 0x7fff;
        least = least.min(magnitude.wrapping_sub(1));
    }
    least >= LEAST_WEIGHT - 1
}

/// Pairs with float32 activations, in order: what weights with tiny values take.
pub(super) struct Exact;
/// Pairs with rounded activations, in two fused multiply-adds, the high half first.
pub(super) struct Rounded;
/// The same by the instruction.
#[cfg(target_arch = "x86_64")]
pub(super) struct Dot;

/// Bytes of a pair of each row.
type Pairs = [u8; 4 * LANES];

/// A half of each pair, exactly.
#[inline(always)]
fn half<S: Simd>(s: S, chunk: &Pairs, word: usize) -> S::F {
    let pairs = s.load_f32(chunk);
    match word {
        0 => s.low_bf16(pairs),
        _ => s.high_bf16(pairs),
    }
}

/// Terms, without what is too small.
#[inline(always)]
fn large<S: Simd>(s: S, terms: &[f32; LANES]) -> S::F {
    let x = s.load(terms);
    s.zero_below(x, s.abs(x), s.splat(LEAST_ACTIVATION))
}

impl<S: Simd> Float<S> for Exact {
    type Chunk = Pairs;
    const TERMS: usize = 2;
    const STEPS: usize = 2;

    #[inline(always)]
    fn load(s: S, chunk: &Pairs, step: usize) -> S::F {
        half(s, chunk, step)
    }
}

impl<S: Simd> Float<S> for Rounded {
    type Chunk = Pairs;
    const TERMS: usize = 2;
    const STEPS: usize = 2;

    #[inline(always)]
    fn load(s: S, chunk: &Pairs, step: usize) -> S::F {
        half(s, chunk, 1 - step)
    }

    #[inline(always)]
    fn words(s: S, terms: &[[f32; LANES]], to: &mut [f32; LANES]) {
        s.store(s.round_bf16(large(s, &terms[0])), to);
        for pair in to.as_chunks_mut::<2>().0 {
            pair.swap(0, 1);
        }
    }
}

#[cfg(target_arch = "x86_64")]
impl Float<Avx512<true>> for Dot {
    type Chunk = Pairs;
    const TERMS: usize = 2;
    const STEPS: usize = 1;

    #[inline(always)]
    fn load(s: Avx512<true>, chunk: &Pairs, _step: usize) -> <Avx512<true> as Simd>::F {
        s.load_f32(chunk)
    }

    #[inline(always)]
    fn add_product(
        s: Avx512<true>,
        w: <Avx512<true> as Simd>::F,
        x: <Avx512<true> as Simd>::F,
        sum: <Avx512<true> as Simd>::F,
    ) -> <Avx512<true> as Simd>::F {
        s.dot_bf16(w, x, sum)
    }

    #[inline(always)]
    fn words(s: Avx512<true>, terms: &[[f32; LANES]], to: &mut [f32; LANES]) {
        s.store_bf16(large(s, &terms[0]), large(s, &terms[1]), to);
    }
}

macro_rules! stored {
    ($name:ident, $widen:literal, $($s:tt)*) => {
        impl $($s)* for $name {
            const WIDEN: bool = $widen;

            #[inline(always)]
            fn chunks(panels: &[u8]) -> &[Pairs] {
                panels.as_chunks().0
            }
        }
    };
}
stored!(Exact, true, <S: Simd> Stored<S>);
stored!(Rounded, true, <S: Simd> Stored<S>);
#[cfg(target_arch = "x86_64")]
stored!(Dot, false, Stored<Avx512<true>>);

#[cfg(test)]
mod tests {
    use super::super::super::tests::bits;
    use super::*;

    fn words(level: Level, terms: &[[f32; LANES]; 2]) -> [[f32; LANES]; 2] {
        #[inline(always)]
        fn body<S: Simd>(s: S, terms: &[[f32; LANES]; 2]) -> [[f32; LANES]; 2] {
            let mut to = [[0.0; LANES]; 2];
            Rounded::words(s, &terms[..1], &mut to[0]);
            Rounded::words(s, &terms[1..], &mut to[1]);
            to
        }
        on_level!(level, body(terms: &[[f32; LANES]; 2]) -> [[f32; LANES]; 2])
    }

    #[cfg(target_arch = "x86_64")]
    #[target_feature(enable = "avx2,fma,f16c,avx512f,avx512bw,avx512vl,avx512dq,avx512vnni,avx512bf16")]
    fn pairs(s: Avx512<true>, terms: &[[f32; LANES]; 2]) -> [f32; LANES] {
        let mut to = [0.0; LANES];
        Dot::words(s, terms, &mut to);
        to
    }

    #[test]
    fn activations_are_rounded_alike_everywhere() {
        // Each half of the bits with what is near to each way of rounding.
        let low = [0u32, 1, 0x7fff, 0x8000, 0x8001, 0xffff];
        let all: Vec<f32> =
            (0..=0xffff).flat_map(|high| low.map(|low| f32::from_bits(high << 16 | low))).collect();
        let (whole, _) = all.as_chunks::<{ 2 * LANES }>();
        for terms in whole {
            let terms: [[f32; LANES]; 2] = bytemuck::cast(*terms);
            let expected = terms.as_flattened().iter().map(|x| match x.abs() < 2f32.powi(-50) {
                true => 0.0,
                false => half::bf16::from_f32_const(*x).to_f32_const(),
            });
            let expected: Vec<f32> = expected.collect();
            for level in Level::available() {
                let mut found = words(level, &terms);
                found.as_flattened_mut().as_chunks_mut::<2>().0.iter_mut().for_each(|pair| pair.reverse());
                assert_eq!(bits(found.as_flattened()), bits(&expected), "{level:?} {terms:?}");
                #[cfg(target_arch = "x86_64")]
                if let Some(token) = Avx512::available(level) {
                    // SAFETY: the token is proof of the features.
                    let found = unsafe { pairs(token, &terms) }.map(|pair| {
                        [f32::from_bits(pair.to_bits() << 16), f32::from_bits(pair.to_bits() & 0xffff_0000)]
                    });
                    assert_eq!(bits(found.as_flattened()), bits(&expected), "{level:?} {terms:?}");
                }
            }
        }
    }
}
