//! Llama: RMS norm before attention and feed-forward, rotary positions in interleaved pairs,
//! grouped queries, SiLU-gated feed-forward.
//!
//! Sources: Touvron et al. 2023 (arXiv 2302.13971); Llama 3.1's RoPE scaling as published with its
//! reference code. GGUF stores the rows of q and k interleaved, checkpoints in two halves.

use super::spec::{
    Activation, Attention, DecoderSpec, FeedForward, Norm, NormKind, NormPlacement, Rope, RopeKind,
    RopeScaling, Window,
};
use super::{Dim, Family, Imported, Presence, Rows, TensorRule};
use crate::diagnostic::{Diagnostic, Result};
use crate::formats::hf_config::Config;
use crate::ir::Metadata;

/// The family.
pub(super) const LLAMA: Family = Family {
    architecture: "llama",
    checkpoints: &["LlamaForCausalLM"],
    tensors: TENSORS,
    ignored: &["model.layers.{}.self_attn.rotary_emb.inv_freq"],
    derived: &["rope_freqs.weight"],
    import,
    spec,
};

const fn rule(
    checkpoint: &'static str,
    gguf: &'static str,
    shape: &'static [Dim],
    rows: Rows,
    presence: Presence,
) -> TensorRule {
    TensorRule { checkpoint, gguf, shape, rows, presence }
}

use Dim::*;
use Presence::*;
use Rows::*;

#[rustfmt::skip]
const TENSORS: &[TensorRule] = &[
    rule("model.embed_tokens.weight", "token_embd.weight", &[Vocabulary, Embedding], AsTheyAre, Required),
    rule("model.norm.weight", "output_norm.weight", &[Embedding], AsTheyAre, Required),
    rule("lm_head.weight", "output.weight", &[Vocabulary, Embedding], AsTheyAre, Untied),
    rule("model.layers.{}.input_layernorm.weight", "blk.{}.attn_norm.weight", &[Embedding], AsTheyAre, Required),
    rule("model.layers.{}.self_attn.q_proj.weight", "blk.{}.attn_q.weight", &[Queries, Embedding], RopeQueries, Required),
    rule("model.layers.{}.self_attn.k_proj.weight", "blk.{}.attn_k.weight", &[Keys, Embedding], RopeKeys, Required),
    rule("model.layers.{}.self_attn.v_proj.weight", "blk.{}.attn_v.weight", &[Values, Embedding], AsTheyAre, Required),
    rule("model.layers.{}.self_attn.o_proj.weight", "blk.{}.attn_output.weight", &[Embedding, Attended], AsTheyAre, Required),
    rule("model.layers.{}.self_attn.q_proj.bias", "blk.{}.attn_q.bias", &[Queries], RopeQueries, Optional),
    rule("model.layers.{}.self_attn.k_proj.bias", "blk.{}.attn_k.bias", &[Keys], RopeKeys, Optional),
    rule("model.layers.{}.self_attn.v_proj.bias", "blk.{}.attn_v.bias", &[Values], AsTheyAre, Optional),
    rule("model.layers.{}.self_attn.o_proj.bias", "blk.{}.attn_output.bias", &[Embedding], AsTheyAre, Optional),
    rule("model.layers.{}.post_attention_layernorm.weight", "blk.{}.ffn_norm.weight", &[Embedding], AsTheyAre, Required),
    rule("model.layers.{}.mlp.gate_proj.weight", "blk.{}.ffn_gate.weight", &[FeedForward, Embedding], AsTheyAre, Required),
    rule("model.layers.{}.mlp.up_proj.weight", "blk.{}.ffn_up.weight", &[FeedForward, Embedding], AsTheyAre, Required),
    rule("model.layers.{}.mlp.down_proj.weight", "blk.{}.ffn_down.weight", &[Embedding, FeedForward], AsTheyAre, Required),
    rule("model.layers.{}.mlp.gate_proj.bias", "blk.{}.ffn_gate.bias", &[FeedForward], AsTheyAre, Optional),
    rule("model.layers.{}.mlp.up_proj.bias", "blk.{}.ffn_up.bias", &[FeedForward], AsTheyAre, Optional),
    rule("model.layers.{}.mlp.down_proj.bias", "blk.{}.ffn_down.bias", &[Embedding], AsTheyAre, Optional),
];

/// RoPE's base frequency where a checkpoint does not say it.
const DEFAULT_FREQ_BASE: f64 = 10_000.0;

/// Values of a head, at most; known models have 64 to 512.
const MAX_HEAD_DIM: u64 = 1 << 16;

/// What changes nothing in the arithmetic of a forward pass.
const WITHOUT_EFFECT: &[&str] = &[
    "architectures",
    "model_type",
    "torch_dtype",
    "dtype",
    "transformers_version",
    "use_cache",
    "initializer_range",
    "attention_dropout",
    "pretraining_tp",
    "bos_token_id",
    "eos_token_id",
    "pad_token_id",
    "_name_or_path",
    "is_llama_config",
    "rope_interleaved",
    "_attn_implementation_autoset",
    "output_attentions",
    "output_hidden_states",
    "return_dict",
    "transformers.js_config",
    "unsloth_version",
    "unsloth_fixed",
    "mlp_dropout",
    "resid_pdrop",
];

fn import(config: &Config) -> Result<Imported> {
    for key in WITHOUT_EFFECT {
        config.ignore(*key);
    }
    config.require("hidden_act", &["silu".into(), "swish".into()])?;
    config.require("rope_interleaved", &[false.into()])?;
    config.require("partial_rotary_factor", &[1.0.into()])?;
    // The biases themselves say whether they are there; the verifier knows their shapes.
    config.ignore(["attention_bias", "mlp_bias"]);

    let embedding = config.size(["hidden_size", "n_embd"])?;
    let heads = config.size(["num_attention_heads", "n_head"])?;
    let kv_heads = config.optional_size("num_key_value_heads")?.unwrap_or(heads);
    let head_dim = match config.optional_size("head_dim")? {
        Some(dim) => dim,
        None if embedding.is_multiple_of(heads) => embedding / heads,
        None => {
            return Err(config
                .error("num_attention_heads", format!("{heads} does not divide hidden_size"))
                .into());
        }
    };
    // A vector as long is made for the scaling of positions before any tensor's shape is looked at.
    if head_dim > MAX_HEAD_DIM {
        return Err(config.error("head_dim", format!("{head_dim} is more than {MAX_HEAD_DIM}")).into());
    }
    if !head_dim.is_multiple_of(2) {
        return Err(config
            .error("head_dim", format!("{head_dim} is odd; rotary positions need pairs"))
            .into());
    }
    if !heads.is_multiple_of(kv_heads) {
        let message = format!("{kv_heads} does not divide the {heads} attention heads");
        return Err(config.error("num_key_value_heads", message).into());
    }
    let epsilon = config.f32("rms_norm_eps")?;
    if epsilon < 0.0 {
        return Err(config.error("rms_norm_eps", "must not be negative").into());
    }

    let mut metadata = Metadata::default();
    let number = |value: u64, key: &str| -> Result<u32> {
        let wide = |_| config.error(key, format!("{value} does not fit in 32 bits")).into();
        u32::try_from(value).map_err(wide)
    };
    metadata.set(
        "llama.block_count",
        number(config.size(["num_hidden_layers", "n_layers", "n_layer"])?, "num_hidden_layers")?,
    );
    metadata.set(
        "llama.context_length",
        number(config.size(["max_position_embeddings", "n_ctx"])?, "max_position_embeddings")?,
    );
    metadata.set("llama.embedding_length", number(embedding, "hidden_size")?);
    metadata.set(
        "llama.feed_forward_length",
        number(config.size(["intermediate_size", "n_inner"])?, "intermediate_size")?,
    );
    metadata.set("llama.attention.head_count", number(heads, "num_attention_heads")?);
    metadata.set("llama.attention.head_count_kv", number(kv_heads, "num_key_value_heads")?);
    metadata.set("llama.attention.key_length", number(head_dim, "head_dim")?);
    metadata.set("llama.attention.value_length", number(head_dim, "head_dim")?);
    metadata.set("llama.attention.layer_norm_rms_epsilon", epsilon);
    metadata.set("llama.rope.dimension_count", number(head_dim, "head_dim")?);
    let freq_base = config.optional_rope_theta()?;
    metadata.set("llama.rope.freq_base", freq_base.unwrap_or(DEFAULT_FREQ_BASE as f32));
    metadata.set("llama.vocab_size", number(config.size("vocab_size")?, "vocab_size")?);
    let derived = rope_scaling(
        config,
        f64::from(freq_base.unwrap_or(DEFAULT_FREQ_BASE as f32)),
        head_dim,
        &mut metadata,
    )?;
    let tied = config.optional_bool("tie_word_embeddings")?.unwrap_or(false);
    Ok(Imported { metadata, derived, tied })
}

/// Reads how positions are stretched: not at all, all frequencies alike (`linear`), or each by a
/// factor of its own (`llama3`), which GGUF stores as a tensor.
fn rope_scaling(
    config: &Config,
    freq_base: f64,
    head_dim: u64,
    metadata: &mut Metadata,
) -> Result<Vec<(&'static str, Vec<f32>)>> {
    let Some(scaling) = config.rope_scaling()? else { return Ok(Vec::new()) };
    scaling.ignore("rope_theta");
    let kind = scaling.optional_one_of(["rope_type", "type"], &["default", "linear", "llama3"])?;
    let derived = match kind.unwrap_or("default") {
        "linear" => {
            metadata.set("llama.rope.scaling.type", "linear");
            metadata.set("llama.rope.scaling.factor", positive(&scaling, "factor")? as f32);
            Vec::new()
        }
        "llama3" => {
            let factors = Llama3 {
                factor: positive(&scaling, "factor")?,
                low: positive(&scaling, "low_freq_factor")?,
                high: positive(&scaling, "high_freq_factor")?,
                context: scaling.size("original_max_position_embeddings")? as f64,
            };
            if factors.high <= factors.low {
                return Err(scaling.error("high_freq_factor", "must be more than low_freq_factor").into());
            }
            vec![("rope_freqs.weight", factors.divisors(freq_base, head_dim))]
        }
        _ => Vec::new(),
    };
    match scaling.unread().first() {
        Some(key) => Err(scaling.error(key, "this setting of RoPE scaling is not supported").into()),
        None => Ok(derived),
    }
}

fn positive(config: &Config, key: &str) -> Result<f64> {
    let value = config.f32(key)?;
    if value > 0.0 { Ok(f64::from(value)) } else { Err(config.error(key, "must be more than 0").into()) }
}

/// Llama 3.1's scaling: short wavelengths stay, long ones are stretched by `factor`, those between
/// are blended.
struct Llama3 {
    factor: f64,
    low: f64,
    high: f64,
    context: f64,
}

impl Llama3 {
    /// What each of the `head_dim / 2` frequencies is divided by.
    fn divisors(&self, freq_base: f64, head_dim: u64) -> Vec<f32> {
        let divisor = |i: u64| {
            // libm, not std: the bytes of the tensor must not depend on the machine.
            let wavelength = std::f64::consts::TAU * libm::pow(freq_base, i as f64 / head_dim as f64);
            if wavelength < self.context / self.high {
                1.0
            } else if wavelength > self.context / self.low {
                self.factor
            } else {
                let smooth = (self.context / wavelength - self.low) / (self.high - self.low);
                1.0 / ((1.0 - smooth) / self.factor + smooth)
            }
        };
        (0..head_dim).step_by(2).map(|i| divisor(i) as f32).collect()
    }
}

fn spec(metadata: &Metadata, has: &dyn Fn(&str) -> bool) -> Result<DecoderSpec> {
    let optional = |key: &str| metadata.u64(&format!("llama.{key}")).and_then(|v| usize::try_from(v).ok());
    let number = |key: &str| -> Result<usize> { optional(key).ok_or_else(|| missing(key).into()) };
    let embedding_length = number("embedding_length")?;
    let block_count = number("block_count")?;
    let head_count = number("attention.head_count")?;
    let head_count_kv = optional("attention.head_count_kv").unwrap_or(head_count);
    let per_head = embedding_length.checked_div(head_count).unwrap_or(0);
    let key_length = optional("attention.key_length").unwrap_or(per_head);
    let tokens = metadata.array("tokenizer.ggml.tokens").map(|t| t.len());
    if optional("expert_count").is_some_and(|n| n > 0) {
        return Err(Diagnostic::error("key `llama.expert_count`: mixtures of experts are not supported yet")
            .code("unsupported")
            .into());
    }
    let window = optional("attention.sliding_window").filter(|size| *size > 0);
    Ok(DecoderSpec {
        architecture: "llama".to_owned(),
        block_count,
        embedding_length,
        vocab_size: tokens.or(optional("vocab_size")).ok_or_else(|| missing("vocab_size"))?,
        context_length: number("context_length")?,
        embedding_scale: 1.0,
        residual_scale: 1.0,
        tied_embeddings: !has("output.weight"),
        norm: Norm {
            kind: NormKind::Rms,
            epsilon: metadata
                .f32("llama.attention.layer_norm_rms_epsilon")
                .ok_or_else(|| missing("attention.layer_norm_rms_epsilon"))?,
            placement: NormPlacement::Pre,
        },
        rope: Rope {
            kind: RopeKind::Norm,
            dims: optional("rope.dimension_count").unwrap_or(key_length),
            freq_base: metadata.f32("llama.rope.freq_base").unwrap_or(DEFAULT_FREQ_BASE as f32),
            scaling: scaling(metadata, has)?,
        },
        attention: Attention {
            head_count,
            head_count_kv,
            key_length,
            value_length: optional("attention.value_length").unwrap_or(per_head),
            scale: 1.0 / (key_length as f32).sqrt(),
            qkv_bias: has("blk.0.attn_q.bias"),
            output_bias: has("blk.0.attn_output.bias"),
            qk_norm: false,
            soft_cap: None,
            window: window.map(|size| Window { size, blocks: vec![true; block_count.min(1 << 20)] }),
        },
        feed_forward: FeedForward {
            length: number("feed_forward_length")?,
            activation: Activation::Silu,
            gated: true,
            bias: has("blk.0.ffn_gate.bias"),
            experts: None,
        },
        logit_scale: 1.0,
        logit_soft_cap: None,
    })
}

fn scaling(metadata: &Metadata, has: &dyn Fn(&str) -> bool) -> Result<RopeScaling> {
    if has("rope_freqs.weight") {
        return Ok(RopeScaling::Factors);
    }
    match metadata.str("llama.rope.scaling.type").unwrap_or("none") {
        "none" => Ok(RopeScaling::None),
        "linear" => {
            let factor = metadata.f32("llama.rope.scaling.factor");
            Ok(RopeScaling::Linear { factor: factor.ok_or_else(|| missing("rope.scaling.factor"))? })
        }
        other => Err(Diagnostic::error(format!("key `llama.rope.scaling.type`: `{other}` is not supported"))
            .code("unsupported")
            .into()),
    }
}

fn missing(key: &str) -> Diagnostic {
    Diagnostic::error(format!("key `llama.{key}` is missing or no number of its type")).code("invalid-model")
}
