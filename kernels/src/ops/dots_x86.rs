//! Integer products on x86-64: eight rows in a register of 256 bits with AVX2, sixteen in one of 512 with AVX-512
//! VNNI, which adds four products to an int32 in one instruction.

use std::arch::x86_64::*;

use super::Dots;
use crate::ops::simd::{Avx2, Avx512, proven};

/// A shift of 16-bit halves whose distance is known once the code around is unrolled; the instructions want it
/// as a constant.
macro_rules! shift {
    ($v:expr, $by:expr, $left:ident, $right:ident) => {
        match $by {
            -4 => $left::<4>($v),
            -3 => $left::<3>($v),
            -2 => $left::<2>($v),
            -1 => $left::<1>($v),
            1 => $right::<1>($v),
            2 => $right::<2>($v),
            3 => $right::<3>($v),
            4 => $right::<4>($v),
            5 => $right::<5>($v),
            6 => $right::<6>($v),
            7 => $right::<7>($v),
            _ => $v,
        }
    };
}

/// A sum, and sums of pairs of products in 16 bits that are still to be added.
#[derive(Clone, Copy)]
pub(in crate::ops) struct Sum {
    sum: __m256i,
    pairs: __m256i,
}

impl Dots for Avx2 {
    const LANES: usize = 8;
    const TILE: usize = 4;
    type B = __m256i;
    type I = Sum;
    type F = __m256;

    #[inline(always)]
    fn fetch(self, line: &[u8; 64]) {
        proven!(_mm_prefetch::<_MM_HINT_T1>(line.as_ptr().cast()));
    }
    #[inline(always)]
    fn bytes(self, line: &[u8; 64], part: usize) -> __m256i {
        proven!(_mm256_loadu_si256(line[32 * part..][..32].as_ptr().cast()))
    }
    #[inline(always)]
    fn put_bytes(self, v: __m256i, line: &mut [u8; 64], part: usize) {
        proven!(_mm256_storeu_si256(line[32 * part..][..32].as_mut_ptr().cast(), v));
    }
    #[inline(always)]
    fn shift_right(self, v: __m256i, by: i32) -> __m256i {
        proven!(shift!(v, by, _mm256_slli_epi16, _mm256_srli_epi16))
    }
    #[inline(always)]
    fn mask(self, v: __m256i, mask: u8) -> __m256i {
        proven!(_mm256_and_si256(v, _mm256_set1_epi8(mask.cast_signed())))
    }
    #[inline(always)]
    fn or(self, a: __m256i, b: __m256i) -> __m256i {
        proven!(_mm256_or_si256(a, b))
    }
    #[inline(always)]
    fn less(self, v: __m256i, by: u8) -> __m256i {
        proven!(_mm256_sub_epi8(v, _mm256_set1_epi8(by.cast_signed())))
    }
    #[inline(always)]
    fn lookup(self, table: &[u8; 16], v: __m256i) -> __m256i {
        proven!({
            let table = _mm256_broadcastsi128_si256(_mm_loadu_si128(table.as_ptr().cast()));
            _mm256_shuffle_epi8(table, v)
        })
    }
    #[inline(always)]
    fn start(self, v: i32) -> Sum {
        proven!(Sum { sum: _mm256_set1_epi32(v), pairs: _mm256_setzero_si256() })
    }
    #[inline(always)]
    fn dot(self, sum: Sum, w: __m256i, x: i32) -> Sum {
        proven!({
            let pairs = _mm256_maddubs_epi16(w, _mm256_set1_epi32(x));
            Sum { sum: sum.sum, pairs: _mm256_add_epi16(sum.pairs, pairs) }
        })
    }
    #[inline(always)]
    fn fold(self, sum: Sum) -> Sum {
        proven!({
            let pairs = _mm256_madd_epi16(sum.pairs, _mm256_set1_epi16(1));
            Sum { sum: _mm256_add_epi32(sum.sum, pairs), pairs: _mm256_setzero_si256() }
        })
    }
    #[inline(always)]
    fn start_wide(self, _: i32) -> Sum {
        self.start(0)
    }
    #[inline(always)]
    fn dot_wide(self, sum: Sum, w: __m256i, x: i32) -> Sum {
        proven!({
            let w = _mm256_xor_si256(w, _mm256_set1_epi8(-128));
            // |w| is at most 128: two products of at most 128 * 127 fit in 16 bits.
            let x = _mm256_sign_epi8(_mm256_set1_epi32(x), w);
            let pairs = _mm256_maddubs_epi16(_mm256_abs_epi8(w), x);
            let four = _mm256_madd_epi16(pairs, _mm256_set1_epi16(1));
            Sum { sum: _mm256_add_epi32(sum.sum, four), pairs: sum.pairs }
        })
    }
    #[inline(always)]
    fn float(self, sum: Sum) -> __m256 {
        proven!(_mm256_cvtepi32_ps(sum.sum))
    }
    #[inline(always)]
    fn splat(self, v: f32) -> __m256 {
        proven!(_mm256_set1_ps(v))
    }
    #[inline(always)]
    fn load(self, v: &[f32; 16], part: usize) -> __m256 {
        proven!(_mm256_loadu_ps(v[8 * part..][..8].as_ptr()))
    }
    #[inline(always)]
    fn store(self, v: __m256, to: &mut [f32; 16], part: usize) {
        proven!(_mm256_storeu_ps(to[8 * part..][..8].as_mut_ptr(), v));
    }
    #[inline(always)]
    fn halves(self, v: &[u8; 32], part: usize) -> __m256 {
        proven!(_mm256_cvtph_ps(_mm_loadu_si128(v[16 * part..][..16].as_ptr().cast())))
    }
    #[inline(always)]
    fn signed(self, v: &[u8; 16], part: usize) -> __m256 {
        proven!({
            let bytes = _mm_loadl_epi64(v[8 * part..][..8].as_ptr().cast());
            _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(bytes))
        })
    }
    #[inline(always)]
    fn unsigned(self, v: &[u8; 16], part: usize) -> __m256 {
        proven!({
            let bytes = _mm_loadl_epi64(v[8 * part..][..8].as_ptr().cast());
            _mm256_cvtepi32_ps(_mm256_cvtepu8_epi32(bytes))
        })
    }
    #[inline(always)]
    fn negated(self, v: __m256) -> __m256 {
        proven!(_mm256_xor_ps(v, _mm256_set1_ps(-0.0)))
    }
    #[inline(always)]
    fn mul(self, a: __m256, b: __m256) -> __m256 {
        proven!(_mm256_mul_ps(a, b))
    }
    #[inline(always)]
    fn fma(self, a: __m256, b: __m256, c: __m256) -> __m256 {
        proven!(_mm256_fmadd_ps(a, b, c))
    }
}

impl Dots for Avx512 {
    const LANES: usize = 16;
    const TILE: usize = 8;
    type B = __m512i;
    type I = __m512i;
    type F = __m512;

    #[inline(always)]
    fn fetch(self, line: &[u8; 64]) {
        proven!(_mm_prefetch::<_MM_HINT_T1>(line.as_ptr().cast()));
    }
    #[inline(always)]
    fn bytes(self, line: &[u8; 64], _: usize) -> __m512i {
        proven!(_mm512_loadu_si512(line.as_ptr().cast()))
    }
    #[inline(always)]
    fn put_bytes(self, v: __m512i, line: &mut [u8; 64], _: usize) {
        proven!(_mm512_storeu_si512(line.as_mut_ptr().cast(), v));
    }
    #[inline(always)]
    fn shift_right(self, v: __m512i, by: i32) -> __m512i {
        proven!(shift!(v, by, _mm512_slli_epi16, _mm512_srli_epi16))
    }
    #[inline(always)]
    fn mask(self, v: __m512i, mask: u8) -> __m512i {
        proven!(_mm512_and_si512(v, _mm512_set1_epi8(mask.cast_signed())))
    }
    #[inline(always)]
    fn or(self, a: __m512i, b: __m512i) -> __m512i {
        proven!(_mm512_or_si512(a, b))
    }
    #[inline(always)]
    fn less(self, v: __m512i, by: u8) -> __m512i {
        proven!(_mm512_sub_epi8(v, _mm512_set1_epi8(by.cast_signed())))
    }
    #[inline(always)]
    fn lookup(self, table: &[u8; 16], v: __m512i) -> __m512i {
        proven!({
            let table = _mm512_broadcast_i32x4(_mm_loadu_si128(table.as_ptr().cast()));
            _mm512_shuffle_epi8(table, v)
        })
    }
    #[inline(always)]
    fn start(self, v: i32) -> __m512i {
        proven!(_mm512_set1_epi32(v))
    }
    #[inline(always)]
    fn dot(self, sum: __m512i, w: __m512i, x: i32) -> __m512i {
        proven!(_mm512_dpbusd_epi32(sum, w, _mm512_set1_epi32(x)))
    }
    #[inline(always)]
    fn fold(self, sum: __m512i) -> __m512i {
        sum
    }
    #[inline(always)]
    fn start_wide(self, v: i32) -> __m512i {
        self.start(v)
    }
    #[inline(always)]
    fn dot_wide(self, sum: __m512i, w: __m512i, x: i32) -> __m512i {
        self.dot(sum, w, x)
    }
    #[inline(always)]
    fn float(self, sum: __m512i) -> __m512 {
        proven!(_mm512_cvtepi32_ps(sum))
    }
    #[inline(always)]
    fn splat(self, v: f32) -> __m512 {
        proven!(_mm512_set1_ps(v))
    }
    #[inline(always)]
    fn load(self, v: &[f32; 16], _: usize) -> __m512 {
        proven!(_mm512_loadu_ps(v.as_ptr()))
    }
    #[inline(always)]
    fn store(self, v: __m512, to: &mut [f32; 16], _: usize) {
        proven!(_mm512_storeu_ps(to.as_mut_ptr(), v));
    }
    #[inline(always)]
    fn halves(self, v: &[u8; 32], _: usize) -> __m512 {
        proven!(_mm512_cvtph_ps(_mm256_loadu_si256(v.as_ptr().cast())))
    }
    #[inline(always)]
    fn signed(self, v: &[u8; 16], _: usize) -> __m512 {
        proven!(_mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(_mm_loadu_si128(v.as_ptr().cast()))))
    }
    #[inline(always)]
    fn unsigned(self, v: &[u8; 16], _: usize) -> __m512 {
        proven!(_mm512_cvtepi32_ps(_mm512_cvtepu8_epi32(_mm_loadu_si128(v.as_ptr().cast()))))
    }
    #[inline(always)]
    fn negated(self, v: __m512) -> __m512 {
        proven!(_mm512_xor_ps(v, _mm512_set1_ps(-0.0)))
    }
    #[inline(always)]
    fn mul(self, a: __m512, b: __m512) -> __m512 {
        proven!(_mm512_mul_ps(a, b))
    }
    #[inline(always)]
    fn fma(self, a: __m512, b: __m512, c: __m512) -> __m512 {
        proven!(_mm512_fmadd_ps(a, b, c))
    }
}
