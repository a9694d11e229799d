//! BERT, and what was trained from it to make embeddings (MiniLM, BGE, E5): an encoder with learned positions and a
//! layer norm after each sum.
//!
//! Source: Devlin et al. 2018 (arXiv 1810.04805) and its reference code.

use super::hparams::{Defaults, Hparams, LAYER};
use super::read::Reader;
use super::rules::rule;
use super::spec::{Activation, DecoderSpec, EmbeddingExtras, NormPlacement, Output, RopeKind};
use super::{Dim, Family, Imported, Presence, TensorRule};
use crate::diagnostic::Result;
use crate::formats::hf_config::Config;
use crate::ir::Metadata;

/// The family.
pub(super) const BERT: Family = Family {
    architecture: "bert",
    checkpoints: &["BertModel", "BertForMaskedLM"],
    tensors: &[TENSORS],
    ignored: &["embeddings.position_ids", "pooler.*", "cls.*"],
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
    rule("embeddings.position_embeddings.weight", "position_embd.weight", &[Positions, Embedding], Required),
    rule("embeddings.token_type_embeddings.weight", "token_types.weight", &[TokenTypes, Embedding], Optional),
    rule("embeddings.LayerNorm.weight", "token_embd_norm.weight", &[Embedding], Required),
    rule("embeddings.LayerNorm.bias", "token_embd_norm.bias", &[Embedding], Required),
    rule("encoder.layer.{}.attention.self.query.weight", "blk.{}.attn_q.weight", &[Queries, Embedding], Required),
    rule("encoder.layer.{}.attention.self.query.bias", "blk.{}.attn_q.bias", &[Queries], Required),
    rule("encoder.layer.{}.attention.self.key.weight", "blk.{}.attn_k.weight", &[Keys, Embedding], Required),
    rule("encoder.layer.{}.attention.self.key.bias", "blk.{}.attn_k.bias", &[Keys], Required),
    rule("encoder.layer.{}.attention.self.value.weight", "blk.{}.attn_v.weight", &[Values, Embedding], Required),
    rule("encoder.layer.{}.attention.self.value.bias", "blk.{}.attn_v.bias", &[Values], Required),
    rule("encoder.layer.{}.attention.output.dense.weight", "blk.{}.attn_output.weight", &[Embedding, Attended], Required),
    rule("encoder.layer.{}.attention.output.dense.bias", "blk.{}.attn_output.bias", &[Embedding], Required),
    rule("encoder.layer.{}.attention.output.LayerNorm.weight", "blk.{}.attn_output_norm.weight", &[Embedding], Required),
    rule("encoder.layer.{}.attention.output.LayerNorm.bias", "blk.{}.attn_output_norm.bias", &[Embedding], Required),
    rule("encoder.layer.{}.intermediate.dense.weight", "blk.{}.ffn_up.weight", &[FeedForward, Embedding], Required),
    rule("encoder.layer.{}.intermediate.dense.bias", "blk.{}.ffn_up.bias", &[FeedForward], Required),
    rule("encoder.layer.{}.output.dense.weight", "blk.{}.ffn_down.weight", &[Embedding, FeedForward], Required),
    rule("encoder.layer.{}.output.dense.bias", "blk.{}.ffn_down.bias", &[Embedding], Required),
    rule("encoder.layer.{}.output.LayerNorm.weight", "blk.{}.layer_output_norm.weight", &[Embedding], Required),
    rule("encoder.layer.{}.output.LayerNorm.bias", "blk.{}.layer_output_norm.bias", &[Embedding], Required),
];

fn import(config: &Config) -> Result<Imported> {
    let mut hparams = Hparams::read("bert", config, &LAYER, Defaults::default())?;
    hparams.activation(&["gelu"])?;
    config.require("position_embedding_type", &["absolute".into()])?;
    hparams.ignore(&[
        "gradient_checkpointing",
        "id2label",
        "label2id",
        "add_cross_attention",
        "chunk_size_feed_forward",
    ]);
    token_types(&mut hparams)?;
    hparams.set("attention.causal", false);
    Ok(hparams.finish_tied())
}

/// Writes how many types of tokens there are.
///
/// # Errors
/// It is no size.
pub(super) fn token_types(hparams: &mut Hparams<'_>) -> Result<()> {
    let count = hparams.config.optional_size("type_vocab_size")?.unwrap_or(1);
    hparams.set_global("tokenizer.ggml.token_type_count", u32::try_from(count).unwrap_or(u32::MAX));
    Ok(())
}

/// What all encoders after BERT have in common.
pub(super) fn encoder(spec: &mut DecoderSpec, metadata: &Metadata, reader: &Reader<'_>) {
    let types = metadata.u64("tokenizer.ggml.token_type_count").and_then(|n| usize::try_from(n).ok());
    spec.attention.causal = false;
    spec.output = Output::Hidden;
    spec.norm.placement = NormPlacement::PostSum;
    spec.embedding_extras = EmbeddingExtras {
        positions: 0,
        token_types: if reader.has("token_types.weight") { types.unwrap_or(1) } else { 0 },
        norm: true,
    };
}

fn spec(metadata: &Metadata, has: &dyn Fn(&str) -> bool) -> Result<DecoderSpec> {
    let reader = Reader::new("bert", metadata, has);
    let mut spec = reader.spec()?;
    encoder(&mut spec, metadata, &reader);
    spec.embedding_extras.positions = spec.context_length;
    spec.rope.kind = RopeKind::None;
    spec.feed_forward.gated = false;
    spec.feed_forward.activation = Activation::GeluErf;
    Ok(spec)
}
