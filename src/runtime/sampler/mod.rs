//! Logits to a token.
//!
//! A [`Sampler`] runs llama.cpp's chain: penalties, top-k, typical, top-p, min-p, temperature, and a draw.
//! The same options, seed and logits give the same token on every machine: ties are broken by id,
//! sums run in a fixed order in float64, and `exp` and `log` are `libm`'s in software.

mod candidates;
mod options;
mod penalties;
mod random;
mod stop;

pub use options::SamplerOptions;
pub use stop::{StopMatch, StopMatcher};

use mdl_kernels::Level;
use mdl_kernels::ops::elementwise::{all_below, greatest};

use candidates::Candidates;
use penalties::Penalties;
use random::SplitMix64;

use crate::diagnostic::{Diagnostic, Result};

/// Chooses tokens. It has the state of one generation: the tokens so far and the random numbers.
#[derive(Clone, Debug)]
pub struct Sampler {
    options: SamplerOptions,
    penalties: Penalties,
    random: SplitMix64,
    candidates: Candidates,
}

impl Sampler {
    /// At the beginning of a generation.
    ///
    /// # Errors
    /// An option is out of its range; the message names it and the range.
    pub fn new(options: &SamplerOptions) -> Result<Sampler> {
        options.check()?;
        Ok(Sampler {
            options: options.clone(),
            penalties: Penalties::new(options),
            random: match options.seed {
                -1 => SplitMix64::from_entropy(),
                seed => SplitMix64::new(seed as u64),
            },
            candidates: Candidates::default(),
        })
    }

    /// Tells the sampler a token of the context, in order: those of the prompt as well as each one that
    /// [`sample`](Self::sample) chose. The penalties look back on them.
    pub fn accept(&mut self, token: u32) {
        self.penalties.accept(token);
    }

    /// The next token. `logits` has one value per token of the vocabulary and is overwritten; `-inf`
    /// rules a token out. With a temperature of 0 it is the likeliest one after penalties, the lowest
    /// id of equals.
    ///
    /// Takes O(n) time for n logits where top-k is on, and at most O(n log n) where it is off.
    ///
    /// # Errors
    /// A logit is NaN or `+inf`, or none is left above `-inf`: never a token then.
    pub fn sample(&mut self, logits: &mut [f32]) -> Result<u32> {
        let level = Level::current();
        if !all_below(level, logits, f32::INFINITY) {
            return Err(bad_logit(logits).into());
        }
        self.penalties.apply(logits);
        let none = || Diagnostic::error("no token is possible: every logit is -inf").code("bad-logits");
        let options = &self.options;
        if options.temperature == 0.0 {
            let possible = greatest(level, logits).filter(|at| logits[*at] > f32::NEG_INFINITY);
            return possible.map(|at| at as u32).ok_or_else(|| none().into());
        }
        let candidates = &mut self.candidates;
        match options.top_k {
            k if k > 0 => candidates.take_top(logits, usize::try_from(k).unwrap_or(usize::MAX)),
            _ => candidates.take_all(logits),
        }
        candidates.typical(options.typical_p);
        candidates.top_p(options.top_p);
        candidates.min_p(options.min_p);
        let draw = if candidates.len() > 1 { self.random.unit() } else { 0.0 };
        candidates.draw(options.temperature, draw).ok_or_else(|| none().into())
    }
}

fn bad_logit(logits: &[f32]) -> Diagnostic {
    let token = logits.iter().position(|l| l.is_nan() || *l == f32::INFINITY).unwrap_or_default();
    let message =
        format!("the logit of token {token} is {}, which no probability follows from", logits[token]);
    Diagnostic::error(message).code("bad-logits").help("the weights are broken, or a layer overflowed")
}

#[cfg(test)]
#[allow(clippy::disallowed_methods)]
mod tests;
