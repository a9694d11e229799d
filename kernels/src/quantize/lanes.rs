//! Several searches side by side: each lane is one sub-block and does what a scalar loop would,
//! operation for operation, so the number of lanes never shows in the result.
//!
//! Searches are written once over [`Lanes`]. Nothing here fuses a multiplication with an addition,
//! and comparisons treat NaN and signed zeros as the scalar expression in each comment does.

use std::ops::{Add, Div, Mul, Sub};

use crate::blocks::IQ4_VALUES;

/// Adding and taking away 1.5 * 2^23 rounds a number of magnitude up to 2^22 to the nearest
/// integer, ties to even.
pub(super) const ROUNDER: f32 = 12_582_912.0;

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

/// The most lanes that a vector has.
pub(super) const MOST_LANES: usize = 32;

/// A vector of single-precision numbers.
pub(super) trait Lanes:
    Copy + Add<Output = Self> + Sub<Output = Self> + Mul<Output = Self> + Div<Output = Self>
{
    /// How many numbers.
    const COUNT: usize;
    /// A truth value per lane.
    type Mask: Copy;
    /// More lanes, for a search whose every step waits for the one before.
    type Wide: Lanes;

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
    /// `nearest(self)` limited to the integers `low..=high`.
    fn nearest_within(self, low: i32, high: i32) -> Self;
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
        let mut lanes = [0.0; MOST_LANES];
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
    type Wide = f32;

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
    fn nearest_within(self, low: i32, high: i32) -> Self {
        nearest(self).max(low).min(high) as f32
    }
    #[inline(always)]
    fn low_byte(self) -> Self {
        (self as i32 & 0xff) as f32
    }
    #[inline(always)]
    fn nearest_iq4(self) -> (Self, Self) {
        let mut index = 0;
        for bound in IQ4_BOUNDS {
            // Not `self >= bound`, which NaN would fail.
            index += if self < bound { 0 } else { 1 };
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
    type Wide = Eight;

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
    fn nearest_within(self, low: i32, high: i32) -> Self {
        Eight(each!(i => self.0[i].nearest_within(low, high)))
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

/// Two vectors side by side: what one waits for, the other fills.
#[cfg(target_arch = "x86_64")]
#[derive(Clone, Copy)]
pub(super) struct Pair<S>(S, S);

#[cfg(target_arch = "x86_64")]
macro_rules! pair_operator {
    ($($trait:ident $method:ident)*) => {$(
        impl<S: Lanes> $trait for Pair<S> {
            type Output = Self;
            #[inline(always)]
            fn $method(self, other: Self) -> Self {
                Pair($trait::$method(self.0, other.0), $trait::$method(self.1, other.1))
            }
        }
    )*};
}
#[cfg(target_arch = "x86_64")]
pair_operator! { Add add Sub sub Mul mul Div div }

#[cfg(target_arch = "x86_64")]
impl<S: Lanes> Lanes for Pair<S> {
    const COUNT: usize = 2 * S::COUNT;
    type Mask = (S::Mask, S::Mask);
    type Wide = Self;

    #[inline(always)]
    fn splat(value: f32) -> Self {
        Pair(S::splat(value), S::splat(value))
    }
    #[inline(always)]
    fn load(values: &[f32]) -> Self {
        Pair(S::load(values), S::load(&values[S::COUNT..]))
    }
    #[inline(always)]
    fn store(self, out: &mut [f32]) {
        self.0.store(out);
        self.1.store(&mut out[S::COUNT..]);
    }
    #[inline(always)]
    fn abs(self) -> Self {
        Pair(self.0.abs(), self.1.abs())
    }
    #[inline(always)]
    fn sqrt(self) -> Self {
        Pair(self.0.sqrt(), self.1.sqrt())
    }
    #[inline(always)]
    fn lesser(self, other: Self) -> Self {
        Pair(self.0.lesser(other.0), self.1.lesser(other.1))
    }
    #[inline(always)]
    fn greater(self, other: Self) -> Self {
        Pair(self.0.greater(other.0), self.1.greater(other.1))
    }
    #[inline(always)]
    fn below(self, other: Self) -> Self::Mask {
        (self.0.below(other.0), self.1.below(other.1))
    }
    #[inline(always)]
    fn equal(self, other: Self) -> Self::Mask {
        (self.0.equal(other.0), self.1.equal(other.1))
    }
    #[inline(always)]
    fn both(a: Self::Mask, b: Self::Mask) -> Self::Mask {
        (S::both(a.0, b.0), S::both(a.1, b.1))
    }
    #[inline(always)]
    fn but_not(a: Self::Mask, b: Self::Mask) -> Self::Mask {
        (S::but_not(a.0, b.0), S::but_not(a.1, b.1))
    }
    #[inline(always)]
    fn select(mask: Self::Mask, yes: Self, no: Self) -> Self {
        Pair(S::select(mask.0, yes.0, no.0), S::select(mask.1, yes.1, no.1))
    }
    #[inline(always)]
    fn any(mask: Self::Mask) -> bool {
        S::any(mask.0) | S::any(mask.1)
    }
    #[inline(always)]
    fn all(mask: Self::Mask) -> bool {
        S::all(mask.0) & S::all(mask.1)
    }
    #[inline(always)]
    fn nearest(self) -> Self {
        Pair(self.0.nearest(), self.1.nearest())
    }
    #[inline(always)]
    fn nearest_within(self, low: i32, high: i32) -> Self {
        Pair(self.0.nearest_within(low, high), self.1.nearest_within(low, high))
    }
    #[inline(always)]
    fn low_byte(self) -> Self {
        Pair(self.0.low_byte(), self.1.low_byte())
    }
    #[inline(always)]
    fn nearest_iq4(self) -> (Self, Self) {
        let (first, second) = (self.0.nearest_iq4(), self.1.nearest_iq4());
        (Pair(first.0, second.0), Pair(first.1, second.1))
    }
    #[inline(always)]
    fn transpose<const LEN: usize>(sub_blocks: &[f32], out: &mut [Self; LEN]) {
        let (mut first, mut second) = ([S::splat(0.0); LEN], [S::splat(0.0); LEN]);
        S::transpose(&sub_blocks[..S::COUNT * LEN], &mut first);
        S::transpose(&sub_blocks[S::COUNT * LEN..], &mut second);
        for (out, pair) in out.iter_mut().zip(first.into_iter().zip(second)) {
            *out = Pair(pair.0, pair.1);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_bounds_of_iq4_are_where_distances_tie() {
        for (k, bound) in IQ4_BOUNDS.into_iter().enumerate() {
            let (low, high) = (f32::from(IQ4_VALUES[k]), f32::from(IQ4_VALUES[k + 1]));
            let mut x = bound;
            for _ in 0..100 {
                x = x.next_down();
                assert!(x - low < high - x, "{x}");
            }
            let mut x = bound;
            for _ in 0..100 {
                assert!(x - low >= high - x, "{x}");
                x = x.next_up();
            }
        }
    }

    #[test]
    fn nearest_is_to_even_and_follows_the_bits_beyond() {
        for (value, rounded) in [(0.5, 0), (1.5, 2), (2.5, 2), (-0.5, 0), (-1.5, -2), (4194303.0, 4194303)] {
            assert_eq!(nearest(value), rounded);
        }
        assert_eq!(nearest(f32::NAN), 0);
        assert_eq!(nearest(f32::INFINITY), -0x40_0000);
        assert_eq!(nearest(f32::NEG_INFINITY), -0x40_0000);
    }

    const HOSTILE: [f32; 32] = [
        0.0,
        -0.0,
        0.5,
        -0.5,
        1.5,
        2.5,
        -2.5,
        7.49,
        7.5,
        15.5,
        -16.5,
        31.4999,
        300.0,
        -300.0,
        4194303.0,
        -4194303.0,
        1e-45,
        -1e-45,
        1e-38,
        -1e-38,
        1e30,
        -1e30,
        8388608.0,
        16777216.0,
        f32::MAX,
        f32::MIN,
        f32::INFINITY,
        f32::NEG_INFINITY,
        f32::NAN,
        -127.0,
        113.0,
        -4.5,
    ];

    type Unary<S> = fn(S) -> S;
    type Binary<S> = fn(S, S) -> S;

    /// Each lane must do what one lane alone does.
    fn agrees<S: Lanes>() {
        fn bits(values: &[f32]) -> Vec<u32> {
            values.iter().map(|v| if v.is_nan() { f32::NAN.to_bits() } else { v.to_bits() }).collect()
        }
        let unary: [(Unary<S>, Unary<f32>); 9] = [
            (S::abs, Lanes::abs),
            (S::sqrt, Lanes::sqrt),
            (S::nearest, Lanes::nearest),
            (|s| s.nearest().low_byte(), |v| Lanes::nearest(v).low_byte()),
            (|s| s.level(-8.0, 7.0), |v| v.level(-8.0, 7.0)),
            (|s| s.nearest_within(-4, 3), |v| v.nearest().greater(-4.0).lesser(3.0)),
            (|s| s.nearest_within(i32::MIN, 15), |v| v.nearest().lesser(15.0)),
            (|s| s.nearest_iq4().0, |v| v.nearest_iq4().0),
            (|s| s.nearest_iq4().1, |v| v.nearest_iq4().1),
        ];
        let binary: [(Binary<S>, Binary<f32>); 9] = [
            (|a, b| a + b, |a, b| a + b),
            (|a, b| a - b, |a, b| a - b),
            (|a, b| a * b, |a, b| a * b),
            (|a, b| a / b, |a, b| a / b),
            (S::lesser, Lanes::lesser),
            (S::greater, Lanes::greater),
            (|a, b| S::select(a.below(b), a, b), |a, b| f32::select(a.below(b), a, b)),
            (|a, b| S::select(a.equal(b), a, S::splat(3.0)), |a, b| f32::select(a.equal(b), a, 3.0)),
            (
                |a, b| S::select(S::but_not(a.below(S::splat(9.0)), a.below(b)), a, b),
                |a, b| f32::select(f32::but_not(a.below(9.0), a.below(b)), a, b),
            ),
        ];
        for turn in 0..HOSTILE.len() {
            let mut turned = HOSTILE;
            turned.rotate_left(turn);
            let (a, b) = (&HOSTILE[..S::COUNT], &turned[..S::COUNT]);
            let mut out = [0.0; MOST_LANES];
            for (lanes, one) in unary {
                lanes(S::load(b)).store(&mut out);
                let expected: Vec<f32> = b.iter().map(|v| one(*v)).collect();
                assert_eq!(bits(&out[..S::COUNT]), bits(&expected), "{b:?}");
            }
            for (lanes, one) in binary {
                lanes(S::load(a), S::load(b)).store(&mut out);
                let expected: Vec<f32> = a.iter().zip(b).map(|(a, b)| one(*a, *b)).collect();
                assert_eq!(bits(&out[..S::COUNT]), bits(&expected), "{a:?} {b:?}");
            }
        }
        let values: Vec<f32> = (0..MOST_LANES * 32).map(|i| i as f32).collect();
        let mut columns = [S::splat(0.0); 32];
        S::transpose(&values[..S::COUNT * 32], &mut columns);
        for (j, column) in columns.iter().enumerate() {
            let mut out = [0.0; MOST_LANES];
            column.store(&mut out);
            for (lane, v) in out[..S::COUNT].iter().enumerate() {
                assert_eq!(*v, (lane * 32 + j) as f32);
            }
        }
        assert!(S::all(S::splat(0.0).below(S::splat(1.0))) && !S::any(S::splat(1.0).below(S::splat(1.0))));
        let mut one = [0.0; MOST_LANES];
        one[S::COUNT - 1] = 1.0;
        let one = S::splat(0.5).below(S::load(&one));
        assert!(S::any(one) && S::all(one) == (S::COUNT == 1));
    }

    #[test]
    fn lanes_do_what_one_does() {
        agrees::<f32>();
        agrees::<Eight>();
        #[cfg(target_arch = "x86_64")]
        for level in crate::Level::available() {
            match level {
                crate::Level::Portable => {}
                crate::Level::Avx2 => {
                    agrees::<super::super::x86::Avx2>();
                    agrees::<Pair<super::super::x86::Avx2>>();
                }
                crate::Level::Avx512Vnni | crate::Level::Amx => {
                    agrees::<super::super::x86::Avx512>();
                    agrees::<Pair<super::super::x86::Avx512>>();
                }
            }
        }
    }
}
