//! Attention of a few queries over a long context: cut by chunks of positions too, so that every thread has work.
//!
//! One operation computes the parts that the chunks have, another merges them in order. The result is the same to
//! the bit, because attention is defined by its chunks (`mdl_kernels::ops::attention`).

use mdl_kernels::ops::attention::{CHUNK, TILE, chunks, merge, part, part_len};
use mdl_kernels::region::{Grid, PlaneId, Reader, Tile};

use super::cpu_attention::Attend;
use super::cpu_step::{CpuOp, Scratch};
use crate::runtime::kv::KvLayout;
use crate::runtime::program::{Op, Program, Room};

/// Tiles a thread should have, so that a slow one is waited for less.
const TILES_OF_THREAD: usize = 4;

/// Chunks of a tile at most: more would save nothing, as the queries are prepared once for each tile.
const LONGEST_RUN: usize = 8;

/// Chunks from which on a second operation is worth its barrier.
const WORTH: usize = 3;

/// What part of an operation is computed.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Stage {
    Whole,
    /// The parts of attention.
    Parts(Split),
    /// The sum of the parts.
    Merge(Split),
}

/// How attention is cut. The parts of a column are `[kv heads, chunks, group, part_len]`.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) struct Split {
    /// Chunks there is room for: those of the column that sees most, in whole runs.
    chunks: usize,
    /// Chunks of a tile.
    run: usize,
}

/// Columns and width of the plane of parts: what the largest step that is split takes.
pub(super) fn plane(program: &Program, room: &Room, threads: usize) -> (usize, usize) {
    let attention = &program.spec.attention;
    let columns = (TILES_OF_THREAD * threads).div_ceil(attention.head_count_kv.max(1)).min(room.columns);
    // A window can begin and end within a chunk.
    let chunks = room.context.div_ceil(CHUNK).saturating_add(1 + LONGEST_RUN);
    (columns, chunks.saturating_mul(attention.head_count).saturating_mul(part_len(attention.value_length)))
}

impl CpuOp<'_> {
    /// How this step's attention is cut, if it is.
    pub(super) fn split(&self) -> Option<Split> {
        let Op::Attention { window, .. } = self.op else { return None };
        let tiles = self.columns.len() * self.layout.heads;
        let alone = self.threads == 1 || !self.is_decode();
        if alone || self.program.spec.group() > TILE || tiles >= TILES_OF_THREAD * self.threads {
            return None;
        }
        let seen = (0..self.columns.len()).map(|c| self.chunks_of(c, *window).len());
        let chunks = seen.max().unwrap_or(0);
        if chunks < WORTH {
            return None;
        }
        let run = (tiles * chunks / (TILES_OF_THREAD * self.threads)).clamp(1, LONGEST_RUN);
        Some(Split { chunks: chunks.next_multiple_of(run), run })
    }

    /// The chunks that the query of column `c` sees.
    fn chunks_of(&self, c: usize, window: Option<usize>) -> std::ops::Range<usize> {
        chunks(&self.sees(self.columns[c].position, self.last_position(c), window))
    }

    /// Floats of a chunk's parts, for the group of a key/value head.
    fn part_width(&self) -> usize {
        self.program.spec.group() * part_len(self.layout.value_length)
    }

    pub(super) fn grid_of_parts(&self, split: Split) -> Grid {
        let width = self.part_width();
        Grid {
            columns: 0..self.columns.len(),
            tile_columns: 1,
            rows: 0..self.layout.heads * split.chunks * width,
            tile_rows: split.run * width,
        }
    }

    /// The parts of a run of chunks of a key/value head.
    pub(super) fn parts(
        &self,
        planes: &Reader<'_>,
        tile: &mut Tile<'_>,
        scratch: &mut Scratch,
        op: &Attend,
        split: Split,
    ) {
        let (c, width) = (tile.columns.start, self.part_width());
        let first = tile.rows.start / width;
        let (kv_head, first) = (first / split.chunks, first % split.chunks);
        let seen = self.chunks_of(c, op.window);
        let run = seen.start + first..seen.end.min(seen.start + first + split.run);
        if run.is_empty() {
            return;
        }
        self.queries(planes, scratch, c..c + 1, kv_head, op);
        let head = self.head(planes, kv_head, c, op);
        let Scratch { queries, positions, attention, .. } = scratch;
        for (chunk, out) in run.zip(tile.f32(0).chunks_exact_mut(width)) {
            part(self.level, &head, queries, positions, chunk, attention, out);
        }
    }

    /// Merges the parts of the heads of a group.
    pub(super) fn merge(
        &self,
        planes: &Reader<'_>,
        tile: &mut Tile<'_>,
        scratch: &mut Scratch,
        (op, parts, split): (&Attend, PlaneId, Split),
    ) {
        let KvLayout { value_length, .. } = self.layout;
        let (c, width) = (tile.columns.start, self.part_width());
        let group = self.program.spec.group();
        let kv_head = tile.rows.start * self.unit(op.out) / (group * value_length);
        let first = c * planes.width(parts) + kv_head * split.chunks * width;
        let parts = &planes.f32(parts)[first..][..self.chunks_of(c, op.window).len() * width];
        let Scratch { attention, floats, .. } = scratch;
        floats.resize((group * value_length).max(floats.len()), 0.0);
        self.put_with(op.out, tile, 0, &mut floats[..group * value_length], |heads| {
            for (i, out) in heads.chunks_exact_mut(value_length).enumerate() {
                let length = part_len(value_length);
                let parts = parts.chunks_exact(width).map(|chunk| &chunk[i * length..(i + 1) * length]);
                merge(self.level, parts, attention, out);
            }
        });
    }
}
