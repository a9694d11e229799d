//! Each operation of a program on the CPU: how its output is cut, and what a tile is. Attention and experts have
//! files of their own.

use mdl_kernels::ops::activation::BLOCK;
use mdl_kernels::ops::elementwise::{self, activate, add, add_scaled, gated, scale, soft_cap};
use mdl_kernels::ops::matmul::{Activations, Columns, Product, Store, matmul, tile_of_floats};
use mdl_kernels::ops::row::dequantize_row;
use mdl_kernels::region::{Grid, Operation, PlaneId, Reader, Tile};

use super::cpu_attention::{Attend, Prepare};
use super::cpu_experts::{Chosen, mix, route};
use super::cpu_split::Stage;
use super::cpu_step::{CpuOp, PANEL_ROWS, Scratch, attention_columns, normalize, plane};
use crate::families::spec::Activation;
use crate::runtime::program::{BufferId, Element, MatrixId, Op, VectorId};

/// The kernels' name of an activation.
fn activation(activation: Activation) -> elementwise::Activation {
    match activation {
        Activation::Silu => elementwise::Activation::Silu,
        Activation::GeluTanh => elementwise::Activation::GeluTanh,
        Activation::GeluErf => elementwise::Activation::GeluErf,
        Activation::Relu => elementwise::Activation::Relu,
        Activation::ReluSquared => elementwise::Activation::ReluSquared,
    }
}

impl CpuOp<'_> {
    fn multiply(
        &self,
        planes: &Reader<'_>,
        tile: &mut Tile<'_>,
        scratch: &mut Scratch,
        (input, weights, bias, at, add_to): (BufferId, &[MatrixId], &[Option<VectorId>], usize, bool),
    ) {
        let x = match self.program.buffers[input.0].element {
            Element::F32 => Activations::F32(planes.f32(plane(input))),
            Element::Blocks => Activations::Blocks(planes.blocks(plane(input))),
        };
        let store = if add_to { Store::Add } else { Store::Set };
        let columns = tile.columns.clone();
        // The first row of the weight in the output.
        let mut first = at;
        for (id, bias) in weights.iter().zip(bias) {
            let weight = self.program.matrices[id.0].weight();
            let start = tile.rows.start.max(first);
            let end = tile.rows.end.min(first + weight.rows());
            if start < end {
                let rows = start - first..end - first;
                let offset = start - tile.rows.start;
                let mut part = Part { tile, offset, len: rows.len() };
                let packed = self.packed[id.0].as_ref();
                let product =
                    Product { weight, packed, rows: rows.clone(), x, columns: columns.clone(), store };
                matmul(self.level, &product, &mut part, &mut scratch.panel);
                if let Some(bias) = bias {
                    for c in 0..columns.len() {
                        add(self.level, part.column(c), &self.vector(*bias)[rows.clone()]);
                    }
                }
            }
            first += weight.rows();
        }
    }
}

/// Some rows of a tile.
struct Part<'t, 'a> {
    tile: &'t mut Tile<'a>,
    offset: usize,
    len: usize,
}

impl Columns for Part<'_, '_> {
    fn column(&mut self, c: usize) -> &mut [f32] {
        &mut self.tile.f32(c)[self.offset..self.offset + self.len]
    }
}

impl Operation for CpuOp<'_> {
    type Scratch = Scratch;

    fn output(&self) -> PlaneId {
        match self.op {
            Op::StoreKv { block, .. } => self.kv[*block],
            _ if matches!(self.stage, Stage::Parts(_)) => self.parts,
            op => PlaneId(op.out().map_or(0, |b| b.0)),
        }
    }

    fn grid(&self) -> Grid {
        match self.op {
            Op::Embed { out, .. }
            | Op::AddPosition { out, .. }
            | Op::Norm { out, .. }
            | Op::Route { out, .. }
            | Op::Mix { out, .. }
            | Op::Add { out, .. }
            | Op::Bias { out, .. }
            | Op::Select { out, .. }
            | Op::ScaleLogits { out, .. }
            | Op::Quantize { out, .. } => self.by_column(*out),
            // Long rows, so that one column is work for every thread.
            Op::Gate { out, .. } => {
                let grid = self.by_column(*out);
                let tile_rows = match self.program.buffers[out.0].element {
                    Element::F32 => 1024,
                    Element::Blocks => 1024 / BLOCK,
                };
                Grid { tile_rows, ..grid }
            }
            Op::MatMul { weights, out, at, .. } => {
                let rows = self.rows_of(weights);
                // Several tiles a thread, so that a slow one is waited for less.
                let share = rows.div_ceil(4 * self.threads).next_multiple_of(PANEL_ROWS);
                let count = self.count(*out);
                let floats = weights.iter().all(|id| !self.program.takes_blocks(*id));
                let (tile_rows, tile_columns) = floats
                    .then(|| tile_of_floats(rows, count, self.threads))
                    .flatten()
                    .unwrap_or((share.clamp(PANEL_ROWS, 256), count.max(1)));
                Grid { columns: 0..count, tile_columns, rows: *at..*at + rows, tile_rows }
            }
            Op::Experts { weights, out, at, .. } => self.grid_of_experts(weights, *out, *at),
            Op::StoreKv { .. } => {
                let width = self.layout.width().unwrap_or(0);
                Grid { columns: 0..self.layout.columns(), tile_columns: 1, rows: 0..width, tile_rows: width }
            }
            Op::Attention { out, .. } => {
                if let Stage::Parts(split) = self.stage {
                    return self.grid_of_parts(split);
                }
                let group = self.program.spec.group();
                let tiles = self.count(*out) * self.layout.heads;
                let most = attention_columns(group);
                Grid {
                    columns: 0..self.count(*out),
                    // Sequences that each have one column share nothing. Else several tiles a thread, where
                    // they still have enough columns to share.
                    tile_columns: match self.is_decode() {
                        true => 1,
                        false => tiles.div_ceil(4 * self.threads).clamp(most.div_ceil(4), most),
                    },
                    rows: 0..self.program.buffers[out.0].width,
                    tile_rows: group * self.layout.value_length,
                }
            }
        }
    }

    fn compute(&self, planes: &Reader<'_>, tile: &mut Tile<'_>, scratch: &mut Scratch) {
        let c = tile.columns.start;
        match self.op {
            Op::Embed { table, scale: factor, .. } => {
                let token = self.columns[c].token as usize;
                let weight = self.program.matrices[table.0].weight();
                dequantize_row(self.level, &weight, token, tile.f32(0));
                if *factor != 1.0 {
                    scale(self.level, tile.f32(0), *factor);
                }
            }
            Op::AddPosition { table, .. } => {
                let weight = self.program.matrices[table.0].weight();
                // A context longer than the table is refused when it is made.
                let position = self.columns[c].position.min(weight.rows() - 1);
                scratch.floats.resize(weight.cols(), 0.0);
                dequantize_row(self.level, &weight, position, &mut scratch.floats);
                add(self.level, tile.f32(0), &scratch.floats);
            }
            Op::Norm { input, norm, out } => {
                let x = self.column(planes, *input, c);
                self.put_with(*out, tile, 0, x.len(), &mut scratch.floats, |y| {
                    normalize(self.level, self.program, norm, x, y);
                });
            }
            Op::Quantize { input, out } => self.put(*out, tile, 0, self.column(planes, *input, c)),
            Op::MatMul { input, weights, bias, at, add, .. } => {
                self.multiply(planes, tile, scratch, (*input, weights, bias, *at, *add));
            }
            Op::Bias { bias, at, .. } => {
                let bias = self.vector(*bias);
                add(self.level, &mut tile.f32(0)[*at..*at + bias.len()], bias);
            }
            Op::StoreKv { qkv, norm, rotation, .. } => {
                self.store_kv(planes, tile, scratch, *qkv, Prepare { norm: *norm, rotation: *rotation });
            }
            Op::Attention { block, qkv, norm, rotation, window, .. } => {
                let prepare = Prepare { norm: *norm, rotation: *rotation };
                let op = Attend { block: *block, qkv: *qkv, prepare, window: *window };
                match self.stage {
                    Stage::Whole => self.attend(planes, tile, scratch, &op),
                    Stage::Parts(split) => self.parts(planes, tile, scratch, &op, split),
                    Stage::Merge(split) => self.merge(planes, tile, scratch, (&op, self.parts, split)),
                }
            }
            Op::Route { input, normalised, .. } => {
                route(self.column(planes, *input, c), *normalised, tile.f32(0));
            }
            Op::Experts { input, chosen, weights, each, at, .. } => {
                self.experts(
                    planes,
                    tile,
                    scratch,
                    &Chosen { input: *input, chosen: *chosen, weights, each: *each, at: *at },
                );
            }
            Op::Mix { input, chosen, .. } => {
                mix(self.column(planes, *input, c), self.column(planes, *chosen, c), tile.f32(0));
            }
            Op::Gate { input, gated: has_gate, out } => {
                let unit = match self.program.buffers[out.0].element {
                    Element::F32 => 1,
                    Element::Blocks => BLOCK,
                };
                let rows = tile.rows.start * unit..tile.rows.end * unit;
                let (gate, up) = self.column(planes, *input, c).split_at(self.program.buffers[out.0].width);
                let activation = activation(self.program.spec.feed_forward.activation);
                let gate = &gate[rows.clone()];
                self.put_with(*out, tile, 0, gate.len(), &mut scratch.floats, |y| match has_gate {
                    true => gated(self.level, activation, gate, &up[rows], y),
                    false => activate(self.level, activation, gate, y),
                });
            }
            Op::Add { input, scale: factor, .. } => {
                let y = self.column(planes, *input, c);
                match *factor {
                    1.0 => add(self.level, tile.f32(0), y),
                    factor => add_scaled(self.level, tile.f32(0), y, factor),
                }
            }
            Op::Select { input, .. } => {
                tile.f32(0).copy_from_slice(self.column(planes, *input, self.outputs[c]));
            }
            Op::ScaleLogits { scale: factor, cap, .. } => {
                scale(self.level, tile.f32(0), *factor);
                if let Some(cap) = cap {
                    soft_cap(self.level, tile.f32(0), *cap);
                }
            }
        }
    }
}
