//! The shape of the KV cache.
//!
//! A block of the model has one plane: a column for each head's keys, then one for each head's
//! values. A column is cut into pages of sixteen positions, which is how [`mdl_kernels::ops::attention`] reads
//! them; a sequence has a table of its pages, and sequences that begin alike can share them.

use mdl_kernels::ops::attention::key_index;
pub use mdl_kernels::ops::attention::{PAGE, PageId, slot};
use mdl_kernels::ops::kv_quantized::KvBlocks;

use crate::families::spec::DecoderSpec;

/// How keys and values are stored.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum KvType {
    /// Half precision.
    #[default]
    F16,
    /// Float32: twice the memory, and nothing is rounded.
    F32,
    /// Blocks of 32 values of eight bits: about half of the memory of half precision.
    Q8_0,
    /// Blocks of 32 values of four bits: about a quarter.
    Q4_0,
}

impl KvType {
    /// A type by its name.
    pub fn parse(text: &str) -> Option<KvType> {
        match text {
            "f16" => Some(KvType::F16),
            "f32" => Some(KvType::F32),
            "q8_0" => Some(KvType::Q8_0),
            "q4_0" => Some(KvType::Q4_0),
            _ => None,
        }
    }

    /// Its name, as [`KvType::parse`] reads it.
    pub const fn name(self) -> &'static str {
        match self {
            KvType::F16 => "f16",
            KvType::F32 => "f32",
            KvType::Q8_0 => "q8_0",
            KvType::Q4_0 => "q4_0",
        }
    }

    /// Bytes of an element of the cache's planes; of blocks, two bytes are one.
    pub const fn bytes(self) -> usize {
        match self {
            KvType::F32 => 4,
            KvType::F16 | KvType::Q8_0 | KvType::Q4_0 => 2,
        }
    }

    /// The blocks, where the values are in some.
    pub const fn blocks(self) -> Option<KvBlocks> {
        match self {
            KvType::Q8_0 => Some(KvBlocks::Q8_0),
            KvType::Q4_0 => Some(KvBlocks::Q4_0),
            _ => None,
        }
    }

    /// Elements of a key or value of `length` values.
    pub const fn row(self, length: usize) -> usize {
        match self.blocks() {
            None => length,
            Some(blocks) => blocks.row_bytes(length) / 2,
        }
    }
}

/// The layout of one block's plane.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct KvLayout {
    /// Key/value heads.
    pub heads: usize,
    /// Values of a key.
    pub key_length: usize,
    /// Values of a value.
    pub value_length: usize,
    /// Pages there is room for.
    pub pages: usize,
    /// How they are stored.
    pub kv: KvType,
}

impl KvLayout {
    /// The layout of a model's cache of `pages` pages.
    pub fn new(spec: &DecoderSpec, pages: usize, kv: KvType) -> KvLayout {
        let attention = &spec.attention;
        KvLayout {
            heads: attention.head_count_kv,
            key_length: attention.key_length,
            value_length: attention.value_length,
            pages,
            kv,
        }
    }

    /// Columns of the plane.
    pub fn columns(&self) -> usize {
        2 * self.heads
    }

    /// Elements of a column; `None` when the number does not fit.
    pub fn width(&self) -> Option<usize> {
        let row = self.kv.row(self.key_length.max(self.value_length));
        self.pages.checked_mul(PAGE)?.checked_mul(row)
    }

    /// Bytes of a block's plane; `None` when the number does not fit.
    pub fn bytes(&self) -> Option<usize> {
        self.width()?.checked_mul(self.columns())?.checked_mul(self.kv.bytes())
    }

    /// Writes the key of a slot into a head's column.
    pub fn put_key<T: Copy>(&self, column: &mut [T], slot: usize, key: &[T]) {
        for (i, v) in key.iter().enumerate() {
            column[key_index(slot, i, self.key_length)] = *v;
        }
    }

    /// Writes the keys of slots that follow each other in one page, `[n, key_length]`: a vector of the page at a time.
    pub fn put_keys<T: Copy>(&self, column: &mut [T], slot: usize, keys: &[T]) {
        let (first, length) = (slot % PAGE, self.key_length);
        let n = keys.len() / length;
        let page = &mut column[slot / PAGE * PAGE * length..][..PAGE * length];
        for (i, lanes) in page.chunks_exact_mut(PAGE).enumerate() {
            for (lane, key) in lanes[first..first + n].iter_mut().zip(keys.chunks_exact(length)) {
                *lane = key[i];
            }
        }
    }

    /// Reads the key of a slot from a head's column.
    pub fn get_key<T: Copy>(&self, column: &[T], slot: usize, key: &mut [T]) {
        for (i, v) in key.iter_mut().enumerate() {
            *v = column[key_index(slot, i, self.key_length)];
        }
    }

    /// Writes the values of slots that follow each other in one page, `[n, value_length]`.
    pub fn put_values<T: Copy>(&self, column: &mut [T], slot: usize, values: &[T]) {
        column[slot * self.value_length..][..values.len()].copy_from_slice(values);
    }
}

/// What a full context drops: positions `keep..keep + discard`; those after move down.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Shift {
    /// Positions at the start that stay.
    pub keep: usize,
    /// Positions after them that go.
    pub discard: usize,
    /// Positions there were.
    pub len: usize,
}

impl Shift {
    /// Drops the older half of what comes after the first `num_keep` positions; `None` when there
    /// is nothing to drop.
    pub fn half(len: usize, num_keep: usize) -> Option<Shift> {
        let keep = num_keep.min(len);
        let discard = (len - keep).div_ceil(2);
        (discard > 0).then_some(Shift { keep, discard, len })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_and_values_come_back() {
        let layout = KvLayout { heads: 1, key_length: 6, value_length: 4, pages: 2, kv: KvType::F16 };
        assert_eq!(layout.width(), Some(32 * 6));
        assert_eq!(layout.bytes(), Some(2 * 32 * 6 * 2));
        let mut keys = vec![0u16; 32 * 6];
        let mut values = vec![0u16; 32 * 6];
        for p in 0..20u16 {
            layout.put_key(&mut keys, p.into(), &[p, 100 + p, 200 + p, 300 + p, 400 + p, 500 + p]);
            layout.put_values(&mut values, p.into(), &[p; 4]);
        }
        for p in 0..20u16 {
            let mut key = [0; 6];
            layout.get_key(&keys, p.into(), &mut key);
            assert_eq!(key, [p, 100 + p, 200 + p, 300 + p, 400 + p, 500 + p]);
            assert_eq!(values[usize::from(p) * 4..][..4], [p; 4]);
        }
        let mut several = keys.clone();
        several[5..10].fill(0);
        let five: Vec<u16> = (5..10).flat_map(|p| (0..6).map(move |i| 100 * i + p)).collect();
        layout.put_keys(&mut several, 5, &five);
        assert_eq!(several, keys);
        // The first value of sixteen keys is one vector.
        assert_eq!(keys[..16], std::array::from_fn::<u16, 16, _>(|i| i as u16));
    }

    #[test]
    fn a_shift_drops_the_older_half() {
        assert_eq!(Shift::half(10, 4), Some(Shift { keep: 4, discard: 3, len: 10 }));
        assert_eq!(Shift::half(5, 4), Some(Shift { keep: 4, discard: 1, len: 5 }));
        assert_eq!(Shift::half(4, 9), None);
    }

    #[test]
    fn too_large_a_context_is_no_number() {
        let layout =
            KvLayout { heads: 8, key_length: 128, value_length: 128, pages: usize::MAX, kv: KvType::F32 };
        assert_eq!(layout.bytes(), None);
    }
}
