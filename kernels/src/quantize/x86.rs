//! [`Lanes`] in AVX2 (eight) and AVX-512 (sixteen).
//!
//! Values of these types exist only inside `encode_avx2` and `encode_avx512`, which are reached
//! only on machines with the features: that is what makes every intrinsic below sound.

use std::arch::x86_64::*;
use std::ops::{Add, Div, Mul, Sub};

use super::lanes::{IQ4_BOUNDS, Lanes, Pair, ROUNDER};
use crate::blocks::IQ4_VALUES;

/// Eight lanes of AVX2.
#[derive(Clone, Copy)]
pub(super) struct Avx2(__m256);

/// Sixteen lanes of AVX-512 (F and DQ).
#[derive(Clone, Copy)]
pub(super) struct Avx512(__m512);

macro_rules! operators {
    ($ty:ident: $($trait:ident $method:ident $intrinsic:ident)*) => {$(
        impl $trait for $ty {
            type Output = $ty;
            #[inline(always)]
            fn $method(self, other: $ty) -> $ty {
                // SAFETY: the features are there (see the top of the file).
                $ty(unsafe { $intrinsic(self.0, other.0) })
            }
        }
    )*};
}
operators! { Avx2: Add add _mm256_add_ps Sub sub _mm256_sub_ps Mul mul _mm256_mul_ps Div div _mm256_div_ps }
operators! { Avx512: Add add _mm512_add_ps Sub sub _mm512_sub_ps Mul mul _mm512_mul_ps Div div _mm512_div_ps }

/// Entry `i` at `-i` modulo 8: the AVX2 search for a level counts downwards from 0, since a true
/// comparison is -1.
const fn mirrored(first: usize, stride: usize, count: usize) -> [f32; 8] {
    let mut table = [0.0; 8];
    let mut i = 0;
    while i < count {
        table[(8 - i) % 8] = IQ4_BOUNDS[first + stride * i];
        i += 1;
    }
    table
}

/// The bounds that each step of a binary search over the fifteen compares with.
const STEPS: [[f32; 8]; 3] = [mirrored(3, 8, 2), mirrored(1, 4, 4), mirrored(0, 2, 8)];

/// Both halves of [`IQ4_VALUES`], entry `i` at `-i` modulo 8.
const HALVES: [[f32; 8]; 2] = {
    let mut halves = [[0.0; 8]; 2];
    let mut i = 0;
    while i < 16 {
        halves[i / 8][(16 - i) % 8] = IQ4_VALUES[i] as f32;
        i += 1;
    }
    halves
};

impl Lanes for Avx2 {
    const COUNT: usize = 8;
    type Mask = __m256;
    type Wide = Pair<Avx2>;

    #[inline(always)]
    fn splat(value: f32) -> Self {
        // SAFETY: the features are there (see the top of the file); so for every block here that
        // does not say more.
        Avx2(unsafe { _mm256_set1_ps(value) })
    }
    #[inline(always)]
    fn load(values: &[f32]) -> Self {
        let values = &values[..8];
        // SAFETY: eight values are there.
        Avx2(unsafe { _mm256_loadu_ps(values.as_ptr()) })
    }
    #[inline(always)]
    fn store(self, out: &mut [f32]) {
        let out = &mut out[..8];
        // SAFETY: room for eight values is there.
        unsafe { _mm256_storeu_ps(out.as_mut_ptr(), self.0) }
    }
    #[inline(always)]
    fn abs(self) -> Self {
        // SAFETY: as in `splat`.
        Avx2(unsafe { _mm256_andnot_ps(_mm256_set1_ps(-0.0), self.0) })
    }
    #[inline(always)]
    fn sqrt(self) -> Self {
        // SAFETY: as in `splat`.
        Avx2(unsafe { _mm256_sqrt_ps(self.0) })
    }
    #[inline(always)]
    fn lesser(self, other: Self) -> Self {
        // SAFETY: as in `splat`. The instruction gives its second operand for NaN and equals.
        Avx2(unsafe { _mm256_min_ps(self.0, other.0) })
    }
    #[inline(always)]
    fn greater(self, other: Self) -> Self {
        // SAFETY: as in `lesser`.
        Avx2(unsafe { _mm256_max_ps(self.0, other.0) })
    }
    #[inline(always)]
    fn below(self, other: Self) -> __m256 {
        // SAFETY: as in `splat`.
        unsafe { _mm256_cmp_ps::<_CMP_LT_OQ>(self.0, other.0) }
    }
    #[inline(always)]
    fn equal(self, other: Self) -> __m256 {
        // SAFETY: as in `splat`.
        unsafe { _mm256_cmp_ps::<_CMP_EQ_OQ>(self.0, other.0) }
    }
    #[inline(always)]
    fn both(a: __m256, b: __m256) -> __m256 {
        // SAFETY: as in `splat`.
        unsafe { _mm256_and_ps(a, b) }
    }
    #[inline(always)]
    fn but_not(a: __m256, b: __m256) -> __m256 {
        // SAFETY: as in `splat`.
        unsafe { _mm256_andnot_ps(b, a) }
    }
    #[inline(always)]
    fn select(mask: __m256, yes: Self, no: Self) -> Self {
        // SAFETY: as in `splat`.
        Avx2(unsafe { _mm256_blendv_ps(no.0, yes.0, mask) })
    }
    #[inline(always)]
    fn any(mask: __m256) -> bool {
        // SAFETY: as in `splat`.
        unsafe { _mm256_movemask_ps(mask) != 0 }
    }
    #[inline(always)]
    fn all(mask: __m256) -> bool {
        // SAFETY: as in `splat`.
        unsafe { _mm256_movemask_ps(mask) == 0xff }
    }
    #[inline(always)]
    fn nearest(self) -> Self {
        let sum = self + Self::splat(ROUNDER);
        // SAFETY: as in `splat`.
        Avx2(unsafe {
            let bits = _mm256_and_si256(_mm256_castps_si256(sum.0), _mm256_set1_epi32(0x7f_ffff));
            _mm256_cvtepi32_ps(_mm256_sub_epi32(bits, _mm256_set1_epi32(0x40_0000)))
        })
    }
    #[inline(always)]
    fn nearest_within(self, low: i32, high: i32) -> Self {
        let sum = self + Self::splat(ROUNDER);
        // SAFETY: as in `splat`.
        Avx2(unsafe {
            let bits = _mm256_and_si256(_mm256_castps_si256(sum.0), _mm256_set1_epi32(0x7f_ffff));
            let nearest = _mm256_sub_epi32(bits, _mm256_set1_epi32(0x40_0000));
            let above = _mm256_max_epi32(nearest, _mm256_set1_epi32(low));
            _mm256_cvtepi32_ps(_mm256_min_epi32(above, _mm256_set1_epi32(high)))
        })
    }
    #[inline(always)]
    fn low_byte(self) -> Self {
        // SAFETY: as in `splat`.
        Avx2(unsafe {
            let bytes = _mm256_and_si256(_mm256_cvttps_epi32(self.0), _mm256_set1_epi32(0xff));
            _mm256_cvtepi32_ps(bytes)
        })
    }
    #[inline(always)]
    fn nearest_iq4(self) -> (Self, Self) {
        // SAFETY: as in `splat`.
        unsafe {
            let not_below = |bound| _mm256_castps_si256(_mm256_cmp_ps::<_CMP_NLT_UQ>(self.0, bound));
            let upper = not_below(_mm256_set1_ps(IQ4_BOUNDS[7]));
            let mut minus_index = upper;
            for step in &STEPS {
                let bound = _mm256_permutevar8x32_ps(Self::load(step).0, minus_index);
                minus_index = _mm256_add_epi32(_mm256_add_epi32(minus_index, minus_index), not_below(bound));
            }
            let value = |half: usize| _mm256_permutevar8x32_ps(Self::load(&HALVES[half][..]).0, minus_index);
            let value = _mm256_blendv_ps(value(0), value(1), _mm256_castsi256_ps(upper));
            let index = _mm256_cvtepi32_ps(_mm256_sub_epi32(_mm256_setzero_si256(), minus_index));
            (Avx2(index), Avx2(value))
        }
    }
    #[inline(always)]
    fn transpose<const LEN: usize>(sub_blocks: &[f32], out: &mut [Self; LEN]) {
        let sub_blocks = &sub_blocks[..8 * LEN];
        for at in (0..LEN).step_by(8) {
            let row = |i: usize| Self::load(&sub_blocks[i * LEN + at..]).0;
            // SAFETY: as in `splat`.
            let columns =
                unsafe { transpose_8x8([row(0), row(1), row(2), row(3), row(4), row(5), row(6), row(7)]) };
            for i in 0..8 {
                out[at + i] = Avx2(columns[i]);
            }
        }
    }
}

/// # Safety
/// The machine must have AVX.
#[inline(always)]
unsafe fn transpose_8x8(r: [__m256; 8]) -> [__m256; 8] {
    // SAFETY: the caller's promise.
    unsafe {
        // Pairs of rows interleaved, then fours, then the 128-bit halves put together.
        let low = |i: usize| _mm256_unpacklo_ps(r[i], r[i + 1]);
        let high = |i: usize| _mm256_unpackhi_ps(r[i], r[i + 1]);
        let p = [low(0), high(0), low(2), high(2), low(4), high(4), low(6), high(6)];
        let even = |i: usize| _mm256_shuffle_ps::<0b01_00_01_00>(p[i], p[i + 2]);
        let odd = |i: usize| _mm256_shuffle_ps::<0b11_10_11_10>(p[i], p[i + 2]);
        let q = [even(0), odd(0), even(1), odd(1), even(4), odd(4), even(5), odd(5)];
        let front = |i: usize| _mm256_permute2f128_ps::<0x20>(q[i], q[i + 4]);
        let back = |i: usize| _mm256_permute2f128_ps::<0x31>(q[i], q[i + 4]);
        [front(0), front(1), front(2), front(3), back(0), back(1), back(2), back(3)]
    }
}

impl Lanes for Avx512 {
    const COUNT: usize = 16;
    type Mask = __mmask16;
    type Wide = Pair<Avx512>;

    #[inline(always)]
    fn splat(value: f32) -> Self {
        // SAFETY: as in `Avx2::splat`; so for every block here that does not say more.
        Avx512(unsafe { _mm512_set1_ps(value) })
    }
    #[inline(always)]
    fn load(values: &[f32]) -> Self {
        let values = &values[..16];
        // SAFETY: sixteen values are there.
        Avx512(unsafe { _mm512_loadu_ps(values.as_ptr()) })
    }
    #[inline(always)]
    fn store(self, out: &mut [f32]) {
        let out = &mut out[..16];
        // SAFETY: room for sixteen values is there.
        unsafe { _mm512_storeu_ps(out.as_mut_ptr(), self.0) }
    }
    #[inline(always)]
    fn abs(self) -> Self {
        // SAFETY: as in `splat`.
        Avx512(unsafe { _mm512_abs_ps(self.0) })
    }
    #[inline(always)]
    fn sqrt(self) -> Self {
        // SAFETY: as in `splat`.
        Avx512(unsafe { _mm512_sqrt_ps(self.0) })
    }
    #[inline(always)]
    fn lesser(self, other: Self) -> Self {
        // SAFETY: as in `splat`. The instruction gives its second operand for NaN and equals.
        Avx512(unsafe { _mm512_min_ps(self.0, other.0) })
    }
    #[inline(always)]
    fn greater(self, other: Self) -> Self {
        // SAFETY: as in `lesser`.
        Avx512(unsafe { _mm512_max_ps(self.0, other.0) })
    }
    #[inline(always)]
    fn below(self, other: Self) -> __mmask16 {
        // SAFETY: as in `splat`.
        unsafe { _mm512_cmp_ps_mask::<_CMP_LT_OQ>(self.0, other.0) }
    }
    #[inline(always)]
    fn equal(self, other: Self) -> __mmask16 {
        // SAFETY: as in `splat`.
        unsafe { _mm512_cmp_ps_mask::<_CMP_EQ_OQ>(self.0, other.0) }
    }
    #[inline(always)]
    fn both(a: __mmask16, b: __mmask16) -> __mmask16 {
        a & b
    }
    #[inline(always)]
    fn but_not(a: __mmask16, b: __mmask16) -> __mmask16 {
        a & !b
    }
    #[inline(always)]
    fn select(mask: __mmask16, yes: Self, no: Self) -> Self {
        // SAFETY: as in `splat`.
        Avx512(unsafe { _mm512_mask_blend_ps(mask, no.0, yes.0) })
    }
    #[inline(always)]
    fn any(mask: __mmask16) -> bool {
        mask != 0
    }
    #[inline(always)]
    fn all(mask: __mmask16) -> bool {
        mask == 0xffff
    }
    #[inline(always)]
    fn nearest(self) -> Self {
        let sum = self + Self::splat(ROUNDER);
        // SAFETY: as in `splat`.
        Avx512(unsafe {
            let bits = _mm512_and_si512(_mm512_castps_si512(sum.0), _mm512_set1_epi32(0x7f_ffff));
            _mm512_cvtepi32_ps(_mm512_sub_epi32(bits, _mm512_set1_epi32(0x40_0000)))
        })
    }
    #[inline(always)]
    fn nearest_within(self, low: i32, high: i32) -> Self {
        let sum = self + Self::splat(ROUNDER);
        // SAFETY: as in `splat`.
        Avx512(unsafe {
            let bits = _mm512_and_si512(_mm512_castps_si512(sum.0), _mm512_set1_epi32(0x7f_ffff));
            let nearest = _mm512_sub_epi32(bits, _mm512_set1_epi32(0x40_0000));
            let above = _mm512_max_epi32(nearest, _mm512_set1_epi32(low));
            _mm512_cvtepi32_ps(_mm512_min_epi32(above, _mm512_set1_epi32(high)))
        })
    }
    #[inline(always)]
    fn low_byte(self) -> Self {
        // SAFETY: as in `splat`.
        Avx512(unsafe {
            let bytes = _mm512_and_si512(_mm512_cvttps_epi32(self.0), _mm512_set1_epi32(0xff));
            _mm512_cvtepi32_ps(bytes)
        })
    }
    #[inline(always)]
    fn nearest_iq4(self) -> (Self, Self) {
        const BOUNDS: [f32; 16] = {
            let mut bounds = [0.0; 16];
            let mut k = 0;
            while k < 15 {
                bounds[k] = IQ4_BOUNDS[k];
                k += 1;
            }
            bounds
        };
        const VALUES: [f32; 16] = {
            let mut values = [0.0; 16];
            let mut k = 0;
            while k < 16 {
                values[k] = IQ4_VALUES[k] as f32;
                k += 1;
            }
            values
        };
        let bounds = Self::load(&BOUNDS).0;
        // SAFETY: as in `splat`.
        unsafe {
            let mut index = _mm512_setzero_si512();
            for step in [8, 4, 2, 1] {
                let at = _mm512_add_epi32(index, _mm512_set1_epi32(step - 1));
                let bound = _mm512_permutexvar_ps(at, bounds);
                let up = _mm512_cmp_ps_mask::<_CMP_NLT_UQ>(self.0, bound);
                index = _mm512_mask_add_epi32(index, up, index, _mm512_set1_epi32(step));
            }
            let value = _mm512_permutexvar_ps(index, Self::load(&VALUES).0);
            (Avx512(_mm512_cvtepi32_ps(index)), Avx512(value))
        }
    }
    #[inline(always)]
    fn transpose<const LEN: usize>(sub_blocks: &[f32], out: &mut [Self; LEN]) {
        let sub_blocks = &sub_blocks[..16 * LEN];
        for at in (0..LEN).step_by(8) {
            let row = |i: usize| Avx2::load(&sub_blocks[i * LEN + at..]).0;
            // SAFETY: as in `splat`.
            unsafe {
                let front = transpose_8x8([row(0), row(1), row(2), row(3), row(4), row(5), row(6), row(7)]);
                let back =
                    transpose_8x8([row(8), row(9), row(10), row(11), row(12), row(13), row(14), row(15)]);
                for i in 0..8 {
                    out[at + i] = Avx512(_mm512_insertf32x8::<1>(_mm512_castps256_ps512(front[i]), back[i]));
                }
            }
        }
    }
}
