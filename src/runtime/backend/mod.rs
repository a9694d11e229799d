//! Who executes a program.

pub mod cpu;
mod cpu_ops;

use crate::diagnostic::Result;

use super::kv::Shift;
use super::program::{Program, Room};

/// One token of a step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Column {
    /// The token, below the size of the vocabulary.
    pub token: u32,
    /// Its position; the cache holds every position before it.
    pub position: usize,
}

/// A device that holds a model and runs its steps.
pub trait Backend: Send + Sync {
    /// The program.
    fn program(&self) -> &Program;

    /// Bytes that a session takes beside [`Program::memory`]: scratch.
    fn scratch_bytes(&self, room: &Room) -> u64;

    /// Buffers and cache for one sequence.
    ///
    /// # Errors
    /// There is no memory for them.
    fn state(&self, room: &Room) -> Result<Box<dyn State>>;
}

/// The buffers and the cache of one sequence.
pub trait State: Send {
    /// Runs the program for `columns`, whose positions follow each other and lie in the room.
    /// `outputs` are the columns whose logits are wanted.
    ///
    /// # Errors
    /// A column or an output does not fit the room, or the result is not finite; then the operation
    /// that made it is named.
    fn step(&mut self, columns: &[Column], outputs: &[usize]) -> Result<()>;

    /// The logits of output `i` of the last step.
    ///
    /// # Panics
    /// If the last step had no such output.
    fn logits(&mut self, i: usize) -> &mut [f32];

    /// Drops positions from the cache and turns the keys of those that move.
    fn shift(&mut self, shift: Shift);
}
