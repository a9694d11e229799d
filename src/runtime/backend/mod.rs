//! Who executes a program.

pub mod cpu;
mod cpu_attention;
mod cpu_experts;
mod cpu_ops;
mod cpu_split;
mod cpu_step;
mod observe;

pub use observe::Observer;

use std::time::Duration;

use crate::diagnostic::{Diagnostic, Result};

use super::kv::{PageId, Shift};
use super::program::{Program, Room};

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

/// A device that holds a model and runs its steps.
pub trait Backend: Send + Sync {
    /// The program.
    fn program(&self) -> &Program;

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
