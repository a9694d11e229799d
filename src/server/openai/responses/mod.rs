//! `POST /v1/responses`. Nothing is stored: a conversation is sent whole each time.

mod input;
mod output;
mod types;

use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use axum::response::IntoResponse;
use serde_json::{Value, json};
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::chat::call_id;
use super::failures::Failures;
use crate::server::answer::prepare;
use crate::server::app::App;
use crate::server::body;
use crate::server::delivery::{self, Events, new_id, now};
use crate::server::error::ApiError;
use crate::server::fields;
use crate::server::scheduler::Wish;
use output::Builder;
use types::{Response, ResponseRequest};

/// Fields that OpenAI defines and that cannot be honoured: what needs a store, and what needs OpenAI.
const UNSUPPORTED: &[&str] = &[
    "context_management",
    "conversation",
    "max_tool_calls",
    "previous_response_id",
    "prompt",
    "text.verbosity",
    "top_logprobs",
];

/// The routes.
pub fn routes() -> OpenApiRouter<Arc<App>> {
    OpenApiRouter::new().routes(routes!(create))
}

/// Responds to a text or a conversation.
#[utoipa::path(
    post, path = "/v1/responses", tag = "openai", request_body = ResponseRequest,
    responses(
        (status = 200, description = "The response; with `stream`, events that end with `response.completed`, `response.incomplete` or `response.failed`",
            content((Response = "application/json"), (Events = "text/event-stream"))),
        Failures,
    )
)]
async fn create(
    State(app): State<Arc<App>>,
    body::Json(body): body::Json<Value>,
) -> Result<axum::response::Response, ApiError> {
    let request: ResponseRequest = fields::read(body, UNSUPPORTED)?;
    let job = request.job(&app.config.limits)?;
    let name = fields::model(&request.model)?;
    let lease = app.scheduler.lease(&app, &name, Wish::default(), None).await?;
    let answers = prepare(&app, lease, job).await.map_err(rename)?.start_all(&app, 1).await?;
    let single = request.parallel_tool_calls == Some(false);
    let response = request.response(new_id("resp_"), now());
    let builder = Builder::new(response, single, new_id, call_id);
    if request.stream == Some(true) {
        return delivery::stream(answers, builder).await;
    }
    let answer = delivery::collect(answers).await?.pop();
    let answer = answer.ok_or_else(|| ApiError::internal("no answer was started"))?;
    Ok(Json(builder.whole(answer)).into_response())
}

/// Gives an error's field the name it has here.
fn rename(error: ApiError) -> ApiError {
    match error.param.as_deref() {
        Some("messages") => error.param("input"),
        Some("think") => error.param("reasoning.effort"),
        _ => error,
    }
}

impl ResponseRequest {
    /// A response with nothing yet.
    fn response(&self, id: String, created_at: u64) -> Response {
        let effort = self.reasoning.as_ref().and_then(|r| r.effort.as_deref());
        let format = self.text.as_ref().and_then(|t| t.format.as_ref());
        let format = format.map_or_else(|| json!({"type": "text"}), |f| json!(f));
        Response {
            id,
            object: "response",
            created_at,
            status: "in_progress",
            error: Value::Null,
            incomplete_details: Value::Null,
            instructions: self.instructions.clone(),
            max_output_tokens: self.max_output_tokens,
            model: self.model.clone(),
            output: Vec::new(),
            parallel_tool_calls: self.parallel_tool_calls.unwrap_or(true),
            previous_response_id: None,
            reasoning: json!({"effort": effort, "summary": null}),
            store: false,
            temperature: self.temperature.unwrap_or(1.0),
            text: json!({"format": format}),
            tool_choice: self.tool_choice.as_ref().map_or_else(|| json!("auto"), |c| json!(c)),
            tools: self.tools.clone().unwrap_or_default(),
            top_p: self.top_p.unwrap_or(1.0),
            truncation: self.truncation.clone().unwrap_or_else(|| "disabled".to_owned()),
            usage: None,
            metadata: self.metadata.clone().unwrap_or_else(|| json!({})),
        }
    }
}

#[cfg(test)]
mod testing {
    use super::*;

    /// A request with these fields beside those that must be there.
    pub fn request(more: Value) -> ResponseRequest {
        let mut body = json!({"model": "m", "input": "hi"});
        if let (Value::Object(body), Value::Object(more)) = (&mut body, more) {
            body.extend(more);
        }
        fields::read(body, UNSUPPORTED).unwrap()
    }
}
