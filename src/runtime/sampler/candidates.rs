//! The tokens that are still possible.
//!
//! They are sorted only as far as a filter has to look: for a vocabulary of 256k, a whole sort takes
//! longer than many models' last layer.

use std::cmp::Ordering;

/// A token that may be chosen.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Candidate {
    id: u32,
    /// Finite.
    logit: f32,
}

impl Candidate {
    /// Likelier first, then the lower id: a total order, whatever the way of sorting.
    fn order(&self, other: &Candidate) -> Ordering {
        // -0 and 0 are one logit here, and there is no NaN.
        other.logit.partial_cmp(&self.logit).unwrap_or(Ordering::Equal).then(self.id.cmp(&other.id))
    }
}

/// The candidates of one token; the buffer is used again for the next.
#[derive(Clone, Debug, Default)]
pub(super) struct Candidates {
    list: Vec<Candidate>,
    /// So many at the beginning are the likeliest ones, in [`Candidate::order`].
    sorted: usize,
}

/// How many are sorted at first where it is not known how many are needed.
const FIRST_SORTED: usize = 256;

/// Logits that are compared together.
const CHUNK: usize = 64;

impl Candidates {
    pub(super) fn len(&self) -> usize {
        self.list.len()
    }

    /// Begins with every token that is not ruled out by `-inf`, in the order of ids.
    pub(super) fn take_all(&mut self, logits: &[f32]) {
        self.list.clear();
        self.list.extend(possible(logits));
        self.sorted = 0;
    }

    /// Begins with the `k` likeliest tokens, sorted. `k` is at least 1.
    pub(super) fn take_top(&mut self, logits: &[f32], k: usize) {
        self.list.clear();
        // Up to twice as many are collected before the worse half goes: O(n) for any k.
        let room = k.saturating_mul(2).max(FIRST_SORTED);
        // Only what is above it can still be among the first k: of equals, the lower id came first.
        let mut threshold = f32::NEG_INFINITY;
        for (chunk, first) in logits.chunks(CHUNK).zip((0u32..).step_by(CHUNK)) {
            // Without a branch per logit, for the compiler to use vectors: most chunks have none.
            if !chunk.iter().fold(false, |any, &logit| any | (logit > threshold)) {
                continue;
            }
            for (&logit, id) in chunk.iter().zip(first..) {
                if logit > threshold {
                    self.list.push(Candidate { id, logit });
                }
                if self.list.len() == room {
                    self.list.select_nth_unstable_by(k - 1, Candidate::order);
                    self.list.truncate(k);
                    threshold = self.list[k - 1].logit;
                }
            }
        }
        self.list.sort_unstable_by(Candidate::order);
        self.list.truncate(k);
        self.sorted = self.list.len();
    }

    /// Sorts the likeliest `n`, or all there are.
    fn sort(&mut self, n: usize) {
        let n = n.min(self.list.len());
        if n <= self.sorted {
            return;
        }
        let rest = &mut self.list[self.sorted..];
        let more = n - self.sorted;
        if more < rest.len() {
            rest.select_nth_unstable_by(more - 1, Candidate::order);
        }
        rest[..more].sort_unstable_by(Candidate::order);
        self.sorted = n;
    }

    fn keep_likeliest(&mut self, n: usize) {
        self.sort(n);
        self.list.truncate(n);
        self.sorted = self.list.len();
    }

    fn max_logit(&self) -> f32 {
        match self.sorted {
            0 => self.list.iter().map(|c| c.logit).fold(f32::NEG_INFINITY, f32::max),
            _ => self.list[0].logit,
        }
    }

    /// Keeps the likeliest ones, as few as have `p` of the probability.
    pub(super) fn top_p(&mut self, p: f32) {
        if p >= 1.0 || self.list.len() < 2 {
            return;
        }
        let max = self.max_logit();
        let sum: f64 = self.list.iter().map(|c| weight(c.logit, max, 1.0)).sum();
        let enough = f64::from(p) * sum;
        let mut cumulative = 0.0;
        for n in 0..self.list.len() {
            if n == self.sorted {
                self.sort((2 * n).max(FIRST_SORTED));
            }
            cumulative += weight(self.list[n].logit, max, 1.0);
            if cumulative >= enough {
                self.keep_likeliest(n + 1);
                return;
            }
        }
    }

    /// Keeps those at least `p` times as likely as the likeliest.
    pub(super) fn min_p(&mut self, p: f32) {
        if p <= 0.0 {
            return;
        }
        let least = f64::from(self.max_logit()) + libm::log(f64::from(p));
        self.list.retain(|c| f64::from(c.logit) >= least);
        self.sorted = self.sorted.min(self.list.len());
    }

    /// Keeps those whose information, -ln p, is closest to the entropy, until they have `p` of the
    /// probability.
    pub(super) fn typical(&mut self, p: f32) {
        if p >= 1.0 || self.list.len() < 2 {
            return;
        }
        self.sort(self.list.len());
        let max = self.max_logit();
        let weights: Vec<f64> = self.list.iter().map(|c| weight(c.logit, max, 1.0)).collect();
        let sum: f64 = weights.iter().sum();
        let log_sum = libm::log(sum);
        // -ln p_i, and p_i times it added up.
        let information = |c: &Candidate| log_sum - (f64::from(c.logit) - f64::from(max));
        let entropy: f64 = self.list.iter().zip(&weights).map(|(c, w)| w / sum * information(c)).sum();
        let mut order: Vec<usize> = (0..self.list.len()).collect();
        let distance = |&i: &usize| (information(&self.list[i]) - entropy).abs();
        // Stable: equals stay in the order of likelihood.
        order.sort_by(|a, b| distance(a).total_cmp(&distance(b)));
        let mut cumulative = 0.0;
        let enough = |&i: &usize| {
            cumulative += weights[i] / sum;
            cumulative > f64::from(p)
        };
        let n = order.iter().position(enough).map_or(order.len(), |at| at + 1);
        self.list = order[..n].iter().map(|&i| self.list[i]).collect();
        self.sorted = 0;
        self.sort(n);
    }

    /// The one that `draw`, from [0, 1), falls on, when each has a share of exp(logit / temperature), of a
    /// temperature above 0. `None` if there are none.
    pub(super) fn draw(&mut self, temperature: f32, draw: f64) -> Option<u32> {
        let max = self.max_logit();
        let weight = |c: &Candidate| weight(c.logit, max, temperature);
        let sum: f64 = self.list.iter().map(weight).sum();
        let target = draw * sum;
        let mut cumulative = 0.0;
        let chosen = self.list.iter().find(|c| {
            cumulative += weight(c);
            cumulative > target
        });
        // Sums are in one order, so that the last cumulative is the sum, above any target.
        chosen.or(self.list.last()).map(|c| c.id)
    }
}

fn possible(logits: &[f32]) -> impl Iterator<Item = Candidate> {
    logits
        .iter()
        .zip(0..)
        .filter(|(l, _)| **l != f32::NEG_INFINITY)
        .map(|(&logit, id)| Candidate { id, logit })
}

/// The probability times a factor that all have: exp((logit - max) / temperature), from 0 to 1.
fn weight(logit: f32, max: f32, temperature: f32) -> f64 {
    libm::exp((f64::from(logit) - f64::from(max)) / f64::from(temperature))
}

#[cfg(test)]
#[allow(clippy::disallowed_methods)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn any_logits() -> impl Strategy<Value = Vec<f32>> {
        // Few distinct values, so that there are ties.
        let logit = prop_oneof![8 => -6i8..6, 1 => Just(i8::MIN)];
        prop::collection::vec(logit, 1..600).prop_map(|v| {
            v.into_iter().map(|l| if l == i8::MIN { f32::NEG_INFINITY } else { f32::from(l) / 2.0 }).collect()
        })
    }

    fn all_sorted(logits: &[f32]) -> Vec<Candidate> {
        let mut all: Vec<_> = possible(logits).collect();
        all.sort_by(Candidate::order);
        all
    }

    fn taken(logits: &[f32]) -> Candidates {
        let mut candidates = Candidates::default();
        candidates.take_all(logits);
        candidates
    }

    proptest! {
        #[test]
        fn top_k_is_the_head_of_a_whole_sort(logits in any_logits(), k in 1usize..400) {
            let mut candidates = Candidates::default();
            candidates.take_top(&logits, k);
            let mut all = all_sorted(&logits);
            all.truncate(k);
            prop_assert_eq!(candidates.list, all);
        }

        #[test]
        fn top_p_is_the_head_of_a_whole_sort(logits in any_logits(), p in 0.0f32..1.0) {
            let all = all_sorted(&logits);
            let mut candidates = taken(&logits);
            candidates.top_p(p);
            let kept = candidates.list;
            prop_assert_eq!(&kept[..], &all[..kept.len()]);
            let mass = |c: &[Candidate]| c.iter().map(|c| f64::from(c.logit).exp()).sum::<f64>();
            let share = |n: usize| mass(&all[..n]) / mass(&all);
            if all.len() > 1 {
                prop_assert!(share(kept.len()) >= f64::from(p) - 1e-9);
                prop_assert!(kept.len() == 1 || share(kept.len() - 1) < f64::from(p) + 1e-9);
            }
        }

        #[test]
        fn min_p_compares_with_the_likeliest(logits in any_logits(), p in 0.001f32..1.0) {
            let mut candidates = taken(&logits);
            candidates.min_p(p);
            let all = taken(&logits);
            let max = f64::from(all.max_logit()).exp();
            let expected: Vec<_> =
                all.list.iter().filter(|c| f64::from(c.logit).exp() >= f64::from(p) * max).copied().collect();
            prop_assert_eq!(candidates.list, expected);
        }
    }

    #[test]
    fn typical_keeps_what_is_neither_too_likely_nor_too_unlikely() {
        // Probabilities 0.5, 0.3, 0.15, 0.05; the entropy is 1.142, informations 0.693, 1.204, 1.897, 2.996.
        let logits: Vec<f32> = [0.5f32, 0.3, 0.15, 0.05].iter().map(|p| p.ln()).collect();
        let kept = |p: f32| {
            let mut candidates = taken(&logits);
            candidates.typical(p);
            candidates.list.iter().map(|c| c.id).collect::<Vec<_>>()
        };
        assert_eq!(kept(0.2), [1]);
        assert_eq!(kept(0.5), [0, 1]);
        assert_eq!(kept(0.9), [0, 1, 2]);
        assert_eq!(kept(0.97), [0, 1, 2, 3]);
        assert_eq!(kept(0.0), [1]);
    }

    #[test]
    fn a_draw_falls_on_shares() {
        let drawn =
            |temperature, draw| taken(&[1.0f32.ln(), f32::NEG_INFINITY, 3.0f32.ln()]).draw(temperature, draw);
        assert_eq!(drawn(1.0, 0.0), Some(0));
        assert_eq!(drawn(1.0, 0.24), Some(0));
        assert_eq!(drawn(1.0, 0.26), Some(2));
        assert_eq!(drawn(1.0, 1.0 - f64::EPSILON), Some(2));
        // Temperature 0.5 squares the shares.
        assert_eq!(drawn(0.5, 0.09), Some(0));
        assert_eq!(drawn(0.5, 0.11), Some(2));
        assert_eq!(drawn(f32::MIN_POSITIVE, 0.0), Some(2));
        assert_eq!(drawn(f32::MAX, 0.49), Some(0));
        assert_eq!(taken(&[]).draw(1.0, 0.0), None);
    }

    #[test]
    fn the_exponential_is_the_same_on_every_machine() {
        // Bits, not closeness.
        let bits: Vec<u64> =
            [-0.1f32, -1.0, -5.5, -30.0, -700.0].map(|l| weight(l, 0.0, 0.8).to_bits()).to_vec();
        assert_eq!(
            bits,
            [4606124044988547618, 4598832831599558624, 4562408067660145064, 4363378662484229705, 0]
        );
    }
}
