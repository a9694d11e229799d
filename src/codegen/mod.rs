//! Evaluates expressions and writes what a build emits.
//!
//! Only this room reads weights. `evaluate` makes any run of rows of an expression; `emit`
//! streams all tensors of a module, chunk by chunk on all cores and in order, into a GGUF file, so
//! that memory is bounded by the chunks in flight and not by the model; `key` names an
//! expression by what it is made of, which is how a build finds what an earlier one made.

mod adapters;
mod artifact;
mod emit;
mod evaluate;
mod key;
mod line;
mod movement;
mod shared;
mod sources;

pub use artifact::{adapter_layers, weights_layer};
pub use emit::{BUFFER, Emitted, Progress, Reuse, emit_gguf};
pub use evaluate::{Evaluator, chunk_rows};
pub use key::{BYTE_FORMAT, Key, module_key, tensor_key};
pub use movement::{Moved, movement};
pub use shared::{Got, Read, Shared, Shares, Take, Value};
pub use sources::source_digest;

use std::io::Write;
use std::path::Path;

use crate::diagnostic::Result;
use crate::ir::Module;

/// Writes a module as GGUF to any place, without a store. Returns the bytes written.
///
/// # Errors
/// As [`emit_gguf`]; or an adapter changes nothing.
pub fn write_weights(
    module: &Module,
    out: &mut dyn Write,
    place: &Path,
    progress: &dyn Progress,
) -> Result<u64> {
    adapters::refuse_unchanging(module)?;
    emit_gguf(module, &[], out, place, progress).map(|emitted| emitted.len)
}
