//! One request while it runs: its tokens, its pages, and what it has said.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use super::logprobs::logprobs;
use super::prefix::{NodeId, Pool};
use super::waiting::{EmbedListener, Listener, Waiting};
use super::{Embedding, Event, Request, TokenLogprob};
use crate::diagnostic::{Diagnostic, Errors, Result};
use crate::runtime::backend::State;
use crate::runtime::constrain::Constraint;
use crate::runtime::generate::{Done, Stats};
use crate::runtime::kv::{PAGE, PageId, Shift};
use crate::runtime::sampler::{Sampler, StopMatcher};
use crate::tokenizer::{Tokenizer, Utf8Stream};

/// What a sequence is for.
pub(super) enum Task {
    /// A text goes on.
    Generate(Box<Generation>),
    /// A text becomes a vector.
    Embed(Pooled),
}

/// A text that goes on.
pub(super) struct Generation {
    listener: Listener,
    sampler: Sampler,
    constraint: Option<Constraint>,
    logit_bias: Vec<(u32, f32)>,
    logprobs: Option<usize>,
    num_predict: Option<usize>,
    num_keep: usize,
    shift: bool,
    characters: Utf8Stream,
    stop: StopMatcher,
    stops: Vec<String>,
    stopped: Option<usize>,
    stats: Stats,
}

/// A vector in the making.
pub(super) struct Pooled {
    listener: EmbedListener,
    pub pooling: Pooling,
    sum: Vec<f64>,
}

/// Which hidden states make the vector of a text.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Pooling {
    /// The mean of all.
    Mean,
    /// That of the first token.
    First,
    /// That of the last token.
    Last,
}

/// What a sequence has to know of its model and room.
#[derive(Clone, Copy, Debug)]
pub(super) struct Setting {
    /// Positions of a sequence at most.
    pub context: usize,
    pub vocabulary: usize,
    pub pooling: Pooling,
    /// No token sees a later one, so that a beginning is the same whatever follows.
    pub causal: bool,
    /// The model has a head over the vocabulary.
    pub writes: bool,
}

/// A request that has a slot.
pub(super) struct Sequence {
    pub task: Task,
    /// The context: the prompt and what was said, computed or not.
    pub tokens: Vec<u32>,
    /// So many are in the cache.
    pub computed: usize,
    /// Tokens of the prompt that its own steps computed.
    evaluated: usize,
    cancelled: Arc<AtomicBool>,
    /// The pages, in order: those of the path, then its own.
    pub table: Vec<PageId>,
    path: Vec<NodeId>,
    /// The cache holds what no other sequence can use: after a shift, and where each token sees all others.
    alone: bool,
    started: Option<Instant>,
    prompt_done: Option<Instant>,
}

impl Sequence {
    /// Gives a request its slot.
    ///
    /// # Errors
    /// The prompt is empty, does not fit or has tokens that the model has not, or an option is wrong; the
    /// request has been told.
    pub(super) fn begin(waiting: Waiting, setting: &Setting) -> Option<Sequence> {
        if let Some(wrong) = misfit(waiting.prompt(), setting) {
            waiting.fail(wrong);
            return None;
        }
        if !setting.writes && matches!(waiting, Waiting::Generate(..)) {
            let message = "the model makes embeddings and writes no text";
            waiting.fail(Diagnostic::error(message).code("no-head").into());
            return None;
        }
        let pooling = setting.pooling;
        let (task, tokens, cancelled) = match waiting {
            Waiting::Generate(request, mut listener) => {
                let Request { prompt, options, shift, logprobs, logit_bias, constraint, cancelled } =
                    *request;
                let mut sampler = match Sampler::new(&options.sampler) {
                    Ok(sampler) => sampler,
                    Err(errors) => {
                        listener.tell(Event::Failed(errors));
                        return None;
                    }
                };
                prompt.iter().for_each(|t| sampler.accept(*t));
                let generation = Generation {
                    listener,
                    sampler,
                    constraint,
                    logit_bias,
                    logprobs,
                    num_predict: options.num_predict,
                    num_keep: options.num_keep,
                    shift,
                    characters: Utf8Stream::new(),
                    stop: StopMatcher::new(&options.stop),
                    stops: options.stop,
                    stopped: None,
                    stats: Stats::default(),
                };
                (Task::Generate(Box::new(generation)), prompt, cancelled)
            }
            Waiting::Embed(tokens, cancelled, listener) => {
                (Task::Embed(Pooled { listener, pooling, sum: Vec::new() }), tokens, cancelled)
            }
        };
        Some(Sequence {
            task,
            tokens,
            computed: 0,
            evaluated: 0,
            cancelled,
            table: Vec::new(),
            path: Vec::new(),
            alone: !setting.causal,
            started: None,
            prompt_done: None,
        })
    }

    /// Takes what the cache holds of the prompt, short of its last token, where that is more than what it
    /// has. Before each step of a prompt: others may have computed the same meanwhile.
    pub(super) fn reuse(&mut self, pool: &mut Pool, state: &mut dyn State) {
        // Only the last hidden state is the same whoever computed those before.
        let needs_all = matches!(&self.task, Task::Embed(p) if p.pooling != Pooling::Last);
        if needs_all || self.alone || self.is_decoding() || self.pending() < 2 {
            return;
        }
        let whole = self.path.len() * PAGE;
        let found = pool.find(self.path.last().copied(), &self.tokens[whole..self.tokens.len() - 1]);
        let part = found.partial.map_or(0, |(_, n)| n);
        // Its path has every whole page it computed, so that one more is always more.
        if found.path.is_empty() && whole + part <= self.computed {
            return;
        }
        // Its own pages hold nothing that these do not. The first of them is the first that is taken again.
        self.table.drain(self.path.len()..).rev().for_each(|page| pool.give(page));
        self.table.extend(found.path.iter().map(|n| pool.page(*n)));
        self.path.extend(found.path);
        self.computed = self.path.len() * PAGE;
        if let Some((from, n)) = found.partial
            // Taking a page may drop the very page that was found, which then is the one to write to.
            && let Some(to) = pool.take()
        {
            if from != to {
                state.copy_page(from, to);
            }
            self.table.push(to);
            self.computed += n;
        }
    }

    /// Nobody waits for it any more.
    pub(super) fn is_cancelled(&self) -> bool {
        let gone = matches!(&self.task, Task::Generate(g) if g.listener.is_gone());
        gone || self.cancelled.load(Ordering::Relaxed)
    }

    /// Tokens that are to be computed.
    pub(super) fn pending(&self) -> usize {
        self.tokens.len() - self.computed
    }

    /// Tokens of the prompt that came from the cache so far.
    pub(super) fn cached(&self) -> usize {
        self.computed.saturating_sub(self.evaluated)
    }

    /// Tokens that were generated.
    pub(super) fn generated(&self) -> usize {
        match &self.task {
            Task::Generate(g) => g.stats.eval_count,
            Task::Embed(_) => 0,
        }
    }

    /// True once the prompt has been read.
    pub(super) fn is_decoding(&self) -> bool {
        self.prompt_done.is_some()
    }

    /// Which outputs a step of `n` tokens must give: their places among the `n`.
    pub(super) fn outputs(&self, n: usize) -> std::ops::Range<usize> {
        match &self.task {
            Task::Embed(p) if p.pooling == Pooling::Mean => 0..n,
            Task::Embed(p) if p.pooling == Pooling::First => 0..usize::from(self.computed == 0),
            _ if n == self.pending() => n - 1..n,
            _ => 0..0,
        }
    }

    /// Makes room for the next `n` tokens. False when no page is left.
    pub(super) fn reserve(&mut self, n: usize, pool: &mut Pool) -> bool {
        if n > 0 {
            self.started.get_or_insert_with(Instant::now);
        }
        while self.table.len() * PAGE < self.computed + n {
            match pool.take() {
                Some(page) => self.table.push(page),
                None => return false,
            }
        }
        true
    }

    /// Takes note of `n` tokens that have been computed; whole pages are shown to others.
    pub(super) fn advance(&mut self, n: usize, pool: &mut Pool) {
        self.computed += n;
        if !self.is_decoding() {
            self.evaluated += n;
        }
        if self.alone {
            return;
        }
        while (self.path.len() + 1) * PAGE <= self.computed {
            let i = self.path.len();
            let tokens = &self.tokens[i * PAGE..(i + 1) * PAGE];
            let node = pool.insert(self.path.last().copied(), tokens, self.table[i]);
            self.table[i] = pool.page(node);
            self.path.push(node);
        }
    }

    /// Gives the pages back; what others may need stays in the tree.
    pub(super) fn release(&mut self, pool: &mut Pool) {
        let own = self.table.split_off(self.path.len());
        for (i, page) in own.into_iter().enumerate() {
            let start = (self.path.len() + i) * PAGE;
            match !self.alone && i == 0 && self.computed > start {
                true => pool.keep(self.path.last().copied(), &self.tokens[start..self.computed], page),
                false => pool.give(page),
            }
        }
        self.path.drain(..).rev().for_each(|node| pool.leave(node));
        self.table.clear();
    }

    /// Drops the older half of a full context. False when nothing can go.
    fn shift(&mut self, num_keep: usize, pool: &mut Pool, state: &mut dyn State) -> bool {
        let Some(shift) = Shift::half(self.computed, num_keep) else { return false };
        let from = self.table.clone();
        // Whatever comes of it, the pages are no prefix of anything any more.
        self.alone = true;
        // From the last on, so that a page that only this sequence uses is taken out of the tree.
        while let Some(node) = self.path.pop() {
            let at = self.path.len();
            if let Some(page) = pool.detach(node) {
                self.table[at] = page;
                continue;
            }
            let Some(page) = pool.take() else {
                self.path.push(node);
                return false;
            };
            self.table[at] = page;
            pool.leave(node);
        }
        state.shift(shift, &from, &self.table);
        self.tokens.drain(shift.keep..shift.keep + shift.discard);
        self.computed -= shift.discard;
        let needed = self.computed.div_ceil(PAGE);
        self.table.drain(needed..).for_each(|page| pool.give(page));
        true
    }

    /// Makes room in a full context before the next token is computed. The end, where there is none.
    pub(super) fn make_room(
        &mut self,
        context: usize,
        pool: &mut Pool,
        state: &mut dyn State,
    ) -> Option<Done> {
        if self.computed < context {
            return None;
        }
        let keep = match &self.task {
            Task::Generate(g) if g.shift => g.num_keep,
            _ => return Some(Done::Length),
        };
        (!self.shift(keep, pool, state)).then_some(Done::Length)
    }

    /// Takes the logits after the last token and chooses the next. The end, if this was the last.
    pub(super) fn sample(&mut self, tokenizer: &Tokenizer, logits: &mut [f32]) -> Result<Option<Done>> {
        if !self.is_decoding() {
            let (cached, evaluated) = self.count_prompt();
            self.prompt_done = Some(Instant::now());
            if let Task::Generate(g) = &mut self.task {
                g.listener.tell(Event::Began { cached, evaluated });
            }
        }
        let Task::Generate(g) = &mut self.task else { return Ok(None) };
        if g.num_predict.is_some_and(|limit| g.stats.eval_count >= limit) {
            return Ok(Some(Done::Length));
        }
        let told = g.logprobs.map(|top| (logprobs(logits, top, tokenizer), logits.to_vec()));
        for (token, bias) in &g.logit_bias {
            if let Some(logit) = logits.get_mut(*token as usize) {
                *logit += bias;
            }
        }
        if let Some(constraint) = &mut g.constraint {
            constraint.mask(logits)?;
        }
        let token = g.sampler.sample(logits)?;
        if tokenizer.is_end_of_generation(token) {
            return Ok(Some(Done::Stop));
        }
        if let Some(constraint) = &mut g.constraint {
            constraint.accept(token, tokenizer.decode_bytes(token))?;
        }
        g.sampler.accept(token);
        g.stats.eval_count += 1;
        self.tokens.push(token);
        let text = g.characters.push(tokenizer.decode_bytes(token));
        let found = g.stop.push(&text);
        let logprobs: Vec<TokenLogprob> = told
            .map(|(top, raw)| super::logprobs::of_token(top, &raw, token, tokenizer))
            .into_iter()
            .collect();
        g.listener.tell(Event::Text { text: found.text, tokens: vec![token], logprobs });
        if found.stop.is_some() {
            g.stopped = found.stop;
            return Ok(Some(Done::Stop));
        }
        let complete = g.constraint.as_ref().is_some_and(Constraint::is_complete);
        let enough = g.num_predict.is_some_and(|limit| g.stats.eval_count >= limit);
        Ok(match (complete, enough) {
            (true, _) => Some(Done::Stop),
            (_, true) => Some(Done::Length),
            _ => None,
        })
    }

    /// Notes what became of the prompt, as far as it has been read: its tokens from the cache, and those computed.
    fn count_prompt(&mut self) -> (usize, usize) {
        let (cached, evaluated) = (self.cached(), self.evaluated);
        let duration = self.started.map(|at| at.elapsed()).unwrap_or_default();
        if let Task::Generate(g) = &mut self.task {
            g.stats.prompt_cached_count = cached;
            g.stats.prompt_eval_count = evaluated;
            g.stats.prompt_eval_duration = duration;
        }
        (cached, evaluated)
    }

    /// Takes the hidden state of an output.
    pub(super) fn add_hidden(&mut self, hidden: &[f32]) {
        let Task::Embed(pooled) = &mut self.task else { return };
        if pooled.sum.is_empty() {
            pooled.sum.resize(hidden.len(), 0.0);
        }
        pooled.sum.iter_mut().zip(hidden).for_each(|(sum, h)| *sum += f64::from(*h));
    }

    /// Tells the request how it ended. `project` is what the model does with a pooled state.
    pub(super) fn finish(mut self, done: Done, project: impl FnOnce(Vec<f32>) -> Vec<f32>) {
        if !self.is_decoding() {
            self.count_prompt();
        }
        let tokens = self.tokens.len();
        match &mut self.task {
            Task::Generate(g) => {
                let mut stop = g.stopped;
                if stop.is_none() && done != Done::Cancelled {
                    let rest = g.characters.finish();
                    let found = g.stop.push(&rest);
                    stop = found.stop;
                    let mut text = found.text;
                    text.push_str(&g.stop.finish());
                    if !text.is_empty() {
                        g.listener.tell(Event::Text { text, tokens: Vec::new(), logprobs: Vec::new() });
                    }
                }
                if let Some(at) = self.prompt_done {
                    g.stats.eval_duration = at.elapsed();
                }
                let stop = stop.and_then(|i| g.stops.get(i).cloned());
                g.listener.tell(Event::Ended { done, stop, stats: g.stats });
            }
            Task::Embed(pooled) if done == Done::Cancelled => pooled.listener.tell_cancelled(),
            Task::Embed(pooled) => {
                let count = match pooled.pooling {
                    Pooling::Mean => tokens as f64,
                    _ => 1.0,
                };
                let values = pooled.sum.iter().map(|v| (v / count) as f32).collect();
                pooled.listener.tell(Ok(Embedding { values: project(values), tokens }));
            }
        }
    }

    /// Tells the request that it failed.
    pub(super) fn fail(mut self, errors: Errors) {
        match &mut self.task {
            Task::Generate(g) => g.listener.tell(Event::Failed(errors)),
            Task::Embed(pooled) => pooled.listener.tell(Err(errors)),
        }
    }
}

fn misfit(prompt: &[u32], setting: &Setting) -> Option<Errors> {
    let Setting { context, vocabulary, .. } = *setting;
    let len = prompt.len();
    if len == 0 {
        return Some(Diagnostic::error("there are no tokens to evaluate").code("empty-prompt").into());
    }
    if len > context {
        let message = format!("{len} tokens do not fit in a context of {context}");
        let help = "choose a larger context with `num_ctx`";
        return Some(Diagnostic::error(message).code("context-full").help(help).into());
    }
    // In a step it would cost the others one of their own.
    let unknown = prompt.iter().find(|t| **t as usize >= vocabulary)?;
    let message = format!("token {unknown} is beyond the vocabulary of {vocabulary}");
    Some(Diagnostic::error(message).code("invalid-token").into())
}
