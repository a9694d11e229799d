//! Adapters that act when a model runs: beside a product `W x` stands `B' (A x)`, with `B' = scale * B`.
//!
//! Both factors are matrices of float32 like any other, under names that no GGUF file has and that stand for no
//! matrix of a block: `lora_a.0.X` and `lora_b.0.X` are those of the first adapter that changes the matrix `X`.

use std::collections::HashMap;

use mdl_kernels::TensorType;

use super::weights::{Bytes, Tensor};
use crate::codegen::Evaluator;
use crate::diagnostic::Result;
use crate::ir::{Change, Expr, Module};

/// The names of the factors of the adapter number `i` that changes `matrix`.
pub(super) fn names(matrix: &str, i: usize) -> [String; 2] {
    [format!("lora_a.{i}.{matrix}"), format!("lora_b.{i}.{matrix}")]
}

/// The factors of a module's adapters.
///
/// # Errors
/// They cannot be read.
pub(super) fn tensors(module: &Module) -> Result<Vec<Tensor>> {
    let mut counts: HashMap<&str, usize> = HashMap::new();
    let mut tensors = Vec::new();
    for change in module.adapters.iter().filter(|_| module.unfused).flat_map(|adapter| &adapter.changes) {
        let Change::LowRank { a, b, scale, .. } = &change.change else { continue };
        let count = counts.entry(&change.target).or_default();
        let [a_name, b_name] = names(&change.target, *count);
        *count += 1;
        tensors.push(factor(a_name, a, 1.0, module)?);
        tensors.push(factor(b_name, b, *scale, module)?);
    }
    Ok(tensors)
}

fn factor(name: String, expr: &Expr, scale: f32, module: &Module) -> Result<Tensor> {
    let evaluator = Evaluator::new(expr, &module.files)?;
    let values = evaluator.values(0..evaluator.rows())?;
    let bytes: Vec<u8> = values.iter().flat_map(|v| (scale * v).to_le_bytes()).collect();
    Ok(Tensor { name, shape: expr.shape(), ty: TensorType::F32, bytes: Bytes::memory(bytes) })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::families::spec::DecoderSpec;
    use crate::ir::Shape;
    use crate::runtime::backend::cpu::CpuOptions;
    use crate::runtime::engine::{Model, SessionOptions};
    use crate::runtime::testing;

    const RANKS: [usize; 2] = [3, 8];

    fn float32(name: String, shape: &[usize], values: &[f32]) -> Tensor {
        let bytes: Vec<u8> = values.iter().flat_map(|v| v.to_le_bytes()).collect();
        let shape = Shape(shape.iter().map(|d| *d as u64).collect());
        Tensor { name, shape, ty: TensorType::F32, bytes: Bytes::memory(bytes) }
    }

    fn values(seed: usize, n: usize) -> Vec<f32> {
        (0..n).map(|i| ((i * 7919 + seed * 104_729) % 1009) as f32 / 2018.0 - 0.25).collect()
    }

    fn logits(spec: &DecoderSpec, tensors: Vec<Tensor>) -> Vec<f32> {
        let options = CpuOptions { threads: Some(2), level: None };
        let model = Model::load(spec.clone(), tensors, &options).unwrap();
        let mut session =
            model.session(&SessionOptions { context: 16, ..SessionOptions::default() }).unwrap();
        session.prefill(&[3, 1, 4, 1, 5]).unwrap();
        session.decode(9).unwrap().to_vec()
    }

    /// Every matrix that is multiplied has adapters of two ranks; the dense sums give the same logits.
    #[test]
    fn factors_act_as_their_product_does() {
        for bias in [false, true] {
            let spec = DecoderSpec { tied_embeddings: false, ..testing::spec(bias) };
            let plain = testing::tensor_list(&spec, &|_| TensorType::F32);
            let (mut beside, mut dense) = (Vec::new(), Vec::new());
            for (seed, tensor) in plain.iter().enumerate() {
                let name = tensor.name.clone();
                if tensor.shape.rank() != 2 || name == "token_embd.weight" {
                    dense.push(tensor.clone());
                    continue;
                }
                let (rows, cols) = (tensor.shape.rows() as usize, tensor.shape.cols() as usize);
                let mut sum: Vec<f32> =
                    tensor.bytes.chunks_exact(4).map(|b| f32::from_le_bytes(b.try_into().unwrap())).collect();
                for (i, rank) in RANKS.into_iter().enumerate() {
                    let (a, b) = (values(seed + i, rank * cols), values(seed + 50 + i, rows * rank));
                    for (at, value) in sum.iter_mut().enumerate() {
                        let (row, col) = (at / cols, at % cols);
                        *value += (0..rank).map(|k| b[row * rank + k] * a[k * cols + col]).sum::<f32>();
                    }
                    let [a_name, b_name] = names(&name, i);
                    beside.push(float32(a_name, &[rank, cols], &a));
                    beside.push(float32(b_name, &[rows, rank], &b));
                }
                dense.push(float32(name, &[rows, cols], &sum));
            }
            let unchanged = logits(&spec, plain.clone());
            let expected = logits(&spec, dense);
            let found = logits(&spec, plain.into_iter().chain(beside).collect());
            let largest = expected.iter().fold(0f32, |m, v| m.max(v.abs()));
            let worst = |of: &[f32]| of.iter().zip(&expected).fold(0f32, |m, (a, b)| m.max((a - b).abs()));
            assert!(worst(&found) < 1e-5 * largest, "{}", worst(&found) / largest);
            assert!(worst(&unchanged) > 0.01 * largest, "the adapters change something");
        }
    }

    #[test]
    fn what_is_looked_up_or_not_there_takes_no_factors() {
        let spec = DecoderSpec { tied_embeddings: false, ..testing::spec(false) };
        for (matrix, rows, cols) in [("token_embd.weight", 32, 64), ("blk.7.attn_q.weight", 64, 64)] {
            let [a, b] = names(matrix, 0);
            let factors =
                [float32(a, &[2, cols], &values(1, 2 * cols)), float32(b, &[rows, 2], &values(2, rows * 2))];
            let tensors = testing::tensor_list(&spec, &|_| TensorType::F32).into_iter().chain(factors);
            let options = CpuOptions { threads: Some(1), level: None };
            assert!(Model::load(spec.clone(), tensors, &options).is_err(), "{matrix}");
        }
    }
}
