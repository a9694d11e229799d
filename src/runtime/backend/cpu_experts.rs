//! A mixture of experts on the CPU: which experts a column goes through, their products, and the sum.

use mdl_kernels::ops::activation::BLOCK;
use mdl_kernels::ops::matmul::{Activations, Columns, Product, Store, matmul};
use mdl_kernels::region::{Grid, Reader, Tile};

use super::cpu_step::{CpuOp, PANEL_ROWS, Scratch, plane};
use crate::runtime::program::{BufferId, Element, MatrixId};

/// The products of chosen experts.
pub(super) struct Chosen<'a> {
    pub input: BufferId,
    pub chosen: BufferId,
    /// One for each expert.
    pub weights: &'a [MatrixId],
    /// Each of the chosen has a part of the column for itself.
    pub each: bool,
    pub at: usize,
}

/// Writes the experts with the highest probability (the softmax of `logits`), the highest first, as numbers to the
/// first half of `out`, and their weights to the second. Among equals the first expert is chosen.
pub(super) fn route(logits: &[f32], normalised: bool, out: &mut [f32]) {
    let used = out.len() / 2;
    let (ids, weights) = out.split_at_mut(used);
    let mut order: Vec<usize> = (0..logits.len()).collect();
    order.sort_by(|a, b| logits[*b].total_cmp(&logits[*a]).then(a.cmp(b)));
    let highest = order.first().map_or(0.0, |i| logits[*i]);
    let exp = |i: usize| libm::expf(logits[i] - highest);
    let chosen = &order[..used.min(order.len())];
    let sum: f32 = match normalised {
        true => chosen.iter().map(|i| exp(*i)).sum(),
        false => (0..logits.len()).map(exp).sum(),
    };
    for ((id, weight), expert) in ids.iter_mut().zip(weights).zip(chosen) {
        (*id, *weight) = (*expert as f32, exp(*expert) / sum);
    }
}

/// `out = sum over the chosen of weight * part`.
pub(super) fn mix(parts: &[f32], chosen: &[f32], out: &mut [f32]) {
    out.fill(0.0);
    let weights = &chosen[chosen.len() / 2..];
    for (part, weight) in parts.chunks_exact(out.len()).zip(weights) {
        out.iter_mut().zip(part).for_each(|(o, p)| *o += weight * p);
    }
}

/// Copies part `part` (of `len` elements, of `parts` in a column) of each of `columns` to `to`, one after the other.
fn gather<T: Copy>(from: &[T], len: usize, parts: usize, part: usize, columns: &[usize], to: &mut Vec<T>) {
    to.clear();
    for c in columns {
        let start = (c * parts + part) * len;
        to.extend_from_slice(&from[start..start + len]);
    }
}

/// Columns of a tile that an expert was chosen for.
struct Scattered<'t, 'a> {
    tile: &'t mut Tile<'a>,
    columns: &'t [usize],
}

impl Columns for Scattered<'_, '_> {
    fn column(&mut self, c: usize) -> &mut [f32] {
        self.tile.f32(self.columns[c])
    }
}

impl CpuOp<'_> {
    /// Tiles that lie within the part of one of the chosen.
    pub(super) fn grid_of_experts(&self, weights: &[MatrixId], out: BufferId, at: usize) -> Grid {
        let rows = self.program.matrices[weights[0].0].rows();
        let used = self.program.spec.feed_forward.experts.as_ref().map_or(0, |e| e.used);
        let share = (used * rows / (4 * self.threads)).clamp(PANEL_ROWS, 256);
        // The largest share of whole panels that divides the rows.
        let tile_rows =
            (1..=share / PANEL_ROWS).rev().map(|n| n * PANEL_ROWS).find(|n| rows.is_multiple_of(*n));
        let count = self.count(out);
        Grid {
            columns: 0..count,
            tile_columns: count.max(1),
            rows: at..at + used * rows,
            tile_rows: tile_rows.unwrap_or(rows),
        }
    }

    /// The columns of a step by the expert that was chosen for them in one place: each expert's weights are read
    /// once for all its columns.
    pub(super) fn experts(
        &self,
        planes: &Reader<'_>,
        tile: &mut Tile<'_>,
        scratch: &mut Scratch,
        op: &Chosen<'_>,
    ) {
        let rows = self.program.matrices[op.weights[0].0].rows();
        let (place, first) = ((tile.rows.start - op.at) / rows, (tile.rows.start - op.at) % rows);
        let rows = first..first + tile.rows.len();
        let mut columns: Vec<(usize, usize)> =
            tile.columns.clone().map(|c| (self.column(planes, op.chosen, c)[place] as usize, c)).collect();
        columns.sort_unstable();
        let used = self.program.spec.feed_forward.experts.as_ref().map_or(1, |e| e.used);
        let (parts, part) = if op.each { (used, place) } else { (1, 0) };
        for same in columns.chunk_by(|a, b| a.0 == b.0) {
            let Some(id) = op.weights.get(same[0].0) else { continue };
            let weight = self.program.matrices[id.0].weight();
            let own: Vec<usize> = same.iter().map(|(_, c)| *c).collect();
            let x = match self.program.buffers[op.input.0].element {
                Element::F32 => {
                    let from = planes.f32(plane(op.input));
                    gather(from, weight.cols(), parts, part, &own, &mut scratch.floats);
                    Activations::F32(&scratch.floats)
                }
                Element::Blocks => {
                    let len = weight.cols() / BLOCK;
                    let from = planes.blocks(plane(op.input));
                    gather(from, len, parts, part, &own, &mut scratch.blocks);
                    Activations::Blocks(&scratch.blocks)
                }
            };
            let columns: Vec<usize> = own.iter().map(|c| c - tile.columns.start).collect();
            let mut out = Scattered { tile: &mut *tile, columns: &columns };
            let product = Product {
                weight,
                packed: self.packed[id.0].as_ref(),
                rows: rows.clone(),
                x,
                columns: 0..own.len(),
                store: Store::Set,
            };
            matmul(self.level, &product, &mut out, &mut scratch.panel);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_likeliest_experts_are_chosen() {
        let logits = [0.0, 2.0, 1.0, 2.0];
        let mut out = [0.0; 4];
        route(&logits, true, &mut out);
        assert_eq!(out, [1.0, 3.0, 0.5, 0.5]);
        route(&logits, false, &mut out);
        let all: f32 = logits.iter().map(|v| libm::expf(v - 2.0)).sum();
        assert!((out[2] - 1.0 / all).abs() < 1e-6, "{out:?}");
    }

    #[test]
    fn parts_are_mixed_by_their_weights() {
        let mut out = [9.0; 2];
        mix(&[1.0, 2.0, 10.0, 20.0], &[5.0, 7.0, 0.25, 0.5], &mut out);
        assert_eq!(out, [5.25, 10.5]);
    }

    #[test]
    fn columns_are_gathered() {
        let mut to = Vec::new();
        gather(&[0, 1, 2, 3, 4, 5, 6, 7], 2, 2, 1, &[1, 0], &mut to);
        assert_eq!(to, [6, 7, 2, 3]);
    }
}
