//! Attention of one head's group of queries: nanoseconds, multiply-adds and bytes of cache a second.
//!
//! `cargo bench -p mdl-kernels --bench attention`; one thread, the level of `MDL_LEVEL`.

use std::ops::Range;
use std::time::Instant;

use mdl_kernels::Level;
use mdl_kernels::ops::attention::{Cached, Head, PAGE, PageId, Scratch, TILE, attention};
use mdl_kernels::ops::elementwise::to_f16;
use mdl_kernels::ops::kv_quantized::KvBlocks;

/// Values of a head.
const LENGTH: usize = 64;

/// Bytes of keys and values that a decode step reads one head after the other, so that they come from no near cache.
const READ: usize = 16 << 20;

/// Each of `count` pieces of work again and again; the sum of the shortest time of each, in seconds. A piece is
/// short, so that it is not often interrupted.
fn best(count: usize, mut run: impl FnMut(usize)) -> f64 {
    let mut best = vec![f64::MAX; count];
    let begin = Instant::now();
    while begin.elapsed().as_millis() < 400 {
        for (i, best) in best.iter_mut().enumerate() {
            let start = Instant::now();
            run(i);
            *best = best.min(start.elapsed().as_secs_f64());
        }
    }
    best.iter().sum()
}

/// A cheap row of numbers between -1 and 1.
fn floats(n: usize) -> Vec<f32> {
    let mut state = 1u32;
    let mut next = || {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (state >> 8) as f32 / (1 << 23) as f32 - 1.0
    };
    (0..n).map(|_| next()).collect()
}

fn main() {
    // Run as a test, there is nothing to measure.
    if !std::env::args().any(|a| a == "--bench") {
        return;
    }
    let level = Level::current();
    println!("{level:?}, heads of {LENGTH} values, one thread");
    println!(
        "{:6} {:5} {:>7} {:>7} {:>12} {:>8} {:>8}",
        "cache", "group", "queries", "depth", "ns", "GMAC/s", "GB/s"
    );
    let blocks = KvBlocks::Q8_0;
    for (name, bytes) in [("f16", 2 * LENGTH), ("q8_0", blocks.row_bytes(LENGTH))] {
        for group in [3, 4] {
            for (columns, depth) in [(512usize, 0usize), (512, 4096), (1, 1024), (1, 4096), (1, 8192)] {
                let slots = (depth + columns).next_multiple_of(PAGE);
                let heads = if columns == 1 { READ / (2 * bytes * slots) } else { 1 };
                let values = floats(slots * LENGTH);
                let mut halves = vec![0; values.len()];
                to_f16(level, &values, &mut halves);
                let mut quantized = vec![0; slots * blocks.row_bytes(LENGTH)];
                for (slot, value) in values.chunks_exact(LENGTH).enumerate() {
                    blocks.put_value(&mut quantized, slot, value);
                }
                let halves = halves.repeat(2 * heads);
                let quantized = quantized.repeat(2 * heads);
                let pages: Vec<PageId> = (0..(slots / PAGE) as u32).map(PageId).collect();
                let cached = |i: usize| {
                    let (n, m) = (slots * LENGTH, slots * blocks.row_bytes(LENGTH));
                    match name {
                        "f16" => Cached::F16(&halves[i * n..(i + 1) * n]),
                        _ => Cached::Blocks(blocks, &quantized[i * m..(i + 1) * m]),
                    }
                };
                let queries = floats(columns * group * LENGTH);
                let positions: Vec<Range<usize>> =
                    (0..columns * group).map(|i| 0..depth + i / group + 1).collect();
                let seen: usize = positions.iter().map(Range::len).sum();
                let mut out = vec![0.0; queries.len()];
                let mut scratch = Scratch::default();
                let columns_of_tile = TILE / group;
                let tiles = columns.div_ceil(columns_of_tile);
                let time = best(heads * tiles, |i| {
                    let head = Head {
                        keys: cached(2 * (i / tiles)),
                        values: cached(2 * (i / tiles) + 1),
                        pages: &pages,
                        key_length: LENGTH,
                        value_length: LENGTH,
                        scale: 0.125,
                        soft_cap: None,
                    };
                    let first = i % tiles * columns_of_tile * group;
                    let end = (first + columns_of_tile * group).min(positions.len());
                    let queries = &queries[first * LENGTH..end * LENGTH];
                    let out = &mut out[first * LENGTH..end * LENGTH];
                    attention(level, &head, queries, &positions[first..end], &mut scratch, out);
                }) / heads as f64;
                let tiles = positions.chunks(TILE).map(|t| t.iter().map(|p| p.end).max().unwrap_or(0));
                let read = tiles.sum::<usize>() * 2 * bytes;
                println!(
                    "{name:6} {group:5} {columns:7} {depth:7} {:12.0} {:8.1} {:8.1}",
                    time * 1e9,
                    (seen * 2 * LENGTH) as f64 / time / 1e9,
                    read as f64 / time / 1e9
                );
            }
        }
    }
}
