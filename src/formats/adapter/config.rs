//! `adapter_config.json`, of PEFT and of MLX.

use regex::{Regex, RegexBuilder};
use serde_json::{Value, json};

use super::super::hf_config::Config;
use super::super::limits;
use super::super::quote::quoted;
use super::AdapterKind;
use crate::diagnostic::Result;

/// What a PEFT setting would change, and the values with which it changes nothing. A setting that
/// is absent or `null` is off.
struct Unsupported {
    key: &'static str,
    off: fn(&Value) -> bool,
    why: &'static str,
}

#[rustfmt::skip]
const UNSUPPORTED: &[Unsupported] = &[
    Unsupported { key: "lora_bias", off: is_false, why: "a bias of the adapter's own is not fused" },
    Unsupported { key: "use_qalora", off: is_false, why: "QA-LoRA pools its input" },
    Unsupported { key: "use_bdlora", off: is_false, why: "BD-LoRA's factors are block-diagonal" },
    Unsupported { key: "kasa_config", off: is_empty, why: "KaSA truncates the base's weights and has singular values of its own" },
    Unsupported { key: "monteclora_config", off: is_empty, why: "MonteCLoRA samples its weights" },
    Unsupported { key: "arrow_config", off: is_empty, why: "Arrow chooses adapters token by token; it cannot be fused" },
    Unsupported { key: "layer_replication", off: is_empty, why: "layers of the base are duplicated" },
    Unsupported { key: "trainable_token_indices", off: is_empty, why: "rows of the embedding are replaced" },
    Unsupported { key: "target_parameters", off: is_empty, why: "parameters other than linear layers are adapted" },
    Unsupported { key: "alora_invocation_tokens", off: is_empty, why: "an activated LoRA acts from some token on; it cannot be fused" },
    Unsupported {
        key: "init_lora_weights",
        off: leaves_the_base,
        why: "this initialisation changes the base model's weights, too; convert the adapter to a plain LoRA",
    },
];

/// What other methods than LoRA do, by `peft_type`.
#[rustfmt::skip]
const OTHER_METHODS: &[(&str, &str)] = &[
    ("ADALORA", "AdaLoRA has singular values between its factors"),
    ("LOHA", "LoHa multiplies two low-rank products element by element"),
    ("LOKR", "LoKr is a Kronecker product"),
    ("IA3", "IA3 scales activations"),
    ("OFT", "OFT rotates the weights"),
    ("BOFT", "BOFT rotates the weights"),
    ("VERA", "VeRA's factors are random and shared"),
    ("PROMPT_TUNING", "prompt tuning learns inputs, not weights"),
    ("P_TUNING", "p-tuning learns inputs, not weights"),
    ("PREFIX_TUNING", "prefix tuning learns a part of the cache, not weights"),
    ("MULTITASK_PROMPT_TUNING", "prompt tuning learns inputs, not weights"),
    ("ADAPTION_PROMPT", "adaption prompts are a part of the attention"),
    ("TRAINABLE_TOKENS", "rows of the embedding are replaced"),
    ("LN_TUNING", "layer norms are trained, and saved with the base"),
];

fn is_false(value: &Value) -> bool {
    value == &Value::Bool(false)
}

fn is_empty(value: &Value) -> bool {
    match value {
        Value::Array(list) => list.is_empty(),
        Value::Object(map) => map.is_empty(),
        _ => false,
    }
}

fn leaves_the_base(value: &Value) -> bool {
    value.is_boolean() || ["gaussian", "eva", "orthogonal"].iter().any(|name| value == name)
}

/// A number for the modules whose names match.
struct Override {
    pattern: Regex,
    value: f64,
}

/// Which biases of the base an adapter trains.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Biases {
    None,
    All,
    /// Those of the modules that have factors.
    Adapted,
}

/// Which modules an adapter was made for.
enum Targets {
    /// A regular expression for whole names.
    Pattern(Regex),
    /// Whole names, or their ends after a dot.
    Names(Vec<String>),
}

/// What `adapter_config.json` says.
pub(super) struct AdapterConfig {
    pub kind: AdapterKind,
    pub base_model: Option<String>,
    /// The output matrix follows the embeddings where the base ties them.
    pub keeps_tied: bool,
    /// Magnitudes go with the factors.
    pub dora: bool,
    /// MLX's `full`: every tensor is a weight of the model.
    pub full: bool,
    rank: u64,
    /// PEFT: alpha; MLX: the scale itself.
    alpha: f64,
    use_rslora: bool,
    rank_pattern: Vec<Override>,
    alpha_pattern: Vec<Override>,
    biases: Biases,
    modules_to_save: Vec<String>,
    targets: Option<Targets>,
}

/// Modules that PEFT saves whole without being asked to, where the vocabulary grew or the
/// embedding is adapted. (`EMBEDDING_LAYER_NAMES` of PEFT.)
const EMBEDDINGS: &[&str] = &["embed_tokens", "lm_head"];

impl AdapterConfig {
    pub fn read(config: &Config) -> Result<AdapterConfig> {
        if config.has("peft_type") || config.has("lora_alpha") {
            read_peft(config)
        } else if config.has("lora_parameters") || config.has("fine_tune_type") {
            read_mlx(config)
        } else {
            Err(config
                .error("peft_type", "neither a PEFT adapter (`peft_type`) nor an MLX one (`lora_parameters`)")
                .into())
        }
    }

    /// True when the configuration lets the adapter bring the whole `leaf` (`weight`, `bias`) of `module`.
    pub fn saves(&self, module: &str, leaf: &str) -> bool {
        let named = |name: &str| {
            let ends = |part: &str| part == name || part.strip_suffix(name).is_some_and(|b| b.ends_with('.'));
            // A module that holds others is saved with all that it holds.
            ends(module) || module.match_indices('.').any(|(at, _)| ends(&module[..at]))
        };
        self.full
            || leaf == "bias" && self.biases != Biases::None
            || self.modules_to_save.iter().any(|name| named(name))
            || EMBEDDINGS.contains(&module.rsplit('.').next().unwrap_or(module))
    }

    /// True unless the configuration says that `module` has no adapter.
    pub fn targets(&self, module: &str) -> bool {
        match &self.targets {
            None => true,
            Some(Targets::Pattern(pattern)) => pattern.is_match(module),
            Some(Targets::Names(names)) => names.iter().any(|name| {
                module.strip_suffix(name.as_str()).is_some_and(|b| b.is_empty() || b.ends_with('.'))
            }),
        }
    }

    /// The rank of the adapter of `module`.
    pub fn rank_of(&self, module: &str) -> u64 {
        first_match(&self.rank_pattern, module).map_or(self.rank, |rank| rank as u64)
    }

    /// The factor of the product for `module`.
    pub fn scale_of(&self, module: &str) -> f32 {
        if self.kind == AdapterKind::Mlx {
            return self.alpha as f32;
        }
        let rank = self.rank_of(module) as f64;
        let alpha = first_match(&self.alpha_pattern, module).unwrap_or(self.alpha);
        (alpha / if self.use_rslora { rank.sqrt() } else { rank }) as f32
    }
}

fn first_match(overrides: &[Override], module: &str) -> Option<f64> {
    overrides.iter().find(|o| o.pattern.is_match(module)).map(|o| o.value)
}

fn read_peft(config: &Config) -> Result<AdapterConfig> {
    let method = config.optional_str("peft_type")?.unwrap_or("LORA");
    if let Some((_, why)) = OTHER_METHODS.iter().find(|(name, _)| *name == method) {
        let message = format!("{} is not supported: {why}; only LORA is", quoted(method));
        return Err(config.error("peft_type", message).code("unsupported-adapter").into());
    }
    config.require("peft_type", &[json!("LORA")])?;
    for Unsupported { key, off, why } in UNSUPPORTED {
        let value = config.members().find(|(name, _)| name == key).map(|(_, value)| value);
        if value.is_some_and(|value| !value.is_null() && !off(value)) {
            return Err(config
                .error(key, format!("not supported: {why}"))
                .code("unsupported-adapter")
                .into());
        }
    }
    let rank = rank(config, "r")?;
    let alpha = scale(config, "lora_alpha")?;
    Ok(AdapterConfig {
        kind: AdapterKind::Peft,
        base_model: config.optional_str("base_model_name_or_path")?.map(str::to_owned),
        rank,
        alpha,
        use_rslora: config.optional_bool("use_rslora")?.unwrap_or(false),
        rank_pattern: pattern(config, "rank_pattern", rank_of)?,
        alpha_pattern: pattern(config, "alpha_pattern", scale)?,
        // In a base with transposed weights the product is transposed, too; GGUF's are not.
        // So `fan_in_fan_out` changes nothing here.
        keeps_tied: config.optional_bool("ensure_weight_tying")?.unwrap_or(false),
        dora: config.optional_bool("use_dora")?.unwrap_or(false),
        full: false,
        biases: match config.optional_one_of("bias", &["none", "all", "lora_only"])? {
            None | Some("none") => Biases::None,
            Some("all") => Biases::All,
            Some(_) => Biases::Adapted,
        },
        modules_to_save: names(config, "modules_to_save")?,
        targets: targets(config)?,
    })
}

fn names(config: &Config, key: &str) -> Result<Vec<String>> {
    let names = config.optional_strs(key)?.unwrap_or_default();
    if names.len() > limits::ADAPTER_PATTERNS {
        return Err(config.error(key, format!("more than {} modules", limits::ADAPTER_PATTERNS)).into());
    }
    Ok(names.into_iter().map(str::to_owned).collect())
}

/// `target_modules`, as far as it tells modules apart.
fn targets(config: &Config) -> Result<Option<Targets>> {
    const KEY: &str = "target_modules";
    let one = config.members().find(|(key, _)| *key == KEY).and_then(|(_, value)| value.as_str());
    Ok(match one {
        Some("all-linear") => None,
        // A pattern only Python understands tells nothing.
        Some(pattern) => RegexBuilder::new(&format!("^(?:{pattern})$"))
            .size_limit(limits::ADAPTER_PATTERN)
            .build()
            .ok()
            .map(Targets::Pattern),
        None => Some(names(config, KEY)?).filter(|names| !names.is_empty()).map(Targets::Names),
    })
}

fn rank(config: &Config, key: &str) -> Result<u64> {
    let rank = config.size(key)?;
    if rank > limits::ADAPTER_RANK {
        return Err(config
            .error(key, format!("rank {rank}; at most {} is supported", limits::ADAPTER_RANK))
            .into());
    }
    Ok(rank)
}

fn rank_of(config: &Config, key: &str) -> Result<f64> {
    rank(config, key).map(|rank| rank as f64)
}

/// A factor; 0 would make an adapter that does nothing.
fn scale(config: &Config, key: &str) -> Result<f64> {
    let value = config.f32(key)?;
    if value == 0.0 {
        return Err(config.error(key, "must not be 0: the adapter would do nothing").into());
    }
    Ok(value.into())
}

/// `rank_pattern` or `alpha_pattern`. A key is a regular expression that matches a module's whole
/// name, or the end of it after a dot, as PEFT has it; the first that matches counts.
fn pattern(config: &Config, key: &str, number: fn(&Config, &str) -> Result<f64>) -> Result<Vec<Override>> {
    let Some(section) = config.section(key)? else { return Ok(Vec::new()) };
    let mut overrides = Vec::new();
    for (name, _) in section.members() {
        if overrides.len() == limits::ADAPTER_PATTERNS {
            return Err(config.error(key, format!("more than {} patterns", limits::ADAPTER_PATTERNS)).into());
        }
        let pattern = RegexBuilder::new(&format!(r"^(.*\.)?({name})$"))
            .size_limit(limits::ADAPTER_PATTERN)
            .build()
            .map_err(|_| section.error(name, format!("{} is no pattern that is supported", quoted(name))))?;
        overrides.push(Override { pattern, value: number(&section, name)? });
    }
    Ok(overrides)
}

fn read_mlx(config: &Config) -> Result<AdapterConfig> {
    let kind = config.optional_str("fine_tune_type")?.unwrap_or("lora");
    if !["lora", "dora", "full"].contains(&kind) {
        return Err(config
            .error(
                "fine_tune_type",
                format!("not supported: {}; `lora`, `dora` and `full` are", quoted(kind)),
            )
            .code("unsupported-adapter")
            .into());
    }
    let full = kind == "full";
    let (rank, alpha) = if full { (1, 1.0) } else { mlx_parameters(config)? };
    Ok(AdapterConfig {
        kind: AdapterKind::Mlx,
        base_model: config.optional_str("model")?.map(str::to_owned),
        keeps_tied: true,
        dora: kind == "dora" || config.optional_bool("use_dora")?.unwrap_or(false),
        full,
        rank,
        alpha,
        use_rslora: false,
        rank_pattern: Vec::new(),
        alpha_pattern: Vec::new(),
        biases: Biases::None,
        modules_to_save: Vec::new(),
        targets: None,
    })
}

/// The rank and the factor of MLX's products.
fn mlx_parameters(config: &Config) -> Result<(u64, f64)> {
    let Some(parameters) = config.section("lora_parameters")? else {
        return Err(config.error("lora_parameters", "the key is missing").into());
    };
    let rank = rank(&parameters, "rank")?;
    let factor = match (parameters.has("scale"), parameters.has("alpha")) {
        (false, true) => scale(&parameters, "alpha")? / rank as f64,
        (true, true) if scale(&parameters, "alpha")? != rank as f64 => {
            // Early versions scaled by `scale * alpha / rank`, later ones ignore alpha.
            return Err(parameters
                .error("alpha", "ambiguous: versions of MLX differ in what `alpha` beside `scale` means")
                .code("unsupported-adapter")
                .help("remove `alpha` if the adapter was made by a version that ignores it")
                .help("otherwise set `scale` to scale * alpha / rank, and remove `alpha`")
                .into());
        }
        _ => scale(&parameters, "scale")?,
    };
    Ok((rank, factor))
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    fn read(text: &str) -> Result<AdapterConfig> {
        AdapterConfig::read(&Config::parse(Path::new("adapter_config.json"), text.as_bytes())?)
    }

    #[test]
    fn patterns_match_whole_names_or_their_ends() {
        let config = read(
            r#"{"peft_type": "LORA", "r": 8, "lora_alpha": 16,
                "rank_pattern": {"model.layers.0.self_attn.q_proj": 2, "q_proj": 4, "^model.layers.1.mlp.(up|gate)_proj": 32},
                "alpha_pattern": {"v_proj": 4}}"#,
        )
        .unwrap();
        for (module, rank, scale) in [
            ("model.layers.0.self_attn.q_proj", 2, 8.0),
            ("model.layers.1.self_attn.q_proj", 4, 4.0),
            ("model.layers.1.self_attn.my_q_proj", 8, 2.0),
            ("model.layers.1.mlp.gate_proj", 32, 0.5),
            ("model.layers.1.self_attn.v_proj", 8, 0.5),
        ] {
            assert_eq!((config.rank_of(module), config.scale_of(module)), (rank, scale), "{module}");
        }
    }

    #[test]
    fn a_pattern_cannot_take_much_memory() {
        let big = r#"{"peft_type": "LORA", "r": 8, "lora_alpha": 16, "rank_pattern": {"(\w{100}){100}": 2}}"#;
        assert!(read(big).is_err());
    }

    #[test]
    fn rslora_divides_by_the_root_of_the_rank() {
        let config = read(r#"{"peft_type": "LORA", "r": 16, "lora_alpha": 8, "use_rslora": true}"#).unwrap();
        assert_eq!(config.scale_of("q_proj"), 2.0);
    }

    #[test]
    fn the_scale_of_mlx_is_used_as_it_is() {
        let scale = |parameters: &str| {
            read(&format!(r#"{{"fine_tune_type": "lora", "lora_parameters": {parameters}}}"#))
                .map(|config| config.scale_of("q_proj"))
        };
        assert_eq!(scale(r#"{"rank": 8, "scale": 20.0, "dropout": 0.0}"#), Ok(20.0));
        assert_eq!(scale(r#"{"rank": 8, "alpha": 16}"#), Ok(2.0));
        assert_eq!(scale(r#"{"rank": 8, "alpha": 8, "scale": 10}"#), Ok(10.0));
        assert!(scale(r#"{"rank": 8, "alpha": 16, "scale": 10}"#).is_err());
        assert!(scale(r#"{"rank": 8, "scale": 0}"#).is_err());
        assert!(scale(r#"{"rank": 8}"#).is_err());
    }
}
