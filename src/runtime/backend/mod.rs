//! Who executes a program.

pub mod cpu;
pub mod cuda;
mod cpu_attention;
mod cpu_experts;
mod cpu_ops;
mod cpu_split;
mod cpu_step;
mod cuda_inputs;
mod cuda_scratch;
mod cuda_state;
mod cuda_step;
mod observe;

pub use observe::Observer;

use std::time::Duration;

use crate::diagnostic::{Diagnostic, Errors, Result};

use super::kv::{KvLayout, PAGE, PageId, Shift};
use super::program::{Extent, Op, Program, Room};

/// One token of a step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Column {
    /// The token, below the size of the vocabulary.
    pub token: u32,
    /// Its position; the cache holds every position before it.
    pub position: usize,
    /// Its sequence: the index of a table of pages.
    pub sequence: usize,
}

/// A device beside the CPU.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Accelerator {
    /// What it is called.
    pub name: String,
    /// Bytes of its memory that are free now.
    pub free: u64,
}

/// A device that holds a model and runs its steps.
pub trait Backend: Send + Sync {
    /// The program.
    fn program(&self) -> &Program;

    /// The device that holds the weights, where it is not the CPU.
    fn accelerator(&self) -> Option<Accelerator> {
        None
    }

    /// Bytes that a session takes beside [`Program::memory`]: scratch.
    fn scratch_bytes(&self, room: &Room) -> u64;

    /// Buffers, and a cache for many sequences.
    ///
    /// # Errors
    /// There is no memory for them.
    fn state(&self, room: &Room) -> Result<Box<dyn State>>;
}

/// The buffers of a step and the cache.
pub trait State: Send {
    /// Runs the program. `tables[s]` are the pages of sequence `s`, in order: position `p` is in
    /// `tables[s][p / PAGE]`. Columns of one sequence follow each other, with positions that do.
    /// No two sequences write to one page. `outputs` are the columns whose logits are wanted.
    ///
    /// What is computed for a column depends on its own sequence alone, to the bit.
    ///
    /// # Errors
    /// A column, a page or an output does not fit the room, or the result is not finite; then the
    /// operation that made it is named.
    fn step(&mut self, columns: &[Column], tables: &[&[PageId]], outputs: &[usize]) -> Result<()>;

    /// As [`State::step`], and `see` is told what each matrix is multiplied with. The program must not
    /// be fused ([`Program::lower_observable`]).
    ///
    /// # Errors
    /// As [`State::step`]; or the backend shows nothing.
    fn step_observed(
        &mut self,
        _columns: &[Column],
        _tables: &[&[PageId]],
        _outputs: &[usize],
        _see: &mut Observer<'_>,
    ) -> Result<()> {
        Err(Diagnostic::error("this device does not show what it multiplies").code("not-implemented").into())
    }

    /// As [`State::step`]; returns how long each operation of the program took, in order.
    ///
    /// # Errors
    /// As [`State::step`]; or the backend does not time its operations.
    fn step_timed(
        &mut self,
        _columns: &[Column],
        _tables: &[&[PageId]],
        _outputs: &[usize],
    ) -> Result<Vec<Duration>> {
        Err(Diagnostic::error("this device does not time its operations").code("not-implemented").into())
    }

    /// The logits of output `i` of the last step.
    ///
    /// # Panics
    /// If the last step had no such output, or the model has no head.
    fn logits(&mut self, i: usize) -> &mut [f32];

    /// The logits of every output of the last step, to be worked on at the same time; none without a head.
    fn all_logits(&mut self) -> Vec<&mut [f32]>;

    /// The hidden state of output `i` of the last step, after the last norm, in float32: `[embedding_length]`.
    ///
    /// # Panics
    /// If the last step had no such output.
    fn hidden(&mut self, i: usize) -> Vec<f32>;

    /// Copies a page of the cache.
    ///
    /// # Panics
    /// If there is no such page.
    fn copy_page(&mut self, from: PageId, to: PageId);

    /// Drops positions of a sequence and turns the keys of those that move. Reads from the pages `from` and
    /// writes to `to`, which may be the same.
    ///
    /// # Panics
    /// If a table is too short or names no page.
    fn shift(&mut self, shift: Shift, from: &[PageId], to: &[PageId]);
}

/// Refuses a room that no state of the program can have.
fn check_room(program: &Program, room: &Room) -> Result<()> {
    let layout = KvLayout::new(&program.spec, room.pages, room.kv);
    let whole = layout.key_length.is_multiple_of(32) && layout.value_length.is_multiple_of(32);
    if room.kv.blocks().is_some() && !whole {
        let message = format!(
            "a cache of blocks needs heads of a multiple of 32 values; the model's have {} and {}",
            layout.key_length, layout.value_length
        );
        return Err(Diagnostic::error(message).code("kv-cache-type").help("choose f16").into());
    }
    let positions = program.spec.embedding_extras.positions;
    if positions > 0 && room.context > positions {
        let message =
            format!("the model has {positions} positions; a context of {} is too long", room.context);
        return Err(Diagnostic::error(message)
            .code("context-too-long")
            .help("choose a smaller context")
            .into());
    }
    Ok(())
}

/// Refuses a step that does not fit the room.
fn check_step(
    program: &Program,
    room: &Room,
    columns: &[Column],
    tables: &[&[PageId]],
    outputs: &[usize],
) -> Result<()> {
    let wrong = |what: String| Err(Diagnostic::error(what).code("invalid-step").into());
    if columns.is_empty() || columns.len() > room.columns || outputs.len() > room.outputs {
        return wrong(format!(
            "a step of {} tokens and {} outputs; there is room for {} and {}",
            columns.len(),
            outputs.len(),
            room.columns,
            room.outputs
        ));
    }
    if outputs.iter().any(|o| *o >= columns.len()) {
        return wrong("an output is no column of its step".to_owned());
    }
    for column in columns {
        if column.token as usize >= program.spec.vocab_size {
            return wrong(format!(
                "token {} is beyond the vocabulary of {}",
                column.token, program.spec.vocab_size
            ));
        }
        if column.position >= room.context {
            return wrong(format!("position {} is beyond the context of {}", column.position, room.context));
        }
        let table = tables.get(column.sequence).and_then(|t| t.get(..=column.position / PAGE));
        if !table.is_some_and(|pages| pages.iter().all(|p| p.index() < room.pages)) {
            return wrong(format!("position {} has no page", column.position));
        }
    }
    Ok(())
}

/// The error of a step whose result is not finite. `op` is the operation that made the first such value, if it is known.
fn not_finite(program: &Program, op: Option<usize>, columns: &[Column]) -> Errors {
    let place = match op.and_then(|i| Some((i, program.ops[i].out()?))) {
        None => "the logits".to_owned(),
        Some((i, out)) => {
            let name = program.buffers[out.0].name;
            let blocks = program.ops[..i].iter().filter(|op| matches!(op, Op::StoreKv { .. })).count();
            match blocks {
                0 => format!("`{name}` before the first attention"),
                n => format!("`{name}` of block {}", n - 1),
            }
        }
    };
    let positions = (columns.first().map_or(0, |c| c.position), columns.last().map_or(0, |c| c.position));
    Diagnostic::error(format!(
        "the model computes values that are not finite: first in {place}, at positions {} to {}",
        positions.0, positions.1
    ))
    .code("not-finite")
    .help("the weights are damaged, or too large for their type; `mdl verify` checks the file")
    .into()
}

/// The positions that a query at `position` sees; `last` is its sequence's last.
fn sees(program: &Program, position: usize, last: usize, window: Option<usize>) -> std::ops::Range<usize> {
    if program.spec.attention.causal {
        let end = position + 1;
        return window.map_or(0, |w| end.saturating_sub(w))..end;
    }
    match window {
        None => 0..last + 1,
        Some(w) => position.saturating_sub(w / 2)..(position + w / 2).min(last) + 1,
    }
}

/// What a query at `position` is multiplied with.
fn temperature(program: &Program, position: usize) -> f32 {
    match &program.spec.attention.temperature {
        None => 1.0,
        Some(t) => 1.0 + t.scale * libm::log1pf((position / t.original_context_length) as f32),
    }
}

/// Columns of an extent, in a step.
fn count(extent: Extent, columns: usize, outputs: usize) -> usize {
    match extent {
        Extent::Columns => columns,
        Extent::Outputs => outputs,
    }
}
