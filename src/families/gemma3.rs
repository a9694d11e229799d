//! Gemma 3: Gemma 2 without soft caps, with norms of q and k, and five blocks with a window for each without.
//! Of the models that see, the part that reads and writes text. EmbeddingGemma is the same, looking both ways.
//!
//! Source: Gemma Team 2025 (arXiv 2503.19786) and its reference code.

use super::gemma::{self, TIED, gemma, score_scale};
use super::gemma2::NORMS;
use super::hparams::{Defaults, HeadLength, Hparams, RMS};
use super::read::Reader;
use super::rope_config::RopeConfig;
use super::rules::{ATTENTION, FEED_FORWARD, FREQUENCIES, HEAD_NORMS, rule};
use super::spec::{DecoderSpec, NormPlacement, Output, QkNorm};
use super::{Dim, Family, Imported, Make, Presence, TensorRule};
use crate::diagnostic::Result;
use crate::formats::hf_config::Config;
use crate::ir::Metadata;

/// The family.
pub(super) const GEMMA3: Family = Family {
    architecture: "gemma3",
    checkpoints: &["Gemma3ForCausalLM", "Gemma3ForConditionalGeneration"],
    tensors: &[CUT, NORMS, QK_NORMS, ATTENTION, FEED_FORWARD],
    ignored: &[FREQUENCIES, "lm_head.weight", "vision_tower.*", "multi_modal_projector.*"],
    derived: &[],
    pre_tokenizer: None,
    import,
    spec,
};

/// The encoder.
pub(super) const EMBEDDING_GEMMA: Family = Family {
    architecture: "gemma-embedding",
    checkpoints: &["Gemma3TextModel"],
    tensors: &[CUT, NORMS, QK_NORMS, ATTENTION, FEED_FORWARD, PROJECTIONS],
    ignored: &[FREQUENCIES, "lm_head.weight"],
    derived: &[],
    pre_tokenizer: None,
    import: import_embedding,
    spec: embedding_spec,
};

/// The embedding has rows beyond the vocabulary, which GGUF does not keep.
const CUT: &[TensorRule] = &[TIED[0].make(Make::Vocabulary), TIED[1]];

const QK_NORMS: &[TensorRule] = &[HEAD_NORMS[0].make(Make::PlusOne), HEAD_NORMS[1].make(Make::PlusOne)];

/// What a pooled state goes through: the modules beside the model, by the directory each is in.
#[rustfmt::skip]
const PROJECTIONS: &[TensorRule] = &[
    rule("2_Dense/linear.weight", "dense_2.weight", &[Dim::Any, Dim::Embedding], Presence::Optional),
    rule("3_Dense/linear.weight", "dense_3.weight", &[Dim::Embedding, Dim::Any], Presence::Optional),
];

/// What the configuration classes of the family fill in.
const DEFAULTS: Defaults = Defaults {
    heads: Some(8),
    kv_heads: Some(4),
    head_dim: Some(256),
    head_length: HeadLength::Always,
    context: Some(131_072),
    epsilon: Some(1e-6),
    vocabulary: Some(262_208),
    tied: true,
};

fn read<'a>(architecture: &'static str, config: &'a Config) -> Result<Hparams<'a>> {
    let mut hparams = Hparams::read(architecture, config, &RMS, DEFAULTS)?;
    hparams.activation(&["gelu_pytorch_tanh", "gelu_new"])?;
    config.require("attn_logit_softcapping", &[])?;
    hparams.ignore(&["attention_bias", "cache_implementation"]);
    let mut rope = RopeConfig::read(config)?;
    rope.theta = rope.theta.or(Some(1_000_000.0));
    rope.local_theta = rope.local_theta.or(Some(LOCAL_THETA));
    rope.write(hparams.head_dim, &mut hparams)?;
    hparams.copy_f32("final_logit_softcapping", "final_logit_softcapping")?;
    let pattern = config.optional_size(["sliding_window_pattern", "_sliding_window_pattern"])?;
    let windows = hparams.window_blocks()?;
    let usual = |block: usize| is_local(block);
    let fits = match (&windows, pattern) {
        (Some(blocks), _) => blocks.iter().enumerate().all(|(block, window)| *window == usual(block)),
        (None, pattern) => pattern.is_none_or(|n| n == PATTERN as u64),
    };
    hparams.copy_size("attention.sliding_window", "sliding_window")?;
    if !fits {
        let blocks = windows.unwrap_or_else(|| {
            let n = pattern.unwrap_or(PATTERN as u64);
            (1..=hparams.blocks).map(|block| !block.is_multiple_of(n)).collect()
        });
        hparams.set("attention.sliding_window_pattern", blocks);
    }
    gemma::write_score_scale(&mut hparams, LARGEST)?;
    Ok(hparams)
}

/// Of so many blocks the last has no window.
const PATTERN: usize = 6;

/// The base frequency of blocks with a window.
const LOCAL_THETA: f32 = 10_000.0;

/// Blocks of the largest model.
const LARGEST: u64 = 62;

fn is_local(block: usize) -> bool {
    !(block + 1).is_multiple_of(PATTERN)
}

fn import(config: &Config) -> Result<Imported> {
    config.require("use_bidirectional_attention", &[false.into()])?;
    Ok(read("gemma3", config)?.finish_tied())
}

fn import_embedding(config: &Config) -> Result<Imported> {
    config.require("use_bidirectional_attention", &[true.into()])?;
    Ok(read("gemma-embedding", config)?.finish_tied())
}

fn spec_of(reader: &Reader<'_>) -> Result<DecoderSpec> {
    let mut spec = reader.spec()?;
    gemma(&mut spec);
    spec.norm.placement = NormPlacement::PreAndPost;
    spec.attention.qk_norm = Some(QkNorm::Head);
    spec.attention.window = reader.window(is_local);
    spec.rope.local_freq_base = Some(reader.f32("rope.freq_base_swa").unwrap_or(LOCAL_THETA));
    spec.rope.freq_base = reader.f32("rope.freq_base").unwrap_or(1_000_000.0);
    spec.logit_soft_cap = reader.f32("final_logit_softcapping");
    spec.attention.scale = score_scale(reader, &spec, LARGEST);
    Ok(spec)
}

fn spec(metadata: &Metadata, has: &dyn Fn(&str) -> bool) -> Result<DecoderSpec> {
    spec_of(&Reader::new("gemma3", metadata, has))
}

fn embedding_spec(metadata: &Metadata, has: &dyn Fn(&str) -> bool) -> Result<DecoderSpec> {
    let mut spec = spec_of(&Reader::new("gemma-embedding", metadata, has))?;
    spec.attention.causal = false;
    spec.output = Output::Hidden;
    Ok(spec)
}
