//! The JSON of requests.

use serde::Deserialize;
use serde_json::Value as Json;
use utoipa::ToSchema;

/// A conversation to answer.
#[derive(Clone, Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = anthropic::MessagesRequest)]
pub struct MessagesRequest {
    /// The model's name.
    pub model: String,
    /// Tokens of the answer at most.
    #[schema(minimum = 1)]
    pub max_tokens: i64,
    /// The conversation; at least one message.
    #[schema(min_items = 1)]
    pub messages: Vec<Message>,
    /// The system's message.
    pub system: Option<Content>,
    /// Texts that end the answer.
    pub stop_sequences: Option<Vec<String>>,
    /// Send the answer as it is made.
    pub stream: Option<bool>,
    /// 0 to 2; the model's own where it is not said.
    #[schema(minimum = 0, maximum = 2)]
    pub temperature: Option<f64>,
    /// 0 to 1; the model's own where it is not said.
    #[schema(minimum = 0, maximum = 1)]
    pub top_p: Option<f64>,
    /// The likeliest tokens to choose from; 0 for all.
    #[schema(minimum = 0)]
    pub top_k: Option<i64>,
    /// Tools on offer.
    pub tools: Option<Vec<Tool>>,
    /// Whether one must be called.
    pub tool_choice: Option<ToolChoice>,
    /// Whether to think; a model that cannot does not.
    pub thinking: Option<Thinking>,
    /// How much effort to take, and what the text must be.
    pub output_config: Option<OutputConfig>,
    /// Accepted; it says nothing here.
    #[allow(dead_code)]
    #[schema(value_type = Option<Object>)]
    pub metadata: Option<Json>,
    /// Accepted; it says nothing here.
    #[allow(dead_code)]
    pub service_tier: Option<String>,
    /// Accepted; prefixes are always cached.
    #[allow(dead_code)]
    #[schema(value_type = Option<Object>)]
    pub cache_control: Option<Json>,
}

/// A conversation whose tokens to count.
#[derive(Clone, Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = anthropic::CountTokensRequest)]
pub struct CountRequest {
    /// The model's name.
    pub model: String,
    /// The conversation; at least one message.
    #[schema(min_items = 1)]
    pub messages: Vec<Message>,
    /// The system's message.
    pub system: Option<Content>,
    /// Tools on offer.
    pub tools: Option<Vec<Tool>>,
    /// Whether one must be called.
    pub tool_choice: Option<ToolChoice>,
    /// Whether to think; a model that cannot does not.
    pub thinking: Option<Thinking>,
    /// How much effort to take, and what the text must be.
    pub output_config: Option<OutputConfig>,
    /// Accepted; prefixes are always cached.
    #[allow(dead_code)]
    #[schema(value_type = Option<Object>)]
    pub cache_control: Option<Json>,
}

impl From<CountRequest> for MessagesRequest {
    fn from(count: CountRequest) -> MessagesRequest {
        MessagesRequest {
            model: count.model,
            max_tokens: 1,
            messages: count.messages,
            system: count.system,
            stop_sequences: None,
            stream: None,
            temperature: None,
            top_p: None,
            top_k: None,
            tools: count.tools,
            tool_choice: count.tool_choice,
            thinking: count.thinking,
            output_config: count.output_config,
            metadata: None,
            service_tier: None,
            cache_control: None,
        }
    }
}

/// A message.
#[derive(Clone, Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = anthropic::Message)]
pub struct Message {
    /// `user` or `assistant`.
    pub role: String,
    /// What it says.
    pub content: Content,
}

/// A text, or blocks.
#[derive(Clone, Debug, Deserialize, ToSchema)]
#[serde(untagged, expecting = "it is neither a string nor a list of blocks, each with its `type`")]
#[schema(as = anthropic::Content)]
pub enum Content {
    /// A text.
    Text(String),
    /// Blocks.
    Blocks(Vec<Block>),
}

/// A block of a message; which fields it has depends on its type.
#[derive(Clone, Debug, Deserialize, ToSchema)]
#[schema(as = anthropic::Block)]
pub struct Block {
    /// `text`, `image`, `thinking`, `redacted_thinking`, `tool_use` or `tool_result`.
    pub r#type: String,
    /// Of a text.
    pub text: Option<String>,
    /// Of an image.
    pub source: Option<Source>,
    /// Of thinking.
    pub thinking: Option<String>,
    /// Of a call: its name.
    pub id: Option<String>,
    /// Of a call: the tool.
    pub name: Option<String>,
    /// Of a call: the arguments.
    #[schema(value_type = Option<Object>)]
    pub input: Option<Json>,
    /// Of a result: the call.
    pub tool_use_id: Option<String>,
    /// Of a result.
    #[schema(no_recursion)]
    pub content: Option<Content>,
    /// Of a result: the call failed.
    pub is_error: Option<bool>,
}

/// Where an image is.
#[derive(Clone, Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = anthropic::Source)]
pub struct Source {
    /// `base64`, or `url` with a `data:` URL.
    pub r#type: String,
    /// Such as `image/png`.
    pub media_type: Option<String>,
    /// The image in base64.
    pub data: Option<String>,
    /// The URL.
    pub url: Option<String>,
}

/// A tool on offer.
#[derive(Clone, Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = anthropic::Tool)]
pub struct Tool {
    /// `custom` where it is not said.
    pub r#type: Option<String>,
    /// Its name.
    pub name: String,
    /// What it does.
    pub description: Option<String>,
    /// A JSON schema of its arguments.
    #[schema(value_type = Option<Object>)]
    pub input_schema: Option<Json>,
    /// Accepted: arguments of a call that is enforced always follow the schema.
    #[allow(dead_code)]
    pub strict: Option<bool>,
    /// Accepted; prefixes are always cached.
    #[allow(dead_code)]
    #[schema(value_type = Option<Object>)]
    pub cache_control: Option<Json>,
    /// Accepted: a call is sent when it is whole.
    #[allow(dead_code)]
    pub eager_input_streaming: Option<bool>,
}

/// Whether a tool must be called.
#[derive(Clone, Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = anthropic::ToolChoice)]
pub struct ToolChoice {
    /// `auto`, `any`, `tool` or `none`.
    pub r#type: String,
    /// Of `tool`: which.
    pub name: Option<String>,
    /// One call at most.
    pub disable_parallel_tool_use: Option<bool>,
}

/// Whether to think.
#[derive(Clone, Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = anthropic::Thinking)]
pub struct Thinking {
    /// `enabled`, `disabled` or `adaptive`.
    pub r#type: String,
    /// Accepted; `max_tokens` is what bounds an answer.
    #[allow(dead_code)]
    #[schema(minimum = 1)]
    pub budget_tokens: Option<u64>,
}

/// How much effort to take, and what the text must be.
#[derive(Clone, Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = anthropic::OutputConfig)]
pub struct OutputConfig {
    /// `low`, `medium`, `high`, `xhigh` or `max`: how much to think, where thinking is on.
    pub effort: Option<String>,
    /// What the text must be.
    pub format: Option<Format>,
}

/// What the text must be.
#[derive(Clone, Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = anthropic::Format)]
pub struct Format {
    /// `json_schema`.
    pub r#type: String,
    /// The schema.
    #[schema(value_type = Object)]
    pub schema: Json,
}
