//! What an operation of a step on the CPU knows, and what all kinds of them need.

use mdl_kernels::Level;
use mdl_kernels::ops::activation::{ActivationBlock, BLOCK, quantize_activations};
use mdl_kernels::ops::attention;
use mdl_kernels::ops::matmul::{Packed, Panel};
use mdl_kernels::ops::norm::{layer_norm, rms_norm};
use mdl_kernels::ops::rope::{self, Frequencies};
use mdl_kernels::region::{Grid, PlaneId, Reader, Tile};

use super::Column;
use super::cpu_split::Stage;
use crate::families::spec::{NormKind, RopeKind};
use crate::runtime::kv::{KvLayout, PageId};
use crate::runtime::program::{BufferId, Element, Extent, Norm, Op, Program, Room, VectorId};

/// Columns whose queries attention takes at once, of `group` heads each: they share each read of the cache.
pub(super) const fn attention_columns(group: usize) -> usize {
    let columns = attention::TILE / group;
    if columns == 0 { 1 } else { columns }
}

/// Rows of a weight that are unpacked together.
pub(super) const PANEL_ROWS: usize = 16;

/// Rows of gate and up that a tile has at most, of so many columns: both should stay in the second cache until they
/// are multiplied, but fewer rows would lay the columns out for more tiles.
pub(super) fn gated_rows(columns: usize) -> usize {
    /// Floats of each.
    const ROOM: usize = 1 << 17;
    (ROOM / columns.max(1) / BLOCK * BLOCK).clamp(BLOCK, 256)
}

/// Who computes the norm that a product is of. For one column it is little work, which one thread would do while
/// the others wait: so each does it for itself.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum OwnNorm {
    /// The operation itself, for all.
    No,
    /// Not this operation: the product after it.
    Skipped,
    /// This product, on each thread. `stamp` is another for every operation of every step.
    Here { input: BufferId, norm: Norm, stamp: u64 },
}

/// A column that a thread has normed for itself.
#[derive(Default)]
pub(super) struct Normed {
    /// The stamp of the operation; 0 for none.
    pub of: u64,
    pub floats: Vec<f32>,
    pub blocks: Vec<ActivationBlock>,
}

/// What a thread keeps from tile to tile.
#[derive(Default)]
pub(super) struct Scratch {
    pub panel: Panel,
    pub floats: Vec<f32>,
    pub gate_up: Vec<f32>,
    pub normed: Normed,
    pub blocks: Vec<ActivationBlock>,
    pub queries: Vec<f32>,
    pub attention: attention::Scratch,
    pub positions: Vec<std::ops::Range<usize>>,
    pub halves: Vec<u16>,
}

impl Scratch {
    /// Bytes of one thread's scratch at most.
    pub(super) fn bytes(program: &Program, room: &Room) -> u64 {
        let cols = program.matrices.iter().map(|m| m.cols()).max().unwrap_or(0);
        let attention = &program.spec.attention;
        let queries = attention_columns(program.spec.group()).min(room.columns.max(1)) * program.spec.group();
        let attend = attention::Scratch::bytes(attention.key_length, attention.value_length);
        let gated = 2 * room.columns.saturating_mul(gated_rows(room.columns));
        let vectors = queries * (attention.key_length + attention.value_length) + 4 * cols;
        (Panel::bytes(cols, room.columns) as u64)
            .saturating_add(attend as u64)
            .saturating_add((gated as u64).saturating_mul(4))
            .saturating_add(vectors as u64 * 4)
    }
}

/// An operation of a step, or a stage of one, with what it needs to know of the step.
#[derive(Clone, Copy)]
pub(super) struct CpuOp<'a> {
    pub op: &'a Op,
    pub norm: OwnNorm,
    pub program: &'a Program,
    /// The matrices of the program in panels, where they are.
    pub packed: &'a [Option<Packed>],
    pub level: Level,
    pub threads: usize,
    pub columns: &'a [Column],
    /// The pages of each sequence.
    pub tables: &'a [&'a [PageId]],
    pub outputs: &'a [usize],
    /// Cosines and sines of each rotation: `[columns, 2, pairs]`.
    pub angles: &'a [Vec<f32>],
    pub layout: KvLayout,
    pub kv: &'a [PlaneId],
    /// The parts of attention.
    pub parts: PlaneId,
    pub stage: Stage,
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

/// Writes the norm of `x` that `program` puts at `norm` to `out`.
pub(super) fn normalize(level: Level, program: &Program, norm: &Norm, x: &[f32], out: &mut [f32]) {
    let (weight, epsilon) = (&program.vectors[norm.weight.0], program.spec.norm.epsilon);
    match program.spec.norm.kind {
        NormKind::Rms => rms_norm(level, x, weight, epsilon, out),
        NormKind::Layer => {
            let bias = norm.bias.map(|id| &*program.vectors[id.0]);
            layer_norm(level, x, weight, bias, epsilon, out);
        }
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
    pub(super) fn put(&self, out: BufferId, tile: &mut Tile<'_>, c: usize, values: &[f32]) {
        match self.program.buffers[out.0].element {
            Element::F32 => tile.f32(c).copy_from_slice(values),
            Element::Blocks => quantize_activations(self.level, values, tile.blocks(c)),
        }
    }

    /// Puts what `compute` writes into a column of a tile: in place, or by way of `room`, which is as long,
    /// and quantized if the buffer is of blocks.
    pub(super) fn put_with(
        &self,
        out: BufferId,
        tile: &mut Tile<'_>,
        c: usize,
        room: &mut [f32],
        compute: impl FnOnce(&mut [f32]),
    ) {
        match self.program.buffers[out.0].element {
            Element::F32 => compute(tile.f32(c)),
            Element::Blocks => {
                compute(room);
                quantize_activations(self.level, room, tile.blocks(c));
            }
        }
    }

    /// Values of a buffer for each value of its plane.
    pub(super) fn unit(&self, id: BufferId) -> usize {
        match self.program.buffers[id.0].element {
            Element::F32 => 1,
            Element::Blocks => BLOCK,
        }
    }

    /// How many of `units` that cost the same a tile of a product has, `most` at most: so many that the shares of the
    /// threads are as equal as can be. Each thread has several tiles, so that a slow one is waited for less; fewer
    /// where there are many columns, which each tile lays out, and of one column, of which a tile is little work.
    pub(super) fn share(&self, units: usize, columns: usize, most: usize) -> usize {
        let own = units.div_ceil(self.threads).max(1);
        let least = own.div_ceil(most).max(if columns > 8 || columns == 1 { 3 } else { 6 });
        let tiles = (least..=least + 3).min_by_key(|tiles| own.next_multiple_of(own.div_ceil(*tiles)) - own);
        own.div_ceil(tiles.unwrap_or(least))
    }

    /// Whole columns, one a tile.
    pub(super) fn by_column(&self, out: BufferId) -> Grid {
        let rows = self.program.buffers[out.0].width / self.unit(out);
        Grid { columns: 0..self.count(out), tile_columns: 1, rows: 0..rows, tile_rows: rows }
    }

    /// True when most columns stand for a sequence of their own.
    pub(super) fn is_decode(&self) -> bool {
        2 * self.tables.len() > self.columns.len()
    }
}
