//! What the machine can do at most, measured: how fast memory is read, and how many multiply-adds a second its
//! vector units finish, of each kind. A profile is held against these figures of the same run.
//!
//! Each figure is the best of several short stretches: what disturbs a measurement only makes it slower.

use std::hint::black_box;
use std::io;
use std::sync::Barrier;
use std::time::{Duration, Instant};

use super::dots::Dots;
use super::on_level;
#[cfg(target_arch = "x86_64")]
use super::simd::Avx512;
use super::simd::{LANES, Simd};
use crate::Level;
use crate::memory::Pages;

/// The least time that is spent on a figure.
const LEAST_TIME: Duration = Duration::from_millis(200);

/// The least number of stretches that a figure is the best of.
const LEAST_STRETCHES: usize = 5;

/// Turns of the inner loop of a stretch of arithmetic: some 100 microseconds.
const TURNS: usize = 1 << 13;

/// Accumulators of an arithmetic loop: four columns for each row vector, of which there are one or four. A unit
/// that takes five cycles for a product and starts two a cycle needs ten at least; with 16 registers there is room
/// for four of two halves.
const COLUMNS: usize = 4;

/// Bytes a second at which `threads` threads read `bytes` bytes that lie in huge pages, each thread its own part
/// in order.
///
/// # Errors
/// There is no memory for them.
pub fn read_bandwidth(level: Level, bytes: usize, threads: usize) -> io::Result<f64> {
    let mut values = Pages::<[f32; LANES]>::zeroed(bytes.div_ceil(size_of::<[f32; LANES]>()).max(1))?;
    // Pages that nobody wrote to are all one page.
    values.fill([1.0; LANES]);
    let part = values.len().div_ceil(threads.max(1));
    let parts: Vec<&[[f32; LANES]]> = values.chunks(part).collect();
    let time = best(parts.len(), |i| read_loop(level, parts[i]));
    Ok(size_of_val(&*values) as f64 / time.as_secs_f64())
}

/// Multiply-adds of float32 a second of `threads` threads, with both factors in registers.
pub fn float_peak(level: Level, threads: usize) -> f64 {
    let time = best(threads, |_| float_loop(level, TURNS));
    let products = if wide(level) { 4 } else { 1 } * COLUMNS * LANES;
    (threads.max(1) * TURNS * products) as f64 / time.as_secs_f64()
}

/// Multiply-adds of BF16 a second of `threads` threads: by the instruction for pairs of them, or where the machine has
/// none, those of float32.
pub fn bf16_peak(level: Level, threads: usize) -> f64 {
    #[cfg(target_arch = "x86_64")]
    if let Some(token) = Avx512::available(level) {
        // SAFETY: the token is proof of the features.
        let time = best(threads, |_| unsafe { multiply_pairs(token, TURNS) });
        return (threads.max(1) * TURNS * 2 * 4 * COLUMNS * LANES) as f64 / time.as_secs_f64();
    }
    float_peak(level, threads)
}

/// Multiply-adds of int8 a second of `threads` threads: on vectors with weights in the first cache, as the kernels of
/// quantized weights form them; on the matrix unit with all in its registers.
pub fn int8_peak(level: Level, threads: usize) -> f64 {
    #[cfg(target_arch = "x86_64")]
    if super::available(level) == Level::Amx {
        let time = best(threads, |_| tiles::multiply(TURNS));
        return (threads.max(1) * TURNS * tiles::PRODUCTS) as f64 / time.as_secs_f64();
    }
    let lines = vec![[3u8; 64]; 64];
    let time = best(threads, |_| int8_loop(level, &lines));
    let turns = TURNS / lines.len() * lines.len();
    (threads.max(1) * turns * COLUMNS * 4 * LANES) as f64 / time.as_secs_f64()
}

fn float_loop(level: Level, turns: usize) -> f32 {
    on_level!(level, multiply_floats(turns: usize) -> f32)
}

fn int8_loop(level: Level, lines: &[[u8; 64]]) -> f32 {
    on_level!(level, multiply_bytes(lines: &[[u8; 64]]) -> f32)
}

fn read_loop(level: Level, values: &[[f32; LANES]]) -> f32 {
    on_level!(level, read(values: &[[f32; LANES]]) -> f32)
}

/// The shortest time in which all of `threads` threads do `work` once, at the same time.
fn best(threads: usize, work: impl Fn(usize) -> f32 + Sync) -> Duration {
    let threads = threads.max(1);
    let barrier = Barrier::new(threads);
    let stretch = |i: usize| {
        let mut times = Vec::new();
        let started = Instant::now();
        // Every thread does as many stretches: a number that the first to start has set.
        for _ in 0..LEAST_STRETCHES {
            barrier.wait();
            let one = Instant::now();
            black_box(work(i));
            barrier.wait();
            times.push(one.elapsed());
        }
        (started.elapsed(), times)
    };
    let mut least = Duration::MAX;
    let mut spent = Duration::ZERO;
    while spent < LEAST_TIME {
        let stretch = &stretch;
        let results = std::thread::scope(|scope| {
            let others: Vec<_> = (1..threads).map(|i| scope.spawn(move || stretch(i))).collect();
            let own = stretch(0);
            for other in others {
                // A thread that panics ends the measurement with its message.
                if let Err(panic) = other.join() {
                    std::panic::resume_unwind(panic);
                }
            }
            own
        });
        spent += results.0;
        least = results.1.into_iter().fold(least, Duration::min);
    }
    least.max(Duration::from_nanos(1))
}

#[inline(always)]
fn read<S: Simd>(s: S, values: &[[f32; LANES]]) -> f32 {
    let mut sums = [s.splat(0.0); 8];
    let mut chunks = values.chunks_exact(8);
    for chunk in &mut chunks {
        for (sum, value) in sums.iter_mut().zip(chunk) {
            *sum = s.add(*sum, s.load(value));
        }
    }
    for value in chunks.remainder() {
        sums[0] = s.add(sums[0], s.load(value));
    }
    sums.into_iter().map(|sum| s.sum(sum)).sum()
}

#[inline(always)]
fn multiply_floats<S: Simd>(s: S, turns: usize) -> f32 {
    let x: [S::F; COLUMNS] = std::array::from_fn(|i| s.splat(black_box(0.5 + i as f32)));
    match S::WIDE_TILE {
        true => multiply_tile::<S, 4>(s, x, turns),
        false => multiply_tile::<S, 1>(s, x, turns),
    }
}

#[inline(always)]
fn multiply_tile<S: Simd, const ROWS: usize>(s: S, x: [S::F; COLUMNS], turns: usize) -> f32 {
    let mut sums = [[s.splat(0.0); COLUMNS]; ROWS];
    let w = s.splat(black_box(1.0));
    for _ in 0..turns {
        for row in &mut sums {
            for (sum, x) in row.iter_mut().zip(x) {
                *sum = s.fma(w, x, *sum);
            }
        }
    }
    sums.into_iter().flatten().map(|sum| s.sum(sum)).sum()
}

/// As [`multiply_tile`], with pairs of BF16: 1 and 1, times 0.5 and 2.
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,fma,f16c,avx512f,avx512bw,avx512vl,avx512dq,avx512vnni,avx512bf16")]
fn multiply_pairs(s: Avx512<true>, turns: usize) -> f32 {
    let x = [s.splat(black_box(f32::from_bits(0x4000_3f00))); COLUMNS];
    let w = s.splat(black_box(f32::from_bits(0x3f80_3f80)));
    let mut sums = [[s.splat(0.0); COLUMNS]; 4];
    // Sums of one value would be one sum.
    for (i, sum) in sums.as_flattened_mut().iter_mut().enumerate() {
        *sum = s.splat(black_box(i as f32));
    }
    for _ in 0..turns {
        for row in &mut sums {
            for (sum, x) in row.iter_mut().zip(x) {
                *sum = s.dot_bf16(w, x, *sum);
            }
        }
    }
    let mut total = 0.0;
    for sum in sums.as_flattened() {
        total += s.sum(*sum);
    }
    total
}

#[inline(always)]
fn multiply_bytes<D: Dots>(d: D, lines: &[[u8; 64]]) -> f32 {
    let x: [i32; COLUMNS] = std::array::from_fn(|i| black_box(0x0102_0304 + i as i32));
    match D::LANES {
        LANES => multiply_lines::<D, 4, 1>(d, x, lines),
        _ => multiply_lines::<D, 1, 2>(d, x, lines),
    }
}

/// `ROWS` lines at a time, each in `PARTS` registers.
#[inline(always)]
fn multiply_lines<D: Dots, const ROWS: usize, const PARTS: usize>(
    d: D,
    x: [i32; COLUMNS],
    lines: &[[u8; 64]],
) -> f32 {
    let mut sums = [[[d.start(0); COLUMNS]; PARTS]; ROWS];
    for _ in 0..TURNS / lines.len() {
        for rows in lines.chunks_exact(ROWS) {
            for (row, line) in sums.iter_mut().zip(rows) {
                for (part, columns) in row.iter_mut().enumerate() {
                    let w = d.bytes(line, part);
                    for (sum, x) in columns.iter_mut().zip(x) {
                        *sum = d.dot(*sum, w, x);
                    }
                }
            }
        }
        // 64 lines of bytes of 3 and pairs of at most 8: far from what a sum holds.
        for sum in sums.iter_mut().flatten().flatten() {
            *sum = d.fold(*sum);
        }
    }
    let mut total = 0.0;
    let mut row = [0.0; LANES];
    for columns in sums.into_iter().flatten() {
        for sum in columns {
            row.fill(0.0);
            d.store(d.float(sum), &mut row, 0);
            total += row.iter().sum::<f32>();
        }
    }
    total
}

/// True when a level has registers for four rows of vectors.
fn wide(level: Level) -> bool {
    super::available(level) >= Level::Avx512Vnni
}

/// The matrix unit of x86-64.
#[cfg(target_arch = "x86_64")]
mod tiles {
    use std::arch::asm;

    /// Multiply-adds of a turn: four tiles of 16 by 16 sums of 64 products.
    pub(super) const PRODUCTS: usize = 4 * 16 * 16 * 64;

    /// Palette 1, and 16 rows of 64 bytes for each of eight tiles.
    #[repr(C, align(64))]
    struct Config([u8; 64]);

    static FULL: Config = {
        let mut bytes = [0; 64];
        bytes[0] = 1;
        let mut tile = 0;
        while tile < 8 {
            bytes[16 + 2 * tile] = 64;
            bytes[48 + tile] = 16;
            tile += 1;
        }
        Config(bytes)
    };

    /// Multiplies 2 by 2 tiles `turns` times; the sum of the first row of sums.
    pub(super) fn multiply(turns: usize) -> f32 {
        assert!(super::super::amx_available(), "the machine has no matrix unit");
        let bytes = [3u8; 1024];
        let mut sums = [0i32; 256];
        // SAFETY: the unit is there and may be used. Tiles of 16 rows of 64 bytes are loaded from and stored to
        // arrays of 1024 bytes; the registers are named as changed.
        unsafe {
            asm!(
                "ldtilecfg [{config}]",
                "tilezero tmm0", "tilezero tmm1", "tilezero tmm2", "tilezero tmm3",
                "tileloadd tmm4, [{bytes} + {row}]", "tileloadd tmm5, [{bytes} + {row}]",
                "tileloadd tmm6, [{bytes} + {row}]", "tileloadd tmm7, [{bytes} + {row}]",
                "2:",
                "tdpbssd tmm0, tmm4, tmm6",
                "tdpbssd tmm1, tmm4, tmm7",
                "tdpbssd tmm2, tmm5, tmm6",
                "tdpbssd tmm3, tmm5, tmm7",
                "dec {turns}",
                "jnz 2b",
                "tilestored [{sums} + {row}], tmm0",
                "tilerelease",
                config = in(reg) &raw const FULL, bytes = in(reg) bytes.as_ptr(), row = in(reg) 64usize,
                sums = in(reg) sums.as_mut_ptr(), turns = inout(reg) turns.max(1) => _,
                out("tmm0") _, out("tmm1") _, out("tmm2") _, out("tmm3") _,
                out("tmm4") _, out("tmm5") _, out("tmm6") _, out("tmm7") _,
                options(nostack),
            );
        }
        sums[..16].iter().map(|sum| *sum as f32).sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_level_has_its_limits() {
        for level in Level::available() {
            let figures = [
                read_bandwidth(level, 1 << 20, 2).unwrap(),
                float_peak(level, 1),
                bf16_peak(level, 1),
                int8_peak(level, 2),
            ];
            // Slower than the slowest machine, faster than the fastest.
            assert!(figures.iter().all(|f| f.is_finite() && *f > 1e4 && *f < 1e16), "{level:?}: {figures:?}");
        }
    }

    #[test]
    fn the_loops_do_what_is_counted() {
        for level in Level::available() {
            let values = vec![[1.0; LANES]; 11];
            let sum = read_loop(level, &values);
            assert_eq!(sum, (11 * LANES) as f32);
            // Each of the columns x = 0.5, 1.5, 2.5, 3.5 is added 10 times in every row.
            let rows = if wide(level) { 4.0 } else { 1.0 };
            let sum = float_loop(level, 10);
            assert_eq!(sum, rows * 10.0 * 8.0 * LANES as f32);
            #[cfg(target_arch = "x86_64")]
            if let Some(token) = Avx512::available(level) {
                // 16 sums begin with 0 to 15, and get 2.5 ten times.
                // SAFETY: the token is proof of the features.
                let sum = unsafe { multiply_pairs(token, 10) };
                assert_eq!(sum, (120.0 + 16.0 * 25.0) * LANES as f32);
            }
            // x = 4, 3, 2, 1 and one more in the lowest for each column: 10, 11, 12, 13 times 3.
            let lines = vec![[3u8; 64]; 64];
            let sum = int8_loop(level, &lines);
            assert_eq!(sum, (TURNS * 46 * 3 * LANES) as f32);
            #[cfg(target_arch = "x86_64")]
            if level == Level::Amx {
                // Sixteen sums of 64 products of 3 and 3, five times.
                assert_eq!(tiles::multiply(5), (16 * 64 * 9 * 5) as f32);
            }
        }
    }

    #[test]
    fn no_memory_is_an_error() {
        assert!(read_bandwidth(Level::Portable, usize::MAX / 2, 1).is_err());
    }
}
