//! A row of any weight as float32: how an embedding is looked up.

use super::matmul::Weight;
use super::on_level;
use super::simd::{Simd, f16_to_f32};
use super::unpack::{Format, Unpacked, value, with_format};
use crate::{Level, TensorType};

/// Writes row `row` of `weight` to `out`, as the format defines its values.
///
/// # Panics
/// If there is no such row, or `out` is not one row long.
pub fn dequantize_row(level: Level, weight: &Weight<'_>, row: usize, out: &mut [f32]) {
    assert_eq!(out.len(), weight.cols(), "a row has {} values", weight.cols());
    let bytes = weight.row(row);
    let ty = weight.tensor_type();
    macro_rules! floats {
        ($bytes:ident => $value:expr) => {{
            #[inline(always)]
            fn body<S: Simd>(_: S, bytes: &[u8], out: &mut [f32]) {
                out.iter_mut().zip(bytes.as_chunks().0).for_each(|(o, $bytes)| *o = $value);
            }
            on_level!(level, body(bytes: &[u8], out: &mut [f32]))
        }};
    }
    match ty {
        TensorType::F32 => floats!(b => f32::from_le_bytes(*b)),
        TensorType::F16 => floats!(b => f16_to_f32(u16::from_le_bytes(*b))),
        TensorType::BF16 => floats!(b => f32::from_bits(u32::from(u16::from_le_bytes(*b)) << 16)),
        _ => with_format!(
            ty,
            F => {
                #[inline(always)]
                fn body<S: Simd>(_: S, bytes: &[u8], out: &mut [f32]) {
                    blocks::<F>(bytes, out);
                }
                on_level!(level, body(bytes: &[u8], out: &mut [f32]))
            },
            panic!("type {ty} is no weight")
        ),
    }
}

#[inline(always)]
fn blocks<F: Format>(bytes: &[u8], out: &mut [f32]) {
    let mut block = Unpacked::ZERO;
    for (bytes, out) in bytes.chunks_exact(F::BYTES).zip(out.chunks_exact_mut(F::BLOCK)) {
        F::unpack(bytes, &mut block);
        for (sub, out) in out.chunks_exact_mut(F::SUB).enumerate() {
            for (i, out) in out.iter_mut().enumerate() {
                let u = i32::from(value::<F>(block.codes[sub * F::SUB + i]));
                let value = block.scale(sub) * (u - F::OFFSET) as f32;
                *out = if F::MIN { value - block.min(sub) } else { value };
            }
        }
    }
}
