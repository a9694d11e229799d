//! The whole chain.

use super::*;

fn sampler(options: SamplerOptions) -> Sampler {
    Sampler::new(&options).unwrap()
}

fn seeded(seed: i64) -> SamplerOptions {
    SamplerOptions { seed, ..Default::default() }
}

/// How often each token comes, as a share of `n` draws.
fn shares(options: SamplerOptions, logits: &[f32], n: usize) -> Vec<f64> {
    let mut sampler = sampler(options);
    let mut counts = vec![0usize; logits.len()];
    for _ in 0..n {
        counts[sampler.sample(&mut logits.to_vec()).unwrap() as usize] += 1;
    }
    counts.iter().map(|&c| c as f64 / n as f64).collect()
}

/// The probabilities of the whole chain, written the plain way.
fn expected(options: &SamplerOptions, logits: &[f32]) -> Vec<f64> {
    let mut alive: Vec<usize> = (0..logits.len()).collect();
    alive.sort_by(|&a, &b| logits[b].total_cmp(&logits[a]).then(a.cmp(&b)));
    let softmax = |alive: &[usize], t: f64| -> Vec<f64> {
        let e: Vec<f64> = alive.iter().map(|&i| (f64::from(logits[i]) / t).exp()).collect();
        e.iter().map(|x| x / e.iter().sum::<f64>()).collect()
    };
    if options.top_k > 0 {
        alive.truncate(options.top_k as usize);
    }
    if options.typical_p < 1.0 {
        let p = softmax(&alive, 1.0);
        let entropy: f64 = p.iter().map(|p| -p * p.ln()).sum();
        let mut order: Vec<usize> = (0..alive.len()).collect();
        order.sort_by(|&a, &b| (-p[a].ln() - entropy).abs().total_cmp(&(-p[b].ln() - entropy).abs()));
        let mut sum = 0.0;
        let n = order.iter().position(|&i| {
            sum += p[i];
            sum > f64::from(options.typical_p)
        });
        order.truncate(n.map_or(order.len(), |n| n + 1));
        order.sort_unstable();
        alive = order.iter().map(|&i| alive[i]).collect();
    }
    let mut sum = 0.0;
    let n = softmax(&alive, 1.0).iter().position(|p| {
        sum += p;
        sum >= f64::from(options.top_p)
    });
    alive.truncate(n.map_or(alive.len(), |n| n + 1));
    let p = softmax(&alive, 1.0);
    alive = alive
        .iter()
        .zip(&p)
        .filter(|(_, x)| **x >= f64::from(options.min_p) * p[0])
        .map(|(i, _)| *i)
        .collect();
    let mut all = vec![0.0; logits.len()];
    for (i, p) in alive.iter().zip(softmax(&alive, f64::from(options.temperature))) {
        all[*i] = p;
    }
    all
}

#[test]
fn tokens_come_as_often_as_they_should() {
    let mut noise = SplitMix64::new(7);
    let logits: Vec<f32> = (0..50).map(|_| noise.unit() as f32 * 6.0).collect();
    let d = SamplerOptions { top_k: 0, top_p: 1.0, ..seeded(3) };
    let cases = [
        SamplerOptions { temperature: 1.0, ..d.clone() },
        SamplerOptions { temperature: 0.5, ..d.clone() },
        SamplerOptions { temperature: 1.7, top_k: 10, ..d.clone() },
        SamplerOptions { top_p: 0.6, ..d.clone() },
        SamplerOptions { min_p: 0.3, ..d.clone() },
        SamplerOptions { typical_p: 0.5, ..d.clone() },
        SamplerOptions { typical_p: 0.8, top_k: 20, top_p: 0.9, min_p: 0.1, temperature: 1.2, ..d.clone() },
        SamplerOptions { top_k: i64::MAX, ..d.clone() },
        SamplerOptions { top_k: -1, ..d },
    ];
    for options in cases {
        let n = 20_000;
        let expected = expected(&options, &logits);
        let got = shares(options.clone(), &logits, n);
        for (token, (p, share)) in expected.iter().zip(&got).enumerate() {
            // Five standard deviations of a share, or none where it cannot be.
            let tolerance = 5.0 * (p * (1.0 - p) / n as f64).sqrt();
            assert!((p - share).abs() <= tolerance, "{options:?}: token {token} {share}, not {p}");
        }
    }
}

#[test]
fn a_seed_says_everything() {
    let mut noise = SplitMix64::new(1);
    let logits: Vec<f32> = (0..1000).map(|_| noise.unit() as f32 * 8.0).collect();
    let run = |options: SamplerOptions| -> Vec<u32> {
        let mut sampler = sampler(options);
        (0..12).map(|_| sampler.sample(&mut logits.clone()).unwrap()).collect()
    };
    // These very tokens, on every machine.
    assert_eq!(run(seeded(42)), [72, 731, 912, 351, 29, 598, 570, 122, 351, 494, 570, 828]);
    assert_eq!(
        run(SamplerOptions { top_k: 0, top_p: 0.95, typical_p: 0.9, ..seeded(42) }),
        [215, 116, 2, 410, 829, 97, 624, 411, 396, 311, 514, 815]
    );
    assert_ne!(run(seeded(42)), run(seeded(43)));
    assert_ne!(run(seeded(-1)), run(seeded(-1)));
    assert_eq!(run(seeded(i64::MIN)), run(seeded(i64::MIN)));
}

#[test]
fn zero_temperature_takes_the_likeliest() {
    let mut greedy = sampler(SamplerOptions { temperature: 0.0, top_k: 0, top_p: 0.0, ..Default::default() });
    assert_eq!(greedy.sample(&mut [1.0, 5.0, 5.0, 2.0]).unwrap(), 1);
    assert_eq!(greedy.sample(&mut [-0.0, 0.0]).unwrap(), 0);
    assert_eq!(greedy.sample(&mut [f32::NEG_INFINITY, f32::MIN]).unwrap(), 1);
    let options =
        SamplerOptions { temperature: 0.0, presence_penalty: 4.0, repeat_last_n: 1, ..Default::default() };
    let mut greedy = sampler(options);
    greedy.accept(1);
    assert_eq!(greedy.sample(&mut [1.0, 5.0, 2.0]).unwrap(), 2);
}

#[test]
fn filters_always_leave_a_token() {
    let zero = SamplerOptions { top_p: 0.0, min_p: 1.0, typical_p: 0.0, ..seeded(1) };
    assert_eq!(sampler(zero).sample(&mut [1.0, 3.0]).unwrap(), 1);
    let tiny = SamplerOptions { temperature: f32::MIN_POSITIVE, ..seeded(1) };
    assert_eq!(sampler(tiny).sample(&mut [f32::MIN, 0.0, f32::MAX]).unwrap(), 2);
    let one = SamplerOptions { top_k: 1, temperature: f32::MAX, ..seeded(1) };
    assert_eq!(sampler(one).sample(&mut [2.0, 2.0, 1.0]).unwrap(), 0);
    assert_eq!(sampler(seeded(1)).sample(&mut [f32::NEG_INFINITY, 0.0]).unwrap(), 1);
}

#[test]
fn no_token_comes_from_broken_logits() {
    for temperature in [0.0, 0.8] {
        let mut sampler = sampler(SamplerOptions { temperature, ..seeded(1) });
        let mut error = |logits: &[f32]| sampler.sample(&mut logits.to_vec()).unwrap_err().to_string();
        assert!(error(&[0.0, f32::NAN]).starts_with("the logit of token 1 is NaN"));
        assert!(error(&[f32::INFINITY]).starts_with("the logit of token 0 is inf"));
        assert!(error(&[f32::NEG_INFINITY; 3]).starts_with("no token is possible"));
        assert!(error(&[]).starts_with("no token is possible"));
    }
}

#[test]
fn options_out_of_range_are_named() {
    let d = SamplerOptions::default;
    let bad = [
        SamplerOptions { temperature: f32::INFINITY, ..d() },
        SamplerOptions { temperature: -0.1, ..d() },
        SamplerOptions {
            temperature: f32::NAN,
            top_p: f32::NAN,
            min_p: f32::NAN,
            typical_p: f32::NAN,
            ..d()
        },
        SamplerOptions { top_p: 1.5, ..d() },
        SamplerOptions { min_p: -1e30, ..d() },
        SamplerOptions { typical_p: 2.0, ..d() },
        SamplerOptions { repeat_penalty: 0.0, ..d() },
        SamplerOptions { repeat_penalty: f32::INFINITY, presence_penalty: f32::MAX, ..d() },
        SamplerOptions { frequency_penalty: f32::NEG_INFINITY, repeat_last_n: -2, ..d() },
        SamplerOptions { repeat_last_n: i64::MIN, ..d() },
    ];
    let messages: Vec<String> = bad.iter().map(|o| Sampler::new(o).unwrap_err().to_string()).collect();
    insta::with_settings!({
        snapshot_path => concat!(env!("CARGO_MANIFEST_DIR"), "/snapshots"),
        prepend_module_to_snapshot => false,
        omit_expression => true,
    }, { insta::assert_snapshot!("sampler_options_out_of_range", messages.join("\n")) });
    for fine in [
        SamplerOptions { seed: i64::MIN, top_k: i64::MIN, repeat_last_n: i64::MAX, ..d() },
        SamplerOptions { temperature: f32::MAX, top_p: 0.0, min_p: 1.0, typical_p: 0.0, ..d() },
        SamplerOptions { repeat_penalty: 0.01, presence_penalty: -100.0, frequency_penalty: 100.0, ..d() },
    ] {
        assert!(Sampler::new(&fine).is_ok());
    }
}

#[test]
fn penalties_keep_logits_finite() {
    let options = SamplerOptions {
        repeat_last_n: -1,
        repeat_penalty: 100.0,
        presence_penalty: -100.0,
        frequency_penalty: -100.0,
        ..seeded(1)
    };
    let mut sampler = sampler(options);
    (0..1000).for_each(|_| sampler.accept(0));
    assert_eq!(sampler.sample(&mut [-1e6, 0.0]).unwrap(), 1);
    assert_eq!(sampler.sample(&mut [0.0, 0.0]).unwrap(), 0);
}
