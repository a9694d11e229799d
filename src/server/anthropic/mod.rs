//! The Anthropic dialect.
//!
//! | file | what it holds |
//! |---|---|
//! | [`create`] | `POST /v1/messages` |
//! | [`count`] | `POST /v1/messages/count_tokens` |
//! | [`types`], [`input`] | requests, and the job they ask for |
//! | [`output`] | responses and their events |
//! | [`failures`] | errors in the API's description |

mod count;
mod create;
mod failures;
mod input;
mod output;
mod types;

use std::sync::Arc;

use utoipa_axum::router::OpenApiRouter;

use super::app::App;

/// The routes of this dialect.
pub fn routes() -> OpenApiRouter<Arc<App>> {
    OpenApiRouter::new().merge(create::routes()).merge(count::routes())
}
