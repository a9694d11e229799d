//! Sequences that are fed any tokens, to see how long it takes.
//!
//! As llama-bench does it: a prompt is read into an empty context (or into one that holds `depth` tokens), and
//! tokens are decoded one after the other, none of them sampled. With several sequences every step of decoding has
//! a token of each, as llama-batched-bench does it.

use std::time::{Duration, Instant};

use super::backend::{Column, State};
use super::cost::Cost;
use super::engine::Model;
use super::kv::{KvType, PAGE, PageId};
use super::program::Room;
use crate::diagnostic::{Diagnostic, Result};
use crate::families::spec::Output;

/// What is timed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Test {
    /// Reading a prompt, or writing tokens.
    pub kind: Kind,
    /// Tokens of each sequence.
    pub tokens: usize,
    /// Tokens that each sequence's context holds before.
    pub depth: usize,
    /// Sequences.
    pub sequences: usize,
}

/// Reading or writing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Steps of as many tokens as a step takes.
    Prefill,
    /// Steps of one token of each sequence.
    Decode,
}

impl Test {
    /// Tokens that are computed while the clock runs.
    pub fn total(&self) -> usize {
        self.tokens.saturating_mul(self.sequences)
    }
}

/// Sequences with room for a test.
pub struct Timed {
    model: Model,
    test: Test,
    state: Box<dyn State>,
    room: Room,
    /// The pages of each sequence.
    tables: Vec<Vec<PageId>>,
}

/// Where the time of a test went.
#[derive(Clone, Debug, Default)]
pub struct Profile {
    /// All of it.
    pub total: Duration,
    /// Steps.
    pub steps: usize,
    /// By what was done, the longest first.
    pub entries: Vec<Entry>,
}

/// Operations of one name.
#[derive(Clone, Debug)]
pub struct Entry {
    /// What one of them is, and the sum of what all of them moved and multiplied.
    pub cost: Cost,
    /// How often.
    pub calls: u64,
    /// How long all of them took.
    pub time: Duration,
}

impl Timed {
    /// Room for a test whose steps take at most `batch` tokens, with a cache of type `kv` (`None`: as the model
    /// usually has it).
    ///
    /// # Errors
    /// There is no memory for it, or the model cannot write.
    pub fn new(model: &Model, test: Test, batch: usize, kv: Option<KvType>) -> Result<Timed> {
        let spec = model.spec();
        if test.kind == Kind::Decode && spec.output == Output::Hidden {
            return Err(Diagnostic::error("the model makes embeddings and writes no text")
                .code("no-head")
                .help("`--generate 0` leaves writing out")
                .into());
        }
        let too_much =
            || Diagnostic::error("so many tokens of so many sequences are no context").code("context");
        let sequences = test.sequences.max(1);
        let context = test.depth.checked_add(test.tokens).ok_or_else(too_much)?.max(1);
        let pages = context.div_ceil(PAGE);
        let all = pages.checked_mul(sequences).filter(|n| u32::try_from(*n).is_ok()).ok_or_else(too_much)?;
        // What sees both ways is read in one step.
        let batch = if spec.attention.causal { batch } else { context };
        let columns = batch.clamp(1, context.saturating_mul(sequences)).max(sequences);
        let kv = kv.unwrap_or_else(|| model.usual_kv());
        let room = Room { pages: all, context, columns, outputs: sequences, kv };
        let state = model.state(&room)?;
        let page = |i: usize| PageId(i as u32);
        let tables = (0..sequences).map(|s| (s * pages..(s + 1) * pages).map(page).collect()).collect();
        Ok(Timed { model: model.clone(), test, state, room, tables })
    }

    /// Fills the contexts to the depth of the test; once is enough for any number of runs.
    ///
    /// # Errors
    /// A step fails.
    pub fn fill(&mut self) -> Result<()> {
        let positions = 0..self.test.depth;
        self.read(positions, &mut |state, columns, tables, outputs| state.step(columns, tables, outputs))
    }

    /// Runs the test once.
    ///
    /// # Errors
    /// A step fails.
    pub fn run(&mut self) -> Result<Duration> {
        let started = Instant::now();
        self.feed(&mut |state, columns, tables, outputs| state.step(columns, tables, outputs))?;
        Ok(started.elapsed())
    }

    /// Runs the test once and looks at each operation.
    ///
    /// # Errors
    /// A step fails, or the backend does not time its operations.
    pub fn profile(&mut self) -> Result<Profile> {
        let model = self.model.clone();
        let (program, kv) = (model.program(), self.room.kv);
        let mut profile = Profile::default();
        self.feed(&mut |state, columns, tables, outputs| {
            let started = Instant::now();
            let times = state.step_timed(columns, tables, outputs)?;
            profile.total += started.elapsed();
            profile.steps += 1;
            for (cost, time) in program.costs(columns, outputs.len(), kv).into_iter().zip(times) {
                profile.add(cost, time);
            }
            Ok(())
        })?;
        profile.entries.sort_by_key(|entry| std::cmp::Reverse(entry.time));
        Ok(profile)
    }

    fn feed(&mut self, step: &mut Step<'_>) -> Result<()> {
        let Test { kind, tokens, depth, .. } = self.test;
        match kind {
            Kind::Prefill => self.read(depth..depth + tokens, step),
            Kind::Decode => (depth..depth + tokens).try_for_each(|at| self.read(at..at + 1, step)),
        }
    }

    /// Adds tokens to every sequence, in steps of as many as there is room for; the logits of each sequence's last
    /// are asked for.
    fn read(&mut self, positions: std::ops::Range<usize>, step: &mut Step<'_>) -> Result<()> {
        let tables: Vec<&[PageId]> = self.tables.iter().map(Vec::as_slice).collect();
        let vocabulary = self.model.spec().vocab_size.max(1);
        let end = positions.end;
        let columns = (0..tables.len()).flat_map(|sequence| {
            positions.clone().map(move |position| Column {
                token: ((position + 31 * sequence) * 7919 % vocabulary) as u32,
                position,
                sequence,
            })
        });
        let columns: Vec<Column> = columns.collect();
        for columns in columns.chunks(self.room.columns) {
            let last = |(i, column): (usize, &Column)| (column.position + 1 == end).then_some(i);
            let outputs: Vec<usize> = columns.iter().enumerate().filter_map(last).collect();
            step(&mut *self.state, columns, &tables, &outputs)?;
        }
        Ok(())
    }
}

type Step<'a> = dyn FnMut(&mut dyn State, &[Column], &[&[PageId]], &[usize]) -> Result<()> + 'a;

impl Profile {
    /// What took no time was left to the operation after it.
    fn add(&mut self, cost: Cost, time: Duration) {
        if time.is_zero() {
            return;
        }
        match self.entries.iter_mut().find(|entry| entry.cost.name == cost.name) {
            None => self.entries.push(Entry { cost, calls: 1, time }),
            Some(entry) => {
                entry.cost.bytes += cost.bytes;
                entry.cost.float_macs += cost.float_macs;
                entry.cost.bf16_macs += cost.bf16_macs;
                entry.cost.int8_macs += cost.int8_macs;
                entry.calls += 1;
                entry.time += time;
            }
        }
    }

    /// Time that no operation took: the start of a step and its check.
    pub fn rest(&self) -> Duration {
        self.total.saturating_sub(self.entries.iter().map(|entry| entry.time).sum())
    }
}
