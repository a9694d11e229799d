//! Tokens chosen on the device, against the definition of src/runtime/sampler written out plainly.

use crate::args;
use crate::harness::{Buffer, both};
use crate::values::{Random, same};

/// As a kernel takes it: temperature, top-k, top-p, min-p and a draw.
#[derive(Clone, Copy)]
#[repr(C)]
struct Options {
    temperature: f32,
    top_k: i32,
    top_p: f32,
    min_p: f32,
    draw: f64,
}

impl Options {
    fn words(self) -> [u32; 6] {
        let draw = self.draw.to_bits();
        [
            self.temperature.to_bits(),
            self.top_k as u32,
            self.top_p.to_bits(),
            self.min_p.to_bits(),
            draw as u32,
            (draw >> 32) as u32,
        ]
    }
}

/// The token and how many candidates were left.
fn sampled(logits: &[f32], allowed: impl Fn(usize) -> bool, options: Options) -> (i32, i32) {
    let mut list: Vec<(usize, f32)> =
        logits.iter().copied().enumerate().filter(|(i, v)| allowed(*i) && *v != f32::NEG_INFINITY).collect();
    list.sort_by(|a, b| b.1.partial_cmp(&a.1).unwrap().then(a.0.cmp(&b.0)));
    list.truncate(options.top_k as usize);
    let max = list[0].1;
    let weight = |v: f32, t: f32| libm::exp((f64::from(v) - f64::from(max)) / f64::from(t));
    if options.top_p < 1.0 && list.len() > 1 {
        let sum: f64 = list.iter().map(|c| weight(c.1, 1.0)).sum();
        let (enough, mut cumulative) = (f64::from(options.top_p) * sum, 0.0);
        let n = list.iter().position(|c| {
            cumulative += weight(c.1, 1.0);
            cumulative >= enough
        });
        list.truncate(n.map_or(list.len(), |n| n + 1));
    }
    if options.min_p > 0.0 {
        let least = f64::from(max) + libm::log(f64::from(options.min_p));
        list.retain(|c| f64::from(c.1) >= least);
    }
    let sum: f64 = list.iter().map(|c| weight(c.1, options.temperature)).sum();
    let (target, mut cumulative) = (if list.len() > 1 { options.draw * sum } else { 0.0 }, 0.0);
    let chosen = list.iter().find(|c| {
        cumulative += weight(c.1, options.temperature);
        cumulative > target
    });
    (chosen.or(list.last()).unwrap().0 as i32, list.len() as i32)
}

fn bits_of_mask(n: usize, allowed: impl Fn(usize) -> bool) -> Vec<u32> {
    let mut mask = vec![0u32; n.div_ceil(32)];
    (0..n).filter(|i| allowed(*i)).for_each(|i| mask[i / 32] |= 1 << (i % 32));
    mask
}

#[test]
fn draws_fall_where_they_fall_on_the_cpu() {
    let mut random = Random(71);
    for (n, ties) in [(5, false), (700, true), (3000, true), (5000, false)] {
        for (top_k, top_p, min_p, temperature) in [
            (40, 0.9, 0.0, 0.8),
            (1, 1.0, 0.0, 1.0),
            (1024, 0.95, 0.01, 1.3),
            (100, 1.0, 0.2, 0.1),
            (7, 0.0, 0.0, 1.0),
        ] {
            let mut rows: Vec<Vec<f32>> = (0..2).map(|_| random.floats(n)).collect();
            for row in &mut rows {
                row.iter_mut().for_each(|v| *v = if ties { (*v * 2.0).round() / 2.0 } else { *v * 4.0 });
                row[n / 2] = f32::NEG_INFINITY;
                row[n / 3] = -0.0;
            }
            let draws: Vec<f64> =
                (0..2).map(|_| (random.bits() >> 11) as f64 / (1u64 << 53) as f64).collect();
            let options: Vec<Options> =
                draws.iter().map(|draw| Options { temperature, top_k, top_p, min_p, draw: *draw }).collect();
            let allowed = |row: usize, i: usize| row == 0 || !i.is_multiple_of(3);
            let masks = [bits_of_mask(n, |i| allowed(0, i)), bits_of_mask(n, |i| allowed(1, i))].concat();
            let expected: Vec<(i32, i32)> =
                (0..2).map(|row| sampled(&rows[row], |i| allowed(row, i), options[row])).collect();
            let logits = Buffer::of(&rows.concat());
            let masks = Buffer::of(&masks);
            let words: Vec<u32> = options.iter().flat_map(|o| o.words()).collect();
            let options = Buffer::of(&words);
            both(|order| {
                let out = Buffer::filled(16, 0xff);
                order.launch("sample", [2, 1, 1], 1024, 0, args![&logits, &masks, n, &options, &out]);
                let found: Vec<(i32, i32)> = out.read::<i32>().chunks(2).map(|c| (c[0], c[1])).collect();
                assert_eq!(found, expected, "{n} {top_k} {top_p} {min_p}");
            });
        }
    }
}

#[test]
fn the_likeliest_token_is_the_first_of_equals() {
    both(|order| {
        let mut logits: Vec<f32> = Random(72).floats(3000).iter().map(|v| -1.0 - v.abs()).collect();
        logits[1500] = 0.0;
        logits[700] = -0.0;
        logits[2999] = 0.0;
        let rows: Vec<f32> = [&logits[..], &[f32::NEG_INFINITY; 3000], &logits].concat();
        let mut masks = bits_of_mask(3000, |_| true).repeat(3);
        masks[2 * 94 + 700 / 32] &= !(1 << (700 % 32));
        let (rows, masks) = (Buffer::of(&rows), Buffer::of(&masks));
        let out = Buffer::filled(24, 0xff);
        order.launch("sample_greedy", [3, 1, 1], 1024, 0, args![&rows, &masks, 3000i32, &out]);
        assert_eq!(out.read::<i32>(), [700, 1, -2, 1, 1500, 1]);
        for bad in [f32::NAN, f32::INFINITY] {
            logits[31] = bad;
            let none: Option<&Buffer> = None;
            let from = Buffer::of(&logits);
            order.launch("sample_greedy", [1, 1, 1], 1024, 0, args![&from, none, 3000i32, &out]);
            assert_eq!(out.read::<i32>()[0], -1);
            let words = Options { temperature: 1.0, top_k: 5, top_p: 1.0, min_p: 0.0, draw: 0.5 }.words();
            let options = Buffer::of(&words);
            order.launch("sample", [1, 1, 1], 1024, 0, args![&from, none, 3000i32, &options, &out]);
            assert_eq!(out.read::<i32>()[0], -1);
            let mask = Buffer::of(&bits_of_mask(3000, |i| i == 7));
            order.launch("sample", [1, 1, 1], 1024, 0, args![&from, &mask, 3000i32, &options, &out]);
            assert_eq!(out.read::<i32>()[..2], [7, 1]);
        }
    });
}

#[test]
fn penalties_are_those_of_the_cpu() {
    let logits = [4.0f32, 4.0, -4.0, f32::MAX, f32::NEG_INFINITY, 1.0];
    let (tokens, counts) = ([1i32, 2, 3, 4, 9], [2i32, 1, 1, 1, 1]);
    let (repeat, presence, frequency) = (0.01f32, 0.5f32, 0.25f32);
    let mut expected = logits;
    for (token, count) in tokens.iter().zip(counts) {
        if let Some(logit) = expected.get_mut(*token as usize) {
            *logit = if *logit > 0.0 { *logit / repeat } else { *logit * repeat };
            *logit -= count as f32 * frequency + presence;
            *logit = logit.min(f32::MAX);
        }
    }
    both(|order| {
        let (from, tokens, counts) = (Buffer::of(&logits), Buffer::of(&tokens), Buffer::of(&counts));
        let args = args![&from, &tokens, &counts, 5i32, 6i32, repeat, presence, frequency];
        order.launch("penalize", [1, 1, 1], 256, 0, args);
        same(&from.read(), &expected, "penalize");
    });
}
