//! Granite 3: Llama with four multipliers, of the embedding, the scores, each block's output and the logits.
//!
//! Source: the models' reference code.

use super::hparams::HeadLength;
use super::llama::{self, DENSE};
use super::read::Reader;
use super::rope_config::DEFAULT_THETA;
use super::rules::{FEED_FORWARD_BIASES, FREQUENCIES, INTERLEAVED_ATTENTION, MODEL, PRE_NORMS};
use super::spec::{DecoderSpec, RopeKind};
use super::{Family, Imported};
use crate::diagnostic::Result;
use crate::formats::hf_config::Config;
use crate::ir::Metadata;

/// The family.
pub(super) const GRANITE: Family = Family {
    architecture: "granite",
    checkpoints: &["GraniteForCausalLM"],
    tensors: &[MODEL, PRE_NORMS, INTERLEAVED_ATTENTION, DENSE, FEED_FORWARD_BIASES],
    ignored: &[FREQUENCIES],
    derived: &["rope_freqs.weight"],
    pre_tokenizer: None,
    import,
    spec,
};

fn import(config: &Config) -> Result<Imported> {
    let (mut hparams, mut rope) = llama::read("granite", config, HeadLength::Never)?;
    rope.theta = rope.theta.or(Some(DEFAULT_THETA));
    rope.write(hparams.head_dim, &mut hparams)?;
    hparams.copy_f32("attention.scale", "attention_multiplier")?;
    hparams.copy_f32("embedding_scale", "embedding_multiplier")?;
    hparams.copy_f32("residual_scale", "residual_multiplier")?;
    hparams.copy_f32("logit_scale", "logits_scaling")?;
    Ok(hparams.finish())
}

fn spec(metadata: &Metadata, has: &dyn Fn(&str) -> bool) -> Result<DecoderSpec> {
    let reader = Reader::new("granite", metadata, has);
    let mut spec = reader.spec()?;
    spec.rope.kind = RopeKind::Norm;
    let scale = |key: &str| reader.f32(key).filter(|scale| *scale != 0.0);
    spec.attention.scale = scale("attention.scale").unwrap_or(spec.attention.scale);
    spec.embedding_scale = scale("embedding_scale").unwrap_or(1.0);
    spec.residual_scale = scale("residual_scale").unwrap_or(1.0);
    // GGUF keeps what the logits are divided by.
    spec.logit_scale = 1.0 / scale("logit_scale").unwrap_or(1.0);
    Ok(spec)
}
