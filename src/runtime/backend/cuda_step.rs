//! A step on a GPU: each operation of the program as kernels, in order.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use mdl_kernels::cuda::ops::{
    self, Activation, Attention, Blocks, Cache, ExpertsOf, Floats, HeadNorm, Heads, Input,
};
use mdl_kernels::cuda::ops::{Mixture, Moves, NormKind, Output, Place};
use mdl_kernels::cuda::{CudaError, Graph, Memory, Stream};

use super::cuda::{Shared, failed};
use super::cuda_inputs::{Shape, StepInputs};
use super::{Column, State, check_step, count, not_finite};
use crate::diagnostic::Result;
use crate::families::spec::{self, QkNorm, RopeKind};
use crate::runtime::kv::{KvLayout, PageId, Shift, slot};
use crate::runtime::program::{BufferId, Element, Hidden, MatrixId, Norm, Op, Program, Room, VectorId};

/// Columns of a step that is recorded, and replayed when one like it comes.
const RECORDED: usize = 32;

/// Recorded steps that are kept: for longer contexts there are always new ones.
const GRAPHS: usize = 64;

/// Columns whose parts of attention there is room for; more go one lot after the other.
const PARTS: usize = 32;

/// Columns from which on attention goes by tiles, where there is such a kernel.
const TILED: usize = 8;

/// Columns of gate and up that are multiplied and joined in one kernel.
const GATED: usize = 4;

type Queued = std::result::Result<(), CudaError>;

enum Buffer {
    Floats(Floats),
    Blocks(Blocks),
}

/// Room for what lies between kernels of one operation.
struct Scratch {
    /// Gate and up, or a result before it becomes blocks: of any width.
    floats: Floats,
    queries: Floats,
    /// Factors of norms over all heads.
    factors: [Floats; 2],
    parts: Memory,
    counters: Memory,
    /// Columns in half precision.
    narrow: Option<Memory>,
    /// Pairs of columns and experts, and where each expert's begin.
    order: Option<[Memory; 2]>,
    /// Not 0 where a result is not finite.
    flag: Memory,
}

/// The buffers of a step and the cache, on a GPU.
pub(super) struct CudaState {
    shared: Arc<Shared>,
    stream: Stream,
    room: Room,
    buffers: Vec<Buffer>,
    caches: Vec<Cache>,
    scratch: Scratch,
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

/// The kernels' name of an activation.
fn activation(activation: spec::Activation) -> Activation {
    match activation {
        spec::Activation::Silu => Activation::Silu,
        spec::Activation::GeluTanh => Activation::GeluTanh,
        spec::Activation::GeluErf => Activation::GeluErf,
        spec::Activation::Relu => Activation::Relu,
        spec::Activation::ReluSquared => Activation::ReluSquared,
    }
}

/// Sizes of the scratch of a room.
struct Sizes {
    columns: usize,
    widest: usize,
    queries: usize,
    parts: usize,
    counters: usize,
    narrow: usize,
    /// Pairs, and experts.
    order: Option<(usize, usize)>,
}

impl Sizes {
    fn of(shared: &Shared, room: &Room) -> Sizes {
        let program = &shared.program;
        let attention = &program.spec.attention;
        let columns = room.columns.max(room.outputs);
        let width_of = |op: &Op| match op {
            Op::GatedMatMul { weights, .. } => program.rows_of(weights),
            Op::Gate { out, .. } | Op::Attention { out, .. } => program.buffers[out.0].width,
            _ => 0,
        };
        let lot = PARTS.min(columns);
        let pages = room.context.div_ceil(crate::runtime::kv::PAGE);
        let floats = |id: &&MatrixId| !program.takes_blocks(**id);
        let narrow =
            program.ops.iter().flat_map(Op::weights).filter(floats).map(|id| program.matrices[id.0].cols());
        let order = program.spec.feed_forward.experts.as_ref().map(|e| (columns * e.used, e.count + 1));
        Sizes {
            columns,
            widest: program.ops.iter().map(width_of).max().unwrap_or(0),
            queries: attention.head_count * attention.key_length,
            parts: ops::merge_parts(lot, attention.head_count, pages, attention.value_length),
            counters: 4 * lot * attention.head_count,
            narrow: 2 * columns * narrow.max().unwrap_or(0),
            order,
        }
    }

    fn bytes(&self) -> usize {
        let floats = (self.widest + self.queries + 2).saturating_mul(self.columns).saturating_mul(4);
        let order = self.order.map_or(0, |(pairs, experts)| 4 * (pairs + experts));
        floats.saturating_add(self.parts).saturating_add(self.counters + self.narrow + order)
    }
}

impl Scratch {
    fn new(shared: &Shared, room: &Room) -> std::result::Result<Scratch, CudaError> {
        let sizes = Sizes::of(shared, room);
        let device = &shared.device;
        let bytes = |n: usize| Memory::zeroed(device, n);
        let order = sizes.order.map(|(pairs, experts)| Ok([bytes(4 * pairs)?, bytes(4 * experts)?]));
        Ok(Scratch {
            floats: Floats::zeroed(device, sizes.columns, sizes.widest.max(1))?,
            queries: Floats::zeroed(device, sizes.columns, sizes.queries)?,
            factors: [Floats::zeroed(device, 1, sizes.columns)?, Floats::zeroed(device, 1, sizes.columns)?],
            parts: bytes(sizes.parts)?,
            counters: bytes(sizes.counters)?,
            narrow: (sizes.narrow > 0).then(|| bytes(sizes.narrow)).transpose()?,
            order: order.transpose()?,
            flag: bytes(4)?,
        })
    }
}

/// A step as its kernels are queued.
struct Step<'a> {
    shared: &'a Shared,
    stream: &'a Stream,
    buffers: &'a [Buffer],
    caches: &'a [Cache],
    scratch: &'a Scratch,
    inputs: &'a StepInputs,
    shape: Shape,
}

impl Step<'_> {
    fn program(&self) -> &Program {
        &self.shared.program
    }

    fn count(&self, id: BufferId) -> usize {
        count(self.program().buffers[id.0].extent, self.shape.columns, self.shape.outputs)
    }

    fn floats(&self, id: BufferId) -> &Floats {
        match &self.buffers[id.0] {
            Buffer::Floats(floats) => floats,
            Buffer::Blocks(_) => unreachable!("the program puts no floats into blocks"),
        }
    }

    /// A buffer as what a product reads.
    fn input(&self, id: BufferId) -> Input<'_> {
        match &self.buffers[id.0] {
            Buffer::Floats(floats) => Input::Floats(floats),
            Buffer::Blocks(blocks) => Input::Blocks(blocks),
        }
    }

    /// Calls `write` with the buffer; or, where its blocks are not those of whole columns or `write` makes none, with
    /// floats that become blocks then.
    fn write(&self, id: BufferId, makes_blocks: bool, write: impl FnOnce(Output<'_>) -> Queued) -> Queued {
        let parts = self.shared.parts[id.0];
        match &self.buffers[id.0] {
            Buffer::Floats(floats) => write(Output::Floats(floats)),
            Buffer::Blocks(blocks) if parts == 1 && makes_blocks => write(Output::Blocks(blocks)),
            Buffer::Blocks(blocks) => {
                let floats = self.scratch.floats.reshaped(self.program().buffers[id.0].width);
                write(Output::Floats(&floats))?;
                ops::quantize(self.stream, &floats.reshaped(blocks.width), self.count(id) * parts, blocks)
            }
        }
    }

    fn norm_of(&self, norm: &Norm) -> ops::Norm<'_> {
        ops::Norm {
            kind: match self.program().spec.norm.kind {
                spec::NormKind::Rms => NormKind::Rms,
                spec::NormKind::Layer => NormKind::Layer,
            },
            weight: self.shared.vector(norm.weight),
            bias: norm.bias.map(|id| self.shared.vector(id)),
            epsilon: self.program().spec.norm.epsilon,
        }
    }

    /// The products of weights, one after the other, from row `at` of `out` on.
    fn products(
        &self,
        input: BufferId,
        (weights, bias): (&[MatrixId], &[Option<VectorId>]),
        columns: usize,
        out: &Floats,
        (mut at, add): (usize, bool),
    ) -> Queued {
        for (id, bias) in weights.iter().zip(bias) {
            let weight = self.shared.weight(*id);
            let bias = bias.map(|id| self.shared.vector(id));
            let place = Place { out, at, add };
            let narrow = self.scratch.narrow.as_ref();
            ops::matmul(self.stream, weight, bias, self.input(input), columns, &place, narrow)?;
            at += weight.rows();
        }
        Ok(())
    }

    /// Queries of the columns, if they are asked for, and keys and values to the cache, if they are.
    fn prepare(
        &self,
        (block, qkv): (usize, BufferId),
        norms: [Option<VectorId>; 2],
        rotation: Option<usize>,
        (store, queries): (bool, bool),
    ) -> Queued {
        let spec = &self.program().spec;
        let attention = &spec.attention;
        let kind = match attention.qk_norm {
            Some(QkNorm::All) => HeadNorm::All,
            Some(QkNorm::LayerOfHead) => HeadNorm::LayerOfHead,
            _ => HeadNorm::Head,
        };
        let qkv = self.floats(qkv);
        let (keys_at, keys) =
            (attention.head_count * attention.key_length, attention.head_count_kv * attention.key_length);
        let has_norm = norms.iter().any(Option::is_some);
        let columns = self.shape.columns;
        if has_norm && kind == HeadNorm::All {
            for (part, factors) in [(0, keys_at), (keys_at, keys)].into_iter().zip(&self.scratch.factors) {
                ops::rms_scales(self.stream, qkv, part, spec.norm.epsilon, columns, factors)?;
            }
        }
        let [q, k] = &self.scratch.factors;
        let turns = match spec.rope.kind {
            RopeKind::None => None,
            RopeKind::Norm => Some(false),
            RopeKind::Neox => Some(true),
        };
        let heads = Heads {
            qkv,
            heads: attention.head_count,
            norms: has_norm
                .then(|| (norms.map(|id| id.map(|id| self.shared.vector(id))), kind, spec.norm.epsilon)),
            factors: (has_norm && kind == HeadNorm::All).then_some([q, k]),
            rotation: rotation
                .zip(turns)
                .map(|(i, halves)| (&self.inputs.angles[i], self.program().rotations[i].pairs(), halves)),
            temperatures: self.inputs.temperatures.as_ref(),
            slots: &self.inputs.slots,
        };
        let queries = queries.then_some(&self.scratch.queries);
        ops::prepare(self.stream, &heads, columns, &self.caches[block], store, queries)
    }

    fn attend(&self, block: usize, window: Option<usize>, out: BufferId) -> Queued {
        let attention = &self.program().spec.attention;
        let (cache, columns) = (&self.caches[block], self.shape.columns);
        let tiled = columns > TILED && !self.shape.is_decode && ops::has_prefill(cache);
        let of = Attention {
            queries: &self.scratch.queries,
            heads: attention.head_count,
            scale: attention.scale,
            cap: attention.soft_cap,
            pages: &self.inputs.pages,
            table_width: self.inputs.table_width,
            sequences: &self.inputs.sequences,
            seen: self.inputs.seen_through(window),
            chunks: self.shape.chunks,
            tiles: tiled.then_some((&self.inputs.tiles, self.shape.tiles)),
            parts: &self.scratch.parts,
            counters: &self.scratch.counters,
        };
        let whole = attention.value_length.is_multiple_of(32);
        self.write(out, !tiled && columns <= PARTS && whole, |out| {
            if tiled || columns <= PARTS {
                return ops::attention(self.stream, &of, cache, 0..columns, out);
            }
            for first in (0..columns).step_by(PARTS) {
                ops::attention(self.stream, &of, cache, first..columns.min(first + PARTS), out)?;
            }
            Ok(())
        })
    }

    /// Queues operation `i`; those before it are queued.
    fn queue(&self, i: usize) -> Queued {
        let (program, stream) = (self.program(), self.stream);
        match &program.ops[i] {
            Op::Embed { table, scale, out } => {
                let (table, tokens) = (self.shared.weight(*table), &self.inputs.tokens);
                ops::embed(stream, table, tokens, self.count(*out), *scale, false, self.floats(*out))
            }
            Op::AddPosition { table, out } => {
                let (table, positions) = (self.shared.weight(*table), &self.inputs.positions);
                ops::embed(stream, table, positions, self.count(*out), 1.0, true, self.floats(*out))
            }
            Op::Norm { input, norm, out } => self.write(*out, true, |to| {
                ops::norm(stream, &self.norm_of(norm), self.floats(*input), self.count(*out), to)
            }),
            Op::Quantize { input, out } => match &self.buffers[out.0] {
                Buffer::Blocks(blocks) => {
                    let (from, parts) = (self.floats(*input), self.shared.parts[out.0]);
                    ops::quantize(stream, &from.reshaped(blocks.width), self.count(*out) * parts, blocks)
                }
                Buffer::Floats(_) => unreachable!("blocks are made of floats"),
            },
            Op::MatMul { input, weights, bias, out, at, add } => {
                self.products(*input, (weights, bias), self.count(*out), self.floats(*out), (*at, *add))
            }
            Op::GatedMatMul { input, weights, bias, gated, out } => {
                self.gated(*input, (weights, bias), *gated, *out)
            }
            Op::Bias { bias, out, at } => {
                ops::add_bias(stream, self.shared.vector(*bias), self.count(*out), self.floats(*out), *at)
            }
            Op::StoreKv { block, qkv, norm, rotation } => match program.ops.get(i + 1) {
                // Queries go the same way, so one kernel takes both.
                Some(Op::Attention { qkv: same, norm: q, rotation: turn, .. })
                    if same == qkv && turn == rotation =>
                {
                    self.prepare((*block, *qkv), [*q, *norm], *rotation, (true, true))
                }
                _ => self.prepare((*block, *qkv), [None, *norm], *rotation, (true, false)),
            },
            Op::Attention { block, qkv, norm, rotation, window, out } => {
                let before = i.checked_sub(1).map(|i| &program.ops[i]);
                let is_ready = matches!(before, Some(Op::StoreKv { qkv: same, rotation: turn, .. })
                    if same == qkv && turn == rotation);
                if !is_ready {
                    self.prepare((*block, *qkv), [*norm, None], *rotation, (false, true))?;
                }
                self.attend(*block, *window, *out)
            }
            Op::Gate { input, gated, out } => self.write(*out, true, |to| {
                let activation = activation(program.spec.feed_forward.activation);
                ops::gate(stream, activation, self.floats(*input), *gated, self.count(*out), to)
            }),
            Op::Route { input, normalised, out } => {
                let width = |id: &BufferId| program.buffers[id.0].width;
                let mixture =
                    Mixture { experts: width(input), used: width(out) / 2, normalised: *normalised };
                ops::route(stream, self.floats(*input), &mixture, self.count(*out), self.floats(*out))
            }
            Op::Experts { input, chosen, weights, each, out, at } => {
                let Some(order) = &self.scratch.order else { unreachable!("experts have an order") };
                let of =
                    ExpertsOf { chosen: self.floats(*chosen), each: *each, order: (&order[0], &order[1]) };
                let weight = self.shared.experts(weights);
                let floats;
                let x = match &self.buffers[input.0] {
                    Buffer::Floats(all) => {
                        floats = all.reshaped(weight.cols());
                        Input::Floats(&floats)
                    }
                    Buffer::Blocks(blocks) => Input::Blocks(blocks),
                };
                let place = Place { out: self.floats(*out), at: *at, add: false };
                ops::experts(stream, weight, &of, x, self.count(*out), &place)
            }
            Op::Mix { input, chosen, out } => {
                let (parts, chosen) = (self.floats(*input), self.floats(*chosen));
                ops::mix(stream, parts, chosen, self.count(*out), self.floats(*out))
            }
            Op::Add { input, scale, out } => {
                ops::add(stream, self.floats(*input), *scale, self.count(*out), self.floats(*out))
            }
            Op::Select { input, out } => {
                let (from, which) = (self.floats(*input), &self.inputs.outputs);
                self.write(*out, false, |to| match to {
                    Output::Floats(to) => ops::select(stream, from, which, self.shape.outputs, to),
                    Output::Blocks(_) => unreachable!("asked for floats"),
                })
            }
            Op::ScaleLogits { scale, cap, out } => {
                ops::scale_logits(stream, self.floats(*out), *scale, *cap, self.count(*out))
            }
        }
    }

    fn gated(
        &self,
        input: BufferId,
        (weights, bias): (&[MatrixId], &[Option<VectorId>]),
        gated: bool,
        out: BufferId,
    ) -> Queued {
        let (program, columns) = (self.program(), self.count(out));
        let width = program.buffers[out.0].width;
        let activation = activation(program.spec.feed_forward.activation);
        let all: Vec<_> = weights.iter().map(|id| self.shared.weight(*id)).collect();
        let bias_of = |i: usize| bias.get(i).copied().flatten().map(|id| self.shared.vector(id));
        let (first, halves) = (all[0], gated && all.len() == 1);
        let alike = |w: &&mdl_kernels::cuda::ops::DeviceWeight| {
            (w.tensor_type(), w.rows(), w.cols()) == (first.tensor_type(), first.rows(), first.cols())
        };
        let together = columns <= GATED
            && first.tensor_type().is_quantized()
            && all.iter().all(alike)
            && all.len() <= 2
            && first.rows() == if halves { 2 * width } else { width }
            && width.is_multiple_of(32)
            && !(halves && bias_of(0).is_some());
        if let (true, Buffer::Blocks(x)) = (together, &self.buffers[input.0]) {
            let up = if gated && !halves { all.get(1).copied() } else { None };
            let biases = [bias_of(0), bias_of(1)];
            return self.write(out, true, |to| {
                ops::gated(self.stream, first, up, halves, biases, x, columns, activation, to)
            });
        }
        let gate_up = self.scratch.floats.reshaped(program.rows_of(weights));
        self.products(input, (weights, bias), columns, &gate_up, (0, false))?;
        match &self.buffers[out.0] {
            Buffer::Floats(to) => {
                ops::gate(self.stream, activation, &gate_up, gated, columns, Output::Floats(to))
            }
            Buffer::Blocks(to) => {
                ops::gate(self.stream, activation, &gate_up, gated, columns, Output::Blocks(to))
            }
        }
    }

    /// Queues the whole step, and the check of its result.
    fn queue_all(&self) -> Queued {
        for i in 0..self.program().ops.len() {
            self.queue(i)?;
        }
        self.stream.clear(&self.scratch.flag)?;
        let result = result_of(self.program());
        ops::check_finite(self.stream, self.floats(result), self.shape.outputs, &self.scratch.flag)
    }
}

/// The buffer of the logits, or that which the hidden states are made of.
fn result_of(program: &Program) -> BufferId {
    match (program.logits, &program.hidden) {
        (Some(logits), _) => logits,
        (None, Hidden::Buffer(id) | Hidden::Norm { input: id, .. }) => *id,
    }
}

impl CudaState {
    pub(super) fn scratch_bytes(shared: &Shared, room: &Room) -> u64 {
        Sizes::of(shared, room).bytes() as u64
    }

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
            stream,
            room,
            buffers,
            caches,
            scratch,
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
        let shape = inputs.send(&self.stream, program, &self.room, columns, tables, outputs)?;
        let step = Step {
            shared: &shared,
            stream: &self.stream,
            buffers: &self.buffers,
            caches: &self.caches,
            scratch: &self.scratch,
            inputs,
            shape,
        };
        if let Some(times) = times {
            let mut stamps = vec![self.stream.stamp()?];
            for i in 0..program.ops.len() {
                step.queue(i)?;
                stamps.push(self.stream.stamp()?);
            }
            times.clear();
            for pair in stamps.windows(2) {
                times.push(Duration::from_secs_f64(pair[0].seconds_to(&pair[1])?.max(0.0)));
            }
            self.stream.clear(&self.scratch.flag)?;
            ops::check_finite(
                &self.stream,
                step.floats(result_of(program)),
                outputs.len(),
                &self.scratch.flag,
            )?;
        } else if is_few {
            match self.graphs.get(&shape) {
                Some(Some(graph)) => self.stream.replay(graph)?,
                // The first of its kind loads the kernels that it needs, which cannot be recorded.
                None => {
                    step.queue_all()?;
                    if self.graphs.len() >= GRAPHS {
                        self.graphs.clear();
                    }
                    self.graphs.insert(shape, None);
                }
                Some(None) => {
                    let graph = self.stream.record(|_| step.queue_all())?;
                    self.stream.replay(&graph)?;
                    self.graphs.insert(shape, Some(graph));
                }
            }
        } else {
            step.queue_all()?;
        }
        if let Some(logits) = program.logits {
            self.logits.resize(outputs.len() * program.spec.vocab_size, 0.0);
            match &self.buffers[logits.0] {
                Buffer::Floats(floats) => floats.read(&self.stream, &mut self.logits)?,
                Buffer::Blocks(_) => unreachable!("logits are floats"),
            }
        }
        let mut flag = [0; 4];
        self.stream.download(&self.scratch.flag, 0, &mut flag)?;
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
        let shape = self.many.send(&self.stream, &shared.program, &self.room, columns, tables, outputs)?;
        let step = Step {
            shared: &shared,
            stream: &self.stream,
            buffers: &self.buffers,
            caches: &self.caches,
            scratch: &self.scratch,
            inputs: &self.many,
            shape,
        };
        self.stream.clear(&self.scratch.flag)?;
        for (i, op) in shared.program.ops.iter().enumerate() {
            step.queue(i)?;
            let Some(out) = op.out() else { continue };
            if let Buffer::Floats(floats) = &self.buffers[out.0] {
                let mut flag = [0; 4];
                ops::check_finite(&self.stream, floats, step.count(out), &self.scratch.flag)?;
                self.stream.download(&self.scratch.flag, 0, &mut flag)?;
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
        use mdl_kernels::cuda::ops::{Inputs, Kind};
        let Shift { keep, discard, len } = shift;
        let shared = self.shared.clone();
        let program = &shared.program;
        // Positions only move down, so in order nothing is overwritten that is still to be read.
        let moves =
            |p: usize| (slot(from, p) as u32, slot(to, if p < keep { p } else { p - discard }) as u32);
        let stay: Vec<_> = (0..keep).map(moves).filter(|(a, b)| a != b).collect();
        let all: Vec<_> = stay.iter().copied().chain((keep + discard..len).map(moves)).collect();
        let slots = Kind::Below((self.caches.first().map_or(0, Cache::slots)) as u32);
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
        inputs.send(&self.stream)?;
        let (sources, targets) = (inputs.field(0), inputs.field(1));
        for (block, cache) in self.caches.iter().enumerate() {
            let i = usize::from(program.spec.is_local(block));
            let halves = program.spec.rope.kind == RopeKind::Neox;
            let angles = (i < program.rotations.len()).then(|| inputs.field(2 + i));
            let rotation = angles.as_ref().map(|field| (field, program.rotations[i].pairs(), halves));
            let (count, turned_from) = (all.len(), stay.len());
            let moves = Moves { from: &sources, to: &targets, count, turned_from, rotation };
            ops::shift(&self.stream, cache, &moves)?;
        }
        self.stream.wait()
    }

    fn hidden_of(&mut self, i: usize) -> std::result::Result<Vec<f32>, CudaError> {
        let shared = self.shared.clone();
        let program = &shared.program;
        let (buffer, norm) = match &program.hidden {
            Hidden::Buffer(id) => (*id, None),
            Hidden::Norm { input, norm } => (*input, Some(norm)),
        };
        let width = program.buffers[buffer.0].width;
        let step = Step {
            shared: &shared,
            stream: &self.stream,
            buffers: &self.buffers,
            caches: &self.caches,
            scratch: &self.scratch,
            inputs: &self.many,
            shape: Shape { columns: 0, outputs: self.outputs, chunks: 0, tiles: 0, is_decode: false },
        };
        let mut all = vec![0.0; (i + 1) * width];
        match norm {
            None => step.floats(buffer).read(&self.stream, &mut all)?,
            Some(norm) => {
                let out = Floats::zeroed(&shared.device, i + 1, width)?;
                let from = step.floats(buffer);
                ops::norm(&self.stream, &step.norm_of(norm), from, i + 1, Output::Floats(&out))?;
                out.read(&self.stream, &mut all)?;
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
        let copy = |cache: &Cache| ops::copy_page(&self.stream, cache, from.index(), to.index());
        let done = self.caches.iter().try_for_each(copy);
        self.note(done);
    }

    fn shift(&mut self, shift: Shift, from: &[PageId], to: &[PageId]) {
        let done = self.shifted(shift, from, to);
        self.note(done);
    }
}
