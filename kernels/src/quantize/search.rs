//! The searches for a sub-block's scale: by which multiple of which integers are these `LEN`
//! numbers best met, under weights?
//!
//! The formats' bytes are promised, so these are ggml's searches exactly: candidates, order of
//! summation, tie-breaking and all. Weighted least squares gives the best scale (and minimum) for
//! given integers; the candidates are the integers that slightly different scales round to.

use super::lanes::Lanes;

/// Below this magnitude a sub-block counts as zero.
pub(super) const ZERO: f32 = 1e-15;

/// A search for `x ~ scale * level + min` with levels `0..=top` and a minimum that is not positive.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Affine {
    /// The highest level.
    pub top: f32,
    /// Candidate `k` of `0..=steps` stretches the range to `top + first + step * k` levels.
    pub first: f32,
    /// See `first`.
    pub step: f32,
    /// See `first`.
    pub steps: u8,
    /// Minimise weighted absolute differences instead of squares.
    pub absolute: bool,
}

/// What a search found, per lane.
#[derive(Clone, Copy)]
pub(super) struct Fit<S> {
    /// The scale; 0 when the sub-block is flat.
    pub scale: S,
    /// The minimum, at most 0; 0 for symmetric searches.
    pub min: S,
    /// The levels are the nearest integers to `inverse * (x - origin)`; 0 when all are 0.
    pub inverse: S,
    /// See `inverse`; 0 for symmetric searches.
    pub origin: S,
}

impl<S: Lanes> Fit<S> {
    /// A scale whose levels are of no further interest.
    #[inline(always)]
    pub fn of_scale(scale: S) -> Fit<S> {
        let zero = S::splat(0.0);
        Fit { scale, min: zero, inverse: zero, origin: zero }
    }
}

/// The fit of least weighted difference among the candidates of `search`. Each candidate stretches
/// the range from the minimum found so far.
#[inline(always)]
pub(super) fn affine<S: Lanes, const LEN: usize>(x: &[S; LEN], w: &[S; LEN], search: &Affine) -> Fit<S> {
    let (zero, one) = (S::splat(0.0), S::splat(1.0));
    let (mut lowest, mut highest) = (x[0], x[0]);
    let mut sum_w = w[0];
    let mut sum_x = sum_w * x[0];
    for i in 1..LEN {
        lowest = x[i].lesser(lowest);
        highest = x[i].greater(highest);
        sum_w = sum_w + w[i];
        sum_x = sum_x + w[i] * x[i];
    }
    let min = zero.lesser(lowest);
    let flat = highest.equal(min);
    let ends = [lowest, highest];

    let inverse = S::splat(search.top) / S::select(flat, one, highest - min);
    let mut best = Fit { scale: one / inverse, min, inverse, origin: min };
    let mut levels = [zero; LEN];
    affine_levels(x, &ends, inverse, min, search.top, &mut levels);
    let mut least = difference(x, w, &levels, best.scale, min, search.absolute);

    for k in 0..=search.steps {
        let stretched = search.first + search.step * f32::from(k) + search.top;
        let origin = best.min;
        let inverse = S::splat(stretched) / S::select(flat, one, highest - origin);
        affine_levels(x, &ends, inverse, origin, search.top, &mut levels);
        let (mut sum_l, mut sum_l2, mut sum_xl) = (zero, zero, zero);
        for i in 0..LEN {
            let wl = w[i] * levels[i];
            sum_l = sum_l + wl;
            sum_l2 = sum_l2 + wl * levels[i];
            sum_xl = sum_xl + wl * x[i];
        }
        let determinant = sum_w * sum_l2 - sum_l * sum_l;
        let solvable = zero.below(determinant);
        let scale = (sum_w * sum_xl - sum_x * sum_l) / determinant;
        let min = (sum_l2 * sum_x - sum_l * sum_xl) / determinant;
        let positive = zero.below(min);
        let scale = S::select(positive, sum_xl / sum_l2, scale);
        let min = S::select(positive, zero, min);

        let error = difference(x, w, &levels, scale, min, search.absolute);
        let better = S::both(solvable, error.below(least));
        least = S::select(better, error, least);
        best.scale = S::select(better, scale, best.scale);
        best.min = S::select(better, min, best.min);
        best.inverse = S::select(better, inverse, best.inverse);
        best.origin = S::select(better, origin, best.origin);
    }
    best.scale = S::select(flat, zero, best.scale);
    best.inverse = S::select(flat, zero, best.inverse);
    best
}

/// `levels[i] = nearest(inverse * (x[i] - min))` within `0..=top`. `ends` are the least and the
/// greatest of `x`.
#[inline(always)]
fn affine_levels<S: Lanes, const LEN: usize>(
    x: &[S; LEN],
    ends: &[S; 2],
    inverse: S,
    min: S,
    top: f32,
    levels: &mut [S; LEN],
) {
    // Products lie between those of the ends, which mostly rules out the need to limit them, and
    // almost always that of rounding by the bits.
    let (first, last) = (inverse * (ends[0] - min), inverse * (ends[1] - min));
    let within = |least: f32, most: f32| {
        let above = S::both(S::splat(least).below(first), S::splat(least).below(last));
        let below = S::both(first.below(S::splat(most)), last.below(S::splat(most)));
        S::all(S::both(above, below))
    };
    if within(-0.5, top + 0.5) {
        for i in 0..LEN {
            levels[i] = (inverse * (x[i] - min)).rounded();
        }
    } else if within(-4_194_304.0, 4_194_304.0) {
        for i in 0..LEN {
            levels[i] = (inverse * (x[i] - min)).level(0.0, top);
        }
    } else {
        for i in 0..LEN {
            levels[i] = (inverse * (x[i] - min)).nearest().greater(S::splat(0.0)).lesser(S::splat(top));
        }
    }
}

/// The weighted difference between `x` and `scale * levels + min`.
#[inline(always)]
fn difference<S: Lanes, const LEN: usize>(
    x: &[S; LEN],
    w: &[S; LEN],
    levels: &[S; LEN],
    scale: S,
    min: S,
    absolute: bool,
) -> S {
    let mut sum = S::splat(0.0);
    if absolute {
        for i in 0..LEN {
            sum = sum + w[i] * (scale * levels[i] + min - x[i]).abs();
        }
    } else {
        for i in 0..LEN {
            let d = scale * levels[i] + min - x[i];
            sum = sum + w[i] * (d * d);
        }
    }
    sum
}

/// The number of greatest magnitude with its sign (the first of several), and that magnitude.
#[inline(always)]
pub(super) fn extreme<S: Lanes, const LEN: usize>(x: &[S; LEN]) -> (S, S) {
    let (mut max, mut magnitude) = (S::splat(0.0), S::splat(0.0));
    for &v in x {
        let above = magnitude.below(v.abs());
        magnitude = S::select(above, v.abs(), magnitude);
        max = S::select(above, v, max);
    }
    (max, magnitude)
}

/// `if a != 0 { yes } else { 0 }`, where NaN is not zero.
#[inline(always)]
fn unless_zero<S: Lanes>(a: S, yes: S) -> S {
    let zero = S::splat(0.0);
    S::select(a.equal(zero), zero, yes)
}

/// `x ~ scale * level` with levels `-half..half`: the least-squares scale of the levels that
/// `half`, or `half` -0.9 to +0.9 in tenths, puts at the number of greatest magnitude.
#[inline(always)]
pub(super) fn symmetric<S: Lanes, const LEN: usize>(x: &[S; LEN], w: &[S; LEN], half: f32) -> Fit<S> {
    let zero = S::splat(0.0);
    let (max, magnitude) = extreme(x);
    let empty = magnitude.below(S::splat(ZERO));
    let mut wx = [zero; LEN];
    for i in 0..LEN {
        wx[i] = w[i] * x[i];
    }

    let inverse = S::splat(-half) / max;
    let (sum_lx, sum_l2) = moments(x, w, &wx, inverse, half);
    let scale = unless_zero(sum_l2, sum_lx / sum_l2);
    let mut most = scale * sum_lx;
    let mut best = Fit { scale, min: zero, inverse, origin: zero };
    for tenths in -9i8..=9 {
        if tenths == 0 {
            continue;
        }
        let inverse = S::splat(-(half + 0.1 * f32::from(tenths))) / max;
        let (sum_lx, sum_l2) = moments(x, w, &wx, inverse, half);
        let better = S::both(zero.below(sum_l2), (most * sum_l2).below(sum_lx * sum_lx));
        let scale = sum_lx / sum_l2;
        best.scale = S::select(better, scale, best.scale);
        best.inverse = S::select(better, inverse, best.inverse);
        most = S::select(better, scale * sum_lx, most);
    }
    best.scale = S::select(empty, zero, best.scale);
    best.inverse = S::select(empty, zero, best.inverse);
    best
}

/// The weighted sums of `x * level` and `level * level` for the levels that `inverse` gives.
#[inline(always)]
fn moments<S: Lanes, const LEN: usize>(
    x: &[S; LEN],
    w: &[S; LEN],
    wx: &[S; LEN],
    inverse: S,
    half: f32,
) -> (S, S) {
    let (mut sum_lx, mut sum_l2) = (S::splat(0.0), S::splat(0.0));
    for i in 0..LEN {
        let l = (inverse * x[i]).level(-half, half - 1.0);
        sum_lx = sum_lx + wx[i] * l;
        sum_l2 = sum_l2 + w[i] * l * l;
    }
    (sum_lx, sum_l2)
}

/// `x ~ scale * level` with levels `-half..half`, weighted by squares: the levels that put the
/// number of greatest magnitude at `-half`, refined. Also gives the levels, from 0.
#[inline(always)]
pub(super) fn greedy<S: Lanes, const LEN: usize>(x: &[S; LEN], half: f32) -> (S, [S; LEN]) {
    let zero = S::splat(0.0);
    let (max, magnitude) = extreme(x);
    let empty = magnitude.below(S::splat(ZERO));
    let inverse = S::splat(-half) / max;

    let mut w = [zero; LEN];
    let mut levels = [zero; LEN];
    let (mut sum_lx, mut sum_l2) = (zero, zero);
    for i in 0..LEN {
        let l = (inverse * x[i]).level(-half, half - 1.0);
        levels[i] = l;
        w[i] = x[i] * x[i];
        sum_lx = sum_lx + w[i] * x[i] * l;
        sum_l2 = sum_l2 + w[i] * l * l;
    }
    refine(
        x,
        &w,
        &mut levels,
        &mut sum_lx,
        &mut sum_l2,
        &Moves { low: -half as i32, high: half as i32 - 1, alone: true, bytes: false },
    );
    for l in &mut levels {
        *l = S::select(empty, zero, *l + S::splat(half));
    }
    let scale = S::select(zero.below(sum_l2), sum_lx / sum_l2, zero);
    (S::select(empty, zero, scale), levels)
}

/// `x ~ scale * level` with levels `0..=top` and `x` not negative: the levels of the best of nine scales,
/// refined. Also gives the levels.
///
/// The reference keeps these levels in bytes while its sums keep what it wanted to store. Where all
/// weights but a few are 0, cancellation makes it want absurd levels, and then this shows.
#[inline(always)]
pub(super) fn positive<S: Lanes, const LEN: usize>(x: &[S; LEN], w: &[S; LEN], top: f32) -> (S, [S; LEN]) {
    let zero = S::splat(0.0);
    let mut max = zero;
    for &v in x {
        max = max.greater(v);
    }
    let empty = max.below(S::splat(ZERO));
    let at_most_top = S::splat(top);

    let mut inverse = at_most_top / max;
    let mut least = zero;
    let scale = S::splat(1.0) / inverse;
    for i in 0..LEN {
        let d = x[i] - scale * (inverse * x[i]).nearest().low_byte();
        least = least + w[i] * d * d;
    }
    for tenths in -4i8..=4 {
        if tenths == 0 {
            continue;
        }
        let candidate = S::splat(0.1 * f32::from(tenths) + top) / max;
        let scale = S::splat(1.0) / candidate;
        let mut error = zero;
        for i in 0..LEN {
            let d = x[i] - scale * (candidate * x[i]).nearest().lesser(at_most_top);
            error = error + w[i] * d * d;
        }
        let better = error.below(least);
        least = S::select(better, error, least);
        inverse = S::select(better, candidate, inverse);
    }

    let mut levels = [zero; LEN];
    let (mut sum_lx, mut sum_l2) = (zero, zero);
    for i in 0..LEN {
        let l = (inverse * x[i]).nearest().lesser(at_most_top);
        levels[i] = l.low_byte();
        sum_lx = sum_lx + w[i] * x[i] * l;
        sum_l2 = sum_l2 + w[i] * l * l;
    }
    refine(
        x,
        w,
        &mut levels,
        &mut sum_lx,
        &mut sum_l2,
        &Moves { low: i32::MIN, high: top as i32, alone: false, bytes: true },
    );
    for l in &mut levels {
        *l = S::select(empty, zero, *l);
    }
    let scale = S::select(zero.below(sum_l2), sum_lx / sum_l2, zero);
    (S::select(empty, zero, scale), levels)
}

/// Which moves [`refine`] may make.
struct Moves {
    /// The lowest level.
    low: i32,
    /// The highest level.
    high: i32,
    /// A level may move where all others are 0.
    alone: bool,
    /// A level is kept modulo 256.
    bytes: bool,
}

/// Five rounds of moving one level at a time to where the others want it, if that is closer.
#[inline(always)]
fn refine<S: Lanes, const LEN: usize>(
    x: &[S; LEN],
    w: &[S; LEN],
    levels: &mut [S; LEN],
    sum_lx: &mut S,
    sum_l2: &mut S,
    moves: &Moves,
) {
    let zero = S::splat(0.0);
    for _ in 0..5 {
        // A lane at rest stays at rest, so lanes need not stop one by one.
        let mut moved = false;
        for i in 0..LEN {
            let l = levels[i];
            let wx = w[i] * x[i];
            let others_lx = *sum_lx - wx * l;
            let others_l2 = *sum_l2 - w[i] * l * l;
            let wanted = (x[i] * others_l2 / others_lx).nearest_within(moves.low, moves.high);
            let new_lx = others_lx + wx * wanted;
            let new_l2 = others_l2 + w[i] * wanted * wanted;
            let closer = (*sum_lx * *sum_lx * new_l2).below(new_lx * new_lx * *sum_l2);
            let defined = zero.below(if moves.alone { new_l2 } else { others_l2 });
            let sound = S::both(zero.below(others_lx), defined);
            let change = S::but_not(S::both(sound, closer), wanted.equal(l));
            let stored = if moves.bytes { wanted.low_byte() } else { wanted };
            levels[i] = S::select(change, stored, l);
            *sum_lx = S::select(change, new_lx, *sum_lx);
            *sum_l2 = S::select(change, new_l2, *sum_l2);
            moved |= S::any(change);
        }
        if !moved {
            break;
        }
    }
}

/// `x ~ scale * IQ4_VALUES[level]`: the least-squares scale of the levels that a value from -134 to
/// -120 at the number of greatest magnitude gives.
#[inline(always)]
pub(super) fn nonlinear<S: Lanes, const LEN: usize>(x: &[S; LEN], w: &[S; LEN]) -> S {
    const FIRST: f32 = crate::blocks::IQ4_VALUES[0] as f32;
    let zero = S::splat(0.0);
    let (max, magnitude) = extreme(x);
    let empty = magnitude.below(S::splat(ZERO));

    let inverse = S::splat(1.0) / ((zero - max) / S::splat(FIRST));
    let (sum_qx, sum_q2) = nonlinear_moments(x, w, inverse);
    let mut best = S::select(zero.below(sum_q2), sum_qx / sum_q2, zero);
    let mut most = best * sum_qx;
    for k in -7i8..=7 {
        let inverse = S::splat(f32::from(k) + FIRST) / max;
        let (sum_qx, sum_q2) = nonlinear_moments(x, w, inverse);
        let better = S::both(zero.below(sum_q2), (most * sum_q2).below(sum_qx * sum_qx));
        let scale = sum_qx / sum_q2;
        best = S::select(better, scale, best);
        most = S::select(better, scale * sum_qx, most);
    }
    S::select(empty, zero, best)
}

/// The weighted sums of `x * q` and `q * q` for the IQ4 values `q` that `inverse` gives.
#[inline(always)]
fn nonlinear_moments<S: Lanes, const LEN: usize>(x: &[S; LEN], w: &[S; LEN], inverse: S) -> (S, S) {
    let (mut sum_qx, mut sum_q2) = (S::splat(0.0), S::splat(0.0));
    for i in 0..LEN {
        let (_, q) = (inverse * x[i]).nearest_iq4();
        let wq = w[i] * q;
        sum_qx = sum_qx + wq * x[i];
        sum_q2 = sum_q2 + wq * q;
    }
    (sum_qx, sum_q2)
}
