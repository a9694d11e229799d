//! Keys and values in four or eight bits: blocks of 32 values with a half-precision scale, as GGUF's Q4_0 and
//! Q8_0.
//!
//! A value's row is its blocks, one after the other. A page of keys is transposed like that of floats: for each
//! 32 values of the keys the scales of the page's sixteen positions, then for each value (Q8_0) or pair of values
//! i and i + 16 (Q4_0) a byte of each position.

use super::attention::PAGE;
use super::simd::f16_to_f32;

/// Values of a block.
const BLOCK: usize = 32;

/// A type of blocks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KvBlocks {
    /// Eight bits.
    Q8_0,
    /// Four bits.
    Q4_0,
}

impl KvBlocks {
    /// Bytes of a block's values.
    pub(super) const fn bytes(self) -> usize {
        match self {
            KvBlocks::Q8_0 => BLOCK,
            KvBlocks::Q4_0 => BLOCK / 2,
        }
    }

    /// Bytes of a key or value of `length` values, which is a multiple of 32.
    pub const fn row_bytes(self, length: usize) -> usize {
        length / BLOCK * (2 + self.bytes())
    }

    /// Where the scales of a page of keys are, for the group that value `i` is in.
    #[inline]
    pub(super) const fn group(self, page: usize, i: usize, length: usize) -> usize {
        page * PAGE * self.row_bytes(length) + i / BLOCK * PAGE * (2 + self.bytes())
    }

    /// Quantizes a block: the scale and the bytes. What is not finite makes the scale so.
    fn quantize(self, x: &[f32], out: &mut [u8; BLOCK]) -> half::f16 {
        let mut largest = 0.0f32;
        let mut finite = true;
        for &v in x {
            finite &= v.is_finite();
            if v.abs() > largest.abs() {
                largest = v;
            }
        }
        if !finite {
            return half::f16::NAN;
        }
        let d = match self {
            KvBlocks::Q8_0 => largest.abs() / 127.0,
            KvBlocks::Q4_0 => largest / -8.0,
        };
        let inverse = if d == 0.0 { 0.0 } else { 1.0 / d };
        match self {
            KvBlocks::Q8_0 => {
                for (out, v) in out.iter_mut().zip(x) {
                    *out = libm::roundf(v * inverse) as i8 as u8;
                }
            }
            KvBlocks::Q4_0 => {
                let nibble = |v: f32| ((v * inverse + 8.5) as u8).min(15);
                for (i, out) in out[..BLOCK / 2].iter_mut().enumerate() {
                    *out = nibble(x[i]) | nibble(x[i + BLOCK / 2]) << 4;
                }
            }
        }
        half::f16::from_f32(d)
    }

    /// Writes a key into a head's column.
    ///
    /// # Panics
    /// If its length is no multiple of 32, or there is no such slot.
    pub fn put_key(self, column: &mut [u8], slot: usize, key: &[f32]) {
        assert!(key.len().is_multiple_of(BLOCK), "blocks have 32 values");
        let (page, lane) = (slot / PAGE, slot % PAGE);
        let mut bytes = [0; BLOCK];
        for (g, x) in key.chunks_exact(BLOCK).enumerate() {
            let scale = self.quantize(x, &mut bytes);
            let at = self.group(page, g * BLOCK, key.len());
            column[at + 2 * lane..at + 2 * lane + 2].copy_from_slice(&scale.to_le_bytes());
            for (i, byte) in bytes[..self.bytes()].iter().enumerate() {
                column[at + 2 * PAGE + i * PAGE + lane] = *byte;
            }
        }
    }

    /// Reads a key from a head's column.
    ///
    /// # Panics
    /// As [`KvBlocks::put_key`].
    pub fn get_key(self, column: &[u8], slot: usize, key: &mut [f32]) {
        let (page, lane, length) = (slot / PAGE, slot % PAGE, key.len());
        for (i, v) in key.iter_mut().enumerate() {
            let at = self.group(page, i, length);
            let d = f16_to_f32(u16::from_le_bytes([column[at + 2 * lane], column[at + 2 * lane + 1]]));
            let byte = |i: usize| column[at + 2 * PAGE + i * PAGE + lane];
            *v = d * self.value(i % BLOCK, byte);
        }
    }

    /// Writes a value's row into a head's column.
    ///
    /// # Panics
    /// As [`KvBlocks::put_key`].
    pub fn put_value(self, column: &mut [u8], slot: usize, value: &[f32]) {
        assert!(value.len().is_multiple_of(BLOCK), "blocks have 32 values");
        let mut bytes = [0; BLOCK];
        let row = slot * self.row_bytes(value.len());
        for (g, x) in value.chunks_exact(BLOCK).enumerate() {
            let scale = self.quantize(x, &mut bytes);
            let at = row + g * (2 + self.bytes());
            column[at..at + 2].copy_from_slice(&scale.to_le_bytes());
            column[at + 2..at + 2 + self.bytes()].copy_from_slice(&bytes[..self.bytes()]);
        }
    }

    /// Value `i` of a block, without its scale.
    fn value(self, i: usize, byte: impl Fn(usize) -> u8) -> f32 {
        match self {
            KvBlocks::Q8_0 => f32::from(byte(i) as i8),
            KvBlocks::Q4_0 if i < BLOCK / 2 => f32::from(byte(i) & 15) - 8.0,
            KvBlocks::Q4_0 => f32::from(byte(i - BLOCK / 2) >> 4) - 8.0,
        }
    }
}

#[cfg(test)]
#[allow(clippy::disallowed_methods)]
mod tests {
    use super::super::tests::Random;
    use super::*;
    use crate::TensorType;

    #[test]
    fn rows_are_ggufs_blocks() {
        let mut random = Random(3);
        for (blocks, ty) in [(KvBlocks::Q8_0, TensorType::Q8_0), (KvBlocks::Q4_0, TensorType::Q4_0)] {
            let x = random.floats(96);
            let mut column = vec![0; 4 * blocks.row_bytes(96)];
            blocks.put_value(&mut column, 2, &x);
            let row = &column[2 * blocks.row_bytes(96)..3 * blocks.row_bytes(96)];
            let mut expected = vec![0; row.len()];
            crate::quantize::quantize(ty, &x, 96, None, &mut expected).unwrap();
            assert_eq!(row, expected, "{ty}");
        }
    }

    #[test]
    fn keys_come_back_as_their_rows() {
        let mut random = Random(4);
        for (blocks, ty) in [(KvBlocks::Q8_0, TensorType::Q8_0), (KvBlocks::Q4_0, TensorType::Q4_0)] {
            let mut column = vec![0; 3 * PAGE * blocks.row_bytes(64)];
            let keys: Vec<Vec<f32>> = (0..3 * PAGE).map(|_| random.floats(64)).collect();
            for (slot, key) in keys.iter().enumerate() {
                blocks.put_key(&mut column, slot, key);
            }
            for (slot, key) in keys.iter().enumerate() {
                let mut row = vec![0; blocks.row_bytes(64)];
                blocks.put_value(&mut row, 0, key);
                let (mut expected, mut back) = (vec![0.0; 64], vec![0.0; 64]);
                crate::dequantize::dequantize(ty, &row, &mut expected).unwrap();
                blocks.get_key(&column, slot, &mut back);
                assert_eq!(back, expected, "{ty} {slot}");
            }
            blocks.put_key(&mut column, 5, &[f32::INFINITY; 64]);
            let mut back = vec![0.0; 64];
            blocks.get_key(&column, 5, &mut back);
            assert!(back.iter().all(|v| v.is_nan()));
        }
    }
}
