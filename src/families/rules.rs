//! Groups of tensors that several families have, and what makes a rule.

use super::{Dim, Make, Presence, Rows, TensorRule};
use Dim::*;
use Presence::*;
use Rows::*;

/// A tensor that goes into GGUF as it is.
pub(super) const fn rule(
    checkpoint: &'static str,
    gguf: &'static str,
    shape: &'static [Dim],
    presence: Presence,
) -> TensorRule {
    TensorRule { checkpoint, gguf, shape, rows: AsTheyAre, presence, make: Make::Same }
}

impl TensorRule {
    /// The rule with another order of rows.
    pub(super) const fn rows(self, rows: Rows) -> TensorRule {
        TensorRule { rows, ..self }
    }

    /// The rule of a tensor that is made of what the checkpoint has.
    pub(super) const fn make(self, make: Make) -> TensorRule {
        TensorRule { make, ..self }
    }
}

/// Embeddings, the final norm and the head.
#[rustfmt::skip]
pub(super) const MODEL: &[TensorRule] = &[
    rule("model.embed_tokens.weight", "token_embd.weight", &[Vocabulary, Embedding], Required),
    rule("model.norm.weight", "output_norm.weight", &[Embedding], Required),
    rule("lm_head.weight", "output.weight", &[Vocabulary, Embedding], Untied),
];

/// q, k and v, each a matrix, whose heads turn by halves.
#[rustfmt::skip]
pub(super) const ATTENTION: &[TensorRule] = &[
    rule("model.layers.{}.self_attn.q_proj.weight", "blk.{}.attn_q.weight", &[Queries, Embedding], Required),
    rule("model.layers.{}.self_attn.k_proj.weight", "blk.{}.attn_k.weight", &[Keys, Embedding], Required),
    rule("model.layers.{}.self_attn.v_proj.weight", "blk.{}.attn_v.weight", &[Values, Embedding], Required),
    rule("model.layers.{}.self_attn.o_proj.weight", "blk.{}.attn_output.weight", &[Embedding, Attended], Required),
    rule("model.layers.{}.self_attn.q_proj.bias", "blk.{}.attn_q.bias", &[Queries], Optional),
    rule("model.layers.{}.self_attn.k_proj.bias", "blk.{}.attn_k.bias", &[Keys], Optional),
    rule("model.layers.{}.self_attn.v_proj.bias", "blk.{}.attn_v.bias", &[Values], Optional),
    rule("model.layers.{}.self_attn.o_proj.bias", "blk.{}.attn_output.bias", &[Embedding], Optional),
];

/// As [`ATTENTION`]; GGUF has the rows of q and k in interleaved pairs.
#[rustfmt::skip]
pub(super) const INTERLEAVED_ATTENTION: &[TensorRule] = &[
    ATTENTION[0].rows(RopeQueries),
    ATTENTION[1].rows(RopeKeys),
    ATTENTION[2],
    ATTENTION[3],
    ATTENTION[4].rows(RopeQueries),
    ATTENTION[5].rows(RopeKeys),
    ATTENTION[6],
    ATTENTION[7],
];

/// Norms before attention and before the feed-forward network.
#[rustfmt::skip]
pub(super) const PRE_NORMS: &[TensorRule] = &[
    rule("model.layers.{}.input_layernorm.weight", "blk.{}.attn_norm.weight", &[Embedding], Required),
    rule("model.layers.{}.post_attention_layernorm.weight", "blk.{}.ffn_norm.weight", &[Embedding], Required),
];

/// Norms of each head of q and k.
#[rustfmt::skip]
pub(super) const HEAD_NORMS: &[TensorRule] = &[
    rule("model.layers.{}.self_attn.q_norm.weight", "blk.{}.attn_q_norm.weight", &[HeadLength], Required),
    rule("model.layers.{}.self_attn.k_norm.weight", "blk.{}.attn_k_norm.weight", &[HeadLength], Required),
];

/// A feed-forward network with a gate.
#[rustfmt::skip]
pub(super) const FEED_FORWARD: &[TensorRule] = &[
    rule("model.layers.{}.mlp.gate_proj.weight", "blk.{}.ffn_gate.weight", &[FeedForward, Embedding], Required),
    rule("model.layers.{}.mlp.up_proj.weight", "blk.{}.ffn_up.weight", &[FeedForward, Embedding], Required),
    rule("model.layers.{}.mlp.down_proj.weight", "blk.{}.ffn_down.weight", &[Embedding, FeedForward], Required),
];

/// Biases of a feed-forward network with a gate.
#[rustfmt::skip]
pub(super) const FEED_FORWARD_BIASES: &[TensorRule] = &[
    rule("model.layers.{}.mlp.gate_proj.bias", "blk.{}.ffn_gate.bias", &[FeedForward], Optional),
    rule("model.layers.{}.mlp.up_proj.bias", "blk.{}.ffn_up.bias", &[FeedForward], Optional),
    rule("model.layers.{}.mlp.down_proj.bias", "blk.{}.ffn_down.bias", &[Embedding], Optional),
];

/// A feed-forward network whose gate and up are one matrix.
#[rustfmt::skip]
pub(super) const FUSED_FEED_FORWARD: &[TensorRule] = &[
    rule("model.layers.{}.mlp.gate_up_proj.weight", "blk.{}.ffn_up.weight", &[TwiceFeedForward, Embedding], Required),
    rule("model.layers.{}.mlp.down_proj.weight", "blk.{}.ffn_down.weight", &[Embedding, FeedForward], Required),
];

/// Patterns of stored frequencies, which the configuration gives.
pub(super) const FREQUENCIES: &str = "model.layers.{}.self_attn.rotary_emb.inv_freq";
