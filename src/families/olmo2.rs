//! OLMo 2 and 3: norms after each part instead of before it, and of q and k as a whole; OLMo 3 has windows.
//!
//! Source: OLMo Team 2025 (arXiv 2501.00656) and the models' reference code.

use super::hparams::{Defaults, Hparams, RMS};
use super::read::Reader;
use super::rope_config::RopeConfig;
use super::rules::{ATTENTION, FEED_FORWARD, FREQUENCIES, MODEL, rule};
use super::spec::{DecoderSpec, NormPlacement, QkNorm};
use super::{Dim, Family, Imported, Presence, TensorRule};
use crate::diagnostic::Result;
use crate::formats::hf_config::Config;
use crate::ir::Metadata;

/// The family.
pub(super) const OLMO2: Family = Family {
    architecture: "olmo2",
    checkpoints: &["Olmo2ForCausalLM", "Olmo3ForCausalLM"],
    tensors: &[MODEL, NORMS, ATTENTION, FEED_FORWARD],
    ignored: &[FREQUENCIES],
    derived: &[],
    pre_tokenizer: None,
    import,
    spec,
};

use Dim::*;
use Presence::Required;

#[rustfmt::skip]
const NORMS: &[TensorRule] = &[
    rule("model.layers.{}.self_attn.q_norm.weight", "blk.{}.attn_q_norm.weight", &[Queries], Required),
    rule("model.layers.{}.self_attn.k_norm.weight", "blk.{}.attn_k_norm.weight", &[Keys], Required),
    rule("model.layers.{}.post_attention_layernorm.weight", "blk.{}.post_attention_norm.weight", &[Embedding], Required),
    rule("model.layers.{}.post_feedforward_layernorm.weight", "blk.{}.post_ffw_norm.weight", &[Embedding], Required),
];

fn import(config: &Config) -> Result<Imported> {
    let mut hparams = Hparams::read("olmo2", config, &RMS, Defaults::default())?;
    hparams.activation(&["silu"])?;
    hparams.ignore(&["attention_bias", "clip_qkv"]);
    config.require("clip_qkv", &[])?;
    let mut rope = RopeConfig::read(config)?;
    if config.has("sliding_window") {
        rope.local_theta = rope.local_theta.or(rope.theta);
    }
    rope.write(hparams.head_dim, &mut hparams)?;
    if let Some(size) = config.optional_size("sliding_window")? {
        hparams.size("attention.sliding_window", size, "sliding_window")?;
        let blocks = match hparams.window_blocks()? {
            Some(blocks) => blocks,
            None => (0..hparams.blocks).map(|block| is_local(block as usize)).collect(),
        };
        hparams.set("attention.sliding_window_pattern", blocks);
    } else {
        hparams.ignore(&["layer_types"]);
    }
    Ok(hparams.finish())
}

/// Three blocks with a window, one without.
fn is_local(block: usize) -> bool {
    !(block + 1).is_multiple_of(4)
}

fn spec(metadata: &Metadata, has: &dyn Fn(&str) -> bool) -> Result<DecoderSpec> {
    let reader = Reader::new("olmo2", metadata, has);
    let mut spec = reader.spec()?;
    spec.norm.placement = NormPlacement::Post;
    spec.attention.qk_norm = Some(QkNorm::All);
    spec.attention.window = reader.window(is_local);
    // Blocks with a window are not stretched.
    let base = spec.rope.freq_base;
    spec.rope.local_freq_base =
        spec.attention.window.is_some().then(|| reader.f32("rope.freq_base_swa").unwrap_or(base));
    Ok(spec)
}
