//! What a step costs, read off its program: for each operation the bytes it moves and the products it adds up.

use mdl_kernels::TensorType;
use mdl_kernels::ops::matmul::{Packed, takes_blocks};

use super::backend::Column;
use super::kv::{KvLayout, KvType};
use super::program::{BufferId, Element, Extent, MatrixId, Op, Program};
use crate::families::spec::NormKind;

/// What one operation costs in one step.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cost {
    /// What is done, to what, in which shape: `matmul Q4_K 1536x576`. Operations of one name cost alike.
    pub name: String,
    /// Bytes that are read or written, each once however often it is used: the least that can move.
    pub bytes: u64,
    /// Multiply-adds of float32.
    pub float_macs: u64,
    /// Multiply-adds of BF16: of the few weights of that type that take float32 activations, too.
    pub bf16_macs: u64,
    /// Multiply-adds of int8.
    pub int8_macs: u64,
}

/// The columns of a step, as far as its cost depends on them.
struct Step<'a> {
    columns: &'a [Column],
    outputs: usize,
}

impl Program {
    /// The cost of each operation in a step of these columns, `outputs` logits and a cache of type `kv`.
    ///
    /// Weights count as they lie in memory, in panels. Of experts, as many count as the columns can have chosen.
    /// Norms and what else is done value by value count no multiply-adds: memory is their limit.
    pub fn costs(&self, columns: &[Column], outputs: usize, kv: KvType) -> Vec<Cost> {
        let step = Step { columns, outputs };
        self.ops.iter().map(|op| self.cost(op, &step, kv)).collect()
    }

    /// Bytes of all weights that a step multiplies with, as they lie in memory.
    pub fn multiplied_bytes(&self) -> u64 {
        let mut ids: Vec<usize> = self.ops.iter().flat_map(Op::weights).map(|id| id.0).collect();
        ids.sort_unstable();
        ids.dedup();
        ids.into_iter().map(|id| self.stored_bytes(MatrixId(id))).fold(0, u64::saturating_add)
    }

    fn cost(&self, op: &Op, step: &Step<'_>, kv: KvType) -> Cost {
        let columns = step.columns.len() as u64;
        let mut cost =
            Cost { name: self.operation_name(op), bytes: 0, float_macs: 0, bf16_macs: 0, int8_macs: 0 };
        match op {
            Op::Embed { table, out, .. } | Op::AddPosition { table, out } => {
                let matrix = &self.matrices[table.0];
                let row = (matrix.byte_len() / matrix.rows().max(1)) as u64;
                cost.bytes = columns * row + self.buffer_bytes(*out, step);
            }
            Op::MatMul { input, weights, out, at: _, add, .. } => {
                let (mut bytes, mut rows, mut macs) = (0, 0, 0);
                for id in weights {
                    let matrix = &self.matrices[id.0];
                    bytes += self.stored_bytes(*id);
                    rows += matrix.rows() as u64;
                    macs += (matrix.rows() * matrix.cols()) as u64;
                }
                let count = self.columns_of(*out, step);
                let results = count * rows * 4 * if *add { 2 } else { 1 };
                cost.bytes = bytes + self.buffer_bytes(*input, step) + results;
                self.count_macs(&mut cost, weights, macs * count);
            }
            Op::GatedMatMul { input, weights, out, .. } => {
                let bytes: u64 = weights.iter().map(|id| self.stored_bytes(*id)).sum();
                let macs = |id: &MatrixId| (self.matrices[id.0].rows() * self.matrices[id.0].cols()) as u64;
                let macs: u64 = weights.iter().map(macs).sum();
                cost.bytes = bytes + self.buffer_bytes(*input, step) + self.buffer_bytes(*out, step);
                self.count_macs(&mut cost, weights, macs * self.columns_of(*out, step));
            }
            Op::Experts { input, weights, .. } => {
                let used = self.spec.feed_forward.experts.as_ref().map_or(1, |e| e.used) as u64;
                let count = (weights.len() as u64).max(1);
                let read = count.min(columns * used);
                let all: u64 = weights.iter().map(|id| self.stored_bytes(*id)).sum();
                let (rows, cols) = weights.first().map_or((0, 0), |id| {
                    let matrix = &self.matrices[id.0];
                    (matrix.rows() as u64, matrix.cols() as u64)
                });
                let results = columns * used * rows * 4;
                cost.bytes = all / count * read + self.buffer_bytes(*input, step) + results;
                self.count_macs(&mut cost, weights, columns * used * rows * cols);
            }
            Op::StoreKv { .. } => {
                let attention = &self.spec.attention;
                let layout = KvLayout::new(&self.spec, 1, kv);
                let values = attention.head_count_kv * (attention.key_length + attention.value_length);
                let stored = layout.heads * (kv.row(layout.key_length) + kv.row(layout.value_length));
                cost.bytes = columns * (values * 4 + stored * kv.bytes()) as u64;
            }
            Op::Attention { window, out, .. } => {
                let attention = &self.spec.attention;
                let layout = KvLayout::new(&self.spec, 1, kv);
                let (seen, cached) = self.positions(step.columns, *window);
                let lengths = (attention.key_length + attention.value_length) as u64;
                let position = layout.heads * (kv.row(layout.key_length) + kv.row(layout.value_length));
                let queries = (attention.head_count * attention.key_length * 4) as u64 * columns;
                cost.bytes =
                    cached * (position * kv.bytes()) as u64 + queries + self.buffer_bytes(*out, step);
                cost.float_macs = seen * attention.head_count as u64 * lengths;
            }
            Op::Add { input, out, .. } => {
                cost.bytes = self.buffer_bytes(*input, step) + 2 * self.buffer_bytes(*out, step);
            }
            Op::Bias { bias, out, .. } => {
                let values = self.vectors[bias.0].len() as u64 * 4;
                cost.bytes = values + 2 * values * self.columns_of(*out, step);
            }
            Op::ScaleLogits { out, .. } => cost.bytes = 2 * self.buffer_bytes(*out, step),
            Op::Select { out, .. } => cost.bytes = 2 * self.buffer_bytes(*out, step),
            Op::Norm { input, out, .. }
            | Op::Quantize { input, out }
            | Op::Gate { input, out, .. }
            | Op::Route { input, out, .. }
            | Op::Mix { input, out, .. } => {
                cost.bytes = self.buffer_bytes(*input, step) + self.buffer_bytes(*out, step);
            }
        }
        cost
    }

    /// What an operation is called where operations of one kind are summed up.
    fn operation_name(&self, op: &Op) -> String {
        match op {
            Op::Embed { table, .. } => format!("embed {}", self.matrices[table.0].tensor_type()),
            Op::AddPosition { .. } => "add position".to_owned(),
            Op::Norm { out, .. } => {
                let kind = match self.spec.norm.kind {
                    NormKind::Rms => "rms norm",
                    NormKind::Layer => "layer norm",
                };
                format!("{kind}{}", self.and_quantize(*out))
            }
            Op::Quantize { .. } => "quantize".to_owned(),
            Op::MatMul { weights, .. } => format!("matmul {}", self.weights_name(weights)),
            Op::GatedMatMul { weights, out, .. } => {
                format!("matmul {} + gate{}", self.weights_name(weights), self.and_quantize(*out))
            }
            Op::Experts { weights, .. } => match weights.first() {
                Some(first) => format!("experts {}x {}", weights.len(), self.weights_name(&[*first])),
                None => "experts".to_owned(),
            },
            Op::Bias { .. } => "bias".to_owned(),
            Op::StoreKv { .. } => "store kv".to_owned(),
            Op::Attention { window: None, .. } => "attention".to_owned(),
            Op::Attention { window: Some(size), .. } => format!("attention window {size}"),
            Op::Gate { gated, out, .. } => {
                format!("{}{}", if *gated { "gate" } else { "activation" }, self.and_quantize(*out))
            }
            Op::Route { .. } => "route".to_owned(),
            Op::Mix { .. } => "mix".to_owned(),
            Op::Add { .. } => "add".to_owned(),
            Op::Select { .. } => "select".to_owned(),
            Op::ScaleLogits { .. } => "scale logits".to_owned(),
        }
    }

    fn and_quantize(&self, out: BufferId) -> &'static str {
        match self.buffers[out.0].element {
            Element::F32 => "",
            Element::Blocks => " + quantize",
        }
    }

    /// The types of weights that lie above each other, and their shape together: `Q4_K+Q6_K 960x576`.
    fn weights_name(&self, weights: &[MatrixId]) -> String {
        let mut types: Vec<String> = Vec::new();
        let (mut rows, mut cols) = (0, 0);
        for id in weights {
            let matrix = &self.matrices[id.0];
            let ty = matrix.tensor_type().to_string();
            if !types.contains(&ty) {
                types.push(ty);
            }
            rows += matrix.rows();
            cols = matrix.cols();
        }
        format!("{} {rows}x{cols}", types.join("+"))
    }

    /// Bytes that a product reads of a weight.
    fn stored_bytes(&self, id: MatrixId) -> u64 {
        let matrix = &self.matrices[id.0];
        Packed::bytes(&matrix.weight()).unwrap_or(matrix.byte_len()) as u64
    }

    fn count_macs(&self, cost: &mut Cost, weights: &[MatrixId], macs: u64) {
        match weights.first().map(|id| self.matrices[id.0].tensor_type()) {
            Some(ty) if takes_blocks(ty) => cost.int8_macs += macs,
            Some(TensorType::BF16) => cost.bf16_macs += macs,
            _ => cost.float_macs += macs,
        }
    }

    fn columns_of(&self, id: BufferId, step: &Step<'_>) -> u64 {
        match self.buffers[id.0].extent {
            Extent::Columns => step.columns.len() as u64,
            Extent::Outputs => step.outputs as u64,
        }
    }

    fn buffer_bytes(&self, id: BufferId, step: &Step<'_>) -> u64 {
        self.columns_of(id, step) * self.buffers[id.0].column_bytes() as u64
    }

    /// Pairs of a query and a position it sees; and positions of the cache that any query sees.
    fn positions(&self, columns: &[Column], window: Option<usize>) -> (u64, u64) {
        let (mut seen, mut cached) = (0, 0);
        for run in columns.chunk_by(|a, b| a.sequence == b.sequence) {
            let (Some(first), Some(last)) = (run.first(), run.last()) else { continue };
            let end = last.position + 1;
            let limit = window.unwrap_or(usize::MAX);
            cached += match self.spec.attention.causal {
                true => end - (first.position + 1).saturating_sub(limit),
                false => end,
            } as u64;
            let sees = |c: &Column| match self.spec.attention.causal {
                true => (c.position + 1).min(limit) as u64,
                false => end.min(limit) as u64,
            };
            seen += run.iter().map(sees).sum::<u64>();
        }
        (seen, cached)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::runtime::testing;

    fn program() -> Program {
        let spec = testing::spec(false);
        let tensors = testing::tensors(&spec, &|_| TensorType::Q4_0);
        Program::lower(spec, tensors).unwrap()
    }

    fn columns(n: usize, from: usize) -> Vec<Column> {
        (0..n).map(|i| Column { token: 1, position: from + i, sequence: 0 }).collect()
    }

    #[test]
    fn multiply_adds_count_for_the_type_of_the_weights() {
        for ty in [TensorType::F16, TensorType::BF16, TensorType::Q4_0] {
            let spec = testing::spec(false);
            let tensors = testing::tensors(&spec, &|_| ty);
            let costs = Program::lower(spec, tensors).unwrap().costs(&columns(4, 0), 1, KvType::F16);
            let products = costs.iter().filter(|c| c.name.starts_with("matmul"));
            for Cost { name, float_macs, bf16_macs, int8_macs, .. } in products {
                let counted = [
                    (TensorType::F16, float_macs),
                    (TensorType::BF16, bf16_macs),
                    (TensorType::Q4_0, int8_macs),
                ];
                assert!(counted.into_iter().all(|(of, macs)| (*macs > 0) == (of == ty)), "{name}");
            }
        }
    }

    #[test]
    fn a_step_costs_what_its_matrices_hold() {
        let program = program();
        let costs = program.costs(&columns(4, 0), 1, KvType::F16);
        assert_eq!(costs.len(), program.ops.len());
        let macs: u64 =
            costs.iter().filter(|c| c.name.starts_with("matmul")).map(|c| c.float_macs + c.int8_macs).sum();
        // Query, key, value, output; gate, up, down; and the head for one column.
        let block = 64 * 64 + 2 * 32 * 64 + 64 * 64 + 3 * 96 * 64;
        assert_eq!(macs, 4 * block + 32 * 64);
        let attention = costs.iter().find(|c| c.name == "attention").unwrap();
        // Each query sees the positions up to its own, with two heads of keys and values.
        assert_eq!(attention.float_macs, (1 + 2 + 3 + 4) * 2 * (32 + 32));
    }

    #[test]
    fn a_deeper_step_reads_more_of_the_cache_and_no_more_weights() {
        let program = program();
        let [near, far] = [0, 40].map(|from| program.costs(&columns(1, from), 1, KvType::F16));
        for (near, far) in near.iter().zip(&far) {
            match near.name.as_str() {
                // One head of 32 keys and 32 values of two bytes a position.
                "attention" => assert_eq!(far.bytes - near.bytes, 40 * 64 * 2),
                _ => assert_eq!(near, far),
            }
        }
    }
}
