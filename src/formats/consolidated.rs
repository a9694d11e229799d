//! The layout in which Mistral and Meta publish weights besides Hugging Face's: the files
//! `consolidated*.safetensors` or `consolidated.00.pth`, with `params.json`.
//!
//! Names and settings are tables here: what each is called in the Hugging Face layout, which is
//! what families know. Rows of q and k lie interleaved, as in GGUF, and not in two halves.
//! Sources: the reference code of both (`mistral-inference`, `llama-models`), and Transformers'
//! conversions from their layouts.

use std::path::Path;

use serde_json::{Map, Value};

use super::hf_config::Config;
use super::quote::quoted;
use crate::diagnostic::{Diagnostic, Result};

/// The tensor that every checkpoint of this layout has, and none of Hugging Face's.
pub const MARK: &str = "tok_embeddings.weight";

/// What the rows of a matrix are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rows {
    /// The same in both layouts.
    Same,
    /// Heads of queries: interleaved here.
    Queries,
    /// Heads of keys: interleaved here.
    Keys,
}

/// Names here and in the Hugging Face layout; `{}` stands for a number.
#[rustfmt::skip]
const NAMES: &[(&str, &str, Rows)] = {
    use Rows::*;
    &[
        ("tok_embeddings", "model.embed_tokens", Same),
        ("norm", "model.norm", Same),
        ("output", "lm_head", Same),
        ("layers.{}.attention_norm", "model.layers.{}.input_layernorm", Same),
        ("layers.{}.ffn_norm", "model.layers.{}.post_attention_layernorm", Same),
        ("layers.{}.attention.wq", "model.layers.{}.self_attn.q_proj", Queries),
        ("layers.{}.attention.wk", "model.layers.{}.self_attn.k_proj", Keys),
        ("layers.{}.attention.wv", "model.layers.{}.self_attn.v_proj", Same),
        ("layers.{}.attention.wo", "model.layers.{}.self_attn.o_proj", Same),
        ("layers.{}.feed_forward.w1", "model.layers.{}.mlp.gate_proj", Same),
        ("layers.{}.feed_forward.w2", "model.layers.{}.mlp.down_proj", Same),
        ("layers.{}.feed_forward.w3", "model.layers.{}.mlp.up_proj", Same),
        ("layers.{}.feed_forward.gate", "model.layers.{}.block_sparse_moe.gate", Same),
        ("layers.{}.feed_forward.experts.{}.w1", "model.layers.{}.block_sparse_moe.experts.{}.w1", Same),
        ("layers.{}.feed_forward.experts.{}.w2", "model.layers.{}.block_sparse_moe.experts.{}.w2", Same),
        ("layers.{}.feed_forward.experts.{}.w3", "model.layers.{}.block_sparse_moe.experts.{}.w3", Same),
    ]
};

/// What a module holds, here and in the Hugging Face layout.
const PARTS: &[(&str, &str)] = &[
    (".weight", ".weight"),
    (".bias", ".bias"),
    (".qscale_weight", ".weight_scale"),
    (".qscale_act", ".input_scale"),
];

/// Tensors that hold no weights: frequencies that `rope_theta` gives.
pub const IGNORED: &[&str] = &["rope.freqs"];

/// The name that a tensor has in the Hugging Face layout, and what its rows are; `None` where this
/// layout has no such tensor. A scale has one row, whatever its matrix has.
pub fn hf_name(name: &str) -> Option<(String, Rows)> {
    let (stem, part) = PARTS.iter().find_map(|(ours, theirs)| Some((name.strip_suffix(ours)?, *theirs)))?;
    NAMES.iter().find_map(|(pattern, theirs, rows)| {
        let numbers = numbers(pattern, stem)?;
        let mut named = String::new();
        let mut numbers = numbers.into_iter();
        for (i, piece) in theirs.split("{}").enumerate() {
            if i > 0 {
                named += numbers.next()?;
            }
            named += piece;
        }
        let rows = if part.ends_with("_scale") { Rows::Same } else { *rows };
        Some((named + part, rows))
    })
}

/// The numbers that stand in `name` where `pattern` has `{}`; `None` where they differ.
fn numbers<'a>(pattern: &str, name: &'a str) -> Option<Vec<&'a str>> {
    let mut rest = name;
    let mut found = Vec::new();
    for (i, piece) in pattern.split("{}").enumerate() {
        if i > 0 {
            let len = rest.bytes().take_while(u8::is_ascii_digit).count();
            // One spelling for each number, so that two names never become one.
            let number = rest.get(..len).filter(|n| *n == "0" || !n.is_empty() && !n.starts_with('0'))?;
            found.push(number);
            rest = &rest[len..];
        }
        rest = rest.strip_prefix(piece)?;
    }
    rest.is_empty().then_some(found)
}

/// Settings here and in the Hugging Face layout.
const SIZES: &[(&str, &str)] = &[
    ("dim", "hidden_size"),
    ("n_layers", "num_hidden_layers"),
    ("n_heads", "num_attention_heads"),
    ("n_kv_heads", "num_key_value_heads"),
    ("head_dim", "head_dim"),
    ("hidden_dim", "intermediate_size"),
    ("vocab_size", "vocab_size"),
];

/// Settings that change nothing, or nothing here.
const WITHOUT_EFFECT: &[&str] = &["max_batch_size", "model_type", "causal", "quantization"];

/// `config.json` as the Hugging Face layout would have it, of the text of a `params.json` at `path`.
///
/// # Errors
/// A setting is missing, as Meta's files lack some, or is one that is not known.
pub fn config(path: &Path, text: &[u8]) -> Result<Vec<u8>> {
    let params = Config::parse(path, text)?;
    if params.has("multiple_of") {
        let message = "Meta's params.json says neither the context's length nor the feed-forward's";
        return Err(beside(params.error("multiple_of", message)).into());
    }
    let mut config = Map::new();
    let mut set = |key: &str, value: Value| config.insert(key.to_owned(), value);
    let experts = params.section("moe")?;
    let (architecture, model_type) = match experts {
        Some(_) => ("MixtralForCausalLM", "mixtral"),
        None => ("MistralForCausalLM", "mistral"),
    };
    set("architectures", vec![architecture].into());
    set("model_type", model_type.into());
    set("hidden_act", "silu".into());
    for (ours, theirs) in SIZES {
        set(theirs, params.size(*ours)?.into());
    }
    let epsilon = params.f32("norm_eps")?;
    set("rms_norm_eps", shortest(epsilon));
    set("rope_theta", shortest(params.optional_f32("rope_theta")?.unwrap_or(10_000.0)));
    match params.optional_size(["max_position_embeddings", "max_seq_len"])? {
        Some(length) => set("max_position_embeddings", length.into()),
        None => {
            let message = "the key is missing: params.json does not say the context's length";
            return Err(beside(params.error("max_position_embeddings", message)).into());
        }
    };
    set("tie_word_embeddings", params.optional_bool("tied_embeddings")?.unwrap_or(false).into());
    set("sliding_window", params.optional_size("sliding_window")?.map_or(Value::Null, Value::from));
    if let Some(experts) = experts {
        set("num_local_experts", experts.size("num_experts")?.into());
        set("num_experts_per_tok", experts.size("num_experts_per_tok")?.into());
        if let Some(key) = experts.unread().first() {
            return Err(unknown(&experts, key));
        }
    }
    if let Some(quantization) = params.section("quantization")? {
        quantization.one_of("qformat_weight", &["fp8_e4m3"])?;
        set("quantization_config", serde_json::json!({"quant_method": "fp8"}));
    }
    params.ignore(WITHOUT_EFFECT);
    match params.unread().first() {
        Some(key) => Err(unknown(&params, key)),
        None => serde_json::to_vec_pretty(&Value::Object(config))
            .map_err(|e| Diagnostic::error(format!("cannot write the configuration: {e}")).into()),
    }
}

/// A number that is read as float32, with the digits that a person would write.
fn shortest(value: f32) -> Value {
    value.to_string().parse::<f64>().map_or(Value::Null, Value::from)
}

fn unknown(params: &Config, key: &str) -> crate::diagnostic::Errors {
    let message = format!("the setting {} of this layout is not supported", quoted(key));
    beside(params.error(key, message)).into()
}

fn beside(error: Diagnostic) -> Diagnostic {
    error
        .help("put the model's config.json of the Hugging Face layout beside the weights; it is read instead")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_translated() {
        let name = |name: &str| hf_name(name).map(|(name, rows)| format!("{name} {rows:?}"));
        let translated = |ours: &str, theirs: &str| assert_eq!(name(ours).as_deref(), Some(theirs));
        translated("tok_embeddings.weight", "model.embed_tokens.weight Same");
        translated("layers.12.attention.wq.weight", "model.layers.12.self_attn.q_proj.weight Queries");
        translated("layers.0.attention.wk.bias", "model.layers.0.self_attn.k_proj.bias Keys");
        translated(
            "layers.0.attention.wk.qscale_weight",
            "model.layers.0.self_attn.k_proj.weight_scale Same",
        );
        translated(
            "layers.3.feed_forward.experts.7.w2.weight",
            "model.layers.3.block_sparse_moe.experts.7.w2.weight Same",
        );
        for other in ["model.norm.weight", "layers.01.ffn_norm.weight", "layers..ffn_norm.weight", "norm"] {
            assert_eq!(name(other), None, "{other}");
        }
    }

    #[test]
    fn settings_are_translated() {
        let mistral = br#"{"dim": 4096, "n_layers": 32, "head_dim": 128, "hidden_dim": 14336, "n_heads": 32,
            "n_kv_heads": 8, "norm_eps": 1e-05, "vocab_size": 32768, "rope_theta": 1000000.0,
            "max_seq_len": 32768, "quantization": {"qformat_weight": "fp8_e4m3", "qscheme_act": "TENSOR"}}"#;
        let written = config(Path::new("params.json"), mistral).unwrap();
        insta::with_settings!({
            snapshot_path => concat!(env!("CARGO_MANIFEST_DIR"), "/snapshots"),
            prepend_module_to_snapshot => false,
            omit_expression => true,
        }, { insta::assert_snapshot!("formats_consolidated_config", String::from_utf8(written).unwrap()) });
    }

    #[test]
    fn what_is_missing_or_unknown_is_named() {
        let base = r#""dim": 8, "n_layers": 1, "head_dim": 4, "hidden_dim": 8, "n_heads": 2, "n_kv_heads": 1,
            "norm_eps": 1e-05, "vocab_size": 9"#;
        let fails = |more: &str| {
            let text = format!("{{{base}{more}}}");
            config(Path::new("params.json"), text.as_bytes()).unwrap_err().to_string()
        };
        assert!(fails("").contains("context's length"));
        assert!(fails(r#", "max_seq_len": 8, "yarn": {}"#).contains("`yarn`"));
        assert!(fails(r#", "max_seq_len": 8, "vision_encoder": {"a": 1}"#).contains("`vision_encoder`"));
        assert!(fails(r#", "multiple_of": 256"#).contains("Meta"));
        let moe = r#", "max_seq_len": 8, "moe": {"num_experts": 8, "num_experts_per_tok": 2, "x": 1}"#;
        assert!(fails(moe).contains("`x`"));
    }
}
