//! Which instruction set the kernels use: detected once, and never a reason for other bits.

use std::sync::atomic::{AtomicU8, Ordering};

/// An instruction-set level, from the portable definition upwards.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub enum Level {
    /// Plain Rust: the definition of every kernel.
    Portable = 1,
    /// x86-64 with AVX2, FMA and F16C.
    Avx2 = 2,
    /// x86-64 with AVX-512 F, BW, VL, DQ and VNNI, besides all of [`Level::Avx2`].
    Avx512Vnni = 3,
    /// Linux on x86-64 with AMX for int8, besides all of [`Level::Avx512Vnni`].
    Amx = 4,
}

/// 0: not chosen yet; else a `Level`.
static CHOSEN: AtomicU8 = AtomicU8::new(0);

impl Level {
    /// The best level this machine has.
    pub fn detect() -> Level {
        #[cfg(target_arch = "x86_64")]
        {
            let avx2 = is_x86_feature_detected!("avx2")
                && is_x86_feature_detected!("fma")
                && is_x86_feature_detected!("f16c");
            let avx512 = is_x86_feature_detected!("avx512f")
                && is_x86_feature_detected!("avx512bw")
                && is_x86_feature_detected!("avx512vl")
                && is_x86_feature_detected!("avx512dq")
                && is_x86_feature_detected!("avx512vnni");
            if avx2 && avx512 && crate::ops::amx_available() {
                return Level::Amx;
            }
            if avx2 && avx512 {
                return Level::Avx512Vnni;
            }
            if avx2 {
                return Level::Avx2;
            }
        }
        Level::Portable
    }

    /// Its name, as `MDL_LEVEL` takes it.
    pub const fn name(self) -> &'static str {
        match self {
            Level::Portable => "portable",
            Level::Avx2 => "avx2",
            Level::Avx512Vnni => "avx512",
            Level::Amx => "amx",
        }
    }

    /// Every level this machine can run, the portable one first.
    pub fn available() -> Vec<Level> {
        let best = Level::detect();
        [Level::Portable, Level::Avx2, Level::Avx512Vnni, Level::Amx]
            .into_iter()
            .filter(|l| *l <= best)
            .collect()
    }

    /// The level in use: the best one, unless `MDL_LEVEL` (`portable`, `avx2`, `avx512`, `amx`) asks for
    /// a lower one.
    pub fn current() -> Level {
        match CHOSEN.load(Ordering::Relaxed) {
            1 => Level::Portable,
            2 => Level::Avx2,
            3 => Level::Avx512Vnni,
            4 => Level::Amx,
            _ => {
                let best = Level::detect();
                let asked = match std::env::var("MDL_LEVEL").as_deref() {
                    Ok("portable") => Level::Portable,
                    Ok("avx2") => Level::Avx2,
                    Ok("avx512") => Level::Avx512Vnni,
                    _ => best,
                };
                let level = asked.min(best);
                CHOSEN.store(level as u8, Ordering::Relaxed);
                level
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_current_level_is_available() {
        assert!(Level::available().contains(&Level::current()));
        assert_eq!(Level::available()[0], Level::Portable);
    }
}
