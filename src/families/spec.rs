//! What a transformer computes, as data.
//!
//! A family's file turns GGUF metadata into a [`DecoderSpec`]; the runtime lowers it to a program.
//! An encoder is the same with attention to both sides and no head over the vocabulary.

use crate::diagnostic::{Diagnostic, Result};

/// One transformer: a decoder, or an encoder whose hidden states are wanted.
#[derive(Clone, Debug, PartialEq)]
pub struct DecoderSpec {
    /// `general.architecture`.
    pub architecture: String,
    /// Transformer blocks.
    pub block_count: usize,
    /// Values of the residual stream.
    pub embedding_length: usize,
    /// Tokens of the vocabulary.
    pub vocab_size: usize,
    /// Positions that the model was trained on.
    pub context_length: usize,
    /// What the embedding is multiplied with: 1 for most, `sqrt(embedding_length)` for Gemma.
    pub embedding_scale: f32,
    /// What is added to a token's embedding, and a norm of the sum: BERT.
    pub embedding_extras: EmbeddingExtras,
    /// What each block's output is multiplied with before it is added to the residual stream.
    pub residual_scale: f32,
    /// The output matrix is the embedding matrix.
    pub tied_embeddings: bool,
    /// The norms of the blocks and the final one.
    pub norm: Norm,
    /// Attention and feed-forward network read the same norm and are added together.
    pub parallel: bool,
    /// Rotary positions.
    pub rope: Rope,
    /// The attention of every block.
    pub attention: Attention,
    /// The feed-forward network of every block.
    pub feed_forward: FeedForward,
    /// What the logits are multiplied with.
    pub logit_scale: f32,
    /// `cap * tanh(logit / cap)`.
    pub logit_soft_cap: Option<f32>,
    /// What is wanted of the last block.
    pub output: Output,
}

/// What comes to a token's embedding before the first block.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct EmbeddingExtras {
    /// A learned vector for each position (`position_embd.weight`): their number, 0 for none.
    pub positions: usize,
    /// A learned vector for each type of token (`token_types.weight`); all tokens are of the first.
    pub token_types: usize,
    /// A norm (`token_embd_norm`).
    pub norm: bool,
}

/// What a model is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Output {
    /// A score of every token of the vocabulary.
    Logits,
    /// The hidden state itself: the model makes embeddings and writes no text.
    Hidden,
}

/// A norm and where it stands.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Norm {
    /// Its formula.
    pub kind: NormKind,
    /// What is added to the mean square, or variance.
    pub epsilon: f32,
    /// Where it stands in a block.
    pub placement: NormPlacement,
}

/// The formula of a norm.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NormKind {
    /// `x / sqrt(mean(x^2) + epsilon) * weight`.
    Rms,
    /// `(x - mean(x)) / sqrt(var(x) + epsilon) * weight + bias`.
    Layer,
}

/// Where the norms of a block stand.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NormPlacement {
    /// Before attention and before the feed-forward network.
    Pre,
    /// After each, before the sum.
    Post,
    /// Before and after each.
    PreAndPost,
    /// After each sum: the first transformers, BERT.
    PostSum,
}

/// Rotary position embedding.
#[derive(Clone, Debug, PartialEq)]
pub struct Rope {
    /// Which values are a pair.
    pub kind: RopeKind,
    /// Values of a head that turn.
    pub dims: usize,
    /// Pair i turns by `position * freq_base^(-2i / dims)`.
    pub freq_base: f32,
    /// How positions beyond the training context are reached.
    pub scaling: RopeScaling,
    /// The base frequency of blocks with a window where it is another; they are not stretched.
    pub local_freq_base: Option<f32>,
}

/// Which values of a head are a pair.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RopeKind {
    /// No rotation.
    None,
    /// 2i and 2i + 1.
    Norm,
    /// i and i + dims / 2.
    Neox,
}

/// How rotary positions are stretched.
#[derive(Clone, Debug, PartialEq)]
pub enum RopeScaling {
    /// Not at all.
    None,
    /// Every angle is divided by `factor`.
    Linear {
        /// At least 1 for a longer context.
        factor: f32,
    },
    /// Each pair's angle is divided by its value of the tensor `rope_freqs.weight` (Llama 3).
    Factors,
    /// YaRN (arXiv:2309.00071).
    Yarn {
        /// How many times the context is extended.
        factor: f32,
        /// Positions that the model was trained on before.
        original_context_length: usize,
        /// What the attention's temperature is multiplied with.
        attention_factor: f32,
        /// Rotations above which a pair is left as it is.
        beta_fast: f32,
        /// Rotations below which a pair is fully stretched.
        beta_slow: f32,
    },
    /// LongRoPE (arXiv:2402.13753): each pair's angle is divided by its value of `rope_factors_short.weight`,
    /// or of `rope_factors_long.weight` where the context is longer than the first training's.
    Long {
        /// Positions that the model was trained on before.
        original_context_length: usize,
        /// What the attention's temperature is multiplied with.
        attention_factor: f32,
    },
}

/// Self-attention, with the positions it sees.
#[derive(Clone, Debug, PartialEq)]
pub struct Attention {
    /// Query heads.
    pub head_count: usize,
    /// Key/value heads; each serves `head_count / head_count_kv` query heads.
    pub head_count_kv: usize,
    /// Values of a query and a key.
    pub key_length: usize,
    /// Values of a value.
    pub value_length: usize,
    /// What scores are multiplied with, `1 / sqrt(key_length)` for most.
    pub scale: f32,
    /// Biases of q, k and v.
    pub qkv_bias: bool,
    /// A bias of the output.
    pub output_bias: bool,
    /// q, k and v are the rows of one matrix (`attn_qkv`).
    pub fused: bool,
    /// A norm of q and k before the rotation (`attn_q_norm`, `attn_k_norm`).
    pub qk_norm: Option<QkNorm>,
    /// A query sees no later position.
    pub causal: bool,
    /// Queries grow with their position.
    pub temperature: Option<Temperature>,
    /// `cap * tanh(score / cap)`.
    pub soft_cap: Option<f32>,
    /// Blocks that see only the latest positions.
    pub window: Option<Window>,
}

/// What the norm of queries and keys is over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum QkNorm {
    /// Each head, root mean square, one weight for all: `[key_length]`.
    Head,
    /// Each head, as a layer norm without bias, each with its weight: `[heads, key_length]`.
    LayerOfHead,
    /// All heads together, root mean square: `[heads * key_length]`.
    All,
}

/// `q * (1 + scale * ln(1 + floor(position / original_context_length)))`: Llama 4's and Ministral's way to
/// attend over long contexts.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Temperature {
    /// How fast queries grow.
    pub scale: f32,
    /// Positions of the first training; below them nothing changes.
    pub original_context_length: usize,
}

/// A sliding window.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Window {
    /// Positions a query sees, its own among them; half of them to each side where attention is not causal.
    pub size: usize,
    /// The blocks that have the window, one entry each.
    pub blocks: Vec<bool>,
}

/// The feed-forward network of a block.
#[derive(Clone, Debug, PartialEq)]
pub struct FeedForward {
    /// Values of the hidden layer.
    pub length: usize,
    /// What is applied to the gate, or to the hidden layer without one.
    pub activation: Activation,
    /// `down(activation(gate(x)) * up(x))`, else `down(activation(up(x)))`.
    pub gated: bool,
    /// Gate and up are the halves of one matrix (`ffn_up`), the gate's rows first.
    pub fused: bool,
    /// Biases of gate and up, and of down.
    pub bias: bool,
    /// A mixture of such networks.
    pub experts: Option<Experts>,
}

/// An activation function.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Activation {
    /// `x / (1 + e^-x)`.
    Silu,
    /// GELU by its tanh approximation.
    GeluTanh,
    /// GELU by the error function.
    GeluErf,
    /// `max(x, 0)`.
    Relu,
    /// `max(x, 0)^2`.
    ReluSquared,
}

/// A mixture of experts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Experts {
    /// Experts in a block.
    pub count: usize,
    /// Experts that a token goes through.
    pub used: usize,
    /// Values of an expert's hidden layer.
    pub length: usize,
    /// Whether the weights of the chosen experts are made to add up to 1.
    pub normalised: bool,
}

impl Experts {
    /// Experts that are there and not more than there are.
    fn fits(&self) -> bool {
        (1..=MAX_EXPERTS).contains(&self.count)
            && (1..=self.count).contains(&self.used)
            && (1..=MAX_DIMENSION).contains(&self.length)
    }
}

/// Experts of a block, at most; known models have up to 512.
const MAX_EXPERTS: usize = 4096;

/// No dimension of a model is larger: products of any three fit in 64 bits, and no table of
/// blocks or heads is unbounded.
const MAX_DIMENSION: usize = 1 << 20;

impl DecoderSpec {
    /// Query heads that share a key/value head.
    pub fn group(&self) -> usize {
        self.attention.head_count / self.attention.head_count_kv.max(1)
    }

    /// True when a block turns by [`Rope::local_freq_base`].
    pub fn is_local(&self, block: usize) -> bool {
        self.rope.local_freq_base.is_some() && self.window(block).is_some()
    }

    /// The window of a block, if it has one.
    pub fn window(&self, block: usize) -> Option<usize> {
        let window = self.attention.window.as_ref()?;
        window.blocks.get(block).copied().unwrap_or(false).then_some(window.size)
    }

    /// Checks that the numbers make sense together: what a lowering may rely on.
    ///
    /// # Errors
    /// Names the first number that does not, by its key in GGUF metadata.
    pub fn check(&self) -> Result<()> {
        let wrong = |key: &str, what: String| {
            Err(Diagnostic::error(format!("key `{}.{key}`: {what}", self.architecture))
                .code("invalid-model")
                .into())
        };
        let (attention, rope) = (&self.attention, &self.rope);
        for (key, value) in [
            ("block_count", self.block_count),
            ("embedding_length", self.embedding_length),
            ("vocab_size", self.vocab_size),
            ("attention.head_count", attention.head_count),
            ("attention.head_count_kv", attention.head_count_kv),
            ("attention.key_length", attention.key_length),
            ("attention.value_length", attention.value_length),
            ("feed_forward_length", self.feed_forward.length),
        ] {
            let limit = if key == "vocab_size" { 16 * MAX_DIMENSION } else { MAX_DIMENSION };
            if value == 0 || value > limit {
                return wrong(key, format!("{value} is not within 1 to {limit}"));
            }
        }
        if !attention.head_count.is_multiple_of(attention.head_count_kv) {
            let (q, kv) = (attention.head_count, attention.head_count_kv);
            return wrong("attention.head_count_kv", format!("{q} query heads do not divide among {kv}"));
        }
        if rope.kind != RopeKind::None {
            if rope.dims == 0 || rope.dims % 2 != 0 || rope.dims > attention.key_length {
                return wrong(
                    "rope.dimension_count",
                    format!("{} is no even number up to the key length {}", rope.dims, attention.key_length),
                );
            }
            if !(rope.freq_base.is_finite() && rope.freq_base > 0.0) {
                return wrong("rope.freq_base", format!("{} is no positive number", rope.freq_base));
            }
        }
        let positive = |v: f32| v.is_finite() && v > 0.0;
        match rope.scaling {
            RopeScaling::Linear { factor } if !positive(factor) => {
                return wrong("rope.scaling.factor", format!("{factor} is no positive number"));
            }
            RopeScaling::Yarn { factor, original_context_length, attention_factor, beta_fast, beta_slow } => {
                if !positive(factor) || !positive(attention_factor) || original_context_length == 0 {
                    return wrong("rope.scaling.factor", "YaRN's numbers must be positive".to_owned());
                }
                if !positive(beta_fast) || !positive(beta_slow) {
                    return wrong("rope.scaling.yarn_beta_fast", "must be positive".to_owned());
                }
            }
            RopeScaling::Long { attention_factor, .. } if !positive(attention_factor) => {
                return wrong(
                    "rope.scaling.attn_factor",
                    format!("{attention_factor} is no positive number"),
                );
            }
            _ => {}
        }
        if rope.local_freq_base.is_some_and(|base| !positive(base)) {
            return wrong("rope.freq_base_swa", "is no positive number".to_owned());
        }
        if let Some(experts) = &self.feed_forward.experts
            && !experts.fits()
        {
            let Experts { count, used, .. } = experts;
            return wrong("expert_used_count", format!("{used} of {count} experts"));
        }
        if let Some(temperature) = &attention.temperature
            && !(temperature.scale.is_finite() && temperature.original_context_length > 0)
        {
            return wrong("attention.temperature_scale", "is no number to scale with".to_owned());
        }
        for (key, value) in [
            ("context_length", self.embedding_extras.positions),
            ("token_type_count", self.embedding_extras.token_types),
        ] {
            if value > 16 * MAX_DIMENSION {
                return wrong(key, format!("{value} is more than {}", 16 * MAX_DIMENSION));
            }
        }
        if !(self.norm.epsilon.is_finite() && self.norm.epsilon >= 0.0) {
            return wrong("attention.layer_norm_rms_epsilon", format!("{} is no epsilon", self.norm.epsilon));
        }
        for (key, value) in [
            ("attention.scale", attention.scale),
            ("embedding_scale", self.embedding_scale),
            ("residual_scale", self.residual_scale),
            ("logit_scale", self.logit_scale),
        ] {
            if !value.is_finite() {
                return wrong(key, format!("{value} is no number to scale with"));
            }
        }
        for (key, cap) in
            [("attn_logit_softcapping", attention.soft_cap), ("final_logit_softcapping", self.logit_soft_cap)]
        {
            if let Some(cap) = cap
                && !(cap.is_finite() && cap > 0.0)
            {
                return wrong(key, format!("{cap} is no positive number"));
            }
        }
        if let Some(window) = &attention.window
            && (window.size == 0 || window.blocks.len() != self.block_count)
        {
            return wrong("attention.sliding_window", "does not fit the blocks".to_owned());
        }
        Ok(())
    }
}
