//! How far a model's predictions are from those of its source, such as float weights.
//!
//! Both models read the same chunk, and their logits are compared where [`Chunks`] scores them, then
//! forgotten: no file of logits is kept. One float32 a scored token stays, for exact percentiles; that is
//! half of what the tokens themselves take.

// A report, not an artifact: the last digits may differ between machines.
#![allow(clippy::disallowed_methods)]

use rayon::prelude::*;

use super::chunks::Chunks;
use super::engine::Session;
use super::perplexity::{Estimate, Sums};
use crate::diagnostic::{Diagnostic, Result};

/// A model held against its source.
#[derive(Clone, Debug, PartialEq)]
pub struct Divergence {
    /// The model's perplexity.
    pub perplexity: Estimate,
    /// The source's.
    pub source_perplexity: Estimate,
    /// The model's over the source's; the error knows that both read the same tokens.
    pub ratio: Estimate,
    /// The mean of KL(source || model) over the scored predictions, in nats.
    pub mean: Estimate,
    /// Each prediction's, smallest first.
    sorted: Vec<f32>,
    /// The share of predictions whose likeliest token is the same, 0 to 1.
    pub same_top: Estimate,
    /// The mean change of the probability of the text's own token, -1 to 1.
    pub delta_p: Estimate,
    /// The root of the mean square of that change.
    pub delta_p_rms: Estimate,
}

impl Divergence {
    /// Predictions that were scored.
    pub fn scored(&self) -> usize {
        self.sorted.len()
    }

    /// The divergence that so large a part of the predictions does not exceed: 0.5 for the median, 1
    /// for the largest. Between two predictions it is interpolated.
    pub fn quantile(&self, part: f64) -> f64 {
        let last = self.sorted.len().saturating_sub(1);
        let place = part.clamp(0.0, 1.0) * last as f64;
        let below = (place as usize).min(last);
        let at = |i: usize| self.sorted.get(i).copied().map_or(0.0, f64::from);
        let (low, high) = (at(below), at((below + 1).min(last)));
        low + (high - low) * (place - below as f64)
    }
}

/// One prediction of both models.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Compared {
    /// Negative log-likelihoods of the text's own token.
    nll: f64,
    source_nll: f64,
    kl: f64,
    same_top: bool,
}

/// Holds a row of logits against the source's.
fn compare(source: &[f32], model: &[f32], token: u32) -> Compared {
    let (source_top, source_max) = top(source);
    let (model_top, model_max) = top(model);
    let (mut source_sum, mut model_sum, mut weighted) = (0.0, 0.0, 0.0);
    for (s, m) in source.iter().zip(model) {
        let (s, m) = (f64::from(s - source_max), f64::from(m - model_max));
        let e = s.exp();
        source_sum += e;
        weighted += e * (s - m);
        model_sum += m.exp();
    }
    let nll = |logits: &[f32], max: f32, sum: f64| {
        let chosen = logits.get(token as usize).copied().unwrap_or(f32::NEG_INFINITY);
        sum.ln() - f64::from(chosen - max)
    };
    Compared {
        nll: nll(model, model_max, model_sum),
        source_nll: nll(source, source_max, source_sum),
        // Rounding may take a divergence of nothing below it.
        kl: (weighted / source_sum + model_sum.ln() - source_sum.ln()).max(0.0),
        same_top: source_top == model_top,
    }
}

/// The first of the largest logits, and its value.
fn top(logits: &[f32]) -> (usize, f32) {
    let mut best = (0, f32::NEG_INFINITY);
    for (i, v) in logits.iter().enumerate() {
        if *v > best.1 {
            best = (i, *v);
        }
    }
    best
}

#[derive(Default)]
struct Running {
    nll: Sums,
    source_nll: Sums,
    difference: Sums,
    kl: Sums,
    all: Vec<f32>,
    same_top: Sums,
    delta_p: Sums,
    delta_p_squared: Sums,
}

impl Running {
    fn add(&mut self, c: Compared) {
        self.nll.add(c.nll);
        self.source_nll.add(c.source_nll);
        self.difference.add(c.nll - c.source_nll);
        self.kl.add(c.kl);
        self.all.push(c.kl as f32);
        self.same_top.add(f64::from(u8::from(c.same_top)));
        let delta = (-c.nll).exp() - (-c.source_nll).exp();
        self.delta_p.add(delta);
        self.delta_p_squared.add(delta * delta);
    }

    fn finish(mut self) -> Divergence {
        self.all.sort_unstable_by(f32::total_cmp);
        let square = self.delta_p_squared.mean();
        let rms = square.value.sqrt();
        // To first order; of no difference at all there is no error.
        let error = if rms > 0.0 { 0.5 * square.error / rms } else { 0.0 };
        Divergence {
            perplexity: self.nll.mean().exp(),
            source_perplexity: self.source_nll.mean().exp(),
            ratio: self.difference.mean().exp(),
            mean: self.kl.mean(),
            sorted: self.all,
            same_top: self.same_top.mean(),
            delta_p: self.delta_p.mean(),
            delta_p_rms: Estimate { value: rms, error },
        }
    }
}

/// Holds `model` against `source` over the chunks of a text. `progress` is told after each chunk how
/// many are done, and the mean divergence so far.
///
/// # Errors
/// The models have other vocabularies, a session is smaller than a chunk, or a model fails.
pub fn divergence(
    model: &mut Session,
    source: &mut Session,
    chunks: &Chunks,
    mut progress: impl FnMut(usize, f64),
) -> Result<Divergence> {
    let (ours, theirs) = (model.model().spec().vocab_size, source.model().spec().vocab_size);
    if ours != theirs {
        return Err(Diagnostic::error(format!(
            "the model has a vocabulary of {ours} tokens and its source one of {theirs}"
        ))
        .code("other-vocabulary")
        .help("only models of one vocabulary can be held against each other")
        .into());
    }
    let outputs = model.outputs().min(source.outputs());
    let mut running = Running::default();
    for (i, chunk) in chunks.iter().enumerate() {
        let (start, runs) = chunks.parts(&chunk, outputs);
        for session in [&mut *model, &mut *source] {
            session.truncate(0);
            session.extend(start)?;
        }
        for (tokens, next) in runs {
            let rows = model.logits_after_each(tokens)?;
            let sources = source.logits_after_each(tokens)?;
            let compared: Vec<Compared> = rows
                .par_iter()
                .zip(&sources)
                .zip(next)
                .map(|((row, source), token)| compare(source, row, *token))
                .collect();
            compared.into_iter().for_each(|c| running.add(c));
        }
        progress(i + 1, running.kl.mean().value);
    }
    Ok(running.finish())
}

#[cfg(test)]
mod tests {
    use super::super::backend::cpu::CpuOptions;
    use super::super::engine::Model;
    use super::super::perplexity::{negative_log_likelihood, perplexity};
    use super::super::testing;
    use super::*;
    use mdl_kernels::TensorType;
    use proptest::prelude::*;

    /// By the definition, in two passes.
    fn defined(p: &[f32], q: &[f32]) -> f64 {
        let log = |row: &[f32], i: usize| -negative_log_likelihood(row, i as u32);
        (0..p.len()).map(|i| log(p, i).exp() * (log(p, i) - log(q, i))).sum()
    }

    proptest! {
        #[test]
        fn divergence_is_as_defined(
            rows in proptest::collection::vec((-40f32..40.0, -40f32..40.0), 2..40), token in 0usize..40,
        ) {
            let (p, q): (Vec<f32>, Vec<f32>) = rows.into_iter().unzip();
            let token = (token % p.len()) as u32;
            let c = compare(&p, &q, token);
            prop_assert!((c.kl - defined(&p, &q)).abs() < 1e-9 * (1.0 + c.kl));
            prop_assert!((c.nll - negative_log_likelihood(&q, token)).abs() < 1e-9);
            prop_assert!((c.source_nll - negative_log_likelihood(&p, token)).abs() < 1e-9);
            let same = compare(&p, &p, token);
            prop_assert!(same.kl < 1e-12 && same.same_top);
        }
    }

    #[test]
    fn quantiles_interpolate() {
        let mut running = Running::default();
        for kl in [3.0, 0.0, 1.0, 2.0] {
            running.add(Compared { nll: 1.0, source_nll: 1.0, kl, same_top: kl < 3.0 });
        }
        let d = running.finish();
        let at = [0.0, 0.5, 0.999, 1.0].map(|part| d.quantile(part));
        assert_eq!([at[0], at[1], at[3]], [0.0, 1.5, 3.0]);
        assert!((at[2] - 2.997).abs() < 1e-9);
        assert_eq!((d.scored(), d.same_top.value, d.mean.value, d.ratio.value), (4, 0.75, 1.5, 1.0));
    }

    #[test]
    fn a_model_is_held_against_its_source() {
        let spec = testing::spec(false);
        let load = |ty| {
            let tensors = testing::tensor_list(&spec, &|_| ty);
            Model::load(spec.clone(), tensors, &CpuOptions { threads: Some(1), level: None }).unwrap()
        };
        let (model, source) = (load(TensorType::Q8_0), load(TensorType::F32));
        let chunks = Chunks::new((0..33).map(|i| i * 7 % 32).collect(), None, 16, None).unwrap();
        let session = |m: &Model| chunks.session(m).unwrap();
        let mut done = Vec::new();
        let same =
            divergence(&mut session(&source), &mut session(&source), &chunks, |i, _| done.push(i)).unwrap();
        assert_eq!(
            (same.scored(), same.quantile(1.0), same.same_top.value, done),
            (14, 0.0, 1.0, vec![1, 2])
        );
        let d = divergence(&mut session(&model), &mut session(&source), &chunks, |_, _| ()).unwrap();
        assert!(d.mean.value > 0.0 && d.quantile(1.0) >= d.quantile(0.5));
        let alone = |m: &Model| perplexity(&mut session(m), &chunks, |_, _| ()).unwrap().value().value;
        assert!((d.perplexity.value / alone(&model) - 1.0).abs() < 1e-9);
        assert!((d.source_perplexity.value / alone(&source) - 1.0).abs() < 1e-9);
        assert!((d.ratio.value - d.perplexity.value / d.source_perplexity.value).abs() < 1e-9);
    }
}
