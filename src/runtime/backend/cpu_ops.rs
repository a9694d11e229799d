//! Each operation of a program on the CPU: how its output is cut, and what a tile is. Attention and experts have
//! files of their own.

use std::ops::Range;

use mdl_kernels::ops::activation::{ActivationBlock, BLOCK, quantize_activations};
use mdl_kernels::ops::elementwise::{self, activate, add, add_scaled, gated, scale, soft_cap};
use mdl_kernels::ops::matmul::{Activations, Columns, Panel, Product, Store, matmul, tile_of_floats};
use mdl_kernels::ops::row::dequantize_row;
use mdl_kernels::region::{Grid, Operation, PlaneId, Reader, Tile};

use super::cpu_attention::{Attend, Prepare};
use super::cpu_experts::{Chosen, mix, route};
use super::cpu_split::Stage;
use super::cpu_step::{
    CpuOp, Normed, OwnNorm, PANEL_ROWS, Scratch, attention_columns, gated_rows, normalize, plane,
};
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

/// Weights that are multiplied with one input; their products lie one after the other.
struct Group<'a> {
    x: Activations<'a>,
    weights: &'a [MatrixId],
    bias: &'a [Option<VectorId>],
    store: Store,
}

impl CpuOp<'_> {
    /// What a product multiplies with: a plane, or this thread's own norm, which its first tile computes.
    fn activations<'a>(
        &self,
        planes: &Reader<'a>,
        input: BufferId,
        normed: &'a mut Normed,
    ) -> Activations<'a> {
        let element = self.program.buffers[input.0].element;
        let OwnNorm::Here { input: from, norm, stamp } = self.norm else {
            return match element {
                Element::F32 => Activations::F32(planes.f32(plane(input))),
                Element::Blocks => Activations::Blocks(planes.blocks(plane(input))),
            };
        };
        let x = self.column(planes, from, 0);
        let Normed { of, floats, blocks } = normed;
        floats.resize(x.len(), 0.0);
        blocks.resize(x.len() / BLOCK, ActivationBlock::default());
        if *of != stamp {
            *of = stamp;
            normalize(self.level, self.program, &norm, x, floats);
            if element == Element::Blocks {
                quantize_activations(self.level, floats, blocks);
            }
        }
        match element {
            Element::F32 => Activations::F32(floats),
            Element::Blocks => Activations::Blocks(blocks),
        }
    }

    /// Rows `rows` of the products of a group with `columns` of its input.
    fn multiply(
        &self,
        group: &Group<'_>,
        (rows, columns): (Range<usize>, Range<usize>),
        out: &mut dyn Columns,
        panel: &mut Panel,
    ) {
        // The first row of the weight in the group.
        let mut first = 0;
        for (id, bias) in group.weights.iter().zip(group.bias) {
            let weight = self.program.matrices[id.0].weight();
            let start = rows.start.max(first);
            let end = rows.end.min(first + weight.rows());
            if start < end {
                let own = start - first..end - first;
                let mut part = Part { out, offset: start - rows.start, len: own.len() };
                let packed = self.packed[id.0].as_ref();
                let (columns, store) = (columns.clone(), group.store);
                let count = columns.len();
                let product = Product { weight, packed, rows: own.clone(), x: group.x, columns, store };
                matmul(self.level, &product, &mut part, panel);
                if let Some(bias) = bias {
                    for c in 0..count {
                        add(self.level, part.column(c), &self.vector(*bias)[own.clone()]);
                    }
                }
            }
            first += weight.rows();
        }
    }

    /// Asks the cache for a piece of the weights of a group from row `row` on.
    fn fetch_rows(&self, weights: &[MatrixId], row: usize, piece: usize) -> bool {
        let mut first = 0;
        for id in weights {
            let rows = self.program.matrices[id.0].rows();
            if row < first + rows {
                return self.packed[id.0].as_ref().is_some_and(|packed| packed.fetch(row - first, piece));
            }
            first += rows;
        }
        false
    }

    /// Gate and up of a tile, and what comes of them.
    fn gated_multiply(
        &self,
        tile: &mut Tile<'_>,
        (gate_up, panel): (&mut Vec<f32>, &mut Panel),
        group: &Group<'_>,
        (has_gate, out): (bool, BufferId),
    ) {
        let (unit, width) = (self.unit(out), self.program.buffers[out.0].width);
        let rows = tile.rows.start * unit..tile.rows.end * unit;
        let (columns, len) = (tile.columns.clone(), rows.len());
        let size = columns.len() * len;
        gate_up.resize((2 * size + len).max(gate_up.len()), 0.0);
        let (gate, rest) = gate_up.split_at_mut(size);
        let (up, rest) = rest.split_at_mut(size);
        let activation = activation(self.program.spec.feed_forward.activation);
        self.multiply(group, (rows.clone(), columns.clone()), &mut Rows { values: gate, len }, panel);
        if has_gate {
            let rows = width + rows.start..width + rows.end;
            self.multiply(group, (rows, columns.clone()), &mut Rows { values: up, len }, panel);
        }
        for c in 0..columns.len() {
            let (gate, up) = (&gate[c * len..(c + 1) * len], &up[c * len..(c + 1) * len]);
            self.put_with(out, tile, c, &mut rest[..len], |y| match has_gate {
                true => gated(self.level, activation, gate, up, y),
                false => activate(self.level, activation, gate, y),
            });
        }
    }
}

/// Some rows of each column.
struct Part<'a> {
    out: &'a mut dyn Columns,
    offset: usize,
    len: usize,
}

impl Columns for Part<'_> {
    fn column(&mut self, c: usize) -> &mut [f32] {
        &mut self.out.column(c)[self.offset..self.offset + self.len]
    }
}

/// Columns of `len` values, one after the other.
struct Rows<'a> {
    values: &'a mut [f32],
    len: usize,
}

impl Columns for Rows<'_> {
    fn column(&mut self, c: usize) -> &mut [f32] {
        &mut self.values[c * self.len..(c + 1) * self.len]
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
            Op::Norm { out, .. } if self.norm == OwnNorm::Skipped => {
                Grid { columns: 0..0, ..self.by_column(*out) }
            }
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
            Op::Gate { out, .. } => Grid { tile_rows: 1024 / self.unit(*out), ..self.by_column(*out) },
            Op::GatedMatMul { out, .. } => {
                let Grid { columns, rows, .. } = self.by_column(*out);
                let (unit, tile_columns) = (self.unit(*out), columns.len().max(1));
                let most = gated_rows(tile_columns) / BLOCK;
                let share = self.share((rows.len() * unit).div_ceil(BLOCK), tile_columns, most);
                let tile_rows = share * BLOCK / unit;
                Grid { columns, tile_columns, rows, tile_rows }
            }
            Op::MatMul { weights, out, at, .. } => {
                let rows = self.program.rows_of(weights);
                let count = self.count(*out);
                let floats = weights.iter().all(|id| !self.program.takes_blocks(*id));
                let whole = || {
                    let share = self.share(rows.div_ceil(PANEL_ROWS), count, 256 / PANEL_ROWS);
                    (share * PANEL_ROWS, count.max(1))
                };
                let (tile_rows, tile_columns) =
                    floats.then(|| tile_of_floats(rows, count, self.threads)).flatten().unwrap_or_else(whole);
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
                    rows: self.by_column(*out).rows,
                    tile_rows: group * self.layout.value_length / self.unit(*out),
                }
            }
        }
    }

    fn fetch(&self, (_, rows): (Range<usize>, Range<usize>), piece: usize) -> bool {
        // Of many columns, what the product reads is no matter beside what it computes.
        if self.columns.len() > 8 {
            return false;
        }
        match self.op {
            Op::MatMul { weights, at, .. } => self.fetch_rows(weights, rows.start - at, piece),
            Op::GatedMatMul { weights, gated, out, .. } => {
                let (row, width) = (rows.start * self.unit(*out), self.program.buffers[out.0].width);
                match gated {
                    true => self.fetch_rows(weights, row + width * (piece % 2), piece / 2),
                    false => self.fetch_rows(weights, row, piece),
                }
            }
            _ => false,
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
                scratch.floats.resize(x.len().max(scratch.floats.len()), 0.0);
                self.put_with(*out, tile, 0, &mut scratch.floats[..x.len()], |y| {
                    normalize(self.level, self.program, norm, x, y);
                });
            }
            Op::Quantize { input, out } => self.put(*out, tile, 0, self.column(planes, *input, c)),
            Op::MatMul { input, weights, bias, at, add, .. } => {
                let store = if *add { Store::Add } else { Store::Set };
                let x = self.activations(planes, *input, &mut scratch.normed);
                let group = Group { x, weights, bias, store };
                let range = (tile.rows.start - at..tile.rows.end - at, tile.columns.clone());
                self.multiply(&group, range, tile, &mut scratch.panel);
            }
            Op::GatedMatMul { input, weights, bias, gated, out } => {
                let Scratch { normed, gate_up, panel, .. } = scratch;
                let x = self.activations(planes, *input, normed);
                let group = Group { x, weights, bias, store: Store::Set };
                self.gated_multiply(tile, (gate_up, panel), &group, (*gated, *out));
            }
            Op::Bias { bias, at, .. } => {
                let bias = self.vector(*bias);
                add(self.level, &mut tile.f32(0)[*at..*at + bias.len()], bias);
            }
            Op::StoreKv { qkv, norm, rotation, .. } => {
                self.store_kv(planes, tile, scratch, *qkv, Prepare { norm: *norm, rotation: *rotation });
            }
            Op::Attention { block, qkv, norm, rotation, window, out } => {
                let prepare = Prepare { norm: *norm, rotation: *rotation };
                let op = Attend { block: *block, qkv: *qkv, prepare, window: *window, out: *out };
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
                let unit = self.unit(*out);
                let rows = tile.rows.start * unit..tile.rows.end * unit;
                let (gate, up) = self.column(planes, *input, c).split_at(self.program.buffers[out.0].width);
                let activation = activation(self.program.spec.feed_forward.activation);
                let gate = &gate[rows.clone()];
                scratch.floats.resize(gate.len().max(scratch.floats.len()), 0.0);
                self.put_with(*out, tile, 0, &mut scratch.floats[..gate.len()], |y| match has_gate {
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
