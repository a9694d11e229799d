//! A whole float weight in panels of 16 rows: the bytes of the file, in the order in which a product
//! takes them.

use std::io;
use std::ops::Range;

use rayon::prelude::*;

use super::super::matmul::Weight;
use super::super::on_level;
use super::super::simd::{LANES, Simd};
use super::pairs;
use crate::memory::Pages;
use crate::{Level, TensorType};

/// A weight of F16, BF16 or F32 in panels of 16 rows: `[rows / 16, cols, 16]`, but for BF16, whose values lie in
/// pairs, `[rows / 16, cols / 2, 16, 2]`. Rows that fill up the last panel are zeros, as is what fills up the last
/// pair.
pub struct PackedFloat {
    ty: TensorType,
    rows: usize,
    cols: usize,
    panel_bytes: usize,
    rounds: bool,
    bytes: Pages<u8>,
}

impl PackedFloat {
    /// Bytes that a weight `[rows, cols]` takes in panels; `None` for one that is not of floats.
    pub fn bytes_of(ty: TensorType, rows: usize, cols: usize) -> Option<usize> {
        rows.div_ceil(LANES).checked_mul(panel_bytes(ty, cols)?)
    }

    /// Packs a weight on all cores; `None` for one that is not of floats.
    ///
    /// # Errors
    /// There is no memory for it.
    pub fn new(weight: &Weight<'_>) -> io::Result<Option<PackedFloat>> {
        let (ty, rows, cols) = (weight.tensor_type(), weight.rows(), weight.cols());
        if !is_float(ty) {
            return Ok(None);
        }
        let size = PackedFloat::bytes_of(ty, rows, cols).ok_or(io::ErrorKind::OutOfMemory)?;
        let panel_bytes = panel_bytes(ty, cols).ok_or(io::ErrorKind::OutOfMemory)?;
        let level = Level::current();
        let mut bytes = Pages::<u8>::zeroed(size)?;
        let panels = bytes.par_chunks_exact_mut(panel_bytes).enumerate();
        let round = panels.map(|(panel, to)| {
            let rows = panel * LANES..(panel * LANES + LANES).min(rows);
            pack_panel(level, weight, rows.clone(), to);
            pairs::round(level, weight, rows)
        });
        let rounds = round.reduce(|| true, |a, b| a & b);
        Ok(Some(PackedFloat { ty, rows, cols, panel_bytes, rounds, bytes }))
    }

    /// True when this is the weight in panels, as far as type and shape tell.
    pub(in crate::ops) fn is_of(&self, weight: &Weight<'_>) -> bool {
        (self.ty, self.rows, self.cols) == (weight.tensor_type(), weight.rows(), weight.cols())
    }

    /// What [`pairs::round`] says of all rows.
    pub(super) fn rounds(&self) -> bool {
        self.rounds
    }

    /// The bytes from a panel on.
    pub(in crate::ops) fn from(&self, panel: usize) -> &[u8] {
        &self.bytes[panel * self.panel_bytes..]
    }

    /// The bytes of some panels; panel `i` is rows `16 i..16 i + 16`.
    pub(super) fn panels(&self, panels: Range<usize>) -> &[u8] {
        &self.bytes[panels.start * self.panel_bytes..panels.end * self.panel_bytes]
    }
}

fn is_float(ty: TensorType) -> bool {
    matches!(ty, TensorType::F32 | TensorType::F16 | TensorType::BF16)
}

/// Bytes of one panel; `None` for a type that is no float, or too many.
pub(super) fn panel_bytes(ty: TensorType, cols: usize) -> Option<usize> {
    let cols = match ty {
        TensorType::BF16 => cols.checked_next_multiple_of(2)?,
        _ => cols,
    };
    is_float(ty).then_some(LANES * ty.block_bytes())?.checked_mul(cols)
}

/// Interleaves up to 16 rows; rows that are missing are zeros.
pub(super) fn pack_panel(level: Level, weight: &Weight<'_>, rows: Range<usize>, to: &mut [u8]) {
    let (from, rows) = (weight.row_range(rows.clone()), rows.len());
    if weight.tensor_type() == TensorType::F16 {
        on_level!(level, interleave_2(from: &[u8], rows: usize, to: &mut [u8]));
    } else {
        // A pair of BF16 is four bytes like an F32.
        on_level!(level, interleave_4(from: &[u8], rows: usize, to: &mut [u8]));
    }
}

/// Interleaves values of `$bytes` bytes, `$some` of each of so many rows at a time: `from` is
/// `[rows, cols]`, `to` is `[cols, 16]`. What the last value of a row lacks is 0.
macro_rules! interleave {
    ($name:ident, $bytes:literal, $some:literal) => {
        #[inline(always)]
        fn $name<S: Simd>(s: S, from: &[u8], rows: usize, to: &mut [u8]) {
            const ZEROS: [u8; 16] = [0; 16];
            let mut of = [[].as_slice(); LANES];
            let row_bytes = from.len() / rows.max(1);
            for (of, row) in of.iter_mut().zip(from.chunks_exact(row_bytes.max(1))) {
                *of = row;
            }
            let sixteens = of.map(|row| row.as_chunks::<16>().0);
            let vectors = to.as_chunks_mut::<16>().0.as_chunks_mut::<{ LANES / $some }>().0;
            let done = $some * (row_bytes / 16);
            let (whole, rest) = vectors.split_at_mut(done);
            for (i, to) in whole.as_chunks_mut::<$some>().0.iter_mut().enumerate() {
                for part in 0..LANES / $some {
                    let mut rows = [&ZEROS; $some];
                    for (row, of) in rows.iter_mut().zip(&sixteens[part * $some..]) {
                        *row = of.get(i).unwrap_or(&ZEROS);
                    }
                    s.$name(rows, to, part);
                }
            }
            for (k, to) in rest.iter_mut().enumerate() {
                let values = to.as_flattened_mut().as_chunks_mut::<$bytes>().0;
                for (value, row) in values.iter_mut().zip(&of) {
                    *value = [0; $bytes];
                    let from = row.get((done + k) * $bytes..).unwrap_or_default();
                    for (value, from) in value.iter_mut().zip(from) {
                        *value = *from;
                    }
                }
            }
        }
    };
}
interleave!(interleave_2, 2, 8);
interleave!(interleave_4, 4, 4);

#[cfg(test)]
mod tests {
    use super::super::super::tests::Random;
    use super::*;

    #[test]
    fn a_panel_is_sixteen_rows_interleaved() {
        let mut random = Random(8);
        for ty in [TensorType::F32, TensorType::F16, TensorType::BF16] {
            // Pairs of BF16 lie as one value does.
            let size = if ty == TensorType::BF16 { 4 } else { ty.block_bytes() };
            for (rows, cols) in
                [(1, 1), (3, 9), (16, 8), (17, 5), (31, 67), (2, 7), (18, 15), (5, 31), (0, 3)]
            {
                let bytes = random.bytes(rows * cols * ty.block_bytes());
                let weight = Weight::new(ty, rows, cols, &bytes).unwrap();
                let units = (cols * ty.block_bytes()).div_ceil(size);
                let mut expected = vec![0; rows.next_multiple_of(LANES) * units * size];
                for (row, values) in bytes.chunks(cols * ty.block_bytes()).enumerate() {
                    for (k, value) in values.chunks(size).enumerate() {
                        let at = ((row / LANES * units + k) * LANES + row % LANES) * size;
                        expected[at..at + value.len()].copy_from_slice(value);
                    }
                }
                let packed = PackedFloat::new(&weight).unwrap().unwrap();
                assert!(packed.is_of(&weight));
                assert_eq!(*packed.bytes, *expected, "{ty} {rows}x{cols}");
                assert_eq!(PackedFloat::bytes_of(ty, rows, cols), Some(expected.len()));
                for level in Level::available() {
                    // What was there before does not stay.
                    let mut panel = vec![0xff; panel_bytes(ty, cols).unwrap()];
                    let last = rows.saturating_sub(1) / LANES * LANES..rows;
                    pack_panel(level, &weight, last.clone(), &mut panel);
                    let expected = expected.chunks(panel.len()).next_back().map(<[u8]>::to_vec);
                    assert_eq!(panel, expected.unwrap_or(vec![0; panel.len()]), "{ty} {level:?} {last:?}");
                }
            }
        }
    }

    #[test]
    fn only_floats_are_packed() {
        let weight = Weight::new(TensorType::Q8_0, 1, 32, &[0; 34]).unwrap();
        assert!(PackedFloat::new(&weight).unwrap().is_none());
        assert_eq!(PackedFloat::bytes_of(TensorType::Q8_0, 1, 32), None);
        assert_eq!(PackedFloat::bytes_of(TensorType::F32, usize::MAX, 2), None);
    }
}
