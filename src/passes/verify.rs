//! The verifier: runs after every pass.
//!
//! [`structure`] holds for every module: names are unique, loads lie in their files, and the shapes
//! of each expression agree. [`family`] holds once names are GGUF's: every tensor the family
//! requires is there with the shape that the metadata gives it, and no other.

use std::collections::HashSet;

use mdl_kernels::TensorType;

use crate::diagnostic::{Diagnostic, Errors, Result};
use crate::families::{self, Dim, Family, TensorRule, fill_pattern};
use crate::ir::{Change, Expr, Module, Shape, Tensor};

/// The most problems that are reported at once.
const MOST_REPORTED: usize = 8;

/// Checks what holds for every module.
///
/// # Errors
/// Each problem, naming its tensor.
pub fn structure(module: &Module) -> Result<()> {
    let mut problems = Vec::new();
    let mut names = HashSet::new();
    for tensor in &module.tensors {
        if !names.insert(tensor.name.as_str()) {
            problems.push(Diagnostic::error(format!("two tensors are named `{}`", tensor.name)));
        }
        if let Err(message) = check(&tensor.expr, module) {
            problems.push(Diagnostic::error(format!("tensor `{}`: {message}", tensor.name)));
        }
    }
    for change in module.adapters.iter().filter(|_| module.unfused).flat_map(|a| &a.changes) {
        if let Change::LowRank { a, b, .. } = &change.change
            && let Err(message) = check(a, module).and_then(|()| check(b, module))
        {
            problems.push(Diagnostic::error(format!("the adapter of `{}`: {message}", change.target)));
        }
    }
    finish(problems)
}

/// Checks a module whose tensors have GGUF names against its family.
///
/// # Errors
/// Each missing, unknown or misshapen tensor.
pub fn family(module: &Module) -> Result<()> {
    let architecture = module.architecture().ok_or_else(|| {
        Diagnostic::error("the model does not say its architecture").help("`general.architecture` is missing")
    })?;
    let family = families::by_architecture(architecture)?;
    // What the runtime would refuse is refused before anything is built.
    let names: HashSet<&str> = module.tensors.iter().map(|t| t.name.as_str()).collect();
    (family.spec)(&module.metadata, &|name| names.contains(name))?.check()?;
    let mut problems = Vec::new();
    for tensor in &module.tensors {
        let dtype = tensor.expr.dtype();
        if !mdl_kernels::dequantizable(dtype) {
            let message = format!("`{}` is {dtype}, a type that no model is executed in", tensor.name);
            problems.push(Diagnostic::error(message).code("unsupported-type"));
        }
        match family.by_gguf_name(&tensor.name) {
            Some((rule, _)) => problems.extend(misshapen(tensor, rule, family, module)),
            None if family.derived.contains(&tensor.name.as_str()) => {}
            None => problems.push(
                Diagnostic::error(format!("`{}` is no tensor of the family `{architecture}`", tensor.name))
                    .code("unknown-tensor"),
            ),
        }
    }
    problems.extend(missing(family, module));
    finish(problems)
}

fn missing(family: &Family, module: &Module) -> Vec<Diagnostic> {
    let names: HashSet<&str> = module.tensors.iter().map(|t| t.name.as_str()).collect();
    let blocks = module.metadata.u64(&format!("{}.block_count", family.architecture)).unwrap_or(0);
    let mut problems = Vec::new();
    let experts = family.has_experts(&module.metadata);
    for rule in family.rules().filter(|r| r.is_required(experts)) {
        let wanted = if rule.is_per_block() { blocks } else { 1 };
        // A file that claims a billion blocks is named once, not a billion times.
        let absent = (0..wanted)
            .map(|block| fill_pattern(rule.gguf, rule.is_per_block().then_some(block)))
            .find(|name| !names.contains(name.as_str()));
        if let Some(name) = absent {
            problems.push(
                Diagnostic::error(format!("the tensor `{name}` is missing"))
                    .code("missing-tensor")
                    .help("the model is incomplete; is a shard missing?"),
            );
        }
    }
    for tensor in &module.tensors {
        if let Some((_, Some(block))) = family.by_gguf_name(&tensor.name)
            && block >= blocks
        {
            problems.push(
                Diagnostic::error(format!("`{}` is beyond the model's {blocks} blocks", tensor.name))
                    .code("unknown-tensor"),
            );
        }
    }
    problems
}

fn misshapen(tensor: &Tensor, rule: &TensorRule, family: &Family, module: &Module) -> Option<Diagnostic> {
    let shape = tensor.shape();
    let wanted: Option<Vec<u64>> = rule
        .shape
        .iter()
        .enumerate()
        .map(|(i, d)| match d {
            // The runtime asks that it fits the tensor beside it.
            Dim::Any => shape.0.get(i).copied(),
            d => family.dim(*d, &module.metadata),
        })
        .collect();
    let wanted = Shape(wanted?);
    (shape != wanted).then(|| {
        Diagnostic::error(format!(
            "`{}` has the shape {shape}; the configuration asks for {wanted}",
            tensor.name
        ))
        .code("tensor-shape")
    })
}

fn finish(mut problems: Vec<Diagnostic>) -> Result<()> {
    if problems.is_empty() {
        return Ok(());
    }
    let more = problems.len().saturating_sub(MOST_REPORTED);
    problems.truncate(MOST_REPORTED);
    if more > 0 {
        problems.push(Diagnostic::error(format!("and {more} more problems of this kind")));
    }
    Err(Errors(problems))
}

/// The first thing wrong with an expression.
fn check(expr: &Expr, module: &Module) -> Result<(), String> {
    let shape = expr.shape();
    match expr {
        Expr::Load { file, offset, len, dtype, .. } => {
            let source = module.files.get(file.0).ok_or("loads from no file")?;
            let end = offset.checked_add(*len).ok_or("its range overflows")?;
            if end > source.file.len() {
                return Err(format!("ends at byte {end}, past the end of {}", source.path.display()));
            }
            let bytes = dtype.row_bytes(shape.cols()).and_then(|b| b.checked_mul(shape.rows()));
            if bytes != Some(*len) {
                return Err(format!("{len} bytes are no {dtype} values of shape {shape}"));
            }
        }
        Expr::Const { values, .. } => {
            if values.len() as u64 != shape.len() {
                return Err(format!("{} constants for the shape {shape}", values.len()));
            }
        }
        Expr::PermuteRope { of, heads } | Expr::HalveRope { of, heads } => {
            check(of, module)?;
            let rows = shape.0.first().copied().unwrap_or(0);
            let pairs = heads.checked_mul(2).filter(|n| *n > 0).ok_or("no heads")?;
            if !rows.is_multiple_of(pairs) || shape.rank() > 2 {
                return Err(format!("{shape} cannot be permuted in {heads} heads"));
            }
        }
        Expr::Split { of, start, rows } => {
            check(of, module)?;
            let all = of.shape();
            if all.rank() != 2 || start.checked_add(*rows).is_none_or(|end| end > all.rows()) {
                return Err(format!("rows {start} and {rows} more are not in {all}"));
            }
        }
        Expr::Stack(parts) => {
            parts.iter().try_for_each(|p| check(p, module))?;
            let first = parts.first().ok_or("a stack of nothing")?;
            if parts.iter().any(|p| p.shape() != first.shape() || p.dtype() != first.dtype()) {
                return Err("the parts of a stack differ".into());
            }
        }
        Expr::Transpose(of) => {
            check(of, module)?;
            if shape.rank() != 2 {
                return Err(format!("{shape} cannot be transposed"));
            }
        }
        Expr::Add(left, right) => {
            check(left, module)?;
            check(right, module)?;
            if left.shape() != right.shape() {
                return Err(format!("{} and {} cannot be added", left.shape(), right.shape()));
            }
        }
        Expr::LowRank { base, a, b, scale } => {
            [base, a, b].into_iter().try_for_each(|e| check(e, module))?;
            let (a, b) = (a.shape(), b.shape());
            let fits = shape.rank() == 2
                && a.rank() == 2
                && b.rank() == 2
                && b.0[0] == shape.0[0]
                && a.0[1] == shape.0[1]
                && a.0[0] == b.0[1];
            if !fits {
                return Err(format!("an adapter of {b} x {a} does not fit a matrix of {shape}"));
            }
            if !scale.is_finite() {
                return Err(format!("the adapter's scale is {scale}"));
            }
        }
        Expr::ScaleBlocks { of, scales, block } => {
            check(of, module)?;
            check(scales, module)?;
            let (values, scales) = (of.shape(), scales.shape());
            let mut wanted = values.clone();
            let at = values.rank().checked_sub(2).filter(|_| values.rank() <= 3 && !block.contains(&0));
            let at = at.ok_or_else(|| format!("{values} has no blocks of {} x {}", block[0], block[1]))?;
            wanted.0[at] = values.0[at].div_ceil(block[0]);
            wanted.0[at + 1] = values.0[at + 1].div_ceil(block[1]);
            if scales != wanted {
                return Err(format!("the scales {scales} do not fit {values}, which has {wanted} blocks"));
            }
        }
        Expr::Mxfp4 { blocks, scales } => {
            check(blocks, module)?;
            check(scales, module)?;
            let bytes = |e: &Expr| matches!(e, Expr::Load { dtype: TensorType::U8, .. });
            let mut wanted = scales.shape();
            wanted.0.push(16);
            if !bytes(blocks) || !bytes(scales) || blocks.shape() != wanted {
                return Err(format!(
                    "blocks {} {} and scales {} {} are no MXFP4",
                    blocks.dtype(),
                    blocks.shape(),
                    scales.dtype(),
                    scales.shape()
                ));
            }
        }
        Expr::WeightNorm { of, magnitude } => {
            check(of, module)?;
            check(magnitude, module)?;
            if shape.rank() != 2 || magnitude.shape().len() != shape.rows() {
                return Err(format!("{} magnitudes do not fit a matrix of {shape}", magnitude.shape()));
            }
        }
        Expr::Encode { of, dtype, imatrix } => {
            check(of, module)?;
            if dtype.row_bytes(shape.cols()).is_none() {
                return Err(format!("rows of {} values are no whole blocks of {dtype}", shape.cols()));
            }
            if let Some(weights) = imatrix
                && !(weights.0.len() as u64).is_multiple_of(shape.cols().max(1))
            {
                return Err("the importance matrix has another width".into());
            }
        }
    }
    if shape.is_empty() {
        return Err(format!("the shape {shape} has no values"));
    }
    Ok(())
}
