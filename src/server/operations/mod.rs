//! Health, metrics, the API's description.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::{Json, Router};
use utoipa::openapi::OpenApi;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::app::App;
use super::scheduler::{KeepAlive, Wish};
use crate::store::Name;

/// The head of the API's description.
#[derive(utoipa::OpenApi)]
#[openapi(info(
    title = "mdl",
    description = "Models behind the Ollama, OpenAI and Anthropic APIs.",
    license(name = "Apache-2.0 OR MIT")
))]
pub struct Description;

/// Health and metrics.
pub fn routes() -> OpenApiRouter<Arc<App>> {
    OpenApiRouter::new().routes(routes!(healthz)).routes(routes!(readyz)).routes(routes!(metrics))
}

/// `/openapi.json`.
pub fn description(api: OpenApi) -> Router<Arc<App>> {
    let api = Arc::new(api);
    Router::new().route("/openapi.json", axum::routing::get(move || async move { Json((*api).clone()) }))
}

/// The process lives.
#[utoipa::path(get, path = "/healthz", tag = "operations", responses((status = 200, description = "It does", body = String)))]
async fn healthz() -> &'static str {
    "ok"
}

/// Requests are answered: the models to preload are loaded, the engines move, and the server does not stop.
#[utoipa::path(get, path = "/readyz", tag = "operations", responses(
    (status = 200, description = "They are", body = String),
    (status = 503, description = "They are not; the text says why", body = String),
))]
async fn readyz(State(app): State<Arc<App>>) -> Response {
    match app.unready() {
        None => "ready".into_response(),
        Some(why) => (StatusCode::SERVICE_UNAVAILABLE, why).into_response(),
    }
}

/// Counters for Prometheus.
#[utoipa::path(get, path = "/metrics", tag = "operations", responses((status = 200, description = "OpenMetrics text", body = String)))]
async fn metrics(State(app): State<Arc<App>>) -> Response {
    let content_type = "application/openmetrics-text; version=1.0.0; charset=utf-8";
    ([(header::CONTENT_TYPE, content_type)], app.metrics.encode(&app.scheduler)).into_response()
}

/// Loads the models that the operator named; the server is not ready before.
pub fn preload(app: &Arc<App>) {
    let app = app.clone();
    tokio::spawn(async move {
        for text in &app.config.preload {
            let loaded = match Name::parse(text) {
                Ok(name) => app.scheduler.lease(&app, &name, Wish::default(), Some(KeepAlive::Forever)).await,
                Err(errors) => Err(errors.into()),
            };
            if let Err(error) = loaded {
                tracing::error!(model = %text, error = %error.message, "cannot preload");
                return;
            }
        }
        app.preloaded.store(true, Ordering::Release);
    });
}
