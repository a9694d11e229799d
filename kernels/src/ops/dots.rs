//! What integer products need of an instruction set, on the tokens of [`super::simd`].
//!
//! A register holds [`Dots::LANES`] rows, sixteen or eight, so sixteen rows are one or two `part`s of a line.

use super::simd::{LANES, Portable, f16_to_f32};

/// Operations on registers of whole rows: four bytes, an int32 or a float32 each.
pub(super) trait Dots: Copy {
    /// Rows of a register.
    const LANES: usize;
    /// Columns of a tile whose sums stay in registers: 8, 4 or 1.
    const TILE: usize;
    /// Four bytes of each row.
    type B: Copy;
    /// A sum of each row, under way.
    type I: Copy;
    /// A float32 of each row.
    type F: Copy;

    /// Asks for a line that is read later, without waiting for it.
    fn fetch(self, line: &[u8; 64]);
    fn bytes(self, line: &[u8; 64], part: usize) -> Self::B;
    fn put_bytes(self, v: Self::B, line: &mut [u8; 64], part: usize);
    /// Moves bits of bytes down, or up for a negative number (-4 to 7). Bits of the next byte come in: a mask
    /// follows.
    fn shift_right(self, v: Self::B, by: i32) -> Self::B;
    fn mask(self, v: Self::B, mask: u8) -> Self::B;
    fn or(self, a: Self::B, b: Self::B) -> Self::B;
    /// `v - by` in each byte, wrapping.
    fn less(self, v: Self::B, by: u8) -> Self::B;
    /// What the table has for each byte, which is less than 16.
    fn lookup(self, table: &[u8; 16], v: Self::B) -> Self::B;

    /// A sum that starts with `v` in every row.
    fn start(self, v: i32) -> Self::I;
    /// Adds the products of the bytes of a row (unsigned, at most 127) and the four int8 of `x` (little-endian,
    /// -127 to 127). Before [`Dots::fold`], the magnitudes of any two products of each step add up to at most
    /// 32767 over all steps.
    fn dot(self, sum: Self::I, w: Self::B, x: i32) -> Self::I;
    /// Makes room for further products.
    fn fold(self, sum: Self::I) -> Self::I;
    /// A sum of [`Dots::dot_wide`], where `v` is -128 times the sum of what the bytes are multiplied with.
    fn start_wide(self, v: i32) -> Self::I;
    /// As [`Dots::dot`] with bytes of any size; the total is that of the bytes less 128.
    fn dot_wide(self, sum: Self::I, w: Self::B, x: i32) -> Self::I;
    /// The sum, folded, rounded to float32.
    fn float(self, sum: Self::I) -> Self::F;

    fn splat(self, v: f32) -> Self::F;
    fn load(self, v: &[f32; 16], part: usize) -> Self::F;
    fn store(self, v: Self::F, to: &mut [f32; 16], part: usize);
    /// Little-endian halves.
    fn halves(self, v: &[u8; 32], part: usize) -> Self::F;
    fn signed(self, v: &[u8; 16], part: usize) -> Self::F;
    fn unsigned(self, v: &[u8; 16], part: usize) -> Self::F;
    /// The sign turned, of a NaN too.
    fn negated(self, v: Self::F) -> Self::F;
    fn mul(self, a: Self::F, b: Self::F) -> Self::F;
    /// `a * b + c`, rounded once.
    fn fma(self, a: Self::F, b: Self::F, c: Self::F) -> Self::F;
}

impl Dots for Portable {
    const LANES: usize = LANES;
    const TILE: usize = 1;
    type B = [u8; 64];
    type I = [i32; 16];
    type F = [f32; 16];

    #[inline(always)]
    fn fetch(self, _: &[u8; 64]) {}
    #[inline(always)]
    fn bytes(self, line: &[u8; 64], _: usize) -> [u8; 64] {
        *line
    }
    #[inline(always)]
    fn put_bytes(self, v: [u8; 64], line: &mut [u8; 64], _: usize) {
        *line = v;
    }
    #[inline(always)]
    fn shift_right(self, v: [u8; 64], by: i32) -> [u8; 64] {
        v.map(|v| if by < 0 { v << -by } else { v >> by })
    }
    #[inline(always)]
    fn mask(self, v: [u8; 64], mask: u8) -> [u8; 64] {
        v.map(|v| v & mask)
    }
    #[inline(always)]
    fn or(self, a: [u8; 64], b: [u8; 64]) -> [u8; 64] {
        std::array::from_fn(|i| a[i] | b[i])
    }
    #[inline(always)]
    fn less(self, v: [u8; 64], by: u8) -> [u8; 64] {
        v.map(|v| v.wrapping_sub(by))
    }
    #[inline(always)]
    fn lookup(self, table: &[u8; 16], v: [u8; 64]) -> [u8; 64] {
        v.map(|v| table[usize::from(v & 15)])
    }
    #[inline(always)]
    fn start(self, v: i32) -> [i32; 16] {
        [v; 16]
    }
    #[inline(always)]
    fn dot(self, sum: [i32; 16], w: [u8; 64], x: i32) -> [i32; 16] {
        let x = x.to_le_bytes().map(|b| i32::from(b.cast_signed()));
        std::array::from_fn(|i| sum[i] + (0..4).map(|k| i32::from(w[4 * i + k]) * x[k]).sum::<i32>())
    }
    #[inline(always)]
    fn fold(self, sum: [i32; 16]) -> [i32; 16] {
        sum
    }
    #[inline(always)]
    fn start_wide(self, v: i32) -> [i32; 16] {
        [v; 16]
    }
    #[inline(always)]
    fn dot_wide(self, sum: [i32; 16], w: [u8; 64], x: i32) -> [i32; 16] {
        self.dot(sum, w, x)
    }
    #[inline(always)]
    fn float(self, sum: [i32; 16]) -> [f32; 16] {
        sum.map(|v| v as f32)
    }
    #[inline(always)]
    fn splat(self, v: f32) -> [f32; 16] {
        [v; 16]
    }
    #[inline(always)]
    fn load(self, v: &[f32; 16], _: usize) -> [f32; 16] {
        *v
    }
    #[inline(always)]
    fn store(self, v: [f32; 16], to: &mut [f32; 16], _: usize) {
        *to = v;
    }
    #[inline(always)]
    fn halves(self, v: &[u8; 32], _: usize) -> [f32; 16] {
        std::array::from_fn(|i| f16_to_f32(u16::from_le_bytes([v[2 * i], v[2 * i + 1]])))
    }
    #[inline(always)]
    fn signed(self, v: &[u8; 16], _: usize) -> [f32; 16] {
        v.map(|v| f32::from(v.cast_signed()))
    }
    #[inline(always)]
    fn unsigned(self, v: &[u8; 16], _: usize) -> [f32; 16] {
        v.map(f32::from)
    }
    #[inline(always)]
    fn negated(self, v: [f32; 16]) -> [f32; 16] {
        v.map(|v| -v)
    }
    #[inline(always)]
    fn mul(self, a: [f32; 16], b: [f32; 16]) -> [f32; 16] {
        std::array::from_fn(|i| a[i] * b[i])
    }
    #[inline(always)]
    fn fma(self, a: [f32; 16], b: [f32; 16], c: [f32; 16]) -> [f32; 16] {
        std::array::from_fn(|i| a[i].mul_add(b[i], c[i]))
    }
}

#[cfg(target_arch = "x86_64")]
#[path = "dots_x86.rs"]
mod x86;
