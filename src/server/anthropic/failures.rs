//! Errors in the API's description.

use std::collections::BTreeMap;

use utoipa::openapi::{RefOr, Response};
use utoipa::{IntoResponses, PartialSchema, ToSchema};

use crate::server::failures;

/// The body of an error.
#[derive(ToSchema)]
#[schema(as = anthropic::Error)]
#[allow(dead_code)] // It describes what `Dialect::error` writes.
pub struct ErrorBody {
    /// `error`.
    r#type: String,
    #[schema(inline)]
    error: ErrorDetail,
    /// The request's id.
    request_id: String,
}

/// What went wrong.
#[derive(ToSchema)]
#[schema(as = anthropic::ErrorDetail)]
#[allow(dead_code)]
struct ErrorDetail {
    /// Its kind, such as `invalid_request_error`.
    r#type: String,
    /// What happened.
    message: String,
}

/// Every failure of a route of this dialect.
pub struct Failures;

impl IntoResponses for Failures {
    fn responses() -> BTreeMap<String, RefOr<Response>> {
        failures::responses(ErrorBody::schema())
    }
}
