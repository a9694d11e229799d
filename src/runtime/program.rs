//! A step as a flat list of operations over buffers of known size.
//!
//! [`Program::lower`] turns a spec and a model's tensors into the list, then `fuse` makes
//! one operation of those that can share a pass over memory. Buffers have a number of columns: one
//! for each token of a step (`Columns`), or one for each token whose logits are asked for
//! (`Outputs`).

use std::fmt::Write as _;
use std::sync::Arc;

use mdl_kernels::ops::activation::{ActivationBlock, BLOCK};
use mdl_kernels::ops::matmul::{Packed, takes_blocks};

use super::kv::{KvLayout, KvType};
use super::rotation::Rotation;
use super::weights::{Matrix, Tensors};
use super::{fuse, lower};
use crate::diagnostic::Result;
use crate::families::spec::{DecoderSpec, NormKind};

/// The number of a matrix in [`Program::matrices`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MatrixId(pub usize);

/// The number of a vector in [`Program::vectors`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct VectorId(pub usize);

/// The number of a buffer in [`Program::buffers`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BufferId(pub usize);

/// How many columns a buffer has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Extent {
    /// One for each token of the step.
    Columns,
    /// One for each token whose logits are asked for.
    Outputs,
}

/// What a buffer's values are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Element {
    /// Float32.
    F32,
    /// Blocks of int8; a value here is one of 32 in a block.
    Blocks,
}

/// A buffer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Buffer {
    /// Its name in a listing.
    pub name: &'static str,
    /// Its columns.
    pub extent: Extent,
    /// What its values are.
    pub element: Element,
    /// Values in a column.
    pub width: usize,
}

impl Buffer {
    /// Bytes of one column.
    pub fn column_bytes(&self) -> usize {
        match self.element {
            Element::F32 => self.width * size_of::<f32>(),
            Element::Blocks => self.width / BLOCK * size_of::<ActivationBlock>(),
        }
    }
}

/// One operation. Where `out` is a buffer of blocks, the result is quantized.
#[derive(Clone, Debug, PartialEq)]
#[allow(missing_docs)]
pub enum Op {
    /// `out = scale * table[token]`.
    Embed { table: MatrixId, scale: f32, out: BufferId },
    /// `out += table[position]`.
    AddPosition { table: MatrixId, out: BufferId },
    /// `out = norm(input)`.
    Norm { input: BufferId, norm: Norm, out: BufferId },
    /// `out = blocks of input`.
    Quantize { input: BufferId, out: BufferId },
    /// Rows `at..` of `out`: the products of each weight, one after the other, plus a bias each; or
    /// they are added to `out`.
    MatMul {
        input: BufferId,
        weights: Vec<MatrixId>,
        bias: Vec<Option<VectorId>>,
        out: BufferId,
        at: usize,
        add: bool,
    },
    /// `out[at..] += bias`.
    Bias { bias: VectorId, out: BufferId, at: usize },
    /// Keys (normed where asked, and turned) and values of `qkv` to the cache of a block.
    StoreKv { block: usize, qkv: BufferId, norm: Option<VectorId>, rotation: Option<usize> },
    /// `out = attention of the queries of qkv` (normed where asked, and turned) over the cache.
    Attention {
        block: usize,
        qkv: BufferId,
        norm: Option<VectorId>,
        rotation: Option<usize>,
        window: Option<usize>,
        out: BufferId,
    },
    /// `out = activation(first half of input) * second half`; without a gate, `out = activation(input)`.
    Gate { input: BufferId, gated: bool, out: BufferId },
    /// `out = activation(gate) * up`, where gate and up are the first and the second half of the products of the
    /// weights, one after the other, plus a bias each; without a gate, `out = activation(products)`.
    GatedMatMul {
        input: BufferId,
        weights: Vec<MatrixId>,
        bias: Vec<Option<VectorId>>,
        gated: bool,
        out: BufferId,
    },
    /// `out`: the experts with the highest probability, as numbers, then their weights.
    Route { input: BufferId, normalised: bool, out: BufferId },
    /// Rows `at..` of `out`: for each expert chosen for a column, its product with the column; or, with `each`,
    /// with its own part of the column.
    Experts {
        input: BufferId,
        chosen: BufferId,
        weights: Vec<MatrixId>,
        each: bool,
        out: BufferId,
        at: usize,
    },
    /// `out`: the sum of the parts of `input`, each by its expert's weight.
    Mix { input: BufferId, chosen: BufferId, out: BufferId },
    /// `out += scale * input`.
    Add { input: BufferId, scale: f32, out: BufferId },
    /// The columns whose logits are asked for.
    Select { input: BufferId, out: BufferId },
    /// `out = cap(scale * out)`.
    ScaleLogits { scale: f32, cap: Option<f32>, out: BufferId },
}

impl Op {
    /// Calls `f` with every buffer the operation names.
    pub(super) fn for_each_buffer(&mut self, mut f: impl FnMut(&mut BufferId)) {
        match self {
            Op::Embed { out, .. }
            | Op::AddPosition { out, .. }
            | Op::Bias { out, .. }
            | Op::ScaleLogits { out, .. } => f(out),
            Op::StoreKv { qkv, .. } => f(qkv),
            Op::Experts { input, chosen, out, .. } | Op::Mix { input, chosen, out } => {
                f(input);
                f(chosen);
                f(out);
            }
            Op::Attention { qkv: input, out, .. }
            | Op::Norm { input, out, .. }
            | Op::Quantize { input, out }
            | Op::MatMul { input, out, .. }
            | Op::Gate { input, out, .. }
            | Op::GatedMatMul { input, out, .. }
            | Op::Route { input, out, .. }
            | Op::Add { input, out, .. }
            | Op::Select { input, out } => {
                f(input);
                f(out);
            }
        }
    }

    /// The buffer that is written; `None` for the cache.
    pub fn out(&self) -> Option<BufferId> {
        match self {
            Op::StoreKv { .. } => None,
            Op::Embed { out, .. }
            | Op::AddPosition { out, .. }
            | Op::Bias { out, .. }
            | Op::ScaleLogits { out, .. }
            | Op::Attention { out, .. }
            | Op::Norm { out, .. }
            | Op::Quantize { out, .. }
            | Op::MatMul { out, .. }
            | Op::Gate { out, .. }
            | Op::GatedMatMul { out, .. }
            | Op::Route { out, .. }
            | Op::Experts { out, .. }
            | Op::Mix { out, .. }
            | Op::Add { out, .. }
            | Op::Select { out, .. } => Some(*out),
        }
    }

    /// The weights that are multiplied with.
    pub fn weights(&self) -> &[MatrixId] {
        match self {
            Op::MatMul { weights, .. } | Op::GatedMatMul { weights, .. } | Op::Experts { weights, .. } => {
                weights
            }
            _ => &[],
        }
    }

    /// True when what is in `buffer` matters to the operation.
    pub fn reads(&self, buffer: BufferId) -> bool {
        match self {
            Op::Embed { .. } => false,
            Op::AddPosition { out, .. } | Op::Bias { out, .. } | Op::ScaleLogits { out, .. } => {
                *out == buffer
            }
            Op::StoreKv { qkv, .. } => *qkv == buffer,
            Op::Add { input, out, .. } => *input == buffer || *out == buffer,
            // A product at an offset leaves the rest of its output as it is.
            Op::MatMul { input, out, at, add, .. } => {
                *input == buffer || (*out == buffer && (*add || *at > 0))
            }
            Op::Experts { input, chosen, out, at, .. } => {
                *input == buffer || *chosen == buffer || (*out == buffer && *at > 0)
            }
            Op::Mix { input, chosen, .. } => *input == buffer || *chosen == buffer,
            Op::Attention { qkv: input, .. }
            | Op::Norm { input, .. }
            | Op::Quantize { input, .. }
            | Op::Gate { input, .. }
            | Op::GatedMatMul { input, .. }
            | Op::Route { input, .. }
            | Op::Select { input, .. } => *input == buffer,
        }
    }
}

/// The vectors of a norm; its formula is the spec's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Norm {
    /// What is multiplied with.
    pub weight: VectorId,
    /// What is added.
    pub bias: Option<VectorId>,
}

/// Where the hidden state of an output is after a step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Hidden {
    /// In a buffer.
    Buffer(BufferId),
    /// The norm of what is in a buffer: the step may keep it as blocks only.
    Norm {
        /// The buffer.
        input: BufferId,
        /// The norm.
        norm: Norm,
    },
}

/// A model's step.
#[derive(Debug)]
pub struct Program {
    /// What it computes.
    pub spec: DecoderSpec,
    /// The operations, in order.
    pub ops: Vec<Op>,
    /// Where they work.
    pub buffers: Vec<Buffer>,
    /// The weights.
    pub matrices: Vec<Matrix>,
    /// Norms and biases.
    pub vectors: Vec<Arc<[f32]>>,
    /// How heads turn: none, one for all blocks, or a second one for those with a window.
    pub rotations: Vec<Rotation>,
    /// Where the logits are after a step; `None` for a model that makes embeddings only.
    pub logits: Option<BufferId>,
    /// Where the hidden states are after a step.
    pub hidden: Hidden,
    /// Matrices that a pooled hidden state goes through, in order.
    pub projections: Vec<Matrix>,
}

/// Bytes that a context takes beside the weights.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Memory {
    /// Keys and values.
    pub kv: u64,
    /// The buffers of a step.
    pub buffers: u64,
}

impl Memory {
    /// All of it.
    pub fn total(&self) -> u64 {
        self.kv.saturating_add(self.buffers)
    }
}

/// How much a session has room for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Room {
    /// Pages of the KV cache.
    pub pages: usize,
    /// Positions of a sequence at most.
    pub context: usize,
    /// Columns of a step at most.
    pub columns: usize,
    /// Columns of a step whose logits are asked for, at most.
    pub outputs: usize,
    /// How keys and values are stored.
    pub kv: KvType,
}

impl Program {
    /// Lowers a decoder and its tensors.
    ///
    /// # Errors
    /// The spec asks for something that is not implemented; a tensor is missing, has another shape
    /// or type, or belongs to nothing.
    pub fn lower(spec: DecoderSpec, tensors: Tensors) -> Result<Program> {
        let mut program = lower::lower(spec, tensors)?;
        fuse::fuse(&mut program);
        Ok(program)
    }

    /// As [`Program::lower`], without fusing: what each matrix is multiplied with is there as floats,
    /// for an observer. It computes the same.
    ///
    /// # Errors
    /// As [`Program::lower`].
    pub fn lower_observable(spec: DecoderSpec, tensors: Tensors) -> Result<Program> {
        lower::lower(spec, tensors)
    }

    /// The memory that `room` takes, known before anything is allocated.
    pub fn memory(&self, room: &Room) -> Memory {
        let layout = KvLayout::new(&self.spec, room.pages, room.kv);
        let block = layout.bytes().map_or(u64::MAX, |b| b as u64);
        let buffers = self.buffers.iter().map(|buffer| {
            let columns = match buffer.extent {
                Extent::Columns => room.columns,
                Extent::Outputs => room.outputs,
            };
            (buffer.column_bytes() as u64).saturating_mul(columns as u64)
        });
        Memory {
            kv: block.saturating_mul(self.spec.block_count as u64),
            buffers: buffers.fold(0, u64::saturating_add),
        }
    }

    /// Bytes of weights that one step reads.
    pub fn weight_bytes(&self) -> u64 {
        let bytes = |op: &Op| -> u64 {
            let all = op.weights().iter().map(|id| self.matrices[id.0].byte_len() as u64).sum::<u64>();
            match (op, &self.spec.feed_forward.experts) {
                (Op::Experts { .. }, Some(experts)) => all / experts.count as u64 * experts.used as u64,
                _ => all,
            }
        };
        self.ops.iter().map(bytes).sum()
    }

    /// Bytes of the weights as a backend keeps them, in panels, beside the file.
    pub fn packed_bytes(&self) -> u64 {
        let mut ids: Vec<usize> = self.ops.iter().flat_map(Op::weights).map(|id| id.0).collect();
        ids.sort_unstable();
        ids.dedup();
        let bytes = |id: usize| Packed::bytes(&self.matrices[id].weight()).unwrap_or(0) as u64;
        ids.into_iter().map(bytes).fold(0, u64::saturating_add)
    }

    /// Rows of some matrices together.
    pub fn rows_of(&self, ids: &[MatrixId]) -> usize {
        ids.iter().map(|id| self.matrices[id.0].rows()).sum()
    }

    /// True when matrix `id` is multiplied with blocks.
    pub fn takes_blocks(&self, id: MatrixId) -> bool {
        takes_blocks(self.matrices[id.0].tensor_type())
    }

    /// What a pooled hidden state becomes: itself, or what the projections make of it.
    pub fn project(&self, pooled: Vec<f32>) -> Vec<f32> {
        self.projections.iter().fold(pooled, |x, matrix| {
            let dot =
                |row: Vec<f32>| row.iter().zip(&x).map(|(w, x)| f64::from(*w) * f64::from(*x)).sum::<f64>();
            (0..matrix.rows()).map(|i| dot(matrix.row(i)) as f32).collect()
        })
    }

    /// The list, one operation a line, for people.
    pub fn listing(&self) -> String {
        let mut text = String::new();
        let name = |id: &BufferId| {
            let buffer = &self.buffers[id.0];
            let blocks = if buffer.element == Element::Blocks { ".q8" } else { "" };
            format!("{}{blocks}", buffer.name)
        };
        for op in &self.ops {
            let matrices = |ids: &[MatrixId]| {
                let each = ids.iter().map(|id| {
                    let m = &self.matrices[id.0];
                    format!("{}[{}, {}]", m.tensor_type(), m.rows(), m.cols())
                });
                each.collect::<Vec<_>>().join(" ")
            };
            let _ = match op {
                Op::Embed { table, scale, out } => {
                    writeln!(text, "{} = embed {} x{scale}", name(out), matrices(&[*table]))
                }
                Op::AddPosition { table, out } => {
                    writeln!(text, "{} += position {}", name(out), matrices(&[*table]))
                }
                Op::Norm { input, out, .. } => {
                    let kind = match self.spec.norm.kind {
                        NormKind::Rms => "rms_norm",
                        NormKind::Layer => "layer_norm",
                    };
                    writeln!(text, "{} = {kind} {}", name(out), name(input))
                }
                Op::Quantize { input, out } => writeln!(text, "{} = quantize {}", name(out), name(input)),
                Op::MatMul { input, weights, bias, out, at, add } => {
                    let sign = if *add { "+=" } else { "=" };
                    let at = if *at > 0 { format!("[{at}..]") } else { String::new() };
                    let bias = if bias.iter().any(Option::is_some) { " + bias" } else { "" };
                    let weights = matrices(weights);
                    writeln!(text, "{}{at} {sign} matmul {weights} {}{bias}", name(out), name(input))
                }
                Op::Bias { out, at, .. } => writeln!(text, "{}[{at}..] += bias", name(out)),
                Op::StoreKv { block, qkv, norm, .. } => {
                    let norm = if norm.is_some() { " norm" } else { "" };
                    writeln!(text, "kv.{block} = store{norm} {}", name(qkv))
                }
                Op::Attention { block, qkv, norm, window, out, .. } => {
                    let norm = if norm.is_some() { " norm" } else { "" };
                    let window = window.map(|w| format!(" window {w}")).unwrap_or_default();
                    writeln!(text, "{} = attention{norm}{window} {} kv.{block}", name(out), name(qkv))
                }
                Op::Gate { input, gated, out } => {
                    let op = if *gated { "gate" } else { "activation" };
                    writeln!(text, "{} = {op} {}", name(out), name(input))
                }
                Op::GatedMatMul { input, weights, bias, gated, out } => {
                    let op = if *gated { "gate" } else { "activation" };
                    let bias = if bias.iter().any(Option::is_some) { " + bias" } else { "" };
                    let weights = matrices(weights);
                    writeln!(text, "{} = {op} of matmul {weights} {}{bias}", name(out), name(input))
                }
                Op::Route { input, out, .. } => writeln!(text, "{} = route {}", name(out), name(input)),
                Op::Experts { input, weights, out, at, .. } => {
                    let at = if *at > 0 { format!("[{at}..]") } else { String::new() };
                    let (n, one) = (weights.len(), matrices(&weights[..1]));
                    writeln!(text, "{}{at} = experts {n}x {one} {}", name(out), name(input))
                }
                Op::Mix { input, out, .. } => writeln!(text, "{} = mix {}", name(out), name(input)),
                Op::Add { input, scale, out } => writeln!(text, "{} += {} x{scale}", name(out), name(input)),
                Op::Select { input, out } => writeln!(text, "{} = select {}", name(out), name(input)),
                Op::ScaleLogits { scale, out, .. } => writeln!(text, "{} = scale x{scale}", name(out)),
            };
        }
        text
    }
}
