//! Which server this is.

use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use axum::http::{HeaderMap, HeaderName, HeaderValue};
use serde::Serialize;
use utoipa::ToSchema;

use super::failures::Failures;
use crate::server::STORE_HEADER;
use crate::server::app::App;
use crate::server::error::ApiError;

/// A version.
#[derive(Serialize, ToSchema)]
#[schema(as = ollama::Version)]
pub struct Version {
    /// Of this program.
    version: &'static str,
}

/// The version of the server.
#[utoipa::path(get, path = "/api/version", tag = "ollama", responses(
    (status = 200, description = "The version", body = Version),
    Failures,
))]
pub async fn version(State(app): State<Arc<App>>) -> Result<(HeaderMap, Json<Version>), ApiError> {
    let mut headers = HeaderMap::new();
    // Programs of this machine may use the same store: by this they know.
    if app.config.is_loopback() {
        let identity = app.blocking(|app| Ok(app.store.identity())).await?;
        if let Some(value) = identity.and_then(|id| HeaderValue::try_from(id).ok()) {
            headers.insert(HeaderName::from_static(STORE_HEADER), value);
        }
    }
    Ok((headers, Json(Version { version: env!("CARGO_PKG_VERSION") })))
}

/// What the server has to do with a cloud.
#[derive(Serialize, ToSchema)]
#[schema(as = ollama::Status)]
pub struct Status {
    cloud: Cloud,
}

/// Models that run elsewhere.
#[derive(Serialize, ToSchema)]
#[schema(as = ollama::Cloud)]
struct Cloud {
    /// True: there are none.
    disabled: bool,
    /// Who said so.
    source: &'static str,
}

/// That no model runs elsewhere.
#[utoipa::path(get, path = "/api/status", tag = "ollama", responses(
    (status = 200, description = "The status", body = Status),
    Failures,
))]
pub async fn status() -> Json<Status> {
    Json(Status { cloud: Cloud { disabled: true, source: "none" } })
}
