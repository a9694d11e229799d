//! The attention of a tile of queries over one chunk, and what the chunks add up to.

use std::ops::Range;

use super::few;
use super::product::{Output, ROWS, Row, WIDTH, product};
use super::{BLOCK, CHUNK, Head, PAGE, TILE, part_len};
use crate::Level;
use crate::ops::elementwise::{exp, exp2_of_negative};
use crate::ops::on_level;
use crate::ops::simd::{LANES, Simd};

/// The sum of the weighted values, that of the weights, and the greatest score of each of some queries.
#[derive(Default)]
struct Sums {
    /// `[n, stride]`.
    values: Vec<f32>,
    weights: Vec<f32>,
    greatest: Vec<f32>,
}

impl Sums {
    fn resize(&mut self, n: usize, stride: usize) {
        self.values.resize(n * stride, 0.0);
        self.weights.resize(n, 0.0);
        self.greatest.resize(n, 0.0);
    }

    #[cfg(test)]
    fn allocated(&self) -> usize {
        4 * (self.values.capacity() + self.weights.capacity() + self.greatest.capacity())
    }

    const fn bytes(value_length: usize) -> usize {
        TILE * (stride(value_length) + 2) * size_of::<f32>()
    }
}

/// Floats from one query's values to the next: whole rows of a panel.
const fn stride(value_length: usize) -> usize {
    value_length.next_multiple_of(WIDTH)
}

/// Queries, and what they see of a chunk.
#[derive(Default)]
pub(super) struct Tile {
    /// The queries times the scale, in pieces of a row: `[pieces, n]`.
    queries: Vec<Row>,
    /// The scores of the chunk's positions, then their weights: `[n]`.
    scores: Vec<Row>,
    /// The positions that each query sees, counted in the chunk.
    seen: Vec<Range<usize>>,
    /// Keys or values of a block as float32: `[key_length]`, or `[value_length / WIDTH, BLOCK]`.
    panel: Vec<[f32; WIDTH]>,
    sums: Sums,
}

/// Some queries, and positions of a block that all of them see.
type Segment = (Range<usize>, Range<usize>);

impl Tile {
    pub(super) const fn bytes(key_length: usize, value_length: usize) -> usize {
        let rows = TILE * (key_length.div_ceil(CHUNK) + 1);
        let values = stride(value_length) / WIDTH * BLOCK;
        let panel = if key_length > values { key_length } else { values };
        rows * size_of::<Row>()
            + panel * size_of::<[f32; WIDTH]>()
            + TILE * size_of::<Range<usize>>()
            + Sums::bytes(value_length)
    }

    #[cfg(test)]
    pub(super) fn allocated(&self) -> usize {
        (self.queries.capacity() + self.scores.capacity()) * size_of::<Row>()
            + self.panel.capacity() * size_of::<[f32; WIDTH]>()
            + self.seen.capacity() * size_of::<Range<usize>>()
            + self.sums.allocated()
    }

    /// Takes queries `[n, key_length]` and multiplies them with the scale.
    pub(super) fn set(&mut self, head: &Head<'_>, queries: &[f32]) {
        let n = queries.len() / head.key_length;
        let pieces = head.key_length.div_ceil(CHUNK);
        let scale = match head.soft_cap {
            None => head.scale * std::f32::consts::LOG2_E,
            Some(_) => head.scale,
        };
        self.queries.resize(pieces * n, [0.0; CHUNK]);
        self.scores.resize(n, [0.0; CHUNK]);
        for (i, query) in queries.chunks_exact(head.key_length).enumerate() {
            for (piece, values) in query.chunks(CHUNK).enumerate() {
                for (to, v) in self.queries[piece * n + i].iter_mut().zip(values) {
                    *to = v * scale;
                }
            }
        }
        let stride = stride(head.value_length);
        self.panel.resize(head.key_length.max(stride / WIDTH * BLOCK), [0.0; WIDTH]);
        self.sums.resize(n, stride);
    }

    /// Notes what each query sees of the chunk; false if that is nothing.
    pub(super) fn see(&mut self, positions: &[Range<usize>], chunk: usize) -> bool {
        let place = |p: usize| p.saturating_sub(chunk * CHUNK).min(CHUNK);
        self.seen.clear();
        self.seen.extend(positions.iter().map(|p| place(p.start)..place(p.end)));
        self.seen.iter().any(|p| !p.is_empty())
    }

    /// Fills the sums of the queries that see positions of the chunk.
    pub(super) fn attend(&mut self, level: Level, head: &Head<'_>, chunk: usize) {
        let tile = self;
        on_level!(level, attend(tile: &mut Tile, head: &Head<'_>, chunk: usize));
    }

    /// Writes the sums as parts.
    pub(super) fn write_parts(&self, value_length: usize, out: &mut [f32]) {
        let values = self.sums.values.chunks_exact(stride(value_length));
        for ((i, values), out) in values.enumerate().zip(out.chunks_exact_mut(part_len(value_length))) {
            out[..value_length].copy_from_slice(&values[..value_length]);
            out[value_length] = self.sums.weights[i];
            out[value_length + 1] = self.sums.greatest[i];
        }
    }

    /// Takes a part as the sums of one query.
    pub(super) fn read_part(&mut self, part: &[f32], value_length: usize) {
        self.sums.resize(1, stride(value_length));
        self.sums.values[..value_length].copy_from_slice(&part[..value_length]);
        self.sums.weights[0] = part[value_length];
        self.sums.greatest[0] = part[value_length + 1];
        self.seen.clear();
        self.seen.push(0..1);
    }
}

/// The positions of `block` among `seen`, counted in the block.
#[inline(always)]
fn of_block(seen: &Range<usize>, block: usize) -> Range<usize> {
    let place = |p: usize| p.saturating_sub(block * BLOCK).min(BLOCK);
    place(seen.start)..place(seen.end)
}

/// The positions of `block` that any query sees: from the first to the last.
#[inline(always)]
fn union(seen: &[Range<usize>], block: usize) -> Range<usize> {
    let (mut start, mut end) = (BLOCK, 0);
    for seen in seen {
        let seen = of_block(seen, block);
        if !seen.is_empty() {
            start = start.min(seen.start);
            end = end.max(seen.end);
        }
    }
    start..end
}

#[inline(always)]
fn attend<S: Simd>(s: S, tile: &mut Tile, head: &Head<'_>, chunk: usize) {
    let n = tile.seen.len();
    if few::takes(head, &tile.seen) {
        return attend_few(s, tile, head, chunk);
    }
    let first_page = chunk * (CHUNK / PAGE);
    for block in 0..CHUNK / BLOCK {
        let seen = union(&tile.seen, block);
        if seen.is_empty() {
            continue;
        }
        let pages = first_page + block * (BLOCK / PAGE);
        for page in seen.start / PAGE..seen.end.div_ceil(PAGE) {
            head.widen_keys(s, pages + page, &mut tile.panel);
        }
        for first in (0..n).step_by(ROWS) {
            let rows = first..n.min(first + ROWS);
            let seen = union(&tile.seen[rows.clone()], block);
            if !seen.is_empty() {
                scores(s, tile, head.key_length, rows, block, seen);
            }
        }
    }
    for i in 0..n {
        let seen = tile.seen[i].clone();
        if !seen.is_empty() {
            let (weights, greatest) = soften(s, head.soft_cap, &mut tile.scores[i], seen);
            tile.sums.weights[i] = weights;
            tile.sums.greatest[i] = greatest;
        }
    }
    tile.sums.values.fill(0.0);
    for block in 0..CHUNK / BLOCK {
        let seen = union(&tile.seen, block);
        let position = chunk * CHUNK + block * BLOCK;
        head.widen_values(s, position + seen.start..position + seen.end, &mut tile.panel);
        for first in (0..n).step_by(ROWS) {
            values(s, tile, head.value_length, first..n.min(first + ROWS), block);
        }
    }
}

/// [`attend`] for few queries that see the same.
#[inline(always)]
fn attend_few<S: Simd>(s: S, tile: &mut Tile, head: &Head<'_>, chunk: usize) {
    let Some(seen) = tile.seen.first().cloned() else { return };
    few::scores(s, head, &tile.queries, (chunk, &seen), &mut tile.scores);
    for (i, scores) in tile.scores.iter_mut().enumerate() {
        let (weights, greatest) = soften(s, head.soft_cap, scores, seen.clone());
        tile.sums.weights[i] = weights;
        tile.sums.greatest[i] = greatest;
    }
    let stride = stride(head.value_length);
    few::values(s, head, &tile.scores, (chunk, &seen), (&mut tile.sums.values, stride));
}

/// Scores of some queries at the pages of a block with the positions `seen`; beyond those they mean nothing.
#[inline(always)]
fn scores<S: Simd>(
    s: S,
    tile: &mut Tile,
    key_length: usize,
    rows: Range<usize>,
    block: usize,
    seen: Range<usize>,
) {
    let n = tile.scores.len();
    let pages = seen.start / PAGE..seen.end.div_ceil(PAGE);
    // One page, or all: a panel's other keys are those of an earlier block.
    let pages = if pages.len() == 1 { pages } else { 0..BLOCK / PAGE };
    let out = tile.scores[rows.clone()].as_flattened_mut();
    for (piece, first) in (0..key_length).step_by(CHUNK).enumerate() {
        let span = 0..CHUNK.min(key_length - first);
        let queries = &tile.queries[piece * n..][rows.clone()];
        let panel = &tile.panel[first..];
        let out = Output { values: &mut out[block * BLOCK..], stride: CHUNK, add: piece > 0 };
        product(s, queries, span, panel, pages.clone(), out);
    }
}

/// Turns scores into weights; returns their sum and the greatest score.
#[inline(always)]
fn soften<S: Simd>(s: S, soft_cap: Option<f32>, scores: &mut Row, seen: Range<usize>) -> (f32, f32) {
    let pages = seen.start / PAGE..seen.end.div_ceil(PAGE);
    if let Some(cap) = soft_cap {
        for scores in &mut scores.as_chunks_mut::<LANES>().0[pages.clone()] {
            // cap * tanh(v / cap) = cap - 2 cap / (1 + e^(2 v / cap))
            let v = s.load(scores);
            let e = exp(s, s.mul(s.div(v, s.splat(cap)), s.splat(2.0)));
            let capped = s.sub(s.splat(cap), s.div(s.splat(2.0 * cap), s.add(s.splat(1.0), e)));
            s.store(s.mul(capped, s.splat(std::f32::consts::LOG2_E)), scores);
        }
    }
    // What is not seen weighs nothing.
    scores[pages.start * PAGE..seen.start].fill(f32::NEG_INFINITY);
    scores[seen.end..pages.end * PAGE].fill(f32::NEG_INFINITY);
    let scores = &mut scores.as_chunks_mut::<LANES>().0[pages];
    let mut greatest = s.splat(f32::MIN);
    for scores in scores.iter() {
        greatest = s.max(s.load(scores), greatest);
    }
    let greatest = s.greatest(greatest);
    let mut sum = s.splat(0.0);
    for scores in scores {
        let weight = exp2_of_negative(s, s.sub(s.load(scores), s.splat(greatest)));
        sum = s.add(sum, weight);
        s.store(weight, scores);
    }
    (s.sum(sum), greatest)
}

/// Adds the weighted values of a block to the sums of some queries.
#[inline(always)]
fn values<S: Simd>(s: S, tile: &mut Tile, value_length: usize, rows: Range<usize>, block: usize) {
    let mut spans = [const { 0..0 }; ROWS];
    let mut common = 0..BLOCK;
    for (span, seen) in spans.iter_mut().zip(&tile.seen[rows.clone()]) {
        *span = of_block(seen, block);
        common = common.start.max(span.start)..common.end.min(span.end);
    }
    if common.is_empty() {
        // Each for itself.
        common = BLOCK..BLOCK;
    }
    // A value that only some see is not even multiplied with the weight 0 of the others: it may be infinite.
    let mut segments: [Segment; 2 * ROWS + 1] = [const { (0..0, 0..0) }; 2 * ROWS + 1];
    for (i, span) in spans[..rows.len()].iter().enumerate() {
        let row = rows.start + i..rows.start + i + 1;
        segments[i] = (row.clone(), span.start..common.start.min(span.end));
        segments[ROWS + 1 + i] = (row, common.end.max(span.start)..span.end);
    }
    segments[ROWS] = (rows, common);
    let stride = stride(value_length);
    for (rows, span) in segments {
        if span.is_empty() {
            continue;
        }
        let weights = &tile.scores[rows.clone()];
        let out = &mut tile.sums.values[rows.start * stride..rows.end * stride];
        for (i, panel) in tile.panel.chunks_exact(BLOCK).take(stride / WIDTH).enumerate() {
            let vectors = (value_length - i * WIDTH).div_ceil(LANES).min(WIDTH / LANES);
            let panel = &panel[span.clone()];
            let span = block * BLOCK + span.start..block * BLOCK + span.end;
            let out = Output { values: &mut out[i * WIDTH..], stride, add: true };
            product(s, weights, span, panel, 0..vectors, out);
        }
    }
}

/// What the chunks of some queries add up to.
#[derive(Default)]
pub(super) struct Totals {
    sums: Sums,
    /// True where there is something.
    some: Vec<bool>,
}

impl Totals {
    pub(super) const fn bytes(value_length: usize) -> usize {
        Sums::bytes(value_length) + TILE
    }

    #[cfg(test)]
    pub(super) fn allocated(&self) -> usize {
        self.sums.allocated() + self.some.capacity()
    }

    pub(super) fn clear(&mut self, n: usize, value_length: usize) {
        self.sums.resize(n, stride(value_length));
        self.some.clear();
        self.some.resize(n, false);
    }

    /// Merges the sums of the queries that saw something.
    pub(super) fn merge(&mut self, level: Level, tile: &Tile) {
        let totals = self;
        on_level!(level, merge(totals: &mut Totals, tile: &Tile));
    }

    /// Writes the quotients.
    pub(super) fn finish(&self, level: Level, value_length: usize, out: &mut [f32]) {
        let sums = &self.sums;
        on_level!(level, finish(sums: &Sums, value_length: usize, out: &mut [f32]));
    }
}

#[inline(always)]
fn merge<S: Simd>(s: S, totals: &mut Totals, tile: &Tile) {
    let (total, part) = (&mut totals.sums, &tile.sums);
    let stride = total.values.len() / totals.some.len();
    for (i, seen) in tile.seen.iter().enumerate() {
        if seen.is_empty() {
            continue;
        }
        let range = i * stride..(i + 1) * stride;
        let (a, b) = (&mut total.values[range.clone()], &part.values[range]);
        if !totals.some[i] {
            totals.some[i] = true;
            a.copy_from_slice(b);
            total.weights[i] = part.weights[i];
            total.greatest[i] = part.greatest[i];
            continue;
        }
        let (old, new) = (total.greatest[i], part.greatest[i]);
        let greatest = if new > old { new } else { old };
        let f = exp2_of_negative(s, s.splat(old - greatest));
        let g = exp2_of_negative(s, s.splat(new - greatest));
        for (a, b) in a.as_chunks_mut::<LANES>().0.iter_mut().zip(b.as_chunks::<LANES>().0) {
            s.store(s.fma(s.load(b), g, s.mul(s.load(a), f)), a);
        }
        let weights = s.fma(s.splat(part.weights[i]), g, s.mul(s.splat(total.weights[i]), f));
        let mut lanes = [0.0; LANES];
        s.store(weights, &mut lanes);
        total.weights[i] = lanes[0];
        total.greatest[i] = greatest;
    }
}

#[inline(always)]
fn finish<S: Simd>(s: S, sums: &Sums, value_length: usize, out: &mut [f32]) {
    let values = sums.values.chunks_exact(stride(value_length));
    for ((values, weights), out) in values.zip(&sums.weights).zip(out.chunks_exact_mut(value_length)) {
        let (whole, rest) = out.as_chunks_mut::<LANES>();
        let (values, _) = values.as_chunks::<LANES>();
        for (to, v) in whole.iter_mut().zip(values) {
            s.store(s.div(s.load(v), s.splat(*weights)), to);
        }
        if !rest.is_empty() {
            let mut last = [0.0; LANES];
            s.store(s.div(s.load(&values[whole.len()]), s.splat(*weights)), &mut last);
            rest.copy_from_slice(&last[..rest.len()]);
        }
    }
}
