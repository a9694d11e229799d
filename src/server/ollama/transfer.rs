//! `/api/pull` and `/api/push`: requests are checked; the transfer itself is not built yet.

use axum::http::StatusCode;
use serde::Deserialize;
use utoipa::ToSchema;

use super::failures::MissingFailures;
use crate::server::body::Json;
use crate::server::error::ApiError;
use crate::store::Name;

/// What to pull or push.
#[derive(Debug, Default, Deserialize, ToSchema)]
#[schema(as = ollama::TransferRequest)]
pub struct TransferRequest {
    /// The model.
    model: Option<String>,
    /// What `model` was called before.
    name: Option<String>,
    /// Speak plain HTTP where the name says so.
    insecure: Option<bool>,
    /// Line by line (the default), or as one object.
    #[allow(dead_code, reason = "an error is no line: nothing was written before it")]
    stream: Option<bool>,
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

fn not_built(what: &str, instead: &str) -> ApiError {
    ApiError::new(StatusCode::NOT_IMPLEMENTED, format!("{what} is not built yet; {instead}"))
}

/// Gets a model from a registry. Not built yet.
#[utoipa::path(post, path = "/api/pull", tag = "ollama", request_body = TransferRequest, responses(MissingFailures))]
pub async fn pull(Json(request): Json<TransferRequest>) -> Result<StatusCode, ApiError> {
    let name = request.name()?;
    Err(not_built(
        &format!("pulling `{name}` from a registry"),
        "make a model of files with `mdl build` or /api/create",
    ))
}

/// Sends a model to a registry. Not built yet.
#[utoipa::path(post, path = "/api/push", tag = "ollama", request_body = TransferRequest, responses(MissingFailures))]
pub async fn push(Json(request): Json<TransferRequest>) -> Result<StatusCode, ApiError> {
    let name = request.name()?;
    Err(not_built(&format!("pushing `{name}` to a registry"), "the model stays in this store"))
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
