//! Health, metrics, the API's description.

mod usage;

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
use super::ollama::Failures;
use super::scheduler::{KeepAlive, Wish};
use crate::store::Name;

/// What Prometheus asks for.
const OPEN_METRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// The head of the API's description.
#[derive(utoipa::OpenApi)]
#[openapi(info(
    title = "mdl",
    description = "Models behind the Ollama, OpenAI and Anthropic APIs.",
    license(name = "Apache-2.0 OR MIT")
))]
pub struct Description;

/// Health, metrics, use.
pub fn routes() -> OpenApiRouter<Arc<App>> {
    OpenApiRouter::new()
        .routes(routes!(healthz))
        .routes(routes!(readyz))
        .routes(routes!(metrics))
        .routes(routes!(usage::usage))
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
#[utoipa::path(get, path = "/metrics", tag = "operations", responses(
    (status = 200, description = "OpenMetrics text", body = String, content_type = "application/openmetrics-text"),
    Failures,
))]
async fn metrics(State(app): State<Arc<App>>) -> Response {
    ([(header::CONTENT_TYPE, OPEN_METRICS)], app.metrics.encode(&app.scheduler)).into_response()
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

#[cfg(test)]
mod tests {
    use axum::body::Body;
    use axum::http::{Request, header};
    use http_body_util::BodyExt as _;
    use tower::ServiceExt as _;

    use super::*;
    use crate::server::config::Config;
    use crate::server::router;
    use crate::store::Store;

    struct Place {
        _directory: tempfile::TempDir,
        app: Arc<App>,
    }

    impl Place {
        fn new() -> Place {
            let directory = tempfile::tempdir().unwrap();
            let app =
                App::new(Store::open(directory.path().join("store")).unwrap(), Config::default()).unwrap();
            Place { _directory: directory, app }
        }

        /// Status, content type and body.
        async fn get(&self, path: &str) -> (u16, String, String) {
            let request = Request::get(path).body(Body::empty()).unwrap();
            let response = router(&self.app).oneshot(request).await.unwrap();
            let status = response.status().as_u16();
            let content_type = response.headers().get(header::CONTENT_TYPE);
            let content_type = content_type.map_or("", |v| v.to_str().unwrap()).to_owned();
            let body = response.into_body().collect().await.unwrap().to_bytes();
            (status, content_type, String::from_utf8(body.to_vec()).unwrap())
        }
    }

    #[tokio::test]
    async fn it_is_ready_once_it_is_loaded_and_until_it_stops() {
        let place = Place::new();
        assert_eq!(place.get("/healthz").await.0, 200);
        let (status, _, why) = place.get("/readyz").await;
        assert_eq!((status, why.as_str()), (503, "loading"));
        place.app.preloaded.store(true, Ordering::Release);
        assert_eq!(place.get("/readyz").await.0, 200);
        place.app.drain();
        let (status, _, why) = place.get("/readyz").await;
        assert_eq!((status, why.as_str()), (503, "stopping"));
        assert_eq!(place.get("/healthz").await.0, 200);
    }

    #[tokio::test]
    async fn use_of_an_idle_server() {
        let place = Place::new();
        place.app.preloaded.store(true, Ordering::Release);
        let (status, content_type, body) = place.get("/api/mdl/usage").await;
        assert_eq!((status, content_type.as_str()), (200, "application/json"));
        let mut usage: serde_json::Value = serde_json::from_str(&body).unwrap();
        assert!(usage["uptime_seconds"].take().as_f64().unwrap() >= 0.0);
        let expected = serde_json::json!({
            "state": "ready", "uptime_seconds": null, "requests_waiting": 0, "models": [],
        });
        assert_eq!(usage, expected);
    }

    #[tokio::test]
    async fn metrics_count_requests_by_route() {
        let place = Place::new();
        place.get("/healthz").await;
        place.get("/no/such/path").await;
        let (status, content_type, text) = place.get("/metrics").await;
        assert_eq!(status, 200);
        assert!(content_type.starts_with("application/openmetrics-text"));
        for line in [
            "mdl_requests_total{route=\"/healthz\",method=\"GET\",status=\"200\"} 1",
            "mdl_requests_total{route=\"other\",method=\"GET\",status=\"404\"} 1",
            "mdl_requests_waiting 0",
        ] {
            assert!(text.lines().any(|l| l == line), "{line} is not in\n{text}");
        }
        assert!(text.ends_with("# EOF\n"));
    }

    #[tokio::test]
    async fn the_description_names_every_operation_and_its_schemas() {
        let place = Place::new();
        let (status, _, body) = place.get("/openapi.json").await;
        assert_eq!(status, 200);
        let api: serde_json::Value = serde_json::from_str(&body).unwrap();
        for path in ["/healthz", "/readyz", "/metrics", "/api/mdl/usage"] {
            assert!(api["paths"][path]["get"]["responses"]["200"].is_object(), "{path}");
        }
        // Every reference leads somewhere.
        for reference in body.split("\"$ref\":\"#").skip(1) {
            let pointer = reference.split('"').next().unwrap();
            assert!(api.pointer(pointer).is_some(), "{pointer}");
        }
    }
}
