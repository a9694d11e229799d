//! Adapters that act when a model runs: beside a product `W x` stands `B' (A x)`, with `B' = scale * B`.
//!
//! Both factors are matrices of float32 like any other, under names that no GGUF file has: `X.lora_a.0` and
//! `X.lora_b.0` are those of the first adapter that changes the matrix `X`.

use std::collections::HashMap;

use mdl_kernels::TensorType;

use super::weights::{Bytes, Tensor};
use crate::codegen::Evaluator;
use crate::diagnostic::Result;
use crate::ir::{Change, Expr, Module};

/// The names of the factors of the adapter number `i` that changes `matrix`.
pub(super) fn names(matrix: &str, i: usize) -> [String; 2] {
    [format!("{matrix}.lora_a.{i}"), format!("{matrix}.lora_b.{i}")]
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
