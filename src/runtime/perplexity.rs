//! How well a model predicts a text, by the rule of llama-perplexity.
//!
//! The tokens of the text, the beginning-of-sequence token first, are cut into chunks of one
//! context that do not overlap; a shorter rest is dropped. The first token of each chunk is replaced
//! by BOS. Each chunk is run from an empty context, and the predictions from its middle on are
//! scored: `context - 1 - context / 2` for each. Perplexity is e to the mean of their negative
//! log-likelihoods.

// A report, not an artifact: the last digits may differ between machines.
#![allow(clippy::disallowed_methods)]

use super::engine::Session;
use crate::diagnostic::{Diagnostic, Result};

/// The score of a text.
#[derive(Clone, Debug, PartialEq)]
pub struct Perplexity {
    /// The mean negative log-likelihood of each chunk, in nats.
    pub chunks: Vec<f64>,
    /// Predictions scored in each chunk.
    pub scored_per_chunk: usize,
    /// The mean of all predictions.
    pub mean_nll: f64,
    /// The standard error of that mean.
    pub error: f64,
}

impl Perplexity {
    /// e to the mean.
    pub fn value(&self) -> f64 {
        self.mean_nll.exp()
    }

    /// The standard error of [`Perplexity::value`], to first order.
    pub fn value_error(&self) -> f64 {
        self.error * self.value()
    }
}

/// Scores `tokens` in chunks of `context`; `bos` takes the place of each chunk's first token.
/// `progress` is told after each chunk how many of how many are done, and the mean so far.
///
/// # Errors
/// There is not one whole chunk, the session is smaller than one, or the model fails.
pub fn perplexity(
    session: &mut Session,
    tokens: &[u32],
    bos: Option<u32>,
    context: usize,
    mut progress: impl FnMut(usize, usize, f64) -> Result<()>,
) -> Result<Perplexity> {
    if context < 4 || context > session.context() {
        let room = session.context();
        return Err(Diagnostic::error(format!(
            "chunks of {context} tokens do not fit in a context of {room}"
        ))
        .into());
    }
    let total = tokens.len() / context;
    if total == 0 {
        return Err(Diagnostic::error(format!(
            "the text has {} tokens; at least one chunk of {context} is needed",
            tokens.len()
        ))
        .help("give a longer text, or a smaller context")
        .into());
    }
    let first = context / 2;
    let (mut sum, mut squares, mut chunks) = (0.0, 0.0, Vec::with_capacity(total));
    let scored_per_chunk = context - 1 - first;
    for (done, chunk) in tokens.chunks_exact(context).enumerate() {
        let mut chunk = chunk.to_vec();
        if let (Some(bos), Some(token)) = (bos, chunk.first_mut()) {
            *token = bos;
        }
        let mut chunk_sum = 0.0;
        session.truncate(0);
        session.logits_all(&chunk, |position, logits| {
            if position >= first && position + 1 < context {
                let nll = negative_log_likelihood(logits, chunk[position + 1]);
                chunk_sum += nll;
                squares += nll * nll;
            }
            Ok(())
        })?;
        sum += chunk_sum;
        chunks.push(chunk_sum / scored_per_chunk as f64);
        progress(done + 1, total, sum / ((done + 1) * scored_per_chunk) as f64)?;
    }
    let count = (total * scored_per_chunk) as f64;
    let mean_nll = sum / count;
    let variance = (squares / count - mean_nll * mean_nll).max(0.0);
    let error = (variance / (count - 1.0).max(1.0)).sqrt();
    Ok(Perplexity { chunks, scored_per_chunk, mean_nll, error })
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
        let options = SessionOptions { context: 8, columns: 8, outputs: 3, ..SessionOptions::default() };
        let mut session = model.session(&options).unwrap();
        let tokens: Vec<u32> = (0..21).map(|i| i * 7 % 32).collect();
        let mut seen = Vec::new();
        let result = perplexity(&mut session, &tokens, Some(31), 8, |done, total, _| {
            seen.push((done, total));
            Ok(())
        })
        .unwrap();
        assert_eq!((seen, result.chunks.len(), result.scored_per_chunk), (vec![(1, 2), (2, 2)], 2, 3));
        // The second chunk by hand: ids 8..16, the first replaced.
        let mut chunk = tokens[8..16].to_vec();
        chunk[0] = 31;
        let mut sum = 0.0;
        for position in 4..7 {
            let logits = session.prefill(&chunk[..=position]).unwrap();
            sum += negative_log_likelihood(logits, chunk[position + 1]);
        }
        assert!((result.chunks[1] - sum / 3.0).abs() < 1e-12);
        assert!((result.mean_nll - (result.chunks[0] + result.chunks[1]) / 2.0).abs() < 1e-12);
        assert!(result.error > 0.0);
        let error = |tokens: &[u32], session: &mut Session, context| {
            perplexity(session, tokens, None, context, |_, _, _| Ok(())).err().map(|e| e.to_string())
        };
        assert!(error(&tokens[..7], &mut session, 8).unwrap().contains("at least one chunk of 8"));
        assert!(error(&tokens, &mut session, 9).unwrap().contains("do not fit"));
    }
}
