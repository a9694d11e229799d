//! Phi-3, Phi-3.5 and Phi-4-mini: q, k and v in one matrix, gate and up in another; a long context by LongRoPE.
//!
//! Sources: Abdin et al. 2024 (arXiv 2404.14219); Ding et al. 2024 (arXiv 2402.13753) and the models' reference code.

use super::hparams::{Defaults, Hparams, RMS};
use super::read::Reader;
use super::rope_config::{DEFAULT_THETA, RopeConfig};
use super::rules::{FREQUENCIES, FUSED_FEED_FORWARD, MODEL, PRE_NORMS, rule};
use super::spec::DecoderSpec;
use super::{Dim, Family, Imported, Presence, TensorRule};
use crate::diagnostic::Result;
use crate::formats::hf_config::Config;
use crate::ir::Metadata;

/// The family.
pub(super) const PHI3: Family = Family {
    architecture: "phi3",
    checkpoints: &["Phi3ForCausalLM"],
    tensors: &[MODEL, PRE_NORMS, FUSED_ATTENTION, FUSED_FEED_FORWARD],
    ignored: &[FREQUENCIES],
    derived: &[SHORT, LONG],
    pre_tokenizer: None,
    import,
    spec,
};

const SHORT: &str = "rope_factors_short.weight";
const LONG: &str = "rope_factors_long.weight";

use Dim::*;
use Presence::Required;

#[rustfmt::skip]
const FUSED_ATTENTION: &[TensorRule] = &[
    rule("model.layers.{}.self_attn.qkv_proj.weight", "blk.{}.attn_qkv.weight", &[QueriesKeysValues, Embedding], Required),
    rule("model.layers.{}.self_attn.o_proj.weight", "blk.{}.attn_output.weight", &[Embedding, Attended], Required),
];

fn import(config: &Config) -> Result<Imported> {
    let mut hparams = Hparams::read("phi3", config, &RMS, Defaults::default())?;
    hparams.activation(&["silu", "swish"])?;
    hparams.ignore(&[
        "attention_bias",
        "embd_layer",
        "interpolate_factor",
        "full_attn_mod",
        "lm_head_bias",
        "mlp_bias",
    ]);
    hparams.ignore(&["layer_types"]);
    let mut rope = RopeConfig::read(config)?;
    rope.theta = rope.theta.or(Some(DEFAULT_THETA));
    let dims = rope.dims(config, hparams.head_dim, 1.0)?;
    hparams.size("rope.dimension_count", dims, "partial_rotary_factor")?;
    let outer = config.optional_size("original_max_position_embeddings")?;
    let inner = match &rope.scaling {
        Some(scaling) => scaling.optional_size("original_max_position_embeddings")?,
        None => None,
    };
    let original = inner.or(outer).unwrap_or(hparams.context);
    hparams.size("rope.scaling.original_context_length", original, "original_max_position_embeddings")?;
    // 0 tells a model without a window from files that are silent about it.
    hparams.set("attention.sliding_window", 0u32);
    hparams.copy_size("attention.sliding_window", "sliding_window")?;
    match rope.kind()? {
        "longrope" | "su" => long(&rope, dims, original, &mut hparams)?,
        _ => rope.write(dims, &mut hparams)?,
    }
    if let Some(theta) = rope.theta {
        hparams.set("rope.freq_base", theta);
    }
    Ok(hparams.finish())
}

/// Two factors for each pair: one for contexts as long as those of the first training, one for longer.
fn long(rope: &RopeConfig, dims: u64, original: u64, hparams: &mut Hparams<'_>) -> Result<()> {
    let Some(scaling) = &rope.scaling else { return Ok(()) };
    let scale = hparams.context as f64 / original as f64;
    let usual =
        if scale > 1.0 { libm::sqrt(1.0 + libm::log(scale) / libm::log(original as f64)) } else { 1.0 };
    let factor = scaling.optional_f32("attention_factor")?.unwrap_or(usual as f32);
    hparams.set("rope.scaling.attn_factor", factor);
    for (name, key) in [(LONG, "long_factor"), (SHORT, "short_factor")] {
        let factors = scaling.optional_f32s(key)?.unwrap_or_default();
        if factors.len() as u64 != dims / 2 || factors.iter().any(|f| *f <= 0.0) {
            let message = format!("must be {} numbers above 0", dims / 2);
            return Err(scaling.error(key, message).into());
        }
        hparams.derive(name, factors);
    }
    scaling.ignore(&["rope_theta", "rope_type", "type", "partial_rotary_factor", "factor"][..]);
    scaling.ignore(&["short_mscale", "long_mscale"][..]);
    rope.all_read()
}

fn spec(metadata: &Metadata, has: &dyn Fn(&str) -> bool) -> Result<DecoderSpec> {
    let reader = Reader::new("phi3", metadata, has);
    let mut spec = reader.spec()?;
    spec.feed_forward.fused = true;
    spec.attention.window = reader.window(|_| true);
    Ok(spec)
}
