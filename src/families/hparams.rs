//! What the configurations of all families have in common, as GGUF metadata: sizes, epsilons, rotary positions,
//! under the names and in the types that llama.cpp's converter writes.

use super::Imported;
use crate::diagnostic::Result;
use crate::formats::hf_config::Config;
use crate::ir::{Metadata, Value};

/// What changes nothing in the arithmetic of a forward pass, in any family.
const WITHOUT_EFFECT: &[&str] = &[
    "architectures",
    "model_type",
    "auto_map",
    "torch_dtype",
    "dtype",
    "transformers_version",
    "use_cache",
    "initializer_range",
    "initializer_factor",
    "attention_dropout",
    "hidden_dropout",
    "hidden_dropout_prob",
    "attention_probs_dropout_prob",
    "embd_pdrop",
    "resid_pdrop",
    "attn_pdrop",
    "mlp_dropout",
    "classifier_dropout",
    "pretraining_tp",
    "bos_token_id",
    "eos_token_id",
    "pad_token_id",
    "image_token_index",
    "image_token_id",
    "_name_or_path",
    "name_or_path",
    "is_llama_config",
    "rope_interleaved",
    "_attn_implementation_autoset",
    "attn_implementation",
    "output_attentions",
    "output_hidden_states",
    "return_dict",
    "is_decoder",
    "transformers.js_config",
    "unsloth_version",
    "unsloth_fixed",
    "router_aux_loss_coef",
    "output_router_logits",
    "router_jitter_noise",
    // Whoever read the weights has read it.
    "quantization_config",
];

/// Values of a head, at most; known models have 64 to 512.
const MAX_HEAD_DIM: u64 = 1 << 16;

/// Whether the length of a head is written.
#[derive(Clone, Copy, Default, PartialEq, Eq)]
pub(super) enum HeadLength {
    /// Where the configuration has it.
    #[default]
    WhereGiven,
    /// The family's configuration class always has it.
    Always,
    /// It is the width over the heads, whatever the configuration says.
    Never,
}

/// What a family takes where its configuration is silent: what `transformers` takes.
#[derive(Clone, Copy, Default)]
pub(super) struct Defaults {
    pub(super) heads: Option<u64>,
    pub(super) kv_heads: Option<u64>,
    /// A family whose heads need not be `hidden_size / heads` long.
    pub(super) head_dim: Option<u64>,
    pub(super) head_length: HeadLength,
    pub(super) context: Option<u64>,
    pub(super) epsilon: Option<f32>,
    pub(super) vocabulary: Option<u64>,
    pub(super) tied: bool,
}

/// Names of an epsilon, and the key it gets.
pub(super) struct Epsilon {
    names: &'static [&'static str],
    key: &'static str,
}

/// That of a root-mean-square norm.
pub(super) const RMS: Epsilon =
    Epsilon { names: &["rms_norm_eps", "norm_eps"], key: "attention.layer_norm_rms_epsilon" };
/// That of a layer norm.
pub(super) const LAYER: Epsilon = Epsilon {
    names: &["layer_norm_eps", "layer_norm_epsilon", "norm_epsilon", "norm_eps"],
    key: "attention.layer_norm_epsilon",
};

/// A configuration that is being read, and the metadata made of it.
pub(super) struct Hparams<'a> {
    pub(super) config: &'a Config,
    architecture: &'static str,
    metadata: Metadata,
    derived: Vec<(&'static str, Vec<f32>)>,
    tied: bool,
    vocabulary: u64,
    pub(super) blocks: u64,
    pub(super) embedding: u64,
    pub(super) heads: u64,
    pub(super) head_dim: u64,
    pub(super) context: u64,
}

impl<'a> Hparams<'a> {
    /// Reads what every family has and writes it.
    ///
    /// # Errors
    /// A value is missing, of another type, or does not fit the others.
    pub(super) fn read(
        architecture: &'static str,
        config: &'a Config,
        epsilon: &Epsilon,
        defaults: Defaults,
    ) -> Result<Hparams<'a>> {
        config.ignore(WITHOUT_EFFECT);
        let required = |names: &[&str], default: Option<u64>| match (config.optional_size(names)?, default) {
            (None, None) => config.size(names),
            (value, default) => Ok(value.or(default).unwrap_or_default()),
        };
        let blocks = required(&["num_hidden_layers", "n_layers", "n_layer"], None)?;
        let context = required(&["max_position_embeddings", "n_ctx", "n_positions"], defaults.context)?;
        let embedding = required(&["hidden_size", "n_embd"], None)?;
        let heads = required(&["num_attention_heads", "n_head"], defaults.heads)?;
        let kv_heads = config.optional_size("num_key_value_heads")?.or(defaults.kv_heads);
        let own_head_dim = config.optional_size("head_dim")?;
        let head_dim = match own_head_dim.or(defaults.head_dim) {
            Some(dim) if defaults.head_length != HeadLength::Never => dim,
            _ if embedding.is_multiple_of(heads) => embedding / heads,
            _ => {
                let message = format!("{heads} does not divide hidden_size");
                return Err(config.error("num_attention_heads", message).into());
            }
        };
        // A vector as long is made for the scaling of positions before any tensor's shape is looked at.
        if head_dim > MAX_HEAD_DIM {
            return Err(config.error("head_dim", format!("{head_dim} is more than {MAX_HEAD_DIM}")).into());
        }
        if !head_dim.is_multiple_of(2) {
            let message = format!("{head_dim} is odd; rotary positions need pairs");
            return Err(config.error("head_dim", message).into());
        }
        if let Some(kv_heads) = kv_heads.filter(|n| !heads.is_multiple_of(*n)) {
            let message = format!("{kv_heads} does not divide the {heads} attention heads");
            return Err(config.error("num_key_value_heads", message).into());
        }
        let vocabulary = required(&["vocab_size"], defaults.vocabulary)?;
        let tied = config.optional_bool("tie_word_embeddings")?.unwrap_or(defaults.tied);
        let metadata = Metadata::default();
        let derived = Vec::new();
        let mut this = Hparams {
            config,
            architecture,
            metadata,
            derived,
            tied,
            vocabulary,
            blocks,
            embedding,
            heads,
            head_dim,
            context,
        };
        this.size("block_count", blocks, "num_hidden_layers")?;
        this.size("context_length", context, "max_position_embeddings")?;
        this.size("embedding_length", embedding, "hidden_size")?;
        if let Some(length) = config.optional_size(["intermediate_size", "n_inner"])? {
            this.size("feed_forward_length", length, "intermediate_size")?;
        }
        this.size("attention.head_count", heads, "num_attention_heads")?;
        if let Some(kv_heads) = kv_heads {
            this.size("attention.head_count_kv", kv_heads, "num_key_value_heads")?;
        }
        let given = own_head_dim.or(defaults.head_dim).is_some();
        match defaults.head_length {
            HeadLength::WhereGiven if !given => {}
            HeadLength::Never => {}
            HeadLength::WhereGiven | HeadLength::Always => {
                this.size("attention.key_length", head_dim, "head_dim")?;
                this.size("attention.value_length", head_dim, "head_dim")?;
            }
        }
        this.epsilon(epsilon, defaults.epsilon)?;
        Ok(this)
    }

    fn epsilon(&mut self, epsilon: &Epsilon, default: Option<f32>) -> Result<()> {
        let name = epsilon.names[0];
        let value = match (self.config.optional_f32(epsilon.names)?, default) {
            (None, None) => self.config.f32(epsilon.names)?,
            (value, default) => value.or(default).unwrap_or_default(),
        };
        if value < 0.0 {
            return Err(self.config.error(name, "must not be negative").into());
        }
        self.set(epsilon.key, value);
        Ok(())
    }

    /// Sets a key of the architecture.
    pub(super) fn set(&mut self, key: &str, value: impl Into<Value>) {
        self.metadata.set(format!("{}.{key}", self.architecture), value);
    }

    /// Sets a key that is not the architecture's own, such as a tokenizer's.
    pub(super) fn set_global(&mut self, key: &str, value: impl Into<Value>) {
        self.metadata.set(key, value);
    }

    /// Sets a key to a size, of which errors speak by its `name` in the configuration.
    ///
    /// # Errors
    /// It does not fit in 32 bits.
    pub(super) fn size(&mut self, key: &str, value: u64, name: &str) -> Result<()> {
        let narrow = u32::try_from(value)
            .map_err(|_| self.config.error(name, format!("{value} does not fit in 32 bits")))?;
        self.set(key, narrow);
        Ok(())
    }

    /// Sets a key to the number at `name`, if it is there.
    ///
    /// # Errors
    /// It is no number.
    pub(super) fn copy_f32(&mut self, key: &str, name: &str) -> Result<()> {
        if let Some(value) = self.config.optional_f32(name)? {
            self.set(key, value);
        }
        Ok(())
    }

    /// Sets a key to the size at `name`, if it is there.
    ///
    /// # Errors
    /// It is no size.
    pub(super) fn copy_size(&mut self, key: &str, name: &str) -> Result<()> {
        match self.config.optional_size(name)? {
            Some(value) => self.size(key, value, name),
            None => Ok(()),
        }
    }

    /// Sets `vocab_size`, which some architectures have.
    ///
    /// # Errors
    /// It does not fit in 32 bits.
    pub(super) fn vocab_size(&mut self) -> Result<()> {
        self.size("vocab_size", self.vocabulary, "vocab_size")
    }

    /// Fails unless the activation is one of `allowed`.
    ///
    /// # Errors
    /// It is another.
    pub(super) fn activation(&self, allowed: &[&str]) -> Result<()> {
        let allowed: Vec<serde_json::Value> = allowed.iter().map(|name| (*name).into()).collect();
        self.config.require(["hidden_activation", "hidden_act"], &allowed)
    }

    /// Counts keys as read.
    pub(super) fn ignore(&self, keys: &[&str]) {
        self.config.ignore(keys);
    }

    /// Adds a vector that no checkpoint has.
    pub(super) fn derive(&mut self, name: &'static str, values: Vec<f32>) {
        self.derived.push((name, values));
    }

    /// The blocks that have a sliding window, where `layer_types` says it.
    ///
    /// # Errors
    /// It says something else, or not of every block.
    pub(super) fn window_blocks(&self) -> Result<Option<Vec<bool>>> {
        let Some(types) = self.config.optional_strs("layer_types")? else { return Ok(None) };
        let window = |name: &&str| -> Result<bool> {
            match *name {
                "sliding_attention" => Ok(true),
                "full_attention" => Ok(false),
                other => {
                    let message = format!("attention of the kind \"{other}\" is not supported");
                    Err(self.config.error("layer_types", message).into())
                }
            }
        };
        let blocks = types.iter().map(window).collect::<Result<Vec<bool>>>()?;
        if blocks.len() as u64 != self.blocks {
            let message = format!("{} entries for {} layers", blocks.len(), self.blocks);
            return Err(self.config.error("layer_types", message).into());
        }
        Ok(Some(blocks))
    }

    /// What the configuration says.
    pub(super) fn finish(self) -> Imported {
        Imported {
            metadata: self.metadata,
            derived: self.derived,
            tied: self.tied,
            vocab_size: Some(self.vocabulary),
        }
    }

    /// As [`Hparams::finish`], of a family that never has a head of its own.
    pub(super) fn finish_tied(self) -> Imported {
        Imported { tied: true, ..self.finish() }
    }
}
