//! The JSON that answers are made of.

use std::time::SystemTime;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value as Json};
use utoipa::ToSchema;

use crate::prompt::{ChatMessage, ToolCall as Call};
use crate::runtime::batch::TokenLogprob;
use crate::runtime::generate::Done;
use crate::server::answer::{End, Prepared};

/// The time now as RFC 3339 with nanoseconds, in UTC.
pub fn now() -> String {
    Timestamp::now().to_string()
}

/// A time as RFC 3339; one that no calendar has is the calendar's last.
pub fn time(time: SystemTime) -> String {
    Timestamp::try_from(time).unwrap_or(Timestamp::MAX).to_string()
}

/// Why an answer ended; nothing where it was cut off.
pub fn done_reason(done: Done) -> Option<&'static str> {
    match done {
        Done::Stop => Some("stop"),
        Done::Length => Some("length"),
        Done::Cancelled => None,
    }
}

/// Counts and times of an answer; times in nanoseconds. What is zero is left out.
#[derive(Clone, Debug, Default, PartialEq, Serialize, ToSchema)]
#[schema(as = ollama::Metrics)]
pub struct Metrics {
    /// Of the whole request.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub total_duration: Option<u64>,
    /// Of loading the model.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub load_duration: Option<u64>,
    /// Tokens of the prompt that were computed; those of an earlier prompt's cache are not.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub prompt_eval_count: Option<u64>,
    /// Of reading the prompt.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub prompt_eval_duration: Option<u64>,
    /// Tokens of the answer.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub eval_count: Option<u64>,
    /// Of generating them.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub eval_duration: Option<u64>,
    /// What was left out of the prompt because the context is too short. (Not of Ollama's API.)
    #[serde(skip_serializing_if = "Option::is_none")]
    pub truncated: Option<Truncated>,
}

/// What was left out of a prompt.
#[derive(Clone, Debug, PartialEq, Serialize, ToSchema)]
#[schema(as = ollama::Truncated)]
pub struct Truncated {
    /// Messages that were dropped.
    pub messages: usize,
    /// Tokens that were cut out of what was left.
    pub tokens: usize,
    /// Tokens that the context holds.
    pub context: usize,
}

/// Nanoseconds as JSON has them; nothing for zero.
pub fn nanoseconds(duration: std::time::Duration) -> Option<u64> {
    some(u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX))
}

fn some(n: u64) -> Option<u64> {
    (n > 0).then_some(n)
}

impl Metrics {
    /// Those of an answer that ended.
    pub fn of(end: &End) -> Metrics {
        let stats = &end.stats;
        Metrics {
            total_duration: nanoseconds(end.total_duration),
            load_duration: nanoseconds(end.load_duration),
            prompt_eval_count: some(stats.prompt_eval_count as u64),
            prompt_eval_duration: nanoseconds(stats.prompt_eval_duration),
            eval_count: some(stats.eval_count as u64),
            eval_duration: nanoseconds(stats.eval_duration),
            truncated: end.truncation.map(|t| Truncated {
                messages: t.messages,
                tokens: t.tokens,
                context: t.context,
            }),
        }
    }
}

/// A token and the logarithm of its probability.
#[derive(Clone, Debug, PartialEq, Serialize, ToSchema)]
#[schema(as = ollama::TokenLogprob)]
pub struct Likely {
    /// Its text.
    pub token: String,
    /// ln p.
    pub logprob: f32,
    /// Its bytes, which need not be whole characters.
    #[schema(value_type = Vec<u32>)]
    pub bytes: Vec<u8>,
}

/// A token of the answer, and the likeliest ones in its place.
#[derive(Clone, Debug, PartialEq, Serialize, ToSchema)]
#[schema(as = ollama::Logprob)]
pub struct Logprob {
    /// The token.
    #[serde(flatten)]
    pub token: Likely,
    /// The likeliest, the likeliest first.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub top_logprobs: Vec<Likely>,
}

impl From<TokenLogprob> for Logprob {
    fn from(of: TokenLogprob) -> Logprob {
        let top_logprobs = of.top.iter().map(likely).collect();
        Logprob { token: likely(&of), top_logprobs }
    }
}

fn likely(of: &TokenLogprob) -> Likely {
    Likely {
        token: String::from_utf8_lossy(&of.bytes).into_owned(),
        // JSON has no infinity; nothing is less likely than this.
        logprob: if of.logprob.is_finite() { of.logprob } else { f32::MIN },
        bytes: of.bytes.clone(),
    }
}

/// A prompt that was only rendered.
#[derive(Clone, Debug, PartialEq, Serialize, ToSchema)]
#[schema(as = ollama::DebugInfo)]
pub struct DebugInfo {
    /// What the model would read.
    pub rendered_template: String,
    /// Images in it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub image_count: Option<usize>,
}

impl DebugInfo {
    /// Of a job that is not started.
    pub fn of(prepared: &Prepared) -> DebugInfo {
        DebugInfo { rendered_template: prepared.ready.text.clone(), image_count: None }
    }
}

/// A message of a conversation.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, ToSchema)]
#[schema(as = ollama::MessageIn)]
pub struct MessageIn {
    /// `system`, `user`, `assistant` or `tool`.
    pub role: Option<String>,
    /// What it says.
    pub content: Option<String>,
    /// What the model thought before it.
    pub thinking: Option<String>,
    /// Images in base64.
    pub images: Option<Vec<String>>,
    /// Functions that the model called.
    pub tool_calls: Option<Vec<ToolCallIn>>,
    /// Of a tool's message: the function.
    pub tool_name: Option<String>,
    /// Of a tool's message: the call that it answers.
    pub tool_call_id: Option<String>,
}

/// A call in an earlier answer.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, ToSchema)]
#[schema(as = ollama::ToolCallIn)]
pub struct ToolCallIn {
    /// The call's name.
    pub id: Option<String>,
    /// What was called.
    pub function: Option<FunctionIn>,
}

/// The function of a call in an earlier answer.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, ToSchema)]
#[schema(as = ollama::FunctionIn)]
pub struct FunctionIn {
    /// Its name.
    pub name: Option<String>,
    /// Its arguments by name.
    #[schema(value_type = Option<Object>)]
    pub arguments: Option<Map<String, Json>>,
}

impl From<MessageIn> for ChatMessage {
    fn from(from: MessageIn) -> ChatMessage {
        let calls = from.tool_calls.unwrap_or_default().into_iter().map(|call| {
            let function = call.function.unwrap_or_default();
            Call {
                id: call.id.unwrap_or_default(),
                name: function.name.unwrap_or_default(),
                arguments: Json::Object(function.arguments.unwrap_or_default()),
            }
        });
        ChatMessage {
            role: from.role.unwrap_or_default().to_lowercase(),
            content: from.content.unwrap_or_default(),
            thinking: from.thinking.unwrap_or_default(),
            images: from.images.unwrap_or_default(),
            tool_calls: calls.collect(),
            tool_name: from.tool_name.unwrap_or_default(),
            tool_call_id: from.tool_call_id.unwrap_or_default(),
        }
    }
}

/// A call of a function.
#[derive(Clone, Debug, PartialEq, Serialize, ToSchema)]
#[schema(as = ollama::ToolCall)]
pub struct ToolCall {
    /// The call's name, which the tool's message refers to.
    pub id: String,
    /// What is called.
    pub function: Function,
}

/// A function and its arguments.
#[derive(Clone, Debug, PartialEq, Serialize, ToSchema)]
#[schema(as = ollama::Function)]
pub struct Function {
    /// The place of the call in the answer.
    pub index: usize,
    /// The function's name.
    pub name: String,
    /// Its arguments by name.
    #[schema(value_type = Object)]
    pub arguments: Json,
}

/// `call_` and eight characters that nobody can guess.
pub fn call_id() -> String {
    const LETTERS: &[u8; 36] = b"abcdefghijklmnopqrstuvwxyz0123456789";
    let mut random = [0; 8];
    // An id only tells calls of a conversation apart: a system without random numbers gives equal ones.
    let _ = getrandom::fill(&mut random);
    let letters = random.iter().map(|b| char::from(LETTERS[usize::from(*b) % LETTERS.len()]));
    std::iter::once("call_".to_owned()).chain(letters.map(String::from)).collect()
}

/// What a model is, in short.
#[derive(Clone, Debug, Default, PartialEq, Serialize, ToSchema)]
#[schema(as = ollama::Details)]
pub struct Details {
    /// Always empty.
    pub parent_model: &'static str,
    /// `gguf`.
    pub format: String,
    /// The architecture.
    pub family: String,
    /// The architectures of all parts.
    pub families: Vec<String>,
    /// The number of parameters for people.
    pub parameter_size: String,
    /// `Q4_K_M`, or `unknown`.
    pub quantization_level: String,
    /// Tokens that the model was trained to see.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub context_length: Option<u64>,
    /// Elements of an embedding.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub embedding_length: Option<u64>,
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::runtime::generate::Stats;
    use std::time::Duration;

    #[test]
    fn ids_of_calls_are_eight_letters() {
        let id = call_id();
        let letters = id.strip_prefix("call_").unwrap();
        assert_eq!(letters.len(), 8);
        assert!(letters.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit()));
        assert_ne!(call_id(), id);
    }

    #[test]
    fn zeros_are_left_out() {
        let end = End {
            done: Done::Stop,
            stop: None,
            stats: Stats { eval_count: 3, eval_duration: Duration::from_micros(2), ..Stats::default() },
            prompt_tokens: 9,
            tokens: Vec::new(),
            total_duration: Duration::from_nanos(7),
            load_duration: Duration::ZERO,
            truncation: None,
        };
        assert_eq!(
            serde_json::to_string(&Metrics::of(&end)).unwrap(),
            r#"{"total_duration":7,"eval_count":3,"eval_duration":2000}"#
        );
    }

    #[test]
    fn an_impossible_token_is_json() {
        let token = |logprob| TokenLogprob { token: 1, bytes: vec![0xc3], logprob, top: Vec::new() };
        let told = Logprob::from(TokenLogprob { top: vec![token(-0.5)], ..token(f32::NEG_INFINITY) });
        let json = serde_json::to_value(&told).unwrap();
        assert_eq!(json["token"], "\u{fffd}");
        assert_eq!(json["bytes"], serde_json::json!([195]));
        assert!(json["logprob"].is_number());
        assert_eq!(json["top_logprobs"][0]["logprob"], -0.5);
    }

    #[test]
    fn messages_are_read_as_go_reads_them() {
        let read = |text: &str| serde_json::from_str::<MessageIn>(text).map(ChatMessage::from);
        let message = read(
            r#"{"role":"ASSISTANT","content":null,"thinking":"hm","unknown":1,"tool_calls":
               [{"function":{"index":0,"name":"f","arguments":{"b":1,"a":2}}},{"function":null}]}"#,
        )
        .unwrap();
        assert_eq!((message.role.as_str(), message.content.as_str()), ("assistant", ""));
        assert_eq!(message.tool_calls[0].arguments.to_string(), r#"{"b":1,"a":2}"#);
        assert_eq!(message.tool_calls[1].arguments.to_string(), "{}");
        for bad in [
            r#"{"role":1}"#,
            r#"{"content":["x"]}"#,
            r#"{"images":"x"}"#,
            r#"{"images":[1]}"#,
            r#"{"tool_calls":[{"function":{"arguments":"{}"}}]}"#,
            r#"{"tool_calls":{}}"#,
            "7",
        ] {
            assert!(read(bad).is_err(), "{bad}");
        }
    }
}
