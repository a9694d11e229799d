//! Errors in the API's description.

use std::collections::BTreeMap;

use utoipa::openapi::{RefOr, Response};
use utoipa::{IntoResponses, PartialSchema, ToSchema};

use crate::server::failures;

/// The body of an error.
#[derive(ToSchema)]
#[schema(as = openai::Error)]
#[allow(dead_code)] // It describes what `Dialect::error` writes.
pub struct ErrorBody {
    #[schema(inline)]
    error: ErrorDetail,
}

/// What went wrong.
#[derive(ToSchema)]
#[schema(as = openai::ErrorDetail)]
#[allow(dead_code)]
struct ErrorDetail {
    /// What happened.
    message: String,
    /// Its kind, such as `invalid_request_error`.
    r#type: String,
    /// The field that is wrong.
    param: Option<String>,
    /// A stable name, such as `context_length_exceeded`.
    code: Option<String>,
}

/// Every failure of a route of this dialect.
pub struct Failures;

impl IntoResponses for Failures {
    fn responses() -> BTreeMap<String, RefOr<Response>> {
        failures::responses(ErrorBody::schema())
    }
}
