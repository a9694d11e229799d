//! The loop from a prompt to tokens.

use std::ops::ControlFlow;
use std::time::{Duration, Instant};

use mdl_kernels::Level;
use mdl_kernels::ops::elementwise::greatest;

use super::engine::Session;
use crate::diagnostic::{Diagnostic, Result};

/// Chooses tokens.
pub trait Sampler {
    /// Chooses the next token from the logits, which it may change.
    ///
    /// # Errors
    /// No token can be chosen.
    fn sample(&mut self, logits: &mut [f32]) -> Result<u32>;

    /// Takes note of a token that is in the context now: of the prompt, or chosen.
    fn accept(&mut self, token: u32);
}

/// The most probable token; of equals the first.
#[derive(Clone, Copy, Debug, Default)]
pub struct Greedy;

impl Sampler for Greedy {
    fn sample(&mut self, logits: &mut [f32]) -> Result<u32> {
        match greatest(Level::current(), logits) {
            Some(token) => Ok(token as u32),
            None => Err(Diagnostic::error("there are no logits to choose from").into()),
        }
    }

    fn accept(&mut self, _token: u32) {}
}

impl Sampler for super::sampler::Sampler {
    fn sample(&mut self, logits: &mut [f32]) -> Result<u32> {
        super::sampler::Sampler::sample(self, logits)
    }

    fn accept(&mut self, token: u32) {
        super::sampler::Sampler::accept(self, token);
    }
}

/// When to stop, and what to do with a full context.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Tokens to generate at most (`num_predict`); `None` for no limit.
    pub num_predict: Option<usize>,
    /// Tokens at the start that a shift of the context keeps.
    pub num_keep: usize,
    /// Drop old tokens when the context is full; else stop there.
    pub shift: bool,
}

/// Why a generation ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Done {
    /// An end-of-generation token, or the receiver had enough (a stop string).
    Stop,
    /// `num_predict` tokens, or a full context.
    Length,
    /// The receiver asked for an end (Ctrl-C).
    Cancelled,
}

/// Tokens and times.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Stats {
    /// Tokens of the prompt that were computed.
    pub prompt_eval_count: usize,
    /// Tokens of the prompt that were in the context already.
    pub prompt_cached_count: usize,
    /// The time until the logits after the prompt.
    pub prompt_eval_duration: Duration,
    /// Tokens that were generated, an end-of-generation token not counted.
    pub eval_count: usize,
    /// The time for them.
    pub eval_duration: Duration,
}

/// How a generation went.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Outcome {
    /// Why it ended.
    pub done: Done,
    /// What it took.
    pub stats: Stats,
}

/// What the generation asks and tells its caller.
pub trait Receiver {
    /// True for a token that ends the generation (EOS, EOT, ...).
    fn is_end(&self, token: u32) -> bool;

    /// A generated token, before the next is computed. A break ends the generation.
    ///
    /// # Errors
    /// Ends it, too.
    fn token(&mut self, token: u32) -> Result<ControlFlow<Done>>;

    /// Asked between the steps of a long prompt: true to give up.
    fn is_cancelled(&self) -> bool {
        false
    }
}

/// Reads `prompt` into the session, then samples until something ends it.
///
/// The context holds the prompt and every token that was given to `receiver`, but the last may be
/// missing: it was not needed.
///
/// # Errors
/// The prompt is empty or does not fit; the sampler, the receiver or the model fails.
pub fn generate(
    session: &mut Session,
    prompt: &[u32],
    sampler: &mut dyn Sampler,
    limits: &Limits,
    receiver: &mut dyn Receiver,
) -> Result<Outcome> {
    let start = Instant::now();
    let mut stats = Stats { prompt_cached_count: session.reuse(prompt), ..Stats::default() };
    stats.prompt_eval_count = prompt.len() - stats.prompt_cached_count;
    let rest = &prompt[stats.prompt_cached_count..];
    let read = session.extend_while(rest, || !receiver.is_cancelled())?;
    for token in prompt {
        sampler.accept(*token);
    }
    stats.prompt_eval_duration = start.elapsed();
    let start = Instant::now();
    let Some(mut logits) = read else {
        return Ok(Outcome { done: Done::Cancelled, stats });
    };
    let done = loop {
        if limits.num_predict.is_some_and(|limit| stats.eval_count >= limit) {
            break Done::Length;
        }
        let token = sampler.sample(logits)?;
        if receiver.is_end(token) {
            break Done::Stop;
        }
        sampler.accept(token);
        stats.eval_count += 1;
        if let ControlFlow::Break(done) = receiver.token(token)? {
            break done;
        }
        if limits.num_predict.is_some_and(|limit| stats.eval_count >= limit) {
            break Done::Length;
        }
        if session.tokens().len() == session.context()
            && (!limits.shift || session.shift(limits.num_keep) == 0)
        {
            break Done::Length;
        }
        logits = session.decode(token)?;
    };
    stats.eval_duration = start.elapsed();
    Ok(Outcome { done, stats })
}

#[cfg(test)]
mod tests {
    use super::super::backend::cpu::CpuOptions;
    use super::super::engine::{Model, SessionOptions};
    use super::super::testing;
    use super::*;
    use mdl_kernels::TensorType;

    #[derive(Default)]
    struct Recorder {
        tokens: Vec<u32>,
        end: Option<u32>,
        stop_after: Option<(usize, Done)>,
        cancelled: bool,
    }

    impl Receiver for Recorder {
        fn is_end(&self, token: u32) -> bool {
            self.end == Some(token)
        }
        fn token(&mut self, token: u32) -> Result<ControlFlow<Done>> {
            self.tokens.push(token);
            match self.stop_after {
                Some((n, done)) if self.tokens.len() == n => Ok(ControlFlow::Break(done)),
                _ => Ok(ControlFlow::Continue(())),
            }
        }
        fn is_cancelled(&self) -> bool {
            self.cancelled
        }
    }

    /// Greedy, and remembers what it accepted.
    #[derive(Default)]
    struct Noting(Vec<u32>);

    impl Sampler for Noting {
        fn sample(&mut self, logits: &mut [f32]) -> Result<u32> {
            Greedy.sample(logits)
        }
        fn accept(&mut self, token: u32) {
            self.0.push(token);
        }
    }

    fn session(context: usize) -> Session {
        let spec = testing::spec(false);
        let tensors = testing::tensor_list(&spec, &|_| TensorType::F32);
        let model = Model::load(spec, tensors, &CpuOptions { threads: Some(1), level: None }).unwrap();
        model.session(&SessionOptions { context, columns: 4, ..SessionOptions::default() }).unwrap()
    }

    const LIMITS: Limits = Limits { num_predict: Some(6), num_keep: 2, shift: true };

    #[test]
    fn it_is_the_loop_written_out() {
        let mut session = session(32);
        let mut expected = Vec::new();
        let mut token = Greedy.sample(session.prefill(&[1, 2, 3]).unwrap()).unwrap();
        for _ in 0..6 {
            expected.push(token);
            token = Greedy.sample(session.decode(token).unwrap()).unwrap();
        }
        let (mut sampler, mut receiver) = (Noting::default(), Recorder::default());
        let outcome = generate(&mut session, &[1, 2, 3], &mut sampler, &LIMITS, &mut receiver).unwrap();
        assert_eq!((outcome.done, &receiver.tokens), (Done::Length, &expected));
        assert_eq!((outcome.stats.prompt_cached_count, outcome.stats.prompt_eval_count), (2, 1));
        assert_eq!(outcome.stats.eval_count, 6);
        assert_eq!(sampler.0, [&[1, 2, 3], &expected[..]].concat());
    }

    #[test]
    fn everything_that_ends_it() {
        let run = |prompt: &[u32], limits: &Limits, mut receiver: Recorder, context: usize| {
            let mut session = session(context);
            let outcome = generate(&mut session, prompt, &mut Greedy, limits, &mut receiver).unwrap();
            (outcome.done, receiver.tokens)
        };
        let (_, tokens) = run(&[1, 2, 3], &LIMITS, Recorder::default(), 32);
        let first_of = |t: u32| tokens.iter().position(|x| *x == t).unwrap();
        let end = tokens[3];
        let ended = run(&[1, 2, 3], &LIMITS, Recorder { end: Some(end), ..Recorder::default() }, 32);
        assert_eq!(ended, (Done::Stop, tokens[..first_of(end)].to_vec()));
        for done in [Done::Stop, Done::Cancelled] {
            let receiver = Recorder { stop_after: Some((2, done)), ..Recorder::default() };
            assert_eq!(run(&[1, 2, 3], &LIMITS, receiver, 32), (done, tokens[..2].to_vec()));
        }
        let none = Limits { num_predict: Some(0), ..LIMITS };
        assert_eq!(run(&[1, 2, 3], &none, Recorder::default(), 32), (Done::Length, vec![]));
        // Between the steps of a prompt of three.
        let cancelled = Recorder { cancelled: true, ..Recorder::default() };
        assert_eq!(run(&[1; 9], &LIMITS, cancelled, 32), (Done::Cancelled, vec![]));
        // A full context: it stops, or goes on without the oldest tokens.
        let unlimited = Limits { num_predict: None, shift: false, ..LIMITS };
        let (done, stopped) = run(&[1, 2, 3], &unlimited, Recorder::default(), 8);
        assert_eq!((done, stopped.len()), (Done::Length, 6));
        let shifting = Limits { num_predict: Some(40), ..LIMITS };
        let (done, shifted) = run(&[1, 2, 3], &shifting, Recorder::default(), 8);
        assert_eq!((done, shifted.len()), (Done::Length, 40));
        assert_eq!(shifted[..6], stopped);
        let all_kept = Limits { num_keep: 8, ..shifting };
        assert_eq!(run(&[1, 2, 3], &all_kept, Recorder::default(), 8).1.len(), 6);
    }

    #[test]
    fn a_prompt_must_fit() {
        let mut session = session(8);
        let mut run = |prompt: &[u32]| {
            generate(&mut session, prompt, &mut Greedy, &LIMITS, &mut Recorder::default())
                .err()
                .map(|e| e.to_string())
        };
        assert_eq!(run(&[]).as_deref(), Some("there are no tokens to evaluate"));
        assert_eq!(run(&[1; 9]).as_deref(), Some("9 tokens do not fit in a context of 8"));
        assert_eq!(run(&[1; 8]), None);
    }
}
