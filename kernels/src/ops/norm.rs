//! Root-mean-square norm and layer norm.

use super::on_level;
use super::simd::{LANES, Simd};
use crate::Level;

/// `out[i] = x[i] / sqrt(mean(x^2) + epsilon) * weight[i]`.
///
/// # Panics
/// If the lengths differ or are 0.
pub fn rms_norm(level: Level, x: &[f32], weight: &[f32], epsilon: f32, out: &mut [f32]) {
    assert!(!x.is_empty() && x.len() == weight.len() && x.len() == out.len(), "a norm keeps the length");
    #[inline(always)]
    fn body<S: Simd>(s: S, x: &[f32], weight: &[f32], epsilon: f32, out: &mut [f32]) {
        let scale = scale_of(sum_of_squares(s, x), x.len(), epsilon);
        for ((o, x), w) in out.iter_mut().zip(x).zip(weight) {
            *o = x * scale * w;
        }
    }
    on_level!(level, body(x: &[f32], weight: &[f32], epsilon: f32, out: &mut [f32]));
}

/// [`rms_norm`] in place.
///
/// # Panics
/// If the lengths differ or are 0.
pub fn rms_norm_in_place(level: Level, x: &mut [f32], weight: &[f32], epsilon: f32) {
    assert!(!x.is_empty() && x.len() == weight.len(), "a norm keeps the length");
    #[inline(always)]
    fn body<S: Simd>(s: S, x: &mut [f32], weight: &[f32], epsilon: f32) {
        let scale = scale_of(sum_of_squares(s, x), x.len(), epsilon);
        for (x, w) in x.iter_mut().zip(weight) {
            *x = *x * scale * w;
        }
    }
    on_level!(level, body(x: &mut [f32], weight: &[f32], epsilon: f32));
}

/// `1 / sqrt(mean(x^2) + epsilon)`: what a norm multiplies with before its weight.
pub fn rms_scale(level: Level, x: &[f32], epsilon: f32) -> f32 {
    #[inline(always)]
    fn body<S: Simd>(s: S, x: &[f32]) -> f32 {
        sum_of_squares(s, x)
    }
    scale_of(on_level!(level, body(x: &[f32]) -> f32), x.len(), epsilon)
}

#[inline(always)]
fn scale_of(squares: f32, len: usize, epsilon: f32) -> f32 {
    1.0 / (squares / len as f32 + epsilon).sqrt()
}

/// `out[i] = (x[i] - mean(x)) / sqrt(var(x) + epsilon) * weight[i] + bias[i]`.
///
/// # Panics
/// If the lengths differ or are 0.
pub fn layer_norm(
    level: Level,
    x: &[f32],
    weight: &[f32],
    bias: Option<&[f32]>,
    epsilon: f32,
    out: &mut [f32],
) {
    assert_eq!(x.len(), out.len(), "a norm keeps the length");
    out.copy_from_slice(x);
    layer_norm_in_place(level, out, weight, bias, epsilon);
}

/// [`layer_norm`] in place.
///
/// # Panics
/// If the lengths differ or are 0.
pub fn layer_norm_in_place(level: Level, x: &mut [f32], weight: &[f32], bias: Option<&[f32]>, epsilon: f32) {
    assert!(!x.is_empty() && x.len() == weight.len(), "a norm keeps the length");
    assert!(bias.is_none_or(|bias| x.len() == bias.len()), "a norm keeps the length");
    #[inline(always)]
    fn body<S: Simd>(s: S, x: &mut [f32], weight: &[f32], bias: Option<&[f32]>, epsilon: f32) {
        let mean = sum(s, x) / x.len() as f32;
        x.iter_mut().for_each(|v| *v -= mean);
        let scale = scale_of(sum_of_squares(s, x), x.len(), epsilon);
        x.iter_mut().zip(weight).for_each(|(v, w)| *v = *v * scale * w);
        if let Some(bias) = bias {
            x.iter_mut().zip(bias).for_each(|(v, b)| *v += b);
        }
    }
    on_level!(level, body(x: &mut [f32], weight: &[f32], bias: Option<&[f32]>, epsilon: f32));
}

/// Sums that run side by side: one alone would wait for each addition before the next.
const SUMS: usize = 4;

/// Vector i of `$x` goes to sum `i % 4` by `$add`, the last vector is filled with zeros; then the first half of
/// the sums is added to the second, and what is left to each other.
macro_rules! sums {
    ($s:ident, $x:ident, $sum:ident, $v:ident => $add:expr) => {{
        let mut sums = [$s.splat(0.0); SUMS];
        let (vectors, rest) = $x.as_chunks::<LANES>();
        let (fours, ones) = vectors.as_chunks::<SUMS>();
        for four in fours {
            for ($sum, v) in sums.iter_mut().zip(four) {
                let $v = $s.load(v);
                *$sum = $add;
            }
        }
        for ($sum, v) in sums.iter_mut().zip(ones) {
            let $v = $s.load(v);
            *$sum = $add;
        }
        let mut last = [0.0; LANES];
        last[..rest.len()].copy_from_slice(rest);
        let ($v, $sum) = ($s.load(&last), &mut sums[ones.len()]);
        *$sum = $add;
        let [a, b, c, d] = sums;
        $s.sum($s.add($s.add(a, c), $s.add(b, d)))
    }};
}

#[inline(always)]
fn sum_of_squares<S: Simd>(s: S, x: &[f32]) -> f32 {
    sums!(s, x, sum, v => s.fma(v, v, *sum))
}

#[inline(always)]
fn sum<S: Simd>(s: S, x: &[f32]) -> f32 {
    sums!(s, x, sum, v => s.add(*sum, v))
}

#[cfg(test)]
mod tests {
    use super::super::tests::{Random, bits};
    use super::*;

    #[test]
    fn the_mean_square_is_one() {
        let x = Random(2).floats(576);
        let mut out = vec![0.0; 576];
        rms_norm(Level::Portable, &x, &vec![2.0; 576], 0.0, &mut out);
        let mean = out.iter().map(|v| f64::from(*v).powi(2)).sum::<f64>() / 576.0;
        assert!((mean - 4.0).abs() < 1e-5, "{mean}");
    }

    #[test]
    fn layer_norm_is_that_of_float64() {
        let mut random = Random(3);
        for n in [1, 16, 40, 768] {
            let x: Vec<f32> = random.floats(n).iter().map(|v| v + 3.0).collect();
            let (weight, bias) = (random.floats(n), random.floats(n));
            let mean = x.iter().map(|v| f64::from(*v)).sum::<f64>() / n as f64;
            let variance = x.iter().map(|v| (f64::from(*v) - mean).powi(2)).sum::<f64>() / n as f64;
            let mut out = x.clone();
            layer_norm_in_place(Level::Portable, &mut out, &weight, Some(&bias), 1e-5);
            for i in 0..n {
                let exact = (f64::from(x[i]) - mean) / (variance + 1e-5).sqrt() * f64::from(weight[i])
                    + f64::from(bias[i]);
                assert!((f64::from(out[i]) - exact).abs() < 2e-5, "{n} {i}: {} {exact}", out[i]);
            }
        }
    }

    #[test]
    fn levels_agree() {
        let mut random = Random(4);
        for n in [1, 15, 16, 17, 100] {
            for x in [random.floats(n), random.hostile(n)] {
                let weight = random.floats(n);
                let mut expected = vec![0.0; n];
                rms_norm(Level::Portable, &x, &weight, 1e-5, &mut expected);
                for level in Level::available() {
                    let mut out = x.clone();
                    rms_norm_in_place(level, &mut out, &weight, 1e-5);
                    assert_eq!(bits(&out), bits(&expected));
                    let centred = |level| {
                        let mut out = x.clone();
                        layer_norm_in_place(level, &mut out, &weight, Some(&weight), 1e-5);
                        bits(&out)
                    };
                    assert_eq!(centred(level), centred(Level::Portable));
                }
            }
        }
    }
}
