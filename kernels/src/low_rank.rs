//! The product of an adapter's factors, added to rows.
//!
//! Each value is `x + scale * (((0 + b0 * a0) + b1 * a1) + ...)` in single precision, products and sums rounded
//! one by one in the order of the rank: whatever the level, and however rows are cut into runs.

use crate::Level;

/// Rows that share what is read of `a`.
const ROWS: usize = 4;

/// `rows += scale * (b * a)`: `rows` is `[n, cols]`, `b` is `[n, rank]`, `a` is `[rank, cols]`, the last dimension
/// contiguous; at the current [`Level`].
///
/// # Panics
/// If a length does not fit, or `cols` or `rank` is 0.
pub fn add_low_rank(rows: &mut [f32], cols: usize, b: &[f32], a: &[f32], rank: usize, scale: f32) {
    add_low_rank_at(Level::current(), rows, cols, b, a, rank, scale);
}

/// [`add_low_rank`] at a given level, or the best this machine has if that is lower.
///
/// # Panics
/// As [`add_low_rank`].
pub fn add_low_rank_at(
    level: Level,
    rows: &mut [f32],
    cols: usize,
    b: &[f32],
    a: &[f32],
    rank: usize,
    scale: f32,
) {
    assert!(cols > 0 && rank > 0, "matrices have rows and columns");
    assert!(rows.len().is_multiple_of(cols) && b.len().is_multiple_of(rank), "rows are whole");
    assert_eq!(rows.len() / cols, b.len() / rank, "`b` has as many rows");
    assert_eq!(a.len() / cols, rank, "`a` has a row for each rank");
    match level.min(Level::detect()) {
        Level::Portable => add::<16>(rows, cols, b, a, rank, scale),
        #[cfg(target_arch = "x86_64")]
        // SAFETY: `Level::detect` found every feature of the level.
        Level::Avx2 => unsafe { add_avx2(rows, cols, b, a, rank, scale) },
        #[cfg(target_arch = "x86_64")]
        // SAFETY: as above.
        Level::Avx512Vnni | Level::Amx => unsafe { add_avx512(rows, cols, b, a, rank, scale) },
        #[cfg(not(target_arch = "x86_64"))]
        _ => add::<16>(rows, cols, b, a, rank, scale),
    }
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2")]
fn add_avx2(rows: &mut [f32], cols: usize, b: &[f32], a: &[f32], rank: usize, scale: f32) {
    add::<16>(rows, cols, b, a, rank, scale);
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,avx512f,avx512bw,avx512vl,avx512dq")]
fn add_avx512(rows: &mut [f32], cols: usize, b: &[f32], a: &[f32], rank: usize, scale: f32) {
    add::<32>(rows, cols, b, a, rank, scale);
}

/// `WIDTH` columns at a time, whose part of `a` is laid out as it is read.
#[inline(always)]
fn add<const WIDTH: usize>(rows: &mut [f32], cols: usize, b: &[f32], a: &[f32], rank: usize, scale: f32) {
    let mut panel = vec![[0.0; WIDTH]; rank];
    for at in (0..cols).step_by(WIDTH) {
        let width = WIDTH.min(cols - at);
        for (line, a) in panel.iter_mut().zip(a.chunks_exact(cols)) {
            line[..width].copy_from_slice(&a[at..at + width]);
        }
        let mut tiles = rows.chunks_exact_mut(ROWS * cols);
        let mut factors = b.chunks_exact(ROWS * rank);
        for (rows, b) in tiles.by_ref().zip(factors.by_ref()) {
            tile::<ROWS, WIDTH>(rows, cols, at..at + width, b, &panel, scale);
        }
        let rest = tiles.into_remainder().chunks_exact_mut(cols);
        for (row, b) in rest.zip(factors.remainder().chunks_exact(rank)) {
            tile::<1, WIDTH>(row, cols, at..at + width, b, &panel, scale);
        }
    }
}

/// The columns `at` of `N` rows. The sums stay in registers.
#[inline(always)]
fn tile<const N: usize, const WIDTH: usize>(
    rows: &mut [f32],
    cols: usize,
    at: std::ops::Range<usize>,
    b: &[f32],
    panel: &[[f32; WIDTH]],
    scale: f32,
) {
    let rank = panel.len();
    let factors: [&[f32]; N] = std::array::from_fn(|n| &b[n * rank..(n + 1) * rank]);
    let mut sums = [[0.0; WIDTH]; N];
    for (k, line) in panel.iter().enumerate() {
        for n in 0..N {
            let factor = factors[n][k];
            for i in 0..WIDTH {
                sums[n][i] += factor * line[i];
            }
        }
    }
    for (row, sums) in rows.chunks_exact_mut(cols).zip(&sums) {
        for (x, sum) in row[at.clone()].iter_mut().zip(sums) {
            *x += scale * sum;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// As the definition says it.
    fn plain(rows: &mut [f32], cols: usize, b: &[f32], a: &[f32], rank: usize, scale: f32) {
        for (row, b) in rows.chunks_exact_mut(cols).zip(b.chunks_exact(rank)) {
            for (c, x) in row.iter_mut().enumerate() {
                let sum = b.iter().enumerate().fold(0.0, |sum, (k, b)| sum + b * a[k * cols + c]);
                *x += scale * sum;
            }
        }
    }

    fn numbers(len: usize) -> impl Strategy<Value = Vec<f32>> {
        let value = prop_oneof![
            6 => -1f32..1.0,
            1 => prop::sample::select(vec![0.0, -0.0, 1e-45, -1e-38, 3e38, f32::INFINITY, f32::NAN]),
        ];
        prop::collection::vec(value, len..=len)
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(128))]

        #[test]
        fn every_level_does_what_the_definition_says(
            (n, cols, rank) in (1usize..11, 1usize..75, 1usize..20),
            seed in numbers(11 * 75 + 11 * 20 + 20 * 75),
            scale in -4f32..4.0,
        ) {
            let (x, rest) = seed.split_at(n * cols);
            let (b, rest) = rest.split_at(n * rank);
            let a = &rest[..rank * cols];
            let mut expected = x.to_vec();
            plain(&mut expected, cols, b, a, rank, scale);
            for level in Level::available() {
                let mut rows = x.to_vec();
                add_low_rank_at(level, &mut rows, cols, b, a, rank, scale);
                for (got, expected) in rows.iter().zip(&expected) {
                    prop_assert!(
                        got.to_bits() == expected.to_bits() || got.is_nan() && expected.is_nan(),
                        "{:?}: {} {}", level, got, expected
                    );
                }
            }
        }
    }

    #[test]
    #[should_panic(expected = "as many rows")]
    fn shapes_must_fit() {
        add_low_rank(&mut [0.0; 6], 3, &[0.0; 3], &[0.0; 3], 1, 1.0);
    }
}
