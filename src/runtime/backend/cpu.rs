//! The CPU: one parallel region per step, a barrier after each operation.

use std::sync::Arc;

use mdl_kernels::Level;
use mdl_kernels::ops::elementwise::{from_f16, to_f16};
use mdl_kernels::ops::matmul::Packed;
use mdl_kernels::ops::rope::rope;
use mdl_kernels::region::{Kind, PlaneId, Planes, Team};

use super::cpu_ops::{CpuOp, Scratch, rope_kind};
use super::{Backend, Column, State};
use crate::diagnostic::{Diagnostic, Errors, Result};
use crate::runtime::kv::{KvLayout, KvType, Shift};
use crate::runtime::program::{Element, Extent, Op, Program, Room};

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
        Ok(Cpu { shared: Arc::new(Shared { program, packed, level, team }) })
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

/// Every matrix that is multiplied with, in panels; a table that is only looked up stays as it is.
fn pack(program: &Program) -> Result<Vec<Option<Packed>>> {
    let mut packed: Vec<Option<Packed>> = program.matrices.iter().map(|_| None).collect();
    for op in &program.ops {
        let Op::MatMul { weights, .. } = op else { continue };
        for id in weights {
            if packed[id.0].is_none() {
                packed[id.0] = Packed::new(&program.matrices[id.0].weight()).map_err(|e| {
                    let message = format!("there is no memory for the weights: {e}");
                    Diagnostic::environment(message).code("out-of-memory")
                })?;
            }
        }
    }
    Ok(packed)
}

impl Backend for Cpu {
    fn program(&self) -> &Program {
        &self.shared.program
    }

    fn scratch_bytes(&self, room: &Room) -> u64 {
        Scratch::bytes(&self.shared.program, room).saturating_mul(self.threads() as u64)
    }

    fn state(&self, room: &Room) -> Result<Box<dyn State>> {
        let program = &self.shared.program;
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
        let layout = KvLayout::new(&program.spec, room.context);
        let kind = match room.kv {
            KvType::F16 => Kind::F16,
            KvType::F32 => Kind::F32,
        };
        let mut kv = Vec::new();
        for _ in 0..program.spec.block_count {
            let width = layout.width().ok_or_else(|| refused("the cache"))?;
            kv.push(planes.add(kind, layout.columns(), width).map_err(|_| refused("the cache"))?);
        }
        let pairs = program.frequencies.as_ref().map_or(0, |f| f.pairs());
        Ok(Box::new(CpuState {
            shared: self.shared.clone(),
            room: *room,
            layout,
            planes,
            kv,
            angles: vec![0.0; 2 * pairs * room.columns],
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
    /// Cosines and sines: `[columns, pairs, 2]`.
    angles: Vec<f32>,
    /// Outputs of the last step.
    outputs: usize,
}

impl CpuState {
    fn check(&self, columns: &[Column], outputs: &[usize]) -> Result<()> {
        let program = &self.shared.program;
        let wrong = |what: String| Err(Diagnostic::error(what).code("invalid-step").into());
        if columns.is_empty() || columns.len() > self.room.columns || outputs.len() > self.room.outputs {
            return wrong(format!(
                "a step of {} tokens and {} outputs; there is room for {} and {}",
                columns.len(),
                outputs.len(),
                self.room.columns,
                self.room.outputs
            ));
        }
        if outputs.iter().any(|o| *o >= columns.len()) {
            return wrong("an output is no column of its step".to_owned());
        }
        for column in columns {
            if column.token as usize >= program.spec.vocab_size {
                return wrong(format!(
                    "token {} is beyond the vocabulary of {}",
                    column.token, program.spec.vocab_size
                ));
            }
            if column.position >= self.room.context {
                return wrong(format!(
                    "position {} is beyond the context of {}",
                    column.position, self.room.context
                ));
            }
        }
        Ok(())
    }

    fn run(&mut self, ops: std::ops::Range<usize>, columns: &[Column], outputs: &[usize]) {
        let shared = &self.shared;
        let operations: Vec<CpuOp<'_>> = shared.program.ops[ops]
            .iter()
            .map(|op| CpuOp {
                op,
                program: &shared.program,
                packed: &shared.packed,
                level: shared.level,
                threads: shared.team.threads(),
                columns,
                outputs,
                angles: &self.angles,
                layout: self.layout,
                kv: &self.kv,
                kv_type: self.room.kv,
            })
            .collect();
        shared.team.run(&mut self.planes, &operations);
    }

    /// Runs the step again, one operation at a time, to find the first result that is not finite.
    fn diagnose(&mut self, columns: &[Column], outputs: &[usize]) -> Errors {
        let mut place = "the logits".to_owned();
        for i in 0..self.shared.program.ops.len() {
            self.run(i..i + 1, columns, outputs);
            let program = &self.shared.program;
            let Some(out) = program.ops[i].out() else { continue };
            let buffer = &program.buffers[out.0];
            if buffer.element != Element::F32 {
                continue;
            }
            let count = match buffer.extent {
                Extent::Columns => columns.len(),
                Extent::Outputs => outputs.len(),
            };
            let name = buffer.name;
            let values = &self.planes.f32(PlaneId(out.0))[..count * buffer.width];
            if values.iter().any(|v| !v.is_finite()) {
                let block = program.ops[..=i].iter().filter(|op| matches!(op, Op::StoreKv { .. })).count();
                let after = program.ops[..i].iter().rposition(|op| matches!(op, Op::StoreKv { .. }));
                place = match after {
                    None => format!("`{name}` before the first attention"),
                    Some(_) => format!("`{name}` of block {}", block - 1),
                };
                break;
            }
        }
        let positions = (columns.first().map_or(0, |c| c.position), columns.last().map_or(0, |c| c.position));
        Diagnostic::error(format!(
            "the model computes values that are not finite: first in {place}, at positions {} to {}",
            positions.0, positions.1
        ))
        .code("not-finite")
        .help("the weights are damaged, or too large for their type; `mdl verify` checks the file")
        .into()
    }
}

impl State for CpuState {
    fn step(&mut self, columns: &[Column], outputs: &[usize]) -> Result<()> {
        self.outputs = 0;
        self.check(columns, outputs)?;
        let shared = self.shared.clone();
        if let Some(frequencies) = &shared.program.frequencies {
            let size = 2 * frequencies.pairs();
            for (column, table) in columns.iter().zip(self.angles.chunks_exact_mut(size)) {
                frequencies.table(column.position as i64, table);
            }
        }
        self.run(0..shared.program.ops.len(), columns, outputs);
        let width = shared.program.spec.vocab_size;
        let logits = &self.planes.f32(PlaneId(shared.program.logits.0))[..outputs.len() * width];
        if logits.iter().any(|v| !v.is_finite()) {
            return Err(self.diagnose(columns, outputs));
        }
        self.outputs = outputs.len();
        Ok(())
    }

    fn logits(&mut self, i: usize) -> &mut [f32] {
        assert!(i < self.outputs, "output {i} of {}", self.outputs);
        let width = self.shared.program.spec.vocab_size;
        let logits = self.planes.f32(PlaneId(self.shared.program.logits.0));
        &mut logits[i * width..(i + 1) * width]
    }

    fn shift(&mut self, shift: Shift) {
        let Shift { keep, discard, len } = shift;
        let layout = self.layout;
        let shared = self.shared.clone();
        let kind = rope_kind(shared.program.spec.rope.kind);
        let table = shared.program.frequencies.as_ref().map(|f| {
            let mut table = vec![0.0; 2 * f.pairs()];
            f.table(-(discard as i64), &mut table);
            table
        });
        let turn = |key: &mut [f32]| {
            if let (Some(kind), Some(table)) = (kind, &table) {
                rope(kind, key, table);
            }
        };
        let width = layout.width().unwrap_or(0);
        let (mut wide, mut narrow) = (vec![0f32; layout.key_length], vec![0u16; layout.key_length]);
        for plane in &self.kv {
            for head in 0..layout.columns() {
                let range = head * width..(head + 1) * width;
                let moved = (keep + discard) * layout.value_length..len * layout.value_length;
                let to = keep * layout.value_length;
                match self.room.kv {
                    KvType::F16 => {
                        let column = &mut self.planes.f16(*plane)[range];
                        if head >= layout.heads {
                            column.copy_within(moved, to);
                            continue;
                        }
                        for position in keep + discard..len {
                            layout.get_key(column, position, &mut narrow);
                            from_f16(&narrow, &mut wide);
                            turn(&mut wide);
                            to_f16(shared.level, &wide, &mut narrow);
                            layout.put_key(column, position - discard, &narrow);
                        }
                    }
                    KvType::F32 => {
                        let column = &mut self.planes.f32(*plane)[range];
                        if head >= layout.heads {
                            column.copy_within(moved, to);
                            continue;
                        }
                        for position in keep + discard..len {
                            layout.get_key(column, position, &mut wide);
                            turn(&mut wide);
                            layout.put_key(column, position - discard, &wide);
                        }
                    }
                }
            }
        }
    }
}
