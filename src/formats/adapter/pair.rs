//! From tensors by name to pairs.

use std::collections::BTreeMap;

use mdl_kernels::TensorType;

use super::super::checkpoint::CheckpointFile;
use super::super::quote::quoted;
use super::config::AdapterConfig;
use super::{AdapterKind, AdapterPair, TensorRef};
use crate::diagnostic::{Diagnostic, Result};

/// What PEFT puts before the names of the base model.
const PEFT_PREFIX: &str = "base_model.model.";

/// Ends of names: what they are. PEFT's default adapter name may be in them.
const ENDS: &[(&str, Half)] = &[
    (".lora_A.weight", Half::A),
    (".lora_B.weight", Half::B),
    (".lora_A.default.weight", Half::A),
    (".lora_B.default.weight", Half::B),
    (".lora_a", Half::A),
    (".lora_b", Half::B),
];

/// Parts of names, with a dot after the last one, of things that are not supported.
const UNSUPPORTED: &[(&str, &str)] = &[
    (".lora_embedding_", "an adapted embedding"),
    (".lora_magnitude_vector.", "DoRA's magnitude vector"),
    (".m.", "DoRA's magnitude vector"),
    (".lora_A.bias.", "an adapter's bias"),
    (".lora_B.bias.", "an adapter's bias"),
    (".modules_to_save.", "a module that is replaced as a whole"),
    (".lora_E.", "AdaLoRA's singular values"),
];

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Half {
    A,
    B,
}

impl Half {
    fn name(self) -> &'static str {
        match self {
            Half::A => "A",
            Half::B => "B",
        }
    }
}

/// The halves found for one target.
#[derive(Default)]
pub(super) struct Halves {
    a: Option<TensorRef>,
    b: Option<TensorRef>,
}

impl Halves {
    /// Puts a half in its place; false when there is one already.
    pub fn put(&mut self, half: Half, tensor: TensorRef) -> bool {
        let place = match half {
            Half::A => &mut self.a,
            Half::B => &mut self.b,
        };
        if place.is_some() {
            return false;
        }
        *place = Some(tensor);
        true
    }

    /// Both halves, or the one that is alone and the name of the other.
    pub fn both(self) -> Result<(TensorRef, TensorRef), Option<(TensorRef, &'static str)>> {
        match (self.a, self.b) {
            (Some(a), Some(b)) => Ok((a, b)),
            (Some(alone), None) => Err(Some((alone, Half::B.name()))),
            (None, Some(alone)) => Err(Some((alone, Half::A.name()))),
            (None, None) => Err(None),
        }
    }
}

/// Types whose values an adapter may have.
pub(super) fn is_float(dtype: TensorType) -> bool {
    matches!(dtype, TensorType::F32 | TensorType::F16 | TensorType::BF16)
}

/// The pairs of an adapter's Safetensors files, sorted by target.
pub(super) fn pairs(files: &[CheckpointFile], config: &AdapterConfig) -> Result<Vec<AdapterPair>> {
    let wrong = |of: &TensorRef, message: String| {
        Diagnostic::error(message)
            .code("bad-adapter")
            .in_file(&files[of.file].path, format!("tensor {}", quoted(&of.tensor.name)))
    };
    let mut halves: BTreeMap<String, Halves> = BTreeMap::new();
    for (file, tensor) in
        files.iter().enumerate().flat_map(|(i, f)| f.tensors.iter().map(move |tensor| (i, tensor)))
    {
        let found = TensorRef { file, tensor: tensor.clone() };
        let name = tensor.name.strip_prefix(PEFT_PREFIX).unwrap_or(&tensor.name);
        let end = ENDS.iter().find_map(|(end, half)| Some((name.strip_suffix(end)?, *half)));
        let Some((target, half)) = end.filter(|(target, _)| !target.is_empty()) else {
            let dotted = format!("{name}.");
            let message = match UNSUPPORTED.iter().find(|(part, _)| dotted.contains(part)) {
                Some((_, what)) => format!("not supported: {what}"),
                None => "not a part of a LoRA adapter: the name ends neither in `lora_A` nor in `lora_B`"
                    .to_owned(),
            };
            return Err(wrong(&found, message).code("unsupported-adapter").into());
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
        if !halves.entry(target.to_owned()).or_default().put(half, found.clone()) {
            return Err(
                wrong(&found, format!("{} has another {} already", quoted(target), half.name())).into()
            );
        }
    }
    if halves.is_empty() {
        let path = files.first().map(|f| f.path.clone()).unwrap_or_default();
        return Err(Diagnostic::error("the adapter has no tensors")
            .code("bad-adapter")
            .in_file(path, "")
            .into());
    }

    let mut pairs = Vec::with_capacity(halves.len());
    for (target, halves) in halves {
        let (a, b) = match halves.both() {
            Ok(both) => both,
            Err(Some((alone, missing))) => {
                return Err(
                    wrong(&alone, format!("{} has no {missing} to go with it", quoted(&target))).into()
                );
            }
            Err(None) => continue,
        };
        let rank = config.rank_of(&target);
        let straight = a.tensor.shape.0[0] == rank && b.tensor.shape.0[1] == rank;
        let turned = a.tensor.shape.0[1] == rank && b.tensor.shape.0[0] == rank;
        // Square matrices fit both ways: then it is the way of whoever made the adapter.
        let transposed = match (straight, turned) {
            (true, true) => config.kind == AdapterKind::Mlx,
            (straight, turned) if straight != turned => turned,
            _ => {
                let message = format!(
                    "A {} and B {} do not have the rank {rank} that adapter_config.json says",
                    a.tensor.shape, b.tensor.shape
                );
                return Err(wrong(&a, message).into());
            }
        };
        let scale = config.scale_of(&target);
        if !scale.is_finite() || scale == 0.0 {
            return Err(wrong(&a, format!("the scale of {} is {scale}", quoted(&target))).into());
        }
        pairs.push(AdapterPair { target, a, b, transposed, rank, scale });
    }
    Ok(pairs)
}
