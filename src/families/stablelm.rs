//! StableLM: layer norms, a quarter of each head turns; the 12B adds norms of q and k and reads one norm twice.
//!
//! Source: Bellagente et al. 2024 (arXiv 2402.17834) and the models' reference code.

use super::hparams::{Defaults, Hparams, LAYER};
use super::read::Reader;
use super::rope_config::RopeConfig;
use super::rules::{ATTENTION, FEED_FORWARD, FREQUENCIES, MODEL, PRE_NORMS, rule};
use super::spec::{DecoderSpec, QkNorm};
use super::{Dim, Family, Imported, Make, Presence, TensorRule};
use crate::diagnostic::Result;
use crate::formats::hf_config::Config;
use crate::ir::Metadata;

/// The family.
pub(super) const STABLELM: Family = Family {
    architecture: "stablelm",
    checkpoints: &["StableLmForCausalLM"],
    tensors: &[MODEL, NORMS, ATTENTION, FEED_FORWARD],
    ignored: &[FREQUENCIES],
    derived: &[],
    pre_tokenizer: None,
    import,
    spec,
};

use Dim::*;
use Presence::*;

#[rustfmt::skip]
const NORMS: &[TensorRule] = &[
    PRE_NORMS[0],
    TensorRule { presence: Optional, ..PRE_NORMS[1] },
    rule("model.norm.bias", "output_norm.bias", &[Embedding], Optional),
    rule("model.layers.{}.input_layernorm.bias", "blk.{}.attn_norm.bias", &[Embedding], Optional),
    rule("model.layers.{}.post_attention_layernorm.bias", "blk.{}.ffn_norm.bias", &[Embedding], Optional),
    rule("model.layers.{}.self_attn.q_layernorm.norms.{}.weight", "blk.{}.attn_q_norm.weight", &[Heads, HeadLength], Optional).make(Make::Stack),
    rule("model.layers.{}.self_attn.k_layernorm.norms.{}.weight", "blk.{}.attn_k_norm.weight", &[KeyHeads, HeadLength], Optional).make(Make::Stack),
];

fn import(config: &Config) -> Result<Imported> {
    let mut hparams = Hparams::read("stablelm", config, &LAYER, Defaults::default())?;
    hparams.activation(&["silu"])?;
    // Whether they are there says itself.
    hparams.ignore(&["use_qkv_bias", "qk_layernorm"]);
    let rope = RopeConfig::read(config)?;
    let dims = rope.dims(config, hparams.head_dim, 0.25)?;
    hparams.size("rope.dimension_count", dims, "partial_rotary_factor")?;
    if rope.kind()? != "default" || rope.theta.is_some_and(|theta| theta != 10_000.0) {
        rope.write(dims, &mut hparams)?;
    } else {
        rope.all_read_but_theta()?;
    }
    let parallel = config.optional_bool("use_parallel_residual")?.unwrap_or(false);
    hparams.set("use_parallel_residual", parallel);
    Ok(hparams.finish())
}

fn spec(metadata: &Metadata, has: &dyn Fn(&str) -> bool) -> Result<DecoderSpec> {
    let reader = Reader::new("stablelm", metadata, has);
    let mut spec = reader.spec()?;
    // The key is in every file, true in some that are not: the norm that is there or not tells.
    spec.parallel = !reader.has("blk.0.ffn_norm.weight");
    spec.attention.qk_norm = reader.has("blk.0.attn_q_norm.weight").then_some(QkNorm::LayerOfHead);
    Ok(spec)
}
