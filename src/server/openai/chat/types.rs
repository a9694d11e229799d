//! The JSON of chats.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::Value as Json;
use utoipa::ToSchema;

use crate::server::openai::logprobs::Logprobs;
use crate::server::openai::messages::Message;
use crate::server::openai::sampling::OneOrMany;
use crate::server::openai::tools::{Choice as ToolChoice, Tool};

/// A conversation to answer.
#[derive(Clone, Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = openai::ChatRequest)]
pub struct ChatRequest {
    /// The model's name.
    pub model: String,
    /// The conversation; at least one message.
    #[schema(min_items = 1)]
    pub messages: Vec<Message>,
    /// Tokens of the answer at most.
    #[schema(minimum = 1)]
    pub max_completion_tokens: Option<i64>,
    /// The older name of `max_completion_tokens`.
    #[schema(minimum = 1)]
    pub max_tokens: Option<i64>,
    /// Answers to give.
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
    /// The same seed gives the same answer; -1 takes another one each time.
    pub seed: Option<i64>,
    /// Texts that end the answer.
    pub stop: Option<OneOrMany>,
    /// Added to the logits of tokens: -100 to 100, by id.
    pub logit_bias: Option<BTreeMap<String, f64>>,
    /// Tell the logarithms of the tokens' probabilities.
    pub logprobs: Option<bool>,
    /// And those of so many likeliest tokens at each place: 0 to 20.
    #[schema(minimum = 0, maximum = 20)]
    pub top_logprobs: Option<i64>,
    /// What the answer must be.
    pub response_format: Option<ResponseFormat>,
    /// Tools on offer.
    pub tools: Option<Vec<Tool>>,
    /// Whether one must be called.
    pub tool_choice: Option<ToolChoice>,
    /// More than one call in an answer.
    pub parallel_tool_calls: Option<bool>,
    /// How much to think.
    pub reasoning_effort: Option<String>,
    /// How much to think.
    pub reasoning: Option<Reasoning>,
    /// Send the answer as it is made.
    pub stream: Option<bool>,
    /// How to.
    pub stream_options: Option<StreamOptions>,
    /// Nothing is stored: false.
    pub store: Option<bool>,
    /// Accepted; it says nothing here.
    #[allow(dead_code)]
    #[schema(value_type = Option<Object>)]
    pub metadata: Option<Json>,
    /// Accepted; it says nothing here.
    #[allow(dead_code)]
    pub user: Option<String>,
    /// Accepted; it says nothing here.
    #[allow(dead_code)]
    pub service_tier: Option<String>,
    /// Accepted; it says nothing here.
    #[allow(dead_code)]
    pub safety_identifier: Option<String>,
    /// Accepted; prefixes are always cached.
    #[allow(dead_code)]
    pub prompt_cache_key: Option<String>,
    /// Accepted; prefixes are always cached.
    #[allow(dead_code)]
    pub prompt_cache_retention: Option<String>,
}

/// What an answer must be.
#[derive(Clone, Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = openai::ResponseFormat)]
pub struct ResponseFormat {
    /// `text`, `json_object` or `json_schema`.
    pub r#type: String,
    /// Of the last.
    pub json_schema: Option<JsonSchema>,
}

/// A schema and its name.
#[derive(Clone, Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = openai::JsonSchema)]
pub struct JsonSchema {
    /// Accepted; it says nothing here.
    #[allow(dead_code)]
    pub name: Option<String>,
    /// Accepted; the schema says more.
    #[allow(dead_code)]
    pub description: Option<String>,
    /// The schema.
    #[schema(value_type = Option<Object>)]
    pub schema: Option<Json>,
    /// Accepted: a schema is always enforced.
    #[allow(dead_code)]
    pub strict: Option<bool>,
}

/// How much to think.
#[derive(Clone, Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = openai::ChatReasoning)]
pub struct Reasoning {
    /// `none`, `minimal`, `low`, `medium`, `high`, `xhigh`.
    pub effort: Option<String>,
}

/// How to send an answer as it is made.
#[derive(Clone, Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = openai::StreamOptions)]
pub struct StreamOptions {
    /// Send the counts of tokens before the end.
    pub include_usage: Option<bool>,
    /// Accepted; no padding is added.
    #[allow(dead_code)]
    pub include_obfuscation: Option<bool>,
}

/// What all chunks of a response have.
#[derive(Clone, Debug)]
pub struct Head {
    /// The response's id.
    pub id: String,
    /// Seconds since 1970.
    pub created: u64,
    /// The model as the request names it.
    pub model: String,
}

/// The `system_fingerprint` of Ollama.
pub const FINGERPRINT: &str = "fp_ollama";

/// A new id of a call: `call_` and eight letters or digits.
pub fn call_id() -> String {
    const ALPHABET: &[u8; 36] = b"abcdefghijklmnopqrstuvwxyz0123456789";
    let hex = crate::server::observe::random_hex(16);
    let mut number = u128::from_str_radix(&hex, 16).unwrap_or_default();
    let mut id = "call_".to_owned();
    for _ in 0..8 {
        id.push(char::from(ALPHABET[(number % 36) as usize]));
        number /= 36;
    }
    id
}

/// The answers to a conversation.
#[derive(Clone, Debug, Serialize, ToSchema)]
#[schema(as = openai::ChatCompletion)]
pub struct ChatCompletion {
    /// `chatcmpl-...`.
    pub id: String,
    /// `chat.completion`.
    pub object: &'static str,
    /// Seconds since 1970.
    pub created: u64,
    /// The model.
    pub model: String,
    /// `fp_ollama`.
    pub system_fingerprint: &'static str,
    /// The answers.
    pub choices: Vec<Choice>,
    /// Counts of tokens.
    pub usage: Usage,
}

/// An answer.
#[derive(Clone, Debug, Serialize, ToSchema)]
#[schema(as = openai::ChatChoice)]
pub struct Choice {
    /// Its number.
    pub index: usize,
    /// What it says.
    pub message: AnswerMessage,
    /// `stop`, `length` or `tool_calls`.
    pub finish_reason: &'static str,
    /// If asked for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub logprobs: Option<Logprobs>,
}

/// What an answer says.
#[derive(Clone, Debug, Serialize, ToSchema)]
#[schema(as = openai::AnswerMessage)]
pub struct AnswerMessage {
    /// `assistant`.
    pub role: &'static str,
    /// Text; null where there are calls and none.
    pub content: Option<String>,
    /// What the model thought.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reasoning: Option<String>,
    /// Calls of tools.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub tool_calls: Vec<ToolCall>,
}

/// A call of a tool.
#[derive(Clone, Debug, Serialize, ToSchema)]
#[schema(as = openai::ToolCall)]
pub struct ToolCall {
    /// Its number in the answer.
    pub index: usize,
    /// Its name.
    pub id: String,
    /// `function`.
    pub r#type: &'static str,
    /// What is called.
    pub function: FunctionCall,
}

/// What is called.
#[derive(Clone, Debug, Serialize, ToSchema)]
#[schema(as = openai::FunctionCall)]
pub struct FunctionCall {
    /// The function.
    pub name: String,
    /// A JSON object, as text.
    pub arguments: String,
}

impl ToolCall {
    /// A call.
    pub fn new(index: usize, id: String, name: String, arguments: &Json) -> ToolCall {
        let function = FunctionCall { name, arguments: arguments.to_string() };
        ToolCall { index, id, r#type: "function", function }
    }
}

/// Counts of tokens.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, ToSchema)]
#[schema(as = openai::Usage)]
pub struct Usage {
    /// Of the prompt.
    pub prompt_tokens: usize,
    /// Of the answers.
    pub completion_tokens: usize,
    /// Of both.
    pub total_tokens: usize,
    /// More about those of the prompt.
    pub prompt_tokens_details: PromptTokensDetails,
}

/// More about the tokens of a prompt.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, ToSchema)]
#[schema(as = openai::PromptTokensDetails)]
pub struct PromptTokensDetails {
    /// Those that were read before.
    pub cached_tokens: usize,
}

impl Usage {
    /// Adds an answer; `first` is the first to its prompt, whose tokens count once.
    pub fn add(&mut self, end: &crate::server::answer::End, first: bool) {
        if first {
            self.prompt_tokens += end.prompt_tokens;
            self.prompt_tokens_details.cached_tokens += end.stats.prompt_cached_count;
        }
        self.completion_tokens += end.stats.eval_count;
        self.total_tokens = self.prompt_tokens + self.completion_tokens;
    }
}

/// A part of an answer that is being made.
#[derive(Clone, Debug, Serialize)]
pub struct Chunk<'a> {
    /// As in the other chunks of the response.
    pub id: &'a str,
    /// `chat.completion.chunk`.
    pub object: &'static str,
    /// As in the other chunks.
    pub created: u64,
    /// The model.
    pub model: &'a str,
    /// `fp_ollama`.
    pub system_fingerprint: &'static str,
    /// One; none in the chunk of the usage.
    pub choices: Vec<ChunkChoice>,
    /// Where usage is asked for: null but in the last chunk.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub usage: Option<Option<Usage>>,
}

/// A part of an answer.
#[derive(Clone, Debug, Serialize)]
pub struct ChunkChoice {
    /// The answer's number.
    pub index: usize,
    /// More of it.
    pub delta: Delta,
    /// Null until the end.
    pub finish_reason: Option<&'static str>,
    /// If asked for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub logprobs: Option<Logprobs>,
}

/// More of an answer.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Delta {
    /// `assistant`, in the first.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub role: Option<&'static str>,
    /// Text.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub content: Option<String>,
    /// Thinking.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reasoning: Option<String>,
    /// Whole calls.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub tool_calls: Vec<ToolCall>,
}

/// Why an answer ended.
pub fn finish_reason(done: crate::runtime::generate::Done, calls: bool) -> &'static str {
    match done {
        crate::runtime::generate::Done::Length => "length",
        _ if calls => "tool_calls",
        _ => "stop",
    }
}
