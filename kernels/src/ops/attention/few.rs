//! Attention of few queries that see the same positions, as when one token is written: what is stored is
//! widened in registers, each vector once for all queries, and goes to no panel.
//!
//! The sums have the order of the general way, so they are the same bits. Memory is the limit here: while the keys
//! of a page are read, the page's values are asked for, and with its values the keys of the next chunk.

use std::ops::Range;

use super::product::Row;
use super::{CHUNK, Cached, Head, PAGE};
use crate::ops::kv_quantized::KvBlocks;
use crate::ops::simd::{LANES, Simd, f16_to_f32};

/// Queries up to which nothing is gained by widening once and reading again.
pub(super) const FEW: usize = 8;

/// Values whose scales are loaded together: those of a block.
const GROUP: usize = 32;

/// Bytes of a cache line.
const LINE: usize = 64;

/// True when these queries, which see `seen` of a chunk, can be computed here.
pub(super) fn takes(head: &Head<'_>, seen: &[Range<usize>]) -> bool {
    seen.len() <= FEW && head.value_length.is_multiple_of(LANES) && seen.iter().all(|s| *s == seen[0])
}

/// Stored keys and values of one head, read vector by vector.
trait Stored: Copy {
    /// The keys of a page for up to [`GROUP`] of their values.
    type Keys: Copy;
    /// A value's row.
    type Values: Copy;

    fn keys(self, page: usize, values: Range<usize>, length: usize) -> Self::Keys;
    /// What sixteen keys are multiplied with.
    fn key_scales<S: Simd>(s: S, keys: Self::Keys) -> S::F;
    /// Value `i` of the group of sixteen keys.
    fn key<S: Simd>(s: S, keys: Self::Keys, scales: S::F, i: usize) -> S::F;
    fn values(self, slot: usize, length: usize) -> Self::Values;
    /// Vector `i` of a row.
    fn value<S: Simd>(s: S, values: Self::Values, i: usize) -> S::F;
}

#[derive(Clone, Copy)]
struct F16<'a>(&'a [u16]);

impl<'a> Stored for F16<'a> {
    type Keys = &'a [[u16; LANES]];
    type Values = &'a [[u16; LANES]];

    #[inline(always)]
    fn keys(self, page: usize, values: Range<usize>, length: usize) -> Self::Keys {
        &self.0[page * PAGE * length..][..PAGE * length].as_chunks().0[values]
    }
    #[inline(always)]
    fn key_scales<S: Simd>(s: S, _keys: Self::Keys) -> S::F {
        s.splat(1.0)
    }
    #[inline(always)]
    fn key<S: Simd>(s: S, keys: Self::Keys, _scales: S::F, i: usize) -> S::F {
        s.load_f16(bytemuck::cast_ref(&keys[i]))
    }
    #[inline(always)]
    fn values(self, slot: usize, length: usize) -> Self::Values {
        self.0[slot * length..][..length].as_chunks().0
    }
    #[inline(always)]
    fn value<S: Simd>(s: S, values: Self::Values, i: usize) -> S::F {
        s.load_f16(bytemuck::cast_ref(&values[i]))
    }
}

#[derive(Clone, Copy)]
struct F32<'a>(&'a [f32]);

impl<'a> Stored for F32<'a> {
    type Keys = &'a [[f32; LANES]];
    type Values = &'a [[f32; LANES]];

    #[inline(always)]
    fn keys(self, page: usize, values: Range<usize>, length: usize) -> Self::Keys {
        &self.0[page * PAGE * length..][..PAGE * length].as_chunks().0[values]
    }
    #[inline(always)]
    fn key_scales<S: Simd>(s: S, _keys: Self::Keys) -> S::F {
        s.splat(1.0)
    }
    #[inline(always)]
    fn key<S: Simd>(s: S, keys: Self::Keys, _scales: S::F, i: usize) -> S::F {
        s.load(&keys[i])
    }
    #[inline(always)]
    fn values(self, slot: usize, length: usize) -> Self::Values {
        self.0[slot * length..][..length].as_chunks().0
    }
    #[inline(always)]
    fn value<S: Simd>(s: S, values: Self::Values, i: usize) -> S::F {
        s.load(&values[i])
    }
}

/// Blocks: of four bits, or else of eight.
#[derive(Clone, Copy)]
struct Blocks<'a, const FOUR: bool>(&'a [u8]);

impl<const FOUR: bool> Blocks<'_, FOUR> {
    const TYPE: KvBlocks = if FOUR { KvBlocks::Q4_0 } else { KvBlocks::Q8_0 };
}

impl<'a, const FOUR: bool> Stored for Blocks<'a, FOUR> {
    /// Scales, then the bytes of sixteen keys.
    type Keys = &'a [[u8; LANES]];
    type Values = &'a [u8];

    #[inline(always)]
    fn keys(self, page: usize, values: Range<usize>, length: usize) -> Self::Keys {
        let at = Self::TYPE.group(page, values.start, length);
        self.0[at..][..(2 + Self::TYPE.bytes()) * PAGE].as_chunks().0
    }
    #[inline(always)]
    fn key_scales<S: Simd>(s: S, keys: Self::Keys) -> S::F {
        s.load_f16(bytemuck::cast_ref(&[keys[0], keys[1]]))
    }
    #[inline(always)]
    fn key<S: Simd>(s: S, keys: Self::Keys, scales: S::F, i: usize) -> S::F {
        let codes = match (FOUR, i < GROUP / 2) {
            (false, _) => s.load_i8(&keys[2 + i]),
            (true, true) => s.sub(s.load_low(&keys[2 + i]), s.splat(8.0)),
            (true, false) => s.sub(s.load_high(&keys[2 + i - GROUP / 2]), s.splat(8.0)),
        };
        s.mul(scales, codes)
    }
    #[inline(always)]
    fn values(self, slot: usize, length: usize) -> Self::Values {
        let row = Self::TYPE.row_bytes(length);
        &self.0[slot * row..][..row]
    }
    #[inline(always)]
    fn value<S: Simd>(s: S, values: Self::Values, i: usize) -> S::F {
        let size = 2 + Self::TYPE.bytes();
        let block = &values[i / 2 * size..][..size];
        let scale = s.splat(f16_to_f32(u16::from_le_bytes([block[0], block[1]])));
        let bytes = block[2..].as_chunks().0;
        let codes = match (FOUR, i % 2) {
            (false, half) => s.load_i8(&bytes[half]),
            (true, 0) => s.sub(s.load_low(&bytes[0]), s.splat(8.0)),
            (true, _) => s.sub(s.load_high(&bytes[0]), s.splat(8.0)),
        };
        s.mul(scale, codes)
    }
}

/// Calls `$f(s, stored, ...)` for what the keys or values are stored as.
macro_rules! with_stored {
    ($s:ident, $cached:expr, $f:ident($($arg:expr),*)) => {
        match $cached {
            Cached::F16(v) => $f($s, F16(v), $($arg),*),
            Cached::F32(v) => $f($s, F32(v), $($arg),*),
            Cached::Blocks(KvBlocks::Q8_0, v) => $f($s, Blocks::<false>(v), $($arg),*),
            Cached::Blocks(KvBlocks::Q4_0, v) => $f($s, Blocks::<true>(v), $($arg),*),
        }
    };
}

/// The scores of queries, `[pieces, n]`, at the pages of a chunk that hold the positions `seen`, to `scores`: `[n]`.
#[inline(always)]
pub(super) fn scores<S: Simd>(
    s: S,
    head: &Head<'_>,
    queries: &[Row],
    (chunk, seen): (usize, &Range<usize>),
    scores: &mut [Row],
) {
    with_stored!(s, head.keys, scores_of(head, queries, (chunk, seen), scores));
}

#[inline(always)]
fn scores_of<S: Simd, K: Stored>(
    s: S,
    keys: K,
    head: &Head<'_>,
    queries: &[Row],
    (chunk, seen): (usize, &Range<usize>),
    scores: &mut [Row],
) {
    let n = scores.len();
    let pages = seen.start / PAGE..seen.end.div_ceil(PAGE);
    let mut first = 0;
    macro_rules! take {
        ($q:literal) => {
            while n - first >= $q {
                let mut page = pages.start;
                // As many sums as registers hold, and enough of them to hide an addition's latency.
                if S::WIDE_TILE || $q == 1 {
                    while page + 4 <= pages.end {
                        score::<S, K, $q, 4>(s, keys, head, (queries, first), (chunk, page), scores);
                        page += 4;
                    }
                }
                while page < pages.end {
                    score::<S, K, $q, 1>(s, keys, head, (queries, first), (chunk, page), scores);
                    page += 1;
                }
                first += $q;
            }
        };
    }
    take!(4);
    take!(3);
    take!(2);
    take!(1);
}

/// The scores of `Q` queries from `first` on at `N` pages from page `page` of the chunk on.
#[inline(always)]
fn score<S: Simd, K: Stored, const Q: usize, const N: usize>(
    s: S,
    keys: K,
    head: &Head<'_>,
    (queries, first): (&[Row], usize),
    (chunk, page): (usize, usize),
    scores: &mut [Row],
) {
    let length = head.key_length;
    let pages = &head.pages[chunk * (CHUNK / PAGE) + page..][..N];
    let mut coming: [&[[u8; LINE]]; N] = [&[]; N];
    for n in 0..N {
        coming[n] = head.values.page(pages[n].index(), head.value_length);
    }
    let mut sums = [[s.splat(0.0); N]; Q];
    for start in (0..length).step_by(GROUP) {
        let count = GROUP.min(length - start);
        // Pieces of a query are as long as a chunk: a group is in one of them.
        let rows = &queries[start / CHUNK * scores.len() + first..][..Q];
        let mut groups = [keys.keys(pages[0].index(), start..start + count, length); N];
        let mut scales = [s.splat(0.0); N];
        for n in 0..N {
            groups[n] = keys.keys(pages[n].index(), start..start + count, length);
            scales[n] = K::key_scales(s, groups[n]);
        }
        for i in 0..count {
            let mut vectors = [s.splat(0.0); N];
            for n in 0..N {
                if i % 2 == 0
                    && let Some(line) = coming[n].get((start + i) / 2)
                {
                    s.prefetch(line);
                }
                vectors[n] = K::key(s, groups[n], scales[n], i);
            }
            for q in 0..Q {
                let coefficient = s.splat(rows[q][start % CHUNK + i]);
                for n in 0..N {
                    sums[q][n] = s.fma(coefficient, vectors[n], sums[q][n]);
                }
            }
        }
    }
    for q in 0..Q {
        let out = scores[first + q].as_chunks_mut::<LANES>().0;
        for n in 0..N {
            s.store(sums[q][n], &mut out[page + n]);
        }
    }
}

/// The weighted values of queries at the positions `seen` of a chunk, to `out`: `[n, stride]`.
#[inline(always)]
pub(super) fn values<S: Simd>(
    s: S,
    head: &Head<'_>,
    weights: &[Row],
    (chunk, seen): (usize, &Range<usize>),
    (out, stride): (&mut [f32], usize),
) {
    with_stored!(s, head.values, values_of(head, weights, (chunk, seen), (out, stride)));
}

#[inline(always)]
fn values_of<S: Simd, V: Stored>(
    s: S,
    values: V,
    head: &Head<'_>,
    weights: &[Row],
    (chunk, seen): (usize, &Range<usize>),
    (out, stride): (&mut [f32], usize),
) {
    let vectors = head.value_length / LANES;
    let mut first = 0;
    macro_rules! take {
        ($q:literal) => {
            while weights.len() - first >= $q {
                let weights = &weights[first..];
                let out = &mut out[first * stride..];
                let mut at = 0;
                if S::WIDE_TILE || $q == 1 {
                    while at + 4 <= vectors {
                        value::<S, V, $q, 4>(s, values, head, weights, (chunk, seen), (out, stride, at));
                        at += 4;
                    }
                }
                while at < vectors {
                    value::<S, V, $q, 1>(s, values, head, weights, (chunk, seen), (out, stride, at));
                    at += 1;
                }
                first += $q;
            }
        };
    }
    take!(4);
    take!(3);
    take!(2);
    take!(1);
}

/// `N` vectors from vector `at` on, for `Q` queries.
#[inline(always)]
#[expect(clippy::needless_range_loop, reason = "an iterator would not be inlined with the target feature")]
fn value<S: Simd, V: Stored, const Q: usize, const N: usize>(
    s: S,
    values: V,
    head: &Head<'_>,
    weights: &[Row],
    (chunk, seen): (usize, &Range<usize>),
    (out, stride, at): (&mut [f32], usize, usize),
) {
    let weights = &weights[..Q];
    let mut sums = [[s.splat(0.0); N]; Q];
    let mut position = seen.start;
    while position < seen.end {
        let page = chunk * (CHUNK / PAGE) + position / PAGE;
        let end = seen.end.min((position / PAGE + 1) * PAGE);
        let coming = match head.pages.get(page + CHUNK / PAGE) {
            Some(next) => head.keys.page(next.index(), head.key_length),
            None => &[],
        };
        let per_position = coming.len().div_ceil(PAGE);
        let slot = head.pages[page].index() * PAGE;
        for p in position..end {
            for line in coming.iter().skip(p % PAGE * per_position).take(per_position) {
                s.prefetch(line);
            }
            let row = values.values(slot + p % PAGE, head.value_length);
            let mut vectors = [s.splat(0.0); N];
            for n in 0..N {
                vectors[n] = V::value(s, row, at + n);
            }
            for q in 0..Q {
                let coefficient = s.splat(weights[q][p]);
                for n in 0..N {
                    sums[q][n] = s.fma(coefficient, vectors[n], sums[q][n]);
                }
            }
        }
        position = end;
    }
    for q in 0..Q {
        let out = out[q * stride..].as_chunks_mut::<LANES>().0;
        for n in 0..N {
            s.store(sums[q][n], &mut out[at + n]);
        }
    }
}
