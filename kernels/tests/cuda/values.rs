//! Values to test with, and how results are compared.

use mdl_kernels::Level;
use mdl_kernels::ops::activation::{ActivationBlock, BLOCK, quantize_activations};

use crate::harness::Buffer;

/// A small generator, so that a failing test fails again.
pub struct Random(pub u64);

impl Random {
    pub fn bits(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    /// Roughly normal, of deviation 1.
    pub fn float(&mut self) -> f32 {
        let sum: f32 = (0..4).map(|_| (self.bits() >> 40) as f32 / (1 << 24) as f32 - 0.5).sum();
        sum * 1.7
    }

    pub fn floats(&mut self, n: usize) -> Vec<f32> {
        (0..n).map(|_| self.float()).collect()
    }

    /// Values among which are zeros of both signs, denormals, infinities, NaN and extremes.
    pub fn hostile(&mut self, n: usize) -> Vec<f32> {
        const ODD: [f32; 12] = [
            0.0,
            -0.0,
            1e-45,
            -1e-39,
            f32::MIN_POSITIVE,
            f32::MAX,
            f32::MIN,
            f32::INFINITY,
            f32::NEG_INFINITY,
            f32::NAN,
            65504.0,
            -88.8,
        ];
        (0..n)
            .map(|_| match self.bits() % 4 {
                0 => ODD[(self.bits() % 12) as usize],
                1 => f32::from_bits(self.bits() as u32),
                _ => self.float(),
            })
            .collect()
    }

    pub fn bytes(&mut self, n: usize) -> Vec<u8> {
        (0..n).map(|_| (self.bits() >> 32) as u8).collect()
    }

    pub fn below(&mut self, n: usize) -> usize {
        (self.bits() % n as u64) as usize
    }
}

/// Bits, with every NaN the same.
pub fn bits(values: &[f32]) -> Vec<u32> {
    values.iter().map(|v| if v.is_nan() { 0x7fc0_0000 } else { v.to_bits() }).collect()
}

/// Panics unless both have the same bits, and says where they differ.
#[track_caller]
pub fn same(found: &[f32], expected: &[f32], what: &str) {
    assert_eq!(found.len(), expected.len(), "{what}: length");
    let differ = bits(found).iter().zip(bits(expected)).filter(|(a, b)| **a != *b).count();
    if let Some(i) = bits(found).iter().zip(bits(expected)).position(|(a, b)| *a != b) {
        panic!(
            "{what}: {differ} of {} differ, first {i}: {:e}, not {:e}",
            found.len(),
            found[i],
            expected[i]
        );
    }
}

/// Columns of floats as blocks of the device, and room for them.
pub struct Blocks {
    pub q: Buffer,
    pub meta: Buffer,
    columns: usize,
    blocks: usize,
}

impl Blocks {
    /// Room for columns of `n` values, a multiple of eight of them; every byte set, so that what is not written
    /// shows.
    pub fn room(columns: usize, n: usize) -> Blocks {
        let (padded, blocks) = (columns.next_multiple_of(8), n / BLOCK);
        Blocks {
            q: Buffer::filled(padded * n, 0x55),
            meta: Buffer::filled(padded * blocks * 8, 0xff),
            columns,
            blocks,
        }
    }

    /// Where a block is.
    fn place(&self, column: usize, block: usize) -> usize {
        (column / 8 * self.blocks + block) * 8 + column % 8
    }

    /// The blocks of the CPU in the device's layout.
    pub fn of(x: &[ActivationBlock], columns: usize) -> Blocks {
        let blocks = x.len() / columns;
        let room = Blocks::room(columns, blocks * BLOCK);
        let (mut q, mut meta) = (room.q.read::<u8>(), room.meta.read::<u32>());
        for (i, block) in x.iter().enumerate() {
            let place = room.place(i / blocks, i % blocks);
            for (k, v) in block.q.iter().enumerate() {
                q[place * 32 + byte_place(k)] = *v as u8;
            }
            meta[2 * place] = block.d.to_bits();
            meta[2 * place + 1] = u32::from(block.sums[0] as u16) | u32::from(block.sums[1] as u16) << 16;
        }
        Blocks { q: Buffer::of(&q), meta: Buffer::of(&meta), columns, blocks }
    }

    /// Panics unless they are those of the CPU.
    #[track_caller]
    pub fn same(&self, expected: &[ActivationBlock], what: &str) {
        let (q, meta) = (self.q.read::<u8>(), self.meta.read::<u32>());
        assert_eq!(expected.len(), self.columns * self.blocks);
        for (i, block) in expected.iter().enumerate() {
            let place = self.place(i / self.blocks, i % self.blocks);
            let values: Vec<i8> = (0..32).map(|k| q[place * 32 + byte_place(k)] as i8).collect();
            let sums = [meta[2 * place + 1] as u16 as i16, (meta[2 * place + 1] >> 16) as u16 as i16];
            same(&[f32::from_bits(meta[2 * place])], &[block.d], &format!("{what}, scale of block {i}"));
            assert_eq!((values, sums), (block.q.to_vec(), block.sums), "{what}, block {i}");
        }
    }
}

fn byte_place(i: usize) -> usize {
    (i % 16 / 4 * 2 + i / 16) * 4 + i % 4
}

/// The CPU's blocks.
pub fn quantized(x: &[f32]) -> Vec<ActivationBlock> {
    let mut blocks = vec![ActivationBlock::default(); x.len() / BLOCK];
    quantize_activations(Level::Portable, x, &mut blocks);
    blocks
}
