//! What the matrices of a program are multiplied with, for one that looks on.

use crate::runtime::program::{BufferId, MatrixId, Op, Program};

/// Is told before each product: the matrix, which one of a stack it is (0 for one that stands alone),
/// and the columns `[columns, cols]` that it is about to be multiplied with, in float32.
pub type Observer<'a> = dyn FnMut(MatrixId, usize, &[f32]) + 'a;

/// The matrices of operation `i` and the buffer of floats that they are multiplied with, or that was
/// quantized for them; `None` for an operation without matrices. A program that is not fused has every
/// buffer of floats.
pub(super) fn product(program: &Program, i: usize) -> Option<(&[MatrixId], BufferId)> {
    let (before, op) = (program.ops.get(..i)?, program.ops.get(i)?);
    let Op::MatMul { input, weights, .. } = op else { return None };
    let quantized = before.iter().rev().find_map(|op| match op {
        Op::Quantize { input: floats, out } if out == input => Some(*floats),
        _ => None,
    });
    Some((weights, quantized.unwrap_or(*input)))
}
