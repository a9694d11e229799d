//! One block: attention, then a feed-forward network or experts, with their norms and sums.

use super::Lowering;
use crate::diagnostic::Result;
use crate::families::spec::{DecoderSpec, Experts, NormPlacement, QkNorm};
use crate::runtime::program::{BufferId, Extent, MatrixId, Op, VectorId};
use crate::runtime::rotation::unexpected;

/// Where the blocks work; every block uses the same.
pub(super) struct Buffers {
    /// The residual stream; and, where a norm follows each sum, the one it alternates with.
    pub x: BufferId,
    pub y: BufferId,
    normed: BufferId,
    qkv: BufferId,
    heads: BufferId,
    gate_up: BufferId,
    gated: BufferId,
    block_out: BufferId,
    out_normed: BufferId,
    router: BufferId,
    chosen: BufferId,
    expert_out: BufferId,
}

impl Buffers {
    pub(super) fn new(lowering: &mut Lowering, spec: &DecoderSpec) -> Buffers {
        let attention = &spec.attention;
        let width = spec.embedding_length;
        let qkv = attention.head_count * attention.key_length
            + attention.head_count_kv * (attention.key_length + attention.value_length);
        let (hidden, experts, used) = match &spec.feed_forward.experts {
            Some(experts) => (experts.used * experts.length, experts.count, experts.used),
            None => (spec.feed_forward.length, 0, 0),
        };
        let gates = if spec.feed_forward.gated { 2 } else { 1 };
        let mut buffer = |name, width| lowering.buffer(name, Extent::Columns, width);
        Buffers {
            x: buffer("x", width),
            y: buffer("y", width),
            normed: buffer("normed", width),
            qkv: buffer("qkv", qkv),
            heads: buffer("heads", attention.head_count * attention.value_length),
            gate_up: buffer("gate_up", gates * hidden),
            gated: buffer("gated", hidden),
            block_out: buffer("block_out", width),
            out_normed: buffer("out_normed", width),
            router: buffer("router", experts),
            chosen: buffer("chosen", 2 * used),
            expert_out: buffer("expert_out", used * width),
        }
    }
}

/// The part of a block whose norms are asked for.
#[derive(Clone, Copy)]
struct Part {
    before: &'static str,
    after: &'static str,
    after_sum: &'static str,
}

const ATTENTION: Part =
    Part { before: "attn_norm", after: "post_attention_norm", after_sum: "attn_output_norm" };
const FEED_FORWARD: Part =
    Part { before: "ffn_norm", after: "post_ffw_norm", after_sum: "layer_output_norm" };

impl Lowering {
    /// One block; `x` is the residual stream. Returns where it is afterwards.
    pub(super) fn block(
        &mut self,
        spec: &DecoderSpec,
        block: usize,
        x: BufferId,
        buffers: &Buffers,
    ) -> Result<BufferId> {
        let input = self.before(spec, block, x, buffers, ATTENTION)?;
        self.attention(spec, block, input, buffers)?;
        if spec.parallel {
            // Both read the same norm, and both are added to the same stream.
            self.push(Op::Add { input: buffers.block_out, scale: spec.residual_scale, out: x });
            self.feed_forward(spec, block, input, buffers)?;
            self.push(Op::Add { input: buffers.block_out, scale: spec.residual_scale, out: x });
            return Ok(x);
        }
        let x = self.after(spec, block, x, buffers, ATTENTION)?;
        let input = self.before(spec, block, x, buffers, FEED_FORWARD)?;
        self.feed_forward(spec, block, input, buffers)?;
        self.after(spec, block, x, buffers, FEED_FORWARD)
    }

    /// What a part reads: the stream, or its norm.
    fn before(
        &mut self,
        spec: &DecoderSpec,
        block: usize,
        x: BufferId,
        buffers: &Buffers,
        part: Part,
    ) -> Result<BufferId> {
        match spec.norm.placement {
            NormPlacement::Pre | NormPlacement::PreAndPost => {
                let norm = self.norm(&format!("blk.{block}.{}", part.before), spec.embedding_length)?;
                self.push(Op::Norm { input: x, norm, out: buffers.normed });
                Ok(buffers.normed)
            }
            NormPlacement::Post | NormPlacement::PostSum => Ok(x),
        }
    }

    /// Adds what a part computed to the stream.
    fn after(
        &mut self,
        spec: &DecoderSpec,
        block: usize,
        x: BufferId,
        buffers: &Buffers,
        part: Part,
    ) -> Result<BufferId> {
        let mut input = buffers.block_out;
        if matches!(spec.norm.placement, NormPlacement::Post | NormPlacement::PreAndPost) {
            let norm = self.norm(&format!("blk.{block}.{}", part.after), spec.embedding_length)?;
            self.push(Op::Norm { input, norm, out: buffers.out_normed });
            input = buffers.out_normed;
        }
        self.push(Op::Add { input, scale: spec.residual_scale, out: x });
        if spec.norm.placement != NormPlacement::PostSum {
            return Ok(x);
        }
        let norm = self.norm(&format!("blk.{block}.{}", part.after_sum), spec.embedding_length)?;
        let out = if x == buffers.x { buffers.y } else { buffers.x };
        self.push(Op::Norm { input: x, norm, out });
        Ok(out)
    }

    fn attention(
        &mut self,
        spec: &DecoderSpec,
        block: usize,
        input: BufferId,
        buffers: &Buffers,
    ) -> Result<()> {
        let attention = &spec.attention;
        let queries = attention.head_count * attention.key_length;
        let keys = attention.head_count_kv * attention.key_length;
        let values = attention.head_count_kv * attention.value_length;
        let (width, qkv) = (spec.embedding_length, buffers.qkv);
        let parts: &[(&str, usize)] = if attention.fused {
            &[("attn_qkv", queries + keys + values)]
        } else {
            &[("attn_q", queries), ("attn_k", keys), ("attn_v", values)]
        };
        self.group(block, parts, width, input, qkv, attention.qkv_bias)?;
        let mut norm = |name: &str, heads: usize| -> Result<Option<VectorId>> {
            let name = format!("blk.{block}.{name}.weight");
            Ok(match attention.qk_norm {
                None => None,
                Some(QkNorm::Head) => Some(self.vector(&name, attention.key_length)?),
                Some(QkNorm::All) => Some(self.vector(&name, heads * attention.key_length)?),
                Some(QkNorm::LayerOfHead) => {
                    let rows = self.tensors.matrix(&name, heads, attention.key_length)?;
                    let all: Vec<f32> = (0..heads).flat_map(|head| rows.row(head)).collect();
                    Some(self.add_vector(all.into()))
                }
            })
        };
        let q_norm = norm("attn_q_norm", attention.head_count)?;
        let k_norm = norm("attn_k_norm", attention.head_count_kv)?;
        let rotation = match self.program.rotations.len() {
            0 => None,
            _ => Some(usize::from(spec.is_local(block))),
        };
        self.push(Op::StoreKv { block, qkv, norm: k_norm, rotation });
        let (window, out) = (spec.window(block), buffers.heads);
        self.push(Op::Attention { block, qkv, norm: q_norm, rotation, window, out });
        let attended = attention.head_count * attention.value_length;
        let output = [("attn_output", width)];
        self.group(block, &output, attended, buffers.heads, buffers.block_out, attention.output_bias)
    }

    fn feed_forward(
        &mut self,
        spec: &DecoderSpec,
        block: usize,
        input: BufferId,
        buffers: &Buffers,
    ) -> Result<()> {
        let feed_forward = &spec.feed_forward;
        if let Some(experts) = &feed_forward.experts {
            return self.experts(spec, experts, block, input, buffers);
        }
        let (width, hidden) = (spec.embedding_length, feed_forward.length);
        let parts: &[(&str, usize)] = match (feed_forward.gated, feed_forward.fused) {
            (true, true) => &[("ffn_up", 2 * hidden)],
            (true, false) => &[("ffn_gate", hidden), ("ffn_up", hidden)],
            (false, _) => &[("ffn_up", hidden)],
        };
        self.group(block, parts, width, input, buffers.gate_up, feed_forward.bias)?;
        self.push(Op::Gate { input: buffers.gate_up, gated: feed_forward.gated, out: buffers.gated });
        let down = [("ffn_down", width)];
        self.group(block, &down, hidden, buffers.gated, buffers.block_out, feed_forward.bias)
    }

    /// The router's choice, the chosen experts, and the sum of what they give.
    fn experts(
        &mut self,
        spec: &DecoderSpec,
        experts: &Experts,
        block: usize,
        input: BufferId,
        buffers: &Buffers,
    ) -> Result<()> {
        let Experts { count, used, length, normalised } = *experts;
        let width = spec.embedding_length;
        self.group(block, &[("ffn_gate_inp", count)], width, input, buffers.router, false)?;
        let chosen = buffers.chosen;
        self.push(Op::Route { input: buffers.router, normalised, out: chosen });
        for (part, name) in ["ffn_gate_exps", "ffn_up_exps"].into_iter().enumerate() {
            let weights = self.stacked(&format!("blk.{block}.{name}.weight"), count, length, width)?;
            let from = self.input_of(input, weights[0]);
            let at = part * used * length;
            self.push(Op::Experts { input: from, chosen, weights, each: false, out: buffers.gate_up, at });
        }
        self.push(Op::Gate { input: buffers.gate_up, gated: true, out: buffers.gated });
        let weights = self.stacked(&format!("blk.{block}.ffn_down_exps.weight"), count, width, length)?;
        let from = self.input_of(buffers.gated, weights[0]);
        let out = buffers.expert_out;
        self.push(Op::Experts { input: from, chosen, weights, each: true, out, at: 0 });
        self.push(Op::Mix { input: buffers.expert_out, chosen, out: buffers.block_out });
        Ok(())
    }

    /// The matrices of a tensor `[count, rows, cols]`.
    fn stacked(&mut self, name: &str, count: usize, rows: usize, cols: usize) -> Result<Vec<MatrixId>> {
        let matrices = self.tensors.matrices(name, count, rows, cols)?;
        Ok(matrices.into_iter().map(|matrix| self.add_matrix(matrix)).collect())
    }

    /// Weights of one input, side by side in `out`; `parts` are their names and rows.
    fn group(
        &mut self,
        block: usize,
        parts: &[(&str, usize)],
        cols: usize,
        input: BufferId,
        out: BufferId,
        bias: bool,
    ) -> Result<()> {
        let mut weights = Vec::new();
        for (part, rows) in parts {
            let matrix = self.matrix(&format!("blk.{block}.{part}.weight"), *rows, cols)?;
            let name = format!("blk.{block}.{part}.bias");
            let bias = match (bias, self.tensors.has(&name)) {
                (true, _) => Some(self.vector(&name, *rows)?),
                (false, true) => return Err(unexpected(&name)),
                (false, false) => None,
            };
            weights.push((matrix, bias));
        }
        self.multiply(input, &weights, out);
        Ok(())
    }
}
