//! The thread of an engine: takes requests, computes steps, tells what came of them.

use std::collections::VecDeque;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::Ordering;
use std::sync::mpsc::{Receiver, TryRecvError};
use std::sync::{Arc, mpsc};

use rayon::prelude::*;

use super::prefix::Pool;
use super::schedule::{Need, plan};
use super::sequence::{Pooling, Sequence, Setting, Task};
use super::waiting::{Waiting, broken};
use super::{EngineOptions, Shared};
use crate::diagnostic::{Errors, Result};
use crate::families::spec::Output;
use crate::runtime::backend::{Column, State};
use crate::runtime::generate::Done;
use crate::runtime::kv::PageId;
use crate::runtime::loaded::Loaded;
use crate::runtime::program::Room;

/// The state of the thread.
pub(super) struct Worker {
    model: Arc<Loaded>,
    room: Room,
    options: EngineOptions,
    setting: Setting,
    /// `None` after a panic, until a new one is made.
    state: Option<Box<dyn State>>,
    pool: Pool,
    requests: Receiver<Waiting>,
    waiting: VecDeque<Waiting>,
    running: Vec<Sequence>,
    shared: Arc<Shared>,
    columns: Vec<Column>,
    outputs: Vec<usize>,
}

impl Worker {
    pub(super) fn new(
        model: Arc<Loaded>,
        room: Room,
        options: EngineOptions,
        state: Box<dyn State>,
        requests: mpsc::Receiver<Waiting>,
        shared: Arc<Shared>,
    ) -> Worker {
        let spec = model.model.spec();
        let causal = spec.attention.causal;
        let pooling = match model.pooling_type() {
            Some(1) => Pooling::Mean,
            Some(2) => Pooling::First,
            Some(3) => Pooling::Last,
            // Where no file says: the last token of a decoder has seen all, those of an encoder all have.
            _ if causal => Pooling::Last,
            _ => Pooling::Mean,
        };
        let setting = Setting {
            context: room.context,
            vocabulary: spec.vocab_size,
            pooling,
            causal,
            writes: spec.output == Output::Logits,
        };
        Worker {
            pool: Pool::new(room.pages),
            model,
            room,
            options,
            setting,
            state: Some(state),
            requests,
            waiting: VecDeque::new(),
            running: Vec::new(),
            shared,
            columns: Vec::new(),
            outputs: Vec::new(),
        }
    }

    /// Works until nobody can ask any more and all is done.
    pub(super) fn run(mut self) {
        while self.listen() {
            if catch_unwind(AssertUnwindSafe(|| self.turn())).is_err() {
                self.recover();
            }
            self.show_usage();
        }
    }

    /// Admits who waits, and computes a step.
    fn turn(&mut self) {
        self.drop_cancelled();
        self.admit();
        self.show_usage();
        if !self.running.is_empty() {
            self.shared.steps.fetch_add(1, Ordering::Relaxed);
            self.step();
        }
    }

    /// Takes new requests; waits for one when there is nothing else to do. False at the end.
    fn listen(&mut self) -> bool {
        if self.running.is_empty() && self.waiting.is_empty() {
            match self.requests.recv() {
                Ok(request) => self.waiting.push_back(request),
                Err(mpsc::RecvError) => return false,
            }
        }
        loop {
            match self.requests.try_recv() {
                Ok(request) => self.waiting.push_back(request),
                // What was asked before the last handle was dropped is still answered.
                Err(TryRecvError::Empty | TryRecvError::Disconnected) => return true,
            }
        }
    }

    fn drop_cancelled(&mut self) {
        let mut i = 0;
        while i < self.running.len() {
            match self.running[i].is_cancelled() {
                true => self.end(i, Done::Cancelled),
                false => i += 1,
            }
        }
        let (gone, waiting) = std::mem::take(&mut self.waiting).into_iter().partition(Waiting::is_cancelled);
        self.waiting = waiting;
        let gone: VecDeque<Waiting> = gone;
        self.shared.waiting.fetch_sub(gone.len(), Ordering::Relaxed);
        gone.into_iter().for_each(Waiting::cancel);
    }

    fn admit(&mut self) {
        while self.running.len() < self.options.parallel.max(1) {
            let Some(next) = self.waiting.pop_front() else { return };
            self.shared.waiting.fetch_sub(1, Ordering::Relaxed);
            if let Err(errors) = self.make_state() {
                next.fail(errors);
                continue;
            }
            // What panics here is dropped, and so its request is told.
            let begun = catch_unwind(AssertUnwindSafe(|| Sequence::begin(next, &self.setting)));
            self.running.extend(begun.ok().flatten());
        }
    }

    /// Makes a new cache where a panic took the old one.
    fn make_state(&mut self) -> Result<()> {
        if self.state.is_none() {
            let (model, room) = (&self.model.model, &self.room);
            let made = catch_unwind(AssertUnwindSafe(|| model.state(room)));
            self.state = Some(made.unwrap_or_else(|_| Err(broken("making a cache")))?);
        }
        Ok(())
    }

    /// Ends sequence `i`.
    fn end(&mut self, i: usize, done: Done) {
        let mut sequence = self.running.remove(i);
        sequence.release(&mut self.pool);
        let program = self.model.model.program();
        sequence.finish(done, |pooled| program.project(pooled));
    }

    fn fail(&mut self, i: usize, errors: Errors) {
        let mut sequence = self.running.remove(i);
        sequence.release(&mut self.pool);
        sequence.fail(errors);
    }

    /// One step for every sequence that has something to compute.
    fn step(&mut self) {
        let mut i = 0;
        while i < self.running.len() {
            // Nobody is admitted without a cache.
            let Some(state) = self.state.as_deref_mut() else { return };
            let sequence = &mut self.running[i];
            sequence.reuse(&mut self.pool, state);
            match sequence.make_room(self.room.context, &mut self.pool, state) {
                Some(done) => self.end(i, done),
                None => i += 1,
            }
        }
        let needs: Vec<Need> = self.running.iter().map(|sequence| need(sequence, &self.setting)).collect();
        let mut takes = plan(&needs, self.room.columns, self.room.outputs);
        for (sequence, take) in self.running.iter_mut().zip(&mut takes) {
            // Every sequence has pages for its whole context, so that there always is one.
            if !sequence.reserve(*take, &mut self.pool) {
                *take = 0;
            }
        }
        match self.compute(&takes) {
            Ok(()) => {
                let results = self.take_outputs(&takes);
                self.settle(results);
            }
            // One of them computes what is no number: each for itself, to find it.
            Err(_) => self.step_apart(&takes),
        }
    }

    fn step_apart(&mut self, takes: &[usize]) {
        let mut results: Vec<Result<Option<Done>>> = Vec::new();
        for i in 0..takes.len() {
            let mut alone = vec![0; takes.len()];
            alone[i] = takes[i];
            let result = match self.compute(&alone) {
                Ok(()) => self.take_outputs(&alone).swap_remove(i),
                Err(errors) => Err(errors),
            };
            results.push(result);
        }
        self.settle(results);
    }

    /// Computes so many tokens of each sequence.
    fn compute(&mut self, takes: &[usize]) -> Result<()> {
        self.columns.clear();
        self.outputs.clear();
        let mut tables: Vec<&[PageId]> = Vec::new();
        for (sequence, &n) in self.running.iter().zip(takes).filter(|(_, n)| **n > 0) {
            let (first, table) = (self.columns.len(), tables.len());
            self.outputs.extend(sequence.outputs(n).map(|o| first + o));
            let positions = sequence.computed..sequence.computed + n;
            self.columns.extend(positions.map(|position| Column {
                token: sequence.tokens[position],
                position,
                sequence: table,
            }));
            tables.push(&sequence.table);
        }
        match &mut self.state {
            Some(state) if !self.columns.is_empty() => state.step(&self.columns, &tables, &self.outputs),
            _ => Ok(()),
        }
    }

    /// Chooses tokens from the step's outputs, for several sequences at once. For each sequence: its end, if
    /// it has come.
    fn take_outputs(&mut self, takes: &[usize]) -> Vec<Result<Option<Done>>> {
        let Some(state) = &mut self.state else { return Vec::new() };
        // The hidden states first, while the logits are not lent.
        let mut output = 0;
        for (sequence, &n) in self.running.iter_mut().zip(takes) {
            let outputs = if n == 0 { 0..0 } else { sequence.outputs(n) };
            for _ in outputs {
                if matches!(sequence.task, Task::Embed(_)) {
                    sequence.add_hidden(&state.hidden(output));
                }
                output += 1;
            }
        }
        let mut logits = state.all_logits().into_iter();
        let (tokenizer, shared) = (&self.model.tokenizer, &self.shared);
        let mut work = Vec::with_capacity(takes.len());
        for (sequence, &n) in self.running.iter_mut().zip(takes) {
            let outputs = if n == 0 { 0..0 } else { sequence.outputs(n) };
            let mut own = logits.by_ref().take(outputs.len()).last();
            if matches!(sequence.task, Task::Embed(_)) {
                own = None;
            }
            sequence.advance(n, &mut self.pool);
            if n > 0 && !sequence.is_decoding() {
                shared.prompt_tokens.fetch_add(n as u64, Ordering::Relaxed);
                if sequence.pending() == 0 {
                    shared.prompt_tokens_cached.fetch_add(sequence.cached() as u64, Ordering::Relaxed);
                }
            }
            work.push((sequence, own));
        }
        let one = |(sequence, logits): (&mut Sequence, Option<&mut [f32]>)| match (&sequence.task, logits) {
            (Task::Embed(_), _) => Ok((sequence.pending() == 0).then_some(Done::Stop)),
            (Task::Generate(_), None) => Ok(None),
            (Task::Generate(_), Some(logits)) => {
                let before = sequence.generated();
                let result = catch_unwind(AssertUnwindSafe(|| sequence.sample(tokenizer, logits)))
                    .unwrap_or_else(|_| Err(broken("choosing a token")));
                let more = sequence.generated() - before;
                shared.generated_tokens.fetch_add(more as u64, Ordering::Relaxed);
                result
            }
        };
        match work.len() {
            0..=1 => work.into_iter().map(one).collect(),
            _ => work.into_par_iter().map(one).collect(),
        }
    }

    /// Ends what has ended.
    fn settle(&mut self, results: Vec<Result<Option<Done>>>) {
        for (i, result) in results.into_iter().enumerate().rev() {
            match result {
                Ok(None) => {}
                Ok(Some(done)) => self.end(i, done),
                Err(errors) => self.fail(i, errors),
            }
        }
    }

    /// After a panic: whoever was running is told. The cache goes, and who is admitted next makes a new one:
    /// there may be no room for two.
    fn recover(&mut self) {
        for sequence in self.running.drain(..) {
            sequence.fail(broken("a step"));
        }
        self.pool = Pool::new(self.room.pages);
        let state = self.state.take();
        let _ = catch_unwind(AssertUnwindSafe(|| drop(state)));
    }

    fn show_usage(&self) {
        let (pages, used, cached) = self.pool.usage();
        let shared = &self.shared;
        shared.active.store(self.running.len(), Ordering::Relaxed);
        shared.pages.store(pages, Ordering::Relaxed);
        shared.pages_used.store(used, Ordering::Relaxed);
        shared.pages_cached.store(cached, Ordering::Relaxed);
    }
}

fn need(sequence: &Sequence, setting: &Setting) -> Need {
    Need {
        pending: sequence.pending(),
        decoding: sequence.is_decoding(),
        outputs_all: matches!(&sequence.task, Task::Embed(p) if p.pooling == Pooling::Mean),
        whole: !setting.causal,
    }
}
