//! Sixteen lanes of float32 on each instruction set.
//!
//! A value of a token type ([`Portable`], [`Avx2`], [`Avx512`]) proves that the machine has the
//! instructions, so the operations are safe; they become single instructions where they are
//! inlined into a function with the target feature (`on_level!`). [`Portable`] is the definition. What only some
//! machines of a level have, and changes no bits, is a parameter of the token.

/// Lanes of a vector.
pub(super) const LANES: usize = 16;

/// 1.5 * 2^23: what is added and taken off again is rounded to an integer, ties to even; in between, the low
/// bits are the integer in two's complement.
pub(super) const ROUND: f32 = 12_582_912.0;

/// The operations on sixteen lanes.
pub(super) trait Simd: Copy {
    /// Sixteen float32.
    type F: Copy;
    /// Whether there are registers for wide tiles: 32 of sixteen lanes.
    const WIDE_TILE: bool;
    /// Vector registers of the machine; 0 where none is counted on.
    const REGISTERS: usize;

    fn splat(self, v: f32) -> Self::F;
    fn load(self, v: &[f32; 16]) -> Self::F;
    /// Little-endian float32 at any address.
    fn load_f32(self, v: &[u8; 64]) -> Self::F;
    /// Little-endian IEEE half precision, exactly.
    fn load_f16(self, v: &[u8; 32]) -> Self::F;
    /// Sixteen int8.
    fn load_i8(self, v: &[u8; 16]) -> Self::F;
    /// Sixteen numbers of four bits, the low ones of each byte.
    fn load_low(self, v: &[u8; 16]) -> Self::F;
    /// The high ones.
    fn load_high(self, v: &[u8; 16]) -> Self::F;
    /// The bfloat16 in the low half of each lane's bits, exactly.
    fn low_bf16(self, v: Self::F) -> Self::F;
    /// The one in the high half.
    fn high_bf16(self, v: Self::F) -> Self::F;
    /// Rounds to the nearest bfloat16, ties to even; NaN stays NaN.
    fn round_bf16(self, v: Self::F) -> Self::F;
    fn store(self, v: Self::F, to: &mut [f32; 16]);
    /// Rounds to the nearest half, ties to even.
    fn store_f16(self, v: Self::F, to: &mut [u16; 16]);
    fn add(self, a: Self::F, b: Self::F) -> Self::F;
    fn sub(self, a: Self::F, b: Self::F) -> Self::F;
    fn mul(self, a: Self::F, b: Self::F) -> Self::F;
    fn div(self, a: Self::F, b: Self::F) -> Self::F;
    /// `a * b + c`, rounded once.
    fn fma(self, a: Self::F, b: Self::F, c: Self::F) -> Self::F;
    /// `if a > b { a } else { b }`: the second where one is a NaN.
    fn max(self, a: Self::F, b: Self::F) -> Self::F;
    /// `if a < b { a } else { b }`: the second where one is a NaN.
    fn min(self, a: Self::F, b: Self::F) -> Self::F;
    /// The absolute value: the sign bit cleared.
    fn abs(self, a: Self::F) -> Self::F;
    /// 2 to the power of an integral `n` in -126 to 127; anything for another.
    fn pow2(self, n: Self::F) -> Self::F;
    /// `p * 2^n`, rounded once, for a `p` of 0.5 to 2 and an integral `n` in -151 to 129.
    #[inline(always)]
    fn mul_pow2(self, p: Self::F, n: Self::F) -> Self::F {
        // In two factors that are no denormals; the first product is exact.
        let round = self.splat(ROUND);
        let half = self.sub(self.fma(n, self.splat(0.5), round), round);
        self.mul(self.mul(p, self.pow2(half)), self.pow2(self.sub(n, half)))
    }
    /// Rounds values of -127 to 127 to the nearest integer, ties to even; returns the sum of them.
    fn store_i8(self, v: Self::F, to: &mut [i8; 16]) -> i16;
    /// The greatest magnitude of all lanes of both, as bits: where one is a NaN, those of a NaN.
    fn greatest_bits(self, a: Self::F, b: Self::F) -> u32;
    /// Halves are added: lane i and i + 8, i + 4, i + 2, i + 1.
    fn sum(self, v: Self::F) -> f32;
    /// The greatest, by [`Simd::max`] in the order of [`Simd::sum`].
    fn greatest(self, v: Self::F) -> f32;

    /// A float whose exponent and sign are the low nine bits of `v`, and its fraction 0.
    fn exponent(self, v: Self::F) -> Self::F;
    /// `if x < low { 0 } else { v }`: the value where `x` is a NaN.
    fn zero_below(self, v: Self::F, x: Self::F, low: Self::F) -> Self::F;
    /// Asks for the cache line of `at`, which is read later, without waiting for it.
    fn prefetch<T>(self, at: &T);
    /// Eight values of two bytes of each of eight rows: value k of row i becomes value i of `to[k][at]`.
    fn interleave_2(self, rows: [&[u8; 16]; 8], to: &mut [[[u8; 16]; 2]; 8], at: usize);
    /// Four values of four bytes of each of four rows: value k of row i becomes value i of `to[k][at]`.
    fn interleave_4(self, rows: [&[u8; 16]; 4], to: &mut [[[u8; 16]; 4]; 4], at: usize);
}

/// Half precision to float32, exactly; NaN stays NaN.
#[inline(always)]
pub(super) fn f16_to_f32(h: u16) -> f32 {
    let magnitude = u32::from(h & 0x7fff);
    let sign = u32::from(h & 0x8000) << 16;
    // Moves the exponent's bias by a multiplication, which also normalises denormals.
    let value = f32::from_bits(magnitude << 13) * f32::from_bits((127 + 112) << 23);
    let special = if magnitude >= 0x7c00 { 0x7f80_0000 } else { 0 };
    f32::from_bits(value.to_bits() | special | sign)
}

/// The definition, in plain Rust.
#[derive(Clone, Copy)]
pub(super) struct Portable;

#[inline(always)]
fn map2(a: [f32; 16], b: [f32; 16], f: impl Fn(f32, f32) -> f32) -> [f32; 16] {
    std::array::from_fn(|i| f(a[i], b[i]))
}

#[inline(always)]
fn tree(v: [f32; 16], f: impl Fn(f32, f32) -> f32) -> f32 {
    let v: [f32; 8] = std::array::from_fn(|i| f(v[i], v[i + 8]));
    let v: [f32; 4] = std::array::from_fn(|i| f(v[i], v[i + 4]));
    f(f(v[0], v[2]), f(v[1], v[3]))
}

impl Simd for Portable {
    type F = [f32; 16];
    const WIDE_TILE: bool = false;
    const REGISTERS: usize = 0;

    #[inline(always)]
    fn splat(self, v: f32) -> [f32; 16] {
        [v; 16]
    }
    #[inline(always)]
    fn load(self, v: &[f32; 16]) -> [f32; 16] {
        *v
    }
    #[inline(always)]
    fn load_f32(self, v: &[u8; 64]) -> [f32; 16] {
        std::array::from_fn(|i| f32::from_le_bytes([v[4 * i], v[4 * i + 1], v[4 * i + 2], v[4 * i + 3]]))
    }
    #[inline(always)]
    fn load_f16(self, v: &[u8; 32]) -> [f32; 16] {
        std::array::from_fn(|i| f16_to_f32(u16::from_le_bytes([v[2 * i], v[2 * i + 1]])))
    }
    #[inline(always)]
    fn load_i8(self, v: &[u8; 16]) -> [f32; 16] {
        v.map(|b| f32::from(b as i8))
    }
    #[inline(always)]
    fn load_low(self, v: &[u8; 16]) -> [f32; 16] {
        v.map(|b| f32::from(b & 15))
    }
    #[inline(always)]
    fn load_high(self, v: &[u8; 16]) -> [f32; 16] {
        v.map(|b| f32::from(b >> 4))
    }
    #[inline(always)]
    fn low_bf16(self, v: [f32; 16]) -> [f32; 16] {
        v.map(|v| f32::from_bits(v.to_bits() << 16))
    }
    #[inline(always)]
    fn high_bf16(self, v: [f32; 16]) -> [f32; 16] {
        v.map(|v| f32::from_bits(v.to_bits() & 0xffff_0000))
    }
    #[inline(always)]
    fn round_bf16(self, v: [f32; 16]) -> [f32; 16] {
        v.map(|v| half::bf16::from_f32_const(v).to_f32_const())
    }
    #[inline(always)]
    fn store(self, v: [f32; 16], to: &mut [f32; 16]) {
        *to = v;
    }
    #[inline(always)]
    fn store_f16(self, v: [f32; 16], to: &mut [u16; 16]) {
        *to = v.map(|v| half::f16::from_f32_const(v).to_bits());
    }
    #[inline(always)]
    fn add(self, a: [f32; 16], b: [f32; 16]) -> [f32; 16] {
        map2(a, b, |a, b| a + b)
    }
    #[inline(always)]
    fn sub(self, a: [f32; 16], b: [f32; 16]) -> [f32; 16] {
        map2(a, b, |a, b| a - b)
    }
    #[inline(always)]
    fn mul(self, a: [f32; 16], b: [f32; 16]) -> [f32; 16] {
        map2(a, b, |a, b| a * b)
    }
    #[inline(always)]
    fn div(self, a: [f32; 16], b: [f32; 16]) -> [f32; 16] {
        map2(a, b, |a, b| a / b)
    }
    #[inline(always)]
    fn fma(self, a: [f32; 16], b: [f32; 16], c: [f32; 16]) -> [f32; 16] {
        std::array::from_fn(|i| a[i].mul_add(b[i], c[i]))
    }
    #[inline(always)]
    fn max(self, a: [f32; 16], b: [f32; 16]) -> [f32; 16] {
        map2(a, b, |a, b| if a > b { a } else { b })
    }
    #[inline(always)]
    fn min(self, a: [f32; 16], b: [f32; 16]) -> [f32; 16] {
        map2(a, b, |a, b| if a < b { a } else { b })
    }
    #[inline(always)]
    fn abs(self, a: [f32; 16]) -> [f32; 16] {
        a.map(|v| f32::from_bits(v.to_bits() & 0x7fff_ffff))
    }
    #[inline(always)]
    fn pow2(self, n: [f32; 16]) -> [f32; 16] {
        n.map(|n| f32::from_bits(((n as i32).wrapping_add(127) as u32) << 23))
    }
    #[inline(always)]
    fn store_i8(self, v: [f32; 16], to: &mut [i8; 16]) -> i16 {
        *to = v.map(|v| (v + ROUND).to_bits() as i8);
        to.iter().map(|q| i16::from(*q)).sum()
    }
    #[inline(always)]
    fn greatest_bits(self, a: [f32; 16], b: [f32; 16]) -> u32 {
        let magnitude = |v: &f32| v.to_bits() & 0x7fff_ffff;
        a.iter().chain(&b).map(magnitude).fold(0, u32::max)
    }
    #[inline(always)]
    fn sum(self, v: [f32; 16]) -> f32 {
        tree(v, |a, b| a + b)
    }
    #[inline(always)]
    fn greatest(self, v: [f32; 16]) -> f32 {
        tree(v, |a, b| if a > b { a } else { b })
    }
    #[inline(always)]
    fn exponent(self, v: [f32; 16]) -> [f32; 16] {
        v.map(|v| f32::from_bits(v.to_bits() << 23))
    }
    #[inline(always)]
    fn prefetch<T>(self, _at: &T) {}
    #[inline(always)]
    fn interleave_2(self, rows: [&[u8; 16]; 8], to: &mut [[[u8; 16]; 2]; 8], at: usize) {
        for (k, to) in to.iter_mut().enumerate() {
            to[at] = std::array::from_fn(|i| rows[i / 2][2 * k + i % 2]);
        }
    }
    #[inline(always)]
    fn interleave_4(self, rows: [&[u8; 16]; 4], to: &mut [[[u8; 16]; 4]; 4], at: usize) {
        for (k, to) in to.iter_mut().enumerate() {
            to[at] = std::array::from_fn(|i| rows[i / 4][4 * k + i % 4]);
        }
    }
    #[inline(always)]
    fn zero_below(self, v: [f32; 16], x: [f32; 16], low: [f32; 16]) -> [f32; 16] {
        std::array::from_fn(|i| if x[i] < low[i] { 0.0 } else { v[i] })
    }
}

#[cfg(target_arch = "x86_64")]
pub(super) use x86::{Avx2, Avx512, proven};

#[cfg(target_arch = "x86_64")]
#[path = "simd_x86.rs"]
mod x86;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn half_precision_widens_exactly() {
        for h in 0..=u16::MAX {
            let (ours, reference) = (f16_to_f32(h), half::f16::from_bits(h).to_f32_const());
            assert!(ours.to_bits() == reference.to_bits() || (ours.is_nan() && reference.is_nan()), "{h:#x}");
        }
    }
}
