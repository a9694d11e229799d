//! Mixtures of experts: which are chosen, and the sum of their parts.

use crate::args;
use crate::harness::{Buffer, both};
use crate::values::{Random, same};

/// As `src/runtime/backend/cpu_experts.rs` has it.
fn route(logits: &[f32], normalised: bool, out: &mut [f32]) {
    let used = out.len() / 2;
    let (ids, weights) = out.split_at_mut(used);
    let mut order: Vec<usize> = (0..logits.len()).collect();
    order.sort_by(|a, b| logits[*b].total_cmp(&logits[*a]).then(a.cmp(b)));
    let highest = logits[order[0]];
    let exp = |i: usize| libm::expf(logits[i] - highest);
    let chosen = &order[..used];
    let sum: f32 = match normalised {
        true => chosen.iter().map(|i| exp(*i)).sum(),
        false => (0..logits.len()).map(exp).sum(),
    };
    for ((id, weight), expert) in ids.iter_mut().zip(weights).zip(chosen) {
        (*id, *weight) = (*expert as f32, exp(*expert) / sum);
    }
}

#[test]
fn the_likeliest_experts_are_chosen() {
    let mut random = Random(31);
    for (experts, used) in [(1, 1), (4, 2), (60, 4), (128, 8), (33, 33)] {
        for normalised in [false, true] {
            // Few values, so that there are ties.
            let logits: Vec<f32> = (0..3 * experts)
                .map(|_| (random.float() * 6.0).round() / 2.0 * if random.below(9) == 0 { -0.0 } else { 1.0 })
                .collect();
            let mut expected = vec![0.0; 3 * 2 * used];
            for (logits, out) in logits.chunks(experts).zip(expected.chunks_mut(2 * used)) {
                route(logits, normalised, out);
            }
            let from = Buffer::of(&logits);
            both(|order| {
                let out = Buffer::floats(3 * 2 * used);
                let args = args![&from, &out, experts, used, i32::from(normalised)];
                order.launch("route", [3, 1, 1], 32, 4 * experts, args);
                for (found, expected) in out.read::<f32>().chunks(2 * used).zip(expected.chunks(2 * used)) {
                    assert_eq!(found[..used], expected[..used], "{experts} {used}");
                    // Two exponentials that differ in the last places, and a sum of them.
                    let close = |(a, b): (&f32, &f32)| (a - b).abs() <= 1e-6 * b.abs();
                    assert!(found[used..].iter().zip(&expected[used..]).all(close), "{found:?} {expected:?}");
                }
            });
        }
    }
}

#[test]
fn parts_are_mixed_as_on_the_cpu() {
    let mut random = Random(32);
    let (columns, used, n) = (2, 3, 300);
    let (parts, chosen) = (random.floats(columns * used * n), random.floats(columns * 2 * used));
    let mut expected = vec![0.0f32; columns * n];
    for (c, out) in expected.chunks_mut(n).enumerate() {
        for place in 0..used {
            let weight = chosen[c * 2 * used + used + place];
            let part = &parts[(c * used + place) * n..][..n];
            out.iter_mut().zip(part).for_each(|(o, p)| *o += weight * p);
        }
    }
    let (parts, chosen) = (Buffer::of(&parts), Buffer::of(&chosen));
    both(|order| {
        let out = Buffer::floats(columns * n);
        order.launch("mix", [2, columns, 1], 256, 0, args![&parts, &chosen, &out, n, used]);
        same(&out.read(), &expected, "mix");
    });
}
