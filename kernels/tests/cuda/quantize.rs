//! Blocks for a build: the bytes of the CPU.

use mdl_kernels::{TensorType, quantize};

use crate::args;
use crate::harness::{Buffer, both};
use crate::values::Random;

const TYPES: [TensorType; 8] = [
    TensorType::Q8_0,
    TensorType::Q4_0,
    TensorType::Q4_1,
    TensorType::Q5_0,
    TensorType::Q5_1,
    TensorType::Q4_K,
    TensorType::Q5_K,
    TensorType::Q6_K,
];

/// Superblocks of many kinds: bell-shaped of every size, flat, sparse, tiny, whole, denormal, of any finite bits.
fn values(random: &mut Random) -> Vec<f32> {
    let mut all = Vec::new();
    for kind in 0..37 {
        let size = 2f32.powi(random.below(24) as i32 - 16);
        let flat = random.float();
        for i in 0..256 {
            let v = random.float();
            all.push(match kind % 12 {
                0 => flat,
                1 if i % 9 > 0 => 0.0,
                2 => v * 1e-38,
                3 => (v * 3.0).round(),
                4 => v.abs() * size,
                5 => v.abs() * -size,
                6 => [0.0, -0.0, 1e-15, -1e-15, f32::MIN_POSITIVE, 1.0, -1.0][random.below(7)],
                7 => v * 1e3,
                8 => f32::from_bits((random.bits() as u32 & 0x8fff_ffff) | 0x2000_0000),
                _ => v * v * v * size,
            });
        }
    }
    all
}

#[test]
fn blocks_have_the_bytes_of_the_cpu() {
    let mut random = Random(81);
    let x = values(&mut random);
    let from = Buffer::of(&x);
    for ty in TYPES {
        let blocks = x.len() / ty.block_len();
        let mut expected = vec![0; blocks * ty.block_bytes()];
        quantize(ty, &x, 256, None, &mut expected).unwrap();
        let (a_block, threads) = match ty {
            TensorType::Q4_K | TensorType::Q5_K => (8, 64),
            TensorType::Q6_K => (8, 128),
            _ => (64, 64),
        };
        both(|order| {
            let out = Buffer::filled(expected.len(), 0xa5);
            let name = format!("quantize_to_{}", ty.name().to_lowercase());
            let grid = [blocks.div_ceil(a_block), 1, 1];
            order.launch(&name, grid, threads, 0, args![&from, &out, blocks]);
            let found = out.read::<u8>();
            let size = ty.block_bytes();
            for (i, (found, expected)) in found.chunks(size).zip(expected.chunks(size)).enumerate() {
                assert_eq!(found, expected, "{ty}, block {i}: {:?}", &x[i * ty.block_len()..][..8]);
            }
        });
    }
}
