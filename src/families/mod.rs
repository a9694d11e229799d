//! One file per model family; to support a new family is to write one file and add it to
//! [`FAMILIES`].
//!
//! A [`Family`] is data: which checkpoints and GGUF files it reads, how a checkpoint's tensors are
//! named in GGUF and which shapes they have, and two functions that translate configurations: a
//! checkpoint's to GGUF metadata, and GGUF metadata to the [`DecoderSpec`] that
//! the runtime executes.

mod llama;
pub mod spec;

use crate::diagnostic::{Diagnostic, Result};
use crate::formats::hf_config::Config;
use crate::ir::Metadata;
use spec::DecoderSpec;

/// Every family there is.
pub const FAMILIES: &[&Family] = &[&llama::LLAMA];

/// A model family.
pub struct Family {
    /// `general.architecture` of its GGUF files.
    pub architecture: &'static str,
    /// `architectures[0]` of its Hugging Face checkpoints.
    pub checkpoints: &'static [&'static str],
    /// Its tensors.
    pub tensors: &'static [TensorRule],
    /// Patterns of checkpoint tensors that carry no weights, such as stored RoPE frequencies.
    pub ignored: &'static [&'static str],
    /// GGUF tensors that no checkpoint has; they may be there.
    pub derived: &'static [&'static str],
    /// Translates a checkpoint's configuration.
    pub import: fn(&Config) -> Result<Imported>,
    /// Reads the decoder's specification from GGUF metadata and the names of the tensors there are.
    pub spec: SpecReader,
}

/// Reads a specification from metadata; the function tells whether a tensor is there.
pub type SpecReader = fn(&Metadata, &dyn Fn(&str) -> bool) -> Result<DecoderSpec>;

/// What a checkpoint's configuration says.
pub struct Imported {
    /// The architecture's key-values, in the order they are written.
    pub metadata: Metadata,
    /// Vectors computed from the configuration, by GGUF name.
    pub derived: Vec<(&'static str, Vec<f32>)>,
    /// The output matrix is the embedding matrix.
    pub tied: bool,
}

/// A dimension that metadata decides.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Dim {
    /// `embedding_length`
    Embedding,
    /// `feed_forward_length`
    FeedForward,
    /// The number of tokens.
    Vocabulary,
    /// `attention.head_count` heads of keys.
    Queries,
    /// `attention.head_count_kv` heads of keys.
    Keys,
    /// `attention.head_count_kv` heads of values.
    Values,
    /// `attention.head_count` heads of values.
    Attended,
}

/// How the rows of a checkpoint's tensor are ordered in GGUF.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rows {
    /// The same.
    AsTheyAre,
    /// Interleaved for RoPE, in query heads.
    RopeQueries,
    /// Interleaved for RoPE, in key/value heads.
    RopeKeys,
}

/// Whether a tensor must be there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Presence {
    /// A model without it is refused.
    Required,
    /// It may be there.
    Optional,
    /// The output matrix: required unless the embeddings are tied.
    Untied,
}

/// One kind of tensor of a family. `{}` in the names is the number of the block.
#[derive(Clone, Copy, Debug)]
pub struct TensorRule {
    /// The name in a checkpoint.
    pub checkpoint: &'static str,
    /// The name in GGUF.
    pub gguf: &'static str,
    /// The shape, outermost first.
    pub shape: &'static [Dim],
    /// The order of rows.
    pub rows: Rows,
    /// Whether it must be there.
    pub presence: Presence,
}

impl TensorRule {
    /// True for a tensor of every block.
    pub fn is_per_block(&self) -> bool {
        self.gguf.contains("{}")
    }
}

/// `name` matched against a pattern with at most one `{}`, which stands for a number. Returns the number.
pub fn match_pattern(pattern: &str, name: &str) -> Option<Option<u64>> {
    let Some((before, after)) = pattern.split_once("{}") else {
        return (pattern == name).then_some(None);
    };
    let number = name.strip_prefix(before)?.strip_suffix(after)?;
    // One spelling for each number, so that two names never mean one tensor.
    let canonical = number == "0" || !number.starts_with('0') && number.bytes().all(|b| b.is_ascii_digit());
    canonical.then(|| number.parse().ok()).flatten().map(Some)
}

/// The pattern's name for a block.
pub fn fill_pattern(pattern: &str, block: Option<u64>) -> String {
    match block {
        Some(n) => pattern.replacen("{}", &n.to_string(), 1),
        None => pattern.to_owned(),
    }
}

impl Family {
    /// The rule of a checkpoint's tensor, and its block.
    pub fn by_checkpoint_name(&self, name: &str) -> Option<(&'static TensorRule, Option<u64>)> {
        self.tensors.iter().find_map(|rule| Some((rule, match_pattern(rule.checkpoint, name)?)))
    }

    /// The rule of a GGUF tensor, and its block.
    pub fn by_gguf_name(&self, name: &str) -> Option<(&'static TensorRule, Option<u64>)> {
        self.tensors.iter().find_map(|rule| Some((rule, match_pattern(rule.gguf, name)?)))
    }

    /// True for a checkpoint tensor that carries no weights.
    pub fn ignores(&self, name: &str) -> bool {
        self.ignored.iter().any(|pattern| match_pattern(pattern, name).is_some())
    }

    /// The size a dimension has in a model with this metadata.
    pub fn dim(&self, dim: Dim, metadata: &Metadata) -> Option<u64> {
        let number = |key: &str| metadata.u64(&format!("{}.{key}", self.architecture));
        let heads = number("attention.head_count");
        let kv_heads = number("attention.head_count_kv").or(heads);
        let per_head = || number("embedding_length")?.checked_div(heads?);
        let key = number("attention.key_length").or_else(per_head);
        let value = number("attention.value_length").or_else(per_head);
        match dim {
            Dim::Embedding => number("embedding_length"),
            Dim::FeedForward => number("feed_forward_length"),
            Dim::Vocabulary => match metadata.array("tokenizer.ggml.tokens") {
                Some(tokens) => Some(tokens.len() as u64),
                None => number("vocab_size"),
            },
            Dim::Queries => heads?.checked_mul(key?),
            Dim::Keys => kv_heads?.checked_mul(key?),
            Dim::Values => kv_heads?.checked_mul(value?),
            Dim::Attended => heads?.checked_mul(value?),
        }
    }

    /// The number of heads that a row order interleaves.
    pub fn heads(&self, rows: Rows, metadata: &Metadata) -> Option<u64> {
        let heads = metadata.u64(&format!("{}.attention.head_count", self.architecture));
        match rows {
            Rows::AsTheyAre => None,
            Rows::RopeQueries => heads,
            Rows::RopeKeys => {
                metadata.u64(&format!("{}.attention.head_count_kv", self.architecture)).or(heads)
            }
        }
    }
}

/// The family of a GGUF architecture.
///
/// # Errors
/// No family reads it.
pub fn by_architecture(architecture: &str) -> Result<&'static Family> {
    FAMILIES.iter().copied().find(|f| f.architecture == architecture).ok_or_else(|| {
        let known: Vec<&str> = FAMILIES.iter().map(|f| f.architecture).collect();
        Diagnostic::error(format!("the architecture `{architecture}` is not supported"))
            .code("unknown-architecture")
            .help(format!("supported: {}", known.join(", ")))
            .into()
    })
}

/// The family of a Hugging Face architecture.
///
/// # Errors
/// No family reads it.
pub fn by_checkpoint(architecture: &str) -> Result<&'static Family> {
    FAMILIES.iter().copied().find(|f| f.checkpoints.contains(&architecture)).ok_or_else(|| {
        let known: Vec<&str> = FAMILIES.iter().flat_map(|f| f.checkpoints).copied().collect();
        Diagnostic::error(format!("checkpoints of `{architecture}` are not supported"))
            .code("unknown-architecture")
            .help(format!("supported: {}", known.join(", ")))
            .into()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_match_one_spelling_of_a_number() {
        assert_eq!(match_pattern("blk.{}.attn_q.weight", "blk.12.attn_q.weight"), Some(Some(12)));
        assert_eq!(match_pattern("blk.{}.attn_q.weight", "blk.012.attn_q.weight"), None);
        assert_eq!(match_pattern("blk.{}.attn_q.weight", "blk..attn_q.weight"), None);
        assert_eq!(match_pattern("blk.{}.attn_q.weight", "blk.+1.attn_q.weight"), None);
        assert_eq!(match_pattern("output.weight", "output.weight"), Some(None));
    }

    #[test]
    fn no_two_rules_of_a_family_share_a_name() {
        for family in FAMILIES {
            for (i, rule) in family.tensors.iter().enumerate() {
                for other in &family.tensors[..i] {
                    assert_ne!(rule.gguf, other.gguf);
                    assert_ne!(rule.checkpoint, other.checkpoint);
                }
            }
        }
    }
}
