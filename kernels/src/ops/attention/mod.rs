//! Attention of query heads over one key/value head.
//!
//! Keys and values are stored in pages of sixteen positions, which can lie anywhere: a sequence has a table
//! of its pages. Keys are transposed within a page: `[pages, key_length, 16]`, so a lane is a position and a
//! score is one sum over the key's values, in order. Values are stored as they come: `[pages, 16, value_length]`.
//!
//! # Definition
//!
//! Positions are cut into chunks of 256, from position 0 on. For a query `q` that sees positions
//! `start..end`, and each chunk that has some of them, over those alone:
//!
//! - scores `s[p] = sum over i, in order, of (q[i] * (scale * log2(e))) * k[p][i]`; with a cap,
//!   `s[p] = log2(e) * cap * tanh((sum of (q[i] * scale) * k[p][i]) / cap)`,
//! - their maximum `m`, of numbers that are not NaN, and at least the least finite float,
//! - weights `w[p] = 2^(s[p] - m)`, their sum `z` over sixteen lanes (`p % 16`) in order, then the lanes',
//! - `a = sum over p, in order, of w[p] * v[p]`.
//!
//! Chunks are merged in order: `(m, z, a)` and `(m', z', a')` to `M = max(m, m')`,
//! `z' * 2^(m' - M) + z * 2^(m - M)`, and `a` likewise; products are fused with the sum. The result is `a / z`.
//! (FlashAttention, arXiv:2205.14135.)
//!
//! So the result depends on nothing but the query and what it sees: not on the queries beside it, nor on how the
//! chunks are given to threads ([`part`], [`merge`]).

mod cached;
mod chunk;
mod few;
mod product;
#[cfg(test)]
mod tests;

use std::ops::Range;

pub use self::cached::Cached;
use self::chunk::{Tile, Totals};
use self::product::ROWS;
use super::simd::LANES;
use crate::Level;

/// Positions of a page.
pub const PAGE: usize = LANES;

/// Positions whose weights are taken together.
pub const CHUNK: usize = 256;

/// Positions that are widened to float32 at once.
const BLOCK: usize = 64;

/// Queries that are computed together: they share each key and value that is widened.
pub const TILE: usize = 16 * ROWS;

/// A page of a cache.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PageId(pub u32);

impl PageId {
    /// Its place among the pages.
    pub const fn index(self) -> usize {
        self.0 as usize
    }
}

/// Where the position `position` of a sequence is, counted over all pages: its slot.
///
/// # Panics
/// If the table has no such page.
pub fn slot(pages: &[PageId], position: usize) -> usize {
    pages[position / PAGE].index() * PAGE + position % PAGE
}

/// The index in a head's keys of value `i` of the key in `slot`.
pub fn key_index(slot: usize, i: usize, key_length: usize) -> usize {
    slot / PAGE * PAGE * key_length + i * PAGE + slot % PAGE
}

/// What does not depend on the queries.
#[derive(Clone, Copy)]
pub struct Head<'a> {
    /// Keys, in pages.
    pub keys: Cached<'a>,
    /// Values, in pages.
    pub values: Cached<'a>,
    /// The pages of the sequence, in order.
    pub pages: &'a [PageId],
    /// Values of a key and a query.
    pub key_length: usize,
    /// Values of a value and an output.
    pub value_length: usize,
    /// What scores are multiplied with.
    pub scale: f32,
    /// `cap * tanh(s / cap)` on the scores.
    pub soft_cap: Option<f32>,
}

impl Head<'_> {
    fn check(&self, queries: &[f32], positions: &[Range<usize>]) {
        assert!(self.key_length > 0 && self.value_length > 0, "heads have values");
        assert_eq!(queries.len(), positions.len() * self.key_length, "a query has key_length values");
        assert!(
            self.keys.holds(self.key_length) && self.values.holds(self.value_length),
            "rows of blocks are whole blocks"
        );
        assert!(positions.iter().all(|p| p.start < p.end), "a query sees a position");
        let end = positions.iter().map(|p| p.end).max().unwrap_or(0);
        let pages = self.pages.get(..end.div_ceil(PAGE)).unwrap_or(&[]);
        let last = pages.iter().map(|p| p.index() + 1).max();
        assert!(
            last.is_some_and(|n| {
                n * PAGE <= self.keys.slots(self.key_length)
                    && n * PAGE <= self.values.slots(self.value_length)
            }),
            "position {end} is beyond the cache"
        );
    }
}

/// What attention keeps between calls; its size does not depend on the context.
#[derive(Default)]
pub struct Scratch {
    tile: Tile,
    totals: Totals,
}

impl Scratch {
    /// Bytes that a scratch takes at most, for heads of these lengths.
    pub const fn bytes(key_length: usize, value_length: usize) -> usize {
        Tile::bytes(key_length, value_length) + Totals::bytes(value_length)
    }
}

/// The chunks that positions are in.
pub const fn chunks(positions: &Range<usize>) -> Range<usize> {
    positions.start / CHUNK..positions.end.div_ceil(CHUNK)
}

/// Attends. `queries` is `[n, key_length]`; query i sees `positions[i]`, which is not empty; its
/// output is `out[i]` in `[n, value_length]`.
///
/// # Panics
/// If a length does not fit or a range of positions is empty or beyond what is stored.
pub fn attention(
    level: Level,
    head: &Head<'_>,
    queries: &[f32],
    positions: &[Range<usize>],
    scratch: &mut Scratch,
    out: &mut [f32],
) {
    head.check(queries, positions);
    assert_eq!(out.len(), positions.len() * head.value_length, "an output has value_length values");
    let Scratch { tile, totals } = scratch;
    let queries = queries.chunks(TILE * head.key_length);
    let outs = out.chunks_mut(TILE * head.value_length);
    for ((queries, positions), out) in queries.zip(positions.chunks(TILE)).zip(outs) {
        tile.set(head, queries);
        totals.clear(positions.len(), head.value_length);
        let start = positions.iter().map(|p| p.start).min().unwrap_or(0);
        let end = positions.iter().map(|p| p.end).max().unwrap_or(0);
        for chunk in chunks(&(start..end)) {
            if tile.see(positions, chunk) {
                tile.attend(level, head, chunk);
                totals.merge(level, tile);
            }
        }
        totals.finish(level, head.value_length, out);
    }
}

/// Floats of a part: the weighted values, the sum of the weights, and the greatest score.
pub const fn part_len(value_length: usize) -> usize {
    value_length + 2
}

/// The part that chunk `chunk` has in the attention of queries that see the same positions, some of them in
/// the chunk: `out` is `[n, part_len]`, for [`merge`]. At most [`TILE`] queries.
///
/// # Panics
/// As [`attention`], or if the positions have none in the chunk.
pub fn part(
    level: Level,
    head: &Head<'_>,
    queries: &[f32],
    positions: &[Range<usize>],
    chunk: usize,
    scratch: &mut Scratch,
    out: &mut [f32],
) {
    head.check(queries, positions);
    assert_eq!(out.len(), positions.len() * part_len(head.value_length), "a part has part_len values");
    assert!(positions.len() <= TILE, "at most {TILE} queries");
    assert!(positions.iter().all(|p| chunks(p).contains(&chunk)), "each query sees a position of the chunk");
    let tile = &mut scratch.tile;
    tile.set(head, queries);
    tile.see(positions, chunk);
    tile.attend(level, head, chunk);
    tile.write_parts(head.value_length, out);
}

/// Merges the parts of one query, in the order of their chunks; each is [`part_len`] floats.
///
/// # Panics
/// If a length does not fit.
pub fn merge<'a>(
    level: Level,
    parts: impl Iterator<Item = &'a [f32]>,
    scratch: &mut Scratch,
    out: &mut [f32],
) {
    let Scratch { tile, totals } = scratch;
    totals.clear(1, out.len());
    for part in parts {
        tile.read_part(part, out.len());
        totals.merge(level, tile);
    }
    totals.finish(level, out.len(), out);
}
