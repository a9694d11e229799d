//! The HTTP server: one folder per API dialect, one scheduler, one way from a request to an answer.
//!
//! | file | what it holds |
//! |---|---|
//! | [`config`] | what the operator says, from flags and the environment |
//! | [`limits`] | what a request may cost, as one table |
//! | [`app`] | what every handler sees |
//! | [`listen`], [`stall`] | sockets, TLS, timeouts, shutdown |
//! | [`guard`] | who may speak: Host, Origin, keys, read-only |
//! | [`error`], [`body`] | errors in each dialect's shape; JSON bodies |
//! | [`observe`], [`metrics`] | request ids, logs, counters |
//! | [`scheduler`] | which models are loaded; who waits |
//! | [`answer`] | from messages to parts of an answer, the same for every dialect |
//! | [`fields`], [`delivery`], [`failures`] | what the OpenAI and Anthropic dialects share: strict fields, streams, documented errors |
//! | [`describe`] | what a stored model is, without loading it |
//! | [`ollama`], [`openai`], [`anthropic`] | the dialects: JSON in, JSON out |
//! | [`operations`] | health, metrics, the API's description |
//! | [`page`] | the page for a browser |

pub mod answer;
mod anthropic;
pub mod app;
mod body;
pub mod config;
mod delivery;
mod describe;
mod error;
mod failures;
mod fields;
mod guard;
pub mod limits;
mod listen;
mod metrics;
mod observe;
mod ollama;
mod openai;
mod operations;
mod page;
mod scheduler;
mod stall;

use std::sync::Arc;

use axum::Router;
use axum::middleware;
use utoipa::OpenApi as _;
use utoipa_axum::router::OpenApiRouter;

use crate::diagnostic::{Diagnostic, Result};
use crate::store::Store;
pub use scheduler::KeepAlive;

use app::App;
use config::Config;

/// The header of `/api/version` by which a server of this machine tells which store it serves, to those who can read
/// that store.
pub const STORE_HEADER: &str = "mdl-store";

/// Serves until the process is told to stop, then lets running requests end.
///
/// # Errors
/// An address cannot be listened on, a certificate or a file of keys cannot be read, or the address is
/// public and nothing guards it.
pub fn serve(store: Store, config: Config) -> Result<()> {
    config.check()?;
    observe::start(&config)?;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .map_err(|e| Diagnostic::environment(format!("cannot start the server's threads: {e}")))?;
    let result = runtime.block_on(async {
        let app = App::new(store, config)?;
        listen::serve(router(&app), app).await
    });
    // What still computes must not keep the process.
    runtime.shutdown_timeout(std::time::Duration::from_secs(1));
    result
}

/// Every route, with what stands before it.
fn router(app: &Arc<App>) -> Router {
    let (router, api) = OpenApiRouter::with_openapi(operations::Description::openapi())
        .merge(ollama::routes())
        .merge(openai::routes())
        .merge(anthropic::routes())
        .merge(operations::routes())
        .split_for_parts();
    router
        .merge(operations::description(api))
        .merge(page::routes())
        .method_not_allowed_fallback(error::method_not_allowed)
        .fallback(error::not_found)
        .layer(middleware::from_fn_with_state(app.clone(), guard::check))
        .layer(middleware::from_fn(error::render))
        .layer(middleware::from_fn_with_state(app.clone(), observe::request))
        .with_state(app.clone())
}
