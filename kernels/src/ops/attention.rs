//! Attention of a group of query heads over one key/value head.
//!
//! Keys and values are stored in pages of sixteen positions, which can lie anywhere: a sequence has a table
//! of its pages. Keys are transposed within a page: `[pages, key_length, 16]`, so a lane is a position and a
//! score is one sum over the key's values, in order. Values are stored as they come: `[pages, 16, value_length]`.
//!
//! For a query with positions `start..end`: scores `s[p] = scale * (q . k[p])` (capped where asked), their
//! maximum `m`, weights `w[p] = e^(s[p] - m)`, the sum `z` of the weights over sixteen lanes from
//! `start` on, and `out = (sum over p of w[p] * v[p], in order) / z`.

use std::ops::Range;

use super::elementwise::exp;
use super::kv_quantized::KvBlocks;
use super::on_level;
use super::simd::{LANES, Simd, f16_to_f32};
use crate::Level;

/// Positions of a page.
pub const PAGE: usize = LANES;

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

/// Stored keys or values of one head.
#[derive(Clone, Copy)]
pub enum Cached<'a> {
    /// Half precision.
    F16(&'a [u16]),
    /// Float32.
    F32(&'a [f32]),
    /// Blocks.
    Blocks(KvBlocks, &'a [u8]),
}

fn array<const N: usize>(bytes: &[u8], at: usize) -> &[u8; N] {
    match bytes[at..].first_chunk() {
        Some(chunk) => chunk,
        None => panic!("{N} bytes from {at} are beyond the cache"),
    }
}

impl Cached<'_> {
    /// Slots there are for rows of `length` values.
    fn slots(&self, length: usize) -> usize {
        match self {
            Cached::F16(v) => v.len() / length,
            Cached::F32(v) => v.len() / length,
            Cached::Blocks(blocks, v) => v.len() / blocks.row_bytes(length).max(1),
        }
    }

    /// Value `i` of the sixteen keys of a page.
    #[inline(always)]
    fn keys<S: Simd>(&self, s: S, page: usize, i: usize, length: usize) -> S::F {
        match self {
            Cached::Blocks(blocks, v) => {
                let at = blocks.group(page, i, length);
                let scale = s.load_f16(array(v, at));
                let i = i % 32;
                match blocks {
                    KvBlocks::Q8_0 => s.mul(scale, s.load_i8(array(v, at + 2 * PAGE + i * PAGE))),
                    KvBlocks::Q4_0 => {
                        let pair: &[u8; 16] = array(v, at + 2 * PAGE + i % 16 * PAGE);
                        let q = if i < 16 { s.load_low(pair) } else { s.load_high(pair) };
                        s.mul(scale, s.sub(q, s.splat(8.0)))
                    }
                }
            }
            _ => self.load(s, page * length * PAGE + i * PAGE),
        }
    }

    /// Sixteen values from `at` of the row in `slot`.
    #[inline(always)]
    fn values<S: Simd>(&self, s: S, slot: usize, at: usize, length: usize) -> S::F {
        match self {
            Cached::Blocks(blocks, v) => {
                let start = slot * blocks.row_bytes(length) + at / 32 * (2 + blocks.bytes());
                let d = f16_to_f32(u16::from_le_bytes([v[start], v[start + 1]]));
                let q = match blocks {
                    KvBlocks::Q8_0 => s.load_i8(array(v, start + 2 + at % 32)),
                    KvBlocks::Q4_0 if at % 32 < 16 => s.sub(s.load_low(array(v, start + 2)), s.splat(8.0)),
                    KvBlocks::Q4_0 => s.sub(s.load_high(array(v, start + 2)), s.splat(8.0)),
                };
                s.mul(s.splat(d), q)
            }
            _ => self.load(s, slot * length + at),
        }
    }

    /// Sixteen floats from `at`.
    #[inline(always)]
    fn load<S: Simd>(&self, s: S, at: usize) -> S::F {
        match self {
            Cached::F16(v) => {
                let mut chunk = [0u16; LANES];
                chunk.copy_from_slice(&v[at..at + LANES]);
                s.load_f16(bytemuck::cast_ref(&chunk))
            }
            Cached::F32(v) => {
                let mut chunk = [0f32; LANES];
                chunk.copy_from_slice(&v[at..at + LANES]);
                s.load(&chunk)
            }
            Cached::Blocks(..) => s.splat(f32::NAN),
        }
    }

    /// The float at `at`; rows of blocks are whole vectors and are not read so.
    fn get(&self, at: usize) -> f32 {
        match self {
            Cached::F16(v) => f16_to_f32(v[at]),
            Cached::F32(v) => v[at],
            Cached::Blocks(..) => f32::NAN,
        }
    }
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

/// Floats of scratch that [`attention`] takes for `queries` queries over `context` positions.
pub const fn scratch(queries: usize, context: usize) -> usize {
    queries * context.next_multiple_of(LANES)
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
    scores: &mut Vec<f32>,
    out: &mut [f32],
) {
    let n = positions.len();
    assert!(head.key_length > 0 && head.value_length > 0, "heads have values");
    assert_eq!(queries.len(), n * head.key_length, "a query has key_length values");
    let whole = |cached: &Cached<'_>, length: usize| match cached {
        Cached::Blocks(..) => length.is_multiple_of(32),
        _ => true,
    };
    assert!(
        whole(&head.keys, head.key_length) && whole(&head.values, head.value_length),
        "rows of blocks are whole blocks"
    );
    assert_eq!(out.len(), n * head.value_length, "an output has value_length values");
    let end = positions.iter().map(|p| p.end).max().unwrap_or(0);
    assert!(positions.iter().all(|p| p.start < p.end), "a query sees a position");
    let pages = head.pages.get(..end.div_ceil(PAGE)).unwrap_or(&[]);
    let last = pages.iter().map(|p| p.index() + 1).max();
    assert!(
        last.is_some_and(|n| {
            n * PAGE <= head.keys.slots(head.key_length) && n * PAGE <= head.values.slots(head.value_length)
        }),
        "position {end} is beyond the cache"
    );
    scores.clear();
    scores.resize(scratch(n, end), 0.0);
    on_level!(level, body(head: &Head<'_>, queries: &[f32], positions: &[Range<usize>], scores: &mut [f32], out: &mut [f32]));
}

#[inline(always)]
fn body<S: Simd>(
    s: S,
    head: &Head<'_>,
    queries: &[f32],
    positions: &[Range<usize>],
    scores: &mut [f32],
    out: &mut [f32],
) {
    let n = positions.len();
    let start = positions.iter().map(|p| p.start).min().unwrap_or(0);
    let end = positions.iter().map(|p| p.end).max().unwrap_or(0);
    let stride = scores.len().checked_div(n).unwrap_or(0);
    // Four queries share each load of a block of keys or a row of values.
    let mut first = 0;
    while first < n {
        if first + 4 <= n {
            query_scores::<S, 4>(
                s,
                head,
                &queries[first * head.key_length..],
                start..end,
                &mut scores[first * stride..],
                stride,
            );
            first += 4;
        } else {
            query_scores::<S, 1>(
                s,
                head,
                &queries[first * head.key_length..],
                start..end,
                &mut scores[first * stride..],
                stride,
            );
            first += 1;
        }
    }
    let mut first = 0;
    while first < n {
        let query = &positions[first];
        let row = &mut scores[first * stride..first * stride + query.end];
        let sum = softmax(s, &mut row[query.start..]);
        let out = &mut out[first * head.value_length..(first + 1) * head.value_length];
        weighted_sum(s, head, row, query.start, out);
        out.iter_mut().for_each(|v| *v /= sum);
        first += 1;
    }
}

/// Scores of `Q` queries at the positions of `range`; at others the scores mean nothing.
#[inline(always)]
fn query_scores<S: Simd, const Q: usize>(
    s: S,
    head: &Head<'_>,
    queries: &[f32],
    range: Range<usize>,
    scores: &mut [f32],
    stride: usize,
) {
    let length = head.key_length;
    let queries: [&[f32]; Q] = std::array::from_fn(|i| &queries[i * length..(i + 1) * length]);
    for block in range.start / PAGE..range.end.div_ceil(PAGE) {
        let mut sums = [s.splat(0.0); Q];
        let page = head.pages[block].index();
        for i in 0..length {
            let keys = head.keys.keys(s, page, i, length);
            for (sum, query) in sums.iter_mut().zip(&queries) {
                *sum = s.fma(keys, s.splat(query[i]), *sum);
            }
        }
        for (q, sum) in sums.into_iter().enumerate() {
            let mut row = [0.0; LANES];
            let mut v = s.mul(sum, s.splat(head.scale));
            if let Some(cap) = head.soft_cap {
                let e = exp(s, s.mul(s.div(v, s.splat(cap)), s.splat(2.0)));
                v = s.sub(s.splat(cap), s.div(s.splat(2.0 * cap), s.add(s.splat(1.0), e)));
            }
            s.store(v, &mut row);
            let at = q * stride + block * PAGE;
            scores[at..at + LANES].copy_from_slice(&row);
        }
    }
}

/// `x[i] = e^(x[i] - max)`; returns their sum.
#[inline(always)]
fn softmax<S: Simd>(s: S, x: &mut [f32]) -> f32 {
    let (chunks, rest) = x.as_chunks_mut::<LANES>();
    let mut largest = s.splat(f32::NEG_INFINITY);
    for chunk in chunks.iter() {
        largest = s.max(s.load(chunk), largest);
    }
    let mut last = [f32::NEG_INFINITY; LANES];
    last[..rest.len()].copy_from_slice(rest);
    largest = s.max(s.load(&last), largest);
    let largest = s.splat(s.greatest(largest));
    let mut sum = s.splat(0.0);
    for chunk in chunks {
        let v = exp(s, s.sub(s.load(chunk), largest));
        sum = s.add(sum, v);
        s.store(v, chunk);
    }
    if !rest.is_empty() {
        let v = exp(s, s.sub(s.load(&last), largest));
        sum = s.add(sum, v);
        s.store(v, &mut last);
        rest.copy_from_slice(&last[..rest.len()]);
    }
    s.sum(sum)
}

/// `out = sum over p from start of weights[p] * values[p]`.
#[inline(always)]
fn weighted_sum<S: Simd>(s: S, head: &Head<'_>, weights: &[f32], start: usize, out: &mut [f32]) {
    let length = head.value_length;
    let whole = length / LANES * LANES;
    let mut at = 0;
    macro_rules! lanes_of {
        ($n:literal) => {
            while at + $n * LANES <= whole {
                let mut sums = [s.splat(0.0); $n];
                for (block, weights) in weights.chunks(PAGE).enumerate().skip(start / PAGE) {
                    let first = head.pages[block].index() * PAGE;
                    let skip = start.saturating_sub(block * PAGE);
                    for (p, weight) in weights.iter().enumerate().skip(skip) {
                        let weight = s.splat(*weight);
                        for i in 0..$n {
                            let v = head.values.values(s, first + p, at + i * LANES, length);
                            sums[i] = s.fma(weight, v, sums[i]);
                        }
                    }
                }
                for (sum, out) in sums.into_iter().zip(out[at..].as_chunks_mut::<LANES>().0) {
                    s.store(sum, out);
                }
                at += $n * LANES;
            }
        };
    }
    lanes_of!(4);
    lanes_of!(1);
    for (i, out) in out.iter_mut().enumerate().skip(whole) {
        *out = 0.0;
        for (p, weight) in weights.iter().enumerate().skip(start) {
            *out = weight.mul_add(head.values.get(slot(head.pages, p) * length + i), *out);
        }
    }
}

#[cfg(test)]
#[allow(clippy::disallowed_methods)]
mod tests {
    use super::super::elementwise::to_f16;
    use super::super::tests::{Random, bits};
    use super::*;

    struct Case {
        pages: Vec<PageId>,
        keys: Vec<f32>,
        values: Vec<f32>,
        queries: Vec<f32>,
        positions: Vec<Range<usize>>,
        lengths: (usize, usize),
        soft_cap: Option<f32>,
    }

    impl Case {
        fn new(
            random: &mut Random,
            context: usize,
            lengths: (usize, usize),
            positions: Vec<Range<usize>>,
        ) -> Case {
            // Pages in any order, with one that belongs to nobody.
            let n = context.div_ceil(PAGE);
            let mut pages: Vec<PageId> = (0..=n as u32).map(PageId).collect();
            for i in (1..pages.len()).rev() {
                pages.swap(i, (random.bits() % (i as u64 + 1)) as usize);
            }
            pages.truncate(n);
            Case {
                pages,
                keys: random.floats((n + 1) * PAGE * lengths.0),
                values: random.floats((n + 1) * PAGE * lengths.1),
                queries: random.floats(positions.len() * lengths.0),
                positions,
                lengths,
                soft_cap: None,
            }
        }

        /// The same in blocks.
        fn run_blocks(&self, level: Level, blocks: KvBlocks, queries: Range<usize>) -> Vec<f32> {
            let (lk, lv) = self.lengths;
            let slots = self.keys.len() / lk;
            let mut keys = vec![0; slots * blocks.row_bytes(lk)];
            let mut values = vec![0; slots * blocks.row_bytes(lv)];
            for slot in 0..slots {
                let key: Vec<f32> = (0..lk).map(|i| self.keys[key_index(slot, i, lk)]).collect();
                blocks.put_key(&mut keys, slot, &key);
                blocks.put_value(&mut values, slot, &self.values[slot * lv..(slot + 1) * lv]);
            }
            let head = Head {
                keys: Cached::Blocks(blocks, &keys),
                values: Cached::Blocks(blocks, &values),
                pages: &self.pages,
                key_length: lk,
                value_length: lv,
                scale: 0.3,
                soft_cap: self.soft_cap,
            };
            let mut out = vec![0.0; queries.len() * lv];
            let q = &self.queries[queries.start * lk..queries.end * lk];
            attention(level, &head, q, &self.positions[queries], &mut Vec::new(), &mut out);
            out
        }

        fn run(&self, level: Level, half: bool, queries: Range<usize>) -> Vec<f32> {
            let narrow = |x: &[f32]| {
                let mut out = vec![0; x.len()];
                to_f16(level, x, &mut out);
                out
            };
            let (keys, values) = (narrow(&self.keys), narrow(&self.values));
            let head = Head {
                keys: if half { Cached::F16(&keys) } else { Cached::F32(&self.keys) },
                values: if half { Cached::F16(&values) } else { Cached::F32(&self.values) },
                pages: &self.pages,
                key_length: self.lengths.0,
                value_length: self.lengths.1,
                scale: 0.3,
                soft_cap: self.soft_cap,
            };
            let mut out = vec![0.0; queries.len() * self.lengths.1];
            let q = &self.queries[queries.start * self.lengths.0..queries.end * self.lengths.0];
            attention(level, &head, q, &self.positions[queries], &mut Vec::new(), &mut out);
            out
        }

        fn exact(&self, query: usize) -> Vec<f64> {
            let (lk, lv) = self.lengths;
            let scores: Vec<f64> = self.positions[query]
                .clone()
                .map(|p| {
                    let q = &self.queries[query * lk..];
                    let dot: f64 = (0..lk)
                        .map(|i| {
                            f64::from(q[i]) * f64::from(self.keys[key_index(slot(&self.pages, p), i, lk)])
                        })
                        .sum();
                    let s = dot * f64::from(0.3f32);
                    self.soft_cap.map_or(s, |c| f64::from(c) * (s / f64::from(c)).tanh()).exp()
                })
                .collect();
            let sum: f64 = scores.iter().sum();
            (0..lv)
                .map(|i| {
                    let terms = self.positions[query].clone().zip(&scores);
                    terms.map(|(p, w)| w * f64::from(self.values[slot(&self.pages, p) * lv + i])).sum::<f64>()
                        / sum
                })
                .collect()
        }
    }

    #[test]
    fn attention_is_the_weighted_mean() {
        let mut random = Random(12);
        for cap in [None, Some(5.0)] {
            let mut case = Case::new(&mut random, 50, (24, 40), vec![0..1, 0..50, 20..37, 49..50, 3..33]);
            case.soft_cap = cap;
            let out = case.run(Level::Portable, false, 0..5);
            for (query, out) in out.chunks(40).enumerate() {
                for (a, b) in out.iter().zip(case.exact(query)) {
                    assert!((f64::from(*a) - b).abs() < 1e-5, "{query}: {a} {b}");
                }
            }
        }
    }

    #[test]
    fn levels_and_partitions_agree() {
        let mut random = Random(13);
        for lengths in [(1, 1), (16, 16), (32, 33), (64, 64), (80, 100)] {
            for hostile in [false, true] {
                let positions = vec![0..1, 0..15, 0..16, 0..17, 4..70, 69..70];
                let mut case = Case::new(&mut random, 70, lengths, positions);
                if hostile {
                    case.queries = random.hostile(case.queries.len());
                    case.values = random.hostile(case.values.len());
                }
                for half in [false, true] {
                    let expected = case.run(Level::Portable, half, 0..6);
                    for level in Level::available() {
                        assert_eq!(
                            bits(&case.run(level, half, 0..6)),
                            bits(&expected),
                            "{level:?} {lengths:?}"
                        );
                        for q in 0..6 {
                            let alone = case.run(level, half, q..q + 1);
                            assert_eq!(bits(&alone), bits(&expected[q * lengths.1..(q + 1) * lengths.1]));
                        }
                    }
                }
            }
        }
    }

    #[test]
    fn blocks_are_close_and_alike_on_every_level() {
        let mut random = Random(21);
        for (blocks, close) in [(KvBlocks::Q8_0, 0.03), (KvBlocks::Q4_0, 0.4)] {
            for hostile in [false, true] {
                let positions = vec![0..1, 0..16, 3..70, 69..70, 0..33];
                let mut case = Case::new(&mut random, 70, (64, 96), positions);
                if hostile {
                    case.values = random.hostile(case.values.len());
                }
                let expected = case.run_blocks(Level::Portable, blocks, 0..5);
                for level in Level::available() {
                    assert_eq!(
                        bits(&case.run_blocks(level, blocks, 0..5)),
                        bits(&expected),
                        "{blocks:?} {level:?}"
                    );
                    let alone = case.run_blocks(level, blocks, 2..3);
                    assert_eq!(bits(&alone), bits(&expected[2 * 96..3 * 96]));
                }
                if !hostile {
                    for (a, b) in expected.iter().zip(case.run(Level::Portable, false, 0..5)) {
                        assert!((a - b).abs() < close, "{blocks:?}: {a} {b}");
                    }
                }
            }
        }
    }

    #[test]
    #[should_panic(expected = "beyond the cache")]
    fn positions_beyond_the_cache_are_refused() {
        let case = Case::new(&mut Random(1), 16, (4, 4), vec![0..17, 0..3]);
        case.run(Level::detect(), false, 0..2);
    }
}
