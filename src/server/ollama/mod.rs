//! Ollama's API.
//!
//! | file | routes |
//! |---|---|
//! | [`generate`], [`chat`] | answers, line by line |
//! | [`embed`] | `/api/embed`, `/api/embeddings` |
//! | [`models`] | `/api/tags`, `/api/ps`, `/api/copy`, `/api/delete` |
//! | [`show`] | `/api/show` |
//! | [`create`] | `/api/create` |
//! | [`blobs`] | `/api/blobs/{digest}` |
//! | [`transfer`] | `/api/pull`, `/api/push` |
//! | [`version`] | `/api/version`, `/api/status` |
//!
//! [`types`] and [`request`] are the JSON that answers and their requests share, [`chunk`] what becomes a
//! line, [`ndjson`] the lines, [`failures`] the errors, [`schema`] how values of several types are
//! described.

mod blobs;
mod chat;
mod chunk;
mod create;
mod embed;
mod failures;
mod generate;
#[cfg(test)]
mod hostile;
mod models;
mod ndjson;
mod request;
mod schema;
mod show;
mod transfer;
mod types;
mod version;

pub use failures::Failures;

use std::sync::Arc;

use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::app::App;

/// The routes of this dialect.
pub fn routes() -> OpenApiRouter<Arc<App>> {
    OpenApiRouter::new()
        .routes(routes!(version::version))
        .routes(routes!(version::status))
        .routes(routes!(generate::generate))
        .routes(routes!(chat::chat))
        .routes(routes!(embed::embed))
        .routes(routes!(embed::embeddings))
        .routes(routes!(models::tags))
        .routes(routes!(models::ps))
        .routes(routes!(models::copy))
        .routes(routes!(models::delete))
        .routes(routes!(show::show))
        .routes(routes!(create::create))
        .routes(routes!(blobs::find, blobs::upload))
        .routes(routes!(transfer::pull))
        .routes(routes!(transfer::push))
}
