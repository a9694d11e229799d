//! Stored keys and values of one head, and how they become float32.

use super::product::WIDTH;
use super::{BLOCK, Head, PAGE};
use crate::ops::kv_quantized::KvBlocks;
use crate::ops::simd::{LANES, Simd, f16_to_f32};

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

/// Vector `n` of a panel's row.
#[inline(always)]
fn lanes(row: &mut [f32; WIDTH], n: usize) -> &mut [f32; LANES] {
    &mut row.as_chunks_mut::<LANES>().0[n]
}

impl Cached<'_> {
    /// Slots there are for rows of `length` values.
    pub(super) fn slots(&self, length: usize) -> usize {
        match self {
            Cached::F16(v) => v.len() / length,
            Cached::F32(v) => v.len() / length,
            Cached::Blocks(blocks, v) => v.len() / blocks.row_bytes(length).max(1),
        }
    }

    /// True when rows of `length` values can be stored so.
    pub(super) fn holds(&self, length: usize) -> bool {
        !matches!(self, Cached::Blocks(..)) || length.is_multiple_of(32)
    }

    /// Widens the keys of a page to vector `n` of the panel's rows: row i is value i of each.
    #[inline(always)]
    fn keys<S: Simd>(&self, s: S, page: usize, length: usize, n: usize, panel: &mut [[f32; WIDTH]]) {
        let (start, rows) = (page * PAGE * length, &mut panel[..length]);
        match self {
            Cached::F16(v) => {
                let keys = v[start..start + PAGE * length].as_chunks::<LANES>().0;
                for (row, keys) in rows.iter_mut().zip(keys) {
                    s.store(s.load_f16(bytemuck::cast_ref(keys)), lanes(row, n));
                }
            }
            Cached::F32(v) => {
                let keys = v[start..start + PAGE * length].as_chunks::<LANES>().0;
                for (row, keys) in rows.iter_mut().zip(keys) {
                    *lanes(row, n) = *keys;
                }
            }
            Cached::Blocks(blocks, v) => {
                for (group, rows) in rows.chunks_exact_mut(32).enumerate() {
                    let at = blocks.group(page, group * 32, length);
                    let scales = s.load_f16(array(v, at));
                    let bytes = v[at + 2 * PAGE..][..PAGE * blocks.bytes()].as_chunks::<PAGE>().0;
                    match blocks {
                        KvBlocks::Q8_0 => {
                            for (row, bytes) in rows.iter_mut().zip(bytes) {
                                s.store(s.mul(scales, s.load_i8(bytes)), lanes(row, n));
                            }
                        }
                        KvBlocks::Q4_0 => {
                            let (first, second) = rows.split_at_mut(16);
                            let eight = s.splat(8.0);
                            for ((a, b), bytes) in first.iter_mut().zip(second).zip(bytes) {
                                s.store(s.mul(scales, s.sub(s.load_low(bytes), eight)), lanes(a, n));
                                s.store(s.mul(scales, s.sub(s.load_high(bytes), eight)), lanes(b, n));
                            }
                        }
                    }
                }
            }
        }
    }

    /// Widens the value in `slot` to row `p` of a panel for each 64 values, which are `BLOCK` rows apart.
    #[inline(always)]
    fn value<S: Simd>(&self, s: S, slot: usize, length: usize, p: usize, panel: &mut [[f32; WIDTH]]) {
        let panels = panel.chunks_exact_mut(BLOCK);
        match self {
            Cached::F16(v) => {
                let row = &v[slot * length..(slot + 1) * length];
                for (panel, row) in panels.zip(row.chunks(WIDTH)) {
                    let (whole, rest) = row.as_chunks::<LANES>();
                    for (n, values) in whole.iter().enumerate() {
                        s.store(s.load_f16(bytemuck::cast_ref(values)), lanes(&mut panel[p], n));
                    }
                    for (to, v) in panel[p][whole.len() * LANES..].iter_mut().zip(rest) {
                        *to = f16_to_f32(*v);
                    }
                }
            }
            Cached::F32(v) => {
                let row = &v[slot * length..(slot + 1) * length];
                for (panel, row) in panels.zip(row.chunks(WIDTH)) {
                    panel[p][..row.len()].copy_from_slice(row);
                }
            }
            Cached::Blocks(blocks, v) => {
                let size = 2 + blocks.bytes();
                let row = &v[slot * blocks.row_bytes(length)..(slot + 1) * blocks.row_bytes(length)];
                for (panel, pair) in panels.zip(row.chunks(2 * size)) {
                    for (i, block) in pair.chunks_exact(size).enumerate() {
                        let scale = s.splat(f16_to_f32(u16::from_le_bytes([block[0], block[1]])));
                        let (a, b) = match blocks {
                            KvBlocks::Q8_0 => {
                                (s.load_i8(array(block, 2)), s.load_i8(array(block, 2 + LANES)))
                            }
                            KvBlocks::Q4_0 => {
                                let (bytes, eight) = (array(block, 2), s.splat(8.0));
                                (s.sub(s.load_low(bytes), eight), s.sub(s.load_high(bytes), eight))
                            }
                        };
                        s.store(s.mul(scale, a), lanes(&mut panel[p], 2 * i));
                        s.store(s.mul(scale, b), lanes(&mut panel[p], 2 * i + 1));
                    }
                }
            }
        }
    }
}

impl Head<'_> {
    /// Widens the keys of the sequence's page `page` to their vector of a panel of a block.
    #[inline(always)]
    pub(super) fn widen_keys<S: Simd>(&self, s: S, page: usize, panel: &mut [[f32; WIDTH]]) {
        let n = page % (BLOCK / PAGE);
        self.keys.keys(s, self.pages[page].index(), self.key_length, n, panel);
    }

    /// Widens the value at `position` to its row of the panels of a block.
    #[inline(always)]
    pub(super) fn widen_value<S: Simd>(&self, s: S, position: usize, panel: &mut [[f32; WIDTH]]) {
        let slot = super::slot(self.pages, position);
        self.values.value(s, slot, self.value_length, position % BLOCK, panel);
    }
}
