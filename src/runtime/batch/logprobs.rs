//! The logarithms of probabilities: of what the model says, before any sampler changes it.

use super::TokenLogprob;
use crate::tokenizer::Tokenizer;

/// What a step's logits say: the logarithm of the sum of their exponentials, and the likeliest tokens.
pub(super) struct Likeliest {
    log_sum: f64,
    top: Vec<TokenLogprob>,
}

/// The `n` likeliest tokens, the likeliest first; of equals the lower id.
pub(super) fn logprobs(logits: &[f32], n: usize, tokenizer: &Tokenizer) -> Likeliest {
    let max = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let sum: f64 = logits.iter().map(|l| libm::exp(f64::from(*l) - f64::from(max))).sum();
    let log_sum = f64::from(max) + libm::log(sum);
    let mut ids: Vec<u32> = (0..u32::try_from(logits.len()).unwrap_or(u32::MAX)).collect();
    let order = |a: &u32, b: &u32| logits[*b as usize].total_cmp(&logits[*a as usize]).then(a.cmp(b));
    let n = n.min(ids.len());
    if n < ids.len() {
        ids.select_nth_unstable_by(n, order);
        ids.truncate(n);
    }
    ids.sort_unstable_by(order);
    let top = ids.into_iter().map(|id| one(id, logits, log_sum, tokenizer)).collect();
    Likeliest { log_sum, top }
}

/// Those of the token that was chosen.
pub(super) fn of_token(
    likeliest: Likeliest,
    logits: &[f32],
    token: u32,
    tokenizer: &Tokenizer,
) -> TokenLogprob {
    TokenLogprob { top: likeliest.top, ..one(token, logits, likeliest.log_sum, tokenizer) }
}

fn one(token: u32, logits: &[f32], log_sum: f64, tokenizer: &Tokenizer) -> TokenLogprob {
    TokenLogprob {
        token,
        bytes: tokenizer.decode_bytes(token).to_vec(),
        logprob: (f64::from(logits[token as usize]) - log_sum) as f32,
        top: Vec::new(),
    }
}
