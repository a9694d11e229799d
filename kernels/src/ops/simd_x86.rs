//! The lanes on x86-64: two 256-bit registers with AVX2, one of 512 bits with AVX-512.

use std::arch::x86_64::*;

use super::Simd;
use crate::Level;

/// Proof that the machine has AVX2, FMA and F16C.
#[derive(Clone, Copy)]
pub(in crate::ops) struct Avx2(());

/// Proof that the machine has AVX-512 F, BW, VL, DQ and VNNI, and all of [`Avx2`]; with `BF16`, AVX-512 BF16 too.
#[derive(Clone, Copy)]
pub(in crate::ops) struct Avx512<const BF16: bool = false>(());

impl Avx2 {
    /// # Safety
    /// The machine has AVX2, FMA and F16C.
    #[inline(always)]
    pub(in crate::ops) unsafe fn assume() -> Avx2 {
        Avx2(())
    }
}

impl Avx512 {
    /// # Safety
    /// The machine has AVX-512 F, BW, VL, DQ and VNNI, AVX2, FMA and F16C.
    #[inline(always)]
    pub(in crate::ops) unsafe fn assume() -> Avx512 {
        Avx512(())
    }
}

impl Avx512<true> {
    /// The proof, where the machine has all of it and `level` does not forbid it.
    pub(in crate::ops) fn available(level: Level) -> Option<Avx512<true>> {
        let has = crate::ops::available(level) >= Level::Avx512Vnni && is_x86_feature_detected!("avx512bf16");
        has.then_some(Avx512(()))
    }

    /// In each lane, of pairs of bfloat16: the product of the high halves is added to `sum`, then that of the low
    /// ones, each in one fused multiply-add, with denormals as zeros.
    #[inline(always)]
    pub(in crate::ops) fn dot_bf16(self, a: __m512, b: __m512, sum: __m512) -> __m512 {
        // SAFETY: the token is proof of the instruction. The types are 64 bytes of which any are valid.
        unsafe {
            let [a, b] = [a, b].map(|v| std::mem::transmute::<__m512, __m512bh>(v));
            _mm512_dpbf16_ps(sum, a, b)
        }
    }

    /// Rounds to bfloat16 as [`Simd::round_bf16`] does what is no denormal: the first value is the low half of the
    /// first lane, the second the high half.
    #[inline(always)]
    pub(in crate::ops) fn store_bf16(self, first: __m512, last: __m512, to: &mut [f32; 16]) {
        // SAFETY: as above.
        let pairs = unsafe { std::mem::transmute::<__m512bh, __m512>(_mm512_cvtne2ps_pbh(last, first)) };
        self.store(pairs, to);
    }
}

/// An expression of intrinsics that the token `self` allows.
macro_rules! proven {
    ($e:expr) => {
        // SAFETY: a token exists only where the instruction set does (`assume`), and every
        // pointer is to an array as long as the access.
        unsafe { $e }
    };
}
pub(in crate::ops) use proven;

/// An expression for each of two halves. No closure: one would not have the target feature.
macro_rules! halves {
    ($v:ident in $pair:expr => $e:expr) => {{
        let pair = $pair;
        [
            {
                let $v = pair[0];
                $e
            },
            {
                let $v = pair[1];
                $e
            },
        ]
    }};
}

/// The sum or maximum of eight lanes: i and i + 4, i + 2, i + 1.
macro_rules! tree8 {
    ($v:expr, $op4:ident, $op1:ident) => {{
        let v = $v;
        let v = $op4(_mm256_castps256_ps128(v), _mm256_extractf128_ps::<1>(v));
        let v = $op4(v, _mm_movehl_ps(v, v));
        _mm_cvtss_f32($op1(v, _mm_shuffle_ps::<1>(v, v)))
    }};
}

/// The sum of sixteen int8.
macro_rules! sum_i8 {
    ($bytes:expr) => {{
        // Sums of absolute differences are of unsigned bytes: 128 more each.
        let unsigned = _mm_xor_si128($bytes, _mm_set1_epi8(-128));
        let sums = _mm_sad_epu8(unsigned, _mm_setzero_si128());
        (_mm_cvtsi128_si32(_mm_add_epi32(sums, _mm_unpackhi_epi64(sums, sums))) - 16 * 128) as i16
    }};
}

/// [`Simd::interleave_2`] in 128 bits, which every x86-64 has: pairs, fours, then eights of rows.
#[inline(always)]
fn interleave_2(rows: [&[u8; 16]; 8], to: &mut [[[u8; 16]; 2]; 8], at: usize) {
    proven!({
        let row = rows.map(|row| _mm_loadu_si128(row.as_ptr().cast()));
        let mut fours = [_mm_setzero_si128(); 8];
        for half in 0..2 {
            let r = 4 * half;
            let low = [_mm_unpacklo_epi16(row[r], row[r + 1]), _mm_unpacklo_epi16(row[r + 2], row[r + 3])];
            let high = [_mm_unpackhi_epi16(row[r], row[r + 1]), _mm_unpackhi_epi16(row[r + 2], row[r + 3])];
            fours[half] = _mm_unpacklo_epi32(low[0], low[1]);
            fours[2 + half] = _mm_unpackhi_epi32(low[0], low[1]);
            fours[4 + half] = _mm_unpacklo_epi32(high[0], high[1]);
            fours[6 + half] = _mm_unpackhi_epi32(high[0], high[1]);
        }
        for k in 0..4 {
            let (a, b) = (fours[2 * k], fours[2 * k + 1]);
            _mm_storeu_si128(to[2 * k][at].as_mut_ptr().cast(), _mm_unpacklo_epi64(a, b));
            _mm_storeu_si128(to[2 * k + 1][at].as_mut_ptr().cast(), _mm_unpackhi_epi64(a, b));
        }
    });
}

/// [`Simd::interleave_4`] likewise.
#[inline(always)]
fn interleave_4(rows: [&[u8; 16]; 4], to: &mut [[[u8; 16]; 4]; 4], at: usize) {
    proven!({
        let row = rows.map(|row| _mm_loadu_si128(row.as_ptr().cast()));
        let low = [_mm_unpacklo_epi32(row[0], row[1]), _mm_unpacklo_epi32(row[2], row[3])];
        let high = [_mm_unpackhi_epi32(row[0], row[1]), _mm_unpackhi_epi32(row[2], row[3])];
        for (k, [a, b]) in [low, high].into_iter().enumerate() {
            _mm_storeu_si128(to[2 * k][at].as_mut_ptr().cast(), _mm_unpacklo_epi64(a, b));
            _mm_storeu_si128(to[2 * k + 1][at].as_mut_ptr().cast(), _mm_unpackhi_epi64(a, b));
        }
    });
}

impl Simd for Avx2 {
    type F = [__m256; 2];
    const WIDE_TILE: bool = false;
    const REGISTERS: usize = 16;

    #[inline(always)]
    fn splat(self, v: f32) -> Self::F {
        proven!([_mm256_set1_ps(v); 2])
    }
    #[inline(always)]
    fn load(self, v: &[f32; 16]) -> Self::F {
        proven!([_mm256_loadu_ps(v.as_ptr()), _mm256_loadu_ps(v.as_ptr().add(8))])
    }
    #[inline(always)]
    fn load_f32(self, v: &[u8; 64]) -> Self::F {
        proven!([_mm256_loadu_ps(v.as_ptr().cast()), _mm256_loadu_ps(v.as_ptr().add(32).cast())])
    }
    #[inline(always)]
    fn load_f16(self, v: &[u8; 32]) -> Self::F {
        proven!([
            _mm256_cvtph_ps(_mm_loadu_si128(v.as_ptr().cast())),
            _mm256_cvtph_ps(_mm_loadu_si128(v.as_ptr().add(16).cast())),
        ])
    }
    #[inline(always)]
    fn load_i8(self, v: &[u8; 16]) -> Self::F {
        proven!(halves!(at in [0, 8] => {
            let bytes = _mm_loadl_epi64(v.as_ptr().add(at).cast());
            _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(bytes))
        }))
    }
    #[inline(always)]
    fn load_low(self, v: &[u8; 16]) -> Self::F {
        proven!(halves!(at in [0, 8] => {
            let bytes = _mm_loadl_epi64(v.as_ptr().add(at).cast());
            let bytes = _mm_and_si128(bytes, _mm_set1_epi8(15));
            _mm256_cvtepi32_ps(_mm256_cvtepu8_epi32(bytes))
        }))
    }
    #[inline(always)]
    fn load_high(self, v: &[u8; 16]) -> Self::F {
        proven!(halves!(at in [0, 8] => {
            let bytes = _mm_loadl_epi64(v.as_ptr().add(at).cast());
            let bytes = _mm_and_si128(_mm_srli_epi16::<4>(bytes), _mm_set1_epi8(15));
            _mm256_cvtepi32_ps(_mm256_cvtepu8_epi32(bytes))
        }))
    }
    #[inline(always)]
    fn low_bf16(self, v: Self::F) -> Self::F {
        proven!(halves!(v in v => _mm256_castsi256_ps(_mm256_slli_epi32::<16>(_mm256_castps_si256(v)))))
    }
    #[inline(always)]
    fn high_bf16(self, v: Self::F) -> Self::F {
        proven!(halves!(v in v => {
            _mm256_and_ps(v, _mm256_castsi256_ps(_mm256_set1_epi32(0xffff_0000u32 as i32)))
        }))
    }
    #[inline(always)]
    fn round_bf16(self, v: Self::F) -> Self::F {
        let rounded = proven!(halves!(v in v => {
            let bits = _mm256_castps_si256(v);
            let odd = _mm256_and_si256(_mm256_srli_epi32::<16>(bits), _mm256_set1_epi32(1));
            let rounded = _mm256_add_epi32(bits, _mm256_add_epi32(odd, _mm256_set1_epi32(0x7fff)));
            let quiet = _mm256_or_ps(v, _mm256_castsi256_ps(_mm256_set1_epi32(0x40_0000)));
            _mm256_blendv_ps(_mm256_castsi256_ps(rounded), quiet, _mm256_cmp_ps::<_CMP_UNORD_Q>(v, v))
        }));
        self.high_bf16(rounded)
    }
    #[inline(always)]
    fn store(self, v: Self::F, to: &mut [f32; 16]) {
        proven!({
            _mm256_storeu_ps(to.as_mut_ptr(), v[0]);
            _mm256_storeu_ps(to.as_mut_ptr().add(8), v[1]);
        });
    }
    #[inline(always)]
    fn store_f16(self, v: Self::F, to: &mut [u16; 16]) {
        proven!({
            _mm_storeu_si128(to.as_mut_ptr().cast(), _mm256_cvtps_ph::<_MM_FROUND_TO_NEAREST_INT>(v[0]));
            _mm_storeu_si128(
                to.as_mut_ptr().add(8).cast(),
                _mm256_cvtps_ph::<_MM_FROUND_TO_NEAREST_INT>(v[1]),
            );
        });
    }
    #[inline(always)]
    fn add(self, a: Self::F, b: Self::F) -> Self::F {
        proven!([_mm256_add_ps(a[0], b[0]), _mm256_add_ps(a[1], b[1])])
    }
    #[inline(always)]
    fn sub(self, a: Self::F, b: Self::F) -> Self::F {
        proven!([_mm256_sub_ps(a[0], b[0]), _mm256_sub_ps(a[1], b[1])])
    }
    #[inline(always)]
    fn mul(self, a: Self::F, b: Self::F) -> Self::F {
        proven!([_mm256_mul_ps(a[0], b[0]), _mm256_mul_ps(a[1], b[1])])
    }
    #[inline(always)]
    fn div(self, a: Self::F, b: Self::F) -> Self::F {
        proven!([_mm256_div_ps(a[0], b[0]), _mm256_div_ps(a[1], b[1])])
    }
    #[inline(always)]
    fn fma(self, a: Self::F, b: Self::F, c: Self::F) -> Self::F {
        proven!([_mm256_fmadd_ps(a[0], b[0], c[0]), _mm256_fmadd_ps(a[1], b[1], c[1])])
    }
    #[inline(always)]
    fn max(self, a: Self::F, b: Self::F) -> Self::F {
        proven!([_mm256_max_ps(a[0], b[0]), _mm256_max_ps(a[1], b[1])])
    }
    #[inline(always)]
    fn min(self, a: Self::F, b: Self::F) -> Self::F {
        proven!([_mm256_min_ps(a[0], b[0]), _mm256_min_ps(a[1], b[1])])
    }
    #[inline(always)]
    fn abs(self, a: Self::F) -> Self::F {
        proven!(halves!(v in a => _mm256_andnot_ps(_mm256_set1_ps(-0.0), v)))
    }
    #[inline(always)]
    fn pow2(self, n: Self::F) -> Self::F {
        proven!(halves!(n in n => {
            let exponent = _mm256_add_epi32(_mm256_cvtps_epi32(n), _mm256_set1_epi32(127));
            _mm256_castsi256_ps(_mm256_slli_epi32::<23>(exponent))
        }))
    }
    #[inline(always)]
    fn store_i8(self, v: Self::F, to: &mut [i8; 16]) -> i16 {
        proven!({
            let words = _mm256_packs_epi32(_mm256_cvtps_epi32(v[0]), _mm256_cvtps_epi32(v[1]));
            let words = _mm256_permute4x64_epi64::<0b11_01_10_00>(words);
            let bytes = _mm_packs_epi16(_mm256_castsi256_si128(words), _mm256_extracti128_si256::<1>(words));
            _mm_storeu_si128(to.as_mut_ptr().cast(), bytes);
            sum_i8!(bytes)
        })
    }
    #[inline(always)]
    fn greatest_bits(self, a: Self::F, b: Self::F) -> u32 {
        proven!({
            let [a, b] = [self.abs(a), self.abs(b)];
            let a = _mm256_max_epu32(_mm256_castps_si256(a[0]), _mm256_castps_si256(a[1]));
            let b = _mm256_max_epu32(_mm256_castps_si256(b[0]), _mm256_castps_si256(b[1]));
            let v = _mm256_max_epu32(a, b);
            let v = _mm_max_epu32(_mm256_castsi256_si128(v), _mm256_extracti128_si256::<1>(v));
            let v = _mm_max_epu32(v, _mm_unpackhi_epi64(v, v));
            _mm_cvtsi128_si32(_mm_max_epu32(v, _mm_shuffle_epi32::<1>(v))) as u32
        })
    }
    #[inline(always)]
    fn sum(self, v: Self::F) -> f32 {
        proven!(tree8!(_mm256_add_ps(v[0], v[1]), _mm_add_ps, _mm_add_ss))
    }
    #[inline(always)]
    fn greatest(self, v: Self::F) -> f32 {
        proven!(tree8!(_mm256_max_ps(v[0], v[1]), _mm_max_ps, _mm_max_ss))
    }
    #[inline(always)]
    fn exponent(self, v: Self::F) -> Self::F {
        proven!(halves!(v in v => _mm256_castsi256_ps(_mm256_slli_epi32::<23>(_mm256_castps_si256(v)))))
    }
    #[inline(always)]
    fn prefetch<T>(self, at: &T) {
        proven!(_mm_prefetch::<_MM_HINT_T0>(std::ptr::from_ref(at).cast()));
    }
    #[inline(always)]
    fn interleave_2(self, rows: [&[u8; 16]; 8], to: &mut [[[u8; 16]; 2]; 8], at: usize) {
        interleave_2(rows, to, at);
    }
    #[inline(always)]
    fn interleave_4(self, rows: [&[u8; 16]; 4], to: &mut [[[u8; 16]; 4]; 4], at: usize) {
        interleave_4(rows, to, at);
    }
    #[inline(always)]
    fn zero_below(self, v: Self::F, x: Self::F, low: Self::F) -> Self::F {
        proven!([
            _mm256_and_ps(_mm256_cmp_ps::<_CMP_NLT_UQ>(x[0], low[0]), v[0]),
            _mm256_and_ps(_mm256_cmp_ps::<_CMP_NLT_UQ>(x[1], low[1]), v[1]),
        ])
    }
}

impl<const BF16: bool> Simd for Avx512<BF16> {
    type F = __m512;
    const WIDE_TILE: bool = true;
    const REGISTERS: usize = 32;

    #[inline(always)]
    fn splat(self, v: f32) -> __m512 {
        proven!(_mm512_set1_ps(v))
    }
    #[inline(always)]
    fn load(self, v: &[f32; 16]) -> __m512 {
        proven!(_mm512_loadu_ps(v.as_ptr()))
    }
    #[inline(always)]
    fn load_f32(self, v: &[u8; 64]) -> __m512 {
        proven!(_mm512_loadu_ps(v.as_ptr().cast()))
    }
    #[inline(always)]
    fn load_f16(self, v: &[u8; 32]) -> __m512 {
        proven!(_mm512_cvtph_ps(_mm256_loadu_si256(v.as_ptr().cast())))
    }
    #[inline(always)]
    fn load_i8(self, v: &[u8; 16]) -> __m512 {
        proven!(_mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(_mm_loadu_si128(v.as_ptr().cast()))))
    }
    #[inline(always)]
    fn load_low(self, v: &[u8; 16]) -> __m512 {
        proven!({
            let bytes = _mm_and_si128(_mm_loadu_si128(v.as_ptr().cast()), _mm_set1_epi8(15));
            _mm512_cvtepi32_ps(_mm512_cvtepu8_epi32(bytes))
        })
    }
    #[inline(always)]
    fn load_high(self, v: &[u8; 16]) -> __m512 {
        proven!({
            let bytes = _mm_srli_epi16::<4>(_mm_loadu_si128(v.as_ptr().cast()));
            let bytes = _mm_and_si128(bytes, _mm_set1_epi8(15));
            _mm512_cvtepi32_ps(_mm512_cvtepu8_epi32(bytes))
        })
    }
    #[inline(always)]
    fn low_bf16(self, v: __m512) -> __m512 {
        proven!(_mm512_castsi512_ps(_mm512_slli_epi32::<16>(_mm512_castps_si512(v))))
    }
    #[inline(always)]
    fn high_bf16(self, v: __m512) -> __m512 {
        proven!(_mm512_and_ps(v, _mm512_castsi512_ps(_mm512_set1_epi32(0xffff_0000u32 as i32))))
    }
    #[inline(always)]
    fn round_bf16(self, v: __m512) -> __m512 {
        let rounded = proven!({
            let bits = _mm512_castps_si512(v);
            let odd = _mm512_and_si512(_mm512_srli_epi32::<16>(bits), _mm512_set1_epi32(1));
            let rounded = _mm512_add_epi32(bits, _mm512_add_epi32(odd, _mm512_set1_epi32(0x7fff)));
            let nan = _mm512_cmp_ps_mask::<_CMP_UNORD_Q>(v, v);
            _mm512_castsi512_ps(_mm512_mask_or_epi32(rounded, nan, bits, _mm512_set1_epi32(0x40_0000)))
        });
        self.high_bf16(rounded)
    }
    #[inline(always)]
    fn store(self, v: __m512, to: &mut [f32; 16]) {
        proven!(_mm512_storeu_ps(to.as_mut_ptr(), v));
    }
    #[inline(always)]
    fn store_f16(self, v: __m512, to: &mut [u16; 16]) {
        proven!(_mm256_storeu_si256(
            to.as_mut_ptr().cast(),
            _mm512_cvtps_ph::<{ _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC }>(v),
        ));
    }
    #[inline(always)]
    fn add(self, a: __m512, b: __m512) -> __m512 {
        proven!(_mm512_add_ps(a, b))
    }
    #[inline(always)]
    fn sub(self, a: __m512, b: __m512) -> __m512 {
        proven!(_mm512_sub_ps(a, b))
    }
    #[inline(always)]
    fn mul(self, a: __m512, b: __m512) -> __m512 {
        proven!(_mm512_mul_ps(a, b))
    }
    #[inline(always)]
    fn div(self, a: __m512, b: __m512) -> __m512 {
        proven!(_mm512_div_ps(a, b))
    }
    #[inline(always)]
    fn fma(self, a: __m512, b: __m512, c: __m512) -> __m512 {
        proven!(_mm512_fmadd_ps(a, b, c))
    }
    #[inline(always)]
    fn max(self, a: __m512, b: __m512) -> __m512 {
        proven!(_mm512_max_ps(a, b))
    }
    #[inline(always)]
    fn min(self, a: __m512, b: __m512) -> __m512 {
        proven!(_mm512_min_ps(a, b))
    }
    #[inline(always)]
    fn abs(self, a: __m512) -> __m512 {
        proven!(_mm512_abs_ps(a))
    }
    #[inline(always)]
    fn pow2(self, n: __m512) -> __m512 {
        proven!({
            let exponent = _mm512_add_epi32(_mm512_cvtps_epi32(n), _mm512_set1_epi32(127));
            _mm512_castsi512_ps(_mm512_slli_epi32::<23>(exponent))
        })
    }
    #[inline(always)]
    fn mul_pow2(self, p: __m512, n: __m512) -> __m512 {
        proven!(_mm512_scalef_ps(p, n))
    }
    #[inline(always)]
    fn store_i8(self, v: __m512, to: &mut [i8; 16]) -> i16 {
        proven!({
            let bytes = _mm512_cvtepi32_epi8(_mm512_cvtps_epi32(v));
            _mm_storeu_si128(to.as_mut_ptr().cast(), bytes);
            sum_i8!(bytes)
        })
    }
    #[inline(always)]
    fn greatest_bits(self, a: __m512, b: __m512) -> u32 {
        proven!({
            let [a, b] = [_mm512_castps_si512(_mm512_abs_ps(a)), _mm512_castps_si512(_mm512_abs_ps(b))];
            let v = _mm512_max_epu32(a, b);
            let v = _mm256_max_epu32(_mm512_castsi512_si256(v), _mm512_extracti64x4_epi64::<1>(v));
            let v = _mm_max_epu32(_mm256_castsi256_si128(v), _mm256_extracti128_si256::<1>(v));
            let v = _mm_max_epu32(v, _mm_unpackhi_epi64(v, v));
            _mm_cvtsi128_si32(_mm_max_epu32(v, _mm_shuffle_epi32::<1>(v))) as u32
        })
    }
    #[inline(always)]
    fn sum(self, v: __m512) -> f32 {
        proven!({
            let v = _mm256_add_ps(_mm512_castps512_ps256(v), _mm512_extractf32x8_ps::<1>(v));
            tree8!(v, _mm_add_ps, _mm_add_ss)
        })
    }
    #[inline(always)]
    fn greatest(self, v: __m512) -> f32 {
        proven!({
            let v = _mm256_max_ps(_mm512_castps512_ps256(v), _mm512_extractf32x8_ps::<1>(v));
            tree8!(v, _mm_max_ps, _mm_max_ss)
        })
    }
    #[inline(always)]
    fn exponent(self, v: __m512) -> __m512 {
        proven!(_mm512_castsi512_ps(_mm512_slli_epi32::<23>(_mm512_castps_si512(v))))
    }
    #[inline(always)]
    fn prefetch<T>(self, at: &T) {
        proven!(_mm_prefetch::<_MM_HINT_T0>(std::ptr::from_ref(at).cast()));
    }
    #[inline(always)]
    fn interleave_2(self, rows: [&[u8; 16]; 8], to: &mut [[[u8; 16]; 2]; 8], at: usize) {
        interleave_2(rows, to, at);
    }
    #[inline(always)]
    fn interleave_4(self, rows: [&[u8; 16]; 4], to: &mut [[[u8; 16]; 4]; 4], at: usize) {
        interleave_4(rows, to, at);
    }
    #[inline(always)]
    fn zero_below(self, v: __m512, x: __m512, low: __m512) -> __m512 {
        proven!(_mm512_maskz_mov_ps(_mm512_cmp_ps_mask::<_CMP_NLT_UQ>(x, low), v))
    }
}
