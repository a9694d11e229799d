//! The JSON of responses.

use serde::{Deserialize, Serialize};
use serde_json::Value as Json;
use utoipa::ToSchema;

use crate::server::openai::tools::Choice as ToolChoice;

/// What to respond to.
#[derive(Clone, Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = openai::ResponseRequest)]
pub struct ResponseRequest {
    /// The model's name.
    pub model: String,
    /// A text, or the items of a conversation.
    pub input: Input,
    /// The system's message, before the conversation.
    pub instructions: Option<String>,
    /// Tokens of the response at most.
    #[schema(minimum = 1)]
    pub max_output_tokens: Option<i64>,
    /// 0 to 2; 1 where it is not said.
    #[schema(minimum = 0, maximum = 2)]
    pub temperature: Option<f64>,
    /// 0 to 1; 1 where it is not said.
    #[schema(minimum = 0, maximum = 1)]
    pub top_p: Option<f64>,
    /// What the text must be.
    pub text: Option<TextOptions>,
    /// How much to think.
    pub reasoning: Option<Reasoning>,
    /// Tools on offer.
    pub tools: Option<Vec<Tool>>,
    /// Whether one must be called.
    pub tool_choice: Option<ToolChoice>,
    /// More than one call in a response.
    pub parallel_tool_calls: Option<bool>,
    /// `auto` leaves out the oldest items of a conversation that is too long; `disabled` refuses it.
    pub truncation: Option<String>,
    /// Send the response as it is made.
    pub stream: Option<bool>,
    /// Accepted; it says nothing here.
    #[allow(dead_code)]
    pub stream_options: Option<StreamOptions>,
    /// `reasoning.encrypted_content` is accepted: reasoning is never hidden.
    pub include: Option<Vec<String>>,
    /// False: a response is made while the client waits.
    pub background: Option<bool>,
    /// Accepted; nothing is stored.
    #[allow(dead_code)]
    pub store: Option<bool>,
    /// Told again in the response.
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

/// A text, or the items of a conversation.
#[derive(Clone, Debug, Deserialize, ToSchema)]
#[serde(untagged, expecting = "it is neither a string nor a list of items")]
#[schema(as = openai::ResponseInput)]
pub enum Input {
    /// What the user says.
    Text(String),
    /// Items.
    Items(Vec<Item>),
}

/// An item of a conversation; which fields it has depends on its type.
#[derive(Clone, Debug, Deserialize, ToSchema)]
#[schema(as = openai::ResponseInputItem)]
pub struct Item {
    /// `message` where it is not said, `function_call`, `function_call_output` or `reasoning`.
    pub r#type: Option<String>,
    /// Of a message.
    pub role: Option<String>,
    /// Of a message; of reasoning it says nothing.
    pub content: Option<Content>,
    /// Of a call and of its output.
    pub call_id: Option<String>,
    /// Of a call: the function.
    pub name: Option<String>,
    /// Of a call: a JSON object as text.
    pub arguments: Option<String>,
    /// Of the output of a call.
    pub output: Option<Content>,
    /// Of reasoning.
    pub summary: Option<Vec<Part>>,
}

/// A text, or parts.
#[derive(Clone, Debug, Deserialize, ToSchema)]
#[serde(untagged, expecting = "it is neither a string nor a list of parts, each with its `type`")]
#[schema(as = openai::ResponseContent)]
pub enum Content {
    /// A text.
    Text(String),
    /// Parts.
    Parts(Vec<Part>),
}

/// A part of an item.
#[derive(Clone, Debug, Deserialize, ToSchema)]
#[schema(as = openai::ResponsePart)]
pub struct Part {
    /// `input_text`, `output_text`, `summary_text`, `reasoning_text`, `refusal` or `input_image`.
    pub r#type: String,
    /// Of a text.
    pub text: Option<String>,
    /// Of a refusal.
    pub refusal: Option<String>,
    /// Of an image: a `data:` URL.
    pub image_url: Option<String>,
}

/// What a text must be.
#[derive(Clone, Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = openai::ResponseTextOptions)]
pub struct TextOptions {
    /// Its format.
    pub format: Option<Format>,
}

/// The format of a text.
#[derive(Clone, Debug, Deserialize, Serialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = openai::ResponseTextFormat)]
pub struct Format {
    /// `text`, `json_object` or `json_schema`.
    pub r#type: String,
    /// Accepted; it says nothing here.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// Accepted; the schema says more.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub description: Option<String>,
    /// The schema.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<Object>)]
    pub schema: Option<Json>,
    /// Accepted: a schema is always enforced.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub strict: Option<bool>,
}

/// How much to think.
#[derive(Clone, Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = openai::ResponseReasoning)]
pub struct Reasoning {
    /// `none`, `minimal`, `low`, `medium`, `high`, `xhigh`.
    pub effort: Option<String>,
    /// Accepted: reasoning is told as it is.
    #[allow(dead_code)]
    pub summary: Option<String>,
    /// Accepted: reasoning is told as it is.
    #[allow(dead_code)]
    pub generate_summary: Option<String>,
}

/// A tool on offer.
#[derive(Clone, Debug, Deserialize, Serialize, ToSchema)]
#[schema(as = openai::ResponseTool)]
pub struct Tool {
    /// `function`.
    pub r#type: String,
    /// Its name.
    pub name: Option<String>,
    /// What it does.
    pub description: Option<String>,
    /// A JSON schema of its arguments.
    #[schema(value_type = Option<Object>)]
    pub parameters: Option<Json>,
    /// Accepted: arguments of a call that is enforced always follow the schema.
    pub strict: Option<bool>,
}

/// How to send a response as it is made.
#[derive(Clone, Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = openai::ResponseStreamOptions)]
pub struct StreamOptions {
    /// Accepted; no padding is added.
    #[allow(dead_code)]
    pub include_obfuscation: Option<bool>,
}

/// A response. `null` stands for what has no value.
#[derive(Clone, Debug, Serialize, ToSchema)]
#[schema(as = openai::Response)]
pub struct Response {
    /// `resp_...`.
    pub id: String,
    /// `response`.
    pub object: &'static str,
    /// Seconds since 1970.
    pub created_at: u64,
    /// `in_progress`, `completed`, `incomplete` or `failed`.
    pub status: &'static str,
    /// What went wrong.
    #[schema(value_type = Option<Object>)]
    pub error: Json,
    /// `{"reason": "max_output_tokens"}` where it is incomplete.
    #[schema(value_type = Option<Object>)]
    pub incomplete_details: Json,
    /// As in the request.
    pub instructions: Option<String>,
    /// As in the request.
    pub max_output_tokens: Option<i64>,
    /// As in the request.
    pub model: String,
    /// Reasoning, messages and calls of functions.
    #[schema(value_type = Vec<Object>)]
    pub output: Vec<Json>,
    /// As in the request.
    pub parallel_tool_calls: bool,
    /// Null: nothing is stored.
    pub previous_response_id: Option<String>,
    /// As in the request.
    #[schema(value_type = Object)]
    pub reasoning: Json,
    /// False.
    pub store: bool,
    /// As in the request.
    pub temperature: f64,
    /// As in the request.
    #[schema(value_type = Object)]
    pub text: Json,
    /// As in the request.
    #[schema(value_type = ToolChoice)]
    pub tool_choice: Json,
    /// As in the request.
    pub tools: Vec<Tool>,
    /// As in the request.
    pub top_p: f64,
    /// As in the request.
    pub truncation: String,
    /// Counts of tokens; null until the end.
    pub usage: Option<Usage>,
    /// As in the request.
    #[schema(value_type = Object)]
    pub metadata: Json,
}

/// Counts of tokens.
#[derive(Clone, Copy, Debug, Serialize, ToSchema)]
#[schema(as = openai::ResponseUsage)]
pub struct Usage {
    /// Of the prompt.
    pub input_tokens: usize,
    /// More about them.
    pub input_tokens_details: InputTokensDetails,
    /// Of the response.
    pub output_tokens: usize,
    /// More about them.
    pub output_tokens_details: OutputTokensDetails,
    /// Of both.
    pub total_tokens: usize,
}

/// More about the tokens of a prompt.
#[derive(Clone, Copy, Debug, Serialize, ToSchema)]
#[schema(as = openai::InputTokensDetails)]
pub struct InputTokensDetails {
    /// Those that were read before.
    pub cached_tokens: usize,
}

/// More about the tokens of a response.
#[derive(Clone, Copy, Debug, Serialize, ToSchema)]
#[schema(as = openai::OutputTokensDetails)]
pub struct OutputTokensDetails {
    /// Not told apart: 0.
    pub reasoning_tokens: usize,
}
