//! A step on a GPU: each operation of the program as kernels, in order.

use mdl_kernels::cuda::ops::{
    self, Activation, Attention, Blocks, Cache, DeviceWeight, ExpertsOf, Floats, HeadNorm, Heads,
};
use mdl_kernels::cuda::ops::{Input, Mixture, NormKind, Output, Place};
use mdl_kernels::cuda::{CudaError, Stream};

use super::count;
use super::cuda::Shared;
use super::cuda_inputs::{Shape, StepInputs};
use super::cuda_scratch::{PARTS, Scratch};
use crate::families::spec::{self, QkNorm, RopeKind};
use crate::runtime::program::{BufferId, Hidden, MatrixId, Norm, Op, Program, VectorId};

/// Columns from which on attention goes by tiles, where there is such a kernel.
const TILED: usize = 8;

/// Columns of gate and up that are multiplied and joined in one kernel.
const GATED: usize = 4;

pub(super) type Queued = std::result::Result<(), CudaError>;

/// A buffer of the program.
pub(super) enum Buffer {
    Floats(Floats),
    Blocks(Blocks),
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

/// A step as its kernels are queued.
pub(super) struct Step<'a> {
    pub shared: &'a Shared,
    pub stream: &'a Stream,
    pub buffers: &'a [Buffer],
    pub caches: &'a [Cache],
    pub scratch: &'a Scratch,
    pub inputs: &'a StepInputs,
    pub shape: Shape,
}

impl Step<'_> {
    fn program(&self) -> &Program {
        &self.shared.program
    }

    pub(super) fn count(&self, id: BufferId) -> usize {
        count(self.program().buffers[id.0].extent, self.shape.columns, self.shape.outputs)
    }

    pub(super) fn floats(&self, id: BufferId) -> &Floats {
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

    pub(super) fn norm_of(&self, norm: &Norm) -> ops::Norm<'_> {
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
    pub(super) fn queue(&self, i: usize) -> Queued {
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
        let alike = |w: &&DeviceWeight| {
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
    pub(super) fn queue_all(&self) -> Queued {
        for i in 0..self.program().ops.len() {
            self.queue(i)?;
        }
        self.stream.clear(&self.scratch.flag)?;
        let result = result_of(self.program());
        ops::check_finite(self.stream, self.floats(result), self.shape.outputs, &self.scratch.flag)
    }
}

/// The buffer of the logits, or that which the hidden states are made of.
pub(super) fn result_of(program: &Program) -> BufferId {
    match (program.logits, &program.hidden) {
        (Some(logits), _) => logits,
        (None, Hidden::Buffer(id) | Hidden::Norm { input: id, .. }) => *id,
    }
}
