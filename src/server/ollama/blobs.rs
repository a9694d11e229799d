//! `/api/blobs/{digest}`: files of models to be made.

use std::io::Write as _;
use std::sync::Arc;

use axum::body::Body;
use axum::extract::rejection::PathRejection;
use axum::extract::{Path, Request, State};
use axum::http::StatusCode;
use bytes::Bytes;
use tokio::sync::mpsc;

use super::failures::{self, WriteFailures, excerpt};
use crate::server::app::App;
use crate::server::body;
use crate::server::error::ApiError;
use crate::store::Digest;

/// Pieces of a body that wait to be written.
const PIECES: usize = 16;

/// Blobs of at least that many bytes are not hashed again when a model is made of them.
const LARGE: u64 = 1 << 20;

fn parse(path: Result<Path<String>, PathRejection>) -> Result<Digest, ApiError> {
    let invalid = || ApiError::bad_request("invalid digest format");
    path.map_err(|_| invalid())?.0.parse().map_err(|_| invalid())
}

/// Tells whether a blob is there.
#[utoipa::path(head, path = "/api/blobs/{digest}", tag = "ollama",
    params(("digest" = String, Path, description = "`sha256:` and 64 hexadecimal digits")),
    responses((status = 200, description = "It is there"), WriteFailures),
)]
pub async fn find(
    State(app): State<Arc<App>>,
    path: Result<Path<String>, PathRejection>,
) -> Result<(), ApiError> {
    let digest = parse(path)?;
    app.blocking(move |app| match app.store.find_blob(&digest) {
        Ok(Some(_)) => Ok(()),
        Ok(None) => Err(ApiError::not_found(format!("blob {:?} not found", digest.to_string()))),
        Err(errors) => Err(failures::refuse(app, errors)),
    })
    .await
}

/// Takes a blob. It is kept for an hour at least, until a model needs it.
#[utoipa::path(post, path = "/api/blobs/{digest}", tag = "ollama",
    params(("digest" = String, Path, description = "`sha256:` and 64 hexadecimal digits")),
    request_body(content = Vec<u8>, content_type = "application/octet-stream"),
    responses(
        (status = 200, description = "It was there"),
        (status = 201, description = "It is there now"),
        WriteFailures,
    ),
)]
pub async fn upload(
    State(app): State<Arc<App>>,
    path: Result<Path<String>, PathRejection>,
    request: Request,
) -> Result<StatusCode, ApiError> {
    let digest = parse(path)?;
    let known = app
        .blocking(move |app| {
            app.store.find_whole_blob(&digest).map_err(|errors| failures::refuse(app, errors))
        })
        .await?;
    if known.is_some() {
        return Ok(StatusCode::OK);
    }
    let stated = request.headers().get(axum::http::header::CONTENT_LENGTH);
    let expected = stated.and_then(|v| v.to_str().ok()?.parse().ok());
    let (sender, pieces) = mpsc::channel(PIECES);
    let writing = {
        let app = app.clone();
        tokio::spawn(async move { app.blocking(move |app| write(app, &digest, expected, pieces)).await })
    };
    let sent = send(request.into_body(), &sender, &app).await;
    drop(sender);
    // What the disk refuses is told before what the client did not send.
    let written = writing.await.unwrap_or_else(|panic| Err(ApiError::internal(panic)));
    match (written, sent) {
        (Err(error), _) | (Ok(false), Err(error)) => Err(error),
        (Ok(true), _) => Ok(StatusCode::CREATED),
        (Ok(false), Ok(())) => Err(ApiError::internal("a blob was not written")),
    }
}

/// Passes a body on, and `None` as the sign that this was all of it.
async fn send(mut body: Body, sender: &mpsc::Sender<Option<Bytes>>, app: &App) -> Result<(), ApiError> {
    loop {
        let piece = body::next_chunk(&mut body, app.config.limits.body_idle).await?;
        let last = piece.is_none();
        // The writer is gone when the disk refused: it says so itself.
        if sender.send(piece).await.is_err() || last {
            return Ok(());
        }
    }
}

/// Writes what comes. False when it ended without the sign: the client has gone.
fn write(
    app: &App,
    digest: &Digest,
    expected: Option<u64>,
    mut pieces: mpsc::Receiver<Option<Bytes>>,
) -> Result<bool, ApiError> {
    let refuse = |errors| failures::refuse(app, errors);
    let writer = app.store.writer().map_err(refuse)?;
    let mut blob = writer.blob(expected).map_err(refuse)?;
    loop {
        match pieces.blocking_recv() {
            None => return Ok(false),
            Some(None) => break,
            Some(Some(piece)) => blob.write_all(&piece).map_err(|e| refuse(blob.diagnose(&e).into()))?,
        }
    }
    match blob.finish_as(digest).map_err(refuse)? {
        Ok(blob) => {
            if blob.size >= LARGE {
                writer.remember_whole(&blob);
            }
            Ok(true)
        }
        Err(got) => {
            let (want, got) = (digest.to_string(), got.to_string());
            let message = format!("digest mismatch, expected {:?}, got {:?}", excerpt(&want), got);
            Err(ApiError::bad_request(message))
        }
    }
}
