#![allow(clippy::disallowed_methods)]

use super::*;
use crate::ops::elementwise::to_f16;
use crate::ops::kv_quantized::KvBlocks;
use crate::ops::tests::{Random, bits};

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
        attention(level, &head, q, &self.positions[queries], &mut Scratch::default(), &mut out);
        out
    }

    fn run(&self, level: Level, half: bool, queries: Range<usize>) -> Vec<f32> {
        self.run_with(level, half, queries, &mut Scratch::default())
    }

    /// A query's parts, merged.
    fn run_parts(&self, level: Level, query: usize) -> Vec<f32> {
        let mut parts = Vec::new();
        let positions = &self.positions[query..query + 1];
        self.with_head(level, true, |head| {
            let queries = &self.queries[query * self.lengths.0..(query + 1) * self.lengths.0];
            for chunk in chunks(&positions[0]) {
                let mut out = vec![0.0; part_len(self.lengths.1)];
                part(level, head, queries, positions, chunk, &mut Scratch::default(), &mut out);
                parts.push(out);
            }
        });
        let mut out = vec![0.0; self.lengths.1];
        merge(level, parts.iter().map(|p| &p[..]), &mut Scratch::default(), &mut out);
        out
    }

    fn run_with(&self, level: Level, half: bool, queries: Range<usize>, scratch: &mut Scratch) -> Vec<f32> {
        let mut out = vec![0.0; queries.len() * self.lengths.1];
        self.with_head(level, half, |head| {
            let q = &self.queries[queries.start * self.lengths.0..queries.end * self.lengths.0];
            attention(level, head, q, &self.positions[queries.clone()], scratch, &mut out);
        });
        out
    }

    fn with_head(&self, level: Level, half: bool, f: impl FnOnce(&Head<'_>)) {
        let narrow = |x: &[f32]| {
            let mut out = vec![0; x.len()];
            to_f16(level, x, &mut out);
            out
        };
        let (keys, values) = (narrow(&self.keys), narrow(&self.values));
        f(&Head {
            keys: if half { Cached::F16(&keys) } else { Cached::F32(&self.keys) },
            values: if half { Cached::F16(&values) } else { Cached::F32(&self.values) },
            pages: &self.pages,
            key_length: self.lengths.0,
            value_length: self.lengths.1,
            scale: 0.3,
            soft_cap: self.soft_cap,
        });
    }

    fn exact(&self, query: usize) -> Vec<f64> {
        let (lk, lv) = self.lengths;
        let scores: Vec<f64> = self.positions[query]
            .clone()
            .map(|p| {
                let q = &self.queries[query * lk..];
                let dot: f64 = (0..lk)
                    .map(|i| f64::from(q[i]) * f64::from(self.keys[key_index(slot(&self.pages, p), i, lk)]))
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
                    assert_eq!(bits(&case.run(level, half, 0..6)), bits(&expected), "{level:?} {lengths:?}");
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

/// Queries that see the same are computed another way than those that do not: with one more that sees less, they
/// are the same bits.
#[test]
fn few_queries_agree_with_many() {
    let mut random = Random(22);
    for lengths in [(64, 64), (96, 160), (288, 32)] {
        for (hostile, seen) in
            [(false, 0..300), (true, 0..300), (false, 37..290), (false, 5..7), (true, 256..257)]
        {
            for n in 1..=9 {
                let mut positions = vec![seen.clone(); n];
                positions.push(seen.start..seen.start + 1);
                let mut case = Case::new(&mut random, 300, lengths, positions);
                if hostile {
                    for values in [&mut case.keys, &mut case.values] {
                        let hostile = random.hostile(values.len());
                        values.iter_mut().zip(hostile).step_by(97).for_each(|(v, h)| *v = h);
                    }
                }
                for level in Level::available() {
                    for half in [false, true] {
                        let many = case.run(level, half, 0..n + 1);
                        let few = case.run(level, half, 0..n);
                        assert_eq!(
                            bits(&few),
                            bits(&many[..few.len()]),
                            "{level:?} {lengths:?} {n} {seen:?}"
                        );
                    }
                    for blocks in [KvBlocks::Q8_0, KvBlocks::Q4_0] {
                        let many = case.run_blocks(level, blocks, 0..n + 1);
                        let few = case.run_blocks(level, blocks, 0..n);
                        assert_eq!(
                            bits(&few),
                            bits(&many[..few.len()]),
                            "{blocks:?} {level:?} {lengths:?} {n}"
                        );
                    }
                }
            }
        }
    }
}

/// Ranges that begin and end around the borders of pages, blocks and chunks.
fn borders() -> Vec<Range<usize>> {
    vec![
        0..1,
        0..256,
        0..257,
        250..262,
        255..256,
        256..257,
        191..513,
        0..600,
        1..599,
        37..531,
        512..600,
        256..512,
        63..65,
        599..600,
        300..301,
    ]
}

#[test]
fn long_contexts_and_windows_are_weighted_means() {
    let mut random = Random(31);
    for (lengths, cap) in [((64, 64), None), ((300, 40), None), ((24, 130), Some(3.0))] {
        let mut case = Case::new(&mut random, 600, lengths, borders());
        case.soft_cap = cap;
        for level in Level::available() {
            let out = case.run(level, false, 0..case.positions.len());
            for (query, out) in out.chunks(lengths.1).enumerate() {
                for (a, b) in out.iter().zip(case.exact(query)) {
                    assert!((f64::from(*a) - b).abs() < 2e-5, "{lengths:?} {query}: {a} {b}");
                }
            }
        }
    }
}

#[test]
fn long_contexts_agree_in_any_tile_and_in_parts() {
    let mut random = Random(32);
    for hostile in [false, true] {
        // More queries than a tile has, as those of a prompt are: two heads, each sees one position more.
        let mut positions = borders();
        positions.extend((0..TILE + 20).map(|i| 0..480 + i / 2));
        positions.extend((0..40).map(|i| 400 + i / 2..500 + i / 2));
        let n = positions.len();
        let mut case = Case::new(&mut random, 600, (64, 80), positions);
        if hostile {
            // Some, so that sums of finite values are left.
            for values in [&mut case.keys, &mut case.values] {
                let odd = random.hostile(values.len() / 1000);
                odd.iter().for_each(|v| values[(random.bits() % (600 * 64)) as usize] = *v);
            }
        }
        let expected = case.run(Level::Portable, true, 0..n);
        assert!(expected.iter().filter(|v| v.is_finite()).count() > expected.len() / 4);
        for level in Level::available() {
            assert_eq!(bits(&case.run(level, true, 0..n)), bits(&expected), "{level:?}");
            for q in (0..n).step_by(5) {
                let alone = case.run(level, true, q..q + 1);
                assert_eq!(bits(&alone), bits(&expected[q * 80..(q + 1) * 80]), "{level:?} {q}");
                let merged = case.run_parts(level, q);
                assert_eq!(bits(&merged), bits(&expected[q * 80..(q + 1) * 80]), "{level:?} {q}");
            }
        }
    }
}

#[test]
fn scores_far_apart_leave_the_greatest() {
    // In one chunk, across chunks, and where the scores of a chunk are minus infinity.
    let mut case = Case::new(&mut Random(33), 600, (16, 16), vec![0..600, 0..256]);
    case.keys.fill(0.0);
    case.queries.fill(1.0);
    for (position, key) in [(70, 3e3), (300, 9e3), (400, f32::MIN), (401, f32::NEG_INFINITY)] {
        case.keys[key_index(slot(&case.pages, position), 3, 16)] = key;
    }
    for position in 512..600 {
        case.keys[key_index(slot(&case.pages, position), 0, 16)] = f32::NEG_INFINITY;
    }
    let out = case.run(Level::detect(), false, 0..2);
    for (i, position) in [(0, 300), (1, 70)] {
        let value = slot(&case.pages, position) * 16;
        assert_eq!(out[i * 16..(i + 1) * 16], case.values[value..value + 16]);
    }
}

#[test]
fn scratch_is_as_large_as_said() {
    let case = Case::new(&mut Random(34), 600, (300, 130), vec![0..600; 2 * TILE]);
    let mut scratch = Scratch::default();
    case.run_with(Level::detect(), false, 0..2 * TILE, &mut scratch);
    let (tile, totals) = (scratch.tile.allocated(), scratch.totals.allocated());
    assert!(tile + totals <= Scratch::bytes(300, 130), "{tile} {totals}");
}

#[test]
#[should_panic(expected = "beyond the cache")]
fn positions_beyond_the_cache_are_refused() {
    let case = Case::new(&mut Random(1), 16, (4, 4), vec![0..17, 0..3]);
    case.run(Level::detect(), false, 0..2);
}
