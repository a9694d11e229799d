//! Operations on one value at a time, and the exponential they share with softmax.

use super::on_level;
use super::simd::{LANES, Simd};
use crate::Level;

/// `e^x` within 2 units in the last place; 0 below -104, infinite above 89, NaN for NaN.
///
/// `x = n ln 2 + r`, a polynomial for `e^r` (Cephes `expf`), and two multiplications by powers
/// of two, so that results that are denormal are rounded once.
#[inline(always)]
pub(super) fn exp<S: Simd>(s: S, x: S::F) -> S::F {
    const ROUND: f32 = 12_582_912.0;
    // A NaN is the second operand, so it stays.
    let x = s.min(s.splat(89.0), s.max(s.splat(-104.0), x));
    let round = s.splat(ROUND);
    let n = s.sub(s.fma(x, s.splat(std::f32::consts::LOG2_E), round), round);
    let r = s.fma(n, s.splat(-0.693_359_4), x);
    let r = s.fma(n, s.splat(2.121_944_4e-4), r);
    let mut p = s.splat(1.987_569_2e-4);
    for c in [1.398_2e-3, 8.333_452e-3, 4.166_579_6e-2, 1.666_666_5e-1, 0.5] {
        p = s.fma(p, r, s.splat(c));
    }
    let p = s.add(s.fma(p, s.mul(r, r), r), s.splat(1.0));
    let half = s.sub(s.fma(n, s.splat(0.5), round), round);
    s.mul(s.mul(p, s.pow2(half)), s.pow2(s.sub(n, half)))
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
    let e = exp(s, s.sub(s.splat(0.0), x));
    s.div(x, s.add(s.splat(1.0), e))
}

#[inline(always)]
fn gelu_tanh<S: Simd>(s: S, x: S::F) -> S::F {
    // (1 + tanh(u)) / 2 = 1 / (1 + e^-2u)
    let cubic = s.fma(s.mul(s.mul(x, x), x), s.splat(0.044_715), x);
    let e = exp(s, s.mul(cubic, s.splat(-1.595_769)));
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
    let tail = s.mul(s.mul(p, t), exp(s, s.sub(s.splat(0.0), s.mul(z, z))));
    // x >= 0: x - x tail / 2; x < 0: x tail / 2.
    let half = s.mul(s.mul(s.abs(x), s.splat(0.5)), tail);
    s.sub(s.max(s.splat(0.0), x), half)
}

/// `x[i] = activation(x[i])`.
pub fn activate(level: Level, activation: Activation, x: &mut [f32]) {
    macro_rules! run {
        ($s:ident, $v:ident => $f:expr) => {{
            #[inline(always)]
            fn body<S: Simd>($s: S, x: &mut [f32]) {
                each!($s, x, $v => $f);
            }
            on_level!(level, body(x: &mut [f32]));
        }};
    }
    match activation {
        Activation::Silu => run!(s, v => silu(s, v)),
        Activation::GeluTanh => run!(s, v => gelu_tanh(s, v)),
        Activation::GeluErf => run!(s, v => gelu_erf(s, v)),
        // A NaN is the second operand, so it stays.
        Activation::Relu => run!(s, v => s.max(s.splat(0.0), v)),
        Activation::ReluSquared => run!(s, v => {
            let v = s.max(s.splat(0.0), v);
            s.mul(v, v)
        }),
    }
}

/// `gate[i] = activation(gate[i]) * up[i]`.
///
/// # Panics
/// If the lengths differ.
pub fn gated(level: Level, activation: Activation, gate: &mut [f32], up: &[f32]) {
    assert_eq!(gate.len(), up.len(), "gate and up are of one length");
    activate(level, activation, gate);
    gate.iter_mut().zip(up).for_each(|(g, u)| *g *= u);
}

/// `x[i] = cap * tanh(x[i] / cap)`.
pub fn soft_cap(level: Level, x: &mut [f32], cap: f32) {
    #[inline(always)]
    fn body<S: Simd>(s: S, x: &mut [f32], cap: f32) {
        // cap * tanh(v / cap) = cap - 2 cap / (1 + e^(2 v / cap))
        each!(s, x, v => {
            let e = exp(s, s.mul(s.div(v, s.splat(cap)), s.splat(2.0)));
            s.sub(s.splat(cap), s.div(s.splat(2.0 * cap), s.add(s.splat(1.0), e)))
        });
    }
    on_level!(level, body(x: &mut [f32], cap: f32));
}

/// `x[i] *= factor`.
pub fn scale(x: &mut [f32], factor: f32) {
    x.iter_mut().for_each(|v| *v *= factor);
}

/// `x[i] += y[i]`.
///
/// # Panics
/// If the lengths differ.
pub fn add(x: &mut [f32], y: &[f32]) {
    assert_eq!(x.len(), y.len(), "terms are of one length");
    x.iter_mut().zip(y).for_each(|(x, y)| *x += y);
}

/// Rounds to half precision, ties to even; too large becomes infinite.
///
/// # Panics
/// If the lengths differ.
pub fn to_f16(level: Level, x: &[f32], out: &mut [u16]) {
    assert_eq!(x.len(), out.len(), "a conversion keeps the length");
    #[inline(always)]
    fn body<S: Simd>(s: S, x: &[f32], out: &mut [u16]) {
        for (x, out) in x.chunks(LANES).zip(out.chunks_mut(LANES)) {
            let (mut wide, mut narrow) = ([0.0; LANES], [0; LANES]);
            wide[..x.len()].copy_from_slice(x);
            s.store_f16(s.load(&wide), &mut narrow);
            out.copy_from_slice(&narrow[..out.len()]);
        }
    }
    on_level!(level, body(x: &[f32], out: &mut [u16]));
}

/// Widens half precision, exactly.
///
/// # Panics
/// If the lengths differ.
pub fn from_f16(x: &[u16], out: &mut [f32]) {
    assert_eq!(x.len(), out.len(), "a conversion keeps the length");
    x.iter().zip(out).for_each(|(x, out)| *out = super::simd::f16_to_f32(*x));
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
            let mut gate = x.clone();
            gated(Level::Portable, activation, &mut gate, &ones);
            gate
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
                        let mut gate = x.clone();
                        gated(level, activation, &mut gate, &up);
                        let mut capped = x.clone();
                        soft_cap(level, &mut capped, 30.0);
                        let mut halves = vec![0; n];
                        to_f16(level, &x, &mut halves);
                        let mut widened = vec![0.0; n];
                        from_f16(&halves, &mut widened);
                        [gate, capped, exp_of(level, &x), widened].map(|v| bits(&v))
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
    fn half_precision_rounds_to_even() {
        let mut out = [0; 4];
        to_f16(Level::detect(), &[1.0, 2049.0, 2051.0, 70000.0], &mut out);
        let mut back = [0.0; 4];
        from_f16(&out, &mut back);
        assert_eq!(back, [1.0, 2048.0, 2052.0, f32::INFINITY]);
    }
}
