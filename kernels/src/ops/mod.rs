//! The operations of inference.
//!
//! Every operation is written once, over sixteen lanes of float32 (`simd::Simd`), and compiled
//! for each [`Level`]. The lanes, the order of every sum and each fused multiply-add are part of the
//! definition, so all levels give the same bits; so does any partition of the output and any
//! number of columns beside the one that is computed. (A NaN stays a NaN; its payload may differ.)
//!
//! | file | what it holds |
//! |---|---|
//! | [`activation`] | activations as blocks of int8, the other side of a quantized weight |
//! | [`matmul`] | weights times activations |
//! | [`kv_quantized`] | keys and values in four or eight bits |
//! | [`norm`] | root-mean-square norm, layer norm |
//! | [`rope`] | rotary position embedding |
//! | [`attention`] | attention over the KV cache |
//! | [`elementwise`] | sums, activations, scaling, float16 |
//! | [`limits`] | what the machine can do at most, measured |
//! | [`row`] | a row of any weight as float32 |

pub mod activation;
pub mod attention;
mod dots;
#[cfg(target_arch = "x86_64")]
mod amx;
pub mod elementwise;
pub mod limits;
pub mod matmul;
pub mod kv_quantized;
mod matmul_float;
pub mod norm;
mod packed;
mod panel;
pub mod rope;
pub mod row;
mod simd;
mod spread;
mod unpack;
mod vectors;

use std::sync::OnceLock;

use crate::Level;

/// `level`, or the best one below it that this machine has.
fn available(level: Level) -> Level {
    static BEST: OnceLock<Level> = OnceLock::new();
    level.min(*BEST.get_or_init(Level::detect))
}

#[cfg(target_arch = "x86_64")]
pub(crate) use amx::available as amx_available;

/// Calls `$body(token, args...)`, compiled for the instruction set of `$level`.
macro_rules! on_level {
    ($level:expr, $body:ident($($arg:ident: $ty:ty),* $(,)?) $(-> $ret:ty)?) => {{
        #[cfg(target_arch = "x86_64")]
        {
            use $crate::ops::simd::{Avx2, Avx512};
            #[target_feature(enable = "avx2,fma,f16c")]
            fn avx2(token: Avx2, $($arg: $ty),*) $(-> $ret)? { $body(token, $($arg),*) }
            #[target_feature(enable = "avx2,fma,f16c,avx512f,avx512bw,avx512vl,avx512dq,avx512vnni")]
            fn avx512(token: Avx512, $($arg: $ty),*) $(-> $ret)? { $body(token, $($arg),*) }
            match $crate::ops::available($level) {
                $crate::Level::Portable => $body($crate::ops::simd::Portable, $($arg),*),
                // SAFETY: `available` returned the level, so the machine has its features.
                $crate::Level::Avx2 => unsafe { avx2(Avx2::assume(), $($arg),*) },
                // SAFETY: as above.
                $crate::Level::Avx512Vnni | $crate::Level::Amx => unsafe { avx512(Avx512::assume(), $($arg),*) },
            }
        }
        #[cfg(not(target_arch = "x86_64"))]
        {
            let _ = $level;
            $body($crate::ops::simd::Portable, $($arg),*)
        }
    }};
}
use on_level;

#[cfg(test)]
pub(crate) mod tests {
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
    }

    /// Bits, with every NaN the same.
    pub fn bits(values: &[f32]) -> Vec<u32> {
        values.iter().map(|v| if v.is_nan() { 0x7fc0_0000 } else { v.to_bits() }).collect()
    }
}
