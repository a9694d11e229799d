//! Activations as blocks of int8: what a quantized weight is multiplied with.

use super::on_level;
use super::simd::{LANES, Simd};
use crate::Level;

/// Values in a block.
pub const BLOCK: usize = 32;

/// 32 activations: `d * q[i]`, rounded to the nearest of 255 steps.
///
/// The same block serves every weight format: those with superblocks scale each 32 on their own,
/// which is finer than one scale for 256.
#[derive(Clone, Copy, Debug, Default, PartialEq, bytemuck::Zeroable)]
#[repr(C)]
pub struct ActivationBlock {
    /// The largest magnitude of the block over 127; NaN where a value is not finite.
    pub d: f32,
    /// The sums of each half of `q`.
    pub sums: [i16; 2],
    /// -127 to 127.
    pub q: [i8; BLOCK],
}

const _: () = assert!(size_of::<ActivationBlock>() == 40);

/// Below this a block is zero: the inverse of its scale would not be finite.
const TINY: f32 = 1e-36;

/// Quantizes `x` into `blocks`. A block that holds an infinity or a NaN becomes NaN as a whole, so
/// that it cannot end up as a number.
///
/// # Panics
/// If `x` is not 32 values for each block.
pub fn quantize_activations(level: Level, x: &[f32], blocks: &mut [ActivationBlock]) {
    assert_eq!(x.len(), blocks.len() * BLOCK, "32 activations make a block");
    on_level!(level, body(x: &[f32], blocks: &mut [ActivationBlock]));
}

#[inline(always)]
fn body<S: Simd>(s: S, x: &[f32], blocks: &mut [ActivationBlock]) {
    let (halves, _) = x.as_chunks::<LANES>();
    for (block, halves) in blocks.iter_mut().zip(halves.chunks_exact(2)) {
        let (first, second) = (s.load(&halves[0]), s.load(&halves[1]));
        // A NaN or an infinity has the greatest bits of all.
        let largest = f32::from_bits(s.greatest_bits(first, second));
        if !(TINY..f32::INFINITY).contains(&largest) {
            let d = if largest < TINY { 0.0 } else { f32::NAN };
            *block = ActivationBlock { d, sums: [0; 2], q: [0; BLOCK] };
            continue;
        }
        block.d = largest / 127.0;
        let inverse = s.splat(127.0 / largest);
        let [to_first, to_second] = block.q.as_chunks_mut::<LANES>().0 else { unreachable!() };
        block.sums =
            [s.store_i8(s.mul(first, inverse), to_first), s.store_i8(s.mul(second, inverse), to_second)];
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::{Random, bits};
    use super::*;

    fn run(level: Level, x: &[f32]) -> Vec<ActivationBlock> {
        let mut blocks = vec![ActivationBlock::default(); x.len() / BLOCK];
        quantize_activations(level, x, &mut blocks);
        blocks
    }

    #[test]
    fn values_are_within_half_a_step() {
        let x = Random(7).floats(320);
        for (block, x) in run(Level::Portable, &x).iter().zip(x.chunks(BLOCK)) {
            for (q, x) in block.q.iter().zip(x) {
                assert!((f32::from(*q) * block.d - x).abs() <= block.d * 0.5001);
            }
            assert!(block.q.iter().any(|q| q.abs() == 127));
            let sum: i32 = block.q.iter().map(|q| i32::from(*q)).sum();
            assert_eq!(sum, i32::from(block.sums[0]) + i32::from(block.sums[1]));
        }
    }

    #[test]
    fn what_is_not_finite_stays_so() {
        for bad in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
            for at in [0, 15, 31] {
                let mut x = vec![1.0; BLOCK];
                x[at] = bad;
                assert!(run(Level::Portable, &x)[0].d.is_nan());
            }
        }
        assert_eq!(run(Level::Portable, &[1e-40; BLOCK])[0].d, 0.0);
    }

    #[test]
    fn levels_agree() {
        let mut random = Random(3);
        for n in [0, 1, 2, 33] {
            for x in [random.floats(n * BLOCK), random.hostile(n * BLOCK)] {
                let expected = run(Level::Portable, &x);
                for level in Level::available() {
                    let blocks = run(level, &x);
                    for (a, b) in blocks.iter().zip(&expected) {
                        assert_eq!((bits(&[a.d]), a.sums, a.q), (bits(&[b.d]), b.sums, b.q));
                    }
                }
            }
        }
    }
}
