//! Qwen 3: a norm of each head of q and k instead of biases; dense, or with experts. Qwen3-Embedding is the dense one.
//!
//! Source: Yang et al. 2025 (arXiv 2505.09388) and the models' reference code.

use super::qwen2;
use super::read::Reader;
use super::rules::{ATTENTION, FEED_FORWARD, FREQUENCIES, HEAD_NORMS, MODEL, PRE_NORMS, rule};
use super::spec::{DecoderSpec, QkNorm};
use super::{Dim, Family, Imported, Make, Presence, TensorRule};
use crate::diagnostic::Result;
use crate::formats::hf_config::Config;
use crate::ir::Metadata;

/// The dense family.
pub(super) const QWEN3: Family = Family {
    architecture: "qwen3",
    checkpoints: &["Qwen3ForCausalLM", "Qwen3Model"],
    tensors: &[MODEL, PRE_NORMS, HEAD_NORMS, ATTENTION, FEED_FORWARD],
    ignored: &[FREQUENCIES],
    derived: &["rope_freqs.weight"],
    pre_tokenizer: Some("qwen2"),
    import,
    spec,
};

/// The family with experts.
pub(super) const QWEN3_MOE: Family = Family {
    architecture: "qwen3moe",
    checkpoints: &["Qwen3MoeForCausalLM"],
    tensors: &[MODEL, PRE_NORMS, HEAD_NORMS, ATTENTION, EXPERTS],
    ignored: &[FREQUENCIES],
    derived: &["rope_freqs.weight"],
    pre_tokenizer: Some("qwen2"),
    import: import_moe,
    spec: moe_spec,
};

use Dim::*;
use Presence::*;

#[rustfmt::skip]
const EXPERTS: &[TensorRule] = &[
    rule("model.layers.{}.mlp.gate.weight", "blk.{}.ffn_gate_inp.weight", &[Experts, Embedding], Required),
    rule("model.layers.{}.mlp.experts.{}.gate_proj.weight", "blk.{}.ffn_gate_exps.weight", &[Experts, ExpertFeedForward, Embedding], Required).make(Make::Stack),
    rule("model.layers.{}.mlp.experts.{}.up_proj.weight", "blk.{}.ffn_up_exps.weight", &[Experts, ExpertFeedForward, Embedding], Required).make(Make::Stack),
    rule("model.layers.{}.mlp.experts.{}.down_proj.weight", "blk.{}.ffn_down_exps.weight", &[Experts, Embedding, ExpertFeedForward], Required).make(Make::Stack),
];

fn import(config: &Config) -> Result<Imported> {
    Ok(qwen2::read("qwen3", config)?.finish())
}

fn import_moe(config: &Config) -> Result<Imported> {
    let mut hparams = qwen2::read("qwen3moe", config)?;
    let count = config.size(["num_experts", "num_local_experts"])?;
    hparams.size("expert_count", count, "num_experts")?;
    hparams.copy_size("expert_used_count", "num_experts_per_tok")?;
    hparams.copy_size("expert_feed_forward_length", "moe_intermediate_size")?;
    // Every block has experts, and their weights are made to add up to 1.
    config.require("norm_topk_prob", &[true.into()])?;
    config.require("decoder_sparse_step", &[1.into()])?;
    config.require("mlp_only_layers", &[serde_json::json!([])])?;
    Ok(hparams.finish())
}

fn spec(metadata: &Metadata, has: &dyn Fn(&str) -> bool) -> Result<DecoderSpec> {
    let mut spec = Reader::new("qwen3", metadata, has).spec()?;
    spec.attention.qk_norm = Some(QkNorm::Head);
    Ok(spec)
}

fn moe_spec(metadata: &Metadata, has: &dyn Fn(&str) -> bool) -> Result<DecoderSpec> {
    let mut spec = Reader::new("qwen3moe", metadata, has).spec()?;
    spec.attention.qk_norm = Some(QkNorm::Head);
    Ok(spec)
}
