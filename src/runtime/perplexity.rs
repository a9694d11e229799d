//! How well a model predicts a text, by the rule of llama-perplexity.
//!
//! Perplexity is e to the mean negative log-likelihood of the predictions that [`Chunks`] has scored.

// A report, not an artifact: the last digits may differ between machines.
#![allow(clippy::disallowed_methods)]

use rayon::prelude::*;

use super::chunks::Chunks;
use super::engine::Session;
use crate::diagnostic::Result;

/// A mean or what is computed from one, and its standard error.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Estimate {
    /// The value.
    pub value: f64,
    /// Its standard error.
    pub error: f64,
}

impl Estimate {
    /// e to it, with the error to first order.
    pub fn exp(self) -> Estimate {
        let value = self.value.exp();
        Estimate { value, error: self.error * value }
    }
}

/// Running sums of a sample, in order.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Sums {
    count: u64,
    sum: f64,
    squares: f64,
}

impl Sums {
    pub(super) fn add(&mut self, x: f64) {
        self.count += 1;
        self.sum += x;
        self.squares += x * x;
    }

    /// The mean, with the error that a sample of so many independent values has.
    pub(super) fn mean(&self) -> Estimate {
        let count = (self.count as f64).max(1.0);
        let value = self.sum / count;
        let variance = (self.squares / count - value * value).max(0.0);
        Estimate { value, error: (variance / (count - 1.0).max(1.0)).sqrt() }
    }
}

/// The score of a text.
#[derive(Clone, Debug, PartialEq)]
pub struct Perplexity {
    /// The mean negative log-likelihood of each chunk, in nats.
    pub chunks: Vec<f64>,
    /// The mean of all predictions.
    pub mean_nll: Estimate,
}

impl Perplexity {
    /// e to the mean.
    pub fn value(&self) -> Estimate {
        self.mean_nll.exp()
    }
}

/// Scores a text. `progress` is told after each chunk how many are done, and the perplexity so far.
///
/// # Errors
/// The session is smaller than a chunk, or the model fails.
pub fn perplexity(
    session: &mut Session,
    chunks: &Chunks,
    mut progress: impl FnMut(usize, f64),
) -> Result<Perplexity> {
    let (mut all, mut means) = (Sums::default(), Vec::with_capacity(chunks.len()));
    for chunk in chunks.iter() {
        let mut sums = Sums::default();
        let (start, runs) = chunks.parts(&chunk, session.outputs());
        session.truncate(0);
        session.extend(start)?;
        for (tokens, next) in runs {
            let logits = session.logits_after_each(tokens)?;
            let nlls: Vec<f64> = logits
                .par_iter()
                .zip(next)
                .map(|(row, token)| negative_log_likelihood(row, *token))
                .collect();
            for nll in nlls {
                sums.add(nll);
                all.add(nll);
            }
        }
        means.push(sums.mean().value);
        progress(means.len(), all.mean().value.exp());
    }
    Ok(Perplexity { chunks: means, mean_nll: all.mean() })
}

/// `-ln softmax(logits)[token]`, in float64.
pub fn negative_log_likelihood(logits: &[f32], token: u32) -> f64 {
    let largest = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let sum: f64 = logits.iter().map(|v| f64::from(*v - largest).exp()).sum();
    let chosen = logits.get(token as usize).copied().unwrap_or(f32::NEG_INFINITY);
    sum.ln() - f64::from(chosen - largest)
}

#[cfg(test)]
mod tests {
    use super::super::backend::cpu::CpuOptions;
    use super::super::engine::{Model, SessionOptions};
    use super::super::testing;
    use super::*;
    use mdl_kernels::TensorType;

    #[test]
    fn likelihoods_add_up_to_one() {
        let logits = [1.0, -3.0, 700.0, 699.5];
        let sum: f64 = (0..4).map(|t| (-negative_log_likelihood(&logits, t)).exp()).sum();
        assert!((sum - 1.0).abs() < 1e-12);
    }

    #[test]
    fn the_second_half_of_each_chunk_is_scored() {
        let spec = testing::spec(false);
        let tensors = testing::tensor_list(&spec, &|_| TensorType::F32);
        let model = Model::load(spec, tensors, &CpuOptions { threads: Some(1), level: None }).unwrap();
        let options = SessionOptions { context: 8, columns: 8, outputs: 2, ..SessionOptions::default() };
        let mut session = model.session(&options).unwrap();
        let tokens: Vec<u32> = (0..21).map(|i| i * 7 % 32).collect();
        let chunks = Chunks::new(tokens.clone(), Some(31), 8, None).unwrap();
        assert_eq!((chunks.len(), chunks.scored_per_chunk()), (2, 3));
        let mut seen = Vec::new();
        let result = perplexity(&mut session, &chunks, |done, _| seen.push(done)).unwrap();
        assert_eq!((seen, result.chunks.len()), (vec![1, 2], 2));
        // The second chunk by hand: ids 8..16, the first replaced.
        let mut chunk = tokens[8..16].to_vec();
        chunk[0] = 31;
        let mut sum = 0.0;
        for position in 4..7 {
            let logits = session.prefill(&chunk[..=position]).unwrap();
            sum += negative_log_likelihood(logits, chunk[position + 1]);
        }
        assert!((result.chunks[1] - sum / 3.0).abs() < 1e-12);
        let mean = result.mean_nll;
        assert!((mean.value - (result.chunks[0] + result.chunks[1]) / 2.0).abs() < 1e-12);
        assert!(mean.error > 0.0);
        let first = perplexity(&mut session, &Chunks::new(tokens, Some(31), 8, Some(1)).unwrap(), |_, _| ());
        assert_eq!(first.unwrap().chunks, result.chunks[..1]);
    }

    #[test]
    fn a_text_has_at_least_one_chunk() {
        let error = |n: u32, context| Chunks::new((0..n).collect(), None, context, None).err().unwrap();
        assert!(error(7, 8).to_string().contains("at least one chunk of 8"));
        assert_eq!(error(7, 3).exit_code(), 2);
    }

    #[test]
    fn errors_are_those_of_a_mean() {
        let mut sums = Sums::default();
        [1.0, 2.0, 3.0, 6.0].into_iter().for_each(|x| sums.add(x));
        // Sample variance 14/3, over 4 values.
        let mean = sums.mean();
        assert!(
            (mean.value - 3.0).abs() < 1e-12 && (mean.error - (14.0f64 / 3.0 / 4.0).sqrt()).abs() < 1e-12
        );
    }
}
