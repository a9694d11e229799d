//! Fusion: operations that follow each other become one where that saves a pass over memory and a
//! barrier. The numbers do not change: each fused operation computes what its parts did.

use mdl_kernels::ops::activation::BLOCK;

use super::program::{BufferId, Hidden, Op, Program};

/// Fuses, then drops the buffers that nothing uses any more.
pub(super) fn fuse(program: &mut Program) {
    let ops = std::mem::take(&mut program.ops);
    let mut fused: Vec<Op> = Vec::with_capacity(ops.len());
    for (i, op) in ops.iter().enumerate() {
        let one = fused.last().and_then(|last| pair(program, last, op, &ops[i + 1..]));
        match (one, fused.last_mut()) {
            (Some(one), Some(last)) => *last = one,
            _ => fused.push(op.clone()),
        }
    }
    program.ops = fused;
    drop_unused_buffers(program);
}

/// True when one of `ops` reads what is in `buffer` now.
pub(super) fn is_read(ops: &[Op], buffer: BufferId) -> bool {
    for op in ops {
        if op.reads(buffer) {
            return true;
        }
        if op.out() == Some(buffer) {
            return false;
        }
    }
    false
}

/// The two as one, if they can be.
fn pair(program: &Program, first: &Op, second: &Op, rest: &[Op]) -> Option<Op> {
    let is_wanted = |buffer: &BufferId| program.hidden == Hidden::Buffer(*buffer);
    let is_last_use = |buffer: &BufferId| !is_read(rest, *buffer) && !is_wanted(buffer);
    match (first, second) {
        // Quantize what was just computed, instead of writing it as floats.
        (Op::Norm { input, norm, out }, Op::Quantize { input: from, out: to })
            if out == from && is_last_use(out) =>
        {
            Some(Op::Norm { input: *input, norm: *norm, out: *to })
        }
        (Op::Gate { input, gated, out }, Op::Quantize { input: from, out: to })
            if out == from && is_last_use(out) =>
        {
            Some(Op::Gate { input: *input, gated: *gated, out: *to })
        }
        (Op::GatedMatMul { input, weights, bias, gated, out }, Op::Quantize { input: from, out: to })
            if out == from && is_last_use(out) =>
        {
            let (weights, bias) = (weights.clone(), bias.clone());
            Some(Op::GatedMatMul { input: *input, weights, bias, gated: *gated, out: *to })
        }
        // The heads of a tile must be whole blocks.
        (
            Op::Attention { block, qkv, norm, rotation, window, out },
            Op::Quantize { input: from, out: to },
        ) if out == from
            && is_last_use(out)
            && (program.spec.group() * program.spec.attention.value_length).is_multiple_of(BLOCK) =>
        {
            let (block, qkv, norm) = (*block, *qkv, *norm);
            Some(Op::Attention { block, qkv, norm, rotation: *rotation, window: *window, out: *to })
        }
        // Gate and up where they are computed: they are twice what comes of them.
        (
            Op::MatMul { input, weights, bias, out, at: 0, add: false },
            Op::Gate { input: from, gated, out: to },
        ) if out == from && is_last_use(out) && program.rows_of(weights) == program.buffers[out.0].width => {
            let (weights, bias) = (weights.clone(), bias.clone());
            Some(Op::GatedMatMul { input: *input, weights, bias, gated: *gated, out: *to })
        }
        // A bias with the product it belongs to.
        (
            Op::MatMul { input, weights, bias, out, at, add: false },
            Op::Bias { bias: b, out: to, at: start },
        ) if out == to => {
            let mut row = *at;
            let mut bias = bias.clone();
            for (id, slot) in weights.iter().zip(&mut bias) {
                if row == *start && slot.is_none() {
                    *slot = Some(*b);
                    return Some(Op::MatMul {
                        input: *input,
                        weights: weights.clone(),
                        bias,
                        out: *out,
                        at: *at,
                        add: false,
                    });
                }
                row += program.matrices[id.0].rows();
            }
            None
        }
        // A product straight into the sum it is for. With a bias the order of the sum would change.
        (
            Op::MatMul { input, weights, bias, out, at: 0, add: false },
            Op::Add { input: from, scale: 1.0, out: to },
        ) if out == from && is_last_use(out) && bias.iter().all(Option::is_none) => Some(Op::MatMul {
            input: *input,
            weights: weights.clone(),
            bias: bias.clone(),
            out: *to,
            at: 0,
            add: true,
        }),
        _ => None,
    }
}

fn drop_unused_buffers(program: &mut Program) {
    let used = |i: usize| {
        let id = BufferId(i);
        Some(id) == program.logits || program.ops.iter().any(|op| op.reads(id) || op.out() == Some(id))
    };
    let keep: Vec<bool> = (0..program.buffers.len()).map(used).collect();
    let mut moved = Vec::with_capacity(keep.len());
    let mut next = 0;
    for keep in &keep {
        moved.push(BufferId(next));
        next += usize::from(*keep);
    }
    let mut keeps = keep.iter();
    program.buffers.retain(|_| keeps.next().copied().unwrap_or(true));
    for op in &mut program.ops {
        op.for_each_buffer(|id| *id = moved[id.0]);
    }
    program.logits = program.logits.map(|id| moved[id.0]);
    match &mut program.hidden {
        Hidden::Buffer(id) | Hidden::Norm { input: id, .. } => *id = moved[id.0],
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::runtime::lower::lower;
    use crate::runtime::testing;
    use mdl_kernels::TensorType::{self, *};

    /// The listing of a model of one block whose matrices have these types.
    fn listing(bias: bool, ty: impl Fn(&str) -> TensorType) -> (String, String) {
        let spec = testing::spec(bias);
        let plain = lower(spec.clone(), testing::tensors(&spec, &ty)).unwrap();
        let fused = Program::lower(spec.clone(), testing::tensors(&spec, &ty)).unwrap();
        let buffers = fused.buffers.iter().map(|b| format!("{} {:?}", b.name, b.element));
        let footer = format!("buffers: {}\n", buffers.collect::<Vec<_>>().join(", "));
        (plain.listing(), fused.listing() + &footer)
    }

    #[test]
    fn quantized_model() {
        let (plain, fused) = listing(false, |_| Q4_0);
        crate::runtime::testing::snapshot("runtime_program_plain", &plain);
        crate::runtime::testing::snapshot("runtime_program_fused", &fused);
    }

    #[test]
    fn float_model_with_biases() {
        crate::runtime::testing::snapshot("runtime_program_biases", &listing(true, |_| F16).1);
    }

    #[test]
    fn mixed_types() {
        // v in half precision: the norm is needed as floats and as blocks.
        let ty = |name: &str| if name.contains("attn_v") { F16 } else { Q8_0 };
        crate::runtime::testing::snapshot("runtime_program_mixed", &listing(false, ty).1);
    }
}
