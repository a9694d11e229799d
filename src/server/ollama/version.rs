//! Which server this is.

use axum::Json;
use serde::Serialize;
use utoipa::ToSchema;

use super::failures::Failures;

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
pub async fn version() -> Json<Version> {
    Json(Version { version: env!("CARGO_PKG_VERSION") })
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
