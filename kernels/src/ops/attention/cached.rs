//! Stored keys and values of one head, and how they become float32.

use std::ops::Range;

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

#[inline(always)]
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

// Loops are over indices: the iterators of the standard library are not always inlined into functions
// with a target feature.
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

    /// The bytes of a page, in lines of 64 bytes; what is left of the last is not among them.
    #[inline(always)]
    pub(super) fn page(&self, page: usize, length: usize) -> &[[u8; 64]] {
        let bytes: &[u8] = match self {
            Cached::F16(v) => bytemuck::cast_slice(&v[page * PAGE * length..][..PAGE * length]),
            Cached::F32(v) => bytemuck::cast_slice(&v[page * PAGE * length..][..PAGE * length]),
            Cached::Blocks(blocks, v) => {
                let size = PAGE * blocks.row_bytes(length);
                &v[page * size..][..size]
            }
        };
        bytes.as_chunks().0
    }

    /// Widens the keys of a page to vector `n` of the panel's rows: row i is value i of each.
    #[inline(always)]
    fn keys<S: Simd>(&self, s: S, page: usize, length: usize, n: usize, panel: &mut [[f32; WIDTH]]) {
        let (start, rows) = (page * PAGE * length, &mut panel[..length]);
        match self {
            Cached::F16(v) => {
                let keys = &v[start..start + PAGE * length].as_chunks::<LANES>().0[..length];
                for i in 0..length {
                    s.store(s.load_f16(bytemuck::cast_ref(&keys[i])), lanes(&mut rows[i], n));
                }
            }
            Cached::F32(v) => {
                let keys = &v[start..start + PAGE * length].as_chunks::<LANES>().0[..length];
                for i in 0..length {
                    *lanes(&mut rows[i], n) = keys[i];
                }
            }
            Cached::Blocks(blocks, v) => {
                let size = PAGE * blocks.bytes();
                let eight = s.splat(8.0);
                for group in 0..length / 32 {
                    let at = blocks.group(page, group * 32, length);
                    let scales = s.load_f16(array(v, at));
                    let bytes = v[at + 2 * PAGE..][..size].as_chunks::<PAGE>().0;
                    let rows = &mut rows[group * 32..(group + 1) * 32];
                    match blocks {
                        KvBlocks::Q8_0 => {
                            let bytes = &bytes[..32];
                            for i in 0..32 {
                                s.store(s.mul(scales, s.load_i8(&bytes[i])), lanes(&mut rows[i], n));
                            }
                        }
                        KvBlocks::Q4_0 => {
                            let bytes = &bytes[..16];
                            for i in 0..16 {
                                let (a, b) = (s.load_low(&bytes[i]), s.load_high(&bytes[i]));
                                s.store(s.mul(scales, s.sub(a, eight)), lanes(&mut rows[i], n));
                                s.store(s.mul(scales, s.sub(b, eight)), lanes(&mut rows[i + 16], n));
                            }
                        }
                    }
                }
            }
        }
    }

    /// Widens the values in `slots` to rows `first..` of panels, one for each 64 values, `BLOCK` rows apart.
    #[inline(always)]
    fn values<S: Simd>(
        &self,
        s: S,
        slots: Range<usize>,
        length: usize,
        first: usize,
        panel: &mut [[f32; WIDTH]],
    ) {
        let count = slots.len();
        /// `$load` of what is at each vector's place among the rows, to its place in the panels.
        macro_rules! whole_vectors {
            ($at:ident => $load:expr) => {
                for (i, start) in (0..length / LANES * LANES).step_by(WIDTH).enumerate() {
                    let panel = &mut panel[i * BLOCK + first..][..count];
                    let vectors = (length - start).min(WIDTH) / LANES;
                    for r in 0..count {
                        for n in 0..vectors {
                            let $at = r * length + start + n * LANES;
                            s.store($load, lanes(&mut panel[r], n));
                        }
                    }
                }
            };
        }
        let whole = length / LANES * LANES;
        match self {
            Cached::F16(v) => {
                let rows = &v[slots.start * length..slots.end * length];
                whole_vectors!(at => {
                    let Some(values) = rows[at..].first_chunk::<LANES>() else { return };
                    s.load_f16(bytemuck::cast_ref(values))
                });
                for r in 0..count {
                    for i in whole..length {
                        panel[i / WIDTH * BLOCK + first + r][i % WIDTH] = f16_to_f32(rows[r * length + i]);
                    }
                }
            }
            Cached::F32(v) => {
                let rows = &v[slots.start * length..slots.end * length];
                whole_vectors!(at => {
                    let Some(values) = rows[at..].first_chunk::<LANES>() else { return };
                    s.load(values)
                });
                for r in 0..count {
                    for i in whole..length {
                        panel[i / WIDTH * BLOCK + first + r][i % WIDTH] = rows[r * length + i];
                    }
                }
            }
            Cached::Blocks(blocks, v) => {
                let size = 2 + blocks.bytes();
                let row = length / 32 * size;
                let rows = &v[slots.start * row..slots.end * row];
                let eight = s.splat(8.0);
                for r in 0..count {
                    for i in 0..length / 32 {
                        let block = &rows[r * row + i * size..][..size];
                        let scale = s.splat(f16_to_f32(u16::from_le_bytes([block[0], block[1]])));
                        let (a, b) = match blocks {
                            KvBlocks::Q8_0 => {
                                (s.load_i8(array(block, 2)), s.load_i8(array(block, 2 + LANES)))
                            }
                            KvBlocks::Q4_0 => {
                                let bytes = array(block, 2);
                                (s.sub(s.load_low(bytes), eight), s.sub(s.load_high(bytes), eight))
                            }
                        };
                        let to = &mut panel[i / 2 * BLOCK + first + r];
                        s.store(s.mul(scale, a), lanes(to, i % 2 * 2));
                        s.store(s.mul(scale, b), lanes(to, i % 2 * 2 + 1));
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

    /// Widens the values at `positions`, of one block, to their rows of the panels of the block.
    #[inline(always)]
    pub(super) fn widen_values<S: Simd>(&self, s: S, positions: Range<usize>, panel: &mut [[f32; WIDTH]]) {
        let mut start = positions.start;
        while start < positions.end {
            let end = positions.end.min((start / PAGE + 1) * PAGE);
            let slot = self.pages[start / PAGE].index() * PAGE + start % PAGE;
            self.values.values(s, slot..slot + end - start, self.value_length, start % BLOCK, panel);
            start = end;
        }
    }
}
