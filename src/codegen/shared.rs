//! Values of tensors that other builds made, from a cache that they share.
//!
//! A key says what a value is made of, not what its bytes are, so the cache says that, and its bytes are held to it:
//! their digest, their length, and what every block of a tensor is held to. What is not so is made again.

use std::io::{Seek as _, SeekFrom, Write as _};
use std::ops::Range;
use std::path::Path;
use std::sync::{Mutex, PoisonError};

use super::emit::{Progress, Reuse, write_failed};
use super::key::Key;
use crate::diagnostic::{Diagnostic, Result};
use crate::ir::{Expr, Module};
use crate::store::Writer;
use crate::world::{File, SystemWorld, World as _};

/// What a cache has for a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Got {
    /// Nothing, or it cannot be asked.
    Nothing,
    /// The bytes that it promised; all of them were given.
    Whole,
    /// Something that must not be used.
    Refused,
}

/// A value for a cache.
#[derive(Clone, Copy, Debug)]
pub struct Value {
    /// What it is the value of.
    pub key: Key,
    /// Its bytes.
    pub len: u64,
    /// What is there is wrong: put this in its place.
    pub replace: bool,
}

/// Takes bytes of one of a list, from an offset on.
pub type Take<'a> = &'a (dyn Fn(usize, u64, &[u8]) -> Result<()> + Sync);

/// Fills a buffer with bytes of one of a list, from an offset on.
pub type Read<'a> = &'a (dyn Fn(usize, u64, &mut [u8]) -> Result<()> + Sync);

/// A cache that builds share: a folder, a bucket. Where it fails, it has nothing: no build ends for that.
pub trait Shared: Sync {
    /// Gives the bytes of these values: `take` hears the place of one in the list, an offset and bytes from there on. The
    /// answer has the same order.
    ///
    /// # Errors
    /// Those of `take`.
    fn get(&self, wanted: &[Value], take: Take<'_>) -> Result<Vec<Got>>;

    /// So many of the entries that were asked for are not what they should be.
    fn refused(&self, count: usize);

    /// Puts in what is not there yet. `read` fills a buffer with the bytes of one of the list from an offset on.
    ///
    /// # Errors
    /// Those of `read`.
    fn put(&self, values: &[Value], read: Read<'_>) -> Result<()>;
}

/// The caches that a build shares with others.
#[derive(Clone, Copy, Default)]
pub struct Shares<'a> {
    /// Where values are looked for.
    pub from: Option<&'a dyn Shared>,
    /// Where they are put.
    pub to: Option<&'a dyn Shared>,
}

/// Bytes read at a time, of whole blocks.
const PIECE: usize = 1 << 20;

/// What came from a shared cache.
pub(super) struct Fetched {
    /// Holds the bytes while the module is written.
    _file: Option<tempfile::NamedTempFile>,
    /// For each tensor, whether what the cache has for it is wrong.
    pub refused: Vec<bool>,
}

/// Looks in the shared cache for what no earlier build here made, and adds it to `reuse`.
pub(super) fn fetch(
    module: &Module,
    keys: &[Key],
    reuse: &mut [Option<Reuse>],
    shares: Shares<'_>,
    writer: &Writer,
    progress: &dyn Progress,
) -> Result<Fetched> {
    let mut fetched = Fetched { _file: None, refused: vec![false; keys.len()] };
    let Some(cache) = shares.from else { return Ok(fetched) };
    let mut wanted = Vec::new();
    let mut places = Vec::new();
    let mut end = 0u64;
    for (at, tensor) in module.tensors.iter().enumerate() {
        let Some(len) = tensor.expr.byte_len() else { continue };
        if reuse[at].is_some() || !is_computed(&tensor.expr) {
            continue;
        }
        wanted.push(Value { key: keys[at], len, replace: false });
        places.push((at, end));
        end = end.saturating_add(len);
    }
    if wanted.is_empty() {
        return Ok(fetched);
    }
    let root = writer.store().root();
    let failed = |e: &std::io::Error| write_failed(e, root);
    let file = writer.scratch()?;
    progress.begin("asking the cache", end);
    let out = Mutex::new(file.as_file());
    let got = cache.get(&wanted, &|i, offset, bytes| {
        let mut out = out.lock().unwrap_or_else(PoisonError::into_inner);
        let at = places[i].1.saturating_add(offset);
        let written = out.seek(SeekFrom::Start(at)).and_then(|_| out.write_all(bytes));
        progress.advance(bytes.len() as u64);
        Ok(written.map_err(|e| failed(&e))?)
    })?;
    progress.end();
    let bytes = SystemWorld.open(file.path()).map_err(|e| failed(&e))?;
    for (((at, offset), value), got) in places.iter().zip(&wanted).zip(got) {
        let dtype = module.tensors[*at].expr.dtype();
        match got {
            Got::Whole if blocks_are_good(dtype, &*bytes, *offset, value.len) => {
                reuse[*at] = Some(Reuse { file: bytes.clone(), offset: *offset });
            }
            Got::Whole | Got::Refused => fetched.refused[*at] = true,
            Got::Nothing => {}
        }
    }
    match fetched.refused.iter().filter(|refused| **refused).count() {
        0 => {}
        count => cache.refused(count),
    }
    fetched._file = Some(file);
    Ok(fetched)
}

/// Puts what was computed into the shared cache. `ranges` has where each tensor is in the file at `path`.
pub(super) fn offer(
    module: &Module,
    keys: &[Key],
    refused: &[bool],
    ranges: &[Range<u64>],
    path: &Path,
    shares: Shares<'_>,
    progress: &dyn Progress,
) -> Result<()> {
    let Some(cache) = shares.to else { return Ok(()) };
    let file = SystemWorld.open(path).map_err(|e| Diagnostic::io("read", path, &e))?;
    let computed = module.tensors.iter().enumerate().filter(|(_, t)| is_computed(&t.expr));
    let (places, values): (Vec<u64>, Vec<Value>) = computed
        .map(|(at, _)| {
            let range = &ranges[at];
            let replace = refused.get(at).copied().unwrap_or(false);
            (range.start, Value { key: keys[at], len: range.end - range.start, replace })
        })
        .unzip();
    progress.begin("filling the cache", values.iter().map(|v| v.len).fold(0, u64::saturating_add));
    cache.put(&values, &|i, offset, bytes| {
        let read = file.read_at(places[i].saturating_add(offset), bytes);
        Ok(read.map_err(|e| Diagnostic::io("read", path, &e))?)
    })?;
    progress.end();
    Ok(())
}

/// What a source has as it is need not come from elsewhere.
pub(super) fn is_computed(expr: &Expr) -> bool {
    !matches!(expr, Expr::Load { .. })
}

fn blocks_are_good(dtype: mdl_kernels::TensorType, file: &dyn File, start: u64, len: u64) -> bool {
    let block = dtype.block_bytes().max(1);
    let mut piece = vec![0; (PIECE / block).max(1) * block];
    let mut at = 0;
    while at < len {
        let n = (len - at).min(piece.len() as u64) as usize;
        let bytes = &mut piece[..n];
        if file.read_at(start + at, bytes).is_err() || mdl_kernels::check(dtype, bytes).is_err() {
            return false;
        }
        at += n as u64;
    }
    true
}
