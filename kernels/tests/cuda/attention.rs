//! Attention over every kind of cache, and the faster one for many queries.

use std::ops::Range;

use mdl_kernels::Level;
use mdl_kernels::ops::attention::{self, Cached, Head, PageId, Scratch};

use crate::args;
use crate::harness::{Buffer, both};
use crate::heads::{KINDS, Kv, Plane};
use crate::values::{Blocks, Random, quantized, same};

/// Queries of columns over one plane.
struct Case {
    plane: Plane,
    heads: usize,
    queries: Vec<f32>,
    seen: Vec<Range<usize>>,
    pages: Vec<PageId>,
    scale: f32,
    cap: Option<f32>,
}

impl Case {
    fn new(
        random: &mut Random,
        kv: Kv,
        (heads, kv_heads): (usize, usize),
        (key, value): (usize, usize),
        seen: &[Range<usize>],
        cap: Option<f32>,
    ) -> Case {
        let end = seen.iter().map(|s| s.end).max().unwrap();
        let count = end.div_ceil(16);
        // Pages in any order, one of them unused.
        let pages = (0..count).map(|i| PageId(((i * 7 + 3) % (count + 1)) as u32)).collect::<Vec<_>>();
        let distinct: std::collections::BTreeSet<_> = pages.iter().collect();
        let pages = match distinct.len() == count {
            true => pages,
            false => (0..count).rev().map(|i| PageId(i as u32)).collect(),
        };
        let mut plane = Plane::new(kv, kv_heads, key, value, count + 1);
        plane.fill(random);
        let queries = random.floats(seen.len() * heads * key);
        Case { plane, heads, queries, seen: seen.to_vec(), pages, scale: 0.3, cap }
    }

    /// What the CPU computes: `[columns, heads * value_length]`.
    fn expected(&self) -> Vec<f32> {
        let Plane { kv, heads: kv_heads, key_length, value_length, width, .. } = self.plane;
        let group = self.heads / kv_heads;
        let mut out = vec![0.0; self.seen.len() * self.heads * value_length];
        for (c, seen) in self.seen.iter().enumerate() {
            for h in 0..self.heads {
                let column = |i: usize| {
                    let bytes = &self.plane.bytes[i * width..(i + 1) * width];
                    match kv {
                        Kv::F16 => Cached::F16(bytemuck::cast_slice(bytes)),
                        Kv::F32 => Cached::F32(bytemuck::cast_slice(bytes)),
                        Kv::Blocks(blocks) => Cached::Blocks(blocks, bytes),
                    }
                };
                let head = Head {
                    keys: column(h / group),
                    values: column(kv_heads + h / group),
                    pages: &self.pages,
                    key_length,
                    value_length,
                    scale: self.scale,
                    soft_cap: self.cap,
                };
                let at = c * self.heads + h;
                attention::attention(
                    Level::Portable,
                    &head,
                    &self.queries[at * key_length..(at + 1) * key_length],
                    std::slice::from_ref(seen),
                    &mut Scratch::default(),
                    &mut out[at * value_length..(at + 1) * value_length],
                );
            }
        }
        out
    }

    fn seen_words(&self) -> Vec<i32> {
        self.seen.iter().flat_map(|s| [s.start as i32, s.end as i32]).collect()
    }

    /// Tables of two sequences, of which all columns are the second.
    fn tables(&self) -> (Vec<i32>, Vec<i32>) {
        let own = self.pages.iter().map(|p| p.0 as i32);
        (vec![i32::MAX; self.pages.len()].into_iter().chain(own).collect(), vec![1; self.seen.len()])
    }

    fn check(&self, name: &str, g: usize) {
        let Plane { heads: kv_heads, key_length, value_length, width, .. } = self.plane;
        let (columns, group) = (self.seen.len(), self.heads / self.plane.heads);
        let chunks = self.seen.iter().map(|s| attention::chunks(s).len()).max().unwrap();
        let expected = self.expected();
        let (tables, sequences) = self.tables();
        let buffers = [Buffer::of(&tables), Buffer::of(&sequences), Buffer::of(&self.seen_words())];
        let (q, plane) = (Buffer::of(&self.queries), Buffer::of(&self.plane.bytes));
        both(|order| {
            let blocks_of_heads = kv_heads * group.div_ceil(g);
            let parts = Buffer::floats(columns * self.heads * chunks * (value_length + 2));
            let launch = |counters: Option<&Buffer>, out: Option<&Buffer>, room: Option<&Blocks>| {
                let args = args![
                    &q,
                    self.heads,
                    kv_heads,
                    key_length,
                    value_length,
                    self.scale,
                    self.cap.unwrap_or(0.0),
                    &plane,
                    width as i64,
                    &buffers[0],
                    self.pages.len(),
                    &buffers[1],
                    &buffers[2],
                    &parts,
                    chunks,
                    counters,
                    out,
                    room.map(|r| &r.q),
                    room.map(|r| &r.meta)
                ];
                let shared = 4 * g * (key_length.next_multiple_of(4) + 256);
                let grid = [chunks, blocks_of_heads, columns];
                order.launch(&format!("attention_{name}_{g}"), grid, 128, shared, args);
            };
            launch(None, None, None);
            let what = format!("{name} {g} {} {key_length} {value_length} {:?}", self.heads, self.seen);
            let none: Option<&Buffer> = None;
            let out = Buffer::floats(expected.len());
            let args = args![&parts, &buffers[2], chunks, value_length, &out, none, none];
            order.launch("attention_merge", [self.heads, columns, 1], 128, 0, args);
            same(&out.read(), &expected, &what);
            // The last block merges.
            let counters = Buffer::filled(4 * columns * blocks_of_heads, 0);
            let out = Buffer::floats(expected.len());
            if value_length % 32 == 0 {
                let room = Blocks::room(columns, self.heads * value_length);
                launch(Some(&counters), Some(&out), Some(&room));
                room.same(&quantized(&expected), &what);
            } else {
                launch(Some(&counters), Some(&out), None);
            }
            same(&out.read(), &expected, &what);
            assert!(counters.read::<i32>().iter().all(|c| *c == 0));
        });
    }
}

/// What one column sees.
fn one(seen: Range<usize>) -> Vec<Range<usize>> {
    vec![seen]
}

#[test]
fn attention_has_the_bits_of_the_cpu() {
    let mut random = Random(51);
    for (kv, name) in KINDS {
        let mut check = |heads, lengths, seen: &[Range<usize>], cap, g| {
            Case::new(&mut random, kv, heads, lengths, seen, cap).check(name, g);
        };
        check((2, 2), (64, 32), &one(0..1), None, 1);
        check((4, 1), (32, 96), &[0..300, 3..7, 255..257], None, 4);
        check((14, 2), (64, 64), &[5..530, 256..512], Some(20.0), 8);
        check((5, 1), (96, 160), &one(17..33), Some(2.0), 4);
        check((9, 1), (64, 64), &one(0..40), None, 8);
        if !matches!(kv, Kv::Blocks(_)) {
            check((3, 1), (6, 5), &[0..20, 1..2], None, 4);
            check((2, 1), (260, 1), &one(0..20), None, 1);
        }
    }
}

#[test]
fn attention_of_many_queries_is_close_to_that_of_one() {
    let mut random = Random(52);
    for (length, heads, kv_heads, count, first, window, cap) in [
        (64, 2, 2, 3, 0, None, None),
        (64, 8, 2, 40, 30, None, Some(15.0)),
        (128, 4, 1, 20, 100, Some(40), None),
        (128, 5, 1, 13, 70, None, None),
        (80, 2, 1, 33, 5, None, None),
        (96, 3, 1, 22, 50, Some(30), None),
        (112, 2, 2, 17, 0, None, None),
        (256, 2, 1, 37, 20, Some(33), Some(50.0)),
    ] {
        let seen: Vec<Range<usize>> = (first..first + count)
            .map(|p| window.map_or(0, |w: usize| (p + 1usize).saturating_sub(w))..p + 1)
            .collect();
        let mut case = Case::new(&mut random, Kv::F16, (heads, kv_heads), (length, length), &seen, cap);
        case.scale = 1.0 / (length as f32).sqrt();
        let expected = case.expected();
        let per_tile = 64 / (heads / kv_heads);
        let tiles: Vec<i32> =
            (0..count).step_by(per_tile).flat_map(|c| [c as i32, per_tile.min(count - c) as i32]).collect();
        let (tables, sequences) = case.tables();
        let buffers = [
            Buffer::of(&case.queries),
            Buffer::of(&case.plane.bytes),
            Buffer::of(&tables),
            Buffer::of(&sequences),
            Buffer::of(&case.seen_words()),
            Buffer::of(&tiles),
        ];
        both(|order| {
            let out = Buffer::floats(expected.len());
            let [q, plane, tables, sequences, seen, tiles_buffer] = &buffers;
            let args = args![
                q,
                heads,
                kv_heads,
                case.scale,
                cap.unwrap_or(0.0),
                plane,
                case.plane.width as i64,
                tables,
                case.pages.len(),
                sequences,
                seen,
                tiles_buffer,
                &out
            ];
            let grid = [tiles.len() / 2, kv_heads, 1];
            let shared = if length > 128 { 96 << 10 } else { 512 * length };
            order.launch(&format!("attention_prefill_{length}"), grid, 128, shared, args);
            let found = out.read::<f32>();
            // Queries and weights are rounded to half precision: relative errors of 2^-11 each in values of size 1.
            let worst = found.iter().zip(&expected).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
            assert!(found.iter().all(|v| v.is_finite()) && worst < 4e-3, "{length} {heads}: {worst}");
        });
    }
}
