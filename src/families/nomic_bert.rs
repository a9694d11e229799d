//! Nomic's BERT: rotary positions and a gate with SiLU in a BERT without biases.
//!
//! Source: Nussbaum et al. 2024 (arXiv 2402.01613) and the model's reference code.

use super::bert::{encoder, token_types};
use super::hparams::{Defaults, HeadLength, Hparams, LAYER};
use super::read::Reader;
use super::rules::rule;
use super::spec::DecoderSpec;
use super::{Dim, Family, Imported, Presence, TensorRule};
use crate::diagnostic::Result;
use crate::formats::hf_config::Config;
use crate::ir::Metadata;

/// The family.
pub(super) const NOMIC_BERT: Family = Family {
    architecture: "nomic-bert",
    checkpoints: &["NomicBertModel"],
    tensors: &[TENSORS],
    ignored: &["pooler.*", "cls.*"],
    derived: &[],
    pre_tokenizer: None,
    import,
    spec,
};

use Dim::*;
use Presence::*;

#[rustfmt::skip]
const TENSORS: &[TensorRule] = &[
    rule("embeddings.word_embeddings.weight", "token_embd.weight", &[Vocabulary, Embedding], Required),
    rule("embeddings.token_type_embeddings.weight", "token_types.weight", &[TokenTypes, Embedding], Optional),
    rule("emb_ln.weight", "token_embd_norm.weight", &[Embedding], Required),
    rule("emb_ln.bias", "token_embd_norm.bias", &[Embedding], Required),
    rule("encoder.layers.{}.attn.Wqkv.weight", "blk.{}.attn_qkv.weight", &[QueriesKeysValues, Embedding], Required),
    rule("encoder.layers.{}.attn.out_proj.weight", "blk.{}.attn_output.weight", &[Embedding, Attended], Required),
    rule("encoder.layers.{}.norm1.weight", "blk.{}.attn_output_norm.weight", &[Embedding], Required),
    rule("encoder.layers.{}.norm1.bias", "blk.{}.attn_output_norm.bias", &[Embedding], Required),
    rule("encoder.layers.{}.mlp.fc11.weight", "blk.{}.ffn_up.weight", &[FeedForward, Embedding], Required),
    rule("encoder.layers.{}.mlp.fc12.weight", "blk.{}.ffn_gate.weight", &[FeedForward, Embedding], Required),
    rule("encoder.layers.{}.mlp.fc2.weight", "blk.{}.ffn_down.weight", &[Embedding, FeedForward], Required),
    rule("encoder.layers.{}.norm2.weight", "blk.{}.layer_output_norm.weight", &[Embedding], Required),
    rule("encoder.layers.{}.norm2.bias", "blk.{}.layer_output_norm.bias", &[Embedding], Required),
];

/// Settings that have one value in every model of the family.
const FIXED: &[(&str, bool)] = &[
    ("causal", false),
    ("qkv_proj_bias", false),
    ("mlp_fc1_bias", false),
    ("mlp_fc2_bias", false),
    ("prenorm", false),
    ("rotary_emb_interleaved", false),
    ("parallel_block", false),
    ("use_rms_norm", false),
];

/// Settings of the reference code that change speed or training.
const WITHOUT_EFFECT: &[&str] = &[
    "fused_bias_fc",
    "fused_dropout_add_ln",
    "use_flash_attn",
    "use_xentropy",
    "pad_vocab_size_multiple",
    "scale_attn_by_inverse_layer_idx",
    "reorder_and_upcast_attn",
    "summary_activation",
    "summary_first_dropout",
    "summary_proj_to_labels",
    "summary_type",
    "summary_use_proj",
    "dense_seq_output",
    "parallel_block_tied_norm",
    "last_layer_subset",
    "layer_norm_training",
    "rotary_scaling_factor",
    "scale_attn_weights",
];

fn import(config: &Config) -> Result<Imported> {
    let defaults = Defaults { head_length: HeadLength::Never, ..Defaults::default() };
    let mut hparams = Hparams::read("nomic-bert", config, &LAYER, defaults)?;
    config.require(["activation_function", "hidden_act"], &["swiglu".into(), "silu".into()])?;
    for (key, value) in FIXED {
        config.require(*key, &[(*value).into()])?;
    }
    config.require("rotary_emb_fraction", &[1.0.into()])?;
    config.require("rotary_emb_scale_base", &[])?;
    config.require("moe_every_n_layers", &[0.into()])?;
    hparams.ignore(WITHOUT_EFFECT);
    let theta = config.optional_f32(["rotary_emb_base", "rope_theta"])?;
    hparams.set("rope.freq_base", theta.unwrap_or(1000.0));
    // Of 8192 positions that its file speaks of, the model was trained on these.
    if let Some(trained) = config.optional_size("max_trained_positions")? {
        hparams.size("context_length", trained.min(hparams.context), "max_trained_positions")?;
    } else if hparams.context == 8192 {
        hparams.size("context_length", 2048, "n_positions")?;
    }
    token_types(&mut hparams)?;
    hparams.set("attention.causal", false);
    Ok(hparams.finish_tied())
}

fn spec(metadata: &Metadata, has: &dyn Fn(&str) -> bool) -> Result<DecoderSpec> {
    let reader = Reader::new("nomic-bert", metadata, has);
    let mut spec = reader.spec()?;
    encoder(&mut spec, metadata, &reader);
    Ok(spec)
}
