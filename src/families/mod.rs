//! One file per model family; to support a new family is to write one file and add it to
//! [`FAMILIES`].
//!
//! A [`Family`] is data: which checkpoints and GGUF files it reads, how a checkpoint's tensors are
//! named in GGUF and which shapes they have, and two functions that translate configurations: a
//! checkpoint's to GGUF metadata, and GGUF metadata to the [`DecoderSpec`] that
//! the runtime executes.

mod bert;
mod gemma;
mod gemma2;
mod gemma3;
mod glm4;
mod granite;
mod hparams;
mod llama;
mod mistral3;
mod nomic_bert;
mod olmo2;
mod phi3;
mod qwen2;
mod qwen3;
mod read;
mod rope_config;
mod rules;
pub mod spec;
mod stablelm;

use crate::diagnostic::{Diagnostic, Result};
use crate::formats::hf_config::Config;
use crate::ir::Metadata;
use spec::DecoderSpec;

/// Every family there is.
pub const FAMILIES: &[&Family] = &[
    &llama::LLAMA,
    &mistral3::MISTRAL3,
    &gemma::GEMMA,
    &gemma2::GEMMA2,
    &gemma3::GEMMA3,
    &phi3::PHI3,
    &qwen2::QWEN2,
    &qwen3::QWEN3,
    &qwen3::QWEN3_MOE,
    &granite::GRANITE,
    &olmo2::OLMO2,
    &stablelm::STABLELM,
    &glm4::GLM4,
    &bert::BERT,
    &nomic_bert::NOMIC_BERT,
    &gemma3::EMBEDDING_GEMMA,
];

/// A model family.
pub struct Family {
    /// `general.architecture` of its GGUF files.
    pub architecture: &'static str,
    /// `architectures[0]` of its Hugging Face checkpoints.
    pub checkpoints: &'static [&'static str],
    /// Its tensors, in groups.
    pub tensors: &'static [&'static [TensorRule]],
    /// Patterns of checkpoint tensors that text does not need, such as stored RoPE frequencies, or a part that sees.
    /// `*` at the end stands for any rest.
    pub ignored: &'static [&'static str],
    /// GGUF tensors that no checkpoint has; they may be there.
    pub derived: &'static [&'static str],
    /// How text is cut before merges, by GGUF's name, where the files of a tokenizer do not say it.
    pub pre_tokenizer: Option<&'static str>,
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
    /// Rows of the embedding, as the configuration says: a vocabulary that is shorter is padded.
    pub vocab_size: Option<u64>,
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
    /// Queries, keys and values, in one matrix.
    QueriesKeysValues,
    /// `attention.head_count`
    Heads,
    /// `attention.head_count_kv`
    KeyHeads,
    /// Values of a key.
    HeadLength,
    /// Twice the `feed_forward_length`: gate and up in one matrix.
    TwiceFeedForward,
    /// `expert_count`
    Experts,
    /// `expert_feed_forward_length`, or `feed_forward_length` where that is not said.
    ExpertFeedForward,
    /// `context_length`, where each position has a vector.
    Positions,
    /// `tokenizer.ggml.token_type_count`
    TokenTypes,
    /// Whatever it is: the next tensor decides.
    Any,
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
    /// Required in a model with experts, else it must not be there.
    WithExperts,
    /// Required in a model without experts.
    WithoutExperts,
}

/// How a GGUF tensor is made of what the checkpoint has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Make {
    /// It is the same.
    Same,
    /// One is added to each value.
    PlusOne,
    /// The tensors whose names differ in the second number, one after the other.
    Stack,
    /// The rows of the vocabulary; those beyond are left out.
    Vocabulary,
}

/// One kind of tensor of a family. The first `{}` in the names is the number of the block.
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
    /// How it is made.
    pub make: Make,
}

impl TensorRule {
    /// The rule, where a model has no experts.
    const fn unless_experts(self) -> TensorRule {
        TensorRule { presence: Presence::WithoutExperts, ..self }
    }

    /// True when a model must have the tensor; `experts` tells whether it has experts.
    pub fn is_required(&self, experts: bool) -> bool {
        match self.presence {
            Presence::Required => true,
            Presence::Optional | Presence::Untied => false,
            Presence::WithExperts => experts,
            Presence::WithoutExperts => !experts,
        }
    }

    /// True for a tensor of every block.
    pub fn is_per_block(&self) -> bool {
        self.gguf.contains("{}")
    }
}

/// The numbers that a name has where its pattern has `{}`: the block's, and a part's.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Numbers {
    /// The first.
    pub block: Option<u64>,
    /// The second.
    pub part: Option<u64>,
}

/// `name` matched against a pattern in which `{}` stands for a number, twice at most.
pub fn match_pattern(pattern: &str, name: &str) -> Option<Numbers> {
    let mut numbers = Numbers::default();
    let mut rest = name;
    let mut parts = pattern.split("{}");
    rest = rest.strip_prefix(parts.next()?)?;
    for (i, literal) in parts.enumerate() {
        let digits = rest.bytes().take_while(u8::is_ascii_digit).count();
        let (number, after) = rest.split_at(digits);
        // One spelling for each number, so that two names never mean one tensor.
        if number.is_empty() || (number.len() > 1 && number.starts_with('0')) {
            return None;
        }
        let number = Some(number.parse().ok()?);
        match i {
            0 => numbers.block = number,
            _ => numbers.part = number,
        }
        rest = after.strip_prefix(literal)?;
    }
    rest.is_empty().then_some(numbers)
}

/// The pattern's name for a block.
pub fn fill_pattern(pattern: &str, block: Option<u64>) -> String {
    match block {
        Some(n) => pattern.replacen("{}", &n.to_string(), 1),
        None => pattern.to_owned(),
    }
}

impl Family {
    /// Every rule.
    pub fn rules(&self) -> impl Iterator<Item = &'static TensorRule> {
        self.tensors.iter().copied().flatten()
    }

    /// The rule of a checkpoint's tensor, and its numbers.
    pub fn by_checkpoint_name(&self, name: &str) -> Option<(&'static TensorRule, Numbers)> {
        self.rules().find_map(|rule| Some((rule, match_pattern(rule.checkpoint, name)?)))
    }

    /// The rule of a GGUF tensor, and its block.
    pub fn by_gguf_name(&self, name: &str) -> Option<(&'static TensorRule, Option<u64>)> {
        self.rules().find_map(|rule| Some((rule, match_pattern(rule.gguf, name)?.block)))
    }

    /// True for a checkpoint tensor that text does not need.
    pub fn ignores(&self, name: &str) -> bool {
        self.ignored.iter().any(|pattern| match pattern.strip_suffix('*') {
            Some(prefix) => name.starts_with(prefix),
            None => match_pattern(pattern, name).is_some(),
        })
    }

    /// True when metadata speaks of experts.
    pub fn has_experts(&self, metadata: &Metadata) -> bool {
        metadata.u64(&format!("{}.expert_count", self.architecture)).is_some_and(|n| n > 0)
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
            Dim::QueriesKeysValues => {
                let keys = heads?.checked_add(kv_heads?)?.checked_mul(key?)?;
                keys.checked_add(kv_heads?.checked_mul(value?)?)
            }
            Dim::Heads => heads,
            Dim::KeyHeads => kv_heads,
            Dim::HeadLength => key,
            Dim::TwiceFeedForward => number("feed_forward_length")?.checked_mul(2),
            Dim::Experts => number("expert_count"),
            Dim::ExpertFeedForward => {
                number("expert_feed_forward_length").or_else(|| number("feed_forward_length"))
            }
            Dim::Positions => number("context_length"),
            Dim::TokenTypes => metadata.u64("tokenizer.ggml.token_type_count"),
            Dim::Any => None,
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
        let known = FAMILIES.iter().map(|f| f.architecture);
        unknown(format!("the architecture `{architecture}` is not supported"), architecture, known).into()
    })
}

/// The family of a Hugging Face architecture.
///
/// # Errors
/// No family reads it.
pub fn by_checkpoint(architecture: &str) -> Result<&'static Family> {
    FAMILIES.iter().copied().find(|f| f.checkpoints.contains(&architecture)).ok_or_else(|| {
        let known = FAMILIES.iter().flat_map(|f| f.checkpoints).copied();
        unknown(format!("checkpoints of `{architecture}` are not supported"), architecture, known).into()
    })
}

/// An error about a name that no family has: the nearest that there are, then all.
fn unknown(message: String, name: &str, known: impl Iterator<Item = &'static str>) -> Diagnostic {
    const NEAREST: usize = 3;
    const SIMILAR: f64 = 0.6;
    let all: Vec<&str> = known.collect();
    let mut near: Vec<(f64, &str)> =
        all.iter().map(|k| (strsim::normalized_levenshtein(name, k), *k)).collect();
    near.retain(|(similarity, _)| *similarity >= SIMILAR);
    near.sort_by(|a, b| b.0.total_cmp(&a.0));
    let mut error = Diagnostic::error(message).code("unknown-architecture");
    if !near.is_empty() {
        let names: Vec<&str> = near.iter().take(NEAREST).map(|(_, name)| *name).collect();
        error = error.help(format!(
            "nearest: {}; a model of another architecture computes something else, so what its tensors are and \
             how they are used would have to be added as a family of its own",
            names.join(", ")
        ));
    }
    error.help(format!("supported: {}", all.join(", ")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_match_one_spelling_of_a_number() {
        let of = |block, part| Some(Numbers { block, part });
        assert_eq!(match_pattern("blk.{}.attn_q.weight", "blk.12.attn_q.weight"), of(Some(12), None));
        assert_eq!(match_pattern("blk.{}.attn_q.weight", "blk.012.attn_q.weight"), None);
        assert_eq!(match_pattern("blk.{}.attn_q.weight", "blk..attn_q.weight"), None);
        assert_eq!(match_pattern("blk.{}.attn_q.weight", "blk.+1.attn_q.weight"), None);
        assert_eq!(match_pattern("blk.{}.attn_q.weight", "blk.1.attn_q.weight2"), None);
        assert_eq!(match_pattern("l.{}.experts.{}.w1", "l.3.experts.0.w1"), of(Some(3), Some(0)));
        assert_eq!(match_pattern("l.{}.experts.{}.w1", "l.3.experts.w1"), None);
        assert_eq!(match_pattern("output.weight", "output.weight"), of(None, None));
    }

    #[test]
    fn no_two_rules_of_a_family_share_a_name() {
        for family in FAMILIES {
            let rules: Vec<_> = family.rules().collect();
            for (i, rule) in rules.iter().enumerate() {
                for other in &rules[..i] {
                    assert_ne!(rule.gguf, other.gguf);
                    assert_ne!(rule.checkpoint, other.checkpoint);
                }
            }
        }
    }

    #[test]
    fn an_unknown_architecture_is_told_its_neighbours() {
        let error = by_checkpoint("Qwen3NextForCausalLM").err().unwrap().to_string();
        assert!(error.contains("Qwen3NextForCausalLM"), "{error}");
        let help = format!("{:?}", by_checkpoint("Qwen3NextForCausalLM").err().unwrap());
        assert!(help.contains("nearest: Qwen3ForCausalLM"), "{help}");
    }
}
