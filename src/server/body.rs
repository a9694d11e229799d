//! Bodies of requests: read within limits, then parsed.

use std::sync::Arc;
use std::time::Duration;

use axum::extract::{FromRequest, Request};
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse as _, Response};
use bytes::{Bytes, BytesMut};
use http_body_util::BodyExt as _;
use serde::de::DeserializeOwned;

use super::app::App;
use super::error::ApiError;

/// A body of JSON, whatever its content type says: Ollama's clients need not say any.
pub struct Json<T>(pub T);

impl<T: DeserializeOwned> FromRequest<Arc<App>> for Json<T> {
    type Rejection = ApiError;

    async fn from_request(request: Request, app: &Arc<App>) -> Result<Self, ApiError> {
        let limits = &app.config.limits;
        let body = read(request, limits.body, limits.body_idle).await?;
        if body.iter().all(u8::is_ascii_whitespace) {
            return Err(ApiError::bad_request("missing request body"));
        }
        parse(&body).map(Json)
    }
}

/// Bytes of a body that nobody wants and that are read all the same.
const UNWANTED: usize = 64 << 10;

/// How long they are waited for.
const UNWANTED_TIME: Duration = Duration::from_millis(500);

/// Answers a request whose body nobody wants. A connection with an unread body cannot be used again: it is read
/// where it is short, and else the client is told that the connection ends.
pub async fn refuse(request: Request, error: ApiError) -> Response {
    let mut response = error.into_response();
    let mut body = request.into_body();
    let all = async {
        let mut read = 0;
        while let Some(frame) = body.frame().await {
            let Ok(frame) = frame else { return false };
            read += frame.data_ref().map_or(0, Bytes::len);
            if read > UNWANTED {
                return false;
            }
        }
        true
    };
    if !tokio::time::timeout(UNWANTED_TIME, all).await.unwrap_or(false) {
        response.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
    }
    response
}

/// Parses JSON. serde_json refuses what is nested deeper than 128.
fn parse<T: DeserializeOwned>(body: &[u8]) -> Result<T, ApiError> {
    let mut reader = serde_json::Deserializer::from_slice(body);
    let value = T::deserialize(&mut reader).map_err(|e| ApiError::bad_request(e.to_string()))?;
    reader.end().map_err(|e| ApiError::bad_request(e.to_string()))?;
    Ok(value)
}

/// Reads a whole body.
async fn read(request: Request, limit: usize, idle: Duration) -> Result<Bytes, ApiError> {
    let too_large = || {
        let message = format!("the request body is larger than {limit} bytes");
        ApiError::new(StatusCode::PAYLOAD_TOO_LARGE, message)
    };
    let stated = request.headers().get(axum::http::header::CONTENT_LENGTH);
    if stated.and_then(|v| v.to_str().ok()?.parse::<u64>().ok()).is_some_and(|n| n > limit as u64) {
        return Err(too_large());
    }
    let mut body = request.into_body();
    let mut bytes = BytesMut::new();
    while let Some(chunk) = next_chunk(&mut body, idle).await? {
        if chunk.len() > limit - bytes.len() {
            return Err(too_large());
        }
        bytes.extend_from_slice(&chunk);
    }
    Ok(bytes.freeze())
}

/// The next bytes of a body; `None` at its end.
///
/// # Errors
/// 408 when none came in `idle`; 400 when the client sent no proper body.
pub async fn next_chunk(body: &mut axum::body::Body, idle: Duration) -> Result<Option<Bytes>, ApiError> {
    loop {
        let frame = tokio::time::timeout(idle, body.frame()).await.map_err(|_| {
            ApiError::new(StatusCode::REQUEST_TIMEOUT, "the request body did not arrive in time")
        })?;
        match frame {
            None => return Ok(None),
            Some(Err(_)) => return Err(ApiError::bad_request("the request body ended early")),
            Some(Ok(frame)) => {
                // Trailers say nothing here.
                if let Ok(data) = frame.into_data() {
                    return Ok(Some(data));
                }
            }
        }
    }
}
