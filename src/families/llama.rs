//! Llama: RMS norm before attention and feed-forward, rotary positions in interleaved pairs,
//! grouped queries, SiLU-gated feed-forward. Mistral is a Llama with a window, Mixtral one with experts.
//!
//! Sources: Touvron et al. 2023 (arXiv 2302.13971); Llama 3.1's RoPE scaling as published with its
//! reference code; Jiang et al. 2023 and 2024 (arXiv 2310.06825, 2401.04088). GGUF stores the rows of q and k
//! interleaved, checkpoints in two halves.

use super::hparams::{Defaults, HeadLength, Hparams, RMS};
use super::read::Reader;
use super::rope_config::{DEFAULT_THETA, RopeConfig};
use super::rules::{
    FEED_FORWARD, FEED_FORWARD_BIASES, FREQUENCIES, INTERLEAVED_ATTENTION, MODEL, PRE_NORMS, rule,
};
use super::spec::{DecoderSpec, RopeKind};
use super::{Dim, Family, Imported, Make, Presence, TensorRule};
use crate::diagnostic::Result;
use crate::formats::hf_config::Config;
use crate::ir::Metadata;

/// The family.
pub(super) const LLAMA: Family = Family {
    architecture: "llama",
    checkpoints: &["LlamaForCausalLM", "MistralForCausalLM", "MixtralForCausalLM"],
    tensors: &[MODEL, PRE_NORMS, INTERLEAVED_ATTENTION, DENSE, FEED_FORWARD_BIASES, EXPERTS],
    ignored: &[FREQUENCIES],
    derived: &["rope_freqs.weight"],
    pre_tokenizer: None,
    import,
    spec,
};

use Dim::*;
use Presence::*;

/// The feed-forward network of a block without experts.
pub(super) const DENSE: &[TensorRule] =
    &[FEED_FORWARD[0].unless_experts(), FEED_FORWARD[1].unless_experts(), FEED_FORWARD[2].unless_experts()];

// Mixtral's w1 is the gate, w2 leads down, w3 up.
#[rustfmt::skip]
const EXPERTS: &[TensorRule] = &[
    rule("model.layers.{}.block_sparse_moe.gate.weight", "blk.{}.ffn_gate_inp.weight", &[Experts, Embedding], WithExperts),
    rule("model.layers.{}.block_sparse_moe.experts.{}.w1.weight", "blk.{}.ffn_gate_exps.weight", &[Experts, ExpertFeedForward, Embedding], WithExperts).make(Make::Stack),
    rule("model.layers.{}.block_sparse_moe.experts.{}.w3.weight", "blk.{}.ffn_up_exps.weight", &[Experts, ExpertFeedForward, Embedding], WithExperts).make(Make::Stack),
    rule("model.layers.{}.block_sparse_moe.experts.{}.w2.weight", "blk.{}.ffn_down_exps.weight", &[Experts, Embedding, ExpertFeedForward], WithExperts).make(Make::Stack),
];

/// What Llama and the families that are Llamas with other numbers have in common.
///
/// # Errors
/// A value is missing or not supported.
pub(super) fn read<'a>(
    architecture: &'static str,
    config: &'a Config,
    head_length: HeadLength,
) -> Result<(Hparams<'a>, RopeConfig)> {
    let defaults = Defaults { head_length, ..Defaults::default() };
    let mut hparams = Hparams::read(architecture, config, &RMS, defaults)?;
    hparams.activation(&["silu", "swish"])?;
    config.require("rope_interleaved", &[false.into()])?;
    // The biases themselves say whether they are there; the verifier knows their shapes.
    hparams.ignore(&["attention_bias", "mlp_bias"]);
    let rope = RopeConfig::read(config)?;
    if rope.partial.is_some_and(|part| part != 1.0) {
        let message = "a head of which only a part turns is not supported in this family";
        return Err(config.error("partial_rotary_factor", message).into());
    }
    hparams.vocab_size()?;
    hparams.size("rope.dimension_count", hparams.head_dim, "head_dim")?;
    Ok((hparams, rope))
}

fn import(config: &Config) -> Result<Imported> {
    let head_length = match config.has("num_local_experts") {
        true => HeadLength::WhereGiven,
        false => HeadLength::Always,
    };
    let (mut hparams, mut rope) = read("llama", config, head_length)?;
    rope.theta = rope.theta.or(Some(DEFAULT_THETA));
    rope.write(hparams.head_dim, &mut hparams)?;
    hparams.copy_size("expert_count", "num_local_experts")?;
    hparams.copy_size("expert_used_count", "num_experts_per_tok")?;
    hparams.copy_size("attention.sliding_window", "sliding_window")?;
    if let Some(blocks) = hparams.window_blocks()?
        && blocks.iter().any(|window| *window != blocks[0])
    {
        let message = "windows in some layers only are not supported in this family";
        return Err(config.error("layer_types", message).into());
    }
    Ok(hparams.finish())
}

fn spec(metadata: &Metadata, has: &dyn Fn(&str) -> bool) -> Result<DecoderSpec> {
    let reader = Reader::new("llama", metadata, has);
    let mut spec = reader.spec()?;
    spec.rope.kind = RopeKind::Norm;
    spec.attention.window = reader.window(|_| true);
    Ok(spec)
}
