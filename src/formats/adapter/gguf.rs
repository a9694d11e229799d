//! An adapter that is a GGUF file.

use std::collections::BTreeMap;

use super::super::gguf::Gguf;
use super::super::quote::quoted;
use super::parts::{Part, Parts, is_float};
use super::{Adapter, AdapterFile, AdapterKind, AdapterPair, Factor, TensorRef};
use crate::diagnostic::{Diagnostic, Result};

/// The matrix whose factors are stored the other way round.
const EMBEDDING: &str = "token_embd";

const ALPHA_KEY: &str = "adapter.lora.alpha";

/// Keys that make an adapter something that cannot be fused, and what they mean.
const UNSUPPORTED: &[(&str, &str)] =
    &[("adapter.alora.invocation_tokens", "an activated LoRA acts from some token on; it cannot be fused")];

pub(super) fn read(file: AdapterFile) -> Result<Adapter> {
    let gguf = Gguf::read(&file.path, &*file.file)?;
    let metadata = &gguf.metadata;
    let wrong_key = |key: &str, message: String| {
        Diagnostic::error(message).code("bad-adapter").in_file(&file.path, format!("key `{key}`"))
    };
    for (key, expected) in [("general.type", "adapter"), ("adapter.type", "lora")] {
        match metadata.str(key) {
            Some(found) if found == expected => {}
            Some(found) => {
                return Err(wrong_key(
                    key,
                    format!("expected `{expected}` of a LoRA adapter, found {}", quoted(found)),
                )
                .into());
            }
            None => {
                return Err(
                    wrong_key(key, format!("expected `{expected}` of a LoRA adapter, found none")).into()
                );
            }
        }
    }
    if let Some((key, why)) = UNSUPPORTED.iter().find(|(key, _)| metadata.get(key).is_some()) {
        return Err(wrong_key(key, format!("not supported: {why}")).code("unsupported-adapter").into());
    }
    let alpha =
        metadata.f32(ALPHA_KEY).ok_or_else(|| wrong_key(ALPHA_KEY, "a float is expected".to_owned()))?;
    if !alpha.is_finite() {
        return Err(wrong_key(ALPHA_KEY, format!("the value is {alpha}")).into());
    }

    let wrong = |of: &TensorRef, message: String| {
        Diagnostic::error(message)
            .code("bad-adapter")
            .in_file(&file.path, format!("tensor {}", quoted(&of.tensor.name)))
    };
    let mut parts: BTreeMap<String, Parts> = BTreeMap::new();
    for tensor in &gguf.tensors {
        let found = TensorRef { file: 0, tensor: tensor.clone() };
        let end = [(".weight.lora_a", Part::A), (".weight.lora_b", Part::B)]
            .into_iter()
            .find_map(|(end, half)| Some((tensor.name.strip_suffix(end)?, half)));
        let Some((target, half)) = end.filter(|(target, _)| !target.is_empty()) else {
            let message = "not supported: the name ends neither in `.weight.lora_a` nor in `.weight.lora_b`";
            return Err(wrong(&found, message.to_owned()).code("unsupported-adapter").into());
        };
        if tensor.shape.rank() != 2 {
            let message = format!("not supported: shape {}; only matrices are adapted", tensor.shape);
            return Err(wrong(&found, message).code("unsupported-adapter").into());
        }
        if !is_float(tensor.dtype) {
            return Err(
                wrong(&found, format!("type {}; an adapter is F32, F16 or BF16", tensor.dtype)).into()
            );
        }
        // Names are unique in a GGUF, so the place is free.
        parts.entry(target.to_owned()).or_default().put(half, found);
    }

    let mut pairs = Vec::with_capacity(parts.len());
    for (target, mut parts) in parts {
        let (a, b) = match parts.both(Part::A, Part::B) {
            Ok(both) => both,
            Err(Some((alone, missing))) => {
                return Err(
                    wrong(&alone, format!("{} has no {missing} to go with it", quoted(&target))).into()
                );
            }
            Err(None) => continue,
        };
        let rank = b.tensor.shape.0[1];
        let (a, b) = if target == EMBEDDING {
            // `A [tokens, rank]` selects a row for each token, `B [width, rank]` widens it.
            (Factor { tensor: b, transposed: true }, Factor { tensor: a, transposed: false })
        } else {
            (Factor { tensor: a, transposed: false }, Factor { tensor: b, transposed: false })
        };
        if a.rows() != rank || b.columns() != rank {
            let shapes = [&a, &b].map(|factor| factor.tensor.tensor.shape.to_string());
            let message = format!("A {} and B {} differ in rank", shapes[0], shapes[1]);
            return Err(wrong(&a.tensor, message).into());
        }
        let scale = if alpha == 0.0 { 1.0 } else { alpha / rank as f32 };
        pairs.push(AdapterPair { target, a, b, rank, scale, magnitude: None });
    }
    if pairs.is_empty() {
        return Err(Diagnostic::error("the adapter has no tensors")
            .code("bad-adapter")
            .in_file(&file.path, "")
            .into());
    }
    let text = |key: &str| metadata.str(key).map(str::to_owned);
    let (architecture, base_model) = (text("general.architecture"), text("general.base_model.0.name"));
    Ok(Adapter {
        kind: AdapterKind::Gguf,
        base_model,
        architecture,
        files: vec![file],
        pairs,
        whole: Vec::new(),
        keeps_tied: false,
    })
}
