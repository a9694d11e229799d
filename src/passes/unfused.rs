//! Adapters that are kept beside the model (`--no-fuse`): what can be, and the GGUF files they become.
//!
//! A kept adapter is a GGUF file as llama.cpp's converter writes it: `general.type` is `adapter`, each
//! matrix `X` that it changes has its factors as `X.lora_a` `[rank, cols]` and `X.lora_b`
//! `[rows, rank]`, and `adapter.lora.alpha` over the rank is the factor of the products. The runtime adds
//! `alpha / rank * B (A x)` to each product `X x`.

use crate::diagnostic::Diagnostic;
use crate::ir::{Adapter, AdapterChange, Change, Expr, Metadata, Module, Shape, Tensor};

/// Why an adapter whose changes have their tensors' GGUF names cannot be kept beside the model.
pub(super) fn obstacle(changes: &[AdapterChange], embedding: &str) -> Option<String> {
    changes.iter().find_map(|AdapterChange { target, change, base }| match change {
        Change::Replace(_) => Some(format!("it brings the whole of `{target}`")),
        Change::LowRank { magnitude: Some(_), .. } => {
            Some(format!("it is a DoRA, which gives the rows of `{target}` new lengths"))
        }
        Change::LowRank { .. } if target == embedding => Some("it changes the embeddings".to_owned()),
        Change::LowRank { .. } if base.is_none() => {
            Some("it changes the output matrix, which is the embedding matrix".to_owned())
        }
        Change::LowRank { .. } => None,
    })
}

/// That an adapter cannot be kept.
pub(super) fn refuse(adapter: &Adapter, why: &str) -> Diagnostic {
    Diagnostic::error(format!("the adapter cannot be kept beside the model: {why}"))
        .in_file(&adapter.path, "")
        .code("adapter-kept")
        .help("fuse it instead: build without `--no-fuse`; a stored model with `FROM`, its name, and `-q`")
}

/// The GGUF files of a module's kept adapters, in order; none where they are fused.
pub fn files(module: &Module) -> Vec<Module> {
    if !module.unfused {
        return Vec::new();
    }
    let architecture = module.architecture().unwrap_or("");
    module.adapters.iter().map(|adapter| file(adapter, architecture, module)).collect()
}

fn file(adapter: &Adapter, architecture: &str, module: &Module) -> Module {
    // One alpha for all: what is not its share of it goes into the factors.
    let share = |change: &Change| match change {
        Change::LowRank { a, scale, .. } => scale * a.shape().rows() as f32,
        Change::Replace(_) => 0.0,
    };
    let mut changes: Vec<&AdapterChange> = adapter.changes.iter().collect();
    changes.sort_by(|a, b| a.target.cmp(&b.target));
    let alpha = changes.first().map_or(0.0, |first| share(&first.change));
    let mut metadata = Metadata::default();
    metadata.set("general.type", "adapter");
    metadata.set("general.architecture", architecture);
    metadata.set("general.quantization_version", 2u32);
    metadata.set("adapter.type", "lora");
    metadata.set("adapter.lora.alpha", alpha);
    if let Some(base) = &adapter.base_model {
        metadata.set("general.base_model.count", 1u32);
        metadata.set("general.base_model.0.name", base.as_str());
    }
    let mut tensors = Vec::with_capacity(2 * adapter.changes.len());
    for AdapterChange { target, change, .. } in changes {
        let Change::LowRank { a, b, .. } = change else { continue };
        let factor = share(change) / alpha;
        let b = if factor == 1.0 { b.clone() } else { scaled(b, factor) };
        tensors.push(Tensor { name: format!("{target}.lora_a"), expr: a.clone() });
        tensors.push(Tensor { name: format!("{target}.lora_b"), expr: b });
    }
    Module { metadata, tensors, files: module.files.clone(), ..Module::default() }
}

/// `factor * of`: one block with one scale.
fn scaled(of: &Expr, factor: f32) -> Expr {
    let scale = Expr::Const { values: [factor].as_slice().into(), shape: Shape(vec![1, 1]) };
    let block = [of.shape().rows(), of.shape().cols()];
    Expr::ScaleBlocks { of: Box::new(of.clone()), scales: Box::new(scale), block }
}
