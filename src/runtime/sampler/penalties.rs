//! Makes tokens that were there less likely.

use std::collections::{HashMap, VecDeque};

use super::SamplerOptions;

/// The last tokens and how often each is among them.
#[derive(Clone, Debug)]
pub(super) struct Penalties {
    /// How many tokens are remembered.
    window: usize,
    repeat: f32,
    presence: f32,
    frequency: f32,
    last: VecDeque<u32>,
    counts: HashMap<u32, u32>,
}

impl Penalties {
    pub(super) fn new(options: &SamplerOptions) -> Penalties {
        let idle = options.repeat_penalty == 1.0
            && options.presence_penalty == 0.0
            && options.frequency_penalty == 0.0;
        Penalties {
            window: match options.repeat_last_n {
                _ if idle => 0,
                -1 => usize::MAX,
                n => usize::try_from(n).unwrap_or(usize::MAX),
            },
            repeat: options.repeat_penalty,
            presence: options.presence_penalty,
            frequency: options.frequency_penalty,
            last: VecDeque::new(),
            counts: HashMap::new(),
        }
    }

    pub(super) fn accept(&mut self, token: u32) {
        if self.window == 0 {
            return;
        }
        if self.last.len() == self.window
            && let Some(oldest) = self.last.pop_front()
            && let Some(count) = self.counts.get_mut(&oldest)
        {
            *count -= 1;
            if *count == 0 {
                self.counts.remove(&oldest);
            }
        }
        self.last.push_back(token);
        *self.counts.entry(token).or_insert(0) += 1;
    }

    /// Tokens are independent of each other here, so that the map's order does not matter.
    pub(super) fn apply(&self, logits: &mut [f32]) {
        for (&token, &count) in &self.counts {
            let Some(logit) = logits.get_mut(token as usize) else { continue };
            *logit = if *logit > 0.0 { *logit / self.repeat } else { *logit * self.repeat };
            *logit -= count as f32 * self.frequency + self.presence;
            // No penalty makes a finite logit infinite; below, it only rules the token out.
            *logit = logit.min(f32::MAX);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn penalties(options: SamplerOptions, tokens: &[u32]) -> Penalties {
        let mut penalties = Penalties::new(&options);
        tokens.iter().for_each(|&t| penalties.accept(t));
        penalties
    }

    #[test]
    fn each_penalty_counts_the_window() {
        let options = SamplerOptions {
            repeat_last_n: 4,
            repeat_penalty: 2.0,
            presence_penalty: 0.5,
            frequency_penalty: 0.25,
            ..Default::default()
        };
        // 0 has left the window; 1 is in it twice, 2 and 9 once; there is no logit of 9.
        let penalties = penalties(options, &[0, 0, 1, 2, 9, 1]);
        let mut logits = [4.0, 4.0, -4.0, 4.0];
        penalties.apply(&mut logits);
        assert_eq!(logits, [4.0, 4.0 / 2.0 - 1.0, -4.0 * 2.0 - 0.75, 4.0]);
    }

    #[test]
    fn minus_one_counts_everything_and_zero_nothing() {
        let options = |n| SamplerOptions { repeat_last_n: n, presence_penalty: 1.0, ..Default::default() };
        let mut logits = [0.0];
        penalties(options(0), &[0]).apply(&mut logits);
        assert_eq!(logits, [0.0]);
        let mut tokens = vec![1; 1000];
        tokens[0] = 0;
        penalties(options(-1), &tokens).apply(&mut logits);
        assert_eq!(logits, [-1.0]);
    }

    #[test]
    fn no_logit_becomes_infinite() {
        let options =
            SamplerOptions { repeat_penalty: 0.01, frequency_penalty: -100.0, ..Default::default() };
        let mut logits = [f32::MAX, f32::NEG_INFINITY];
        penalties(options, &[0, 1]).apply(&mut logits);
        assert_eq!(logits, [f32::MAX, f32::NEG_INFINITY]);
    }

    #[test]
    fn nothing_is_remembered_for_nothing() {
        let options = SamplerOptions { repeat_last_n: -1, ..Default::default() };
        assert!(penalties(options, &[0; 100]).last.is_empty());
    }
}
