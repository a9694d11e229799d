//! Names an expression by what it is made of.
//!
//! The key of a tensor is the SHA-256 of its expression over the digests of its sources, so it is
//! the same exactly when the bytes written would be: change SYSTEM and no key changes, change one
//! tensor's type and one key does.

use sha2::{Digest as _, Sha256};

use crate::diagnostic::Result;
use crate::formats::gguf;
use crate::ir::{Expr, Module, Tensor};

/// The version of the bytes that an expression gives: part of every key, and raised when they change.
pub const BYTE_FORMAT: &str = "mdl codegen 1";

/// The name of an expression's bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Key(pub [u8; 32]);

/// The key of a tensor's bytes. `digests` has the SHA-256 of each of the module's files.
pub fn tensor_key(tensor: &Tensor, digests: &[[u8; 32]]) -> Key {
    let mut hash = Sha256::new();
    hash.update(BYTE_FORMAT);
    update(&mut hash, &tensor.expr, digests);
    Key(hash.finalize().into())
}

/// The key of a whole GGUF file: its header and its tensors' keys.
///
/// # Errors
/// The module cannot be laid out as GGUF.
pub fn module_key(module: &Module, tensors: &[Key]) -> Result<Key> {
    let mut hash = Sha256::new();
    hash.update(BYTE_FORMAT);
    let layout = layout(module)?;
    number(&mut hash, layout.header().len() as u64);
    hash.update(layout.header());
    for key in tensors {
        hash.update(key.0);
    }
    Ok(Key(hash.finalize().into()))
}

/// Where everything of a module goes in its GGUF file.
pub(super) fn layout(module: &Module) -> Result<gguf::Layout> {
    let tensors: Vec<_> =
        module.tensors.iter().map(|t| (t.name.clone(), t.shape(), t.expr.dtype())).collect();
    gguf::Layout::new(&module.metadata, tensors)
}

fn number(hash: &mut Sha256, n: u64) {
    hash.update(n.to_le_bytes());
}

/// Every node gives a tag and all its fields, each of fixed length or preceded by its length, so
/// that two expressions never give the same bytes.
fn update(hash: &mut Sha256, expr: &Expr, digests: &[[u8; 32]]) {
    match expr {
        Expr::Load { file, offset, len, dtype, shape } => {
            hash.update([0]);
            hash.update(digests.get(file.0).unwrap_or(&[0; 32]));
            number(hash, *offset);
            number(hash, *len);
            number(hash, u64::from(dtype.id()));
            shape_of(hash, &shape.0);
        }
        Expr::Const { values, shape } => {
            hash.update([1]);
            shape_of(hash, &shape.0);
            floats(hash, values);
        }
        Expr::PermuteRope { of, heads } => {
            hash.update([2]);
            number(hash, *heads);
            update(hash, of, digests);
        }
        Expr::Split { of, start, rows } => {
            hash.update([3]);
            number(hash, *start);
            number(hash, *rows);
            update(hash, of, digests);
        }
        Expr::Stack(parts) => {
            hash.update([4]);
            number(hash, parts.len() as u64);
            parts.iter().for_each(|p| update(hash, p, digests));
        }
        Expr::Transpose(of) => {
            hash.update([5]);
            update(hash, of, digests);
        }
        Expr::Add(left, right) => {
            hash.update([6]);
            update(hash, left, digests);
            update(hash, right, digests);
        }
        Expr::LowRank { base, a, b, scale } => {
            hash.update([7]);
            hash.update(scale.to_le_bytes());
            update(hash, base, digests);
            update(hash, a, digests);
            update(hash, b, digests);
        }
        Expr::HalveRope { of, heads } => {
            hash.update([11]);
            number(hash, *heads);
            update(hash, of, digests);
        }
        Expr::ScaleBlocks { of, scales, block } => {
            hash.update([12]);
            block.iter().for_each(|n| number(hash, *n));
            update(hash, of, digests);
            update(hash, scales, digests);
        }
        Expr::Mxfp4 { blocks, scales } => {
            hash.update([10]);
            update(hash, blocks, digests);
            update(hash, scales, digests);
        }
        Expr::WeightNorm { of, magnitude } => {
            hash.update([9]);
            update(hash, of, digests);
            update(hash, magnitude, digests);
        }
        Expr::Encode { of, dtype, imatrix } => {
            hash.update([8]);
            number(hash, u64::from(dtype.id()));
            match imatrix {
                Some(weights) => floats(hash, &weights.0),
                None => number(hash, u64::MAX),
            }
            update(hash, of, digests);
        }
    }
}

fn shape_of(hash: &mut Sha256, dims: &[u64]) {
    number(hash, dims.len() as u64);
    dims.iter().for_each(|d| number(hash, *d));
}

fn floats(hash: &mut Sha256, values: &[f32]) {
    number(hash, values.len() as u64);
    values.iter().for_each(|v| hash.update(v.to_le_bytes()));
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ir::{FileId, Shape};
    use mdl_kernels::TensorType;

    fn tensor(offset: u64, to: TensorType) -> Tensor {
        let shape = Shape(vec![2, 32]);
        let load = Expr::Load { file: FileId(0), offset, len: 128, dtype: TensorType::F16, shape };
        Tensor { name: "t".into(), expr: Expr::Encode { of: Box::new(load), dtype: to, imatrix: None } }
    }

    #[test]
    fn a_key_follows_the_source_the_range_and_the_type() {
        let base = tensor_key(&tensor(0, TensorType::Q4_0), &[[1; 32]]);
        assert_eq!(base, tensor_key(&tensor(0, TensorType::Q4_0), &[[1; 32]]));
        assert_ne!(base, tensor_key(&tensor(0, TensorType::Q4_0), &[[2; 32]]));
        assert_ne!(base, tensor_key(&tensor(2, TensorType::Q4_0), &[[1; 32]]));
        assert_ne!(base, tensor_key(&tensor(0, TensorType::Q4_1), &[[1; 32]]));
    }

    #[test]
    fn a_key_does_not_follow_the_name() {
        let mut renamed = tensor(0, TensorType::Q4_0);
        renamed.name = "u".into();
        assert_eq!(tensor_key(&tensor(0, TensorType::Q4_0), &[[1; 32]]), tensor_key(&renamed, &[[1; 32]]));
    }
}
