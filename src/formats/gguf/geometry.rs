//! The rules of sizes and offsets that reader and writer share.

use mdl_kernels::TensorType;

use super::super::limits;
use super::{ALIGNMENT_KEY, DEFAULT_ALIGNMENT};
use crate::ir::{Metadata, Shape, Value};

/// The bytes of a tensor, or what is wrong with its shape.
pub(super) fn tensor_bytes(shape: &Shape, dtype: TensorType) -> Result<u64, String> {
    if dtype.is_checkpoint_only() {
        return Err(format!("GGUF has no type {dtype}"));
    }
    if shape.rank() > limits::GGUF_RANK as usize {
        return Err(format!("{} dimensions; at most {} are allowed", shape.rank(), limits::GGUF_RANK));
    }
    if shape.0.contains(&0) {
        return Err(format!("a dimension of shape {shape} is 0"));
    }
    let values = shape.0.iter().try_fold(1u64, |n, d| n.checked_mul(*d));
    if values.is_none_or(|n| n > i64::MAX as u64) {
        return Err(format!("shape {shape} has 2^63 values or more"));
    }
    let (cols, block) = (shape.cols(), dtype.block_len() as u64);
    if !cols.is_multiple_of(block) {
        return Err(format!("{dtype} stores blocks of {block} values; a row of {cols} is no multiple of it"));
    }
    dtype
        .row_bytes(cols)
        .and_then(|bytes| bytes.checked_mul(shape.rows()))
        .ok_or_else(|| format!("the size of shape {shape} in {dtype} overflows"))
}

/// The alignment that `metadata` asks for, or what is wrong with it.
pub(super) fn alignment(metadata: &Metadata) -> Result<u64, String> {
    match metadata.get(ALIGNMENT_KEY) {
        None => Ok(DEFAULT_ALIGNMENT),
        Some(Value::U32(n)) if n.is_power_of_two() && u64::from(*n) <= limits::GGUF_ALIGNMENT => {
            Ok((*n).into())
        }
        Some(Value::U32(n)) => Err(format!(
            "the alignment is {n}; it must be a power of two of at most {}",
            limits::GGUF_ALIGNMENT
        )),
        Some(other) => Err(format!("the alignment must be a U32; it is {:?}", other.value_type())),
    }
}

/// The least multiple of `alignment`, a power of two, that is `n` or more.
pub(super) fn align_up(n: u64, alignment: u64) -> Option<u64> {
    Some(n.checked_add(alignment - 1)? & !(alignment - 1))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_whole_blocks() {
        assert_eq!(tensor_bytes(&Shape(vec![3, 512]), TensorType::Q4_K), Ok(3 * 288));
        assert_eq!(tensor_bytes(&Shape(vec![]), TensorType::F32), Ok(4));
        assert!(tensor_bytes(&Shape(vec![3, 33]), TensorType::Q4_0).is_err());
        assert!(tensor_bytes(&Shape(vec![u64::MAX, 2]), TensorType::I8).is_err());
        assert!(tensor_bytes(&Shape(vec![1 << 61]), TensorType::F64).is_err());
    }

    #[test]
    fn aligning_does_not_wrap() {
        assert_eq!((align_up(0, 32), align_up(1, 32), align_up(32, 32)), (Some(0), Some(32), Some(32)));
        assert_eq!(align_up(u64::MAX, 32), None);
    }
}
