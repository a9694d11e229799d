//! The models there are: `/api/tags`, `/api/ps`, `/api/copy`, `/api/delete`.

use std::cmp::Reverse;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use axum::extract::State;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::failures::{self, Failures, WriteFailures, excerpt, stored};
use super::types::{Details, time};
use crate::diagnostic::Result;
use crate::server::app::App;
use crate::server::body::Json;
use crate::server::describe::Description;
use crate::server::error::ApiError;
use crate::store::{Entry, Name, Stored};

/// What is told of a model that stays for ever: Go's longest duration, 292 years.
const FOR_EVER: Duration = Duration::from_nanos(i64::MAX as u64);

/// The models of the store.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = ollama::TagsResponse)]
pub struct TagsResponse {
    /// The newest first.
    models: Vec<Tag>,
}

/// A model of the store.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = ollama::Tag)]
struct Tag {
    name: String,
    /// The same as `name`.
    model: String,
    /// When it was made.
    modified_at: String,
    /// Bytes of its blobs.
    size: u64,
    /// What it is known by, 64 hexadecimal digits; empty where the manifest is damaged.
    digest: String,
    details: Details,
    /// `completion`, `embedding`, `tools`, `insert`, `thinking`; empty where the model is damaged.
    capabilities: Vec<&'static str>,
}

/// Lists the models of the store.
#[utoipa::path(get, path = "/api/tags", tag = "ollama", responses(
    (status = 200, description = "The models", body = TagsResponse),
    Failures,
))]
pub async fn tags(State(app): State<Arc<App>>) -> Result<axum::Json<TagsResponse>, ApiError> {
    app.blocking(|app| {
        let entries = app.store.list().map_err(|errors| failures::refuse(app, errors))?;
        let models = entries.into_iter().map(|entry| tag(app, entry)).collect();
        Ok(axum::Json(TagsResponse { models }))
    })
    .await
}

fn tag(app: &App, entry: Entry) -> Tag {
    let stored = app.store.find(&entry.name).ok().flatten();
    let (details, capabilities) = stored.map(|s| details(app, &s)).unwrap_or_default();
    Tag {
        name: entry.name.to_string(),
        model: entry.name.to_string(),
        modified_at: time(entry.modified),
        size: entry.size,
        digest: entry.id.map(|id| id.hex()).unwrap_or_default(),
        details,
        capabilities,
    }
}

/// What the weights say; where they cannot be read, what the configuration says.
fn details(app: &App, stored: &Stored) -> (Details, Vec<&'static str>) {
    if let Ok(description) = app.descriptions.of(&app.store, stored) {
        return (Details::of(&description), description.capabilities.clone());
    }
    let Ok(config) = app.store.config(stored) else { return Default::default() };
    let number = |n: i64| u64::try_from(n).ok().filter(|n| *n > 0);
    let details = Details {
        parent_model: "",
        format: config.model_format,
        family: config.model_family,
        families: config.model_families,
        parameter_size: config.model_type,
        quantization_level: config.file_type,
        context_length: number(config.context_length),
        embedding_length: number(config.embedding_length),
    };
    (details, Vec::new())
}

/// The models in memory.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = ollama::PsResponse)]
pub struct PsResponse {
    /// The one that stays longest first.
    models: Vec<Loaded>,
}

/// A model in memory.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = ollama::Loaded)]
struct Loaded {
    name: String,
    /// The same as `name`.
    model: String,
    /// Bytes that it takes in memory.
    size: u64,
    /// What it is known by, 64 hexadecimal digits.
    digest: String,
    details: Details,
    /// When it goes, unless it is used again.
    expires_at: String,
    /// Bytes of them on an accelerator.
    size_vram: u64,
    /// Tokens that its context holds.
    context_length: usize,
}

/// Lists the models in memory.
#[utoipa::path(get, path = "/api/ps", tag = "ollama", responses(
    (status = 200, description = "The models", body = PsResponse),
    Failures,
))]
pub async fn ps(State(app): State<Arc<App>>) -> Result<axum::Json<PsResponse>, ApiError> {
    app.blocking(|app| {
        let mut running = app.scheduler.running();
        let for_ever = SystemTime::now().checked_add(FOR_EVER);
        running.sort_by_key(|r| Reverse(r.expires.or(for_ever)));
        let models = running.into_iter().map(|r| {
            let name = r.model.name.to_string();
            // Its name may mean another model by now.
            let known = app.store.find(&r.model.name).ok().flatten().filter(|s| s.id == r.model.id);
            let details = known.and_then(|s: Stored| app.descriptions.of(&app.store, &s).ok());
            Loaded {
                model: name.clone(),
                name,
                size: r.model.size,
                digest: r.model.id.hex(),
                details: details.map(|d: Arc<Description>| Details::of(&d)).unwrap_or_default(),
                expires_at: time(r.expires.or(for_ever).unwrap_or(SystemTime::UNIX_EPOCH)),
                size_vram: r.model.on_accelerator,
                context_length: r.model.context,
            }
        });
        Ok(axum::Json(PsResponse { models: models.collect() }))
    })
    .await
}

/// A second name for a model.
#[derive(Debug, Default, Deserialize, ToSchema)]
#[schema(as = ollama::CopyRequest)]
pub struct CopyRequest {
    /// The model.
    source: Option<String>,
    /// Its new name.
    destination: Option<String>,
}

/// Gives a model a second name.
#[utoipa::path(post, path = "/api/copy", tag = "ollama", request_body = CopyRequest, responses(
    (status = 200, description = "The model has the name"),
    WriteFailures,
))]
pub async fn copy(State(app): State<Arc<App>>, Json(request): Json<CopyRequest>) -> Result<(), ApiError> {
    let name = |what: &str, text: Option<String>| {
        let text = text.unwrap_or_default();
        let invalid = || ApiError::bad_request(format!("{what} {:?} is invalid", excerpt(&text)));
        Name::parse(&text).map(|name| (name, text.clone())).map_err(|_| invalid())
    };
    let (_, source) = name("source", request.source)?;
    let (destination, _) = name("destination", request.destination)?;
    let from = stored(&app, &source, failures::no_model_to(&source, "")).await?;
    app.blocking(move |app| {
        let copied = || {
            let published = app.store.writer()?.copy(&from.name, &destination)?;
            app.store.prune(&published.replaced)
        };
        copied().map(drop).map_err(|errors| failures::refuse(app, errors))
    })
    .await
}

/// A model to remove.
#[derive(Debug, Default, Deserialize, ToSchema)]
#[schema(as = ollama::DeleteRequest)]
pub struct DeleteRequest {
    /// The model.
    model: Option<String>,
    /// What `model` was called before.
    name: Option<String>,
}

/// Removes a model, and its blobs as far as no other model needs them.
#[utoipa::path(delete, path = "/api/delete", tag = "ollama", request_body = DeleteRequest, responses(
    (status = 200, description = "The model is gone"),
    WriteFailures,
))]
pub async fn delete(State(app): State<Arc<App>>, Json(request): Json<DeleteRequest>) -> Result<(), ApiError> {
    let text = request.model.filter(|m| !m.is_empty()).or(request.name).unwrap_or_default();
    let Ok(name) = Name::parse(&text) else {
        return Err(ApiError::bad_request(format!("name {:?} is invalid", excerpt(&text))));
    };
    app.blocking(move |app| {
        // A damaged model can be removed, too: its manifest need not be read.
        let loaded = app.store.find(&name).ok().flatten();
        match app.store.remove(&name) {
            Ok(removed) => {
                for note in &removed.collected.warnings {
                    tracing::info!(model = %removed.name, %note, "removed");
                }
                if let Some(stored) = loaded {
                    app.scheduler.unload(&stored.id);
                }
                Ok(())
            }
            Err(errors) if errors.0.iter().any(|d| d.code == "unknown-model") => {
                Err(failures::no_model(&text))
            }
            Err(errors) => Err(failures::refuse(app, errors)),
        }
    })
    .await
}
