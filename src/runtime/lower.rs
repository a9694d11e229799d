//! From a spec and tensors to the list of operations, one plain operation at a time.

use std::sync::Arc;

use mdl_kernels::ops::activation::BLOCK;
use mdl_kernels::ops::rope::Frequencies;

use super::program::{Buffer, BufferId, Element, Extent, MatrixId, Op, Program, VectorId};
use super::weights::{Matrix, Tensors};
use crate::diagnostic::{Diagnostic, Errors, Result};
use crate::families::spec::{Activation, DecoderSpec, NormKind, NormPlacement, RopeKind, RopeScaling};

/// Tensors that a model may have and its step does not need.
const UNUSED: &[&str] = &["rope_freqs.weight"];

struct Lowering {
    program: Program,
    tensors: Tensors,
}

/// Lowers without fusing.
pub(super) fn lower(spec: DecoderSpec, mut tensors: Tensors) -> Result<Program> {
    spec.check()?;
    refuse_what_is_not_implemented(&spec)?;
    let frequencies = frequencies(&spec, &mut tensors)?;
    let program = Program {
        spec,
        ops: Vec::new(),
        buffers: Vec::new(),
        matrices: Vec::new(),
        vectors: Vec::new(),
        frequencies,
        logits: BufferId(0),
    };
    let mut lowering = Lowering { program, tensors };
    lowering.model()?;
    if let Some(name) = lowering.tensors.left().into_iter().find(|name| !UNUSED.contains(name)) {
        let architecture = &lowering.program.spec.architecture;
        return Err(Diagnostic::error(format!(
            "tensor `{name}` has no place in a model of architecture `{architecture}`"
        ))
        .code("invalid-model")
        .help("the model would run without it and answer wrongly, so it is refused")
        .into());
    }
    Ok(lowering.program)
}

/// What a spec can say and no operation computes.
fn refuse_what_is_not_implemented(spec: &DecoderSpec) -> Result<()> {
    let (attention, feed_forward) = (&spec.attention, &spec.feed_forward);
    let missing = [
        (spec.norm.kind != NormKind::Rms, "layer norm"),
        (spec.norm.placement != NormPlacement::Pre, "norms after attention or feed-forward"),
        (matches!(spec.rope.scaling, RopeScaling::Yarn { .. }), "YaRN"),
        (!feed_forward.gated, "a feed-forward network without a gate"),
        (
            !matches!(feed_forward.activation, Activation::Silu | Activation::GeluTanh),
            "this activation of the feed-forward network",
        ),
        (feed_forward.experts.is_some(), "a mixture of experts"),
        (attention.key_length != attention.value_length && attention.qk_norm, "norms of keys unlike values"),
    ];
    match missing.iter().find(|(asked, _)| *asked) {
        Some((_, what)) => Err(Diagnostic::error(format!(
            "a model of architecture `{}` with {what} cannot be run yet",
            spec.architecture
        ))
        .code("not-implemented")
        .into()),
        None => Ok(()),
    }
}

fn frequencies(spec: &DecoderSpec, tensors: &mut Tensors) -> Result<Option<Frequencies>> {
    let rope = &spec.rope;
    if rope.kind == RopeKind::None {
        return Ok(None);
    }
    let plain = |divisor: &dyn Fn(usize) -> f64| Frequencies::new(rope.dims, rope.freq_base.into(), divisor);
    Ok(Some(match rope.scaling {
        RopeScaling::Linear { factor } => plain(&|_| factor.into()),
        RopeScaling::Factors => {
            let factors = tensors.vector("rope_freqs.weight", rope.dims / 2)?;
            if let Some(i) = factors.iter().position(|f| *f <= 0.0) {
                let message = format!("tensor `rope_freqs.weight` value {i} is {}", factors[i]);
                return Err(Diagnostic::error(message).code("invalid-model").into());
            }
            plain(&|i| factors[i].into())
        }
        // A tensor of factors that the spec does not ask for would change every angle.
        _ if tensors.has("rope_freqs.weight") => {
            return Err(unexpected("rope_freqs.weight"));
        }
        _ => plain(&|_| 1.0),
    }))
}

fn unexpected(name: &str) -> Errors {
    Diagnostic::error(format!("tensor `{name}` is there, but the metadata does not ask for it"))
        .code("invalid-model")
        .into()
}

impl Lowering {
    fn model(&mut self) -> Result<()> {
        let spec = self.program.spec.clone();
        let (width, vocabulary) = (spec.embedding_length, spec.vocab_size);
        let attention = &spec.attention;
        let queries = attention.head_count * attention.key_length;
        let keys = attention.head_count_kv * attention.key_length;
        let values = attention.head_count_kv * attention.value_length;
        let attended = attention.head_count * attention.value_length;
        let hidden = spec.feed_forward.length;

        let x = self.buffer("x", Extent::Columns, width);
        let normed = self.buffer("normed", Extent::Columns, width);
        let qkv = self.buffer("qkv", Extent::Columns, queries + keys + values);
        let heads = self.buffer("heads", Extent::Columns, attended);
        let gate_up = self.buffer("gate_up", Extent::Columns, 2 * hidden);
        let gated = self.buffer("gated", Extent::Columns, hidden);
        let block_out = self.buffer("block_out", Extent::Columns, width);

        let embedding = self.matrix("token_embd.weight", vocabulary, width)?;
        self.push(Op::Embed { table: embedding, scale: spec.embedding_scale, out: x });
        for block in 0..spec.block_count {
            let name = |part: &str| format!("blk.{block}.{part}");
            let norm = self.vector(&name("attn_norm.weight"), width)?;
            self.push(Op::RmsNorm { input: x, weight: norm, out: normed });
            let group = [("attn_q", queries), ("attn_k", keys), ("attn_v", values)];
            self.group(block, &group, width, normed, qkv, attention.qkv_bias)?;
            let (q_norm, k_norm) = if attention.qk_norm {
                (
                    Some(self.vector(&name("attn_q_norm.weight"), attention.key_length)?),
                    Some(self.vector(&name("attn_k_norm.weight"), attention.key_length)?),
                )
            } else {
                (None, None)
            };
            self.push(Op::StoreKv { block, qkv, norm: k_norm });
            let window = spec.window(block);
            self.push(Op::Attention { block, qkv, norm: q_norm, window, out: heads });
            let output = [("attn_output", width)];
            self.group(block, &output, attended, heads, block_out, attention.output_bias)?;
            self.push(Op::Add { input: block_out, scale: spec.residual_scale, out: x });

            let norm = self.vector(&name("ffn_norm.weight"), width)?;
            self.push(Op::RmsNorm { input: x, weight: norm, out: normed });
            let group = [("ffn_gate", hidden), ("ffn_up", hidden)];
            self.group(block, &group, width, normed, gate_up, spec.feed_forward.bias)?;
            self.push(Op::Gate { input: gate_up, out: gated });
            self.group(block, &[("ffn_down", width)], hidden, gated, block_out, spec.feed_forward.bias)?;
            self.push(Op::Add { input: block_out, scale: spec.residual_scale, out: x });
        }

        let selected = self.buffer("selected", Extent::Outputs, width);
        let final_normed = self.buffer("final_normed", Extent::Outputs, width);
        let logits = self.buffer("logits", Extent::Outputs, vocabulary);
        self.push(Op::Select { input: x, out: selected });
        let norm = self.vector("output_norm.weight", width)?;
        self.push(Op::RmsNorm { input: selected, weight: norm, out: final_normed });
        let head = match (spec.tied_embeddings, self.tensors.has("output.weight")) {
            (true, true) => return Err(unexpected("output.weight")),
            (true, false) => embedding,
            (false, _) => self.matrix("output.weight", vocabulary, width)?,
        };
        self.multiply(final_normed, &[(head, None)], logits);
        if spec.logit_scale != 1.0 || spec.logit_soft_cap.is_some() {
            let (scale, cap) = (spec.logit_scale, spec.logit_soft_cap);
            self.push(Op::ScaleLogits { scale, cap, out: logits });
        }
        self.program.logits = logits;
        Ok(())
    }

    fn push(&mut self, op: Op) {
        self.program.ops.push(op);
    }

    fn buffer(&mut self, name: &'static str, extent: Extent, width: usize) -> BufferId {
        self.program.buffers.push(Buffer { name, extent, element: Element::F32, width });
        BufferId(self.program.buffers.len() - 1)
    }

    /// The buffer of blocks beside a buffer of floats.
    fn blocks_of(&mut self, of: BufferId) -> BufferId {
        let Buffer { name, extent, width, .. } = self.program.buffers[of.0];
        let same = |b: &Buffer| b.name == name && b.element == Element::Blocks;
        match self.program.buffers.iter().position(same) {
            Some(at) => BufferId(at),
            None => {
                self.program.buffers.push(Buffer { name, extent, element: Element::Blocks, width });
                BufferId(self.program.buffers.len() - 1)
            }
        }
    }

    fn matrix(&mut self, name: &str, rows: usize, cols: usize) -> Result<MatrixId> {
        let matrix = self.tensors.matrix(name, rows, cols)?;
        Ok(self.add_matrix(matrix))
    }

    fn add_matrix(&mut self, matrix: Matrix) -> MatrixId {
        self.program.matrices.push(matrix);
        MatrixId(self.program.matrices.len() - 1)
    }

    fn vector(&mut self, name: &str, len: usize) -> Result<VectorId> {
        let vector: Arc<[f32]> = self.tensors.vector(name, len)?;
        self.program.vectors.push(vector);
        Ok(VectorId(self.program.vectors.len() - 1))
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

    /// One multiplication for each run of weights that take the same kind of input.
    fn multiply(&mut self, input: BufferId, weights: &[(MatrixId, Option<VectorId>)], out: BufferId) {
        let mut at = 0;
        let mut quantized = false;
        for run in weights
            .chunk_by(|a, b| self.program.takes_blocks(a.0) == self.program.takes_blocks(b.0))
            .map(<[_]>::to_vec)
            .collect::<Vec<_>>()
        {
            let from = if self.program.takes_blocks(run[0].0) {
                let blocks = self.blocks_of(input);
                if !quantized {
                    debug_assert!(self.program.buffers[input.0].width.is_multiple_of(BLOCK));
                    self.push(Op::Quantize { input, out: blocks });
                    quantized = true;
                }
                blocks
            } else {
                input
            };
            let ids: Vec<MatrixId> = run.iter().map(|(id, _)| *id).collect();
            let bias = vec![None; ids.len()];
            self.push(Op::MatMul { input: from, weights: ids, bias, out, at, add: false });
            for (id, bias) in run {
                if let Some(bias) = bias {
                    self.push(Op::Bias { bias, out, at });
                }
                at += self.program.matrices[id.0].rows();
            }
        }
    }
}
