//! Gemma: norms that multiply by one more than their weight, embeddings that are scaled, GELU.
//!
//! Source: Gemma Team 2024 (arXiv 2403.08295) and its reference code. The head is the embedding; GGUF's norms have the
//! one added.

use super::hparams::{Defaults, Hparams, RMS};
use super::read::Reader;
use super::rope_config::RopeConfig;
use super::rules::{ATTENTION, FEED_FORWARD, FREQUENCIES, MODEL, PRE_NORMS};
use super::spec::{Activation, DecoderSpec};
use super::{Family, Imported, Make, TensorRule};
use crate::diagnostic::Result;
use crate::formats::hf_config::Config;
use crate::ir::Metadata;

/// The family.
pub(super) const GEMMA: Family = Family {
    architecture: "gemma",
    checkpoints: &["GemmaForCausalLM"],
    tensors: &[TIED, NORMS, ATTENTION, FEED_FORWARD],
    ignored: &[FREQUENCIES, "lm_head.weight"],
    derived: &[],
    pre_tokenizer: None,
    import,
    spec,
};

/// Embeddings and the final norm.
pub(super) const TIED: &[TensorRule] = &[MODEL[0], MODEL[1].make(Make::PlusOne)];

const NORMS: &[TensorRule] = &[PRE_NORMS[0].make(Make::PlusOne), PRE_NORMS[1].make(Make::PlusOne)];

/// The end of a turn: the same number in every vocabulary of the family.
const END_OF_TURN: u32 = 107;

fn import(config: &Config) -> Result<Imported> {
    let defaults = Defaults { head_dim: Some(256), ..Defaults::default() };
    let mut hparams = Hparams::read("gemma", config, &RMS, defaults)?;
    // An old name says `gelu`; the models were trained with its approximation.
    hparams.activation(&["gelu_pytorch_tanh", "gelu", "gelu_new"])?;
    hparams.ignore(&["attention_bias", "use_bidirectional_attention"]);
    plain_rope(config)?;
    hparams.set_global("tokenizer.ggml.eot_token_id", END_OF_TURN);
    Ok(hparams.finish_tied())
}

/// Fails unless positions are as the architecture has them, which GGUF does not say.
///
/// # Errors
/// They are stretched, or have another base.
pub(super) fn plain_rope(config: &Config) -> Result<()> {
    let rope = RopeConfig::read(config)?;
    if rope.kind()? != "default" || rope.theta.is_some_and(|theta| theta != 10_000.0) {
        return Err(config
            .error("rope_parameters", "this family has plain positions with a base of 10000")
            .into());
    }
    Ok(())
}

/// The number whose root divides scores: that of the largest model, by its blocks, is not the length of its heads.
fn usual_scalar(is_largest: bool, embedding: u64, heads: u64, head_dim: u64) -> f32 {
    (if is_largest { embedding / heads.max(1) } else { head_dim }) as f32
}

/// Writes what scores are multiplied with, where it is not the usual: GGUF has no key for it that every reader of the
/// family knows.
///
/// # Errors
/// It is no number.
pub(super) fn write_score_scale(hparams: &mut Hparams<'_>, largest: u64) -> Result<()> {
    let Some(scalar) = hparams.config.optional_f32("query_pre_attn_scalar")? else { return Ok(()) };
    let Hparams { blocks, embedding, heads, head_dim, .. } = *hparams;
    if scalar != usual_scalar(blocks == largest, embedding, heads, head_dim) {
        hparams.set("attention.scale", 1.0 / scalar.sqrt());
    }
    Ok(())
}

/// What scores are multiplied with.
pub(super) fn score_scale(reader: &Reader<'_>, spec: &DecoderSpec, largest: u64) -> f32 {
    let attention = &spec.attention;
    let (embedding, heads) = (spec.embedding_length as u64, attention.head_count as u64);
    let is_largest = spec.block_count as u64 == largest;
    let scalar = usual_scalar(is_largest, embedding, heads, attention.key_length as u64);
    reader.f32("attention.scale").unwrap_or(1.0 / scalar.sqrt())
}

/// What all Gemmas have in common.
pub(super) fn gemma(spec: &mut DecoderSpec) {
    spec.embedding_scale = (spec.embedding_length as f32).sqrt();
    spec.feed_forward.activation = Activation::GeluTanh;
}

fn spec(metadata: &Metadata, has: &dyn Fn(&str) -> bool) -> Result<DecoderSpec> {
    let mut spec = Reader::new("gemma", metadata, has).spec()?;
    gemma(&mut spec);
    Ok(spec)
}
