//! [`Rounding`] in AVX2 and AVX-512: what the compiler does not make of the definition by itself.
//!
//! As in `x86`, these are reached only through `encode_avx2` and `encode_avx512`, on machines with the features: that
//! is what makes every intrinsic below sound.

use std::arch::x86_64::*;

use super::round::Rounding;
use super::x86::{Avx2, Avx512};
use crate::blocks::Half;

#[inline(always)]
fn half(value: f32) -> Half {
    // SAFETY: the features are there (see the top of the file); so for every block here that does not say more.
    let bits = unsafe { _mm_cvtsi128_si32(_mm_cvtps_ph::<_MM_FROUND_TO_NEAREST_INT>(_mm_set_ss(value))) };
    Half((bits as u16).to_le_bytes())
}

/// Bit 4 of each level: the uppermost of its byte after a shift by three.
#[inline(always)]
fn fifth_bits(levels: &[u8; 32]) -> [u8; 4] {
    // SAFETY: 32 bytes are there.
    let bits =
        unsafe { _mm256_movemask_epi8(_mm256_slli_epi16::<3>(_mm256_loadu_si256(levels.as_ptr().cast()))) };
    bits.to_le_bytes()
}

/// Eight numbers at a time, into halves.
#[inline(always)]
fn halves(values: &[f32], out: &mut [u8]) {
    let (eights, rest) = values.as_chunks::<8>();
    let (whole, last) = out.split_at_mut(eights.len() * 16);
    for (x, out) in eights.iter().zip(whole.as_chunks_mut::<16>().0) {
        // SAFETY: eight values and room for eight halves are there.
        unsafe {
            let halves = _mm256_cvtps_ph::<_MM_FROUND_TO_NEAREST_INT>(_mm256_loadu_ps(x.as_ptr()));
            _mm_storeu_si128(out.as_mut_ptr().cast(), halves);
        }
    }
    for (v, out) in rest.iter().zip(last.as_chunks_mut::<2>().0) {
        *out = half(*v).0;
    }
}

macro_rules! rounding {
    ($($ty:ident)*) => {$(
        impl Rounding for $ty {
            #[inline(always)]
            fn fifth_bits(levels: &[u8; 32]) -> [u8; 4] {
                fifth_bits(levels)
            }

            #[inline(always)]
            fn half(value: f32) -> Half {
                half(value)
            }

            #[inline(always)]
            fn halves(values: &[f32], out: &mut [u8]) {
                halves(values, out);
            }
        }
    )*};
}
rounding! { Avx2 Avx512 }
