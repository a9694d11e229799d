//! Gemma 2: Gemma with norms after each part as well, soft caps, and a window in every other block.
//!
//! Source: Gemma Team 2024 (arXiv 2408.00118) and its reference code.

use super::gemma::{self, TIED, gemma, plain_rope, score_scale};
use super::hparams::{Defaults, Hparams, RMS};
use super::read::Reader;
use super::rules::{ATTENTION, FEED_FORWARD, FREQUENCIES, rule};
use super::spec::{DecoderSpec, NormPlacement};
use super::{Dim, Family, Imported, Make, Presence, TensorRule};
use crate::diagnostic::Result;
use crate::formats::hf_config::Config;
use crate::ir::Metadata;

/// The family.
pub(super) const GEMMA2: Family = Family {
    architecture: "gemma2",
    checkpoints: &["Gemma2ForCausalLM"],
    tensors: &[TIED, NORMS, ATTENTION, FEED_FORWARD],
    ignored: &[FREQUENCIES, "lm_head.weight"],
    derived: &[],
    pre_tokenizer: None,
    import,
    spec,
};

use Dim::Embedding;
use Presence::Required;

/// Norms before and after each part.
#[rustfmt::skip]
pub(super) const NORMS: &[TensorRule] = &[
    rule("model.layers.{}.input_layernorm.weight", "blk.{}.attn_norm.weight", &[Embedding], Required).make(Make::PlusOne),
    rule("model.layers.{}.post_attention_layernorm.weight", "blk.{}.post_attention_norm.weight", &[Embedding], Required).make(Make::PlusOne),
    rule("model.layers.{}.pre_feedforward_layernorm.weight", "blk.{}.ffn_norm.weight", &[Embedding], Required).make(Make::PlusOne),
    rule("model.layers.{}.post_feedforward_layernorm.weight", "blk.{}.post_ffw_norm.weight", &[Embedding], Required).make(Make::PlusOne),
];

fn import(config: &Config) -> Result<Imported> {
    let defaults = Defaults { head_dim: Some(256), ..Defaults::default() };
    let mut hparams = Hparams::read("gemma2", config, &RMS, defaults)?;
    hparams.activation(&["gelu_pytorch_tanh", "gelu_new"])?;
    hparams.ignore(&["attention_bias", "cache_implementation", "use_bidirectional_attention"]);
    plain_rope(config)?;
    hparams.copy_f32("attn_logit_softcapping", "attn_logit_softcapping")?;
    hparams.copy_f32("final_logit_softcapping", "final_logit_softcapping")?;
    hparams.copy_size("attention.sliding_window", "sliding_window")?;
    if let Some(blocks) = hparams.window_blocks()?
        && blocks.iter().enumerate().any(|(block, window)| *window != is_local(block))
    {
        return Err(config
            .error("layer_types", "windows must be in every other layer, from the first")
            .into());
    }
    gemma::write_score_scale(&mut hparams, LARGEST)?;
    Ok(hparams.finish_tied())
}

/// Blocks of the largest model.
const LARGEST: u64 = 46;

/// Every other block, from the first.
fn is_local(block: usize) -> bool {
    block.is_multiple_of(2)
}

fn spec(metadata: &Metadata, has: &dyn Fn(&str) -> bool) -> Result<DecoderSpec> {
    let reader = Reader::new("gemma2", metadata, has);
    let mut spec = reader.spec()?;
    gemma(&mut spec);
    spec.norm.placement = NormPlacement::PreAndPost;
    spec.attention.window = reader.window(is_local);
    spec.attention.soft_cap = Some(reader.f32("attn_logit_softcapping").unwrap_or(50.0));
    spec.logit_soft_cap = Some(reader.f32("final_logit_softcapping").unwrap_or(30.0));
    spec.attention.scale = score_scale(&reader, &spec, LARGEST);
    Ok(spec)
}
