//! Heads on their way into the cache, and what is done with a cache.

use mdl_kernels::Level;
use mdl_kernels::ops::attention::key_index;
use mdl_kernels::ops::kv_quantized::KvBlocks;
use mdl_kernels::ops::norm::{layer_norm_in_place, rms_norm_in_place, rms_scale};
use mdl_kernels::ops::rope::{Frequencies, RopeKind, rope};

use crate::args;
use crate::harness::{Buffer, both};
use crate::values::{Random, same};

/// How a cache stores its rows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kv {
    F16,
    F32,
    Blocks(KvBlocks),
}

pub const KINDS: [(Kv, &str); 4] = [
    (Kv::F16, "f16"),
    (Kv::F32, "f32"),
    (Kv::Blocks(KvBlocks::Q8_0), "q8_0"),
    (Kv::Blocks(KvBlocks::Q4_0), "q4_0"),
];

impl Kv {
    pub fn row_bytes(self, length: usize) -> usize {
        match self {
            Kv::F16 => 2 * length,
            Kv::F32 => 4 * length,
            Kv::Blocks(blocks) => blocks.row_bytes(length),
        }
    }

    pub fn put_key(self, column: &mut [u8], slot: usize, key: &[f32]) {
        for (i, v) in key.iter().enumerate() {
            let at = key_index(slot, i, key.len());
            match self {
                Kv::F16 => column[2 * at..][..2].copy_from_slice(&half::f16::from_f32(*v).to_le_bytes()),
                Kv::F32 => column[4 * at..][..4].copy_from_slice(&v.to_le_bytes()),
                Kv::Blocks(blocks) => return blocks.put_key(column, slot, key),
            }
        }
    }

    pub fn get_key(self, column: &[u8], slot: usize, key: &mut [f32]) {
        let length = key.len();
        if let Kv::Blocks(blocks) = self {
            return blocks.get_key(column, slot, key);
        }
        for (i, v) in key.iter_mut().enumerate() {
            let at = key_index(slot, i, length);
            *v = match self {
                Kv::F16 => half::f16::from_le_bytes([column[2 * at], column[2 * at + 1]]).to_f32(),
                _ => f32::from_le_bytes(column[4 * at..][..4].try_into().unwrap()),
            };
        }
    }

    pub fn put_value(self, column: &mut [u8], slot: usize, value: &[f32]) {
        let row = self.row_bytes(value.len());
        let to = &mut column[slot * row..][..row];
        match self {
            Kv::F16 => {
                let halves: Vec<u8> =
                    value.iter().flat_map(|v| half::f16::from_f32(*v).to_le_bytes()).collect();
                to.copy_from_slice(&halves);
            }
            Kv::F32 => to.copy_from_slice(bytemuck::cast_slice(value)),
            Kv::Blocks(blocks) => blocks.put_value(column, slot, value),
        }
    }
}

/// The plane of a block of the model.
#[derive(Clone)]
pub struct Plane {
    pub kv: Kv,
    pub heads: usize,
    pub key_length: usize,
    pub value_length: usize,
    pub width: usize,
    pub bytes: Vec<u8>,
}

impl Plane {
    pub fn new(kv: Kv, heads: usize, key_length: usize, value_length: usize, pages: usize) -> Plane {
        let width = pages * 16 * kv.row_bytes(key_length.max(value_length));
        Plane { kv, heads, key_length, value_length, width, bytes: vec![0; 2 * heads * width] }
    }

    pub fn column(&mut self, column: usize) -> &mut [u8] {
        &mut self.bytes[column * self.width..(column + 1) * self.width]
    }

    /// Random keys and values in every slot.
    pub fn fill(&mut self, random: &mut Random) {
        let (kv, heads) = (self.kv, self.heads);
        let slots = self.width / kv.row_bytes(self.key_length.max(self.value_length));
        for head in 0..heads {
            for slot in 0..slots {
                let (key, value) = (random.floats(self.key_length), random.floats(self.value_length));
                kv.put_key(self.column(head), slot, &key);
                kv.put_value(self.column(heads + head), slot, &value);
            }
        }
    }
}

#[derive(Clone, Copy, Debug)]
enum Norm {
    None,
    Head,
    LayerOfHead,
    All,
}

/// A head as the CPU prepares it.
fn prepared(
    head: &mut [f32],
    i: usize,
    factor: f32,
    weight: &[f32],
    norm: Norm,
    turn: Option<(RopeKind, &[f32])>,
) {
    let n = head.len();
    match norm {
        Norm::None => {}
        Norm::Head => rms_norm_in_place(Level::Portable, head, &weight[..n], 1e-6),
        Norm::LayerOfHead => {
            layer_norm_in_place(Level::Portable, head, &weight[i * n..(i + 1) * n], None, 1e-6)
        }
        Norm::All => {
            head.iter_mut().zip(&weight[i * n..]).for_each(|(v, w)| *v = *v * factor * w);
        }
    }
    if let Some((kind, table)) = turn {
        rope(Level::Portable, kind, head, table);
    }
}

#[test]
fn queries_are_prepared_and_rows_stored_as_on_the_cpu() {
    let mut random = Random(41);
    let (columns, heads, kv_heads) = (5, 4, 2);
    for (norm, turn, key_length, value_length) in [
        (Norm::None, None, 64, 64),
        (Norm::Head, Some((RopeKind::Neox, 32)), 64, 96),
        (Norm::LayerOfHead, Some((RopeKind::Norm, 16)), 96, 32),
        (Norm::All, Some((RopeKind::Neox, 16)), 64, 64),
        (Norm::Head, Some((RopeKind::Norm, 3)), 6, 5),
    ] {
        let width = heads * key_length + kv_heads * (key_length + value_length);
        let qkv = random.floats(columns * width);
        let weight = random.floats(heads * key_length);
        let pairs = turn.map_or(0, |(_, pairs)| pairs);
        let frequencies = Frequencies::new(2 * pairs, 10_000.0, |_| 1.0);
        let mut angles = vec![0.0; columns * 2 * pairs];
        for (c, table) in angles.chunks_mut((2 * pairs).max(1)).enumerate() {
            frequencies.table(7 + 3 * c as i64, table);
        }
        let table = |c: usize| turn.map(|(kind, _)| (kind, &angles[c * 2 * pairs..][..2 * pairs]));
        let keys_at = heads * key_length;
        let factor = |c: usize, at: usize, n: usize| match norm {
            Norm::All => rms_scale(Level::Portable, &qkv[c * width + at..][..n], 1e-6),
            _ => 1.0,
        };
        let temperatures: Vec<f32> =
            (0..columns).map(|c| if c == 2 { 1.0 } else { 1.0 + c as f32 / 8.0 }).collect();
        let mut queries = Vec::new();
        for c in 0..columns {
            for i in 0..heads {
                let mut head = qkv[c * width + i * key_length..][..key_length].to_vec();
                prepared(&mut head, i, factor(c, 0, keys_at), &weight, norm, table(c));
                queries.extend(head.iter().map(|v| v * temperatures[c]));
            }
        }
        let slots: Vec<i32> = vec![35, 0, 1, 2, 31];
        let qkv_buffer = Buffer::of(&qkv);
        let (slots_buffer, weights) = (Buffer::of(&slots), Buffer::of(&weight));
        let (kind, norm_kind) = (
            i32::from(turn.is_some_and(|(kind, _)| kind == RopeKind::Neox)),
            match norm {
                Norm::None | Norm::Head => 0i32,
                Norm::LayerOfHead => 1,
                Norm::All => 2,
            },
        );
        let weights = (!matches!(norm, Norm::None)).then_some(&weights);
        let angles_buffer = Buffer::of(&angles);
        let on_device_angles = turn.map(|_| &angles_buffer);
        let temperature = Buffer::of(&temperatures);
        both(|order| {
            let factors = [(0, keys_at), (keys_at, kv_heads * key_length)].map(|(at, n)| {
                let factors = Buffer::floats(columns);
                let args = args![&qkv_buffer, width, at, &factors, n, 1e-6f32];
                order.launch("rms_scales", [columns, 1, 1], 256, 0, args);
                factors
            });
            for (kv, name) in KINDS {
                if matches!(kv, Kv::Blocks(_)) && (key_length % 32 > 0 || value_length % 32 > 0) {
                    continue;
                }
                let mut plane = Plane::new(kv, kv_heads, key_length, value_length, 3);
                let room = Buffer::of(&plane.bytes);
                for c in 0..columns {
                    for h in 0..kv_heads {
                        let own = &qkv[c * width..(c + 1) * width];
                        let mut key = own[keys_at + h * key_length..][..key_length].to_vec();
                        let factor = factor(c, keys_at, kv_heads * key_length);
                        prepared(&mut key, h, factor, &weight, norm, table(c));
                        kv.put_key(plane.column(h), slots[c] as usize, &key);
                        let at = keys_at + kv_heads * key_length + h * value_length;
                        kv.put_value(
                            plane.column(kv_heads + h),
                            slots[c] as usize,
                            &own[at..at + value_length],
                        );
                    }
                }
                let out = Buffer::floats(queries.len());
                let launch = |first: usize, count: usize| {
                    let args = args![
                        &qkv_buffer,
                        width,
                        heads,
                        kv_heads,
                        key_length,
                        value_length,
                        weights,
                        weights,
                        norm_kind,
                        1e-6f32,
                        &factors[0],
                        &factors[1],
                        on_device_angles,
                        pairs,
                        kind,
                        &temperature,
                        &out,
                        &slots_buffer,
                        &room,
                        plane.width as i64,
                        first
                    ];
                    let shared = 4 * key_length.max(value_length);
                    order.launch(&format!("prepare_heads_{name}"), [count, columns, 1], 32, shared, args);
                };
                match kv {
                    Kv::F16 => {
                        launch(heads, 2 * kv_heads);
                        launch(0, heads);
                    }
                    _ => launch(0, heads + 2 * kv_heads),
                }
                same(&out.read(), &queries, &format!("queries {norm:?} {turn:?}"));
                assert!(room.read::<u8>() == plane.bytes, "{name} {norm:?}");
            }
        });
    }
}

#[test]
fn what_is_not_finite_stays_so_in_blocks() {
    both(|order| {
        for (blocks, name) in [(KvBlocks::Q8_0, "q8_0"), (KvBlocks::Q4_0, "q4_0")] {
            let mut qkv = vec![1.0f32; 96];
            qkv[37] = f32::NAN;
            qkv[70] = f32::NEG_INFINITY;
            let plane = Plane::new(Kv::Blocks(blocks), 1, 32, 32, 1);
            let room = Buffer::of(&plane.bytes);
            let (from, slots) = (Buffer::of(&qkv), Buffer::of(&[3i32]));
            let none: Option<&Buffer> = None;
            let args = args![
                &from,
                96i32,
                1i32,
                1i32,
                32i32,
                32i32,
                none,
                none,
                0i32,
                0.0f32,
                none,
                none,
                none,
                0i32,
                0i32,
                none,
                none,
                &slots,
                &room,
                plane.width as i64,
                1i32
            ];
            order.launch(&format!("prepare_heads_{name}"), [2, 1, 1], 32, 128, args);
            let bytes = room.read::<u8>();
            let mut key = vec![0.0; 32];
            blocks.get_key(&bytes[..plane.width], 3, &mut key);
            assert!(key.iter().all(|v| v.is_nan()));
            let row = plane.width + 3 * blocks.row_bytes(32);
            assert!(half::f16::from_le_bytes([bytes[row], bytes[row + 1]]).is_nan());
        }
    });
}

#[test]
fn pages_are_copied() {
    let mut random = Random(42);
    for (kv, name) in KINDS {
        let mut plane = Plane::new(kv, 2, 64, 32, 4);
        plane.fill(&mut random);
        let mut expected = plane.clone();
        let pages = [16 * kv.row_bytes(64), 16 * kv.row_bytes(32)];
        for column in 0..4 {
            let page = pages[column / 2];
            expected.column(column).copy_within(page..2 * page, 3 * page);
        }
        both(|order| {
            let room = Buffer::of(&plane.bytes);
            let args = args![&room, plane.width as i64, 2i32, pages[0], pages[1], 1i32, 3i32];
            order.launch("copy_page", [4, 1, 1], 128, 0, args);
            assert!(room.read::<u8>() == expected.bytes, "{name}");
        });
    }
}

#[test]
fn positions_shift_as_on_the_cpu() {
    let mut random = Random(43);
    let (key_length, value_length) = (64, 96);
    let moves: [(i32, i32); 5] = [(0, 32), (17, 3), (18, 4), (33, 18), (34, 19)];
    let turned_from = 1;
    let frequencies = Frequencies::new(32, 10_000.0, |_| 1.0);
    let mut table = vec![0.0; 32];
    frequencies.table(-14, &mut table);
    for (kv, name) in KINDS {
        let mut plane = Plane::new(kv, 2, key_length, value_length, 3);
        plane.fill(&mut random);
        let mut expected = plane.clone();
        let (row, mut key) = (kv.row_bytes(value_length), vec![0.0; key_length]);
        for (i, (a, b)) in moves.iter().map(|(a, b)| (*a as usize, *b as usize)).enumerate() {
            for head in 0..2 {
                kv.get_key(expected.column(head), a, &mut key);
                if i >= turned_from {
                    rope(Level::Portable, RopeKind::Norm, &mut key, &table);
                }
                kv.put_key(expected.column(head), b, &key);
                expected.column(2 + head).copy_within(a * row..(a + 1) * row, b * row);
            }
        }
        let from = Buffer::of(&moves.map(|(a, _)| a));
        let to = Buffer::of(&moves.map(|(_, b)| b));
        let angles = Buffer::of(&table);
        both(|order| {
            let room = Buffer::of(&plane.bytes);
            let args = args![
                &room,
                plane.width as i64,
                2i32,
                key_length,
                value_length,
                &from,
                &to,
                moves.len(),
                turned_from,
                &angles,
                16i32,
                0i32
            ];
            order.launch(&format!("shift_kv_{name}"), [4, 1, 1], 32, 4 * key_length, args);
            assert!(room.read::<u8>() == expected.bytes, "{name}");
        });
    }
}
