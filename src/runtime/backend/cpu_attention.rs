//! Attention on the CPU: keys and values go to the cache, queries look at it.

use std::ops::Range;

use mdl_kernels::ops::attention::{Cached, Head, attention};
use mdl_kernels::ops::elementwise::{scale, to_f16};
use mdl_kernels::ops::norm::{layer_norm_in_place, rms_norm_in_place, rms_scale};
use mdl_kernels::ops::rope::rope;
use mdl_kernels::region::{Reader, Tile};

use super::cpu_step::{CpuOp, Scratch, rope_kind};
use crate::families::spec::QkNorm;
use crate::runtime::kv::{KvLayout, KvType, PAGE, slot};
use crate::runtime::program::{BufferId, VectorId};

/// What happens to the head of a query or key first.
#[derive(Clone, Copy)]
pub(super) struct Prepare {
    pub norm: Option<VectorId>,
    /// The number of the rotation.
    pub rotation: Option<usize>,
}

/// An operation of attention.
pub(super) struct Attend {
    pub block: usize,
    pub qkv: BufferId,
    pub prepare: Prepare,
    pub window: Option<usize>,
    pub out: BufferId,
}

impl CpuOp<'_> {
    /// What a norm over all heads of a column multiplies with, where there is one.
    fn norm_factor(&self, all: &[f32], prepare: Prepare) -> f32 {
        match (prepare.norm, self.program.spec.attention.qk_norm) {
            (Some(_), Some(QkNorm::All)) => rms_scale(self.level, all, self.program.spec.norm.epsilon),
            _ => 1.0,
        }
    }

    /// Norm, where there is one, and rotation of a query or key: head `i`, with the factor of the norm over all.
    fn prepare(&self, head: &mut [f32], (i, factor): (usize, f32), prepare: Prepare, column: usize) {
        let (length, epsilon) = (head.len(), self.program.spec.norm.epsilon);
        if let Some(norm) = prepare.norm {
            let weight = self.vector(norm);
            match self.program.spec.attention.qk_norm {
                Some(QkNorm::All) => {
                    let weight = &weight[i * length..(i + 1) * length];
                    head.iter_mut().zip(weight).for_each(|(v, w)| *v = *v * factor * w);
                }
                Some(QkNorm::LayerOfHead) => {
                    let weight = &weight[i * length..(i + 1) * length];
                    layer_norm_in_place(self.level, head, weight, None, epsilon);
                }
                _ => rms_norm_in_place(self.level, head, weight, epsilon),
            }
        }
        if let (Some(kind), Some(rotation)) = (rope_kind(self.program.spec.rope.kind), prepare.rotation) {
            let size = 2 * self.program.rotations[rotation].pairs();
            rope(self.level, kind, head, &self.angles[rotation][column * size..(column + 1) * size]);
        }
    }

    /// The last position of the sequence that column `c` is of, in this step.
    pub(super) fn last_position(&self, c: usize) -> usize {
        let sequence = self.columns[c].sequence;
        let same = self.columns[c..].iter().take_while(|column| column.sequence == sequence);
        same.last().map_or(0, |column| column.position)
    }

    /// The positions that a query sees; `last` is the sequence's last.
    pub(super) fn sees(&self, position: usize, last: usize, window: Option<usize>) -> Range<usize> {
        super::sees(self.program, position, last, window)
    }

    pub(super) fn store_kv(
        &self,
        planes: &Reader<'_>,
        tile: &mut Tile<'_>,
        scratch: &mut Scratch,
        qkv: BufferId,
        prepare: Prepare,
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
        let mut start = 0;
        while start < self.columns.len() {
            let run = start..start + self.in_one_page(start);
            start = run.end;
            let heads = &mut scratch.floats;
            heads.clear();
            for c in run.clone() {
                heads.extend_from_slice(&self.column(planes, qkv, c)[at..at + length]);
                if is_key {
                    let all = &self.column(planes, qkv, c)[keys_at..values_at];
                    let first = heads.len() - length;
                    self.prepare(&mut heads[first..], (column, self.norm_factor(all, prepare)), prepare, c);
                }
            }
            let first = &self.columns[run.start];
            let slot = slot(self.tables[first.sequence], first.position);
            match (self.layout.kv, self.layout.kv.blocks()) {
                (_, Some(blocks)) => {
                    let column = bytemuck::cast_slice_mut(tile.f16(0));
                    for (i, head) in heads.chunks_exact(length).enumerate() {
                        match is_key {
                            true => blocks.put_key(column, slot + i, head),
                            false => blocks.put_value(column, slot + i, head),
                        }
                    }
                }
                (KvType::F32, _) if is_key => self.layout.put_keys(tile.f32(0), slot, heads),
                (KvType::F32, _) => self.layout.put_values(tile.f32(0), slot, heads),
                _ => {
                    scratch.halves.resize(heads.len(), 0);
                    to_f16(self.level, heads, &mut scratch.halves);
                    match is_key {
                        true => self.layout.put_keys(tile.f16(0), slot, &scratch.halves),
                        false => self.layout.put_values(tile.f16(0), slot, &scratch.halves),
                    }
                }
            }
        }
    }

    /// Columns from `start` on that go to one page.
    fn in_one_page(&self, start: usize) -> usize {
        let first = &self.columns[start];
        let page = (first.sequence, first.position / PAGE);
        let same = self.columns[start..].iter().take_while(|c| (c.sequence, c.position / PAGE) == page);
        same.count()
    }

    pub(super) fn attend(
        &self,
        planes: &Reader<'_>,
        tile: &mut Tile<'_>,
        scratch: &mut Scratch,
        op: &Attend,
    ) {
        // Columns of one sequence share each read of the cache.
        let mut start = tile.columns.start;
        while start < tile.columns.end {
            let sequence = self.columns[start].sequence;
            let same = self.columns[start..tile.columns.end].iter().take_while(|c| c.sequence == sequence);
            let end = start + same.count();
            self.attend_one(planes, tile, scratch, start..end, op);
            start = end;
        }
    }

    /// Attention of columns of one sequence.
    fn attend_one(
        &self,
        planes: &Reader<'_>,
        tile: &mut Tile<'_>,
        scratch: &mut Scratch,
        columns: Range<usize>,
        op: &Attend,
    ) {
        let width = self.program.spec.group() * self.layout.value_length;
        let kv_head = tile.rows.start * self.unit(op.out) / width;
        self.queries(planes, scratch, columns.clone(), kv_head, op);
        let head = self.head(planes, kv_head, columns.start, op);
        let Scratch { queries, positions, attention: kept, floats, .. } = scratch;
        floats.clear();
        floats.resize(columns.len() * width, 0.0);
        attention(self.level, &head, queries, positions, kept, floats);
        let first = columns.start - tile.columns.start;
        for (c, out) in floats.chunks_exact(width).enumerate() {
            self.put(op.out, tile, first + c, out);
        }
    }

    /// Puts the queries of a key/value head's group into the scratch, and what they see: columns of one sequence.
    pub(super) fn queries(
        &self,
        planes: &Reader<'_>,
        scratch: &mut Scratch,
        columns: Range<usize>,
        kv_head: usize,
        op: &Attend,
    ) {
        let spec = &self.program.spec;
        let (group, key_length) = (spec.group(), self.layout.key_length);
        let last = self.last_position(columns.start);
        scratch.queries.clear();
        scratch.positions.clear();
        for c in columns {
            let range = self.sees(self.columns[c].position, last, op.window);
            let first = kv_head * group;
            let all = &self.column(planes, op.qkv, c)[..spec.attention.head_count * key_length];
            let factor = self.norm_factor(all, op.prepare);
            let temperature = super::temperature(self.program, self.columns[c].position);
            let at = scratch.queries.len();
            scratch.queries.extend_from_slice(&all[first * key_length..(first + group) * key_length]);
            for (i, query) in scratch.queries[at..].chunks_exact_mut(key_length).enumerate() {
                self.prepare(query, (first + i, factor), op.prepare, c);
                if temperature != 1.0 {
                    scale(self.level, query, temperature);
                }
                scratch.positions.push(range.clone());
            }
        }
    }

    /// The keys and values that the sequence of column `c` has of a head.
    pub(super) fn head<'p>(&'p self, planes: &Reader<'p>, kv_head: usize, c: usize, op: &Attend) -> Head<'p> {
        let KvLayout { heads, key_length, value_length, .. } = self.layout;
        let attention = &self.program.spec.attention;
        let width = self.layout.width().unwrap_or(0);
        let cached = |column: usize| {
            let range = column * width..(column + 1) * width;
            match (self.layout.kv, self.layout.kv.blocks()) {
                (_, Some(blocks)) => {
                    Cached::Blocks(blocks, bytemuck::cast_slice(&planes.f16(self.kv[op.block])[range]))
                }
                (KvType::F32, _) => Cached::F32(&planes.f32(self.kv[op.block])[range]),
                _ => Cached::F16(&planes.f16(self.kv[op.block])[range]),
            }
        };
        Head {
            keys: cached(kv_head),
            values: cached(heads + kv_head),
            pages: self.tables[self.columns[c].sequence],
            key_length,
            value_length,
            scale: attention.scale,
            soft_cap: attention.soft_cap,
        }
    }
}
