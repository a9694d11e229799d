//! Streams a module into a GGUF file.
//!
//! Tensors are cut into chunks of rows, which all cores make while this thread writes, so memory holds
//! a few chunks whatever the size of the model, and the order of the bytes does not depend on who
//! finished first.

use std::io::Write;
use std::ops::Range;
use std::path::Path;
use std::sync::Arc;

use super::evaluate::{Evaluator, chunk_rows};
use super::key::layout;
use super::line;
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

/// Bytes to gather before a write: headers and vectors. Chunks of matrices are longer and need no copy.
pub const BUFFER: usize = 1 << 16;

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
    out: &mut dyn Write,
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
    let copied = |i: usize| {
        let range = emitted.tensors.get(i)?;
        Some(Source::Copy(reuse.get(i)?.as_ref()?, range.end - range.start))
    };
    stream(module, &copied, progress, &mut |bytes| {
        writer.write_data(bytes).map_err(|e| write_failed(&e, place).into())
    })?;
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
    stream(module, &|_| None, progress, &mut |_| Ok(()))?;
    progress.end();
    Ok(())
}

/// A run of a tensor's rows.
struct Chunk<'a> {
    /// The place of the tensor in the module.
    at: usize,
    source: Arc<Source<'a>>,
    rows: Range<u64>,
}

/// The chunks of a tensor.
fn chunks(at: usize, source: Source<'_>) -> impl Iterator<Item = Chunk<'_>> {
    let (rows, step) = match &source {
        Source::Evaluate(e) => (e.rows(), chunk_rows(e.cols() as u64)),
        Source::Copy(_, len) => (*len, COPY_BYTES),
    };
    let source = Arc::new(source);
    (0..rows.div_ceil(step)).map(move |i| {
        let start = i * step;
        Chunk { at, source: source.clone(), rows: start..rows.min(start.saturating_add(step)) }
    })
}

/// Gives the bytes of every tensor to `sink`, in order. `copied` has those that need not be made.
fn stream<'a>(
    module: &'a Module,
    copied: &dyn Fn(usize) -> Option<Source<'a>>,
    progress: &dyn Progress,
    sink: &mut dyn FnMut(&[u8]) -> Result<()>,
) -> Result<()> {
    let jobs = module.tensors.iter().enumerate().flat_map(|(at, tensor)| {
        let source = match copied(at) {
            Some(source) => Ok(source),
            None => Evaluator::new(&tensor.expr, &module.files).map(|e| Source::Evaluate(Box::new(e))),
        };
        let (failed, chunks) = match source {
            Ok(source) => (None, Some(chunks(at, source))),
            Err(errors) => (Some(Err(errors)), None),
        };
        failed.into_iter().chain(chunks.into_iter().flatten().map(Ok))
    });
    let make = |chunk: &Chunk<'_>, bytes: &mut Vec<u8>| fill(&module.tensors[chunk.at], chunk, bytes);
    let mut last = None;
    line::in_order(jobs, &make, &mut |chunk, bytes| {
        if last != Some(chunk.at) {
            last = Some(chunk.at);
            progress.tensor(&module.tensors[chunk.at].name, chunk.at, module.tensors.len());
        }
        progress.advance(bytes.len() as u64);
        sink(bytes)
    })
}

/// Makes one chunk in `bytes`, which is empty, and checks what it made.
fn fill(tensor: &Tensor, chunk: &Chunk<'_>, bytes: &mut Vec<u8>) -> Result<()> {
    let rows = chunk.rows.clone();
    match &*chunk.source {
        Source::Copy(reuse, _) => {
            bytes.resize((rows.end - rows.start) as usize, 0);
            reuse.file.read_at(reuse.offset + rows.start, bytes).map_err(|e| {
                of_tensor(tensor, Diagnostic::environment(format!("cannot read the cache: {e}"))).into()
            })
        }
        Source::Evaluate(evaluator) => {
            evaluator.append_bytes(rows.clone(), bytes).map_err(|mut errors| {
                errors.0 = errors.0.into_iter().map(|d| of_tensor(tensor, d)).collect();
                errors
            })?;
            mdl_kernels::check(tensor.expr.dtype(), bytes).map_err(|bad| {
                let message = format!("rows {} to {}: {bad}", rows.start, rows.end);
                of_tensor(tensor, Diagnostic::error(message).code("bad-block")).into()
            })
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
