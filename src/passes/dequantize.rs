//! `dequantize`: weights that a checkpoint stores as FP8 or MXFP4, with scales beside them, become
//! one expression each. It is the first step of import, before any name is changed.
//!
//! | stored | becomes |
//! |---|---|
//! | `X` as FP8, `X_scale_inv` or `X_scale` | `X`: the values times their scales |
//! | `X_blocks`, `X_scales`, both bytes | `X_blocks`, as `[..., rows, cols]` of MXFP4 |
//!
//! Scales of activations are left out: they would round what is computed, not what is stored. The
//! name `X_blocks` stays, because files that store the matrix as numbers, under the name `X`, store
//! it transposed.

use std::collections::{HashMap, HashSet};

use mdl_kernels::TensorType;

use crate::diagnostic::{Diagnostic, Errors, Result};
use crate::formats::quantization_config::{self, Quantization};
use crate::ir::{Expr, Shape, Tensor};

/// Endings of the names of scales, after the name of the weight.
const SCALES: &[&str] = &["_scale_inv", "_scale"];

/// Endings of scales that the activations would have, and of the cache's.
const ACTIVATIONS: &[&str] = &[
    ".input_scale",
    ".input_scale_ub",
    ".output_scale",
    ".activation_scale",
    ".q_scale",
    ".k_scale",
    ".v_scale",
    ".kv_scale",
];

/// Puts weights and scales together.
///
/// # Errors
/// A weight is FP8 and its scales are missing, or they do not fit it; or the weights are quantized
/// in a way that is not read.
pub fn run(tensors: Vec<Tensor>, quantization: Quantization) -> Result<Vec<Tensor>> {
    quantization_config::refuse_marked(tensors.iter().map(|t| t.name.as_str()))?;
    let places: HashMap<&str, usize> =
        tensors.iter().enumerate().map(|(i, t)| (t.name.as_str(), i)).collect();
    let mut used: HashSet<usize> = HashSet::new();
    let mut made: Vec<(usize, Expr)> = Vec::new();
    let mut problems = Vec::new();
    for (i, tensor) in tensors.iter().enumerate() {
        let name = tensor.name.as_str();
        let scales = |ending: &str| places.get(format!("{name}{ending}").as_str()).copied();
        if is_fp8(&tensor.expr) {
            match SCALES.iter().find_map(|ending| scales(ending)) {
                Some(at) => match scaled(tensor, &tensors[at], quantization) {
                    Ok(expr) => {
                        used.insert(at);
                        made.push((i, expr));
                    }
                    Err(found) => problems.extend(found.0),
                },
                // A checkpoint that says nothing of scales may hold plain numbers of FP8.
                None if quantization == Quantization::None => {}
                None => problems.push(
                    Diagnostic::error(format!(
                        "`{name}` is {}, and its scales are missing",
                        tensor.expr.dtype()
                    ))
                    .code("missing-scales")
                    .help(format!("they would be named `{name}_scale_inv` or `{name}_scale`")),
                ),
            }
        } else if let Some(stem) = name.strip_suffix("_blocks")
            && tensor.expr.dtype() == TensorType::U8
            && let Some(at) = places.get(format!("{stem}_scales").as_str())
        {
            used.insert(*at);
            let (blocks, scales) = (Box::new(tensor.expr.clone()), Box::new(tensors[*at].expr.clone()));
            made.push((i, Expr::Mxfp4 { blocks, scales }));
        }
    }
    if let Some(first) = problems.into_iter().next() {
        return Err(Errors(vec![first]));
    }
    let mut tensors = tensors;
    for (i, expr) in made {
        tensors[i].expr = expr;
    }
    let quantized = matches!(quantization, Quantization::Fp8 { .. });
    let numbered = tensors.into_iter().enumerate();
    let kept = numbered.filter(|(i, tensor)| {
        let activation = quantized && ACTIVATIONS.iter().any(|ending| tensor.name.ends_with(ending));
        !used.contains(i) && !activation
    });
    Ok(kept.map(|(_, tensor)| tensor).collect())
}

fn is_fp8(expr: &Expr) -> bool {
    matches!(expr.dtype(), TensorType::F8_E4M3 | TensorType::F8_E5M2)
}

/// An FP8 weight times its scales.
fn scaled(weight: &Tensor, scales: &Tensor, quantization: Quantization) -> Result<Expr> {
    let wrong = |message: String| {
        Diagnostic::error(format!("`{}`, {} {}: {message}", scales.name, scales.expr.dtype(), scales.shape()))
            .code("bad-scales")
    };
    if !matches!(
        scales.expr.dtype(),
        TensorType::F32 | TensorType::F16 | TensorType::BF16 | TensorType::F8_E8M0
    ) {
        return Err(wrong("no type that scales of FP8 have".to_owned()).into());
    }
    let shape = weight.shape();
    let (outer, [rows, cols]) = match *shape.0 {
        [rows, cols] => (None, [rows, cols]),
        [n, rows, cols] => (Some(n), [rows, cols]),
        _ => return Err(wrong(format!("`{}` {shape} is no matrix", weight.name)).into()),
    };
    // Of each matrix: one scale, one for each row, or one for each block.
    let per = |block: [u64; 2]| [rows.div_ceil(block[0]), cols.div_ceil(block[1])];
    let configured = match quantization {
        Quantization::Fp8 { block } => block,
        _ => None,
    };
    let blocks = configured.into_iter().chain([[rows, cols], [1, cols]]);
    let count = scales.shape().len();
    let block = blocks
        .into_iter()
        .find(|block| {
            let [r, c] = per(*block);
            r.checked_mul(c).and_then(|n| n.checked_mul(outer.unwrap_or(1))) == Some(count)
                && agrees(&scales.shape(), outer, [r, c])
        })
        .ok_or_else(|| {
            wrong(format!(
                "these are neither the scales of `{}` {shape}, nor of its rows or blocks",
                weight.name
            ))
        })?;
    let mut wanted: Vec<u64> = outer.into_iter().collect();
    wanted.extend(per(block));
    let scales =
        reshaped(&scales.expr, Shape(wanted)).ok_or_else(|| wrong("not as it is in a file".to_owned()))?;
    Ok(Expr::ScaleBlocks { of: Box::new(weight.expr.clone()), scales: Box::new(scales), block })
}

/// True when `shape` is `[n, r, c]` but for dimensions of 1: scales of a matrix are a number, of
/// rows a vector or a column.
fn agrees(shape: &Shape, outer: Option<u64>, [r, c]: [u64; 2]) -> bool {
    let essential = |dims: &mut dyn Iterator<Item = u64>| dims.filter(|d| *d != 1).collect::<Vec<_>>();
    essential(&mut shape.0.iter().copied()) == essential(&mut outer.into_iter().chain([r, c]))
}

/// A load with its dimensions written otherwise.
fn reshaped(expr: &Expr, shape: Shape) -> Option<Expr> {
    match expr {
        Expr::Load { file, offset, len, dtype, .. } => {
            Some(Expr::Load { file: *file, offset: *offset, len: *len, dtype: *dtype, shape })
        }
        _ => None,
    }
}
