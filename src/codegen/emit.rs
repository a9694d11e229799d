//! Streams a module into a GGUF file.
//!
//! Tensors are cut into chunks of rows. While one window of chunks is written, the next is made on
//! all cores, so memory holds two windows whatever the size of the model, and the order of the
//! bytes does not depend on who finished first.

use std::io::Write;
use std::ops::Range;
use std::path::Path;
use std::sync::Arc;

use rayon::prelude::*;

use super::evaluate::{Evaluator, chunk_rows};
use super::key::layout;
use crate::diagnostic::{Diagnostic, Result};
use crate::formats::gguf::GgufWriter;
use crate::ir::{Module, Tensor};
use crate::world::File;

/// What a long operation tells of itself. Called from one thread at a time.
pub trait Progress: Sync {
    /// A step of the build begins.
    fn pass(&self, _name: &str) {}
    /// A stretch of `bytes` bytes begins.
    fn begin(&self, _what: &str, _bytes: u64) {}
    /// Tensor `i` of `n` begins.
    fn tensor(&self, _name: &str, _i: usize, _n: usize) {}
    /// So many more bytes are done.
    fn advance(&self, _bytes: u64) {}
    /// The stretch is done.
    fn end(&self) {}
}

/// Tells nothing.
impl Progress for () {}

/// Bytes of a tensor that an earlier build made.
#[derive(Clone)]
pub struct Reuse {
    /// The file that holds them.
    pub file: Arc<dyn File>,
    /// Where they begin.
    pub offset: u64,
}

/// A GGUF file that was written.
#[derive(Debug)]
pub struct Emitted {
    /// Its size in bytes.
    pub len: u64,
    /// Where each tensor's bytes begin, in the module's order, and how many there are.
    pub tensors: Vec<Range<u64>>,
}

/// Bytes copied at a time.
const COPY_BYTES: u64 = 1 << 20;

/// What makes the chunks of one tensor.
enum Source<'a> {
    Evaluate(Box<Evaluator<'a>>),
    Copy(&'a Reuse, u64),
}

/// Writes `module` to `out`, which errors call `place`. `reuse` has, for each tensor, the bytes an earlier build made of the
/// same expression.
///
/// # Errors
/// A source cannot be read, a value cannot be encoded, an encoded block is damaged, or `out` fails.
pub fn emit_gguf(
    module: &Module,
    reuse: &[Option<Reuse>],
    out: &mut (dyn Write + Send),
    place: &Path,
    progress: &dyn Progress,
) -> Result<Emitted> {
    let layout = layout(module)?;
    progress.begin("writing tensors", layout.total_len() - layout.data_offset());
    let emitted = Emitted {
        len: layout.total_len(),
        tensors: layout.tensors().iter().map(|t| t.offset..t.offset + t.len).collect(),
    };
    let mut writer = GgufWriter::new(out, layout).map_err(|e| write_failed(&e, place))?;
    for (i, tensor) in module.tensors.iter().enumerate() {
        progress.tensor(&tensor.name, i, module.tensors.len());
        let source = match reuse.get(i).and_then(Option::as_ref) {
            Some(reuse) => {
                let range = &emitted.tensors[i];
                Source::Copy(reuse, range.end - range.start)
            }
            None => Source::Evaluate(Box::new(Evaluator::new(&tensor.expr, &module.files)?)),
        };
        stream(tensor, &source, &mut |bytes| {
            progress.advance(bytes.len() as u64);
            writer.write_data(bytes).map_err(|e| write_failed(&e, place).into())
        })?;
    }
    writer.finish().map_err(|e| write_failed(&e, place))?;
    progress.end();
    Ok(emitted)
}

/// Looks at every block of a module's tensors, as emitting them would.
///
/// # Errors
/// A block is damaged, or a source cannot be read.
pub(super) fn check_tensors(module: &Module, progress: &dyn Progress) -> Result<()> {
    let total = module.tensors.iter().filter_map(|t| t.expr.byte_len()).fold(0, u64::saturating_add);
    progress.begin("checking blocks", total);
    for (i, tensor) in module.tensors.iter().enumerate() {
        progress.tensor(&tensor.name, i, module.tensors.len());
        let source = Source::Evaluate(Box::new(Evaluator::new(&tensor.expr, &module.files)?));
        stream(tensor, &source, &mut |bytes| {
            progress.advance(bytes.len() as u64);
            Ok(())
        })?;
    }
    progress.end();
    Ok(())
}

/// Gives the chunks of one tensor to `sink`, in order.
fn stream(
    tensor: &Tensor,
    source: &Source<'_>,
    sink: &mut (dyn FnMut(&[u8]) -> Result<()> + Send),
) -> Result<()> {
    let (rows, step) = match source {
        Source::Evaluate(e) => (e.rows(), chunk_rows(e.cols() as u64)),
        Source::Copy(_, len) => (*len, COPY_BYTES),
    };
    let window = step.saturating_mul(4 * rayon::current_num_threads() as u64);
    let mut ready: Vec<Vec<u8>> = Vec::new();
    let mut start = 0;
    loop {
        let end = start + window.min(rows - start);
        let ranges: Vec<Range<u64>> =
            (start..end).step_by(step as usize).map(|s| s..end.min(s + step)).collect();
        let (wrote, made) = rayon::join(
            || ready.iter().try_for_each(|bytes| sink(bytes)),
            || ranges.into_par_iter().map(|range| chunk(tensor, source, range)).collect::<Result<Vec<_>>>(),
        );
        wrote?;
        ready = made?;
        if ready.is_empty() {
            return Ok(());
        }
        start = end;
    }
}

/// Makes one chunk, and checks what it made.
fn chunk(tensor: &Tensor, source: &Source<'_>, rows: Range<u64>) -> Result<Vec<u8>> {
    match source {
        Source::Copy(reuse, _) => {
            let mut bytes = vec![0; (rows.end - rows.start) as usize];
            reuse.file.read_at(reuse.offset + rows.start, &mut bytes).map_err(|e| {
                of_tensor(tensor, Diagnostic::environment(format!("cannot read the cache: {e}")))
            })?;
            Ok(bytes)
        }
        Source::Evaluate(evaluator) => {
            let bytes = evaluator.bytes(rows.clone()).map_err(|mut errors| {
                errors.0 = errors.0.into_iter().map(|d| of_tensor(tensor, d)).collect();
                errors
            })?;
            mdl_kernels::check(tensor.expr.dtype(), &bytes).map_err(|bad| {
                let message = format!("rows {} to {}: {bad}", rows.start, rows.end);
                of_tensor(tensor, Diagnostic::error(message).code("bad-block"))
            })?;
            Ok(bytes)
        }
    }
}

/// What to tell of a write that failed at `place`.
pub(super) fn write_failed(error: &std::io::Error, place: &Path) -> Diagnostic {
    let d = Diagnostic::environment(format!("cannot write to {}: {error}", place.display())).code("write");
    match error.kind() {
        std::io::ErrorKind::StorageFull | std::io::ErrorKind::QuotaExceeded => {
            d.help("free some space, or choose another place; nothing was published")
        }
        _ => d,
    }
}

fn of_tensor(tensor: &Tensor, mut diagnostic: Diagnostic) -> Diagnostic {
    diagnostic.message = format!("tensor `{}`: {}", tensor.name, diagnostic.message);
    diagnostic
}
