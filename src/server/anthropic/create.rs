//! `POST /v1/messages`.

use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use axum::response::IntoResponse;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::failures::Failures;
use super::input;
use super::output::{Head, MessageStream, Response, message};
use super::types::MessagesRequest;
use crate::server::answer::{Job, Prepared, prepare};
use crate::server::app::App;
use crate::server::body;
use crate::server::delivery::{self, Events, new_id};
use crate::server::error::ApiError;
use crate::server::fields;
use crate::server::observe::current_request_id;
use crate::server::scheduler::Wish;

/// The routes.
pub fn routes() -> OpenApiRouter<Arc<App>> {
    OpenApiRouter::new().routes(routes!(create))
}

/// Answers a conversation.
#[utoipa::path(
    post, path = "/v1/messages", tag = "anthropic", request_body = MessagesRequest,
    responses(
        (status = 200, description = "The answer; with `stream`, events from `message_start` to `message_stop`",
            content((Response = "application/json"), (Events = "text/event-stream"))),
        Failures,
    )
)]
async fn create(
    State(app): State<Arc<App>>,
    body::Json(body): body::Json<serde_json::Value>,
) -> Result<axum::response::Response, ApiError> {
    let request: MessagesRequest = input::read(body)?;
    let job = request.job(&app.config.limits)?;
    let single = !job.parallel_tool_calls;
    let prepared = make_ready(&app, &request.model, job).await?;
    let head = Head {
        id: new_id("msg_"),
        model: request.model,
        prompt_tokens: prepared.prompt_tokens(),
        stops: request.stop_sequences.unwrap_or_default(),
        single,
        request_id: current_request_id(),
    };
    let answers = prepared.start_all(&app, 1).await?;
    if request.stream == Some(true) {
        return delivery::stream(answers, MessageStream::new(head, new_id)).await;
    }
    let answer = delivery::collect(answers).await?.pop();
    let answer = answer.ok_or_else(|| ApiError::internal("no answer was started"))?;
    Ok(Json(message(&head, answer, new_id)).into_response())
}

/// Prepares a job for a model. One that cannot think does not, whatever the request says: clients ask for it
/// without knowing the model.
pub async fn make_ready(app: &Arc<App>, model: &str, mut job: Job) -> Result<Prepared, ApiError> {
    let name = fields::model(model)?;
    let lease = app.scheduler.lease(app, &name, Wish::default(), None).await?;
    if lease.model.loaded.template().output_syntax().thinking.is_none() {
        job.think = None;
    }
    prepare(app, lease, job).await
}
