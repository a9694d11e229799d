//! A row by its scheme: search the sub-blocks, as many at a time as there are lanes, then pack
//! their blocks.

use super::lanes::{Lanes, MOST_LANES};
use super::pack::{BlockFits, Pack, SuperScale};
use super::scheme::{Scales, Scheme, Search, Weights};
use super::search::{self, Fit};
use crate::TensorType;
use crate::blocks::*;

/// Values taken together: eight superblocks, whose scales and minimums fill sixteen lanes.
const CHUNK: usize = 2048;

/// The most sub-blocks of a chunk.
const SUBS_OF_CHUNK: usize = CHUNK / 16;

/// What the searches found for the sub-blocks of a chunk: see [`Fit`].
struct Fits {
    scale: [f32; SUBS_OF_CHUNK],
    min: [f32; SUBS_OF_CHUNK],
    inverse: [f32; SUBS_OF_CHUNK],
    origin: [f32; SUBS_OF_CHUNK],
    /// The sum of the weights.
    weight: [f32; SUBS_OF_CHUNK],
}

/// One row into exactly its blocks.
#[inline(always)]
pub(super) fn encode<S: Lanes>(
    ty: TensorType,
    scheme: &Scheme,
    row: &[f32],
    importance: Option<&[f32]>,
    out: &mut [u8],
) {
    let mut fits = Fits {
        scale: [0.0; SUBS_OF_CHUNK],
        min: [0.0; SUBS_OF_CHUNK],
        inverse: [0.0; SUBS_OF_CHUNK],
        origin: [0.0; SUBS_OF_CHUNK],
        weight: [0.0; SUBS_OF_CHUNK],
    };
    let mut row_spread = [0.0];
    if let Weights::Spread(spread) = scheme.weights
        && spread.span.is_none()
    {
        square_sums(row, row.len(), &mut row_spread);
        row_spread[0] = spread.times * row_spread[0] / row.len() as f32;
    }
    let chunk_bytes = CHUNK / ty.block_len() * ty.block_bytes();
    for (i, (x, out)) in row.chunks(CHUNK).zip(out.chunks_mut(chunk_bytes)).enumerate() {
        let importance = importance.map(|columns| &columns[i * CHUNK..][..x.len()]);
        match scheme.len {
            16 => search_chunk::<S, 16>(scheme, x, importance, row_spread[0], &mut fits),
            _ => search_chunk::<S, 32>(scheme, x, importance, row_spread[0], &mut fits),
        }
        match ty {
            TensorType::Q4_0 => pack_chunk::<S, BlockQ4_0, 32, 1>(scheme, x, &fits, out),
            TensorType::Q4_1 => pack_chunk::<S, BlockQ4_1, 32, 1>(scheme, x, &fits, out),
            TensorType::Q5_0 => pack_chunk::<S, BlockQ5_0, 32, 1>(scheme, x, &fits, out),
            TensorType::Q5_1 => pack_chunk::<S, BlockQ5_1, 32, 1>(scheme, x, &fits, out),
            TensorType::Q2_K => pack_chunk::<S, BlockQ2_K, 256, 16>(scheme, x, &fits, out),
            TensorType::Q3_K => pack_chunk::<S, BlockQ3_K, 256, 16>(scheme, x, &fits, out),
            TensorType::Q4_K => pack_chunk::<S, BlockQ4_K, 256, 8>(scheme, x, &fits, out),
            TensorType::Q5_K => pack_chunk::<S, BlockQ5_K, 256, 8>(scheme, x, &fits, out),
            TensorType::Q6_K => pack_chunk::<S, BlockQ6_K, 256, 16>(scheme, x, &fits, out),
            TensorType::IQ4_NL => pack_chunk::<S, BlockIQ4_NL, 32, 1>(scheme, x, &fits, out),
            TensorType::IQ4_XS => pack_chunk::<S, BlockIQ4_XS, 256, 8>(scheme, x, &fits, out),
            _ => {}
        }
    }
}

/// The sum of squares, in order, of each `span` of `x`. Eight sums side by side where there are
/// as many, since one alone would wait for its own additions.
#[inline(always)]
fn square_sums(x: &[f32], span: usize, sums: &mut [f32]) {
    for (x, sums) in x.chunks(8 * span).zip(sums.chunks_mut(8)) {
        let mut eight = [0.0; 8];
        if x.len() == 8 * span {
            for i in 0..span {
                for (j, sum) in eight.iter_mut().enumerate() {
                    *sum += x[j * span + i] * x[j * span + i];
                }
            }
        } else {
            for (x, sum) in x.chunks(span).zip(&mut eight) {
                for v in x {
                    *sum += v * v;
                }
            }
        }
        sums.copy_from_slice(&eight[..sums.len()]);
    }
}

/// Searches the sub-blocks of up to [`CHUNK`] values.
#[inline(always)]
fn search_chunk<S: Lanes, const LEN: usize>(
    scheme: &Scheme,
    x: &[f32],
    importance: Option<&[f32]>,
    row_spread: f32,
    fits: &mut Fits,
) {
    // The `s` of `Weights::Spread` for each sub-block.
    let mut spreads = [row_spread; SUBS_OF_CHUNK];
    if let Weights::Spread(spread) = scheme.weights
        && let Some(span) = spread.span
    {
        let mut sums = [0.0; SUBS_OF_CHUNK];
        let sums = &mut sums[..x.len() / span];
        square_sums(x, span, sums);
        for (sum, spreads) in sums.iter().zip(spreads.chunks_mut(span / LEN)) {
            spreads.fill(spread.times * sum / spread.divisor);
        }
    }
    // The greedy search is one long chain of sums; the others have several to do at a time.
    let waits = matches!(scheme.search, Search::Greedy(_));
    let (mut first, count) = (0, x.len() / LEN);
    while first < count {
        if waits && count - first > S::COUNT {
            search_greedily::<S::Wide, LEN>(scheme, x, first, fits);
            first += S::Wide::COUNT;
        } else {
            search_sub_blocks::<S, LEN>(scheme, x, importance, &spreads, first, fits);
            first += S::COUNT;
        }
    }
}

/// [`search_sub_blocks`] where only the scales count.
#[inline(always)]
fn search_greedily<S: Lanes, const LEN: usize>(scheme: &Scheme, x: &[f32], first: usize, fits: &mut Fits) {
    let Search::Greedy(half) = scheme.search else { return };
    let mut values = [S::splat(0.0); LEN];
    load_sub_blocks::<S, LEN>(&x[first * LEN..], &mut values);
    search::greedy(&values, half).0.store(&mut fits.scale[first..]);
}

/// Searches as many sub-blocks as there are lanes, from `first`.
#[inline(always)]
fn search_sub_blocks<S: Lanes, const LEN: usize>(
    scheme: &Scheme,
    x: &[f32],
    importance: Option<&[f32]>,
    spreads: &[f32; SUBS_OF_CHUNK],
    first: usize,
    fits: &mut Fits,
) {
    let zero = S::splat(0.0);
    let (mut values, mut weights) = ([zero; LEN], [zero; LEN]);
    load_sub_blocks::<S, LEN>(&x[first * LEN..], &mut values);
    if let Some(importance) = importance {
        load_sub_blocks::<S, LEN>(&importance[first * LEN..], &mut weights);
    }
    weigh(scheme.weights, &values, S::load(&spreads[first..]), &mut weights);
    let fit = match scheme.search {
        Search::Affine(affine) => search::affine(&values, &weights, &affine),
        Search::Symmetric(half) => search::symmetric(&values, &weights, half),
        Search::Greedy(half) => Fit::of_scale(search::greedy(&values, half).0),
        Search::Nonlinear => Fit::of_scale(search::nonlinear(&values, &weights)),
    };
    let mut sum = zero;
    for &w in &weights {
        sum = sum + w;
    }
    fit.scale.store(&mut fits.scale[first..]);
    fit.min.store(&mut fits.min[first..]);
    fit.inverse.store(&mut fits.inverse[first..]);
    fit.origin.store(&mut fits.origin[first..]);
    sum.store(&mut fits.weight[first..]);
}

/// Sub-blocks into lanes; lanes beyond the last sub-block hold zeros.
#[inline(always)]
fn load_sub_blocks<S: Lanes, const LEN: usize>(x: &[f32], out: &mut [S; LEN]) {
    let whole = S::COUNT * LEN;
    if x.len() >= whole {
        S::transpose(&x[..whole], out);
    } else {
        let mut padded = [0.0; MOST_LANES * 32];
        padded[..x.len()].copy_from_slice(x);
        S::transpose(&padded[..whole], out);
    }
}

/// `weights` holds the importance of each value, if there is any.
#[inline(always)]
fn weigh<S: Lanes, const LEN: usize>(by: Weights, x: &[S; LEN], spread: S, weights: &mut [S; LEN]) {
    match by {
        Weights::Magnitude => {
            for i in 0..LEN {
                weights[i] = x[i].abs();
            }
        }
        Weights::MagnitudeAndRms => {
            let mut sum = S::splat(0.0);
            for &v in x {
                sum = sum + v * v;
            }
            let rms = (sum / S::splat(LEN as f32)).sqrt();
            for i in 0..LEN {
                weights[i] = rms + x[i].abs();
            }
        }
        Weights::Square => {
            for i in 0..LEN {
                weights[i] = x[i] * x[i];
            }
        }
        Weights::Importance => {}
        Weights::Spread(_) => {
            for i in 0..LEN {
                weights[i] = weights[i] * (spread + x[i] * x[i]).sqrt();
            }
        }
    }
}

#[inline(always)]
fn pack_chunk<S: Lanes, B: Pack<N, SUBS>, const N: usize, const SUBS: usize>(
    scheme: &Scheme,
    x: &[f32],
    fits: &Fits,
    out: &mut [u8],
) {
    let blocks: &mut [B] = bytemuck::cast_slice_mut(out);
    let mut super_scales = [[SuperScale::ZERO; 2]; CHUNK / 256];
    if let Scales::Searched(top) = scheme.scales {
        search_super_scales::<S, SUBS>(fits, blocks.len(), f32::from(top), &mut super_scales);
    }
    for (i, (block, x)) in blocks.iter_mut().zip(x.as_chunks::<N>().0).enumerate() {
        let fits = BlockFits {
            search: scheme.search,
            scales: scheme.scales,
            super_scales: super_scales.get(i).copied().unwrap_or([SuperScale::ZERO; 2]),
            scale: &fits.scale.as_chunks().0[i],
            min: &fits.min.as_chunks().0[i],
            inverse: &fits.inverse.as_chunks().0[i],
            origin: &fits.origin.as_chunks().0[i],
            weight: &fits.weight.as_chunks().0[i],
        };
        *block = B::pack::<S>(x, &fits);
    }
}

/// The scales of the scales and of the minimums of a chunk's superblocks: a lane each.
#[inline(always)]
fn search_super_scales<S: Lanes, const SUBS: usize>(
    fits: &Fits,
    blocks: usize,
    top: f32,
    found: &mut [[SuperScale; 2]; CHUNK / 256],
) {
    let per_turn = S::COUNT / 2;
    for first in (0..blocks).step_by(per_turn) {
        let zero = S::splat(0.0);
        let (mut values, mut weights) = ([zero; SUBS], [zero; SUBS]);
        for j in 0..SUBS {
            let (mut v, mut w) = ([0.0; MOST_LANES], [0.0; MOST_LANES]);
            for b in 0..per_turn.min(blocks - first) {
                let at = (first + b) * SUBS + j;
                (v[2 * b], v[2 * b + 1]) = (fits.scale[at], -fits.min[at]);
                (w[2 * b], w[2 * b + 1]) = (fits.weight[at], fits.weight[at]);
            }
            (values[j], weights[j]) = (S::load(&v), S::load(&w));
        }
        let (scale, levels) = search::positive(&values, &weights, top);
        let mut lanes = [0.0; MOST_LANES];
        scale.store(&mut lanes);
        for b in 0..per_turn.min(blocks - first) {
            for part in 0..2 {
                found[first + b][part].d = Half::from_f32(lanes[2 * b + part]);
            }
        }
        for (j, level) in levels.iter().enumerate() {
            level.store(&mut lanes);
            for b in 0..per_turn.min(blocks - first) {
                for part in 0..2 {
                    found[first + b][part].levels[j] = lanes[2 * b + part] as u8;
                }
            }
        }
    }
}
