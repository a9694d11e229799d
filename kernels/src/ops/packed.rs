//! A whole quantized weight in panels: unpacked once, when it is loaded, and not again for each product.
//!
//! Four-bit formats keep four bits. With the scales as float32 a weight takes 6 bits (Q4_0: 5), 10 for the
//! formats of more than four bits.

use std::collections::TryReserveError;
use std::io;

use rayon::prelude::*;

use super::matmul::Weight;
use super::matmul_float::PackedFloat;
use super::panel::{Line, Size, View, unpack};
use super::simd::LANES;
use super::unpack::{Format, with_format};
use crate::TensorType;

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
        let blocks = PackedBlocks::new(weight).map_err(|_| io::ErrorKind::OutOfMemory)?;
        Ok(blocks.map(Packed::Blocks))
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
    size: Size,
    lines: Vec<Line>,
    scale: Vec<[f32; LANES]>,
    min: Vec<[f32; LANES]>,
}

impl PackedBlocks {
    /// Bytes that a weight `[rows, cols]` takes in panels; `None` for one that is not quantized.
    fn bytes_of(ty: TensorType, rows: usize, cols: usize) -> Option<usize> {
        let size = size(ty, cols)?;
        let panel = size.lines.checked_mul(64)?.checked_add((size.subs + size.minima).checked_mul(64)?)?;
        rows.div_ceil(LANES).checked_mul(panel)
    }

    /// Packs a weight on all cores; `None` for one that is not quantized.
    ///
    /// # Errors
    /// There is no memory for it.
    fn new(weight: &Weight<'_>) -> Result<Option<PackedBlocks>, TryReserveError> {
        let (ty, rows, cols) = (weight.tensor_type(), weight.rows(), weight.cols());
        let Some(size) = size(ty, cols) else { return Ok(None) };
        let panels = rows.div_ceil(LANES);
        let mut lines = Vec::new();
        let mut scale = Vec::new();
        let mut min = Vec::new();
        lines.try_reserve_exact(panels.saturating_mul(size.lines))?;
        scale.try_reserve_exact(panels.saturating_mul(size.subs))?;
        min.try_reserve_exact(panels.saturating_mul(size.minima))?;
        lines.resize(panels * size.lines, [0; 64]);
        scale.resize(panels * size.subs, [0.0; LANES]);
        min.resize(panels * size.minima, [0.0; LANES]);
        // Without minima every panel gets an empty slice.
        let minima: Vec<&mut [[f32; LANES]]> = match size.minima {
            0 => (0..panels).map(|_| [].as_mut_slice()).collect(),
            n => min.chunks_exact_mut(n).collect(),
        };
        let parts = lines.par_chunks_exact_mut(size.lines).zip(scale.par_chunks_exact_mut(size.subs));
        parts.zip(minima).enumerate().for_each(|(panel, ((lines, scale), min))| {
            let start = panel * LANES;
            let bytes = weight.row_range(start..(start + LANES).min(rows));
            with_format!(ty, F => unpack::<F>(bytes, cols, lines, scale, min), {});
        });
        Ok(Some(PackedBlocks { ty, rows, cols, size, lines, scale, min }))
    }

    /// True when this is the weight in panels, as far as type and shape tell.
    pub(super) fn is_of(&self, weight: &Weight<'_>) -> bool {
        (self.ty, self.rows, self.cols) == (weight.tensor_type(), weight.rows(), weight.cols())
    }

    /// Panel `i`: rows `16 i..16 i + 16`.
    pub(super) fn panel(&self, i: usize) -> View<'_> {
        let part = |n: usize| i * n..(i + 1) * n;
        View {
            lines: &self.lines[part(self.size.lines)],
            scale: &self.scale[part(self.size.subs)],
            min: &self.min[part(self.size.minima)],
        }
    }
}

fn size(ty: TensorType, cols: usize) -> Option<Size> {
    fn of<F: Format>(cols: usize) -> Size {
        Size::of::<F>(cols)
    }
    with_format!(ty, F => Some(of::<F>(cols)), None)
}
