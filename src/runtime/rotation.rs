//! The angles of rotary positions, from a spec and the tensors of factors beside it.

use mdl_kernels::ops::rope::Frequencies;

use super::weights::Tensors;
use crate::diagnostic::{Diagnostic, Errors, Result};
use crate::families::spec::{DecoderSpec, Rope, RopeKind, RopeScaling};

/// How the heads of some blocks turn.
#[derive(Clone, Debug, PartialEq)]
pub struct Rotation {
    usual: Frequencies,
    /// For a context longer than so many positions.
    long: Option<(usize, Frequencies)>,
}

impl Rotation {
    fn plain(rope: &Rope, freq_base: f32) -> Rotation {
        Rotation { usual: Frequencies::new(rope.dims, freq_base.into(), |_| 1.0), long: None }
    }

    /// The frequencies in a context of so many positions.
    pub fn frequencies(&self, context: usize) -> &Frequencies {
        match &self.long {
            Some((more_than, long)) if context > *more_than => long,
            _ => &self.usual,
        }
    }

    /// Pairs that turn.
    pub fn pairs(&self) -> usize {
        self.usual.pairs()
    }
}

/// The rotations of a model: none, one for all blocks, or a second one for those with a window.
///
/// # Errors
/// A tensor of factors is missing, is there though nothing asks for it, or has a value that is not positive.
pub(super) fn rotations(spec: &DecoderSpec, tensors: &mut Tensors) -> Result<Vec<Rotation>> {
    let rope = &spec.rope;
    if rope.kind == RopeKind::None {
        return Ok(Vec::new());
    }
    let base = f64::from(rope.freq_base);
    let plain = |divisor: &dyn Fn(usize) -> f64| Frequencies::new(rope.dims, base, divisor);
    let global = match rope.scaling {
        RopeScaling::None => Rotation::plain(rope, rope.freq_base),
        RopeScaling::Linear { factor } => Rotation { usual: plain(&|_| factor.into()), long: None },
        RopeScaling::Factors => {
            let factors = factors(tensors, "rope_freqs.weight", rope.dims)?;
            Rotation { usual: plain(&|i| factors[i].into()), long: None }
        }
        RopeScaling::Yarn { factor, original_context_length, attention_factor, beta_fast, beta_slow } => {
            let yarn = Yarn {
                dims: rope.dims as f64,
                base,
                factor: factor.into(),
                context: original_context_length as f64,
            };
            let (low, high) = (yarn.pair(beta_fast).floor(), yarn.pair(beta_slow).ceil());
            let usual = plain(&|i| yarn.divisor(i, low, high)).with_magnitude(attention_factor);
            Rotation { usual, long: None }
        }
        RopeScaling::Long { original_context_length, attention_factor } => {
            let mut of = |name: &str| -> Result<Frequencies> {
                let factors = factors(tensors, name, rope.dims)?;
                Ok(plain(&|i| factors[i].into()).with_magnitude(attention_factor))
            };
            let usual = of("rope_factors_short.weight")?;
            let long = of("rope_factors_long.weight")?;
            Rotation { usual, long: Some((original_context_length, long)) }
        }
    };
    // A tensor of factors that the spec does not ask for would change every angle.
    for name in ["rope_freqs.weight", "rope_factors_short.weight", "rope_factors_long.weight"] {
        if tensors.has(name) {
            return Err(unexpected(name));
        }
    }
    let local = rope.local_freq_base.map(|base| Rotation::plain(rope, base));
    Ok(std::iter::once(global).chain(local).collect())
}

/// A tensor that is there though nothing asks for it.
pub(super) fn unexpected(name: &str) -> Errors {
    Diagnostic::error(format!("tensor `{name}` is there, but the metadata does not ask for it"))
        .code("invalid-model")
        .into()
}

fn factors(tensors: &mut Tensors, name: &str, dims: usize) -> Result<std::sync::Arc<[f32]>> {
    let factors = tensors.vector(name, dims / 2)?;
    match factors.iter().position(|f| *f <= 0.0) {
        Some(i) => {
            let message = format!("tensor `{name}` value {i} is {}", factors[i]);
            Err(Diagnostic::error(message).code("invalid-model").into())
        }
        None => Ok(factors),
    }
}

/// YaRN (arXiv:2309.00071): pairs that turn often stay, those that turn seldom are stretched by `factor`, those
/// between are blended.
struct Yarn {
    dims: f64,
    base: f64,
    factor: f64,
    context: f64,
}

impl Yarn {
    /// The pair that turns `rotations` times over the first context.
    fn pair(&self, rotations: f32) -> f64 {
        let ratio = self.context / (f64::from(rotations) * std::f64::consts::TAU);
        self.dims * libm::log(ratio) / (2.0 * libm::log(self.base))
    }

    /// What the frequency of pair `i` is divided by, blended from `low` to `high`.
    fn divisor(&self, i: usize, low: f64, high: f64) -> f64 {
        let (low, high) = (low.max(0.0), high.min(self.dims - 1.0));
        let ramp = ((i as f64 - low) / (high - low).max(0.001)).clamp(0.0, 1.0);
        1.0 / (ramp / self.factor + (1.0 - ramp))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn yarn_keeps_fast_pairs_and_stretches_slow_ones() {
        let yarn = Yarn { dims: 128.0, base: 10_000.0, factor: 16.0, context: 4096.0 };
        let (low, high) = (yarn.pair(32.0).floor(), yarn.pair(1.0).ceil());
        assert_eq!((low, high), (20.0, 46.0));
        assert_eq!(yarn.divisor(20, low, high), 1.0);
        assert_eq!(yarn.divisor(46, low, high), 16.0);
        let middle = yarn.divisor(33, low, high);
        assert!((middle - 1.0 / (0.5 / 16.0 + 0.5)).abs() < 1e-12, "{middle}");
    }

    #[test]
    fn a_long_context_turns_by_other_frequencies() {
        let of = |divisor: f64| Frequencies::new(4, 10_000.0, |_| divisor);
        let rotation = Rotation { usual: of(1.0), long: Some((4096, of(8.0))) };
        assert_eq!(rotation.frequencies(4096), &of(1.0));
        assert_eq!(rotation.frequencies(4097), &of(8.0));
    }
}
