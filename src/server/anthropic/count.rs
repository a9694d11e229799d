//! `POST /v1/messages/count_tokens`.

use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use serde::Serialize;
use utoipa::ToSchema;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::create::make_ready;
use super::failures::Failures;
use super::input;
use super::types::{CountRequest, MessagesRequest};
use crate::server::app::App;
use crate::server::body;
use crate::server::error::ApiError;

/// The routes.
pub fn routes() -> OpenApiRouter<Arc<App>> {
    OpenApiRouter::new().routes(routes!(count))
}

/// The tokens of a conversation.
#[derive(Clone, Copy, Debug, Serialize, ToSchema)]
#[schema(as = anthropic::CountTokensResponse)]
struct Count {
    /// As the model reads it: with its template, its own messages and the tools.
    input_tokens: usize,
}

/// Counts the tokens of a conversation. The model is loaded for it; one that is too long for its context is
/// an error, as it is when it is to be answered.
#[utoipa::path(post, path = "/v1/messages/count_tokens", tag = "anthropic", request_body = CountRequest,
    responses((status = 200, description = "The number of tokens", body = Count), Failures))]
async fn count(
    State(app): State<Arc<App>>,
    body::Json(body): body::Json<serde_json::Value>,
) -> Result<Json<Count>, ApiError> {
    let request: MessagesRequest = input::read::<CountRequest>(body)?.into();
    let job = request.job(&app.config.limits)?;
    let prepared = make_ready(&app, &request.model, job).await?;
    Ok(Json(Count { input_tokens: prepared.prompt_tokens() }))
}
