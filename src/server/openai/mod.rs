//! The OpenAI dialect.
//!
//! What OpenAI defines is honoured where a local model can; what cannot be honoured is an error that names the
//! field. Defaults, ids and error texts that clients of Ollama see are Ollama's.
//!
//! | file | what it holds |
//! |---|---|
//! | [`chat`] | `POST /v1/chat/completions` |
//! | [`completions`] | `POST /v1/completions` |
//! | [`responses`] | `POST /v1/responses` |
//! | [`embeddings`] | `POST /v1/embeddings` |
//! | [`models`] | `GET /v1/models` and `GET /v1/models/{model}` |
//! | [`messages`], [`tools`], [`sampling`], [`format`] | from a request to a job |
//! | [`logprobs`], [`failures`] | parts of responses |

mod chat;
mod completions;
mod embeddings;
mod failures;
mod format;
mod logprobs;
mod messages;
mod models;
mod responses;
mod sampling;
mod tools;

use std::sync::Arc;

use utoipa_axum::router::OpenApiRouter;

use super::app::App;

/// The routes of this dialect.
pub fn routes() -> OpenApiRouter<Arc<App>> {
    OpenApiRouter::new()
        .merge(chat::routes())
        .merge(completions::routes())
        .merge(responses::routes())
        .merge(embeddings::routes())
        .merge(models::routes())
}
