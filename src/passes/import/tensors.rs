//! A checkpoint's tensors under their GGUF names, in GGUF's order of rows.

use std::collections::BTreeMap;

use mdl_kernels::TensorType;

use super::names;
use crate::diagnostic::{Diagnostic, Result};
use crate::families::{Family, Imported, Make, Presence, Rows, TensorRule, fill_pattern};
use crate::ir::{Expr, Metadata, Module, Shape, Tensor};
use crate::passes::Context;
use crate::passes::quantize::block_number;

/// Experts of a block, at most; known models have up to 512.
const MOST_EXPERTS: u64 = 4096;

/// The most unknown tensors that are named.
const MOST_NAMED: usize = 8;

/// The tensors under their GGUF names: block by block, the rest at the end, each in order of name.
///
/// # Errors
/// A tensor is unknown, missing, or there twice.
pub(super) fn import(
    module: &Module,
    family: &Family,
    imported: &Imported,
    context: &Context<'_>,
) -> Result<Vec<Tensor>> {
    let mut tensors = Vec::with_capacity(module.tensors.len());
    let mut stacks: BTreeMap<String, BTreeMap<u64, Expr>> = BTreeMap::new();
    let (mut unknown, mut ignored) = (Vec::new(), Vec::new());
    let named = module.tensors.iter().flat_map(|tensor| parts(names::usual(&tensor.name), &tensor.expr));
    for (name, expr) in named {
        if family.ignores(&name) {
            ignored.push(name);
            continue;
        }
        let Some((rule, numbers)) = family.by_checkpoint_name(&name) else {
            unknown.push(name);
            continue;
        };
        if rule.presence == Presence::Untied && imported.tied {
            context.note(
                Diagnostic::warning(format!(
                    "`{name}` is left out: the configuration ties it to the embeddings"
                ))
                .code("tied-output"),
            );
            continue;
        }
        let gguf = fill_pattern(rule.gguf, numbers.block);
        match (rule.make, numbers.part) {
            (Make::Stack, Some(part)) => {
                if stacks.entry(gguf).or_default().insert(part, expr).is_some() {
                    let message = format!("`{name}` is there twice, under two names");
                    return Err(Diagnostic::error(message).code("duplicate-tensor").into());
                }
            }
            _ => tensors.push(Tensor { name: gguf, expr: make(rule, expr, family, &module.metadata) }),
        }
    }
    if !unknown.is_empty() {
        return Err(unknown_tensors(&unknown, family).into());
    }
    note_parts_left_out(&ignored, context);
    for (name, parts) in stacks {
        tensors.push(Tensor { expr: stack(&name, parts)?, name });
    }
    let untied = family.rules().find(|r| r.presence == Presence::Untied);
    // A model that makes embeddings is published without the head that it does not need.
    let pools = imported.metadata.get(&format!("{}.pooling_type", family.architecture)).is_some();
    if let Some(rule) = untied
        && !imported.tied
        && !pools
        && !tensors.iter().any(|t| t.name == rule.gguf)
    {
        return Err(Diagnostic::error(format!("the tensor `{}` is missing", rule.checkpoint))
            .code("missing-tensor")
            .help("the configuration says that it is not tied to the embeddings")
            .into());
    }
    for (name, values) in &imported.derived {
        let shape = Shape(vec![values.len() as u64]);
        let expr = Expr::Const { values: values.as_slice().into(), shape };
        tensors.push(Tensor { name: (*name).to_owned(), expr });
    }
    for tensor in &mut tensors {
        let source = tensor.expr.dtype();
        if is_float32(tensor) && source != TensorType::F32 && !source.is_quantized() {
            let of = std::mem::replace(&mut tensor.expr, Expr::Stack(vec![]));
            tensor.expr = Expr::Encode { of: Box::new(of), dtype: TensorType::F32, imatrix: None };
        }
    }
    tensors.sort_by(|a, b| order(&a.name).cmp(&order(&b.name)));
    Ok(tensors)
}

/// Small matrices that GGUF has in float32 whatever the others are in: the router, positions, norms.
const FLOAT32: &[&str] =
    &["_norm.weight", "ffn_gate_inp.weight", "position_embd.weight", "token_types.weight"];

fn is_float32(tensor: &Tensor) -> bool {
    tensor.shape().rank() >= 2 && FLOAT32.iter().any(|end| tensor.name.ends_with(end))
}

/// The tensor that a rule makes.
pub(in crate::passes) fn make(rule: &TensorRule, of: Expr, family: &Family, metadata: &Metadata) -> Expr {
    let of = match (rule.rows, family.heads(rule.rows, metadata)) {
        (Rows::AsTheyAre, _) | (_, None) => of,
        (_, Some(heads)) => Expr::permute_rope(of, heads),
    };
    match rule.make {
        Make::Same | Make::Stack => of,
        Make::PlusOne => {
            let shape = of.shape();
            // No norm is longer than a row of its model; a length that is checked with the shapes later.
            let values = vec![1.0; shape.len().min(1 << 24) as usize];
            Expr::Add(Box::new(of), Box::new(Expr::Const { values: values.into(), shape }))
        }
        Make::Vocabulary => {
            let tokens =
                metadata.array("tokenizer.ggml.tokens").map_or(u64::MAX, |tokens| tokens.len() as u64);
            match of.shape() {
                shape if shape.rank() == 2 && shape.rows() > tokens => {
                    Expr::Split { of: Box::new(of), start: 0, rows: tokens }
                }
                _ => of,
            }
        }
    }
}

/// One tensor of many, by the numbers in their names.
fn stack(name: &str, parts: BTreeMap<u64, Expr>) -> Result<Expr> {
    for (expected, number) in parts.keys().enumerate() {
        if *number != expected as u64 {
            return Err(Diagnostic::error(format!("part {expected} of `{name}` is missing"))
                .code("missing-tensor")
                .help("the model is incomplete; is a shard missing?")
                .into());
        }
    }
    Ok(Expr::Stack(parts.into_values().collect()))
}

/// Newer checkpoints have all experts of a block in one tensor, gate and up in one: `[experts, 2 * length, cols]`.
/// These are the parts, under the names of older ones.
fn parts(name: String, expr: &Expr) -> Vec<(String, Expr)> {
    let names: &[&str] = match () {
        _ if name.ends_with(".experts.gate_up_proj") => &["gate_proj", "up_proj"],
        _ if name.ends_with(".experts.down_proj") => &["down_proj"],
        _ => return vec![(name, expr.clone())],
    };
    let (Some((before, _)), Expr::Load { file, offset, dtype, shape, .. }) = (name.rsplit_once('.'), expr)
    else {
        return vec![(name, expr.clone())];
    };
    let &[experts, rows, cols] = shape.0.as_slice() else { return vec![(name, expr.clone())] };
    if experts > MOST_EXPERTS {
        return vec![(name, expr.clone())];
    }
    let count = names.len() as u64;
    let own = rows / count;
    let bytes = dtype.row_bytes(cols).and_then(|bytes| bytes.checked_mul(own));
    let (Some(len), true) = (bytes, rows.is_multiple_of(count)) else { return vec![(name, expr.clone())] };
    let part = |i: u64, k: u64| {
        let offset = offset.saturating_add(len.saturating_mul(i * count + k));
        let shape = Shape(vec![own, cols]);
        Expr::Load { file: *file, offset, len, dtype: *dtype, shape }
    };
    (0..experts)
        .flat_map(|i| (0..count).map(move |k| (i, k)))
        .map(|(i, k)| (format!("{before}.{i}.{}.weight", names[k as usize]), part(i, k)))
        .collect()
}

/// Writes the widths of the matrices that a pooled state goes through, as GGUF has them beside the matrices.
pub(super) fn describe_projections(module: &mut Module) {
    let architecture = module.architecture().unwrap_or("").to_owned();
    for name in ["dense_2", "dense_3"] {
        let Some(shape) = module.tensor(&format!("{name}.weight")).map(Tensor::shape) else { continue };
        for (end, size) in [("feat_in", shape.cols()), ("feat_out", shape.rows())] {
            if let Ok(size) = u32::try_from(size) {
                module.metadata.set(format!("{architecture}.{name}_{end}"), size);
            }
        }
    }
}

fn order(name: &str) -> (u64, &str) {
    (block_number(name).unwrap_or(u64::MAX), name)
}

/// Tells once that a part which sees or hears is not in the artifact.
fn note_parts_left_out(ignored: &[String], context: &Context<'_>) {
    let of = |part: &str| ignored.iter().filter(|name| name.starts_with(part)).count();
    let count = of("vision_tower.") + of("multi_modal_projector.");
    if count > 0 {
        context.note(
            Diagnostic::warning(format!(
                "{count} tensors of the part that sees are left out; the model reads text only"
            ))
            .code("text-only"),
        );
    }
}

fn unknown_tensors(unknown: &[String], family: &Family) -> Diagnostic {
    let named: Vec<String> = unknown.iter().take(MOST_NAMED).map(|n| format!("`{n}`")).collect();
    let more = unknown.len().saturating_sub(MOST_NAMED);
    let more = if more > 0 { format!(" and {more} more") } else { String::new() };
    Diagnostic::error(format!(
        "the checkpoint has tensors that a {} model does not have: {}{more}",
        family.architecture,
        named.join(", ")
    ))
    .code("unknown-tensor")
}
