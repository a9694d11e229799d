//! Qwen 2 and 2.5: Llama with biases of q, k and v, and positions that turn by halves.
//!
//! Source: Yang et al. 2024 (arXiv 2407.10671, 2412.15115) and the models' reference code.

use super::hparams::{Defaults, Hparams, RMS};
use super::read::Reader;
use super::rope_config::RopeConfig;
use super::rules::{ATTENTION, FEED_FORWARD, FREQUENCIES, MODEL, PRE_NORMS};
use super::spec::DecoderSpec;
use super::{Family, Imported};
use crate::diagnostic::Result;
use crate::formats::hf_config::Config;
use crate::ir::Metadata;

/// The family.
pub(super) const QWEN2: Family = Family {
    architecture: "qwen2",
    checkpoints: &["Qwen2ForCausalLM", "Qwen2Model"],
    tensors: &[MODEL, PRE_NORMS, ATTENTION, FEED_FORWARD],
    ignored: &[FREQUENCIES],
    derived: &["rope_freqs.weight"],
    pre_tokenizer: Some("qwen2"),
    import,
    spec,
};

/// What all Qwens have in common.
///
/// # Errors
/// A value is missing or not supported.
pub(super) fn read<'a>(architecture: &'static str, config: &'a Config) -> Result<Hparams<'a>> {
    let mut hparams = Hparams::read(architecture, config, &RMS, Defaults::default())?;
    hparams.activation(&["silu"])?;
    hparams.ignore(&["attention_bias", "max_window_layers", "use_mrope"]);
    // The window is there in most files and off in all: then it means nothing.
    match config.optional_bool("use_sliding_window")? {
        Some(true) => config.require("sliding_window", &[])?,
        _ => hparams.ignore(&["sliding_window"]),
    }
    if let Some(blocks) = hparams.window_blocks()?
        && blocks.contains(&true)
    {
        return Err(config.error("layer_types", "a sliding window is not supported in this family").into());
    }
    let rope = RopeConfig::read(config)?;
    rope.write(hparams.head_dim, &mut hparams)?;
    Ok(hparams)
}

fn import(config: &Config) -> Result<Imported> {
    Ok(read("qwen2", config)?.finish())
}

fn spec(metadata: &Metadata, has: &dyn Fn(&str) -> bool) -> Result<DecoderSpec> {
    Reader::new("qwen2", metadata, has).spec()
}
