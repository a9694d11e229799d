//! Operations on one value at a time, and the exponential they share with softmax.

use super::on_level;
use super::simd::{LANES, ROUND, Simd, f16_to_f32};
use crate::Level;

/// `e^x` within 2 units in the last place; 0 below -104, infinite above 89, NaN for NaN.
#[inline(always)]
pub(super) fn exp<S: Simd>(s: S, x: S::F) -> S::F {
    // A NaN is the second operand, so it stays.
    let (p, n) = exp_parts(s, s.min(s.splat(89.0), s.max(s.splat(-104.0), x)));
    s.mul_pow2(p, n)
}

/// [`exp`] where a result of less than `e^-87` or more than `e^88` may be that: it is added to 1, or divides.
#[inline(always)]
fn exp_within<S: Simd>(s: S, x: S::F) -> S::F {
    let (p, n) = exp_parts(s, s.min(s.splat(88.0), s.max(s.splat(-87.0), x)));
    s.mul(p, s.pow2(n))
}

/// `p` and an integral `n` with `e^x = p 2^n`: `x = n ln 2 + r`, and a polynomial for `e^r` (Cephes `expf`).
#[inline(always)]
fn exp_parts<S: Simd>(s: S, x: S::F) -> (S::F, S::F) {
    let round = s.splat(ROUND);
    let n = s.sub(s.fma(x, s.splat(std::f32::consts::LOG2_E), round), round);
    let r = s.fma(n, s.splat(-0.693_359_4), x);
    let r = s.fma(n, s.splat(2.121_944_4e-4), r);
    let mut p = s.splat(1.987_569_2e-4);
    for c in [1.398_2e-3, 8.333_452e-3, 4.166_579_6e-2, 1.666_666_5e-1, 0.5] {
        p = s.fma(p, r, s.splat(c));
    }
    (s.add(s.fma(p, s.mul(r, r), r), s.splat(1.0)), n)
}

/// `2^x` within 2 units in the last place for `x` of 0 or less; 0 below -126, NaN for NaN.
///
/// `x = n + r` by a sum that leaves `n` in the low bits, where it becomes an exponent, and a polynomial for
/// `2^r` of the least relative error on -0.5 to 0.5 (2e-9).
#[inline(always)]
pub(super) fn exp2_of_negative<S: Simd>(s: S, x: S::F) -> S::F {
    // 1.5 * 2^23 and an exponent's bias.
    let round = s.splat(12_582_912.0 + 127.0);
    let shifted = s.add(x, round);
    let r = s.sub(x, s.sub(shifted, round));
    let mut p = s.splat(1.535_336_2e-4);
    for c in [1.339_887_5e-3, 9.618_437e-3, 5.550_332_4e-2, 2.402_264_8e-1, 6.931_472e-1, 1.0] {
        p = s.fma(p, r, s.splat(c));
    }
    s.zero_below(s.mul(p, s.exponent(shifted)), x, s.splat(-126.0))
}

/// Replaces sixteen values of `$x` at a time by `$f` of them; the last step is filled with zeros. A closure would
/// not have the target feature of the function it is called in, and each intrinsic would be a call.
macro_rules! each {
    ($s:expr, $x:expr, $v:ident => $f:expr) => {{
        let (chunks, rest) = $x.as_chunks_mut::<LANES>();
        for chunk in chunks {
            let $v = $s.load(chunk);
            $s.store($f, chunk);
        }
        if !rest.is_empty() {
            let mut last = [0.0; LANES];
            last[..rest.len()].copy_from_slice(rest);
            let $v = $s.load(&last);
            $s.store($f, &mut last);
            rest.copy_from_slice(&last[..rest.len()]);
        }
    }};
}

/// What a feed-forward network applies to its gate, or to its hidden layer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Activation {
    /// `x / (1 + e^-x)`.
    Silu,
    /// `x / 2 (1 + tanh(sqrt(2 / pi) (x + 0.044715 x^3)))`.
    GeluTanh,
    /// `x / 2 (1 + erf(x / sqrt(2)))`.
    GeluErf,
    /// `max(x, 0)`.
    Relu,
    /// `max(x, 0)^2`.
    ReluSquared,
}

#[inline(always)]
fn silu<S: Simd>(s: S, x: S::F) -> S::F {
    let e = exp_within(s, s.sub(s.splat(0.0), x));
    s.div(x, s.add(s.splat(1.0), e))
}

#[inline(always)]
fn gelu_tanh<S: Simd>(s: S, x: S::F) -> S::F {
    // (1 + tanh(u)) / 2 = 1 / (1 + e^-2u)
    let cubic = s.fma(s.mul(s.mul(x, x), x), s.splat(0.044_715), x);
    let e = exp_within(s, s.mul(cubic, s.splat(-1.595_769)));
    s.div(x, s.add(s.splat(1.0), e))
}

/// GELU by the error function, of which Abramowitz and Stegun 7.1.26 gives the complement within 1.5e-7:
/// `erfc(z) = (a1 t + ... + a5 t^5) e^(-z^2)`, `t = 1 / (1 + p z)`, for z of 0 or more.
#[inline(always)]
fn gelu_erf<S: Simd>(s: S, x: S::F) -> S::F {
    let z = s.mul(s.abs(x), s.splat(std::f32::consts::FRAC_1_SQRT_2));
    let t = s.div(s.splat(1.0), s.fma(z, s.splat(0.327_591_1), s.splat(1.0)));
    let mut p = s.splat(1.061_405_4);
    for a in [-1.453_152, 1.421_413_7, -0.284_496_74, 0.254_829_6] {
        p = s.fma(p, t, s.splat(a));
    }
    let tail = s.mul(s.mul(p, t), exp_within(s, s.sub(s.splat(0.0), s.mul(z, z))));
    // x >= 0: x - x tail / 2; x < 0: x tail / 2.
    let half = s.mul(s.mul(s.abs(x), s.splat(0.5)), tail);
    s.sub(s.max(s.splat(0.0), x), half)
}

/// Calls `$run!(s, v => activation of v)` for an [`Activation`].
macro_rules! with_activation {
    ($activation:expr, $run:ident) => {
        match $activation {
            Activation::Silu => $run!(s, v => silu(s, v)),
            Activation::GeluTanh => $run!(s, v => gelu_tanh(s, v)),
            Activation::GeluErf => $run!(s, v => gelu_erf(s, v)),
            // A NaN is the second operand, so it stays.
            Activation::Relu => $run!(s, v => s.max(s.splat(0.0), v)),
            Activation::ReluSquared => $run!(s, v => {
                let v = s.max(s.splat(0.0), v);
                s.mul(v, v)
            }),
        }
    };
}

/// `out[i] = activation(x[i])`.
///
/// # Panics
/// If the lengths differ.
pub fn activate(level: Level, activation: Activation, x: &[f32], out: &mut [f32]) {
    assert_eq!(x.len(), out.len(), "an activation keeps the length");
    macro_rules! run {
        ($s:ident, $v:ident => $f:expr) => {{
            #[inline(always)]
            fn body<S: Simd>($s: S, x: &[f32], out: &mut [f32]) {
                let ((x, x_rest), (out, out_rest)) = (x.as_chunks(), out.as_chunks_mut());
                for (x, out) in x.iter().zip(out) {
                    let $v = $s.load(x);
                    $s.store($f, out);
                }
                let $v = $s.load(&padded(x_rest));
                let mut last = [0.0; LANES];
                $s.store($f, &mut last);
                out_rest.copy_from_slice(&last[..x_rest.len()]);
            }
            on_level!(level, body(x: &[f32], out: &mut [f32]));
        }};
    }
    with_activation!(activation, run);
}

/// `out[i] = activation(gate[i]) * up[i]`.
///
/// # Panics
/// If the lengths differ.
pub fn gated(level: Level, activation: Activation, gate: &[f32], up: &[f32], out: &mut [f32]) {
    assert!(gate.len() == up.len() && gate.len() == out.len(), "gate and up are of one length");
    macro_rules! run {
        ($s:ident, $v:ident => $f:expr) => {{
            #[inline(always)]
            fn body<S: Simd>($s: S, gate: &[f32], up: &[f32], out: &mut [f32]) {
                let ((gate, gate_rest), (up, up_rest)) = (gate.as_chunks(), up.as_chunks());
                let (out, out_rest) = out.as_chunks_mut();
                for ((gate, up), out) in gate.iter().zip(up).zip(out) {
                    let $v = $s.load(gate);
                    $s.store($s.mul($f, $s.load(up)), out);
                }
                let $v = $s.load(&padded(gate_rest));
                let mut last = [0.0; LANES];
                $s.store($s.mul($f, $s.load(&padded(up_rest))), &mut last);
                out_rest.copy_from_slice(&last[..out_rest.len()]);
            }
            on_level!(level, body(gate: &[f32], up: &[f32], out: &mut [f32]));
        }};
    }
    with_activation!(activation, run);
}

/// `x[i] = cap * tanh(x[i] / cap)`.
pub fn soft_cap(level: Level, x: &mut [f32], cap: f32) {
    #[inline(always)]
    fn body<S: Simd>(s: S, x: &mut [f32], cap: f32) {
        // cap * tanh(v / cap) = cap - 2 cap / (1 + e^(2 v / cap))
        each!(s, x, v => {
            let e = exp_within(s, s.mul(s.div(v, s.splat(cap)), s.splat(2.0)));
            s.sub(s.splat(cap), s.div(s.splat(2.0 * cap), s.add(s.splat(1.0), e)))
        });
    }
    on_level!(level, body(x: &mut [f32], cap: f32));
}

/// `x[i] *= factor`.
pub fn scale(level: Level, x: &mut [f32], factor: f32) {
    #[inline(always)]
    fn body<S: Simd>(_: S, x: &mut [f32], factor: f32) {
        x.iter_mut().for_each(|v| *v *= factor);
    }
    on_level!(level, body(x: &mut [f32], factor: f32));
}

/// `x[i] += y[i]`.
///
/// # Panics
/// If the lengths differ.
pub fn add(level: Level, x: &mut [f32], y: &[f32]) {
    assert_eq!(x.len(), y.len(), "terms are of one length");
    #[inline(always)]
    fn body<S: Simd>(_: S, x: &mut [f32], y: &[f32]) {
        x.iter_mut().zip(y).for_each(|(x, y)| *x += y);
    }
    on_level!(level, body(x: &mut [f32], y: &[f32]));
}

/// `x[i] += factor * y[i]`, rounded twice.
///
/// # Panics
/// If the lengths differ.
pub fn add_scaled(level: Level, x: &mut [f32], y: &[f32], factor: f32) {
    assert_eq!(x.len(), y.len(), "terms are of one length");
    #[inline(always)]
    fn body<S: Simd>(_: S, x: &mut [f32], y: &[f32], factor: f32) {
        x.iter_mut().zip(y).for_each(|(x, y)| *x += factor * y);
    }
    on_level!(level, body(x: &mut [f32], y: &[f32], factor: f32));
}

/// True when no value is an infinity or a NaN.
pub fn all_finite(level: Level, x: &[f32]) -> bool {
    #[inline(always)]
    fn body<S: Simd>(_: S, x: &[f32]) -> bool {
        // Without a branch per value, for the compiler to use vectors.
        x.iter().fold(true, |all, v| all & (v.abs() < f32::INFINITY))
    }
    on_level!(level, body(x: &[f32]) -> bool)
}

/// True when every value is below `limit`; false when one is a NaN.
pub fn all_below(level: Level, x: &[f32], limit: f32) -> bool {
    #[inline(always)]
    fn body<S: Simd>(_: S, x: &[f32], limit: f32) -> bool {
        x.iter().fold(true, |all, v| all & (*v < limit))
    }
    on_level!(level, body(x: &[f32], limit: f32) -> bool)
}

/// Where the greatest value is, the first of equals; `None` when there is none, or a NaN is the first.
pub fn greatest(level: Level, x: &[f32]) -> Option<usize> {
    /// Values that are compared together.
    const CHUNK: usize = 64;
    #[inline(always)]
    fn body<S: Simd>(_: S, x: &[f32]) -> Option<usize> {
        let mut best = *x.first().filter(|v| !v.is_nan())?;
        let mut at = 0;
        for (i, chunk) in x.chunks(CHUNK).enumerate() {
            // Without a branch per value, for the compiler to use vectors: most chunks have none.
            if chunk.iter().fold(false, |any, v| any | (*v > best)) {
                for (j, v) in chunk.iter().enumerate() {
                    if *v > best {
                        (best, at) = (*v, i * CHUNK + j);
                    }
                }
            }
        }
        Some(at)
    }
    on_level!(level, body(x: &[f32]) -> Option<usize>)
}

/// Rounds to half precision, ties to even; too large becomes infinite.
///
/// # Panics
/// If the lengths differ.
pub fn to_f16(level: Level, x: &[f32], out: &mut [u16]) {
    assert_eq!(x.len(), out.len(), "a conversion keeps the length");
    #[inline(always)]
    fn body<S: Simd>(s: S, x: &[f32], out: &mut [u16]) {
        let ((x, x_rest), (out, out_rest)) = (x.as_chunks(), out.as_chunks_mut());
        for (x, out) in x.iter().zip(out) {
            s.store_f16(s.load(x), out);
        }
        let mut last = [0; LANES];
        s.store_f16(s.load(&padded(x_rest)), &mut last);
        out_rest.copy_from_slice(&last[..x_rest.len()]);
    }
    on_level!(level, body(x: &[f32], out: &mut [u16]));
}

/// Widens half precision, exactly.
///
/// # Panics
/// If the lengths differ.
pub fn from_f16(level: Level, x: &[u16], out: &mut [f32]) {
    assert_eq!(x.len(), out.len(), "a conversion keeps the length");
    #[inline(always)]
    fn body<S: Simd>(_: S, x: &[u16], out: &mut [f32]) {
        x.iter().zip(out).for_each(|(x, out)| *out = f16_to_f32(*x));
    }
    on_level!(level, body(x: &[u16], out: &mut [f32]));
}

/// The values, then zeros.
#[inline(always)]
fn padded(values: &[f32]) -> [f32; LANES] {
    let mut padded = [0.0; LANES];
    padded[..values.len()].copy_from_slice(values);
    padded
}

#[cfg(test)]
#[allow(clippy::disallowed_methods)]
mod tests {
    use super::super::tests::{Random, bits};
    use super::*;

    fn exp_of(level: Level, x: &[f32]) -> Vec<f32> {
        #[inline(always)]
        fn body<S: Simd>(s: S, x: &mut [f32]) {
            each!(s, x, v => exp(s, v));
        }
        let mut x = x.to_vec();
        let values = &mut x[..];
        on_level!(level, body(values: &mut [f32]));
        x
    }

    #[test]
    fn the_exponential_is_close() {
        let x: Vec<f32> = (-103_000..88_700).step_by(7).map(|i| i as f32 / 1000.0).collect();
        for (x, y) in x.iter().zip(exp_of(Level::Portable, &x)) {
            let exact = f64::from(*x).exp();
            let unit = (exact * f64::from(f32::EPSILON)).max(f64::from(f32::from_bits(1)));
            assert!((f64::from(y) - exact).abs() <= 1.5 * unit, "{x} {y} {exact}");
        }
        let ends =
            exp_of(Level::Portable, &[f32::NEG_INFINITY, -104.0, 0.0, 88.72, 89.0, f32::INFINITY, f32::NAN]);
        assert_eq!(ends[..3], [0.0, 0.0, 1.0]);
        assert!(
            ends[3].is_finite() && ends[4] == f32::INFINITY && ends[5] == f32::INFINITY && ends[6].is_nan()
        );
    }

    #[test]
    fn powers_of_two_are_close() {
        let exp2 = |level, x: &[f32]| {
            let mut x = x.to_vec();
            #[inline(always)]
            fn body<S: Simd>(s: S, x: &mut [f32]) {
                each!(s, x, v => exp2_of_negative(s, v));
            }
            let x_mut = &mut x[..];
            on_level!(level, body(x_mut: &mut [f32]));
            x
        };
        let x: Vec<f32> = (0..400_000).map(|i| -126.0 * i as f32 / 399_999.0).collect();
        for (x, y) in x.iter().zip(exp2(Level::Portable, &x)) {
            let exact = f64::from(*x).exp2();
            let unit = f64::from(f32::from_bits(y.to_bits() & 0x7f80_0000)) * f64::from(f32::EPSILON);
            assert!((f64::from(y) - exact).abs() <= 1.5 * unit, "{x} {y} {exact}");
        }
        let ends = [0.0, -0.0, -1.0, -126.0, -126.1, f32::MIN, f32::NEG_INFINITY, f32::NAN, -1e-45];
        let powers = exp2(Level::Portable, &ends);
        assert_eq!(powers[..7], [1.0, 1.0, 0.5, f32::MIN_POSITIVE, 0.0, 0.0, 0.0]);
        assert!(powers[7].is_nan() && powers[8] == 1.0);
        for level in Level::available() {
            for x in [&x[..1000], &ends] {
                assert_eq!(bits(&exp2(level, x)), bits(&exp2(Level::Portable, x)), "{level:?}");
            }
        }
    }

    #[test]
    fn activations_are_close() {
        let x: Vec<f32> = (-2000..2000).map(|i| i as f32 / 50.0).collect();
        let ones = vec![1.0; x.len()];
        let run = |activation| {
            let (mut out, mut alone) = (vec![0.0; x.len()], vec![0.0; x.len()]);
            gated(Level::Portable, activation, &x, &ones, &mut out);
            activate(Level::Portable, activation, &x, &mut alone);
            assert_eq!(bits(&out), bits(&alone));
            out
        };
        let (silu, gelu) = (run(Activation::Silu), run(Activation::GeluTanh));
        let (erf, relu, squared) =
            (run(Activation::GeluErf), run(Activation::Relu), run(Activation::ReluSquared));
        let exact_silu = |x: f64| x / (1.0 + (-x).exp());
        let exact_gelu = |x: f64| {
            0.5 * x * (1.0 + ((2.0 / std::f64::consts::PI).sqrt() * (x + 0.044715 * x.powi(3))).tanh())
        };
        let mut capped = x.clone();
        soft_cap(Level::Portable, &mut capped, 15.0);
        for (i, &v) in x.iter().enumerate() {
            let v64 = f64::from(v);
            let close =
                |a: f32, b: f64| assert!((f64::from(a) - b).abs() <= 3e-6 * (1.0 + v64.abs()), "{v} {a} {b}");
            close(silu[i], exact_silu(v64));
            close(gelu[i], exact_gelu(v64));
            close(capped[i], 15.0 * (v64 / 15.0).tanh());
            close(erf[i], 0.5 * v64 * (1.0 + libm::erf(v64 / 2f64.sqrt())));
            assert_eq!((relu[i], squared[i]), (v.max(0.0), v.max(0.0) * v.max(0.0)));
        }
    }

    #[test]
    fn levels_agree() {
        let mut random = Random(8);
        for n in [0, 1, 15, 16, 17, 1000] {
            for x in [random.floats(n), random.hostile(n)] {
                let up = random.floats(n);
                for activation in [
                    Activation::Silu,
                    Activation::GeluTanh,
                    Activation::GeluErf,
                    Activation::Relu,
                    Activation::ReluSquared,
                ] {
                    let run = |level| {
                        let mut gate = vec![0.0; n];
                        gated(level, activation, &x, &up, &mut gate);
                        let mut alone = vec![0.0; n];
                        activate(level, activation, &x, &mut alone);
                        let mut capped = x.clone();
                        soft_cap(level, &mut capped, 30.0);
                        let mut halves = vec![0; n];
                        to_f16(level, &x, &mut halves);
                        let mut widened = vec![0.0; n];
                        from_f16(level, &halves, &mut widened);
                        let mut sum = x.clone();
                        add(level, &mut sum, &up);
                        scale(level, &mut sum, 0.3);
                        add_scaled(level, &mut sum, &up, 0.7);
                        [gate, alone, sum, capped, exp_of(level, &x), widened].map(|v| bits(&v))
                    };
                    let expected = run(Level::Portable);
                    for level in Level::available() {
                        assert_eq!(run(level), expected, "{level:?} {n}");
                    }
                }
            }
        }
    }

    #[test]
    fn one_value_that_is_not_finite_is_found() {
        for level in Level::available() {
            for n in [0, 1, 16, 100] {
                let mut x = vec![f32::MAX; n];
                assert!(all_finite(level, &x) && all_below(level, &x, f32::INFINITY));
                for bad in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
                    for at in 0..n {
                        x[at] = bad;
                        assert!(!all_finite(level, &x));
                        assert_eq!(all_below(level, &x, f32::INFINITY), bad == f32::NEG_INFINITY);
                        x[at] = -0.0;
                    }
                }
            }
        }
    }

    #[test]
    fn the_first_of_the_greatest_is_found() {
        let mut random = Random(12);
        for level in Level::available() {
            assert_eq!(greatest(level, &[]), None);
            assert_eq!(greatest(level, &[f32::NAN, 1.0]), None);
            assert_eq!(greatest(level, &[f32::NEG_INFINITY; 70]), Some(0));
            for n in [1, 63, 64, 65, 1000] {
                // Few distinct values, so that there are equals.
                let x: Vec<f32> = random.floats(n).iter().map(|v| (v * 4.0).round()).collect();
                let most = x.iter().copied().fold(f32::MIN, f32::max);
                assert_eq!(greatest(level, &x), x.iter().position(|v| *v == most));
            }
        }
    }

    #[test]
    fn half_precision_rounds_to_even() {
        let mut out = [0; 4];
        to_f16(Level::detect(), &[1.0, 2049.0, 2051.0, 70000.0], &mut out);
        let mut back = [0.0; 4];
        from_f16(Level::detect(), &out, &mut back);
        assert_eq!(back, [1.0, 2048.0, 2052.0, f32::INFINITY]);
    }
}
