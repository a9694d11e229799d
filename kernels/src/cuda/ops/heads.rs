//! Queries, keys and values, the cache, and attention.

use super::arrays::{Field, Floats, Output};
use crate::cuda::launch::Launch;
use crate::cuda::{CudaError, Device, Memory, Stream};
use crate::ops::attention::{CHUNK, PAGE};

/// The cache of one block of a model: a column of `width` bytes for each head's keys, then one for each head's values,
/// as the CPU has it.
pub struct Cache {
    memory: Memory,
    /// `f16`, `f32`, `q8_0` or `q4_0`.
    kind: &'static str,
    heads: usize,
    key_length: usize,
    value_length: usize,
    pages: usize,
    width: usize,
}

impl Cache {
    /// An empty cache of so many pages. `row_bytes` are those of a key or a value, whichever is longer.
    ///
    /// # Errors
    /// There is no memory for it, or the driver fails.
    ///
    /// # Panics
    /// If there is no such kind, or blocks are not whole.
    pub fn zeroed(
        device: &Device,
        kind: &'static str,
        (heads, key_length, value_length): (usize, usize, usize),
        pages: usize,
    ) -> Result<Cache, CudaError> {
        let whole = key_length.is_multiple_of(32) && value_length.is_multiple_of(32);
        assert!(
            matches!(kind, "f16" | "f32") || (matches!(kind, "q8_0" | "q4_0") && whole),
            "a kind of cache"
        );
        let row = row_bytes(kind, key_length.max(value_length));
        let width = pages.saturating_mul(PAGE).saturating_mul(row);
        let memory = Memory::zeroed(device, width.saturating_mul(2 * heads))?;
        Ok(Cache { memory, kind, heads, key_length, value_length, pages, width })
    }

    /// Slots that it has.
    pub fn slots(&self) -> usize {
        self.pages * PAGE
    }
}

/// Bytes of a key or value.
const fn row_bytes(kind: &str, length: usize) -> usize {
    match kind.as_bytes() {
        b"f32" => 4 * length,
        b"q8_0" => length / 32 * 34,
        b"q4_0" => length / 32 * 18,
        _ => 2 * length,
    }
}

/// What a norm of heads is over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HeadNorm {
    /// Each head, by one weight for all.
    Head = 0,
    /// Each head, less its mean, by a weight of its own.
    LayerOfHead = 1,
    /// All heads together: see [`rms_scales`].
    All = 2,
}

/// What happens to queries and keys on their way.
pub struct Heads<'a> {
    /// `[columns, width]`: queries, keys, values.
    pub qkv: &'a Floats,
    /// Heads of queries.
    pub heads: usize,
    /// The weights of the norms of queries and keys, and what they are over.
    pub norms: Option<([Option<&'a Floats>; 2], HeadNorm, f32)>,
    /// For a norm over all heads, the factors of queries and keys: `[1, columns]`.
    pub factors: Option<[&'a Floats; 2]>,
    /// Cosines and sines of each column, `[columns, 2, pairs]`; pairs; whether halves turn.
    pub rotation: Option<(&'a Field, usize, bool)>,
    /// What each column's queries are multiplied with in the end.
    pub temperatures: Option<&'a Field>,
    /// Where each column's keys and values go.
    pub slots: &'a Field,
}

/// The factor of a norm over values `at..at + n` of each column: `out` is `[1, columns]`.
///
/// # Errors
/// The driver fails.
///
/// # Panics
/// If a length does not fit.
pub fn rms_scales(
    stream: &Stream,
    x: &Floats,
    (at, n): (usize, usize),
    epsilon: f32,
    columns: usize,
    out: &Floats,
) -> Result<(), CudaError> {
    assert!(columns <= x.columns && at + n <= x.width && columns <= out.width, "values of each column");
    let launch =
        Launch::new(stream, "rms_scales", [columns, 1, 1], 256).memory(&x.memory, 0).int(x.width).int(at);
    // SAFETY: each column has these values, and `out` a place for each column.
    unsafe { launch.memory(&out.memory, 0).int(n).float(epsilon).queue() }
}

/// Brings the queries of so many columns to `queries`, `[columns, heads * key_length]`, if they are asked for, and keys and
/// values to the cache, if they are: norm and rotation first.
///
/// # Errors
/// The driver fails.
///
/// # Panics
/// If a length does not fit, or a slot may be beyond the cache.
pub fn prepare(
    stream: &Stream,
    of: &Heads<'_>,
    columns: usize,
    cache: &Cache,
    store: bool,
    queries: Option<&Floats>,
) -> Result<(), CudaError> {
    let Cache { heads: kv_heads, key_length, value_length, .. } = *cache;
    let (heads, qkv) = (of.heads, of.qkv);
    qkv.check(columns, (heads + kv_heads) * key_length + kv_heads * value_length);
    if let Some(queries) = queries {
        queries.check(columns, heads * key_length);
    }
    of.slots.check(columns, cache.slots());
    if let Some((angles, pairs, _)) = of.rotation {
        assert!(2 * pairs <= key_length, "pairs of a head");
        angles.check_floats(columns * 2 * pairs);
    }
    if let Some(temperatures) = of.temperatures {
        temperatures.check_floats(columns);
    }
    if let Some((weights, kind, _)) = &of.norms {
        let count = |heads: usize| if *kind == HeadNorm::Head { key_length } else { heads * key_length };
        for (weight, heads) in weights.iter().zip([heads, kv_heads]) {
            if let Some(weight) = weight {
                weight.check(1, count(heads));
            }
        }
        assert!(*kind != HeadNorm::All || of.factors.is_some(), "a norm over all has factors");
    }
    if let Some(factors) = of.factors {
        factors.iter().for_each(|f| assert!(columns <= f.width, "a factor for each column"));
    }
    let (first, count) = match (queries.is_some(), store) {
        (true, true) => (0, heads + 2 * kv_heads),
        (true, false) => (0, heads),
        (false, true) => (heads, 2 * kv_heads),
        (false, false) => return Ok(()),
    };
    let kernel = format!("prepare_heads_{}", cache.kind);
    let launch =
        Launch::new(stream, &kernel, [count, columns, 1], 32).shared(4 * key_length.max(value_length));
    let launch = launch.memory(&qkv.memory, 0).int(qkv.width).int(heads).int(kv_heads).int(key_length);
    let weights = of.norms.as_ref().map(|(w, _, _)| w);
    let weight = |i: usize| weights.and_then(|w| w[i]).map(|w| &w.memory);
    let launch = launch.int(value_length).option(weight(0)).option(weight(1));
    let (kind, epsilon) =
        of.norms.as_ref().map_or((HeadNorm::Head, 0.0), |(_, kind, epsilon)| (*kind, *epsilon));
    let launch = launch.int(kind as usize).float(epsilon);
    let launch = launch.option(of.factors.map(|f| &f[0].memory)).option(of.factors.map(|f| &f[1].memory));
    let launch = launch.option_at(of.rotation.map(|(angles, _, _)| (&angles.memory, angles.at)));
    let (pairs, halves) = of.rotation.map_or((0, false), |(_, pairs, halves)| (pairs, halves));
    let launch = launch.int(pairs).flag(halves).option_at(of.temperatures.map(|t| (&t.memory, t.at)));
    let launch = launch.option(queries.map(|q| &q.memory)).memory(&of.slots.memory, of.slots.at);
    // SAFETY: `qkv` has the heads of so many columns, the slots are below those of the cache, and the vectors have the
    // values of a head or of all.
    unsafe { launch.memory(&cache.memory, 0).long(cache.width).int(first).queue() }
}

/// Attention of some columns.
pub struct Attention<'a> {
    /// `[columns, heads * key_length]`.
    pub queries: &'a Floats,
    /// Heads of queries.
    pub heads: usize,
    /// What scores are multiplied with.
    pub scale: f32,
    /// `cap * tanh(s / cap)` on the scores.
    pub cap: Option<f32>,
    /// `[sequences, table_width]`: the pages of each sequence.
    pub pages: &'a Field,
    /// Pages of a table.
    pub table_width: usize,
    /// The sequence of each column.
    pub sequences: &'a Field,
    /// The positions that each column sees, start and end.
    pub seen: &'a Field,
    /// Chunks of 256 positions that a column sees at most, in this step.
    pub chunks: usize,
    /// Tiles of columns of one sequence, first and count, and how many: for many columns.
    pub tiles: Option<(&'a Field, usize)>,
    /// Room for parts, as [`merge_parts`] says.
    pub parts: &'a Memory,
    /// Zeros, an int32 for each column and head.
    pub counters: &'a Memory,
}

impl Attention<'_> {
    /// Chunks that the parts of a column have room for: of the longest table.
    fn room(&self) -> usize {
        (self.table_width * PAGE).div_ceil(CHUNK) + 1
    }
}

/// Bytes of the parts of so many columns that see tables of `table_width` pages.
pub fn merge_parts(columns: usize, heads: usize, table_width: usize, value_length: usize) -> usize {
    let chunks = (table_width * PAGE).div_ceil(CHUNK) + 1;
    [heads, chunks, value_length + 2, 4].iter().fold(columns, |n, m| n.saturating_mul(*m))
}

/// Lengths of heads for which there is a kernel of many columns.
const PREFILL: [usize; 6] = [64, 80, 96, 112, 128, 256];

/// True when attention of many columns, by tiles, can be had of such a cache.
pub fn has_prefill(cache: &Cache) -> bool {
    cache.kind == "f16" && cache.key_length == cache.value_length && PREFILL.contains(&cache.key_length)
}

/// `out = attention`, `[columns, heads * value_length]`: by tiles where there are some, else each column by its chunks.
///
/// # Errors
/// The driver fails.
///
/// # Panics
/// If a length does not fit, or an index may be beyond what it counts.
pub fn attention(
    stream: &Stream,
    of: &Attention<'_>,
    cache: &Cache,
    columns: std::ops::Range<usize>,
    out: Output<'_>,
) -> Result<(), CudaError> {
    let Cache { heads: kv_heads, key_length, value_length, .. } = *cache;
    let (heads, group) = (of.heads, of.heads / kv_heads);
    assert_eq!(group * kv_heads, heads, "groups of heads");
    of.queries.check(columns.end, heads * key_length);
    out.check(columns.end, heads * value_length);
    // Every table there may be is within `pages`, and every page within the cache.
    of.pages.check(0, cache.pages);
    of.sequences.check(columns.end, of.pages.len / of.table_width.max(1));
    of.seen.check(2 * columns.end, of.table_width * PAGE + 1);
    let cap = of.cap.unwrap_or(0.0);
    if let (Some((tiles, count)), Output::Floats(out)) = (of.tiles, out) {
        assert!(has_prefill(cache) && columns.start == 0, "a cache that has such a kernel");
        tiles.check_tiles(count, of.queries.columns.min(out.columns));
        of.sequences.check(of.queries.columns, usize::MAX);
        of.seen.check(2 * of.queries.columns, usize::MAX);
        let kernel = format!("attention_prefill_{key_length}");
        // Two buffers of keys and values; of long ones, shorter buffers.
        let shared = if key_length == 256 { 96 << 10 } else { 512 * key_length };
        let launch = Launch::new(stream, &kernel, [count, kv_heads, 1], 128).shared(shared);
        let launch = launch.memory(&of.queries.memory, 0).int(heads).int(kv_heads).float(of.scale).float(cap);
        let launch = launch.memory(&cache.memory, 0).long(cache.width).memory(&of.pages.memory, of.pages.at);
        let launch = launch.int(of.table_width).memory(&of.sequences.memory, of.sequences.at);
        let launch = launch.memory(&of.seen.memory, of.seen.at).memory(&tiles.memory, tiles.at);
        // SAFETY: queries, tables, sequences and positions are within their bounds, as checked above.
        return unsafe { launch.memory(&out.memory, 0).queue() };
    }
    let g = match group {
        1 => 1,
        2..=4 => 4,
        _ => 8,
    };
    let (n, first) = (columns.len(), columns.start);
    let rows = kv_heads * group.div_ceil(g);
    assert!(merge_parts(n, heads, of.table_width, value_length) <= of.parts.len(), "room for the parts");
    assert!(4 * n * rows <= of.counters.len(), "a counter for each column and head");
    assert!(of.chunks <= of.room(), "chunks of the tables");
    // Blocks are laid out in eights of columns, which an offset cannot begin within.
    assert!(first == 0 || out.blocks().is_none(), "blocks are written from the first column on");
    let kernel = format!("attention_{}_{g}", cache.kind);
    let shared = 4 * g * (key_length.next_multiple_of(4) + CHUNK);
    let (sequences, seen) = (of.sequences.from(first), of.seen.from(2 * first));
    let launch = Launch::new(stream, &kernel, [of.chunks, rows, n], 128).shared(shared);
    let launch = launch.memory(&of.queries.memory, of.queries.bytes_to(first)).int(heads).int(kv_heads);
    let launch = launch.int(key_length).int(value_length).float(of.scale).float(cap).memory(&cache.memory, 0);
    let launch = launch.long(cache.width).memory(&of.pages.memory, of.pages.at).int(of.table_width);
    let launch = launch.memory(&sequences.memory, sequences.at).memory(&seen.memory, seen.at);
    let launch = launch.memory(of.parts, 0).int(of.room()).memory(of.counters, 0);
    let launch = match out {
        Output::Floats(out) => launch.memory(&out.memory, out.bytes_to(first)).option(None).option(None),
        Output::Blocks(out) => launch.option(None).memory(&out.q, 0).memory(&out.meta, 0),
    };
    // SAFETY: queries, tables, sequences and positions are within their bounds, the parts have room for every chunk of
    // the longest table, and there is a counter for each block of threads that merges.
    unsafe { launch.queue() }
}

/// Copies a page of a cache.
///
/// # Errors
/// The driver fails.
///
/// # Panics
/// If there is no such page.
pub fn copy_page(stream: &Stream, cache: &Cache, from: usize, to: usize) -> Result<(), CudaError> {
    assert!(from.max(to) < cache.pages, "a page of the cache");
    let page = |length: usize| PAGE * row_bytes(cache.kind, length);
    let launch = Launch::new(stream, "copy_page", [2 * cache.heads, 1, 1], 128).memory(&cache.memory, 0);
    let launch =
        launch.long(cache.width).int(cache.heads).int(page(cache.key_length)).int(page(cache.value_length));
    // SAFETY: both pages are within the cache.
    unsafe { launch.int(from).int(to).queue() }
}

/// Rows of a cache that move, in order, none to a slot that is still to be read.
pub struct Moves<'a> {
    /// The slot of each.
    pub from: &'a Field,
    /// Where it goes.
    pub to: &'a Field,
    /// How many there are.
    pub count: usize,
    /// The keys from this one on turn.
    pub turned_from: usize,
    /// `[2, pairs]`: the cosines and sines of the turn; pairs; whether halves turn.
    pub rotation: Option<(&'a Field, usize, bool)>,
}

/// Moves rows of a cache.
///
/// # Errors
/// The driver fails.
///
/// # Panics
/// If a length does not fit, or a slot may be beyond the cache.
pub fn shift(stream: &Stream, cache: &Cache, moves: &Moves<'_>) -> Result<(), CudaError> {
    moves.from.check(moves.count, cache.slots());
    moves.to.check(moves.count, cache.slots());
    if let Some((angles, pairs, _)) = moves.rotation {
        assert!(2 * pairs <= cache.key_length, "pairs of a head");
        angles.check_floats(2 * pairs);
    }
    let kernel = format!("shift_kv_{}", cache.kind);
    let launch = Launch::new(stream, &kernel, [2 * cache.heads, 1, 1], 32).shared(4 * cache.key_length);
    let launch = launch.memory(&cache.memory, 0).long(cache.width).int(cache.heads).int(cache.key_length);
    let launch = launch.int(cache.value_length).memory(&moves.from.memory, moves.from.at);
    let launch = launch.memory(&moves.to.memory, moves.to.at).int(moves.count).int(moves.turned_from);
    let launch = launch.option_at(moves.rotation.map(|(angles, _, _)| (&angles.memory, angles.at)));
    let (pairs, halves) = moves.rotation.map_or((0, false), |(_, pairs, halves)| (pairs, halves));
    // SAFETY: the slots are within the cache, and a head has so many pairs.
    unsafe { launch.int(pairs).flag(halves).queue() }
}
