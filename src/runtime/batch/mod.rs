//! Many generations at once: continuous batching over a paged KV cache with prefixes shared.

mod logprobs;
mod prefix;
mod schedule;
mod sequence;
mod waiting;
mod worker;

use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, mpsc};

use super::constrain::Constraint;
use super::engine::Model;
use super::generate::{Done, Stats};
use super::kv::{KvType, PAGE};
use super::loaded::Loaded;
use super::options::GenerateOptions;
use super::program::Room;
use crate::diagnostic::{Diagnostic, Errors, Result};
use waiting::{EmbedListener, Listener, Waiting};
use worker::Worker;

/// What an engine has room for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EngineOptions {
    /// Sequences that are computed at once.
    pub parallel: usize,
    /// Positions of each (`num_ctx`).
    pub context: usize,
    /// Columns of a step at most: a longer prompt is read in several (`num_batch`).
    pub columns: usize,
    /// How keys and values are stored; `None` for the model's usual type.
    pub kv: Option<KvType>,
}

impl EngineOptions {
    /// The room that an engine takes: every sequence has pages for its whole context.
    pub fn room(&self, model: &Model) -> Room {
        let context = self.context.max(1);
        let parallel = self.parallel.max(1);
        // Where each token sees all others, a text is computed in one step.
        let whole = !model.spec().attention.causal;
        Room {
            pages: parallel.saturating_mul(context.div_ceil(PAGE)),
            context,
            columns: self.columns.max(parallel).max(if whole { context } else { 0 }),
            outputs: parallel.max(if whole { context } else { MEAN_OUTPUTS }),
            kv: self.kv.unwrap_or_else(|| model.usual_kv()),
        }
    }
}

/// Outputs of a step at least: so many tokens at a time become part of a mean.
const MEAN_OUTPUTS: usize = 8;

/// A generation to do.
pub struct Request {
    /// The tokens to go on from; at most as many as the context holds.
    pub prompt: Vec<u32>,
    /// Sampler, `num_predict`, `num_keep`, stop texts.
    pub options: GenerateOptions,
    /// Drop old tokens when the context is full; else end there.
    pub shift: bool,
    /// The logarithms of probabilities to tell of each token: its own, and those of so many likeliest.
    pub logprobs: Option<usize>,
    /// Added to logits before all else.
    pub logit_bias: Vec<(u32, f32)>,
    /// What the text must be.
    pub constraint: Option<Constraint>,
    /// Set by the caller when nobody waits for the answer any more.
    pub cancelled: Arc<AtomicBool>,
}

/// The logarithm of a token's probability by the model, before any sampler changes it.
#[derive(Clone, Debug, PartialEq)]
pub struct TokenLogprob {
    /// The token.
    pub token: u32,
    /// Its bytes, which need not be whole characters.
    pub bytes: Vec<u8>,
    /// ln p.
    pub logprob: f32,
    /// The likeliest tokens at this place, the likeliest first; their own `top` is empty.
    pub top: Vec<TokenLogprob>,
}

/// What an engine tells of a request, in this order: `Began`, any number of `Text`, `Ended`; or `Failed` at
/// any place, and nothing after it.
#[derive(Debug)]
pub enum Event {
    /// The prompt has been read.
    Began {
        /// Its tokens that were in the cache.
        cached: usize,
        /// Its tokens that were computed.
        evaluated: usize,
    },
    /// More of the answer: whole characters, no part of a stop text. May be empty where there are tokens.
    Text {
        /// The text.
        text: String,
        /// The tokens since the last event.
        tokens: Vec<u32>,
        /// One for each token, if asked for.
        logprobs: Vec<TokenLogprob>,
    },
    /// The end.
    Ended {
        /// Why.
        done: Done,
        /// The stop text that was found.
        stop: Option<String>,
        /// Counts and times.
        stats: Stats,
    },
    /// The request failed.
    Failed(Errors),
}

/// Takes the events of a request. It is called on the threads that compute, by one at a time, and must not
/// wait. The last event is always an end; one that panics is not called again, and its request is dropped.
pub type Sink = Box<dyn FnMut(Event) + Send>;

/// Takes the result of [`Engine::embed`].
pub type EmbedSink = Box<dyn FnOnce(Result<Embedding>) + Send>;

/// The pooled hidden state of a text.
#[derive(Clone, Debug, PartialEq)]
pub struct Embedding {
    /// `[embedding_length]`, or what the model's projections make of it; not normalised.
    pub values: Vec<f32>,
    /// Tokens that were read.
    pub tokens: usize,
}

/// Divides a vector by its Euclidean length. Zeros stay zeros.
pub fn normalize(values: &mut [f32]) {
    let square: f64 = values.iter().map(|v| f64::from(*v) * f64::from(*v)).sum();
    let length = square.sqrt();
    if length > 0.0 {
        values.iter_mut().for_each(|v| *v = (f64::from(*v) / length) as f32);
    }
}

/// How busy an engine is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Usage {
    /// Sequences that can be computed at once.
    pub slots: usize,
    /// Those that are.
    pub active: usize,
    /// Requests that wait for a slot.
    pub waiting: usize,
    /// Pages of the KV cache.
    pub pages: usize,
    /// Pages that running sequences hold.
    pub pages_used: usize,
    /// Pages kept for prefixes that may come again.
    pub pages_cached: usize,
    /// Tokens of prompts found in the cache, since the start.
    pub prompt_tokens_cached: u64,
    /// Tokens of prompts computed, since the start.
    pub prompt_tokens: u64,
    /// Tokens generated, since the start.
    pub generated_tokens: u64,
    /// Steps since the start: it grows while the engine lives and has work.
    pub steps: u64,
}

/// A model that answers many requests at once, on a thread of its own. The thread ends when the last
/// handle is dropped and its requests are done.
#[derive(Clone)]
pub struct Engine {
    requests: mpsc::Sender<Waiting>,
    shared: Arc<Shared>,
}

impl Engine {
    /// Makes the cache and starts the thread.
    ///
    /// # Errors
    /// There is no memory for the cache, or the system refuses a thread.
    pub fn start(model: Arc<Loaded>, options: EngineOptions) -> Result<Engine> {
        let room = options.room(&model.model);
        let state = model.model.state(&room)?;
        let shared = Arc::new(Shared { slots: options.parallel.max(1), ..Shared::default() });
        let (requests, receiver) = mpsc::channel();
        let worker = Worker::new(model, room, options, state, receiver, shared.clone());
        std::thread::Builder::new()
            .name("mdl-engine".to_owned())
            .spawn(move || worker.run())
            .map_err(|e| Diagnostic::environment(format!("cannot start an engine's thread: {e}")))?;
        Ok(Engine { requests, shared })
    }

    /// Queues a request; `sink` hears of it.
    pub fn submit(&self, request: Request, sink: Sink) {
        self.queue(Waiting::Generate(Box::new(request), Listener::new(sink)));
    }

    /// Queues a text to embed: the last norm's output, pooled as the model's metadata says (`pooling_type`), else
    /// that of the last token.
    pub fn embed(&self, tokens: Vec<u32>, cancelled: Arc<AtomicBool>, sink: EmbedSink) {
        self.queue(Waiting::Embed(tokens, cancelled, EmbedListener::new(sink)));
    }

    fn queue(&self, waiting: Waiting) {
        self.shared.waiting.fetch_add(1, Ordering::Relaxed);
        if let Err(mpsc::SendError(waiting)) = self.requests.send(waiting) {
            self.shared.waiting.fetch_sub(1, Ordering::Relaxed);
            waiting.fail(Diagnostic::environment("the engine has ended").into());
        }
    }

    /// How busy it is.
    pub fn usage(&self) -> Usage {
        let shared = &self.shared;
        let count = |n: &AtomicUsize| n.load(Ordering::Relaxed);
        let total = |n: &AtomicU64| n.load(Ordering::Relaxed);
        Usage {
            slots: shared.slots,
            active: count(&shared.active),
            waiting: count(&shared.waiting),
            pages: count(&shared.pages),
            pages_used: count(&shared.pages_used),
            pages_cached: count(&shared.pages_cached),
            prompt_tokens_cached: total(&shared.prompt_tokens_cached),
            prompt_tokens: total(&shared.prompt_tokens),
            generated_tokens: total(&shared.generated_tokens),
            steps: total(&shared.steps),
        }
    }
}

/// What the thread tells of itself.
#[derive(Default)]
struct Shared {
    slots: usize,
    active: AtomicUsize,
    waiting: AtomicUsize,
    pages: AtomicUsize,
    pages_used: AtomicUsize,
    pages_cached: AtomicUsize,
    prompt_tokens_cached: AtomicU64,
    prompt_tokens: AtomicU64,
    generated_tokens: AtomicU64,
    steps: AtomicU64,
}

#[cfg(test)]
mod tests;
