//! Which search each format runs, over which sub-blocks, under which weights: the table.

use super::search::Affine;
use crate::TensorType;

/// How a format finds the scales of its sub-blocks.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Scheme {
    /// Values in a sub-block: 16 or 32.
    pub len: usize,
    /// The search.
    pub search: Search,
    /// How much each value counts in it.
    pub weights: Weights,
    /// What becomes of the scales found.
    pub scales: Scales,
}

/// A search of [`super::search`] with its parameters.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Search {
    /// Scale and minimum.
    Affine(Affine),
    /// Scale only; levels from minus this up to below it.
    Symmetric(f32),
    /// The same, by moving single levels; it weighs by squares whatever is asked.
    Greedy(f32),
    /// Scale only, for the levels of IQ4.
    Nonlinear,
}

/// How the scales of a superblock's sub-blocks are quantized in turn.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Scales {
    /// There is one per block, stored as it is.
    Single,
    /// None is negative; the greatest at this level.
    Greatest(u8),
    /// None is negative; by a search under the sums of the weights, up to this level.
    Searched(u8),
    /// The one of greatest magnitude at the lowest level.
    Extreme,
    /// By the symmetric search under the sums of the weights.
    Symmetric,
}

/// How much a value `x` counts.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Weights {
    /// `|x|`.
    Magnitude,
    /// `|x|` and the root of the sub-block's mean square.
    MagnitudeAndRms,
    /// `x^2`.
    Square,
    /// The importance of its column.
    Importance,
    /// The importance times `sqrt(x^2 + s)`, with `s` from the values around.
    Spread(Spread),
}

/// `s = times * sum(x^2) / divisor` over a span of values.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Spread {
    /// Over which values; `None` is the whole row, whose length is then the divisor.
    pub span: Option<usize>,
    /// See the formula.
    pub times: f32,
    /// See the formula.
    pub divisor: f32,
}

const ROW: Weights = Weights::Spread(Spread { span: None, times: 1.0, divisor: 0.0 });
const SUPERBLOCK: Weights = Weights::Spread(Spread { span: Some(256), times: 1.0, divisor: 256.0 });
const TWICE_SUPERBLOCK: Weights = Weights::Spread(Spread { span: Some(256), times: 2.0, divisor: 256.0 });
const HALVED_SUPERBLOCK: Weights = Weights::Spread(Spread { span: Some(256), times: 1.0, divisor: 128.0 });
const HALVED_BLOCK: Weights = Weights::Spread(Spread { span: Some(32), times: 1.0, divisor: 16.0 });

/// The affine search under importance is the same for all: a finer and wider one.
const fn weighted(top: f32) -> Search {
    Search::Affine(Affine { top, first: -0.9, step: 0.05, steps: 36, absolute: false })
}

const fn plain(top: f32, first: f32, steps: u8) -> Search {
    Search::Affine(Affine { top, first, step: 0.1, steps, absolute: false })
}

/// The scheme of a type; `None` for those that only round.
pub(super) const fn scheme(ty: TensorType, importance: bool) -> Option<Scheme> {
    use Scales::{Extreme, Greatest, Searched, Single};
    use Search::{Greedy, Nonlinear, Symmetric};
    use Weights::{Importance, Magnitude, MagnitudeAndRms, Square};

    const Q2_PLAIN: Search =
        Search::Affine(Affine { top: 3.0, first: -0.5, step: 0.1, steps: 15, absolute: true });
    let (len, search, weights, scales) = match (ty, importance) {
        (TensorType::Q4_0, true) => (32, Symmetric(8.0), ROW, Single),
        (TensorType::Q4_1, true) => (32, weighted(15.0), ROW, Single),
        (TensorType::Q5_0, true) => (32, Symmetric(16.0), ROW, Single),
        (TensorType::Q5_1, true) => (32, weighted(31.0), ROW, Single),
        (TensorType::Q2_K, false) => (16, Q2_PLAIN, Magnitude, Greatest(15)),
        (TensorType::Q2_K, true) => (16, weighted(3.0), SUPERBLOCK, Searched(15)),
        (TensorType::Q3_K, false) => (16, Greedy(4.0), Square, Extreme),
        (TensorType::Q3_K, true) => (16, Symmetric(4.0), TWICE_SUPERBLOCK, Scales::Symmetric),
        (TensorType::Q4_K, false) => (32, plain(15.0, -1.0, 20), MagnitudeAndRms, Greatest(63)),
        (TensorType::Q4_K, true) => (32, weighted(15.0), TWICE_SUPERBLOCK, Searched(63)),
        (TensorType::Q5_K, false) => (32, plain(31.0, -0.5, 15), MagnitudeAndRms, Greatest(63)),
        (TensorType::Q5_K, true) => (32, weighted(31.0), TWICE_SUPERBLOCK, Searched(63)),
        (TensorType::Q6_K, false) => (16, Symmetric(32.0), Square, Extreme),
        (TensorType::Q6_K, true) => (16, Symmetric(32.0), Importance, Extreme),
        (TensorType::IQ4_NL, false) => (32, Nonlinear, Square, Single),
        (TensorType::IQ4_NL, true) => (32, Nonlinear, HALVED_BLOCK, Single),
        (TensorType::IQ4_XS, false) => (32, Nonlinear, Square, Extreme),
        (TensorType::IQ4_XS, true) => (32, Nonlinear, HALVED_SUPERBLOCK, Extreme),
        _ => return None,
    };
    Some(Scheme { len, search, weights, scales })
}
