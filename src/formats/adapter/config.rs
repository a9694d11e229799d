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

const UNSUPPORTED: &[Unsupported] = &[
    Unsupported {
        key: "use_dora",
        off: is_false,
        why: "DoRA rescales the weights besides the low-rank product",
    },
    Unsupported { key: "bias", off: is_none, why: "trained biases are not fused" },
    Unsupported { key: "lora_bias", off: is_false, why: "a bias of the adapter's own is not fused" },
    Unsupported { key: "modules_to_save", off: is_empty, why: "whole modules are replaced, not adapted" },
    Unsupported { key: "fan_in_fan_out", off: is_false, why: "the base stores its weights transposed" },
    Unsupported { key: "use_qalora", off: is_false, why: "QA-LoRA pools its input" },
    Unsupported { key: "layer_replication", off: is_empty, why: "layers of the base are duplicated" },
    Unsupported { key: "trainable_token_indices", off: is_empty, why: "rows of the embedding are replaced" },
    Unsupported {
        key: "target_parameters",
        off: is_empty,
        why: "parameters other than linear layers are adapted",
    },
    Unsupported {
        key: "alora_invocation_tokens",
        off: is_empty,
        why: "an activated LoRA acts from some token on; it cannot be fused",
    },
    Unsupported {
        key: "init_lora_weights",
        off: leaves_the_base,
        why: "this initialisation changes the base model's weights, too; convert the adapter to a plain LoRA",
    },
];

fn is_false(value: &Value) -> bool {
    value == &Value::Bool(false)
}

fn is_none(value: &Value) -> bool {
    value == "none"
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

/// What `adapter_config.json` says.
pub(super) struct AdapterConfig {
    pub kind: AdapterKind,
    pub base_model: Option<String>,
    rank: u64,
    /// PEFT: alpha; MLX: the scale itself.
    alpha: f64,
    use_rslora: bool,
    rank_pattern: Vec<Override>,
    alpha_pattern: Vec<Override>,
}

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
    if let Some(kind) = config.optional_str("fine_tune_type")?.filter(|kind| *kind != "lora") {
        return Err(config
            .error("fine_tune_type", format!("not supported: {}; only `lora` is", quoted(kind)))
            .code("unsupported-adapter")
            .into());
    }
    config.require("use_dora", &[json!(false)])?;
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
    Ok(AdapterConfig {
        kind: AdapterKind::Mlx,
        base_model: config.optional_str("model")?.map(str::to_owned),
        rank,
        alpha: factor,
        use_rslora: false,
        rank_pattern: Vec::new(),
        alpha_pattern: Vec::new(),
    })
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
