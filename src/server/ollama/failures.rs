//! Errors: what a client may hear of them, and how the API's description lists them.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use axum::http::StatusCode;
use serde::Serialize;
use utoipa::openapi::{ContentBuilder, RefOr, Response, ResponseBuilder};
use utoipa::{IntoResponses, PartialSchema as _, ToSchema};

use crate::diagnostic::{Diagnostic, Errors, Kind, Severity};
use crate::server::app::App;
use crate::server::error::ApiError;
use crate::server::scheduler::{self, KeepAlive, Lease, Wish};
use crate::store::{Name, Stored};

/// The most bytes of a name that an error repeats.
const SHOWN: usize = 256;

/// The body of an error.
#[derive(Serialize, ToSchema)]
#[schema(as = ollama::Error)]
pub struct ErrorBody {
    /// What happened.
    pub error: String,
}

/// The errors that any route may answer.
pub struct Failures;

const STATUSES: &[(StatusCode, &str)] = &[
    (StatusCode::BAD_REQUEST, "The request is wrong, or asks what the model does not support"),
    (StatusCode::UNAUTHORIZED, "A key is needed"),
    (StatusCode::FORBIDDEN, "This host, origin or change is not allowed"),
    (StatusCode::NOT_FOUND, "There is no such model or blob"),
    (StatusCode::REQUEST_TIMEOUT, "The request did not arrive, or its answer was not read, in time"),
    (StatusCode::PAYLOAD_TOO_LARGE, "The body is too large"),
    (StatusCode::INTERNAL_SERVER_ERROR, "Something failed; the server's log says what"),
    (StatusCode::SERVICE_UNAVAILABLE, "Too many wait, the memory is not enough, or the server stops"),
];

/// The errors of routes that write to the store.
pub struct WriteFailures;

/// The errors of routes that speak to registries.
pub struct TransferFailures;

fn describe(more: &[(StatusCode, &str)]) -> BTreeMap<String, RefOr<Response>> {
    let one = |(status, text): &(StatusCode, &str)| {
        let content = ContentBuilder::new().schema(Some(ErrorBody::schema())).build();
        let response = ResponseBuilder::new().description(*text).content("application/json", content);
        (status.as_str().to_owned(), RefOr::T(response.build()))
    };
    STATUSES.iter().chain(more).map(one).collect()
}

impl IntoResponses for Failures {
    fn responses() -> BTreeMap<String, RefOr<Response>> {
        describe(&[])
    }
}

impl IntoResponses for WriteFailures {
    fn responses() -> BTreeMap<String, RefOr<Response>> {
        describe(&[(StatusCode::INSUFFICIENT_STORAGE, "The disk is full")])
    }
}

impl IntoResponses for TransferFailures {
    fn responses() -> BTreeMap<String, RefOr<Response>> {
        describe(&[
            (StatusCode::BAD_GATEWAY, "The registry fails, or sends what it should not"),
            (StatusCode::INSUFFICIENT_STORAGE, "The disk is full"),
        ])
    }
}

/// Text of a client as an error repeats it: not more than a line's worth.
pub fn excerpt(text: &str) -> &str {
    let mut end = text.len().min(SHOWN);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    text.get(..end).unwrap_or_default()
}

/// `model 'x' not found`, as most routes say it.
pub fn no_model(text: &str) -> ApiError {
    ApiError::not_found(format!("model '{}' not found", excerpt(text)))
}

/// As `/api/embed` and `/api/copy` say it.
pub fn no_model_to(text: &str, hint: &str) -> ApiError {
    ApiError::not_found(format!("model {:?} not found{hint}", excerpt(text)))
}

/// The model of the store that a request names.
///
/// # Errors
/// `missing` where there is none; its manifest cannot be read.
pub async fn stored(app: &Arc<App>, text: &str, missing: ApiError) -> Result<Stored, ApiError> {
    let Ok(name) = Name::parse(text) else { return Err(missing) };
    let found = scheduler::find(app, &name).await;
    found.map_err(|e| if e.status == StatusCode::NOT_FOUND { missing } else { without_paths(app, e) })
}

/// Leases a model; see [`scheduler::Scheduler::lease`].
///
/// # Errors
/// As there.
pub async fn lease(
    app: &Arc<App>,
    name: &Name,
    wish: Wish,
    keep_alive: Option<KeepAlive>,
) -> Result<Lease, ApiError> {
    app.scheduler.lease(app, name, wish, keep_alive).await.map_err(|e| without_paths(app, e))
}

/// What a client hears of errors of the store.
pub fn refuse(app: &App, errors: Errors) -> ApiError {
    match errors.0.iter().any(|d| d.code == "disk-full") {
        true => disk_full(&errors),
        false => without_paths(app, errors.into()),
    }
}

/// What a client hears of errors of a build: with the file, the place, and what to do.
pub fn refuse_build(app: &App, errors: Errors) -> ApiError {
    let is_error = |d: &&Diagnostic| d.severity == Severity::Error;
    match errors.0.iter().find(is_error) {
        Some(first) if first.kind != Kind::Environment => {
            let mut message = first.to_string();
            // The recipe was made of the request, so that its lines are nowhere to be seen; and a client
            // has no flags.
            let helps = |h: &&String| !h.starts_with("named at ") && !h.contains("`--");
            for help in first.help.iter().filter(helps) {
                message.push_str("; ");
                message.push_str(help);
            }
            let message = message.replace(super::create::UPLOADS, "");
            without_paths(app, ApiError::bad_request(message))
        }
        _ => refuse(app, errors),
    }
}

fn disk_full(errors: &Errors) -> ApiError {
    tracing::error!(cause = %errors, "the disk is full");
    ApiError::new(StatusCode::INSUFFICIENT_STORAGE, "no space is left on the disk of the store")
}

/// The error without the store's place on the host.
pub fn without_paths(app: &App, error: ApiError) -> ApiError {
    ApiError { message: hide(app.store.root(), &error.message), ..error }
}

/// What is told of a build, without directories: neither the store's nor that of uploaded files.
pub fn told(app: &App, note: &Diagnostic) -> String {
    hide(app.store.root(), &note.to_string()).replace(super::create::UPLOADS, "")
}

fn hide(root: &Path, message: &str) -> String {
    let root = root.to_string_lossy();
    match root.len() {
        // Nothing, `.` and `/` are no secret, and are in every text.
        0 | 1 => message.to_owned(),
        _ => message.replace(&format!("{root}/"), "").replace(&*root, "the store"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn excerpts_end_at_characters() {
        assert_eq!(excerpt("short"), "short");
        let long = format!("{}é", "x".repeat(255));
        assert_eq!(excerpt(&long), "x".repeat(255));
    }

    #[test]
    fn the_store_s_place_is_not_told() {
        let root = Path::new("/home/ann/models");
        assert_eq!(hide(root, "delete /home/ann/models/blobs/sha256-1, then"), "delete blobs/sha256-1, then");
        assert_eq!(hide(root, "no model in /home/ann/models"), "no model in the store");
        assert_eq!(hide(Path::new("."), "a. b."), "a. b.");
    }

    #[test]
    fn a_full_disk_has_its_own_status() {
        let full = Diagnostic::environment("cannot write /home/ann/models").code("disk-full");
        let error = disk_full(&full.into());
        assert_eq!((error.status.as_u16(), error.message.contains("/home")), (507, false));
    }

    #[test]
    fn every_status_is_described_once() {
        let all = WriteFailures::responses();
        assert_eq!(all.len(), STATUSES.len() + 1);
        assert!(all.contains_key("507") && all.contains_key("400"));
    }
}
