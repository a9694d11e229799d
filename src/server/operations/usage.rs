//! `/api/mdl/usage`: how busy the server is, for the page and for scripts.

use std::sync::Arc;
use std::time::SystemTime;

use axum::Json;
use axum::extract::State;
use serde::Serialize;
use utoipa::ToSchema;

use crate::runtime::kv::PAGE;
use crate::server::app::App;
use crate::server::ollama::Failures;
use crate::server::scheduler::Running;

/// How busy the server is.
#[derive(Serialize, ToSchema)]
pub(super) struct ServerUsage {
    /// `ready`, or why requests are not answered now.
    state: &'static str,
    /// Seconds since the server started.
    uptime_seconds: f64,
    /// Requests that wait for a model or a slot.
    requests_waiting: usize,
    /// The loaded models.
    models: Vec<ModelUsage>,
}

/// How busy a loaded model is. Counts are since it was loaded.
#[derive(Serialize, ToSchema)]
struct ModelUsage {
    /// A name of it.
    name: String,
    /// The digest of its manifest.
    digest: String,
    /// Positions of a sequence.
    context: usize,
    /// Bytes it takes: weights, cache and buffers.
    bytes: u64,
    /// Seconds until it is unloaded if nobody asks for it; `null` for never.
    expires_in_seconds: Option<f64>,
    /// Sequences that can be computed at once.
    slots: usize,
    /// Those that are.
    active: usize,
    /// Requests that wait for a slot.
    waiting: usize,
    /// Positions of a page of the KV cache.
    kv_page_size: usize,
    /// Pages of the KV cache.
    kv_pages: usize,
    /// Pages that running sequences hold.
    kv_pages_used: usize,
    /// Pages kept for prefixes that may come again.
    kv_pages_cached: usize,
    /// Tokens of prompts that were computed.
    prompt_tokens: u64,
    /// Tokens of prompts that were found in the cache.
    prompt_tokens_cached: u64,
    /// Tokens that were generated.
    generated_tokens: u64,
}

impl From<&Running> for ModelUsage {
    fn from(running: &Running) -> ModelUsage {
        let model = &running.model;
        let usage = model.engine.usage();
        let left = |at: SystemTime| at.duration_since(SystemTime::now()).unwrap_or_default().as_secs_f64();
        ModelUsage {
            name: model.name.to_string(),
            digest: model.id.to_string(),
            context: model.context,
            bytes: model.size,
            expires_in_seconds: running.expires.map(left),
            slots: usage.slots,
            active: usage.active,
            waiting: usage.waiting,
            kv_page_size: PAGE,
            kv_pages: usage.pages,
            kv_pages_used: usage.pages_used,
            kv_pages_cached: usage.pages_cached,
            prompt_tokens: usage.prompt_tokens,
            prompt_tokens_cached: usage.prompt_tokens_cached,
            generated_tokens: usage.generated_tokens,
        }
    }
}

/// How busy the server and each loaded model are.
#[utoipa::path(get, path = "/api/mdl/usage", tag = "operations", responses(
    (status = 200, description = "Slots, cache pages, memory and counts", body = ServerUsage),
    Failures,
))]
pub(super) async fn usage(State(app): State<Arc<App>>) -> Json<ServerUsage> {
    Json(ServerUsage {
        state: app.unready().unwrap_or("ready"),
        uptime_seconds: app.started.elapsed().as_secs_f64(),
        requests_waiting: app.scheduler.waiting(),
        models: app.scheduler.running().iter().map(ModelUsage::from).collect(),
    })
}
