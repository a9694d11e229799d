//! A whole float weight in panels of 16 rows: the bytes of the file, in the order in which a product
//! takes them.

use std::io;
use std::ops::Range;

use rayon::prelude::*;

use super::super::matmul::Weight;
use super::super::simd::LANES;
use crate::TensorType;
use crate::memory::Pages;

/// A weight of F16, BF16 or F32 in panels of 16 rows, `[rows / 16, cols, 16]`. Rows that fill up the last
/// panel are zeros.
pub struct PackedFloat {
    ty: TensorType,
    rows: usize,
    cols: usize,
    bytes: Pages<u8>,
}

impl PackedFloat {
    /// Bytes that a weight `[rows, cols]` takes in panels; `None` for one that is not of floats.
    pub fn bytes_of(ty: TensorType, rows: usize, cols: usize) -> Option<usize> {
        let value = is_float(ty).then(|| ty.block_bytes())?;
        rows.checked_next_multiple_of(LANES)?.checked_mul(cols)?.checked_mul(value)
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
        let mut bytes = Pages::<u8>::zeroed(size)?;
        bytes.par_chunks_exact_mut(panel_bytes(weight)).enumerate().for_each(|(panel, to)| {
            let start = panel * LANES;
            pack_panel(weight, start..(start + LANES).min(rows), to);
        });
        Ok(Some(PackedFloat { ty, rows, cols, bytes }))
    }

    /// True when this is the weight in panels, as far as type and shape tell.
    pub(in crate::ops) fn is_of(&self, weight: &Weight<'_>) -> bool {
        (self.ty, self.rows, self.cols) == (weight.tensor_type(), weight.rows(), weight.cols())
    }

    /// The bytes of some panels; panel `i` is rows `16 i..16 i + 16`.
    pub(super) fn panels(&self, panels: Range<usize>) -> &[u8] {
        let panel = LANES * self.cols * self.ty.block_bytes();
        &self.bytes[panels.start * panel..panels.end * panel]
    }
}

fn is_float(ty: TensorType) -> bool {
    matches!(ty, TensorType::F32 | TensorType::F16 | TensorType::BF16)
}

/// Bytes of one panel.
pub(super) fn panel_bytes(weight: &Weight<'_>) -> usize {
    LANES * weight.cols() * weight.tensor_type().block_bytes()
}

/// Interleaves up to 16 rows; rows that are missing are zeros.
pub(super) fn pack_panel(weight: &Weight<'_>, rows: Range<usize>, to: &mut [u8]) {
    let bytes = weight.row_range(rows.clone());
    match weight.tensor_type().block_bytes() {
        2 => interleave::<2>(bytes, rows.len(), to),
        _ => interleave::<4>(bytes, rows.len(), to),
    }
}

/// `from` is `[rows, cols]`, `to` is `[cols, 16]`, of values of `B` bytes.
fn interleave<const B: usize>(from: &[u8], rows: usize, to: &mut [u8]) {
    if rows == 0 {
        return;
    }
    let zeros = vec![[0; B]; if rows < LANES { from.len() / rows / B } else { 0 }];
    let from = from.as_chunks::<B>().0;
    let cols = from.len() / rows;
    let from: [&[[u8; B]]; LANES] =
        std::array::from_fn(|r| if r < rows { &from[r * cols..(r + 1) * cols] } else { &zeros[..] });
    let to = to.as_chunks_mut::<B>().0.as_chunks_mut::<LANES>().0;
    for (k, to) in to.iter_mut().enumerate() {
        *to = std::array::from_fn(|r| from[r][k]);
    }
}
