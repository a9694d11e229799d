//! `quantize`: gives every tensor the type it is written in.
//!
//! With a preset, its mixture decides ([`mixture`]); without one each tensor keeps the type of the
//! checkpoint. `--tensor-type` goes before both. The only thing rewritten is the outermost
//! `Encode`: a tensor that already has its type is left to be copied.

pub mod mixture;

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use mdl_kernels::TensorType;

use super::Context;
use crate::diagnostic::{Diagnostic, Errors, Result};
use crate::ir::{Expr, Imatrix, Module, Tensor};
use mixture::{Place, Preset, Role, Surroundings};

/// `--tensor-type REGEX=TYPE`.
#[derive(Clone, Debug)]
pub struct TensorTypeRule {
    /// Found anywhere in a tensor's name.
    pub pattern: regex::Regex,
    /// The type of the tensors it matches.
    pub dtype: TensorType,
}

impl TensorTypeRule {
    /// Reads `REGEX=TYPE`.
    ///
    /// # Errors
    /// Usage: no `=`, no such type, a type that cannot be produced, or a pattern that is no regular expression.
    pub fn parse(text: &str) -> Result<TensorTypeRule> {
        let wrong = |message: String| {
            Diagnostic::usage(message)
                .code("tensor-type")
                .help("write REGEX=TYPE, such as `--tensor-type 'attn_v=q6_K'`")
        };
        let (pattern, name) = text.rsplit_once('=').ok_or_else(|| wrong(format!("`{text}` has no `=`")))?;
        let dtype = TensorType::from_name(name.trim())
            .filter(|t| producible(*t))
            .ok_or_else(|| wrong(format!("`{name}` is no type that can be produced")))?;
        let pattern = regex::RegexBuilder::new(pattern)
            .case_insensitive(true)
            .size_limit(1 << 20)
            .build()
            .map_err(|e| wrong(format!("`{pattern}` is no regular expression: {e}")))?;
        Ok(TensorTypeRule { pattern, dtype })
    }
}

/// True for the types a build can write.
pub fn producible(dtype: TensorType) -> bool {
    mixture::PRESETS.iter().any(|p| p.base == dtype)
}

/// Runs the pass.
///
/// # Errors
/// A pattern or an importance matrix that matches nothing, or a source that is quantized already.
pub fn run(mut module: Module, context: &Context<'_>) -> Result<Module> {
    let options = &context.options;
    let names: Vec<String> =
        module.tensors.iter().filter(|t| is_quantizable(t)).map(|t| t.name.clone()).collect();
    let places = places(&module);
    let model = surroundings(&module, options.imatrix.is_some());
    let mut used = vec![false; options.tensor_types.len()];
    let mut refused = Vec::new();
    let mut narrowed: BTreeMap<(TensorType, TensorType), usize> = BTreeMap::new();
    let (mut weighted, mut unweighted) = (0, 0);
    let mut changed = false;

    for tensor in &mut module.tensors {
        let place = places[&tensor.name];
        let natural = natural_type(tensor);
        let wanted = if is_quantizable(tensor) {
            let forced = override_for(&tensor.name, &options.tensor_types, &mut used);
            forced.or(options.preset.map(|preset| preset.choose(place, model))).unwrap_or(natural)
        } else {
            natural
        };
        let dtype = mixture::fit_width(wanted, place.cols);
        if dtype != wanted {
            *narrowed.entry((wanted, dtype)).or_default() += 1;
        }
        if dtype == tensor.expr.dtype() && !computes(&tensor.expr) {
            continue;
        }
        let source = source_type(&tensor.expr);
        if source.is_quantized() && !options.allow_requantize {
            refused.push(requantized(&tensor.name, source, dtype));
            continue;
        }
        let imatrix = match &options.imatrix {
            Some(all) if dtype.is_quantized() => {
                let found = importance(tensor, all)?;
                weighted += usize::from(found.is_some());
                // A table of embeddings multiplies nothing, so there is nothing to measure of it.
                let table = matches!(place.role, Role::Output | Role::Embedding);
                unweighted += usize::from(found.is_none() && !table);
                found
            }
            _ => None,
        };
        let of = Box::new(strip_encode(tensor.expr.clone()));
        tensor.expr = Expr::Encode { of, dtype, imatrix };
        changed = true;
    }

    if let Some(first) = refused.into_iter().next() {
        return Err(Errors(vec![first]));
    }
    for (rule, used) in options.tensor_types.iter().zip(used) {
        if !used {
            return Err(matches_nothing(rule, &names).into());
        }
    }
    if options.imatrix.is_some() && weighted == 0 {
        return Err(unused_imatrix(unweighted).into());
    }
    report(context, &narrowed, unweighted);
    if let Some(preset) = options.preset {
        let file_type = preset.file_type;
        if module.metadata.u64("general.file_type") != Some(u64::from(file_type)) {
            module.metadata.set("general.file_type", file_type);
            changed = true;
        }
    } else if changed || module.metadata.get("general.file_type").is_none() && module.verbatim.is_none() {
        // Also where nothing had to be encoded, as for a checkpoint of float32.
        changed = true;
        let file_type = most_common_file_type(&module);
        module.metadata.set("general.file_type", file_type);
    }
    if changed {
        if module.metadata.get("general.quantization_version").is_none() {
            module.metadata.set("general.quantization_version", 2u32);
        }
        module.verbatim = None;
    }
    Ok(module)
}

/// What each tensor is to a mixture, by name.
fn places(module: &Module) -> HashMap<String, Place> {
    let has_output = module.tensor("output.weight").is_some();
    let mut order: Vec<&Tensor> = module.tensors.iter().collect();
    order.sort_by_key(|t| block_number(&t.name).unwrap_or(u64::MAX));
    let mut counts: HashMap<Role, u64> = HashMap::new();
    let mut places = HashMap::new();
    for tensor in order {
        // A bias, such as `ffn_down.bias`, is none of the tensors that a mixture counts.
        let role = if is_quantizable(tensor) { role(&tensor.name, has_output) } else { Role::Other };
        let experts = tensor.name.contains("_exps");
        let count = counts.entry(role).or_default();
        let i = if experts { block_number(&tensor.name).unwrap_or(*count) } else { *count };
        *count += 1;
        places.insert(tensor.name.clone(), Place { role, i, n: 0, cols: tensor.shape().cols() });
    }
    for place in places.values_mut() {
        place.n = counts[&place.role];
    }
    places
}

fn role(name: &str, has_output: bool) -> Role {
    let has = |part: &str| name.contains(part);
    match name {
        "output.weight" => Role::Output,
        "token_embd.weight" if !has_output => Role::Output,
        "token_embd.weight" => Role::Embedding,
        _ if has("attn_v.weight") || has("attn_qkv.weight") || has("attn_kv_b.weight") => Role::AttentionV,
        _ if has("attn_k.weight") => Role::AttentionK,
        _ if has("attn_output.weight") => Role::AttentionOutput,
        _ if has("ffn_down") => Role::FeedForwardDown,
        _ => Role::Other,
    }
}

/// The `N` of `blk.N.`.
pub fn block_number(name: &str) -> Option<u64> {
    name.strip_prefix("blk.")?.split('.').next()?.parse().ok()
}

fn surroundings(module: &Module, imatrix: bool) -> Surroundings {
    let architecture = module.architecture().unwrap_or("").to_owned();
    let number = |key: &str| module.metadata.u64(&format!("{architecture}.{key}")).unwrap_or(0);
    let heads = number("attention.head_count");
    let kv = match number("attention.head_count_kv") {
        0 => heads,
        n => n,
    };
    Surroundings {
        heads_per_kv: heads.checked_div(kv).unwrap_or(1),
        experts: number("expert_count"),
        llama_70b: architecture == "llama"
            && number("block_count") == 80
            && number("embedding_length") == 8192,
        imatrix,
    }
}

/// True for a matrix of weights, whose type a preset or `--tensor-type` decides.
fn is_quantizable(tensor: &Tensor) -> bool {
    tensor.shape().rank() >= 2
        && tensor.name.ends_with("weight")
        && !mixture::KEPT.iter().any(|part| tensor.name.contains(part))
}

/// The type a tensor has without a preset: what an earlier pass chose, else its source's; vectors are always F32.
/// GGUF has no FP8, whose values are those of BF16 to its precision.
fn natural_type(tensor: &Tensor) -> TensorType {
    if let Expr::Encode { dtype, .. } = &tensor.expr {
        return *dtype;
    }
    let source = match source_type(&tensor.expr) {
        TensorType::F8_E4M3 | TensorType::F8_E5M2 => TensorType::BF16,
        source => source,
    };
    if source.is_quantized() || tensor.shape().rank() >= 2 && source != TensorType::F64 {
        source
    } else {
        TensorType::F32
    }
}

/// The type of the values an expression starts from: its first load's.
fn source_type(expr: &Expr) -> TensorType {
    match expr {
        Expr::Load { dtype, .. } => *dtype,
        Expr::Const { .. } => TensorType::F32,
        Expr::Encode { of, .. }
        | Expr::PermuteRope { of, .. }
        | Expr::HalveRope { of, .. }
        | Expr::Split { of, .. }
        | Expr::ScaleBlocks { of, .. }
        | Expr::WeightNorm { of, .. }
        | Expr::Transpose(of) => source_type(of),
        Expr::Mxfp4 { .. } => TensorType::MXFP4,
        Expr::Stack(parts) => parts.first().map_or(TensorType::F32, source_type),
        Expr::Add(left, _) => source_type(left),
        Expr::LowRank { base, .. } => source_type(base),
    }
}

/// True when values are computed, so that they need an encoding to be written.
fn computes(expr: &Expr) -> bool {
    match expr {
        Expr::Load { .. } | Expr::Const { .. } | Expr::Mxfp4 { .. } | Expr::Encode { .. } => false,
        Expr::PermuteRope { of, .. } | Expr::HalveRope { of, .. } | Expr::Split { of, .. } => computes(of),
        Expr::Stack(parts) => parts.iter().any(computes),
        Expr::Transpose(_)
        | Expr::Add(..)
        | Expr::LowRank { .. }
        | Expr::ScaleBlocks { .. }
        | Expr::WeightNorm { .. } => true,
    }
}

fn strip_encode(expr: Expr) -> Expr {
    match expr {
        Expr::Encode { of, .. } => *of,
        other => other,
    }
}

fn override_for(name: &str, rules: &[TensorTypeRule], used: &mut [bool]) -> Option<TensorType> {
    let mut chosen = None;
    for (rule, used) in rules.iter().zip(used) {
        if rule.pattern.is_match(name) {
            *used = true;
            chosen = chosen.or(Some(rule.dtype));
        }
    }
    chosen
}

fn importance(tensor: &Tensor, all: &BTreeMap<String, Vec<f32>>) -> Result<Option<Imatrix>> {
    let Some(values) = all.get(&tensor.name) else {
        return Ok(None);
    };
    let shape = tensor.shape();
    let experts = if shape.rank() == 3 { shape.0[0] } else { 1 };
    if values.len() as u64 != shape.cols().saturating_mul(experts) {
        return Err(Diagnostic::error(format!(
            "the importance matrix has {} values for `{}`, which has {} columns",
            values.len(),
            tensor.name,
            shape.cols()
        ))
        .code("imatrix-shape")
        .help("make the importance matrix from this model")
        .into());
    }
    Ok(Some(Imatrix(Arc::from(values.as_slice()))))
}

fn requantized(name: &str, from: TensorType, to: TensorType) -> Diagnostic {
    Diagnostic::error(format!("`{name}` is {from} already; making it {to} would round it a second time"))
        .code("requantize")
        .help("build from the original F32, F16 or BF16 weights")
        .help("or accept the loss of quality with `--allow-requantize`")
}

fn matches_nothing(rule: &TensorTypeRule, names: &[String]) -> Diagnostic {
    let pattern = rule.pattern.as_str();
    let d = Diagnostic::error(format!(
        "`--tensor-type {pattern}={}` matches no tensor whose type can be chosen",
        rule.dtype
    ))
    .code("tensor-type");
    match names.iter().min_by_key(|n| strsim::levenshtein(n, pattern)) {
        Some(near) => {
            d.help(format!("the nearest name is `{near}`; `mdl build --emit plan` prints them all"))
        }
        None => d,
    }
}

fn unused_imatrix(quantized: usize) -> Diagnostic {
    let d = Diagnostic::error("the importance matrix is used for no tensor").code("imatrix-unused");
    match quantized {
        0 => d.help("nothing is quantized; choose a type with `-q`"),
        _ => d.help("it names none of the model's tensors: make it from this model"),
    }
}

fn report(context: &Context<'_>, narrowed: &BTreeMap<(TensorType, TensorType), usize>, unweighted: usize) {
    if !narrowed.is_empty() {
        let total: usize = narrowed.values().sum();
        let list: Vec<String> =
            narrowed.iter().map(|((from, to), n)| format!("{n} as {to} instead of {from}")).collect();
        context.note(
            Diagnostic::warning(format!(
                "the rows of {total} tensors are no whole blocks of their type: {}",
                list.join(", ")
            ))
            .code("width-fallback"),
        );
    }
    if unweighted > 0 {
        context.note(
            Diagnostic::warning(format!("the importance matrix says nothing of {unweighted} tensors"))
                .code("imatrix-missing"),
        );
    }
}

/// `general.file_type` of a build without a preset: the one whose base most matrices have.
fn most_common_file_type(module: &Module) -> u32 {
    let mut counts: BTreeMap<TensorType, u64> = BTreeMap::new();
    for tensor in module.tensors.iter().filter(|t| t.shape().rank() >= 2) {
        *counts.entry(tensor.expr.dtype()).or_default() += tensor.shape().len();
    }
    let common = counts.into_iter().max_by_key(|(_, n)| *n).map(|(t, _)| t);
    let base = |p: &&Preset| Some(p.base) == common;
    mixture::PRESETS.iter().find(base).map_or(0, |p| p.file_type)
}
