//! GLM-4: norms before and after each part, half of each head turns in interleaved pairs, gate and up in one matrix.
//!
//! Source: GLM Team 2024 (arXiv 2406.12793) and the models' reference code.

use super::hparams::{Defaults, Hparams, RMS};
use super::read::Reader;
use super::rope_config::RopeConfig;
use super::rules::{ATTENTION, FREQUENCIES, FUSED_FEED_FORWARD, MODEL, rule};
use super::spec::{DecoderSpec, NormPlacement, RopeKind};
use super::{Dim, Family, Imported, Presence, TensorRule};
use crate::diagnostic::Result;
use crate::formats::hf_config::Config;
use crate::ir::Metadata;

/// The family.
pub(super) const GLM4: Family = Family {
    architecture: "glm4",
    checkpoints: &["Glm4ForCausalLM"],
    tensors: &[MODEL, NORMS, ATTENTION, FUSED_FEED_FORWARD],
    ignored: &[FREQUENCIES],
    derived: &[],
    pre_tokenizer: None,
    import,
    spec,
};

use Dim::Embedding;
use Presence::Required;

#[rustfmt::skip]
const NORMS: &[TensorRule] = &[
    rule("model.layers.{}.input_layernorm.weight", "blk.{}.attn_norm.weight", &[Embedding], Required),
    rule("model.layers.{}.post_self_attn_layernorm.weight", "blk.{}.post_attention_norm.weight", &[Embedding], Required),
    rule("model.layers.{}.post_attention_layernorm.weight", "blk.{}.ffn_norm.weight", &[Embedding], Required),
    rule("model.layers.{}.post_mlp_layernorm.weight", "blk.{}.post_ffw_norm.weight", &[Embedding], Required),
];

fn import(config: &Config) -> Result<Imported> {
    let mut hparams = Hparams::read("glm4", config, &RMS, Defaults::default())?;
    hparams.activation(&["silu"])?;
    hparams.ignore(&["attention_bias"]);
    let rope = RopeConfig::read(config)?;
    let dims = rope.dims(config, hparams.head_dim, 0.5)?;
    hparams.size("rope.dimension_count", dims, "partial_rotary_factor")?;
    rope.write(dims, &mut hparams)?;
    Ok(hparams.finish())
}

fn spec(metadata: &Metadata, has: &dyn Fn(&str) -> bool) -> Result<DecoderSpec> {
    let mut spec = Reader::new("glm4", metadata, has).spec()?;
    spec.norm.placement = NormPlacement::PreAndPost;
    spec.rope.kind = RopeKind::Norm;
    spec.feed_forward.fused = true;
    Ok(spec)
}
