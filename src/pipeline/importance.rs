//! Computes an importance matrix.

use super::measure::Reading;
use crate::diagnostic::Result;
use crate::formats::imatrix::Collected;
use crate::ir::Module;
use crate::runtime::chunks::{self, Chunks};
use crate::runtime::importance::importance;
use crate::runtime::loaded::Loaded;

/// Computes the importance matrix of a model over a text. `progress` is told after each chunk how many
/// of how many are done.
///
/// # Errors
/// The model cannot be loaded or fails, or the text is too short.
pub fn collect(
    model: &Module,
    text: &str,
    reading: &Reading,
    progress: &mut dyn FnMut(usize, usize),
) -> Result<Collected> {
    let loaded = Loaded::open_observable(model, reading.compute.threads)?;
    let context = reading.context.unwrap_or(chunks::CONTEXT);
    let chunks = Chunks::of_text(&loaded, text, context, reading.chunks)?;
    let mut session = chunks.session(&loaded.model)?;
    importance(&mut session, &chunks, |done| progress(done, chunks.len()))
}
