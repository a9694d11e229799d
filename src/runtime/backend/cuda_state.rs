//! The buffers of a step and the cache, on a GPU: steps are queued, or replayed, and their results come back.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use mdl_kernels::cuda::ops::{self, Blocks, Cache, Floats, Inputs, Kind, Moves, Output};
use mdl_kernels::cuda::{CudaError, Graph, Stream};

use super::cuda::{Shared, failed};
use super::cuda_inputs::{Shape, StepInputs};
use super::cuda_scratch::Scratch;
use super::cuda_step::{Buffer, Queued, Step, result_of};
use super::{Column, State, check_step, not_finite};
use crate::diagnostic::Result;
use crate::families::spec::RopeKind;
use crate::runtime::kv::{KvLayout, PageId, Shift, slot};
use crate::runtime::program::{Element, Hidden, Room};

/// Columns of a step that is recorded, and replayed when one like it comes.
const RECORDED: usize = 32;

/// Recorded steps that are kept: for longer contexts there are always new ones.
const GRAPHS: usize = 64;

/// The buffers of a step and the cache, on a GPU.
pub(super) struct CudaState {
    shared: Arc<Shared>,
    held: Held,
    room: Room,
    /// Of steps of up to [`RECORDED`] columns, and of all.
    few: StepInputs,
    many: StepInputs,
    /// Recorded steps; none for a shape that came once.
    graphs: HashMap<Shape, Option<Graph>>,
    logits: Vec<f32>,
    /// Outputs of the last step.
    outputs: usize,
    /// What failed where no error could be returned: the next step returns it.
    failure: Option<CudaError>,
}

/// What every step works with.
struct Held {
    stream: Stream,
    buffers: Vec<Buffer>,
    caches: Vec<Cache>,
    scratch: Scratch,
}

impl Held {
    fn step<'a>(&'a self, shared: &'a Shared, inputs: &'a StepInputs, shape: Shape) -> Step<'a> {
        let Held { stream, buffers, caches, scratch } = self;
        Step { shared, stream, buffers, caches, scratch, inputs, shape }
    }
}

impl CudaState {
    pub(super) fn new(shared: Arc<Shared>, room: Room) -> std::result::Result<CudaState, CudaError> {
        let (program, device) = (&shared.program, &shared.device);
        let mut buffers = Vec::new();
        for (buffer, parts) in program.buffers.iter().zip(&shared.parts) {
            let columns = shared.room_of(buffer.extent, &room);
            buffers.push(match buffer.element {
                Element::F32 => Buffer::Floats(Floats::zeroed(device, columns, buffer.width)?),
                Element::Blocks => {
                    Buffer::Blocks(Blocks::zeroed(device, columns * parts, buffer.width / parts)?)
                }
            });
        }
        let layout = KvLayout::new(&program.spec, room.pages, room.kv);
        let caches = shared.caches(&layout)?;
        let scratch = Scratch::new(&shared, &room)?;
        let few = StepInputs::new(device, program, &room, RECORDED.min(room.columns))?;
        let many = StepInputs::new(device, program, &room, room.columns)?;
        let stream = device.stream()?;
        Ok(CudaState {
            held: Held { stream, buffers, caches, scratch },
            room,
            few,
            many,
            graphs: HashMap::new(),
            logits: Vec::new(),
            outputs: 0,
            failure: None,
            shared,
        })
    }

    /// Runs a step; true when its result is finite. With `times`, operation by operation.
    fn run(
        &mut self,
        columns: &[Column],
        tables: &[&[PageId]],
        outputs: &[usize],
        times: Option<&mut Vec<Duration>>,
    ) -> std::result::Result<bool, CudaError> {
        let shared = self.shared.clone();
        let program = &shared.program;
        let is_few = columns.len() <= self.few.columns;
        let inputs = if is_few { &mut self.few } else { &mut self.many };
        let shape = inputs.send(&self.held.stream, program, &self.room, columns, tables, outputs)?;
        let step = self.held.step(&shared, inputs, shape);
        if let Some(times) = times {
            let mut stamps = vec![self.held.stream.stamp()?];
            for i in 0..program.ops.len() {
                step.queue(i)?;
                stamps.push(self.held.stream.stamp()?);
            }
            times.clear();
            for pair in stamps.windows(2) {
                times.push(Duration::from_secs_f64(pair[0].seconds_to(&pair[1])?.max(0.0)));
            }
            self.held.stream.clear(&self.held.scratch.flag)?;
            ops::check_finite(
                &self.held.stream,
                step.floats(result_of(program)),
                outputs.len(),
                &self.held.scratch.flag,
            )?;
        } else if is_few {
            match self.graphs.get(&shape) {
                Some(Some(graph)) => self.held.stream.replay(graph)?,
                // The first of its kind loads the kernels that it needs, which cannot be recorded.
                None => {
                    step.queue_all()?;
                    if self.graphs.len() >= GRAPHS {
                        self.graphs.clear();
                    }
                    self.graphs.insert(shape, None);
                }
                Some(None) => {
                    let graph = self.held.stream.record(|_| step.queue_all())?;
                    self.held.stream.replay(&graph)?;
                    self.graphs.insert(shape, Some(graph));
                }
            }
        } else {
            step.queue_all()?;
        }
        if let Some(logits) = program.logits {
            self.logits.resize(outputs.len() * program.spec.vocab_size, 0.0);
            match &self.held.buffers[logits.0] {
                Buffer::Floats(floats) => floats.read(&self.held.stream, &mut self.logits)?,
                Buffer::Blocks(_) => unreachable!("logits are floats"),
            }
        }
        let mut flag = [0; 4];
        self.held.stream.download(&self.held.scratch.flag, 0, &mut flag)?;
        Ok(flag == [0; 4])
    }

    /// Runs the step again, one operation at a time, to find the first result that is not finite.
    fn diagnose(
        &mut self,
        columns: &[Column],
        tables: &[&[PageId]],
        outputs: &[usize],
    ) -> std::result::Result<Option<usize>, CudaError> {
        let shared = self.shared.clone();
        let shape =
            self.many.send(&self.held.stream, &shared.program, &self.room, columns, tables, outputs)?;
        let step = self.held.step(&shared, &self.many, shape);
        self.held.stream.clear(&self.held.scratch.flag)?;
        for (i, op) in shared.program.ops.iter().enumerate() {
            step.queue(i)?;
            let Some(out) = op.out() else { continue };
            if let Buffer::Floats(floats) = &self.held.buffers[out.0] {
                let mut flag = [0; 4];
                ops::check_finite(&self.held.stream, floats, step.count(out), &self.held.scratch.flag)?;
                self.held.stream.download(&self.held.scratch.flag, 0, &mut flag)?;
                if flag != [0; 4] {
                    return Ok(Some(i));
                }
            }
        }
        Ok(None)
    }

    fn step_with(
        &mut self,
        columns: &[Column],
        tables: &[&[PageId]],
        outputs: &[usize],
        times: Option<&mut Vec<Duration>>,
    ) -> Result<()> {
        self.outputs = 0;
        check_step(&self.shared.program, &self.room, columns, tables, outputs)?;
        let what = "the GPU failed";
        if let Some(e) = self.failure.take() {
            return Err(failed(what, &e));
        }
        if self.run(columns, tables, outputs, times).map_err(|e| failed(what, &e))? {
            self.outputs = outputs.len();
            return Ok(());
        }
        let op = self.diagnose(columns, tables, outputs).map_err(|e| failed(what, &e))?;
        Err(not_finite(&self.shared.program, op, columns))
    }

    /// Notes a failure for the next step.
    fn note(&mut self, done: Queued) {
        if let Err(e) = done {
            self.failure.get_or_insert(e);
        }
    }

    fn shifted(&mut self, shift: Shift, from: &[PageId], to: &[PageId]) -> Queued {
        let Shift { keep, discard, len } = shift;
        let shared = self.shared.clone();
        let program = &shared.program;
        // Positions only move down, so in order nothing is overwritten that is still to be read.
        let moves =
            |p: usize| (slot(from, p) as u32, slot(to, if p < keep { p } else { p - discard }) as u32);
        let stay: Vec<_> = (0..keep).map(moves).filter(|(a, b)| a != b).collect();
        let all: Vec<_> = stay.iter().copied().chain((keep + discard..len).map(moves)).collect();
        let slots = Kind::Below((self.held.caches.first().map_or(0, Cache::slots)) as u32);
        let mut fields = vec![(all.len(), slots), (all.len(), slots)];
        fields.extend(program.rotations.iter().map(|r| (2 * r.pairs(), Kind::Floats)));
        let mut inputs = Inputs::zeroed(&shared.device, &fields)?;
        inputs.set(0, all.iter().map(|(a, _)| *a));
        inputs.set(1, all.iter().map(|(_, b)| *b));
        for (i, rotation) in program.rotations.iter().enumerate() {
            // What is in the cache has been stretched already.
            let frequencies = rotation.frequencies(self.room.context).pure();
            let mut table = vec![0.0; 2 * frequencies.pairs()];
            frequencies.table(-(discard as i64), &mut table);
            inputs.set_floats(2 + i, &table);
        }
        inputs.send(&self.held.stream)?;
        let (sources, targets) = (inputs.field(0), inputs.field(1));
        for (block, cache) in self.held.caches.iter().enumerate() {
            let i = usize::from(program.spec.is_local(block));
            let halves = program.spec.rope.kind == RopeKind::Neox;
            let angles = (i < program.rotations.len()).then(|| inputs.field(2 + i));
            let rotation = angles.as_ref().map(|field| (field, program.rotations[i].pairs(), halves));
            let (count, turned_from) = (all.len(), stay.len());
            let moves = Moves { from: &sources, to: &targets, count, turned_from, rotation };
            ops::shift(&self.held.stream, cache, &moves)?;
        }
        self.held.stream.wait()
    }

    fn hidden_of(&mut self, i: usize) -> std::result::Result<Vec<f32>, CudaError> {
        let shared = self.shared.clone();
        let program = &shared.program;
        let (buffer, norm) = match &program.hidden {
            Hidden::Buffer(id) => (*id, None),
            Hidden::Norm { input, norm } => (*input, Some(norm)),
        };
        let width = program.buffers[buffer.0].width;
        let shape = Shape { columns: 0, outputs: self.outputs, chunks: 0, tiles: 0, is_decode: false };
        let step = self.held.step(&shared, &self.many, shape);
        let mut all = vec![0.0; (i + 1) * width];
        match norm {
            None => step.floats(buffer).read(&self.held.stream, &mut all)?,
            Some(norm) => {
                let out = Floats::zeroed(&shared.device, i + 1, width)?;
                let from = step.floats(buffer);
                ops::norm(&self.held.stream, &step.norm_of(norm), from, i + 1, Output::Floats(&out))?;
                out.read(&self.held.stream, &mut all)?;
            }
        }
        Ok(all.split_off(i * width))
    }
}

impl State for CudaState {
    fn step(&mut self, columns: &[Column], tables: &[&[PageId]], outputs: &[usize]) -> Result<()> {
        self.step_with(columns, tables, outputs, None)
    }

    fn step_timed(
        &mut self,
        columns: &[Column],
        tables: &[&[PageId]],
        outputs: &[usize],
    ) -> Result<Vec<Duration>> {
        let mut times = Vec::new();
        self.step_with(columns, tables, outputs, Some(&mut times))?;
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
        if self.shared.program.logits.is_none() {
            return Vec::new();
        }
        let width = self.shared.program.spec.vocab_size;
        self.logits.chunks_exact_mut(width).take(self.outputs).collect()
    }

    fn hidden(&mut self, i: usize) -> Vec<f32> {
        assert!(i < self.outputs, "output {i} of {}", self.outputs);
        match self.hidden_of(i) {
            Ok(hidden) => hidden,
            Err(e) => {
                self.note(Err(e));
                vec![f32::NAN; self.shared.program.spec.embedding_length]
            }
        }
    }

    fn copy_page(&mut self, from: PageId, to: PageId) {
        assert!(from.index().max(to.index()) < self.room.pages, "a page is beyond the cache");
        let copy = |cache: &Cache| ops::copy_page(&self.held.stream, cache, from.index(), to.index());
        let done = self.held.caches.iter().try_for_each(copy);
        self.note(done);
    }

    fn shift(&mut self, shift: Shift, from: &[PageId], to: &[PageId]) {
        let done = self.shifted(shift, from, to);
        self.note(done);
    }
}
