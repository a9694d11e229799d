//! `POST /v1/chat/completions`.

mod stream;
mod types;
mod whole;

use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::failures::Failures;
use super::sampling::{self, Sampling};
use super::{format, messages, tools};
use crate::server::answer::{Input, Job, prepare};
use crate::server::app::App;
use crate::server::body;
use crate::server::delivery::{self, Events, new_id, now};
use crate::server::error::ApiError;
use crate::server::fields;
use crate::server::limits::Limits;
use crate::server::scheduler::Wish;
use stream::ChatStream;
use types::{ChatCompletion, ChatRequest};
pub use types::{FINGERPRINT, Head, StreamOptions, Usage, call_id, finish_reason};

/// Fields that OpenAI defines and a local model cannot honour.
const UNSUPPORTED: &[&str] = &[
    "audio",
    "function_call",
    "functions",
    "modalities",
    "moderation",
    "prediction",
    "verbosity",
    "web_search_options",
];

/// The routes.
pub fn routes() -> OpenApiRouter<Arc<App>> {
    OpenApiRouter::new().routes(routes!(create))
}

/// Answers a conversation.
#[utoipa::path(
    post, path = "/v1/chat/completions", tag = "openai", request_body = ChatRequest,
    responses(
        (status = 200, description = "The answer; with `stream`, events of `chat.completion.chunk` that end with `[DONE]`",
            content((ChatCompletion = "application/json"), (Events = "text/event-stream"))),
        Failures,
    )
)]
async fn create(
    State(app): State<Arc<App>>,
    body::Json(body): body::Json<serde_json::Value>,
) -> Result<Response, ApiError> {
    let request: ChatRequest = fields::read(body, UNSUPPORTED)?;
    let limits = &app.config.limits;
    let n = sampling::choices(request.n, limits.choices)?;
    let mut job = request.job(limits)?;
    let name = fields::model(&request.model)?;
    let lease = app.scheduler.lease(&app, &name, Wish::default(), None).await?;
    if let Some(bias) = &request.logit_bias {
        job.logit_bias = sampling::logit_bias(bias, &lease.model.loaded.tokenizer)?;
    }
    let prepared = prepare(&app, lease, job).await.map_err(|e| request.rename(e))?;
    let answers = prepared.start_all(&app, n).await.map_err(|e| request.rename(e))?;
    let head = types::Head { id: new_id("chatcmpl-"), created: now(), model: request.model.clone() };
    let single = request.parallel_tool_calls == Some(false);
    if request.stream == Some(true) {
        let usage = request.stream_options.as_ref().and_then(|o| o.include_usage).unwrap_or(false);
        return delivery::stream(answers, ChatStream::new(head, n, usage, single)).await;
    }
    let answers = delivery::collect(answers).await?;
    Ok(Json(whole::completion(head, answers, single, types::call_id)).into_response())
}

impl ChatRequest {
    /// What to do.
    fn job(&self, limits: &Limits) -> Result<Job, ApiError> {
        let sampling = Sampling {
            temperature: self.temperature,
            top_p: self.top_p,
            frequency_penalty: self.frequency_penalty,
            presence_penalty: self.presence_penalty,
            seed: self.seed,
            stop: self.stop.as_ref(),
            most: self.most()?,
            stops: limits.stops,
        };
        let offered = tools::tools(self.tools.as_deref().unwrap_or_default())?;
        let tool_choice = tools::choice(self.tool_choice.as_ref(), &offered)?;
        let format = match &self.response_format {
            None => None,
            Some(format) => {
                let schema = format.json_schema.as_ref();
                let schema = schema.map(|s| ("response_format.json_schema.schema", s.schema.as_ref()));
                format::grammar("response_format", &format.r#type, schema)?
            }
        };
        if self.store == Some(true) {
            return Err(fields::invalid("store", "nothing is stored here"));
        }
        Ok(Job {
            parameters: sampling.parameters()?,
            format,
            tools: offered,
            tool_choice,
            parallel_tool_calls: self.parallel_tool_calls.unwrap_or(true),
            think: self.think()?,
            truncate: false,
            shift: false,
            logprobs: self.logprobs()?,
            ..Job::new(Input::Chat(messages::conversation(&self.messages)?))
        })
    }

    /// The field for the most tokens, and its value.
    fn most(&self) -> Result<Option<(&'static str, i64)>, ApiError> {
        match (self.max_completion_tokens, self.max_tokens) {
            (Some(new), Some(old)) if new != old => {
                let why = "`max_completion_tokens` has another value; set one of them";
                Err(fields::invalid("max_tokens", why))
            }
            (Some(most), _) => Ok(Some(("max_completion_tokens", most))),
            (None, most) => Ok(most.map(|most| ("max_tokens", most))),
        }
    }

    fn think(&self) -> Result<Option<crate::prompt::Think>, ApiError> {
        match (&self.reasoning_effort, self.reasoning.as_ref().and_then(|r| r.effort.as_ref())) {
            (Some(effort), Some(other)) if effort != other => {
                let why = "`reasoning.effort` has another value; set one of them";
                Err(fields::invalid("reasoning_effort", why))
            }
            (Some(effort), _) => format::think("reasoning_effort", Some(effort)),
            (None, effort) => format::think("reasoning.effort", effort.map(String::as_str)),
        }
    }

    fn logprobs(&self) -> Result<Option<usize>, ApiError> {
        let top = self.top_logprobs.map(|n| fields::integer("top_logprobs", n, 0, 20)).transpose()?;
        match (self.logprobs.unwrap_or(false), top) {
            (false, Some(_)) => Err(fields::invalid("top_logprobs", "it needs `logprobs` to be true")),
            (false, None) => Ok(None),
            (true, top) => Ok(Some(top.unwrap_or(0) as usize)),
        }
    }

    /// True when the answer must follow a schema.
    fn constrains(&self) -> bool {
        self.response_format.is_some() || self.tool_choice.is_some()
    }

    /// Gives an error's field the name it has here.
    fn rename(&self, error: ApiError) -> ApiError {
        match error.param.as_deref() {
            Some("think") if self.reasoning_effort.is_some() => error.param("reasoning_effort"),
            Some("think") => error.param("reasoning.effort"),
            // What is wrong with a schema is found when it is compiled.
            None if error.status == StatusCode::BAD_REQUEST && self.constrains() => {
                error.param(if self.response_format.is_some() { "response_format" } else { "tools" })
            }
            _ => error,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ir::ParameterValue;
    use crate::prompt::Think;
    use crate::runtime::constrain::Grammar;
    use crate::server::answer::ToolChoice;
    use serde_json::{Value, json};

    /// A request with these fields beside those that must be there.
    fn job(more: Value) -> Result<Job, ApiError> {
        let mut body = json!({"model": "m", "messages": [{"role": "user", "content": "hi"}]});
        if let (Value::Object(body), Value::Object(more)) = (&mut body, more) {
            body.extend(more);
        }
        fields::read::<ChatRequest>(body, UNSUPPORTED)?.job(&Limits::default())
    }

    #[test]
    fn everything_that_openai_defines_is_read() {
        let tool = json!({"type": "function", "function": {"name": "f", "parameters": {"type": "object"}, "strict": true}});
        let job = job(json!({
            "temperature": 0, "top_p": 0.5, "frequency_penalty": 2, "presence_penalty": -2, "seed": 7,
            "stop": ["a", "b"], "max_tokens": 5, "max_completion_tokens": 5, "tools": [tool],
            "tool_choice": "required", "parallel_tool_calls": false, "reasoning_effort": "minimal",
            "response_format": {"type": "json_schema", "json_schema": {"name": "n", "strict": true, "schema": {"type": "object"}}},
            "logprobs": true, "top_logprobs": 20, "user": "u", "metadata": {"a": "b"}, "store": false,
            "service_tier": "auto", "safety_identifier": "s", "prompt_cache_key": "k", "stream": true,
            "stream_options": {"include_usage": true}, "n": 2, "logit_bias": {"1": -100},
        }))
        .unwrap();
        let parameters = [
            ("temperature", ParameterValue::Float(0.0)),
            ("top_p", ParameterValue::Float(0.5)),
            ("frequency_penalty", ParameterValue::Float(2.0)),
            ("presence_penalty", ParameterValue::Float(-2.0)),
            ("seed", ParameterValue::Int(7)),
            ("num_predict", ParameterValue::Int(5)),
            ("stop", ParameterValue::Strings(vec!["a".into(), "b".into()])),
        ];
        assert_eq!(job.parameters, parameters.map(|(name, value)| (name.to_owned(), value)));
        assert_eq!(job.tool_choice, ToolChoice::Required);
        assert_eq!(job.think, Some(Think::Level("low".into())));
        assert_eq!(job.format, Some(Grammar::Schema(json!({"type": "object"}))));
        assert_eq!(job.logprobs, Some(20));
        assert!(!job.parallel_tool_calls && !job.truncate && !job.shift);
    }

    #[test]
    fn mistakes_name_their_field() {
        for (more, param) in [
            (json!({"messages": null}), "messages"),
            (json!({"messages": "hi"}), "messages"),
            (json!({"model": 1}), "model"),
            (json!({"temperature": "hot"}), "temperature"),
            (json!({"temperature": 1e308}), "temperature"),
            (json!({"temperature": -1}), "temperature"),
            (json!({"seed": 9_223_372_036_854_775_808_u64}), "seed"),
            (json!({"seed": 1.5}), "seed"),
            (json!({"max_tokens": -1}), "max_tokens"),
            (json!({"max_tokens": 1, "max_completion_tokens": 2}), "max_tokens"),
            (json!({"max_completion_tokens": 1e300}), "max_completion_tokens"),
            (json!({"stop": 1}), "stop"),
            (json!({"stop": ["a", 1]}), "stop"),
            (json!({"top_logprobs": 1}), "top_logprobs"),
            (json!({"logprobs": true, "top_logprobs": 21}), "top_logprobs"),
            (json!({"logprobs": 1}), "logprobs"),
            (json!({"logit_bias": {"1": "x"}}), "logit_bias.1"),
            (json!({"response_format": {"type": "xml"}}), "response_format.type"),
            (json!({"response_format": {"type": "json_schema"}}), "response_format.json_schema"),
            (
                json!({"response_format": {"type": "json_schema", "json_schema": {"name": "n"}}}),
                "response_format.json_schema.schema",
            ),
            (json!({"tool_choice": "required"}), "tool_choice"),
            (json!({"reasoning_effort": "lots"}), "reasoning_effort"),
            (json!({"reasoning": {"effort": "lots"}}), "reasoning.effort"),
            (json!({"store": true}), "store"),
            (json!({"stream": "yes"}), "stream"),
            (json!({"stream_options": {"x": 1}}), "stream_options.x"),
        ] {
            let error = job(more.clone()).unwrap_err();
            assert_eq!(error.param.as_deref(), Some(param), "{more}: {}", error.message);
            assert_eq!(error.status, axum::http::StatusCode::BAD_REQUEST);
        }
    }

    #[test]
    fn fields_are_never_dropped_silently() {
        for field in UNSUPPORTED {
            let error = job(json!({*field: {}})).unwrap_err();
            assert_eq!(error.message, format!("Unsupported parameter: '{field}'"));
        }
        let error = job(json!({"top_k": 1})).unwrap_err();
        assert_eq!(error.message, "Unrecognized request argument supplied: top_k");
        assert!(job(json!({"audio": null, "top_k": null, "n": null})).is_ok());
    }
}
