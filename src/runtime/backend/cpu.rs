//! The CPU: one parallel region per step, a barrier after each operation.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use mdl_kernels::Level;
use mdl_kernels::ops::elementwise::{all_finite, from_f16, to_f16};
use mdl_kernels::ops::matmul::Packed;
use mdl_kernels::ops::rope::rope;
use mdl_kernels::region::{Kind, PlaneId, Planes, Team};
use rayon::prelude::*;

use super::cpu_split::{self, Stage};
use super::cpu_step::{CpuOp, OwnNorm, Scratch, angles, normalize, rope_kind};
use super::{Backend, Column, Observer, State, check_room, check_step, count, not_finite, observe};
use crate::diagnostic::{Diagnostic, Errors, Result};
use crate::runtime::fuse::is_read;
use crate::runtime::kv::{KvLayout, KvType, PAGE, PageId, Shift, slot};
use crate::runtime::program::{BufferId, Element, Extent, Hidden, Op, Program, Room};

/// How the CPU works.
#[derive(Clone, Copy, Debug, Default)]
pub struct CpuOptions {
    /// Threads; `None` for one per core.
    pub threads: Option<usize>,
    /// Instruction set; `None` for [`Level::current`].
    pub level: Option<Level>,
}

/// A model on the CPU.
pub struct Cpu {
    shared: Arc<Shared>,
}

struct Shared {
    program: Program,
    /// The matrices that a step multiplies with, in panels.
    packed: Vec<Option<Packed>>,
    level: Level,
    team: Team<Scratch>,
    /// For each operation: the columns of a norm that only the product after it reads.
    own_norms: Vec<Option<Extent>>,
    /// The stamp of the next operation of a step.
    stamps: AtomicU64,
}

impl Cpu {
    /// Takes a program and packs its weights.
    ///
    /// # Errors
    /// There is no memory for them, or the system refuses threads.
    pub fn new(program: Program, options: &CpuOptions) -> Result<Cpu> {
        let threads = options
            .threads
            .or_else(|| std::thread::available_parallelism().ok().map(usize::from))
            .unwrap_or(1)
            .clamp(1, 1024);
        let team = Team::new(threads, Scratch::default)
            .map_err(|e| Diagnostic::environment(format!("cannot start {threads} compute threads: {e}")))?;
        let level = options.level.unwrap_or_else(Level::current);
        let packed = pack(&program)?;
        let own_norms = own_norms(&program);
        let stamps = AtomicU64::new(1);
        Ok(Cpu { shared: Arc::new(Shared { program, packed, level, team, own_norms, stamps }) })
    }

    /// The instruction set in use.
    pub fn level(&self) -> Level {
        self.shared.level
    }

    /// The number of threads.
    pub fn threads(&self) -> usize {
        self.shared.team.threads()
    }
}

/// Every matrix that is multiplied with, in panels; a table that is only looked up stays as it is. What has been
/// packed is no longer held as it is in its file, so that there is one copy of the weights, and of a few
/// matrices two; rows of it may still be looked up.
fn pack(program: &Program) -> Result<Vec<Option<Packed>>> {
    let mut multiplied = vec![false; program.matrices.len()];
    program.ops.iter().flat_map(Op::weights).for_each(|id| multiplied[id.0] = true);
    let matrices = program.matrices.par_iter().zip(multiplied);
    matrices
        .map(|(matrix, multiplied)| {
            if !multiplied {
                return Ok(None);
            }
            let packed = Packed::new(&matrix.weight()).map_err(|e| {
                let message = format!("there is no memory for the weights: {e}");
                Diagnostic::environment(message).code("out-of-memory")
            })?;
            if packed.is_some() {
                matrix.release();
            }
            Ok(packed)
        })
        .collect()
}

/// For each operation: the columns of a norm that only the product after it reads, and could compute itself.
fn own_norms(program: &Program) -> Vec<Option<Extent>> {
    let own = |i: usize| {
        let Op::Norm { input, out, .. } = program.ops[i] else { return None };
        let next = program.ops.get(i + 1)?;
        let is_of_product = match next {
            Op::MatMul { input: from, .. } | Op::GatedMatMul { input: from, .. } => *from == out,
            _ => false,
        };
        // The product would read what it writes.
        let is_in_place = next.out() == Some(input);
        let is_wanted = program.hidden == Hidden::Buffer(out) || is_read(&program.ops[i + 2..], out);
        (is_of_product && !is_in_place && !is_wanted).then_some(program.buffers[out.0].extent)
    };
    (0..program.ops.len()).map(own).collect()
}

/// The buffer that the hidden states are in, or are made of.
fn hidden_buffer(program: &Program) -> BufferId {
    match program.hidden {
        Hidden::Buffer(id) | Hidden::Norm { input: id, .. } => id,
    }
}

impl Backend for Cpu {
    fn program(&self) -> &Program {
        &self.shared.program
    }

    fn scratch_bytes(&self, room: &Room) -> u64 {
        let (columns, width) = cpu_split::plane(&self.shared.program, room, self.threads());
        let parts = (columns as u64).saturating_mul(width as u64).saturating_mul(4);
        let scratch = Scratch::bytes(&self.shared.program, room).saturating_mul(self.threads() as u64);
        scratch.saturating_add(parts)
    }

    fn state(&self, room: &Room) -> Result<Box<dyn State>> {
        let program = &self.shared.program;
        check_room(program, room)?;
        let refused = |what: &str| {
            let memory = program.memory(room);
            Errors::from(
                Diagnostic::environment(format!(
                    "there is no memory for {what}: a context of {} takes {} bytes of cache and {} of buffers",
                    room.context, memory.kv, memory.buffers
                ))
                .code("out-of-memory")
                .help("choose a smaller context"),
            )
        };
        let mut planes = Planes::default();
        for buffer in &program.buffers {
            let columns = match buffer.extent {
                Extent::Columns => room.columns,
                Extent::Outputs => room.outputs,
            };
            let (kind, width) = match buffer.element {
                Element::F32 => (Kind::F32, buffer.width),
                Element::Blocks => (Kind::Blocks, buffer.width / mdl_kernels::ops::activation::BLOCK),
            };
            planes.add(kind, columns, width).map_err(|_| refused("the buffers"))?;
        }
        let layout = KvLayout::new(&program.spec, room.pages, room.kv);
        let kind = match room.kv {
            KvType::F32 => Kind::F32,
            KvType::F16 | KvType::Q8_0 | KvType::Q4_0 => Kind::F16,
        };
        let mut kv = Vec::new();
        for _ in 0..program.spec.block_count {
            let width = layout.width().ok_or_else(|| refused("the cache"))?;
            kv.push(planes.add(kind, layout.columns(), width).map_err(|_| refused("the cache"))?);
        }
        let (columns, width) = cpu_split::plane(program, room, self.threads());
        let parts = planes.add(Kind::F32, columns, width).map_err(|_| refused("attention"))?;
        Ok(Box::new(CpuState {
            shared: self.shared.clone(),
            room: *room,
            layout,
            planes,
            kv,
            parts,
            angles: vec![Vec::new(); program.rotations.len()],
            outputs: 0,
        }))
    }
}

struct CpuState {
    shared: Arc<Shared>,
    room: Room,
    layout: KvLayout,
    /// One for each buffer of the program, in order, then the cache.
    planes: Planes,
    /// The cache, a plane for each block.
    kv: Vec<PlaneId>,
    /// The parts of attention.
    parts: PlaneId,
    /// Cosines and sines of each rotation: `[columns, 2, pairs]`.
    angles: Vec<Vec<f32>>,
    /// Outputs of the last step.
    outputs: usize,
}

/// What is looked at while a step runs.
enum Watch<'a, 'b> {
    Nothing,
    Products(&'a mut Observer<'b>),
    Times(&'a mut Vec<Duration>),
}

impl CpuState {
    fn run(
        &mut self,
        ops: std::ops::Range<usize>,
        columns: &[Column],
        tables: &[&[PageId]],
        outputs: &[usize],
        times: Option<&mut Vec<Duration>>,
    ) {
        let shared = &self.shared;
        // Alone, an operation computes what it says.
        let is_whole = ops.len() == shared.program.ops.len();
        let first = shared.stamps.fetch_add(ops.len() as u64, Ordering::Relaxed);
        let count = |extent| count(extent, columns.len(), outputs.len());
        let norm = |i: usize| {
            let is_own = |i: &usize| {
                let extent = shared.own_norms.get(*i).copied().flatten();
                is_whole && extent.is_some_and(|extent| count(extent) == 1)
            };
            let before = i.checked_sub(1).filter(is_own).map(|i| &shared.program.ops[i]);
            match before {
                _ if is_own(&i) => OwnNorm::Skipped,
                Some(Op::Norm { input, norm, .. }) => {
                    OwnNorm::Here { input: *input, norm: *norm, stamp: first + i as u64 }
                }
                _ => OwnNorm::No,
            }
        };
        let mut operations = Vec::with_capacity(ops.len());
        for i in ops {
            let whole = CpuOp {
                op: &shared.program.ops[i],
                norm: norm(i),
                program: &shared.program,
                packed: &shared.packed,
                level: shared.level,
                threads: shared.team.threads(),
                columns,
                tables,
                outputs,
                angles: &self.angles,
                layout: self.layout,
                kv: &self.kv,
                parts: self.parts,
                stage: Stage::Whole,
            };
            match whole.split() {
                None => operations.push(whole),
                Some(split) => {
                    operations.push(CpuOp { stage: Stage::Parts(split), ..whole });
                    operations.push(CpuOp { stage: Stage::Merge(split), ..whole });
                }
            }
        }
        let Some(times) = times else { return shared.team.run(&mut self.planes, &operations) };
        times.clear();
        let measured = shared.team.run_timed(&mut self.planes, &operations);
        for (operation, time) in operations.iter().zip(measured) {
            match (&operation.stage, times.last_mut()) {
                (Stage::Merge(_), Some(parts)) => *parts += time,
                _ => times.push(time),
            }
        }
    }

    /// Runs the step one operation at a time, and shows what each product multiplies.
    fn run_observed(
        &mut self,
        columns: &[Column],
        tables: &[&[PageId]],
        outputs: &[usize],
        see: &mut Observer<'_>,
    ) {
        let shared = self.shared.clone();
        for i in 0..shared.program.ops.len() {
            if let Some(product) = observe::product(&shared.program, i) {
                let buffer = &shared.program.buffers[product.input.0];
                let count = match buffer.extent {
                    Extent::Columns => columns.len(),
                    Extent::Outputs => outputs.len(),
                };
                let chosen = product.chosen.map(|id| {
                    let width = shared.program.buffers[id.0].width;
                    self.planes.f32(PlaneId(id.0))[..count * width].to_vec()
                });
                let values = &self.planes.f32(PlaneId(product.input.0))[..count * buffer.width];
                product.show(chosen.as_deref(), values, count, see);
            }
            self.run(i..i + 1, columns, tables, outputs, None);
        }
    }

    fn step_with(
        &mut self,
        columns: &[Column],
        tables: &[&[PageId]],
        outputs: &[usize],
        watch: Watch<'_, '_>,
    ) -> Result<()> {
        self.outputs = 0;
        check_step(&self.shared.program, &self.room, columns, tables, outputs)?;
        let shared = self.shared.clone();
        for (rotation, table) in shared.program.rotations.iter().zip(&mut self.angles) {
            angles(rotation.frequencies(self.room.context), columns, table);
        }
        let all = 0..shared.program.ops.len();
        match watch {
            Watch::Nothing => self.run(all, columns, tables, outputs, None),
            Watch::Products(see) => self.run_observed(columns, tables, outputs, see),
            Watch::Times(times) => self.run(all, columns, tables, outputs, Some(times)),
        }
        let result = shared.program.logits.unwrap_or(hidden_buffer(&shared.program));
        let width = shared.program.buffers[result.0].width;
        let values = &self.planes.f32(PlaneId(result.0))[..outputs.len() * width];
        if !all_finite(shared.level, values) {
            return Err(self.diagnose(columns, tables, outputs));
        }
        self.outputs = outputs.len();
        Ok(())
    }

    /// Runs the step again, one operation at a time, to find the first result that is not finite.
    fn diagnose(&mut self, columns: &[Column], tables: &[&[PageId]], outputs: &[usize]) -> Errors {
        let shared = self.shared.clone();
        let program = &shared.program;
        for (i, op) in program.ops.iter().enumerate() {
            self.run(i..i + 1, columns, tables, outputs, None);
            let Some(out) = op.out() else { continue };
            let buffer = &program.buffers[out.0];
            if buffer.element != Element::F32 {
                continue;
            }
            let n = count(buffer.extent, columns.len(), outputs.len()) * buffer.width;
            if self.planes.f32(PlaneId(out.0))[..n].iter().any(|v| !v.is_finite()) {
                return not_finite(program, Some(i), columns);
            }
        }
        not_finite(program, None, columns)
    }
}

impl State for CpuState {
    fn step(&mut self, columns: &[Column], tables: &[&[PageId]], outputs: &[usize]) -> Result<()> {
        self.step_with(columns, tables, outputs, Watch::Nothing)
    }

    fn step_observed(
        &mut self,
        columns: &[Column],
        tables: &[&[PageId]],
        outputs: &[usize],
        see: &mut Observer<'_>,
    ) -> Result<()> {
        self.step_with(columns, tables, outputs, Watch::Products(see))
    }

    fn step_timed(
        &mut self,
        columns: &[Column],
        tables: &[&[PageId]],
        outputs: &[usize],
    ) -> Result<Vec<Duration>> {
        let mut times = Vec::new();
        self.step_with(columns, tables, outputs, Watch::Times(&mut times))?;
        Ok(times)
    }

    fn logits(&mut self, i: usize) -> &mut [f32] {
        assert!(i < self.outputs, "output {i} of {}", self.outputs);
        match self.all_logits().into_iter().nth(i) {
            Some(logits) => logits,
            None => panic!("a model of embeddings has no logits"),
        }
    }

    fn all_logits(&mut self) -> Vec<&mut [f32]> {
        let Some(logits) = self.shared.program.logits else { return Vec::new() };
        let width = self.shared.program.spec.vocab_size;
        self.planes.f32(PlaneId(logits.0)).chunks_exact_mut(width).take(self.outputs).collect()
    }

    fn hidden(&mut self, i: usize) -> Vec<f32> {
        assert!(i < self.outputs, "output {i} of {}", self.outputs);
        let shared = self.shared.clone();
        let program = &shared.program;
        let buffer = hidden_buffer(program);
        let width = program.buffers[buffer.0].width;
        let x = &self.planes.f32(PlaneId(buffer.0))[i * width..(i + 1) * width];
        let mut out = x.to_vec();
        if let Hidden::Norm { norm, .. } = &program.hidden {
            normalize(shared.level, program, norm, x, &mut out);
        }
        out
    }

    fn copy_page(&mut self, from: PageId, to: PageId) {
        assert!(from.index().max(to.index()) < self.room.pages, "a page is beyond the cache");
        let layout = self.layout;
        let width = layout.width().unwrap_or(0);
        for plane in &self.kv {
            for column in 0..layout.columns() {
                let length = if column < layout.heads { layout.key_length } else { layout.value_length };
                let page = PAGE * layout.kv.row(length);
                let at = |p: PageId| column * width + p.index() * page;
                let source = at(from)..at(from) + page;
                match self.room.kv {
                    KvType::F32 => self.planes.f32(*plane).copy_within(source, at(to)),
                    _ => self.planes.f16(*plane).copy_within(source, at(to)),
                }
            }
        }
    }

    fn shift(&mut self, shift: Shift, from: &[PageId], to: &[PageId]) {
        let Shift { keep, discard, len } = shift;
        let layout = self.layout;
        let shared = self.shared.clone();
        let kind = rope_kind(shared.program.spec.rope.kind);
        let spec = &shared.program.spec;
        // What is in the cache has been stretched already.
        let tables = shared.program.rotations.iter().map(|rotation| {
            let frequencies = rotation.frequencies(self.room.context).pure();
            let mut table = vec![0.0; 2 * frequencies.pairs()];
            frequencies.table(-(discard as i64), &mut table);
            table
        });
        let tables: Vec<Vec<f32>> = tables.collect();
        let turn = |block: usize, key: &mut [f32]| {
            if let (Some(kind), Some(table)) = (kind, tables.get(usize::from(spec.is_local(block)))) {
                rope(shared.level, kind, key, table);
            }
        };
        // Positions only move down, so in order nothing is overwritten that is still to be read.
        let moves = |p: usize| (slot(from, p), slot(to, if p < keep { p } else { p - discard }));
        let stay = (0..keep).map(|p| (false, moves(p))).filter(|(_, (a, b))| a != b);
        let moved = (keep + discard..len).map(|p| (true, moves(p)));
        let moves: Vec<(bool, (usize, usize))> = stay.chain(moved).collect();
        let width = layout.width().unwrap_or(0);
        let (mut wide, mut narrow) = (vec![0f32; layout.key_length], vec![0u16; layout.key_length]);
        for (block, plane) in self.kv.iter().enumerate() {
            for head in 0..layout.columns() {
                let range = head * width..(head + 1) * width;
                let is_key = head < layout.heads;
                let row = layout.kv.row(layout.value_length);
                for (turned, (a, b)) in &moves {
                    let value = a * row..(a + 1) * row;
                    if layout.kv == KvType::F32 {
                        let column = &mut self.planes.f32(*plane)[range.clone()];
                        if !is_key {
                            column.copy_within(value, b * row);
                            continue;
                        }
                        layout.get_key(column, *a, &mut wide);
                        if *turned {
                            turn(block, &mut wide);
                        }
                        layout.put_key(column, *b, &wide);
                        continue;
                    }
                    let column = &mut self.planes.f16(*plane)[range.clone()];
                    if !is_key {
                        column.copy_within(value, b * row);
                        continue;
                    }
                    if let Some(blocks) = layout.kv.blocks() {
                        let column = bytemuck::cast_slice_mut(column);
                        blocks.get_key(column, *a, &mut wide);
                        if *turned {
                            turn(block, &mut wide);
                        }
                        blocks.put_key(column, *b, &wide);
                        continue;
                    }
                    layout.get_key(column, *a, &mut narrow);
                    if *turned {
                        from_f16(shared.level, &narrow, &mut wide);
                        turn(block, &mut wide);
                        to_f16(shared.level, &wide, &mut narrow);
                    }
                    layout.put_key(column, *b, &narrow);
                }
            }
        }
    }
}
