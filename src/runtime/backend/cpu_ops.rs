//! Each operation of a program on the CPU: how its output is cut, and what a tile is.

use mdl_kernels::Level;
use mdl_kernels::ops::activation::{BLOCK, quantize_activations};
use mdl_kernels::ops::attention::{Cached, Head, attention};
use mdl_kernels::ops::elementwise::{self, add, gated, scale, soft_cap, to_f16};
use mdl_kernels::ops::matmul::{Activations, Columns, Packed, Panel, Product, Store, matmul};
use mdl_kernels::ops::norm::{rms_norm, rms_norm_in_place};
use mdl_kernels::ops::rope::{self, rope};
use mdl_kernels::ops::row::dequantize_row;
use mdl_kernels::region::{Grid, Operation, PlaneId, Reader, Tile};

use super::Column;
use crate::families::spec::{Activation, RopeKind};
use crate::runtime::kv::{KvLayout, KvType, PageId, slot};
use crate::runtime::program::{BufferId, Element, Extent, MatrixId, Op, Program, Room, VectorId};

/// Columns of queries that attention takes at once: they share each read of the cache.
const ATTENTION_COLUMNS: usize = 8;

/// Rows of a weight that are unpacked together.
const PANEL_ROWS: usize = 16;

/// What a thread keeps from tile to tile.
#[derive(Default)]
pub(super) struct Scratch {
    panel: Panel,
    floats: Vec<f32>,
    queries: Vec<f32>,
    scores: Vec<f32>,
    positions: Vec<std::ops::Range<usize>>,
    halves: Vec<u16>,
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
    /// Cosines and sines: `[columns, pairs, 2]`.
    pub angles: &'a [f32],
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

fn plane(id: BufferId) -> PlaneId {
    PlaneId(id.0)
}

impl CpuOp<'_> {
    fn count(&self, id: BufferId) -> usize {
        match self.program.buffers[id.0].extent {
            Extent::Columns => self.columns.len(),
            Extent::Outputs => self.outputs.len(),
        }
    }

    fn vector(&self, id: VectorId) -> &[f32] {
        &self.program.vectors[id.0]
    }

    /// Column `c` of a float buffer.
    fn column<'p>(&self, planes: &Reader<'p>, id: BufferId, c: usize) -> &'p [f32] {
        let width = self.program.buffers[id.0].width;
        &planes.f32(plane(id))[c * width..(c + 1) * width]
    }

    fn angles_of(&self, column: usize) -> &[f32] {
        let size = self.program.frequencies.as_ref().map_or(0, |f| 2 * f.pairs());
        &self.angles[column * size..(column + 1) * size]
    }

    /// Norm, where there is one, and rotation of one head of a query or key.
    fn prepare(&self, head: &mut [f32], norm: Option<VectorId>, column: usize) {
        if let Some(norm) = norm {
            rms_norm_in_place(self.level, head, self.vector(norm), self.program.spec.norm.epsilon);
        }
        if let Some(kind) = rope_kind(self.program.spec.rope.kind) {
            rope(kind, head, self.angles_of(column));
        }
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
    fn is_decode(&self) -> bool {
        2 * self.tables.len() > self.columns.len()
    }

    fn rows_of(&self, weights: &[MatrixId]) -> usize {
        weights.iter().map(|id| self.program.matrices[id.0].rows()).sum()
    }

    fn store_kv(
        &self,
        planes: &Reader<'_>,
        tile: &mut Tile<'_>,
        scratch: &mut Scratch,
        qkv: BufferId,
        norm: Option<VectorId>,
    ) {
        let KvLayout { heads, key_length, value_length, .. } = self.layout;
        let attention = &self.program.spec.attention;
        let keys_at = attention.head_count * key_length;
        let values_at = keys_at + heads * key_length;
        let column = tile.columns.start;
        let is_key = column < heads;
        let (at, length) = match is_key {
            true => (keys_at + column * key_length, key_length),
            false => (values_at + (column - heads) * value_length, value_length),
        };
        for (c, token) in self.columns.iter().enumerate() {
            let head = &mut scratch.floats;
            head.clear();
            head.extend_from_slice(&self.column(planes, qkv, c)[at..at + length]);
            if is_key {
                self.prepare(head, norm, c);
            }
            let slot = slot(self.tables[token.sequence], token.position);
            match (self.layout.kv, self.layout.kv.blocks()) {
                (_, Some(blocks)) => {
                    let column = bytemuck::cast_slice_mut(tile.f16(0));
                    match is_key {
                        true => blocks.put_key(column, slot, head),
                        false => blocks.put_value(column, slot, head),
                    }
                }
                (KvType::F32, _) if is_key => self.layout.put_key(tile.f32(0), slot, head),
                (KvType::F32, _) => self.layout.put_value(tile.f32(0), slot, head),
                _ => {
                    scratch.halves.resize(length, 0);
                    to_f16(self.level, head, &mut scratch.halves);
                    match is_key {
                        true => self.layout.put_key(tile.f16(0), slot, &scratch.halves),
                        false => self.layout.put_value(tile.f16(0), slot, &scratch.halves),
                    }
                }
            }
        }
    }

    fn attend(
        &self,
        planes: &Reader<'_>,
        tile: &mut Tile<'_>,
        scratch: &mut Scratch,
        (block, qkv, norm, window): (usize, BufferId, Option<VectorId>, Option<usize>),
    ) {
        // Columns of one sequence share each read of the cache.
        let mut start = tile.columns.start;
        while start < tile.columns.end {
            let sequence = self.columns[start].sequence;
            let same = self.columns[start..tile.columns.end].iter().take_while(|c| c.sequence == sequence);
            let end = start + same.count();
            self.attend_one(planes, tile, scratch, start..end, (block, qkv, norm, window));
            start = end;
        }
    }

    /// Attention of columns of one sequence.
    fn attend_one(
        &self,
        planes: &Reader<'_>,
        tile: &mut Tile<'_>,
        scratch: &mut Scratch,
        columns: std::ops::Range<usize>,
        (block, qkv, norm, window): (usize, BufferId, Option<VectorId>, Option<usize>),
    ) {
        let spec = &self.program.spec;
        let KvLayout { heads, key_length, value_length, .. } = self.layout;
        let group = spec.group();
        let kv_head = tile.rows.start / (group * value_length);
        scratch.queries.clear();
        scratch.positions.clear();
        for c in columns.clone() {
            let end = self.columns[c].position + 1;
            let start = window.map_or(0, |w| end.saturating_sub(w));
            let first = kv_head * group * key_length;
            let queries = &self.column(planes, qkv, c)[first..first + group * key_length];
            for query in queries.chunks_exact(key_length) {
                let at = scratch.queries.len();
                scratch.queries.extend_from_slice(query);
                self.prepare(&mut scratch.queries[at..], norm, c);
                scratch.positions.push(start..end);
            }
        }
        let width = self.layout.width().unwrap_or(0);
        let cached = |column: usize| {
            let range = column * width..(column + 1) * width;
            match (self.layout.kv, self.layout.kv.blocks()) {
                (_, Some(blocks)) => {
                    Cached::Blocks(blocks, bytemuck::cast_slice(&planes.f16(self.kv[block])[range]))
                }
                (KvType::F32, _) => Cached::F32(&planes.f32(self.kv[block])[range]),
                _ => Cached::F16(&planes.f16(self.kv[block])[range]),
            }
        };
        let head = Head {
            keys: cached(kv_head),
            values: cached(heads + kv_head),
            pages: self.tables[self.columns[columns.start].sequence],
            key_length,
            value_length,
            scale: spec.attention.scale,
            soft_cap: spec.attention.soft_cap,
        };
        let Scratch { queries, positions, scores, floats, .. } = scratch;
        floats.clear();
        floats.resize(positions.len() * value_length, 0.0);
        attention(self.level, &head, queries, positions, scores, floats);
        let first = columns.start - tile.columns.start;
        for (c, out) in floats.chunks_exact(group * value_length).enumerate() {
            tile.f32(first + c).copy_from_slice(out);
        }
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
            | Op::RmsNorm { out, .. }
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
        let epsilon = self.program.spec.norm.epsilon;
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
            Op::RmsNorm { input, weight, out } => {
                let x = self.column(planes, *input, c);
                scratch.floats.resize(x.len(), 0.0);
                rms_norm(self.level, x, self.vector(*weight), epsilon, &mut scratch.floats);
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
            Op::StoreKv { qkv, norm, .. } => self.store_kv(planes, tile, scratch, *qkv, *norm),
            Op::Attention { block, qkv, norm, window, .. } => {
                self.attend(planes, tile, scratch, (*block, *qkv, *norm, *window));
            }
            Op::Gate { input, out } => {
                let unit = match self.program.buffers[out.0].element {
                    Element::F32 => 1,
                    Element::Blocks => BLOCK,
                };
                let rows = tile.rows.start * unit..tile.rows.end * unit;
                let (gate, up) = self.column(planes, *input, c).split_at(self.program.buffers[out.0].width);
                let activation = match self.program.spec.feed_forward.activation {
                    Activation::GeluTanh => elementwise::Activation::GeluTanh,
                    // The lowering lets no other through.
                    _ => elementwise::Activation::Silu,
                };
                scratch.floats.clear();
                scratch.floats.extend_from_slice(&gate[rows.clone()]);
                gated(self.level, activation, &mut scratch.floats, &up[rows]);
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
