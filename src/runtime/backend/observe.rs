//! What the matrices of a program are multiplied with, for one that looks on.

use crate::runtime::program::{BufferId, MatrixId, Op, Program};

/// Is told before each product: the matrix, which one of a stack it is (0 for one that stands alone),
/// and the columns `[columns, cols]` that it is about to be multiplied with, in float32.
pub type Observer<'a> = dyn FnMut(MatrixId, usize, &[f32]) + 'a;

/// A product that is about to be computed.
pub(super) struct Seen<'a> {
    weights: &'a [MatrixId],
    /// The buffer of floats that they are multiplied with, or that was quantized for them.
    pub input: BufferId,
    /// Where the numbers of the experts are, if only some of the weights are multiplied with a column.
    pub chosen: Option<BufferId>,
    /// Each of the chosen has a part of the column for itself.
    each: bool,
}

/// The matrices of operation `i` and what they are multiplied with; `None` for an operation without matrices. A
/// program that is not fused has every buffer of floats.
pub(super) fn product(program: &Program, i: usize) -> Option<Seen<'_>> {
    let (before, op) = (program.ops.get(..i)?, program.ops.get(i)?);
    let (input, weights, chosen, each) = match op {
        Op::MatMul { input, weights, .. } => (input, weights, None, false),
        Op::Experts { input, weights, chosen, each, .. } => (input, weights, Some(*chosen), *each),
        _ => return None,
    };
    let quantized = before.iter().rev().find_map(|op| match op {
        Op::Quantize { input: floats, out } if out == input => Some(*floats),
        _ => None,
    });
    Some(Seen { weights, input: quantized.unwrap_or(*input), chosen, each })
}

impl Seen<'_> {
    /// Shows `count` columns of `values`: to every weight, or to those that `chosen` names for each column.
    pub(super) fn show(&self, chosen: Option<&[f32]>, values: &[f32], count: usize, see: &mut Observer<'_>) {
        let Some(chosen) = chosen else {
            return self.weights.iter().for_each(|id| see(*id, 0, values));
        };
        let width = values.len() / count.max(1);
        let used = chosen.len() / count.max(1) / 2;
        let part = if self.each { width / used.max(1) } else { width };
        for (expert, id) in self.weights.iter().enumerate() {
            let mut own = Vec::new();
            for (column, chosen) in
                values.chunks_exact(width.max(1)).zip(chosen.chunks_exact((2 * used).max(1)))
            {
                let places = (0..used).filter(|place| chosen[*place] as usize == expert);
                for place in places {
                    let at = if self.each { place * part } else { 0 };
                    own.extend_from_slice(&column[at..at + part]);
                }
            }
            see(*id, expert, &own);
        }
    }
}
