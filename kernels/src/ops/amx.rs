//! Integer products on the matrix unit of x86-64 (AMX): sixteen rows times sixteen columns times 32 values in one
//! instruction.
//!
//! The integers are exact, and what follows is the arithmetic of [`super::panel`], so the bits are the same.
//! Rust has no stable intrinsics for these instructions; they are written as assembly.

use std::arch::asm;
use std::arch::x86_64::*;
use std::marker::PhantomData;
use std::ops::Range;

use super::activation::{ActivationBlock, BLOCK as UNIT};
use super::packed::{Line, PackedPanel};
use super::panel::{LaidOut, Panel, Unit};
use super::simd::{Avx512, LANES};
use super::spread::{Products, Put, SpreadPanel, Tiles, over_spread_panels};
use super::unpack::Format;

/// Columns of a tile.
const COLUMNS: usize = 16;

/// The columns from which on the unit pays.
pub(super) const FROM: usize = 9;

/// Whether the unit pays for a format: with 16 values a scale, the scales take longer than the products.
pub(super) const fn pays<F: Format>() -> bool {
    F::SUB == UNIT
}

/// True where the processor has the unit and the system lets this process use it: it must be asked, once for
/// each process, since the registers make every thread's saved state larger.
pub(crate) fn available() -> bool {
    #[cfg(target_os = "linux")]
    {
        const TILE_AND_INT8: u32 = 1 << 24 | 1 << 25;
        if __cpuid(0).eax < 7 || __cpuid_count(7, 0).edx & TILE_AND_INT8 != TILE_AND_INT8 {
            return false;
        }
        const SYS_ARCH_PRCTL: i64 = 158;
        const ARCH_REQ_XCOMP_PERM: i64 = 0x1023;
        const XFEATURE_XTILE_DATA: i64 = 18;
        let mut result = SYS_ARCH_PRCTL;
        // SAFETY: arch_prctl with this code takes a number and changes no memory of the process; a system that
        // does not know it returns an error.
        unsafe {
            asm!("syscall", inout("rax") result, in("rdi") ARCH_REQ_XCOMP_PERM, in("rsi") XFEATURE_XTILE_DATA,
                out("rcx") _, out("r11") _, options(nostack));
        }
        result == 0
    }
    #[cfg(not(target_os = "linux"))]
    false
}

/// What `ldtilecfg` reads: palette 1, and the rows and bytes of a row of each tile.
#[repr(C, align(64))]
struct Config {
    palette: u8,
    start_row: u8,
    reserved: [u8; 14],
    row_bytes: [u16; 16],
    rows: [u8; 16],
}

impl Config {
    /// Tile 0: sums `[columns, rows of the weight]`; 1: activations `[columns, sub]`; 2: weights
    /// `[sub / 4, rows, 4]`.
    const fn of(sub: usize) -> Config {
        let mut config =
            Config { palette: 1, start_row: 0, reserved: [0; 14], row_bytes: [0; 16], rows: [0; 16] };
        let mut i = 0;
        while i < 3 {
            config.row_bytes[i] = if i == 1 { sub as u16 } else { 64 };
            config.rows[i] = if i == 2 { sub as u8 / 4 } else { COLUMNS as u8 };
            i += 1;
        }
        config
    }
}

/// Sub-blocks that the unit is ahead of the vector code: what it stores can be read only some time later.
const AHEAD: usize = 3;

/// Sums of a sub-block: `[columns, rows]`.
#[repr(C, align(64))]
struct Sums([[i32; LANES]; COLUMNS]);

/// Panels times every column of `x`; as in [`super::vectors`].
///
/// # Safety
/// The machine has AVX-512 F, BW, VL, DQ and VNNI, AVX2, FMA and F16C, and [`available`] said yes.
#[target_feature(enable = "avx2,fma,f16c,avx512f,avx512bw,avx512vl,avx512dq,avx512vnni")]
pub(super) unsafe fn columns_of_panels<F: Format>(
    lines: &[Line],
    panels: Range<usize>,
    units: usize,
    x: &[ActivationBlock],
    room: &mut Panel,
    put: Put<'_>,
) {
    // SAFETY: the caller says so.
    let token = unsafe { Avx512::assume() };
    let config = const { Config::of(F::SUB) };
    // SAFETY: the configuration is valid and 64 bytes long; the machine has the unit.
    unsafe {
        asm!("ldtilecfg [{}]", in(reg) &raw const config, options(nostack, readonly));
    }
    let tiles = Matrices::<F> { token, lines, x, units, format: PhantomData };
    over_spread_panels(&tiles, panels, units, x.len() / units, room, put);
    // SAFETY: the tiles hold nothing that is needed.
    unsafe {
        asm!("tilerelease", options(nostack, nomem));
    }
}

/// Panels and columns that are multiplied by the matrix unit, whose tiles are configured for `F::SUB`.
struct Matrices<'a, F> {
    token: Avx512,
    lines: &'a [Line],
    x: &'a [ActivationBlock],
    units: usize,
    format: PhantomData<F>,
}

impl<F: Format> Tiles for Matrices<'_, F> {
    const COLUMNS: usize = COLUMNS;

    #[inline(always)]
    fn spread(&self, i: usize, part: &Range<usize>, to: &mut SpreadPanel) {
        let panel = PackedPanel::<F>::new(self.lines, i, self.units * UNIT);
        to.spread::<Avx512, F, _>(self.token, panel, part, true);
    }

    #[inline(always)]
    fn multiply(
        &self,
        c: usize,
        part: &Range<usize>,
        panels: &[SpreadPanel],
        room: &mut LaidOut,
        products: &mut Products<'_>,
    ) -> usize {
        Unit::<COLUMNS>::lay_out::<F, true>(&mut room.sixteen, self.x, c, self.units, part);
        for (at, panel) in panels.iter().enumerate() {
            let mut tile = products.begin(at);
            // SAFETY: the tiles are configured for sub-blocks of `F`; the token stands for the features.
            unsafe { multiply::<F>(panel, &room.sixteen, &mut tile) };
            products.take(at, &tile);
        }
        COLUMNS
    }
}

/// Adds the products of a panel, spread out with signed values, and sixteen columns to `out`.
///
/// # Safety
/// The features of [`columns_of_panels`] are there, and tiles are configured for `F::SUB`.
#[inline]
#[target_feature(enable = "avx2,fma,f16c,avx512f,avx512bw,avx512vl,avx512dq,avx512vnni")]
#[expect(clippy::needless_range_loop, reason = "an iterator would not be inlined with the target feature")]
unsafe fn multiply<F: Format>(panel: &SpreadPanel, x: &[Unit<COLUMNS>], out: &mut [[f32; LANES]; COLUMNS]) {
    let subs = UNIT / F::SUB;
    let total = x.len() * subs;
    assert!(
        panel.values.len() >= x.len() && panel.scale.len() >= total,
        "the panel is as wide as the columns"
    );
    assert!(!F::MIN || panel.min.len() >= total, "there is a minimum for each sub-block");
    let mut buffers = [const { Sums([[0; LANES]; COLUMNS]) }; AHEAD + 1];
    let start = |sub: usize, buffer: &mut Sums| {
        let (unit, half) = (sub / subs, sub % subs);
        let columns = (&raw const x[unit].q).cast::<u8>().wrapping_add(half * F::SUB);
        let lines = (&raw const panel.values[unit]).cast::<u8>().wrapping_add(half * F::SUB / 4 * 64);
        // SAFETY: of `columns`, sixteen rows of `SUB` bytes, 32 apart, are in the unit; of `lines`, `SUB / 4` of
        // 64 bytes; the buffer has sixteen rows of 64 bytes.
        unsafe {
            asm!(
                "tilezero tmm0",
                "tileloadd tmm1, [{x} + {narrow}]",
                "tileloadd tmm2, [{w} + {wide}]",
                "tdpbssd tmm0, tmm1, tmm2",
                "tilestored [{to} + {wide}], tmm0",
                x = in(reg) columns, w = in(reg) lines, to = in(reg) &raw mut buffer.0,
                narrow = in(reg) UNIT, wide = in(reg) 64usize,
                out("tmm0") _, out("tmm1") _, out("tmm2") _, options(nostack),
            );
        }
    };
    let mut sums = [_mm512_setzero_ps(); COLUMNS];
    for c in 0..COLUMNS {
        // SAFETY: the pointer is to an array of sixteen values.
        sums[c] = unsafe { _mm512_loadu_ps(out[c].as_ptr()) };
    }
    for (sub, buffer) in buffers.iter_mut().take(AHEAD.min(total)).enumerate() {
        start(sub, buffer);
    }
    for sub in 0..total {
        if sub + AHEAD < total {
            start(sub + AHEAD, &mut buffers[(sub + AHEAD) % (AHEAD + 1)]);
        }
        let (unit, half) = (&x[sub / subs], sub % subs);
        let dots = &buffers[sub % (AHEAD + 1)].0;
        // SAFETY: every pointer is to an array of sixteen values.
        let scale = unsafe { _mm512_loadu_ps(panel.scale[sub].as_ptr()) };
        for c in 0..COLUMNS {
            // SAFETY: as above.
            let dot = unsafe { _mm512_cvtepi32_ps(_mm512_loadu_si512(dots[c].as_ptr().cast())) };
            sums[c] = _mm512_fmadd_ps(dot, _mm512_mul_ps(scale, _mm512_set1_ps(unit.d[c])), sums[c]);
        }
        if F::MIN {
            // SAFETY: as above.
            let min = unsafe { _mm512_loadu_ps(panel.min[sub].as_ptr()) };
            let min = _mm512_xor_ps(min, _mm512_set1_ps(-0.0));
            for c in 0..COLUMNS {
                sums[c] = _mm512_fmadd_ps(min, _mm512_set1_ps(unit.sum[half][c]), sums[c]);
            }
        }
    }
    for (sum, out) in sums.into_iter().zip(out) {
        // SAFETY: as above.
        unsafe { _mm512_storeu_ps(out.as_mut_ptr(), sum) };
    }
}
