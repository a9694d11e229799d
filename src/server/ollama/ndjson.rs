//! Answers line by line: one JSON object each.

use std::convert::Infallible;

use axum::body::Body;
use axum::http::header;
use axum::response::{IntoResponse as _, Response};
use bytes::Bytes;
use futures_util::{Stream, StreamExt as _, stream};
use serde::Serialize;

use super::failures::ErrorBody;
use crate::server::error::ApiError;

/// Streams lines. What fails before the first line is an error with its status; what fails later is a last
/// line `{"error": ...}`. Dropping the response drops `lines`.
///
/// # Errors
/// The first line is an error.
pub async fn respond<T: Serialize>(
    lines: impl Stream<Item = Result<T, ApiError>> + Send + 'static,
) -> Result<Response, ApiError> {
    let mut lines = Box::pin(lines);
    let first = match lines.next().await {
        Some(first) => to_line(&first?),
        None => return Err(ApiError::internal("an answer without a line")),
    };
    let rest = lines.map(|line| match line {
        Ok(value) => to_line(&value),
        Err(error) => to_line(&ErrorBody { error: error.message }),
    });
    let all = stream::once(std::future::ready(first)).chain(rest).map(Ok::<_, Infallible>);
    Ok(([(header::CONTENT_TYPE, "application/x-ndjson")], Body::from_stream(all)).into_response())
}

fn to_line<T: Serialize>(value: &T) -> Bytes {
    match serde_json::to_vec(value) {
        Ok(mut line) => {
            line.push(b'\n');
            line.into()
        }
        Err(error) => {
            tracing::error!(%error, "a line cannot be written");
            Bytes::from_static(b"{\"error\":\"internal error; the server's log says more\"}\n")
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn runtime() -> tokio::runtime::Runtime {
        tokio::runtime::Builder::new_current_thread().build().unwrap()
    }

    #[test]
    fn an_error_is_a_status_first_and_a_line_later() {
        let error = || Err(ApiError::bad_request("no"));
        runtime().block_on(async {
            let late = stream::iter([Ok(json!({"a": 1})), error()]);
            let response = respond(late).await.unwrap();
            assert_eq!(response.headers()[header::CONTENT_TYPE], "application/x-ndjson");
            let body = axum::body::to_bytes(response.into_body(), 1000).await.unwrap();
            assert_eq!(body, "{\"a\":1}\n{\"error\":\"no\"}\n");
            let early = stream::iter([error(), Ok(json!(1))]);
            assert_eq!(respond(early).await.unwrap_err().message, "no");
            assert!(respond(stream::iter(Vec::<Result<(), ApiError>>::new())).await.is_err());
        });
    }
}
