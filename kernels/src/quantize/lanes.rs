//! Several searches side by side: each lane is one sub-block and does what a scalar loop would,
//! operation for operation, so the number of lanes never shows in the result.
//!
//! Searches are written once over [`Lanes`]. Nothing here fuses a multiplication with an addition,
//! and comparisons treat NaN and signed zeros as the scalar expression in each comment does.

use std::ops::{Add, Div, Mul, Sub};

use crate::blocks::IQ4_VALUES;

/// Adding and taking away 1.5 * 2^23 rounds a number of magnitude up to 2^22 to the nearest
/// integer, ties to even.
const ROUNDER: f32 = 12_582_912.0;

/// The integer nearest to `value`, ties to even; outside +-2^22 whatever the bits then say, which
/// the formats' definition relies on. NaN and infinities give 0 and -2^22.
#[inline(always)]
pub(super) fn nearest(value: f32) -> i32 {
    ((value + ROUNDER).to_bits() & 0x7f_ffff) as i32 - 0x40_0000
}

/// Where one level of IQ4 ends and the next begins: a value below `IQ4_BOUNDS[k]` and no other is
/// nearer to level `k` than to level `k + 1`. Half-way points go up.
pub(super) const IQ4_BOUNDS: [f32; 15] = {
    let mut bounds = [0.0; 15];
    let mut k = 0;
    while k < 15 {
        bounds[k] = (IQ4_VALUES[k] as f32 + IQ4_VALUES[k + 1] as f32) / 2.0;
        k += 1;
    }
    bounds
};

/// A vector of single-precision numbers.
pub(super) trait Lanes:
    Copy + Add<Output = Self> + Sub<Output = Self> + Mul<Output = Self> + Div<Output = Self>
{
    /// How many numbers.
    const COUNT: usize;
    /// A truth value per lane.
    type Mask: Copy;

    /// The same number in every lane.
    fn splat(value: f32) -> Self;
    /// The first `COUNT` of `values`.
    fn load(values: &[f32]) -> Self;
    /// Into the first `COUNT` of `out`.
    fn store(self, out: &mut [f32]);
    /// `|self|`.
    fn abs(self) -> Self;
    /// The square root, correctly rounded.
    fn sqrt(self) -> Self;
    /// `if self < other { self } else { other }`.
    fn lesser(self, other: Self) -> Self;
    /// `if self > other { self } else { other }`.
    fn greater(self, other: Self) -> Self;
    /// `self < other`.
    fn below(self, other: Self) -> Self::Mask;
    /// `self == other`.
    fn equal(self, other: Self) -> Self::Mask;
    /// Both.
    fn both(a: Self::Mask, b: Self::Mask) -> Self::Mask;
    /// The first without the second.
    fn but_not(a: Self::Mask, b: Self::Mask) -> Self::Mask;
    /// Per lane, `if mask { yes } else { no }`.
    fn select(mask: Self::Mask, yes: Self, no: Self) -> Self;
    /// True in any lane.
    fn any(mask: Self::Mask) -> bool;
    /// True in every lane.
    fn all(mask: Self::Mask) -> bool;
    /// [`nearest`], as a number again.
    fn nearest(self) -> Self;
    /// `self` modulo 256, for integers within +-2^22.
    fn low_byte(self) -> Self;
    /// The index of the nearest of [`IQ4_VALUES`] and that value: the count of [`IQ4_BOUNDS`]
    /// which `self` is not below. NaN gives the last.
    fn nearest_iq4(self) -> (Self, Self);

    /// `nearest(self)` for `self` within +-2^22.
    #[inline(always)]
    fn rounded(self) -> Self {
        let rounder = Self::splat(ROUNDER);
        self + rounder - rounder
    }

    /// `nearest(self)` limited to `low..=high`, for `self` within +-2^22 or NaN (which gives `low`).
    #[inline(always)]
    fn level(self, low: f32, high: f32) -> Self {
        let rounder = Self::splat(ROUNDER);
        (self + rounder).greater(Self::splat(ROUNDER + low)).lesser(Self::splat(ROUNDER + high)) - rounder
    }

    /// `out[j]` holds value `j` of each of `COUNT` sub-blocks of `LEN` values.
    #[inline(always)]
    fn transpose<const LEN: usize>(sub_blocks: &[f32], out: &mut [Self; LEN]) {
        let mut lanes = [0.0; 16];
        for j in 0..LEN {
            for lane in 0..Self::COUNT {
                lanes[lane] = sub_blocks[lane * LEN + j];
            }
            out[j] = Self::load(&lanes);
        }
    }
}

/// One lane: for what there is only one of.
impl Lanes for f32 {
    const COUNT: usize = 1;
    type Mask = bool;

    #[inline(always)]
    fn splat(value: f32) -> Self {
        value
    }
    #[inline(always)]
    fn load(values: &[f32]) -> Self {
        values[0]
    }
    #[inline(always)]
    fn store(self, out: &mut [f32]) {
        out[0] = self;
    }
    #[inline(always)]
    fn abs(self) -> Self {
        f32::abs(self)
    }
    #[inline(always)]
    fn sqrt(self) -> Self {
        f32::sqrt(self)
    }
    #[inline(always)]
    fn lesser(self, other: Self) -> Self {
        if self < other { self } else { other }
    }
    #[inline(always)]
    fn greater(self, other: Self) -> Self {
        if self > other { self } else { other }
    }
    #[inline(always)]
    fn below(self, other: Self) -> bool {
        self < other
    }
    #[inline(always)]
    fn equal(self, other: Self) -> bool {
        self == other
    }
    #[inline(always)]
    fn both(a: bool, b: bool) -> bool {
        a & b
    }
    #[inline(always)]
    fn but_not(a: bool, b: bool) -> bool {
        a & !b
    }
    #[inline(always)]
    fn select(mask: bool, yes: Self, no: Self) -> Self {
        if mask { yes } else { no }
    }
    #[inline(always)]
    fn any(mask: bool) -> bool {
        mask
    }
    #[inline(always)]
    fn all(mask: bool) -> bool {
        mask
    }
    #[inline(always)]
    fn nearest(self) -> Self {
        nearest(self) as f32
    }
    #[inline(always)]
    fn low_byte(self) -> Self {
        (self as i32 & 0xff) as f32
    }
    #[inline(always)]
    fn nearest_iq4(self) -> (Self, Self) {
        let mut index = 0;
        for bound in IQ4_BOUNDS {
            index += usize::from(!(self < bound));
        }
        (index as f32, f32::from(IQ4_VALUES[index]))
    }
}

/// Eight lanes in plain Rust: the definition of the vector ones, and what machines without them
/// run.
#[derive(Clone, Copy)]
pub(super) struct Eight([f32; 8]);

macro_rules! each {
    ($lane:ident => $value:expr) => {{
        let mut out = [Default::default(); 8];
        for $lane in 0..8 {
            out[$lane] = $value;
        }
        out
    }};
}

macro_rules! operator {
    ($($trait:ident $method:ident $op:tt)*) => {$(
        impl $trait for Eight {
            type Output = Eight;
            #[inline(always)]
            fn $method(self, other: Eight) -> Eight {
                Eight(each!(i => self.0[i] $op other.0[i]))
            }
        }
    )*};
}
operator! { Add add + Sub sub - Mul mul * Div div / }

impl Lanes for Eight {
    const COUNT: usize = 8;
    type Mask = [bool; 8];

    #[inline(always)]
    fn splat(value: f32) -> Self {
        Eight([value; 8])
    }
    #[inline(always)]
    fn load(values: &[f32]) -> Self {
        let values = &values[..8];
        Eight(each!(i => values[i]))
    }
    #[inline(always)]
    fn store(self, out: &mut [f32]) {
        out[..8].copy_from_slice(&self.0);
    }
    #[inline(always)]
    fn abs(self) -> Self {
        Eight(each!(i => self.0[i].abs()))
    }
    #[inline(always)]
    fn sqrt(self) -> Self {
        Eight(each!(i => self.0[i].sqrt()))
    }
    #[inline(always)]
    fn lesser(self, other: Self) -> Self {
        Eight(each!(i => self.0[i].lesser(other.0[i])))
    }
    #[inline(always)]
    fn greater(self, other: Self) -> Self {
        Eight(each!(i => self.0[i].greater(other.0[i])))
    }
    #[inline(always)]
    fn below(self, other: Self) -> Self::Mask {
        each!(i => self.0[i] < other.0[i])
    }
    #[inline(always)]
    fn equal(self, other: Self) -> Self::Mask {
        each!(i => self.0[i] == other.0[i])
    }
    #[inline(always)]
    fn both(a: Self::Mask, b: Self::Mask) -> Self::Mask {
        each!(i => a[i] & b[i])
    }
    #[inline(always)]
    fn but_not(a: Self::Mask, b: Self::Mask) -> Self::Mask {
        each!(i => a[i] & !b[i])
    }
    #[inline(always)]
    fn select(mask: Self::Mask, yes: Self, no: Self) -> Self {
        Eight(each!(i => if mask[i] { yes.0[i] } else { no.0[i] }))
    }
    #[inline(always)]
    fn any(mask: Self::Mask) -> bool {
        let mut any = false;
        for lane in mask {
            any |= lane;
        }
        any
    }
    #[inline(always)]
    fn all(mask: Self::Mask) -> bool {
        let mut all = true;
        for lane in mask {
            all &= lane;
        }
        all
    }
    #[inline(always)]
    fn nearest(self) -> Self {
        Eight(each!(i => nearest(self.0[i]) as f32))
    }
    #[inline(always)]
    fn low_byte(self) -> Self {
        Eight(each!(i => self.0[i].low_byte()))
    }
    #[inline(always)]
    fn nearest_iq4(self) -> (Self, Self) {
        let mut index = Self::splat(0.0);
        let mut value = Self::splat(f32::from(IQ4_VALUES[0]));
        for k in 0..15 {
            let below = self.below(Self::splat(IQ4_BOUNDS[k]));
            index = Self::select(below, index, Self::splat(k as f32 + 1.0));
            value = Self::select(below, value, Self::splat(f32::from(IQ4_VALUES[k + 1])));
        }
        (index, value)
    }
}
