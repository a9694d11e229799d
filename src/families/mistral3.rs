//! Mistral Small 3 and Ministral 3: Llama, stretched by YaRN, with queries that grow with their position.
//! Of the models that see, the part that reads and writes text.

use super::hparams::{HeadLength, Hparams};
use super::llama::{self, DENSE};
use super::read::Reader;
use super::rules::{FEED_FORWARD_BIASES, FREQUENCIES, INTERLEAVED_ATTENTION, MODEL, PRE_NORMS};
use super::spec::{DecoderSpec, RopeKind, Temperature};
use super::{Family, Imported};
use crate::diagnostic::Result;
use crate::formats::hf_config::Config;
use crate::ir::Metadata;

/// The family.
pub(super) const MISTRAL3: Family = Family {
    architecture: "mistral3",
    checkpoints: &["Mistral3ForConditionalGeneration", "Ministral3ForCausalLM"],
    tensors: &[MODEL, PRE_NORMS, INTERLEAVED_ATTENTION, DENSE, FEED_FORWARD_BIASES],
    ignored: &[FREQUENCIES, "vision_tower.*", "multi_modal_projector.*"],
    derived: &["rope_freqs.weight"],
    pre_tokenizer: None,
    import,
    spec,
};

fn import(config: &Config) -> Result<Imported> {
    let (mut hparams, rope) = llama::read("mistral3", config, HeadLength::WhereGiven)?;
    if let Some(scaling) = &rope.scaling {
        temperature(&mut hparams, scaling)?;
    }
    rope.write(hparams.head_dim, &mut hparams)?;
    config.require("sliding_window", &[])?;
    config.require("layer_types", &[])?;
    Ok(hparams.finish())
}

fn temperature(hparams: &mut Hparams<'_>, scaling: &Config) -> Result<()> {
    // Both scales are there or none is; GGUF keeps the second, the first being 1.
    scaling.require("mscale", &[1.0.into()])?;
    if let Some(all) = scaling.optional_f32("mscale_all_dim")? {
        hparams.set("rope.scaling.yarn_log_multiplier", all);
    }
    if let Some(beta) = scaling.optional_f32("llama_4_scaling_beta")? {
        hparams.set("attention.temperature_scale", beta);
    }
    scaling.ignore("max_position_embeddings");
    Ok(())
}

fn spec(metadata: &Metadata, has: &dyn Fn(&str) -> bool) -> Result<DecoderSpec> {
    let reader = Reader::new("mistral3", metadata, has);
    let mut spec = reader.spec()?;
    spec.rope.kind = RopeKind::Norm;
    if let Some(scale) = reader.f32("attention.temperature_scale").filter(|scale| *scale != 0.0) {
        let original_context_length = reader.number("rope.scaling.original_context_length")?;
        spec.attention.temperature = Some(Temperature { scale, original_context_length });
    }
    Ok(spec)
}
