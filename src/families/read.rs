//! What the GGUF files of all families have in common: metadata to a [`DecoderSpec`], which a family then changes.

use super::rope_config::DEFAULT_THETA;
use super::spec::{
    Activation, Attention, DecoderSpec, EmbeddingExtras, Experts, FeedForward, Norm, NormKind, NormPlacement,
    Output, Rope, RopeKind, RopeScaling, Window,
};
use crate::diagnostic::{Diagnostic, Result};
use crate::ir::Metadata;

/// Metadata of one architecture, and the names of the tensors there are.
pub(super) struct Reader<'a> {
    architecture: &'a str,
    metadata: &'a Metadata,
    has: &'a dyn Fn(&str) -> bool,
}

impl<'a> Reader<'a> {
    /// A reader of the keys that begin with the architecture's name.
    pub(super) fn new(
        architecture: &'a str,
        metadata: &'a Metadata,
        has: &'a dyn Fn(&str) -> bool,
    ) -> Reader<'a> {
        Reader { architecture, metadata, has }
    }

    /// True when the tensor is there.
    pub(super) fn has(&self, tensor: &str) -> bool {
        (self.has)(tensor)
    }

    fn key(&self, key: &str) -> String {
        format!("{}.{key}", self.architecture)
    }

    /// A number of 0 or more, if the key is there.
    pub(super) fn optional(&self, key: &str) -> Option<usize> {
        self.metadata.u64(&self.key(key)).and_then(|v| usize::try_from(v).ok())
    }

    /// A number of 0 or more.
    ///
    /// # Errors
    /// The key is missing.
    pub(super) fn number(&self, key: &str) -> Result<usize> {
        self.optional(key).ok_or_else(|| self.missing(key).into())
    }

    /// A float, if the key is there.
    pub(super) fn f32(&self, key: &str) -> Option<f32> {
        self.metadata.f32(&self.key(key))
    }

    /// A string, if the key is there.
    pub(super) fn str(&self, key: &str) -> Option<&str> {
        self.metadata.str(&self.key(key))
    }

    /// A boolean, if the key is there.
    pub(super) fn bool(&self, key: &str) -> Option<bool> {
        self.metadata.bool(&self.key(key))
    }

    /// An error about a key that is missing.
    pub(super) fn missing(&self, key: &str) -> Diagnostic {
        Diagnostic::error(format!("key `{}.{key}` is missing or no number of its type", self.architecture))
            .code("invalid-model")
    }

    /// The specification as most families have it: norms before each part, halves that turn, SiLU with a gate.
    ///
    /// # Errors
    /// A key is missing, or asks for what is not supported.
    pub(super) fn spec(&self) -> Result<DecoderSpec> {
        let embedding_length = self.number("embedding_length")?;
        let head_count = self.number("attention.head_count")?;
        let per_head = embedding_length.checked_div(head_count).unwrap_or(0);
        let key_length = self.optional("attention.key_length").unwrap_or(per_head);
        let tokens = self.metadata.array("tokenizer.ggml.tokens").map(|t| t.len());
        let vocab_size = tokens.or(self.optional("vocab_size")).ok_or_else(|| self.missing("vocab_size"))?;
        let any = |names: &[&str]| names.iter().any(|name| self.has(name));
        Ok(DecoderSpec {
            architecture: self.architecture.to_owned(),
            block_count: self.number("block_count")?,
            embedding_length,
            vocab_size,
            context_length: self.number("context_length")?,
            embedding_scale: 1.0,
            embedding_extras: EmbeddingExtras::default(),
            residual_scale: 1.0,
            tied_embeddings: !self.has("output.weight"),
            norm: self.norm()?,
            parallel: false,
            rope: Rope {
                kind: RopeKind::Neox,
                dims: self.optional("rope.dimension_count").unwrap_or(key_length),
                freq_base: self.f32("rope.freq_base").unwrap_or(DEFAULT_THETA),
                scaling: self.scaling()?,
                local_freq_base: None,
            },
            attention: Attention {
                head_count,
                head_count_kv: self.optional("attention.head_count_kv").unwrap_or(head_count),
                key_length,
                value_length: self.optional("attention.value_length").unwrap_or(per_head),
                scale: 1.0 / (key_length as f32).sqrt(),
                qkv_bias: any(&["blk.0.attn_q.bias", "blk.0.attn_qkv.bias"]),
                output_bias: self.has("blk.0.attn_output.bias"),
                fused: self.has("blk.0.attn_qkv.weight"),
                qk_norm: None,
                causal: self.bool("attention.causal").unwrap_or(true),
                temperature: None,
                soft_cap: None,
                window: None,
            },
            feed_forward: FeedForward {
                length: self.optional("feed_forward_length").unwrap_or(0),
                activation: Activation::Silu,
                gated: true,
                fused: false,
                bias: any(&["blk.0.ffn_up.bias", "blk.0.ffn_down.bias"]),
                experts: self.experts()?,
            },
            logit_scale: 1.0,
            logit_soft_cap: None,
            output: Output::Logits,
        })
    }

    fn norm(&self) -> Result<Norm> {
        let rms = self.f32("attention.layer_norm_rms_epsilon");
        let (kind, epsilon) = match (rms, self.f32("attention.layer_norm_epsilon")) {
            (Some(epsilon), _) => (NormKind::Rms, epsilon),
            (None, Some(epsilon)) => (NormKind::Layer, epsilon),
            (None, None) => return Err(self.missing("attention.layer_norm_rms_epsilon").into()),
        };
        Ok(Norm { kind, epsilon, placement: NormPlacement::Pre })
    }

    fn experts(&self) -> Result<Option<Experts>> {
        let count = self.optional("expert_count").unwrap_or(0);
        if count == 0 {
            return Ok(None);
        }
        let length = self.optional("expert_feed_forward_length").or(self.optional("feed_forward_length"));
        Ok(Some(Experts {
            count,
            used: self.number("expert_used_count")?,
            length: length.ok_or_else(|| self.missing("expert_feed_forward_length"))?,
            normalised: true,
        }))
    }

    fn scaling(&self) -> Result<RopeScaling> {
        if self.has("rope_freqs.weight") {
            return Ok(RopeScaling::Factors);
        }
        if self.has("rope_factors_long.weight") {
            return Ok(RopeScaling::Long {
                original_context_length: self.number("rope.scaling.original_context_length")?,
                attention_factor: self.f32("rope.scaling.attn_factor").unwrap_or(1.0),
            });
        }
        let key = "rope.scaling.factor";
        let factor = || -> Result<f32> { self.f32(key).ok_or_else(|| self.missing(key).into()) };
        match self.str("rope.scaling.type").unwrap_or("none") {
            "none" => Ok(RopeScaling::None),
            "linear" => Ok(RopeScaling::Linear { factor: factor()? }),
            "yarn" => {
                let factor = factor()?;
                let original_context_length = self
                    .optional("rope.scaling.original_context_length")
                    .or(self.optional("context_length"))
                    .unwrap_or(0);
                // arXiv:2309.00071, equation 22, and its refinement with two scales.
                let magnitude =
                    |scale: f32| if factor > 1.0 { 0.1 * scale * libm::logf(factor) + 1.0 } else { 1.0 };
                let attention_factor = match self.f32("rope.scaling.yarn_log_multiplier") {
                    Some(all) if all != 0.0 => magnitude(1.0) / magnitude(all),
                    _ => magnitude(1.0),
                };
                Ok(RopeScaling::Yarn {
                    factor,
                    original_context_length,
                    attention_factor: self.f32("rope.scaling.yarn_attn_factor").unwrap_or(attention_factor),
                    beta_fast: self.f32("rope.scaling.yarn_beta_fast").unwrap_or(32.0),
                    beta_slow: self.f32("rope.scaling.yarn_beta_slow").unwrap_or(1.0),
                })
            }
            other => {
                let message =
                    format!("key `{}.rope.scaling.type`: `{other}` is not supported", self.architecture);
                Err(Diagnostic::error(message).code("unsupported").into())
            }
        }
    }

    /// The sliding window, in the blocks that `attention.sliding_window_pattern` names one by one, else in those of
    /// which `usual` is true.
    pub(super) fn window(&self, usual: impl Fn(usize) -> bool) -> Option<Window> {
        let size = self.optional("attention.sliding_window").filter(|size| *size > 0)?;
        let blocks = match self.metadata.array(&self.key("attention.sliding_window_pattern")) {
            Some(crate::ir::Array::Bool(blocks)) => blocks.clone(),
            _ => (0..self.optional("block_count").unwrap_or(0).min(1 << 20)).map(usual).collect(),
        };
        Some(Window { size, blocks })
    }
}
