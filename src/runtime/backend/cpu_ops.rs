//! Each operation of a program on the CPU: how its output is cut, and what a tile is. Attention and experts have
//! files of their own.

use mdl_kernels::Level;
use mdl_kernels::ops::activation::{ActivationBlock, BLOCK, quantize_activations};
use mdl_kernels::ops::elementwise::{self, activate, add, gated, scale, soft_cap};
use mdl_kernels::ops::matmul::{Activations, Columns, Packed, Panel, Product, Store, matmul};
use mdl_kernels::ops::norm::{layer_norm_in_place, rms_norm_in_place};
use mdl_kernels::ops::rope::{self, Frequencies};
use mdl_kernels::ops::row::dequantize_row;
use mdl_kernels::region::{Grid, Operation, PlaneId, Reader, Tile};

use super::Column;
use super::cpu_attention::{Attend, Prepare};
use super::cpu_experts::{Chosen, mix, route};
use crate::families::spec::{Activation, NormKind, RopeKind};
use crate::runtime::kv::{KvLayout, PageId};
use crate::runtime::program::{BufferId, Element, Extent, MatrixId, Norm, Op, Program, Room, VectorId};

/// Columns of queries that attention takes at once: they share each read of the cache.
pub(super) const ATTENTION_COLUMNS: usize = 8;

/// Rows of a weight that are unpacked together.
pub(super) const PANEL_ROWS: usize = 16;

/// What a thread keeps from tile to tile.
#[derive(Default)]
pub(super) struct Scratch {
    pub panel: Panel,
    pub floats: Vec<f32>,
    pub blocks: Vec<ActivationBlock>,
    pub queries: Vec<f32>,
    pub scores: Vec<f32>,
    pub positions: Vec<std::ops::Range<usize>>,
    pub halves: Vec<u16>,
}

impl Scratch {
    /// Bytes of one thread's scratch at most.
    pub(super) fn bytes(program: &Program, room: &Room) -> u64 {
        let cols = program.matrices.iter().map(|m| m.cols()).max().unwrap_or(0);
        let attention = &program.spec.attention;
        let queries = ATTENTION_COLUMNS.min(room.columns.max(1)) * program.spec.group();
        let scores = queries.saturating_mul(room.context.saturating_add(PANEL_ROWS));
        let vectors = queries * (attention.key_length + attention.value_length) + 2 * cols;
        (Panel::bytes(cols) as u64)
            .saturating_add((scores as u64).saturating_mul(4))
            .saturating_add(vectors as u64 * 4)
    }
}

/// An operation of a step, with what it needs to know of the step.
pub(super) struct CpuOp<'a> {
    pub op: &'a Op,
    pub program: &'a Program,
    /// The matrices of the program in panels, where they are.
    pub packed: &'a [Option<Packed>],
    pub level: Level,
    pub threads: usize,
    pub columns: &'a [Column],
    /// The pages of each sequence.
    pub tables: &'a [&'a [PageId]],
    pub outputs: &'a [usize],
    /// Cosines and sines of each rotation: `[columns, pairs, 2]`.
    pub angles: &'a [Vec<f32>],
    pub layout: KvLayout,
    pub kv: &'a [PlaneId],
}

/// The kernels' name of a kind of rotation; `None` for none.
pub(super) fn rope_kind(kind: RopeKind) -> Option<rope::RopeKind> {
    match kind {
        RopeKind::None => None,
        RopeKind::Norm => Some(rope::RopeKind::Norm),
        RopeKind::Neox => Some(rope::RopeKind::Neox),
    }
}

pub(super) fn plane(id: BufferId) -> PlaneId {
    PlaneId(id.0)
}

/// Writes the angles of each column's position.
pub(super) fn angles(frequencies: &Frequencies, columns: &[Column], angles: &mut Vec<f32>) {
    let size = 2 * frequencies.pairs();
    angles.resize(size * columns.len(), 0.0);
    for (column, table) in columns.iter().zip(angles.chunks_exact_mut(size.max(1))) {
        frequencies.table(column.position as i64, table);
    }
}

/// The norm that `program` puts at `norm`, in place.
pub(super) fn norm_in_place(level: Level, program: &Program, norm: &Norm, x: &mut [f32]) {
    let (weight, epsilon) = (&program.vectors[norm.weight.0], program.spec.norm.epsilon);
    match program.spec.norm.kind {
        NormKind::Rms => rms_norm_in_place(level, x, weight, epsilon),
        NormKind::Layer => {
            let bias = norm.bias.map(|id| &*program.vectors[id.0]);
            layer_norm_in_place(level, x, weight, bias, epsilon);
        }
    }
}

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
    pub(super) fn count(&self, id: BufferId) -> usize {
        match self.program.buffers[id.0].extent {
            Extent::Columns => self.columns.len(),
            Extent::Outputs => self.outputs.len(),
        }
    }

    pub(super) fn vector(&self, id: VectorId) -> &[f32] {
        &self.program.vectors[id.0]
    }

    /// Column `c` of a float buffer.
    pub(super) fn column<'p>(&self, planes: &Reader<'p>, id: BufferId, c: usize) -> &'p [f32] {
        let width = self.program.buffers[id.0].width;
        &planes.f32(plane(id))[c * width..(c + 1) * width]
    }

    /// Puts floats into a column of a tile, quantized if the buffer is of blocks.
    fn put(&self, out: BufferId, tile: &mut Tile<'_>, c: usize, values: &[f32]) {
        match self.program.buffers[out.0].element {
            Element::F32 => tile.f32(c).copy_from_slice(values),
            Element::Blocks => quantize_activations(self.level, values, tile.blocks(c)),
        }
    }

    /// Whole columns, one a tile.
    fn by_column(&self, out: BufferId) -> Grid {
        let buffer = &self.program.buffers[out.0];
        let rows = match buffer.element {
            Element::F32 => buffer.width,
            Element::Blocks => buffer.width / BLOCK,
        };
        Grid { columns: 0..self.count(out), tile_columns: 1, rows: 0..rows, tile_rows: rows }
    }

    /// True when most columns stand for a sequence of their own.
    pub(super) fn is_decode(&self) -> bool {
        2 * self.tables.len() > self.columns.len()
    }

    pub(super) fn rows_of(&self, weights: &[MatrixId]) -> usize {
        weights.iter().map(|id| self.program.matrices[id.0].rows()).sum()
    }

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
                        add(part.column(c), &self.vector(*bias)[rows.clone()]);
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
                Grid {
                    columns: 0..count,
                    tile_columns: count.max(1),
                    rows: *at..*at + rows,
                    tile_rows: share.clamp(PANEL_ROWS, 256),
                }
            }
            Op::Experts { weights, out, at, .. } => self.grid_of_experts(weights, *out, *at),
            Op::StoreKv { .. } => {
                let width = self.layout.width().unwrap_or(0);
                Grid { columns: 0..self.layout.columns(), tile_columns: 1, rows: 0..width, tile_rows: width }
            }
            Op::Attention { out, .. } => Grid {
                columns: 0..self.count(*out),
                // Sequences that each have one column share nothing.
                tile_columns: if self.is_decode() { 1 } else { ATTENTION_COLUMNS },
                rows: 0..self.program.buffers[out.0].width,
                tile_rows: self.program.spec.group() * self.layout.value_length,
            },
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
                    scale(tile.f32(0), *factor);
                }
            }
            Op::AddPosition { table, .. } => {
                let weight = self.program.matrices[table.0].weight();
                // A context longer than the table is refused when it is made.
                let position = self.columns[c].position.min(weight.rows() - 1);
                scratch.floats.resize(weight.cols(), 0.0);
                dequantize_row(self.level, &weight, position, &mut scratch.floats);
                add(tile.f32(0), &scratch.floats);
            }
            Op::Norm { input, norm, out } => {
                scratch.floats.clear();
                scratch.floats.extend_from_slice(self.column(planes, *input, c));
                norm_in_place(self.level, self.program, norm, &mut scratch.floats);
                self.put(*out, tile, 0, &scratch.floats);
            }
            Op::Quantize { input, out } => self.put(*out, tile, 0, self.column(planes, *input, c)),
            Op::MatMul { input, weights, bias, at, add, .. } => {
                self.multiply(planes, tile, scratch, (*input, weights, bias, *at, *add));
            }
            Op::Bias { bias, at, .. } => {
                let bias = self.vector(*bias);
                add(&mut tile.f32(0)[*at..*at + bias.len()], bias);
            }
            Op::StoreKv { qkv, norm, rotation, .. } => {
                self.store_kv(planes, tile, scratch, *qkv, Prepare { norm: *norm, rotation: *rotation });
            }
            Op::Attention { block, qkv, norm, rotation, window, .. } => {
                let prepare = Prepare { norm: *norm, rotation: *rotation };
                self.attend(
                    planes,
                    tile,
                    scratch,
                    &Attend { block: *block, qkv: *qkv, prepare, window: *window },
                );
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
                scratch.floats.clear();
                scratch.floats.extend_from_slice(&gate[rows.clone()]);
                match has_gate {
                    true => gated(self.level, activation, &mut scratch.floats, &up[rows]),
                    false => activate(self.level, activation, &mut scratch.floats),
                }
                self.put(*out, tile, 0, &scratch.floats);
            }
            Op::Add { input, scale: factor, .. } => {
                let y = self.column(planes, *input, c);
                if *factor == 1.0 {
                    add(tile.f32(0), y);
                } else {
                    tile.f32(0).iter_mut().zip(y).for_each(|(x, y)| *x += factor * y);
                }
            }
            Op::Select { input, .. } => {
                tile.f32(0).copy_from_slice(self.column(planes, *input, self.outputs[c]));
            }
            Op::ScaleLogits { scale: factor, cap, .. } => {
                scale(tile.f32(0), *factor);
                if let Some(cap) = cap {
                    soft_cap(self.level, tile.f32(0), *cap);
                }
            }
        }
    }
}
