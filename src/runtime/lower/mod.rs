//! From a spec and tensors to the list of operations, one plain operation at a time.

mod block;

use std::collections::HashMap;
use std::sync::Arc;

use mdl_kernels::ops::activation::BLOCK;

use super::low_rank;
use super::program::{Buffer, BufferId, Element, Extent, Hidden, MatrixId, Norm, Op, Program, VectorId};
use super::rotation::{rotations, unexpected};
use super::weights::{Matrix, Tensors};
use crate::diagnostic::{Diagnostic, Result};
use crate::families::spec::{DecoderSpec, NormKind, NormPlacement, Output};

/// Matrices that a pooled hidden state goes through, in order.
const PROJECTIONS: [&str; 2] = ["dense_2.weight", "dense_3.weight"];

struct Lowering {
    program: Program,
    tensors: Tensors,
    /// The factors `A` and `B` of the adapters of matrices that have not been multiplied yet.
    low_rank: HashMap<usize, Vec<(MatrixId, MatrixId)>>,
}

/// Lowers without fusing.
pub(super) fn lower(spec: DecoderSpec, mut tensors: Tensors) -> Result<Program> {
    spec.check()?;
    let rotations = rotations(&spec, &mut tensors)?;
    let program = Program {
        spec,
        ops: Vec::new(),
        buffers: Vec::new(),
        matrices: Vec::new(),
        vectors: Vec::new(),
        rotations,
        logits: None,
        hidden: Hidden::Buffer(BufferId(0)),
        projections: Vec::new(),
    };
    let mut lowering = Lowering { program, tensors, low_rank: HashMap::new() };
    lowering.model()?;
    if let Some(name) = lowering.tensors.left().into_iter().next() {
        let architecture = &lowering.program.spec.architecture;
        return Err(Diagnostic::error(format!(
            "tensor `{name}` has no place in a model of architecture `{architecture}`"
        ))
        .code("invalid-model")
        .help("the model would run without it and answer wrongly, so it is refused")
        .into());
    }
    if !lowering.low_rank.is_empty() {
        return Err(Diagnostic::error("an adapter changes a matrix that is looked up, not multiplied")
            .code("unsupported-adapter")
            .help("fuse it: build a model `FROM` this one, with `-q`")
            .into());
    }
    Ok(lowering.program)
}

impl Lowering {
    fn model(&mut self) -> Result<()> {
        let spec = self.program.spec.clone();
        let buffers = block::Buffers::new(self, &spec);
        let embedding = self.matrix("token_embd.weight", spec.vocab_size, spec.embedding_length)?;
        let mut x = self.embed(&spec, embedding, &buffers)?;
        for block in 0..spec.block_count {
            x = self.block(&spec, block, x, &buffers)?;
        }
        self.output(&spec, embedding, x)
    }

    /// The token's vector and what comes to it; returns where the sum is.
    fn embed(&mut self, spec: &DecoderSpec, table: MatrixId, buffers: &block::Buffers) -> Result<BufferId> {
        let (x, width) = (buffers.x, spec.embedding_length);
        self.push(Op::Embed { table, scale: spec.embedding_scale, out: x });
        let extras = spec.embedding_extras;
        if extras.token_types > 0 {
            let types = self.tensors.matrix("token_types.weight", extras.token_types, width)?;
            let first = self.add_vector(types.row(0).into());
            self.push(Op::Bias { bias: first, out: x, at: 0 });
        }
        if extras.positions > 0 {
            let table = self.matrix("position_embd.weight", extras.positions, width)?;
            self.push(Op::AddPosition { table, out: x });
        }
        if !extras.norm {
            return Ok(x);
        }
        let norm = self.norm("token_embd_norm", width)?;
        self.push(Op::Norm { input: x, norm, out: buffers.y });
        Ok(buffers.y)
    }

    /// The final norm and the head.
    fn output(&mut self, spec: &DecoderSpec, embedding: MatrixId, x: BufferId) -> Result<()> {
        let (width, vocabulary) = (spec.embedding_length, spec.vocab_size);
        let selected = self.buffer("selected", Extent::Outputs, width);
        self.push(Op::Select { input: x, out: selected });
        let mut last = selected;
        self.program.hidden = Hidden::Buffer(selected);
        if spec.norm.placement != NormPlacement::PostSum {
            last = self.buffer("final_normed", Extent::Outputs, width);
            let norm = self.norm("output_norm", width)?;
            self.push(Op::Norm { input: selected, norm, out: last });
            self.program.hidden = match spec.output {
                Output::Hidden => Hidden::Buffer(last),
                Output::Logits => Hidden::Norm { input: selected, norm },
            };
        }
        self.projections(width)?;
        if spec.output == Output::Hidden {
            return Ok(());
        }
        let logits = self.buffer("logits", Extent::Outputs, vocabulary);
        let head = match (spec.tied_embeddings, self.tensors.has("output.weight")) {
            (true, true) => return Err(unexpected("output.weight")),
            (true, false) => embedding,
            (false, _) => self.matrix("output.weight", vocabulary, width)?,
        };
        let bias = self.tensors.has("output.bias").then(|| self.vector("output.bias", vocabulary));
        self.multiply(last, &[(head, bias.transpose()?)], logits);
        if spec.logit_scale != 1.0 || spec.logit_soft_cap.is_some() {
            let (scale, cap) = (spec.logit_scale, spec.logit_soft_cap);
            self.push(Op::ScaleLogits { scale, cap, out: logits });
        }
        self.program.logits = Some(logits);
        Ok(())
    }

    /// The matrices after pooling; each takes what the one before gives.
    fn projections(&mut self, width: usize) -> Result<()> {
        let mut cols = width;
        for name in PROJECTIONS.into_iter().filter(|name| self.tensors.has(name)).collect::<Vec<_>>() {
            let rows = self.tensors.rows(name).unwrap_or(0);
            let matrix = self.tensors.matrix(name, rows, cols)?;
            self.program.projections.push(matrix);
            cols = rows;
        }
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
        let id = self.add_matrix(matrix);
        for i in 0.. {
            let [a, b] = low_rank::names(name, i);
            let Some(rank) = self.tensors.rows(&a) else { break };
            let a = self.tensors.matrix(&a, rank, cols)?;
            let b = self.tensors.matrix(&b, rows, rank)?;
            let pair = (self.add_matrix(a), self.add_matrix(b));
            self.low_rank.entry(id.0).or_default().push(pair);
        }
        Ok(id)
    }

    fn add_matrix(&mut self, matrix: Matrix) -> MatrixId {
        self.program.matrices.push(matrix);
        MatrixId(self.program.matrices.len() - 1)
    }

    fn vector(&mut self, name: &str, len: usize) -> Result<VectorId> {
        let vector = self.tensors.vector(name, len)?;
        Ok(self.add_vector(vector))
    }

    fn add_vector(&mut self, vector: Arc<[f32]>) -> VectorId {
        self.program.vectors.push(vector);
        VectorId(self.program.vectors.len() - 1)
    }

    /// The norm `name`: its weight, and its bias where it is a layer norm that has one.
    fn norm(&mut self, name: &str, len: usize) -> Result<Norm> {
        let weight = self.vector(&format!("{name}.weight"), len)?;
        let bias = format!("{name}.bias");
        let has = self.program.spec.norm.kind == NormKind::Layer && self.tensors.has(&bias);
        Ok(Norm { weight, bias: if has { Some(self.vector(&bias, len)?) } else { None } })
    }

    /// One multiplication for each run of weights that take the same kind of input.
    fn multiply(&mut self, input: BufferId, weights: &[(MatrixId, Option<VectorId>)], out: BufferId) {
        let mut at = 0;
        for run in weights
            .chunk_by(|a, b| self.program.takes_blocks(a.0) == self.program.takes_blocks(b.0))
            .map(<[_]>::to_vec)
            .collect::<Vec<_>>()
        {
            let from = self.input_of(input, run[0].0);
            let ids: Vec<MatrixId> = run.iter().map(|(id, _)| *id).collect();
            let bias = vec![None; ids.len()];
            let first = at;
            self.push(Op::MatMul { input: from, weights: ids.clone(), bias, out, at, add: false });
            for (id, bias) in run {
                if let Some(bias) = bias {
                    self.push(Op::Bias { bias, out, at });
                }
                at += self.program.matrices[id.0].rows();
            }
            self.adapt(input, &ids, out, first);
        }
    }

    /// Adds what adapters say to the products of `weights` with `input`, in rows `at..` of `out`.
    fn adapt(&mut self, input: BufferId, weights: &[MatrixId], out: BufferId, mut at: usize) {
        for id in weights {
            for (a, b) in self.low_rank.remove(&id.0).unwrap_or_default() {
                let Buffer { extent, .. } = self.program.buffers[out.0];
                let inner = self.low_rank_buffer(extent, self.program.matrices[a.0].rows());
                let product = |input, weight, out, at, add| Op::MatMul {
                    input,
                    weights: vec![weight],
                    bias: vec![None],
                    out,
                    at,
                    add,
                };
                self.push(product(input, a, inner, 0, false));
                self.push(product(inner, b, out, at, true));
            }
            at += self.program.matrices[id.0].rows();
        }
    }

    /// The buffer between the factors of an adapter of this rank.
    fn low_rank_buffer(&mut self, extent: Extent, rank: usize) -> BufferId {
        const NAME: &str = "low_rank";
        let same = |b: &Buffer| b.name == NAME && b.extent == extent && b.width == rank;
        match self.program.buffers.iter().position(same) {
            Some(at) => BufferId(at),
            None => self.buffer(NAME, extent, rank),
        }
    }

    /// The buffer that a matrix multiplies: `input`, or its blocks, which are made unless they are there.
    fn input_of(&mut self, input: BufferId, id: MatrixId) -> BufferId {
        if !self.program.takes_blocks(id) {
            return input;
        }
        let blocks = self.blocks_of(input);
        if !self.was_quantized(input) {
            debug_assert!(self.program.buffers[input.0].width.is_multiple_of(BLOCK));
            self.push(Op::Quantize { input, out: blocks });
        }
        blocks
    }

    /// True when the blocks of a buffer are those of what is in it now.
    fn was_quantized(&self, input: BufferId) -> bool {
        for op in self.program.ops.iter().rev() {
            match op {
                Op::Quantize { input: from, .. } if *from == input => return true,
                op if op.out() == Some(input) => return false,
                _ => {}
            }
        }
        false
    }
}
