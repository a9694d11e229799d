//! A whole quantized weight in panels: rows interleaved once, when it is loaded, and not again for each product.
//!
//! A panel is sixteen rows. Of each 32 values it has lines of 64 bytes, four bytes a row, in which codes lie as
//! densely as in the file: of a code's bits, the lowest 8, 4 or 2 are in the first lines and the one or two
//! above them in the lines that follow. After the lines come, for each block, the rows' `d` (halves), `dmin`,
//! and the scales and minima of sub-blocks, a byte each. So a panel takes what the file does, but for the 6-bit
//! scales of Q3_K, Q4_K, Q5_K and IQ4_XS (2 to 4 % more) and the 4-bit ones of Q2_K (19 %).

use std::io;
use std::marker::PhantomData;

use rayon::prelude::*;

use super::activation::BLOCK as UNIT;
use super::dots::Dots;
use super::matmul::Weight;
use super::matmul_float::PackedFloat;
use super::on_level;
use super::panel::Source;
use super::simd::{LANES, Simd};
use super::unpack::{Format, Unpacked, with_format};
use crate::memory::{self, Pages};
use crate::{Level, TensorType};

/// Four bytes of each of sixteen rows.
pub(super) type Line = [u8; 64];

/// Where the parts of a panel are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Layout {
    /// Bits of a code in the first lines.
    low: u32,
    /// Bits above them.
    high: u32,
    /// Lines of 32 values.
    unit_lines: usize,
    /// Bytes of a block of all rows beside the lines.
    header: usize,
}

impl Layout {
    pub(super) const fn of<F: Format>() -> Layout {
        let low = match F::BITS {
            8 => 8,
            4..8 => 4,
            _ => 2,
        };
        let high = F::BITS - low;
        let subs = if F::SCALES { F::BLOCK / F::SUB } else { 0 };
        let kinds = if F::MIN { 2 } else { 1 };
        Layout {
            low,
            high,
            unit_lines: ((low + high) * UNIT as u32 / 32) as usize,
            header: kinds * (2 + subs) * LANES,
        }
    }

    /// Lines that hold codes, in a panel of rows of `cols` values.
    const fn code_lines(&self, cols: usize) -> usize {
        cols / UNIT * self.unit_lines
    }

    /// Lines of such a panel.
    const fn panel_lines<F: Format>(&self, cols: usize) -> usize {
        self.code_lines(cols) + (cols / F::BLOCK * self.header).div_ceil(size_of::<Line>())
    }
}

/// Bytes that [`Packed::fetch`] asks for at once.
const PIECE: usize = 512;
/// Bytes after which [`Packed::fetch`] stops: less than second-level caches hold beside the rest.
const FETCHED: usize = 32 << 10;

/// A weight in panels of 16 rows.
pub enum Packed {
    /// One of blocks.
    Blocks(PackedBlocks),
    /// One of floats.
    Floats(PackedFloat),
}

impl Packed {
    /// Bytes that a weight takes in panels; `None` for one that is never packed.
    pub fn bytes(weight: &Weight<'_>) -> Option<usize> {
        Packed::bytes_of(weight.tensor_type(), weight.rows(), weight.cols())
    }

    /// The same for a weight that is not at hand, `[rows, cols]`.
    pub fn bytes_of(ty: TensorType, rows: usize, cols: usize) -> Option<usize> {
        PackedFloat::bytes_of(ty, rows, cols).or_else(|| PackedBlocks::bytes_of(ty, rows, cols))
    }

    /// Packs a weight on all cores; `None` for one that is never packed.
    ///
    /// # Errors
    /// There is no memory for it.
    pub fn new(weight: &Weight<'_>) -> io::Result<Option<Packed>> {
        if let Some(floats) = PackedFloat::new(weight)? {
            return Ok(Some(Packed::Floats(floats)));
        }
        Ok(PackedBlocks::new(weight)?.map(Packed::Blocks))
    }

    /// Asks the cache for piece `piece` of the panels from the one with row `row` on; false when it is not to hold
    /// that much of them.
    pub fn fetch(&self, row: usize, piece: usize) -> bool {
        let panel = row / LANES;
        let bytes = match self {
            Packed::Blocks(blocks) => blocks.from(panel).as_flattened(),
            Packed::Floats(floats) => floats.from(panel),
        };
        let piece = piece * PIECE..(piece + 1) * PIECE;
        match bytes.get(piece.clone()) {
            Some(bytes) if piece.end <= FETCHED => {
                memory::fetch(bytes);
                true
            }
            _ => false,
        }
    }

    /// The panels of a weight of floats.
    pub(super) fn floats(&self) -> Option<&PackedFloat> {
        match self {
            Packed::Floats(floats) => Some(floats),
            Packed::Blocks(_) => None,
        }
    }

    /// The panels of a weight of blocks.
    pub(super) fn blocks(&self) -> Option<&PackedBlocks> {
        match self {
            Packed::Blocks(blocks) => Some(blocks),
            Packed::Floats(_) => None,
        }
    }
}

/// A quantized weight in panels of 16 rows.
pub struct PackedBlocks {
    ty: TensorType,
    rows: usize,
    cols: usize,
    panel_lines: usize,
    lines: Pages<Line>,
}

impl PackedBlocks {
    /// Bytes that a weight `[rows, cols]` takes in panels; `None` for one that is not quantized.
    fn bytes_of(ty: TensorType, rows: usize, cols: usize) -> Option<usize> {
        let panel = panel_lines(ty, cols)?.checked_mul(size_of::<Line>())?;
        rows.div_ceil(LANES).checked_mul(panel)
    }

    /// Packs a weight on all cores; `None` for one that is not quantized.
    ///
    /// # Errors
    /// There is no memory for it.
    fn new(weight: &Weight<'_>) -> io::Result<Option<PackedBlocks>> {
        let (ty, rows, cols) = (weight.tensor_type(), weight.rows(), weight.cols());
        let Some(panel_lines) = panel_lines(ty, cols) else { return Ok(None) };
        let mut lines = Pages::zeroed(rows.div_ceil(LANES).saturating_mul(panel_lines))?;
        // Enough panels a task that each thread writes memory of its own.
        lines.par_chunks_exact_mut(panel_lines).enumerate().with_min_len(8).for_each(|(panel, lines)| {
            pack(weight, panel, lines);
        });
        Ok(Some(PackedBlocks { ty, rows, cols, panel_lines, lines }))
    }

    /// True when this is the weight in panels, as far as type and shape tell.
    pub(super) fn is_of(&self, weight: &Weight<'_>) -> bool {
        (self.ty, self.rows, self.cols) == (weight.tensor_type(), weight.rows(), weight.cols())
    }

    /// Panels from the given one on: of panel `i`, rows `16 i..16 i + 16`.
    pub(super) fn from(&self, panel: usize) -> &[Line] {
        &self.lines[panel * self.panel_lines..]
    }
}

/// Lines of a panel; `None` for a type that is not quantized.
pub(super) fn panel_lines(ty: TensorType, cols: usize) -> Option<usize> {
    with_format!(ty, F => Some(Layout::of::<F>().panel_lines::<F>(cols)), None)
}

/// Packs rows `16 panel..` of a quantized weight; rows beyond its end are left as they are.
pub(super) fn pack(weight: &Weight<'_>, panel: usize, lines: &mut [Line]) {
    let start = panel * LANES;
    let rows = weight.row_range(start..(start + LANES).min(weight.rows()));
    let cols = weight.cols();
    with_format!(
        weight.tensor_type(),
        F => {
            #[inline(always)]
            fn body<S: Simd>(_: S, rows: &[u8], cols: usize, lines: &mut [Line]) {
                pack_rows::<F>(rows, cols, lines);
            }
            on_level!(Level::current(), body(rows: &[u8], cols: usize, lines: &mut [Line]))
        },
        {}
    );
}

#[inline(always)]
fn pack_rows<F: Format>(rows: &[u8], cols: usize, lines: &mut [Line]) {
    let layout = const { Layout::of::<F>() };
    let row_bytes = cols / F::BLOCK * F::BYTES;
    let count = (rows.len() / row_bytes).min(LANES);
    let (codes, headers) = lines.split_at_mut(layout.code_lines(cols));
    let headers = headers.as_flattened_mut().chunks_exact_mut(layout.header);
    let codes = codes.chunks_exact_mut(layout.unit_lines * (F::BLOCK / UNIT));
    // All rows of a block, then their lines: a line of the panel is written once.
    let mut blocks = [const { Unpacked::ZERO }; LANES];
    for (i, (lines, header)) in codes.zip(headers).enumerate() {
        for (row, block) in blocks[..count].iter_mut().enumerate() {
            F::unpack(&rows[row * row_bytes + i * F::BYTES..][..F::BYTES], block);
        }
        for (unit, lines) in lines.chunks_exact_mut(layout.unit_lines).enumerate() {
            for (row, block) in blocks[..count].iter().enumerate() {
                // Four codes at a time, a byte each.
                let fours: [u32; 8] = std::array::from_fn(|g| {
                    let at = UNIT * unit + 4 * g;
                    u32::from_le_bytes([0, 1, 2, 3].map(|j| block.codes[at + j]))
                });
                let mut put = |line: usize, four: u32| {
                    lines[line][4 * row..4 * row + 4].copy_from_slice(&four.to_le_bytes());
                };
                // `n` groups of `bits` bits, of which those below `shift` are left out, to one line.
                let gather = |first: usize, bits: u32, shift: u32| {
                    let mask = 0x0101_0101 * ((1u32 << bits) - 1);
                    let groups = fours[first..].iter().take((8 / bits) as usize).enumerate();
                    groups.fold(0, |line, (i, four)| line | ((four >> shift) & mask) << (bits * i as u32))
                };
                let low_lines = match layout.low {
                    8 => {
                        fours.iter().enumerate().for_each(|(g, four)| put(g, *four));
                        8
                    }
                    4 => {
                        (0..4).for_each(|i| put(i, gather(2 * i, 4, 0)));
                        4
                    }
                    _ => {
                        (0..2).for_each(|i| put(i, gather(4 * i, 2, 0)));
                        2
                    }
                };
                match layout.high {
                    1 => put(low_lines, gather(0, 1, layout.low)),
                    2 => (0..2).for_each(|i| put(low_lines + i, gather(4 * i, 2, layout.low))),
                    _ => {}
                }
            }
        }
        let subs = F::BLOCK / F::SUB;
        let kinds = if F::MIN { 2 } else { 1 };
        for (row, block) in blocks[..count].iter().enumerate() {
            for (kind, half) in [block.d, block.dmin].into_iter().take(kinds).enumerate() {
                header[32 * kind + 2 * row..][..2].copy_from_slice(&half.to_le_bytes());
            }
            if F::SCALES {
                for sub in 0..subs {
                    header[32 * kinds + LANES * sub + row] = block.scales[sub].cast_unsigned();
                    if F::MIN {
                        header[32 * kinds + LANES * (subs + sub) + row] = block.minima[sub];
                    }
                }
            }
        }
    }
}

/// The bits of group `g` (four values of each row) in lines of `bits` bits a value, moved up by `up`.
#[inline(always)]
fn group<D: Dots>(d: D, lines: &[Line], part: usize, g: usize, bits: u32, up: u32) -> D::B {
    if bits == 8 {
        return d.bytes(&lines[g], part);
    }
    let per_line = (8 / bits) as usize;
    let at = bits as usize * (g % per_line);
    let line = d.shift_right(d.bytes(&lines[g / per_line], part), at as i32 - up as i32);
    d.mask(line, ((1 << bits) - 1) << up)
}

/// A panel as it is packed.
pub(super) struct PackedPanel<'a, F> {
    codes: &'a [Line],
    headers: &'a [u8],
    /// Lines of the panel.
    lines: usize,
    /// The panel, and those that follow it.
    all: &'a [Line],
    format: PhantomData<F>,
}

impl<F> Clone for PackedPanel<'_, F> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<F> Copy for PackedPanel<'_, F> {}

impl<'a, F: Format> PackedPanel<'a, F> {
    /// Panel `i` of rows of `cols` values in `lines`, which begin with panel 0; those after it may follow.
    #[inline(always)]
    pub(super) fn new(lines: &'a [Line], i: usize, cols: usize) -> Self {
        let layout = const { Layout::of::<F>() };
        let panel = layout.panel_lines::<F>(cols);
        let lines = &lines[i * panel..];
        let (codes, headers) = lines[..panel].split_at(layout.code_lines(cols));
        PackedPanel { codes, headers: headers.as_flattened(), lines: panel, all: lines, format: PhantomData }
    }

    #[inline(always)]
    fn header<const N: usize>(&self, sub: usize, at: usize) -> &'a [u8; N] {
        let layout = const { Layout::of::<F>() };
        let start = sub / (F::BLOCK / F::SUB) * layout.header + at;
        match self.headers[start..].first_chunk() {
            Some(bytes) => bytes,
            None => unreachable!("a panel has a header for each block"),
        }
    }

    /// The `kind`th half of each row, times the byte of each row's sub-block.
    #[inline(always)]
    fn factor<D: Dots>(&self, d: D, sub: usize, part: usize, kind: usize) -> D::F {
        let halves = d.halves(self.header(sub, 32 * kind), part);
        if !F::SCALES {
            return halves;
        }
        let subs = F::BLOCK / F::SUB;
        let kinds = if F::MIN { 2 } else { 1 };
        let bytes = self.header(sub, 32 * kinds + LANES * (subs * kind + sub % subs));
        d.mul(halves, if kind == 0 { d.signed(bytes, part) } else { d.unsigned(bytes, part) })
    }
}

impl<F: Format> Source for PackedPanel<'_, F> {
    #[inline(always)]
    fn values<D: Dots>(&self, d: D, unit: usize, g: usize, part: usize) -> D::B {
        let layout = const { Layout::of::<F>() };
        let lines = &self.codes[unit * layout.unit_lines..][..layout.unit_lines];
        let mut code = group(d, lines, part, g, layout.low, 0);
        if layout.high > 0 {
            code = d.or(code, group(d, &lines[layout.low as usize..], part, g, layout.high, layout.low));
        }
        match F::TABLE {
            Some(table) => d.lookup(table, code),
            None => code,
        }
    }

    #[inline(always)]
    fn scale<D: Dots>(&self, d: D, sub: usize, part: usize) -> D::F {
        self.factor(d, sub, part, 0)
    }

    #[inline(always)]
    fn min<D: Dots>(&self, d: D, sub: usize, part: usize) -> D::F {
        self.factor(d, sub, part, 1)
    }

    #[inline(always)]
    fn fetch<D: Dots>(&self, d: D, unit: usize) {
        let layout = const { Layout::of::<F>() };
        let (lines, codes) = (layout.unit_lines, self.codes.len());
        // Some units on, in this panel or in the next.
        let unit = unit + const { FETCH_AHEAD.div_ceil(Layout::of::<F>().unit_lines) };
        let units = codes / lines;
        let (panel, unit) = if unit < units { (0, unit) } else { (self.lines, unit - units) };
        let header = layout.header * UNIT / F::BLOCK;
        for i in 0..lines {
            if let Some(line) = self.all.get(panel + unit * lines + i) {
                d.fetch(line);
            }
        }
        for i in 0..header.div_ceil(size_of::<Line>()) {
            if let Some(line) = self.all.get(panel + codes + unit * header / size_of::<Line>() + i) {
                d.fetch(line);
            }
        }
    }
}

/// Lines between what is read and what is asked for. More than the processor looks ahead by itself, which ends with
/// each page of 4 KiB.
const FETCH_AHEAD: usize = 128;

#[cfg(test)]
mod tests {
    use super::super::tests::Random;
    use super::*;

    #[test]
    fn panels_are_fetched_from_a_row_to_the_end_or_the_limit() {
        let pieces = |ty: TensorType, rows: usize, cols: usize, from: usize| {
            let blocks = rows * cols / ty.block_len();
            let bytes = Random(3).bytes(blocks * ty.block_bytes());
            let weight = Weight::new(ty, rows, cols, &bytes).unwrap();
            let packed = Packed::new(&weight).unwrap().unwrap();
            (0..).take_while(|piece| packed.fetch(from, *piece)).count()
        };
        // A panel of 16 x 64 values in Q8_0 has 17 lines of 64 bytes, eight of which are a piece.
        assert_eq!(pieces(TensorType::Q8_0, 32, 64, 0), 34 / 8);
        assert_eq!(pieces(TensorType::Q8_0, 32, 64, 15), 34 / 8);
        assert_eq!(pieces(TensorType::Q8_0, 32, 64, 16), 17 / 8);
        assert_eq!(pieces(TensorType::F16, 20, 64, 16), 16 * 64 * 2 / PIECE);
        assert_eq!(pieces(TensorType::Q8_0, 512, 1024, 0), FETCHED / PIECE);
    }
}
