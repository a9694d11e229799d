//! `GET /v1/models` and `GET /v1/models/{model}`.

use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use axum::Json;
use axum::extract::rejection::PathRejection;
use axum::extract::{Path, State};
use axum::routing::get;
use serde::Serialize;
use utoipa::ToSchema;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::failures::Failures;
use crate::server::app::App;
use crate::server::error::ApiError;
use crate::server::fields;
use crate::server::scheduler;
use crate::store::Name;

/// The routes. A model's name may have a namespace and a host before it.
pub fn routes() -> OpenApiRouter<Arc<App>> {
    OpenApiRouter::new()
        .routes(routes!(list))
        .routes(routes!(retrieve))
        .route("/v1/models/{model}/{rest}", get(retrieve))
        .route("/v1/models/{model}/{rest}/{more}", get(retrieve))
}

/// A model.
#[derive(Clone, Debug, PartialEq, Serialize, ToSchema)]
#[schema(as = openai::Model)]
struct Model {
    /// Its name.
    id: String,
    /// `model`.
    object: &'static str,
    /// When it was made: seconds since 1970.
    created: u64,
    /// Its namespace.
    owned_by: String,
}

/// The models.
#[derive(Clone, Debug, Serialize, ToSchema)]
#[schema(as = openai::Models)]
struct Models {
    /// `list`.
    object: &'static str,
    /// The newest first.
    data: Vec<Model>,
}

fn model(name: &Name, modified: SystemTime) -> Model {
    Model {
        id: name.to_string(),
        object: "model",
        created: modified.duration_since(UNIX_EPOCH).map_or(0, |d| d.as_secs()),
        owned_by: name.namespace().to_owned(),
    }
}

/// Lists the models.
#[utoipa::path(get, path = "/v1/models", tag = "openai",
    responses((status = 200, description = "The models, the newest first", body = Models), Failures))]
async fn list(State(app): State<Arc<App>>) -> Result<Json<Models>, ApiError> {
    let entries = app.blocking(|app| Ok(app.store.list()?)).await?;
    // What cannot be read cannot be run.
    let readable = entries.iter().filter(|entry| entry.id.is_some());
    let data = readable.map(|entry| model(&entry.name, entry.modified)).collect();
    Ok(Json(Models { object: "list", data }))
}

/// Tells about a model.
#[utoipa::path(get, path = "/v1/models/{model}", tag = "openai",
    params(("model" = String, Path, description = "The model's name; its `/` need not be encoded")),
    responses((status = 200, description = "The model", body = Model), Failures))]
async fn retrieve(
    State(app): State<Arc<App>>,
    segments: Result<Path<Vec<(String, String)>>, PathRejection>,
) -> Result<Json<Model>, ApiError> {
    let Path(segments) = segments.map_err(|e| fields::invalid("model", &e.body_text()))?;
    let text = segments.into_iter().map(|(_, segment)| segment).collect::<Vec<_>>().join("/");
    let stored = scheduler::find(&app, &fields::model(&text)?).await?;
    Ok(Json(model(&stored.name, stored.modified)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_model_is_owned_by_its_namespace() {
        let name = Name::parse("me/story:1").unwrap();
        let json =
            serde_json::to_string(&model(&name, UNIX_EPOCH + std::time::Duration::from_secs(5))).unwrap();
        assert_eq!(json, r#"{"id":"me/story:1","object":"model","created":5,"owned_by":"me"}"#);
    }

    #[test]
    fn routes_do_not_collide() {
        // Building the router panics where two routes are one.
        let (_, api) = routes().split_for_parts();
        assert_eq!(api.paths.paths.keys().collect::<Vec<_>>(), ["/v1/models", "/v1/models/{model}"]);
    }
}
