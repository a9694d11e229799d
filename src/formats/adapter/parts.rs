//! From tensors by name to pairs of factors and whole tensors.

use std::collections::BTreeMap;
use std::path::Path;

use mdl_kernels::TensorType;

use super::super::checkpoint::CheckpointFile;
use super::super::quote::quoted;
use super::config::AdapterConfig;
use super::{AdapterKind, AdapterPair, Factor, TensorRef, WholeTensor};
use crate::diagnostic::{Diagnostic, Result};

/// What PEFT puts before the names of the base model.
const PEFT_PREFIX: &str = "base_model.model.";

/// Ends of names: what they are. PEFT's default adapter name may be in them.
const ENDS: &[(&str, Part)] = &[
    (".lora_A.weight", Part::A),
    (".lora_B.weight", Part::B),
    (".lora_A.default.weight", Part::A),
    (".lora_B.default.weight", Part::B),
    (".lora_a", Part::A),
    (".lora_b", Part::B),
    (".lora_embedding_A", Part::EmbeddingA),
    (".lora_embedding_B", Part::EmbeddingB),
    (".lora_embedding_A.default", Part::EmbeddingA),
    (".lora_embedding_B.default", Part::EmbeddingB),
    (".lora_magnitude_vector", Part::Magnitude),
    (".lora_magnitude_vector.weight", Part::Magnitude),
    (".lora_magnitude_vector.default", Part::Magnitude),
    (".lora_magnitude_vector.default.weight", Part::Magnitude),
];

/// MLX's name for a magnitude.
const MLX_MAGNITUDE: &str = ".m";

/// What may stand between a module's name and its tensors where the whole module is saved; the
/// first three only by `modules_to_save`.
const WRAPPERS: &[&str] =
    &[".modules_to_save.default", ".modules_to_save", ".original_module", ".base_layer"];

/// The last part of an embedding's name. MLX stores the factors of embeddings the other way round.
const EMBEDDINGS: &[&str] = &["embed_tokens", "wte", "word_embeddings", "tok_embeddings", "embed_in"];

/// Parts of names, with a dot after the last one, of things that are not supported.
const UNSUPPORTED: &[(&str, &str)] = &[
    (".original_module.", "a copy of the base"),
    (".lora_A.bias.", "an adapter's bias"),
    (".lora_B.bias.", "an adapter's bias"),
    (".lora_E.", "AdaLoRA's singular values"),
    (".lora_ranknum.", "AdaLoRA's singular values"),
    (".lora_diag.", "KaSA's singular values"),
    (".lora_mobilora_", "MoLoRA's router"),
    (".hada_w1_", "LoHa multiplies two low-rank products element by element"),
    (".hada_w2_", "LoHa multiplies two low-rank products element by element"),
    (".lokr_w", "LoKr is a Kronecker product"),
    (".ia3_l.", "IA3 scales activations"),
    (".trainable_tokens_", "rows of the embedding are replaced"),
    (".token_adapter.", "rows of the embedding are replaced"),
    (".prompt_embeddings.", "prompt tuning learns inputs, not weights"),
    (".scales.", "quantized weights of MLX"),
    (".biases.", "quantized weights of MLX"),
];

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Part {
    A,
    B,
    EmbeddingA,
    EmbeddingB,
    Magnitude,
}

impl Part {
    fn name(self) -> &'static str {
        match self {
            Part::A => "A",
            Part::B => "B",
            Part::EmbeddingA => "embedding A",
            Part::EmbeddingB => "embedding B",
            Part::Magnitude => "magnitude",
        }
    }
}

/// The parts found for one target.
#[derive(Default)]
pub(super) struct Parts([Option<TensorRef>; 5]);

impl Parts {
    /// Puts a part in its place; false when there is one already.
    pub fn put(&mut self, part: Part, tensor: TensorRef) -> bool {
        let place = &mut self.0[part as usize];
        if place.is_some() {
            return false;
        }
        *place = Some(tensor);
        true
    }

    fn take(&mut self, part: Part) -> Option<TensorRef> {
        self.0[part as usize].take()
    }

    /// Both factors; or the one that is alone, if any, and what it lacks.
    pub fn both(
        &mut self,
        first: Part,
        second: Part,
    ) -> Result<(TensorRef, TensorRef), Option<(TensorRef, &'static str)>> {
        match (self.take(first), self.take(second)) {
            (Some(a), Some(b)) => Ok((a, b)),
            (Some(alone), None) => Err(Some((alone, second.name()))),
            (None, Some(alone)) => Err(Some((alone, first.name()))),
            (None, None) => Err(None),
        }
    }

    fn has(&self, part: Part) -> bool {
        self.0[part as usize].is_some()
    }
}

/// Types whose values an adapter may have.
pub(super) fn is_float(dtype: TensorType) -> bool {
    matches!(dtype, TensorType::F32 | TensorType::F16 | TensorType::BF16)
}

/// What an adapter's Safetensors files hold.
pub(super) struct Read {
    /// Sorted by target.
    pub pairs: Vec<AdapterPair>,
    /// Sorted by name.
    pub whole: Vec<WholeTensor>,
}

/// Sorts an adapter's tensors.
///
/// # Errors
/// A tensor is no part of what is supported, lacks its counterpart or does not fit it.
pub(super) fn read(files: &[CheckpointFile], config: &AdapterConfig) -> Result<Read> {
    let mut parts: BTreeMap<String, Parts> = BTreeMap::new();
    let mut whole: BTreeMap<String, WholeTensor> = BTreeMap::new();
    for (file, tensor) in
        files.iter().enumerate().flat_map(|(i, f)| f.tensors.iter().map(move |tensor| (i, tensor)))
    {
        let found = TensorRef { file, tensor: tensor.clone() };
        let wrong = |message: String| wrong(&files[file].path, &found, message);
        let name = tensor.name.strip_prefix(PEFT_PREFIX).unwrap_or(&tensor.name);
        if !is_float(tensor.dtype) {
            return Err(wrong(format!("type {}; an adapter is F32, F16 or BF16", tensor.dtype)).into());
        }
        if let Some((target, part)) = part_of(name, config) {
            let rank = if part == Part::Magnitude { 1 } else { 2 };
            // Early versions of PEFT saved magnitudes as `[1, n]`.
            let row = part == Part::Magnitude && tensor.shape.rank() == 2 && tensor.shape.0[0] == 1;
            if tensor.shape.rank() != rank && !row {
                let message = format!("not supported: shape {}; only matrices are adapted", tensor.shape);
                return Err(wrong(message).code("unsupported-adapter").into());
            }
            if !config.targets(target) {
                return Err(wrong(format!("{} is none of `target_modules`", quoted(target)))
                    .help("the configuration and the weights are not of one adapter")
                    .into());
            }
            if !parts.entry(target.to_owned()).or_default().put(part, found.clone()) {
                return Err(wrong(format!("{} has another {} already", quoted(target), part.name())).into());
            }
            continue;
        }
        let saved = whole_of(name, config).map_err(|message| wrong(message).code("unsupported-adapter"))?;
        if whole.contains_key(&saved) {
            return Err(wrong(format!("{} is there twice", quoted(&saved))).into());
        }
        whole.insert(saved.clone(), WholeTensor { name: saved, tensor: found });
    }
    if parts.is_empty() && whole.is_empty() {
        let path = files.first().map(|f| f.path.clone()).unwrap_or_default();
        return Err(Diagnostic::error("the adapter has no tensors")
            .code("bad-adapter")
            .in_file(path, "")
            .into());
    }
    let pairs = parts
        .into_iter()
        .map(|(target, parts)| pair(files, config, target, parts))
        .collect::<Result<Vec<_>>>()?;
    Ok(Read { pairs, whole: whole.into_values().collect() })
}

fn wrong(path: &Path, of: &TensorRef, message: String) -> Diagnostic {
    Diagnostic::error(message)
        .code("bad-adapter")
        .in_file(path, format!("tensor {}", quoted(&of.tensor.name)))
}

/// The module and which part of its adapter the tensor is.
fn part_of<'a>(name: &'a str, config: &AdapterConfig) -> Option<(&'a str, Part)> {
    if config.full {
        return None;
    }
    let magnitude = (config.kind == AdapterKind::Mlx).then_some((MLX_MAGNITUDE, Part::Magnitude));
    let mut ends = ENDS.iter().copied().chain(magnitude);
    ends.find_map(|(end, part)| Some((name.strip_suffix(end)?, part)))
        .filter(|(target, _)| !target.is_empty())
}

/// The name in the base of a tensor that is saved whole, or why it is none.
fn whole_of(name: &str, config: &AdapterConfig) -> Result<String, String> {
    let dotted = format!(".{name}.");
    if let Some((_, what)) = UNSUPPORTED.iter().find(|(part, _)| dotted.contains(part)) {
        return Err(format!("not supported: {what}"));
    }
    let split = name.rsplit_once('.').filter(|(module, leaf)| {
        !module.is_empty() && ["weight", "bias"].contains(leaf) && !dotted.contains(".lora_")
    });
    let Some((module, leaf)) = split else {
        return Err("not a part of a LoRA adapter: the name ends neither in `lora_A` nor in `lora_B`".into());
    };
    let wrapper = WRAPPERS.iter().find(|wrapper| module.ends_with(**wrapper)).copied().unwrap_or("");
    let module = module.strip_suffix(wrapper).unwrap_or(module);
    if wrapper.starts_with(".modules_to_save") || config.saves(module, leaf) {
        return Ok(format!("{module}.{leaf}"));
    }
    Err(format!(
        "the whole `{leaf}` of {}, though neither `modules_to_save` nor `bias` says that it is saved",
        quoted(module)
    ))
}

/// One module's pair, checked against the configuration.
fn pair(
    files: &[CheckpointFile],
    config: &AdapterConfig,
    target: String,
    mut parts: Parts,
) -> Result<AdapterPair> {
    let of_embedding = parts.has(Part::EmbeddingA) || parts.has(Part::EmbeddingB);
    let magnitude = parts.take(Part::Magnitude);
    let (first, second) =
        if of_embedding { (Part::EmbeddingA, Part::EmbeddingB) } else { (Part::A, Part::B) };
    let wrong = |of: &TensorRef, message: String| wrong(&files[of.file].path, of, message);
    let both = parts.both(first, second);
    let (a, b) = both.map_err(|alone| {
        let alone = alone.or(magnitude.clone().map(|m| (m, "A and B")));
        let missing = |missing: &str| format!("{} has no {missing} to go with it", quoted(&target));
        match alone {
            Some((alone, what)) => wrong(&alone, missing(what)),
            None => Diagnostic::error(missing("A and B")),
        }
    })?;
    if let Some(other) = parts.0.iter().flatten().next() {
        return Err(wrong(other, format!("{} has factors of two kinds", quoted(&target))).into());
    }
    let rank = config.rank_of(&target);
    let oriented = if of_embedding {
        peft_embedding(&a, &b, rank)
    } else if config.kind == AdapterKind::Mlx && EMBEDDINGS.contains(&last_of(&target)) {
        mlx_embedding(&a, &b, rank)
    } else {
        linear(&a, &b, rank, config.kind)
    };
    let Some((a, b)) = oriented else {
        let message = format!(
            "A {} and B {} do not have the rank {rank} that adapter_config.json says",
            a.tensor.shape, b.tensor.shape
        );
        return Err(wrong(&a, message).into());
    };
    match &magnitude {
        Some(m) if !config.dora => {
            return Err(wrong(m, "DoRA's magnitude vector, though `use_dora` is not set".to_owned()).into());
        }
        // PEFT's runs over the columns of an embedding, which would need a pass of its own.
        Some(m) if of_embedding => {
            let message = "not supported: DoRA of an embedding".to_owned();
            return Err(wrong(m, message).code("unsupported-adapter").into());
        }
        Some(m) if m.tensor.shape.len() != b.rows() => {
            let message = format!("{} magnitudes for {} rows", m.tensor.shape.len(), b.rows());
            return Err(wrong(m, message).into());
        }
        None if config.dora => {
            let message = format!("{} has no magnitude to go with it, which DoRA needs", quoted(&target));
            return Err(wrong(&a.tensor, message).into());
        }
        _ => {}
    }
    let scale = config.scale_of(&target);
    if !scale.is_finite() || scale == 0.0 {
        return Err(wrong(&a.tensor, format!("the scale of {} is {scale}", quoted(&target))).into());
    }
    Ok(AdapterPair { target, a, b, rank, scale, magnitude })
}

fn last_of(module: &str) -> &str {
    module.rsplit('.').next().unwrap_or(module)
}

fn dims(tensor: &TensorRef) -> [u64; 2] {
    [tensor.tensor.shape.rows(), tensor.tensor.shape.cols()]
}

/// `A [rank, in]` and `B [out, rank]`, or both the other way round.
fn linear(a: &TensorRef, b: &TensorRef, rank: u64, kind: AdapterKind) -> Option<(Factor, Factor)> {
    let straight = dims(a)[0] == rank && dims(b)[1] == rank;
    let turned = dims(a)[1] == rank && dims(b)[0] == rank;
    // Square matrices fit both ways: then it is the way of whoever made the adapter.
    let transposed = match (straight, turned) {
        (true, true) => kind == AdapterKind::Mlx,
        (straight, turned) if straight != turned => turned,
        _ => return None,
    };
    Some((Factor { tensor: a.clone(), transposed }, Factor { tensor: b.clone(), transposed }))
}

/// `A [rank, tokens]` and `B [width, rank]`: the product is the embedding's, transposed.
fn peft_embedding(a: &TensorRef, b: &TensorRef, rank: u64) -> Option<(Factor, Factor)> {
    let fits = dims(a)[0] == rank && dims(b)[1] == rank;
    fits.then(|| {
        (Factor { tensor: b.clone(), transposed: true }, Factor { tensor: a.clone(), transposed: true })
    })
}

/// `A [tokens, rank]` and `B [rank, width]`.
fn mlx_embedding(a: &TensorRef, b: &TensorRef, rank: u64) -> Option<(Factor, Factor)> {
    let fits = dims(a)[1] == rank && dims(b)[0] == rank;
    fits.then(|| {
        (Factor { tensor: b.clone(), transposed: false }, Factor { tensor: a.clone(), transposed: false })
    })
}
