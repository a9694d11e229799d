//! `/api/pull` and `/api/push`: models from and to registries, line by line.

use std::collections::HashMap;
use std::future::Future;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use axum::extract::State;
use axum::http::StatusCode;
use axum::response::{IntoResponse as _, Response};
use futures_util::{StreamExt as _, stream};
use serde::{Deserialize, Serialize};
use tokio::sync::mpsc;
use utoipa::ToSchema;

use super::failures::{self, ErrorBody, TransferFailures};
use super::ndjson;
use crate::diagnostic::{Errors, Result};
use crate::registry::{self, Client, Options, Progress};
use crate::server::app::App;
use crate::server::body::Json;
use crate::server::error::ApiError;
use crate::store::{Digest, Name};

/// Lines that a slow client may leave unread; more are left out.
const UNREAD: usize = 1024;

/// A blob tells how far it is no more often than that.
const EVERY: Duration = Duration::from_millis(100);

/// What to pull or push.
#[derive(Debug, Default, Deserialize, ToSchema)]
#[schema(as = ollama::TransferRequest)]
pub struct TransferRequest {
    /// The model.
    model: Option<String>,
    /// What `model` was called before.
    name: Option<String>,
    /// Speak plain HTTP.
    insecure: Option<bool>,
    /// Line by line (the default), or as one object.
    stream: Option<bool>,
}

/// How far a transfer is.
#[derive(Clone, Debug, Default, PartialEq, Serialize, ToSchema)]
#[schema(as = ollama::ProgressResponse)]
pub struct ProgressResponse {
    /// What is done; `success` at the end.
    status: String,
    /// Of which blob.
    #[serde(skip_serializing_if = "Option::is_none")]
    digest: Option<String>,
    /// Bytes of the blob.
    #[serde(skip_serializing_if = "Option::is_none")]
    total: Option<u64>,
    /// Bytes done.
    #[serde(skip_serializing_if = "Option::is_none")]
    completed: Option<u64>,
}

/// A line of an answer: what goes wrong after the first one is the last.
#[derive(ToSchema)]
#[schema(as = ollama::TransferLine)]
#[serde(untagged)]
#[allow(dead_code, reason = "describes a body")]
enum TransferLine {
    /// How far it is.
    Progress(ProgressResponse),
    /// Why it came to nothing.
    Error(ErrorBody),
}

impl TransferRequest {
    fn name(&self) -> Result<Name, ApiError> {
        let text = self.model.as_deref().filter(|m| !m.is_empty()).or(self.name.as_deref()).unwrap_or("");
        let name = Name::parse(text).map_err(|_| ApiError::bad_request("invalid model name"))?;
        match name.scheme() == Some("http") && self.insecure != Some(true) {
            true => Err(ApiError::bad_request("insecure protocol http")),
            false => Ok(name),
        }
    }
}

type Line = Result<ProgressResponse, ApiError>;

/// Tells a client. What it does not read in time is left out.
struct Lines {
    client: mpsc::Sender<Line>,
    told: Mutex<HashMap<Digest, Instant>>,
}

impl Progress for Lines {
    fn status(&self, status: &str) {
        // The last is told where the end is known.
        if status != "success" {
            let line = ProgressResponse { status: status.to_owned(), ..ProgressResponse::default() };
            let _ = self.client.try_send(Ok(line));
        }
    }

    fn transfer(&self, status: &str, digest: &Digest, total: u64, completed: u64) {
        let mut told = self.told.lock().unwrap_or_else(PoisonError::into_inner);
        let now = Instant::now();
        let recent = told.get(digest).is_some_and(|told| now.duration_since(*told) < EVERY);
        if recent && completed < total {
            return;
        }
        told.insert(*digest, now);
        let _ = self.client.try_send(Ok(ProgressResponse {
            status: status.to_owned(),
            digest: Some(digest.to_string()),
            total: Some(total),
            completed: Some(completed),
        }));
    }
}

/// Does the work while the client listens, and answers with its lines.
async fn respond<F>(
    app: &Arc<App>,
    request: &TransferRequest,
    work: impl FnOnce(Arc<Client>, Lines) -> F + Send + 'static,
) -> Result<Response, ApiError>
where
    F: Future<Output = Result<()>>,
{
    let permit = app.transfers.clone().try_acquire_owned().map_err(|_| ApiError::busy())?;
    let options =
        Options { insecure: request.insecure == Some(true), ..Options::from_env(&|n| std::env::var_os(n)) };
    if app.config.offline {
        return Err(ApiError::forbidden("the server does not use the network"));
    }
    let client = app.blocking(move |app| Client::new(options).map_err(|e| refuse(app, e))).await?;
    let (sender, lines) = mpsc::channel(UNREAD);
    let mut stopping = app.stopping();
    let running = app.clone();
    // On a thread of its own: a transfer waits for the disk as well.
    tokio::task::spawn_blocking(move || {
        let lines = Lines { client: sender.clone(), told: Mutex::default() };
        let done = registry::block_on(async {
            tokio::select! {
                done = work(client, lines) => Ok(Some(done)),
                // What came so far is kept for the next time.
                () = sender.closed() => Ok(None),
                _ = stopping.wait_for(|stop| *stop) => Ok(None),
            }
        });
        let done = match done {
            Ok(Some(done)) => done.map_err(|errors| refuse(&running, errors)),
            Ok(None) => Err(ApiError::stopping()),
            Err(errors) => Err(refuse(&running, errors)),
        };
        drop(permit);
        let success = ProgressResponse { status: "success".to_owned(), ..ProgressResponse::default() };
        let _ = sender.blocking_send(done.map(|()| success));
    });
    let mut lines = Box::pin(stream::unfold(lines, |mut lines| async { Some((lines.recv().await?, lines)) }));
    if request.stream.unwrap_or(true) {
        return ndjson::respond(lines).await;
    }
    let mut last = Err(ApiError::internal("a transfer without a line"));
    while let Some(line) = lines.next().await {
        last = Ok(line?);
    }
    last.map(|last| axum::Json(last).into_response())
}

/// What a client hears of a registry: what it did, and not where anything is on this host.
fn refuse(app: &App, errors: Errors) -> ApiError {
    let Some(first) = errors.0.first() else { return ApiError::internal("an error without a diagnostic") };
    let message = match first.code {
        "not-in-registry" => return ApiError::not_found("pull model manifest: file does not exist"),
        "unknown-model" | "invalid-name" | "insecure" => return failures::refuse(app, errors),
        code if code.starts_with("registry-") => first.message.clone(),
        _ => return failures::refuse(app, errors),
    };
    failures::without_paths(app, ApiError::new(StatusCode::BAD_GATEWAY, message))
}

/// Gets a model from a registry. When the client goes away, the work ends; the next pull goes on where it was.
#[utoipa::path(post, path = "/api/pull", tag = "ollama", request_body = TransferRequest, responses(
    (status = 200, description = "Progress line by line, or its last line", content(
        (ProgressResponse = "application/json"),
        (TransferLine = "application/x-ndjson"),
    )),
    TransferFailures,
))]
pub async fn pull(
    State(app): State<Arc<App>>,
    Json(request): Json<TransferRequest>,
) -> Result<Response, ApiError> {
    let name = request.name()?;
    let store = app.store.clone();
    let work = move |client: Arc<Client>, lines: Lines| async move {
        let pulled = client.pull(&store, &name, &lines).await?;
        tracing::info!(model = %pulled.name, id = %pulled.id.short(), "pulled");
        Ok(())
    };
    respond(&app, &request, work).await
}

/// Sends a model to a registry.
#[utoipa::path(post, path = "/api/push", tag = "ollama", request_body = TransferRequest, responses(
    (status = 200, description = "Progress line by line, or its last line", content(
        (ProgressResponse = "application/json"),
        (TransferLine = "application/x-ndjson"),
    )),
    TransferFailures,
))]
pub async fn push(
    State(app): State<Arc<App>>,
    Json(request): Json<TransferRequest>,
) -> Result<Response, ApiError> {
    let name = request.name()?;
    let text = name.to_string();
    failures::stored(&app, &text, failures::no_model(&text)).await?;
    let store = app.store.clone();
    let work = move |client: Arc<Client>, lines: Lines| async move {
        let id = client.push(&store, &name, None, &lines).await?;
        tracing::info!(model = %name, id = %id.short(), "pushed");
        Ok(())
    };
    respond(&app, &request, work).await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_checked() {
        let name = |json: &str| serde_json::from_str::<TransferRequest>(json).unwrap().name();
        assert_eq!(name(r#"{"name": "x", "model": ""}"#).unwrap().to_string(), "x:latest");
        for bad in ["{}", r#"{"model": "../x"}"#, r#"{"model": null}"#] {
            assert_eq!(name(bad).unwrap_err().message, "invalid model name", "{bad}");
        }
        assert_eq!(name(r#"{"model": "http://h/n/m"}"#).unwrap_err().message, "insecure protocol http");
        assert!(name(r#"{"model": "http://h/n/m", "insecure": true}"#).is_ok());
    }
}
