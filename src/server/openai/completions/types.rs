//! The JSON of completions.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

pub use crate::server::openai::chat::{FINGERPRINT, Head, StreamOptions, Usage, finish_reason};
use crate::server::openai::embeddings::Inputs;
use crate::server::openai::logprobs::LegacyLogprobs;
use crate::server::openai::sampling::OneOrMany;

/// Prompts to complete.
#[derive(Clone, Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = openai::CompletionRequest)]
pub struct CompletionRequest {
    /// The model's name.
    pub model: String,
    /// A text, texts, tokens, or lists of tokens.
    pub prompt: Inputs,
    /// The text after the completion; the model's template must know what to do with it.
    pub suffix: Option<String>,
    /// Tokens of a completion at most.
    #[schema(minimum = 1)]
    pub max_tokens: Option<i64>,
    /// Completions of each prompt.
    #[schema(minimum = 1)]
    pub n: Option<i64>,
    /// 0 to 2; 1 where it is not said.
    #[schema(minimum = 0, maximum = 2)]
    pub temperature: Option<f64>,
    /// 0 to 1; 1 where it is not said.
    #[schema(minimum = 0, maximum = 1)]
    pub top_p: Option<f64>,
    /// -2 to 2.
    #[schema(minimum = -2, maximum = 2)]
    pub frequency_penalty: Option<f64>,
    /// -2 to 2.
    #[schema(minimum = -2, maximum = 2)]
    pub presence_penalty: Option<f64>,
    /// The same seed gives the same completion; -1 takes another one each time.
    pub seed: Option<i64>,
    /// Texts that end a completion.
    pub stop: Option<OneOrMany>,
    /// Added to the logits of tokens: -100 to 100, by id.
    pub logit_bias: Option<BTreeMap<String, f64>>,
    /// Tell the logarithms of the tokens' probabilities, and those of so many likeliest ones.
    #[schema(minimum = 0, maximum = 20)]
    pub logprobs: Option<i64>,
    /// False: the prompt is not repeated.
    pub echo: Option<bool>,
    /// 1: every completion is told.
    #[schema(minimum = 1, maximum = 1)]
    pub best_of: Option<i64>,
    /// Send completions as they are made.
    pub stream: Option<bool>,
    /// How to.
    pub stream_options: Option<StreamOptions>,
    /// Accepted; it says nothing here.
    #[allow(dead_code)]
    pub user: Option<String>,
}

/// Completions, or a part of them.
#[derive(Clone, Debug, Serialize, ToSchema)]
#[schema(as = openai::Completion)]
pub struct Completion {
    /// `cmpl-...`.
    pub id: String,
    /// `text_completion`.
    pub object: &'static str,
    /// Seconds since 1970.
    pub created: u64,
    /// The model.
    pub model: String,
    /// `fp_ollama`.
    pub system_fingerprint: &'static str,
    /// The completions of the first prompt, then those of the next.
    pub choices: Vec<Choice>,
    /// Counts of tokens; in a stream, if asked for, null but at the end.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub usage: Option<Option<Usage>>,
}

/// A completion, or a part of it.
#[derive(Clone, Debug, Serialize, ToSchema)]
#[schema(as = openai::CompletionChoice)]
pub struct Choice {
    /// Its text.
    pub text: String,
    /// Its number.
    pub index: usize,
    /// If asked for.
    pub logprobs: Option<LegacyLogprobs>,
    /// `stop` or `length`; null before the end.
    pub finish_reason: Option<&'static str>,
}
