//! Streams a module into a GGUF file.
//!
//! Tensors are cut into chunks of rows. While one window of chunks is written, the next is made on
//! all cores, so memory holds two windows whatever the size of the model, and the order of the
//! bytes does not depend on who finished first.

use std::io::Write;
use std::ops::Range;
use std::sync::Arc;

use rayon::prelude::*;

use super::evaluate::{Evaluator, chunk_rows};
use super::key::layout;
use crate::diagnostic::{Diagnostic, Result};
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

/// Writes `module` to `out`. `reuse` has, for each tensor, the bytes an earlier build made of the
/// same expression.
///
/// # Errors
/// A source cannot be read, a value cannot be encoded, an encoded block is damaged, or `out` fails.
pub fn emit_gguf(
    module: &Module,
    reuse: &[Option<Reuse>],
    out: &mut (dyn Write + Send),
    progress: &dyn Progress,
) -> Result<Emitted> {
    let layout = layout(module)?;
    write(out, layout.header())?;
    let mut written = layout.header().len() as u64;
    let mut tensors = Vec::with_capacity(module.tensors.len());
    progress.begin("writing tensors", layout.total_len());
    for (i, tensor) in module.tensors.iter().enumerate() {
        progress.tensor(&tensor.name, i, module.tensors.len());
        let range = layout.tensor(i);
        write_zeros(out, range.start.saturating_sub(written))?;
        let source = match reuse.get(i).and_then(Option::as_ref) {
            Some(reuse) => Source::Copy(reuse, range.end - range.start),
            None => Source::Evaluate(Box::new(Evaluator::new(&tensor.expr, &module.files)?)),
        };
        let len = stream(tensor, &source, out, progress)?;
        if len != range.end - range.start {
            let message = format!("{len} bytes were made for a tensor of {}", range.end - range.start);
            return Err(of_tensor(tensor, Diagnostic::error(message)).into());
        }
        written = range.end;
        tensors.push(range);
    }
    let total = layout.total_len();
    write_zeros(out, total.saturating_sub(written))?;
    progress.end();
    Ok(Emitted { len: total, tensors })
}

/// Writes the chunks of one tensor in order; returns their bytes.
fn stream(
    tensor: &Tensor,
    source: &Source<'_>,
    out: &mut (dyn Write + Send),
    progress: &dyn Progress,
) -> Result<u64> {
    let (rows, step) = match source {
        Source::Evaluate(e) => (e.rows(), chunk_rows(e.cols() as u64)),
        Source::Copy(_, len) => (*len, COPY_BYTES),
    };
    let window = step.saturating_mul(4 * rayon::current_num_threads() as u64);
    let mut total = 0;
    let mut ready: Vec<Vec<u8>> = Vec::new();
    let mut start = 0;
    loop {
        let end = start + window.min(rows - start);
        let ranges: Vec<Range<u64>> =
            (start..end).step_by(step as usize).map(|s| s..end.min(s + step)).collect();
        let (wrote, made) = rayon::join(
            || write_chunks(&ready, out, progress),
            || ranges.into_par_iter().map(|range| chunk(tensor, source, range)).collect::<Result<Vec<_>>>(),
        );
        total += wrote?;
        ready = made?;
        if ready.is_empty() {
            return Ok(total);
        }
        start = end;
    }
}

/// Makes one chunk, and checks what it made.
fn chunk(tensor: &Tensor, source: &Source<'_>, rows: Range<u64>) -> Result<Vec<u8>> {
    match source {
        Source::Copy(reuse, _) => {
            let mut bytes = vec![0; (rows.end - rows.start) as usize];
            reuse
                .file
                .read_at(reuse.offset + rows.start, &mut bytes)
                .map_err(|e| of_tensor(tensor, Diagnostic::environment(format!("cannot read the cache: {e}"))))?;
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

fn write_chunks(chunks: &[Vec<u8>], out: &mut (dyn Write + Send), progress: &dyn Progress) -> Result<u64> {
    let mut total = 0;
    for bytes in chunks {
        write(out, bytes)?;
        progress.advance(bytes.len() as u64);
        total += bytes.len() as u64;
    }
    Ok(total)
}

fn write(out: &mut (dyn Write + Send), bytes: &[u8]) -> Result<()> {
    out.write_all(bytes).map_err(|e| write_failed(&e).into())
}

fn write_zeros(out: &mut (dyn Write + Send), count: u64) -> Result<()> {
    std::io::copy(&mut std::io::Read::take(std::io::repeat(0), count), out)
        .map(|_| ())
        .map_err(|e| write_failed(&e).into())
}

fn write_failed(error: &std::io::Error) -> Diagnostic {
    let d = Diagnostic::environment(format!("cannot write the model: {error}")).code("write");
    match error.kind() {
        std::io::ErrorKind::StorageFull | std::io::ErrorKind::QuotaExceeded => {
            d.help("free some space, or choose another place with `--store`; nothing was published")
        }
        _ => d,
    }
}

fn of_tensor(tensor: &Tensor, mut diagnostic: Diagnostic) -> Diagnostic {
    diagnostic.message = format!("tensor `{}`: {}", tensor.name, diagnostic.message);
    diagnostic
}
