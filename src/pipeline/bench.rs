//! How fast a model runs: tokens a second of reading and of writing, and what each operation takes of the time.

use mdl_kernels::Level;
use mdl_kernels::ops::limits;

use crate::diagnostic::{Diagnostic, Result};
use crate::ir::Module;
use crate::passes::{package, plan};
use crate::runtime::device::{Compute, DeviceChoice};
use crate::runtime::kv::KvType;
use crate::runtime::loaded::Loaded;
use crate::runtime::timing::{Kind, Profile, Test, Timed};

/// What is measured of a model.
#[derive(Clone, Debug)]
pub struct Options {
    /// The tests, in order.
    pub tests: Vec<Test>,
    /// Tokens of a step at most.
    pub batch: usize,
    /// Runs of each test, after one that warms up.
    pub repeat: usize,
    /// Threads.
    pub threads: usize,
    /// Where the model computes.
    pub device: DeviceChoice,
    /// How keys and values are stored; `None` as the model usually has them.
    pub kv: Option<KvType>,
    /// Look at each operation.
    pub profile: bool,
}

/// The tests of every combination: prompts and generations of these lengths, at each depth, with each number of
/// sequences. A length of 0 is left out.
pub fn tests(prompts: &[usize], generates: &[usize], depths: &[usize], sequences: &[usize]) -> Vec<Test> {
    let prompts = prompts.iter().map(|n| (Kind::Prefill, *n));
    let kinds: Vec<(Kind, usize)> = prompts.chain(generates.iter().map(|n| (Kind::Decode, *n))).collect();
    let mut tests = Vec::new();
    for sequences in sequences {
        for depth in depths {
            let some = kinds.iter().filter(|(_, tokens)| *tokens > 0);
            tests.extend(some.map(|&(kind, tokens)| Test {
                kind,
                tokens,
                depth: *depth,
                sequences: *sequences,
            }));
        }
    }
    tests
}

/// A model, measured.
#[derive(Clone, Debug)]
pub struct Benched {
    /// Its family.
    pub architecture: String,
    /// The type of most of its weights.
    pub file_type: String,
    /// Bytes of its tensors in the file.
    pub bytes: u64,
    /// Values of its tensors.
    pub parameters: u64,
    /// How keys and values are stored.
    pub kv: KvType,
    /// Threads.
    pub threads: usize,
    /// The instruction set in use, on the CPU.
    pub level: Level,
    /// What the accelerator is called, where there is one.
    pub accelerator: Option<String>,
    /// Tokens of a step at most.
    pub batch: usize,
    /// Each test.
    pub measured: Vec<Measured>,
    /// What the machine can do, where operations are looked at.
    pub limits: Option<Limits>,
}

/// A test, measured.
#[derive(Clone, Debug)]
pub struct Measured {
    /// What was run.
    pub test: Test,
    /// Tokens a second of each run.
    pub samples: Vec<f64>,
    /// Where the time went, in the fastest of as many runs.
    pub profile: Option<Profile>,
}

/// What the machine did at most, in the same run.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Bytes a second that were read of as much memory as the weights take.
    pub read: f64,
    /// How much that is.
    pub read_bytes: u64,
    /// Multiply-adds of float32 a second.
    pub float_macs: f64,
    /// Multiply-adds of BF16 a second.
    pub bf16_macs: f64,
    /// Multiply-adds of int8 a second.
    pub int8_macs: f64,
}

/// Figures of a number of samples.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Statistics {
    /// The arithmetic mean.
    pub mean: f64,
    /// The middle one, or between the two.
    pub median: f64,
    /// The least.
    pub min: f64,
    /// The greatest.
    pub max: f64,
    /// The standard deviation of the population they are samples of (Bessel's correction); 0 for one.
    pub deviation: f64,
}

impl Statistics {
    /// The figures of `samples`; zeros for none.
    pub fn of(samples: &[f64]) -> Statistics {
        let mut sorted = samples.to_vec();
        sorted.sort_by(f64::total_cmp);
        let n = sorted.len();
        let mean = sorted.iter().sum::<f64>() / n.max(1) as f64;
        let squares: f64 = sorted.iter().map(|v| (v - mean) * (v - mean)).sum();
        let at = |i: usize| sorted.get(i).copied().unwrap_or(0.0);
        Statistics {
            mean,
            median: (at(n.saturating_sub(1) / 2) + at(n / 2)) / 2.0,
            min: at(0),
            max: at(n.saturating_sub(1)),
            deviation: (squares / n.saturating_sub(1).max(1) as f64).sqrt(),
        }
    }
}

/// How far a measurement is.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Step {
    /// Runs that are done.
    pub done: usize,
    /// All of them.
    pub total: usize,
    /// Tokens a second of the last.
    pub rate: f64,
}

/// Measures a model. `progress` is told after each run.
///
/// # Errors
/// The model cannot be loaded, or there is no memory for a test.
pub fn bench(module: &Module, options: &Options, progress: &mut dyn FnMut(Step)) -> Result<Benched> {
    let loaded = Loaded::open(module, Compute { threads: Some(options.threads), device: options.device })?;
    let model = &loaded.model;
    let level = Level::current();
    if options.profile
        && let Some(accelerator) = model.accelerator()
    {
        let message =
            format!("operations are held against the CPU's limits, and the model is on {}", accelerator.name);
        return Err(Diagnostic::error(message)
            .code("not-implemented")
            .help("`--device cpu --profile`")
            .into());
    }
    let limits = match options.profile {
        false => None,
        true => Some(measure_limits(level, model.program().multiplied_bytes(), options.threads)?),
    };
    let runs = 1 + options.repeat * if options.profile { 2 } else { 1 };
    let (mut done, total) = (0, runs * options.tests.len());
    let mut measured = Vec::new();
    for test in &options.tests {
        let mut timed = Timed::new(model, *test, options.batch, options.kv)?;
        timed.fill()?;
        let mut run = |samples: Option<&mut Vec<f64>>| -> Result<()> {
            let rate = test.total() as f64 / timed.run()?.as_secs_f64().max(1e-9);
            if let Some(samples) = samples {
                samples.push(rate);
            }
            done += 1;
            progress(Step { done, total, rate });
            Ok(())
        };
        run(None)?;
        let mut samples = Vec::with_capacity(options.repeat);
        for _ in 0..options.repeat {
            run(Some(&mut samples))?;
        }
        let mut profile: Option<Profile> = None;
        for _ in 0..if options.profile { options.repeat } else { 0 } {
            let one = timed.profile()?;
            done += 1;
            progress(Step { done, total, rate: test.total() as f64 / one.total.as_secs_f64().max(1e-9) });
            if profile.as_ref().is_none_or(|best| one.total < best.total) {
                profile = Some(one);
            }
        }
        measured.push(Measured { test: *test, samples, profile });
    }
    Ok(Benched {
        architecture: module.architecture().unwrap_or("?").to_owned(),
        file_type: package::file_type(&module.metadata),
        bytes: module.tensors.iter().map(|t| plan::bytes(&t.expr).1).sum(),
        parameters: module.parameter_count(),
        kv: options.kv.unwrap_or_else(|| model.usual_kv()),
        threads: options.threads,
        level,
        accelerator: model.accelerator().map(|a| a.name),
        batch: options.batch,
        measured,
        limits,
    })
}

fn measure_limits(level: Level, bytes: u64, threads: usize) -> Result<Limits> {
    let read = limits::read_bandwidth(level, usize::try_from(bytes).unwrap_or(usize::MAX), threads)
        .map_err(|e| Diagnostic::environment(format!("no memory to measure the bandwidth with: {e}")))?;
    Ok(Limits {
        read,
        read_bytes: bytes,
        float_macs: limits::float_peak(level, threads),
        bf16_macs: limits::bf16_peak(level, threads),
        int8_macs: limits::int8_peak(level, threads),
    })
}

#[cfg(test)]
mod figures {
    use super::*;

    #[test]
    fn statistics_are_those_of_the_samples() {
        let found = Statistics::of(&[4.0, 1.0, 3.0, 2.0]);
        let expected =
            Statistics { mean: 2.5, median: 2.5, min: 1.0, max: 4.0, deviation: (5.0f64 / 3.0).sqrt() };
        assert_eq!(found, expected);
        let one = Statistics { mean: 7.0, median: 7.0, min: 7.0, max: 7.0, deviation: 0.0 };
        assert_eq!(Statistics::of(&[7.0]), one);
        assert_eq!(Statistics::of(&[2.0, 9.0, 1.0]).median, 2.0);
        assert_eq!(Statistics::of(&[]).mean, 0.0);
    }

    #[test]
    fn every_combination_is_a_test_but_those_of_no_tokens() {
        let all = tests(&[512, 0], &[128], &[0, 9], &[1, 8]);
        assert_eq!(all.len(), 8);
        let expected = Test { kind: Kind::Decode, tokens: 128, depth: 9, sequences: 8 };
        assert_eq!(all.last(), Some(&expected));
        assert!(tests(&[0], &[0], &[0], &[1]).is_empty());
    }
}
