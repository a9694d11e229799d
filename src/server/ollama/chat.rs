//! `/api/chat`.

use std::sync::Arc;

use axum::extract::State;
use axum::response::{IntoResponse as _, Response};
use futures_util::{Stream, StreamExt as _};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use utoipa::ToSchema;

use super::chunk::{self, Chunk, Parts};
use super::failures::{self, Failures, lease, stored};
use super::ndjson;
use super::request::How;
use super::types::{DebugInfo, Function, Logprob, MessageIn, Metrics, ToolCall, call_id, done_reason, now};
use crate::prompt::ChatMessage;
use crate::server::answer::{Input, Job, prepare};
use crate::server::app::App;
use crate::server::body::Json;
use crate::server::error::ApiError;
use crate::store::Name;

/// A conversation to answer.
#[derive(Debug, Default, Deserialize, ToSchema)]
#[schema(as = ollama::ChatRequest)]
pub struct ChatRequest {
    /// The model.
    model: Option<String>,
    /// The conversation; empty only loads the model, or unloads it where `keep_alive` is 0.
    messages: Option<Vec<MessageIn>>,
    /// Functions that the model may call, each `{"type": "function", "function": {...}}`.
    #[schema(value_type = Option<Vec<Object>>)]
    tools: Option<Vec<Map<String, Value>>>,
    /// How to answer.
    #[serde(flatten)]
    how: How,
}

/// A part of an answer; the last one is `done`. Without streaming it is all of it.
#[derive(Debug, Default, Serialize, ToSchema)]
#[schema(as = ollama::ChatResponse)]
pub struct ChatResponse {
    /// The model, as the request names it.
    model: String,
    /// When this was written.
    created_at: String,
    /// What the model says.
    message: Message,
    /// The answer is over.
    done: bool,
    /// `stop`, `length`, `load` or `unload`.
    #[serde(skip_serializing_if = "Option::is_none")]
    done_reason: Option<&'static str>,
    #[serde(flatten)]
    metrics: Metrics,
    /// One for each token, if asked for.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    logprobs: Vec<Logprob>,
    /// The rendered prompt, if nothing else was asked for.
    #[serde(rename = "_debug_info", skip_serializing_if = "Option::is_none")]
    debug_info: Option<DebugInfo>,
}

/// A message of the model.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = ollama::Message)]
struct Message {
    /// `assistant`.
    role: &'static str,
    /// Text.
    content: String,
    /// What the model thinks.
    #[serde(skip_serializing_if = "String::is_empty")]
    thinking: String,
    /// Functions that it calls.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    tool_calls: Vec<ToolCall>,
}

impl Default for Message {
    fn default() -> Self {
        let (content, thinking, tool_calls) = Default::default();
        Message { role: "assistant", content, thinking, tool_calls }
    }
}

/// What every line of an answer needs.
struct Head {
    model: String,
    /// Calls so far.
    calls: usize,
}

impl Head {
    fn empty(&self, done_reason: &'static str) -> ChatResponse {
        ChatResponse {
            model: self.model.clone(),
            created_at: now(),
            done: true,
            done_reason: Some(done_reason),
            ..ChatResponse::default()
        }
    }

    fn line(&mut self, chunk: Chunk) -> ChatResponse {
        let first = self.calls;
        self.calls += chunk.calls.len();
        let calls = chunk.calls.into_iter().enumerate().map(|(i, (name, arguments))| ToolCall {
            id: call_id(),
            function: Function { index: first + i, name, arguments },
        });
        let mut line = ChatResponse {
            model: self.model.clone(),
            created_at: now(),
            message: Message {
                content: chunk.text,
                thinking: chunk.thinking,
                tool_calls: calls.collect(),
                ..Message::default()
            },
            logprobs: chunk.logprobs,
            ..ChatResponse::default()
        };
        if let Some(end) = chunk.end {
            line.done = true;
            line.done_reason = done_reason(end.done);
            line.metrics = Metrics::of(&end);
        }
        line
    }

    fn lines(
        mut self,
        answer: impl Parts + 'static,
    ) -> impl Stream<Item = Result<ChatResponse, ApiError>> + Send + 'static {
        chunk::chunks(answer).map(move |chunk| chunk.map(|c| self.line(c)))
    }
}

/// Answers a conversation.
#[utoipa::path(post, path = "/api/chat", tag = "ollama", request_body = ChatRequest, responses(
    (status = 200, description = "The answer, whole or line by line", content(
        (ChatResponse = "application/json"),
        (ChatResponse = "application/x-ndjson"),
    )),
    Failures,
))]
pub async fn chat(
    State(app): State<Arc<App>>,
    Json(request): Json<ChatRequest>,
) -> Result<Response, ApiError> {
    let how = request.how.check()?;
    let model = request.model.unwrap_or_default();
    if Name::parse(&model).is_err() {
        return Err(ApiError::bad_request("model is required").param("model"));
    }
    let stored = stored(&app, &model, failures::no_model(&model)).await?;
    let messages: Vec<ChatMessage> =
        request.messages.unwrap_or_default().into_iter().map(ChatMessage::from).collect();
    let mut head = Head { model, calls: 0 };
    let loads = messages.is_empty();
    if loads && how.unloads() {
        app.scheduler.unload(&stored.id);
        return Ok(axum::Json(head.empty("unload")).into_response());
    }
    super::show::refuse_embedder(&app, &stored, &head.model, "chat").await?;
    let lease = lease(&app, &stored.name, how.wish(), how.keep_alive).await?;
    if loads {
        return Ok(axum::Json(head.empty("load")).into_response());
    }
    let mut job = Job::new(Input::Chat(messages));
    job.tools = request.tools.unwrap_or_default().into_iter().map(Value::Object).collect();
    let (streams, debug) = (how.stream, how.debug_render_only);
    how.apply(&mut job);
    let prepared = prepare(&app, lease, job).await.map_err(|e| failures::without_paths(&app, e))?;
    if debug {
        let debug_info = Some(DebugInfo::of(&prepared));
        let rendered =
            ChatResponse { model: head.model, created_at: now(), debug_info, ..ChatResponse::default() };
        return Ok(axum::Json(rendered).into_response());
    }
    let answer = prepared.start(&app).await?;
    match streams {
        true => ndjson::respond(head.lines(answer)).await,
        false => Ok(axum::Json(head.line(chunk::whole(chunk::chunks(answer)).await?)).into_response()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::server::ollama::chunk::tests::{example, fixed, lines};

    fn head() -> Head {
        Head { model: "m".to_owned(), calls: 0 }
    }

    #[test]
    fn lines_are_ollamas() {
        let mut text = lines(head().lines(example()));
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        let whole = runtime.block_on(chunk::whole(chunk::chunks(example()))).unwrap();
        text.push_str(&format!("\nwhole:\n{}\n", fixed(&head().line(whole))));
        text.push_str(&format!("\nload:\n{}\n", fixed(&head().empty("load"))));
        insta::with_settings!({
            snapshot_path => concat!(env!("CARGO_MANIFEST_DIR"), "/snapshots"),
            prepend_module_to_snapshot => false,
        }, {
            insta::assert_snapshot!("server_ollama_chat", text);
        });
    }

    #[test]
    fn requests_are_read_as_go_reads_them() {
        let read = |text: &str| serde_json::from_str::<ChatRequest>(text);
        let request =
            read(r#"{"model":"m","messages":[{"role":"User","content":"hi"}],"tools":null,"think":false}"#).unwrap();
        assert_eq!(request.how.think, Some(Value::Bool(false)));
        assert!(request.tools.is_none());
        assert_eq!(request.messages.unwrap().len(), 1);
        for bad in [
            r#"{"messages":{}}"#,
            r#"{"messages":["hi"]}"#,
            r#"{"messages":[null]}"#,
            r#"{"tools":["f"]}"#,
            r#"{"tools":{}}"#,
            r#"{"model":["m"]}"#,
            r#"{"options":"x"}"#,
        ] {
            assert!(read(bad).is_err(), "{bad}");
        }
    }
}
