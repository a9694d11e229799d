//! Errors of a request, and the shape each dialect gives them.

use axum::Json;
use axum::extract::Request;
use axum::http::{HeaderValue, StatusCode, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use serde_json::{Value, json};

use super::body::refuse;
use crate::diagnostic::{Errors, Kind};

/// What went wrong with a request. No message holds a path of the host.
#[derive(Clone, Debug, PartialEq)]
pub struct ApiError {
    /// The HTTP status.
    pub status: StatusCode,
    /// What happened, for a person.
    pub message: String,
    /// The field that is wrong; only the OpenAI dialect tells it apart.
    pub param: Option<String>,
    /// A stable name, such as `context_length_exceeded`; only the OpenAI dialect tells it.
    pub code: Option<&'static str>,
}

impl ApiError {
    /// An error with a status and a message.
    pub fn new(status: StatusCode, message: impl Into<String>) -> ApiError {
        ApiError { status, message: message.into(), param: None, code: None }
    }

    /// 400.
    pub fn bad_request(message: impl Into<String>) -> ApiError {
        ApiError::new(StatusCode::BAD_REQUEST, message)
    }

    /// 404.
    pub fn not_found(message: impl Into<String>) -> ApiError {
        ApiError::new(StatusCode::NOT_FOUND, message)
    }

    /// 403.
    pub fn forbidden(message: impl Into<String>) -> ApiError {
        ApiError::new(StatusCode::FORBIDDEN, message)
    }

    /// 503, in Ollama's words.
    pub fn busy() -> ApiError {
        let message = "server busy, please try again.  maximum pending requests exceeded";
        ApiError::new(StatusCode::SERVICE_UNAVAILABLE, message)
    }

    /// 503: the server has been told to stop.
    pub fn stopping() -> ApiError {
        ApiError::new(StatusCode::SERVICE_UNAVAILABLE, "the server is shutting down")
    }

    /// 500: nothing of the cause is told; it is in the log.
    pub fn internal(cause: impl std::fmt::Display) -> ApiError {
        tracing::error!(%cause, "internal error");
        ApiError::new(StatusCode::INTERNAL_SERVER_ERROR, "internal error; the server's log says more")
    }

    /// Names the field that is wrong.
    pub fn param(mut self, param: impl Into<String>) -> ApiError {
        self.param = Some(param.into());
        self
    }

    /// Gives a stable name.
    pub fn code(mut self, code: &'static str) -> ApiError {
        self.code = Some(code);
        self
    }
}

/// Codes of errors that another time may not have.
const OVERLOAD: &[&str] = &["out-of-memory", "grammar-busy", "template-busy"];

/// What is wrong with the input is told; what failed in the environment may name paths and is logged.
impl From<Errors> for ApiError {
    fn from(errors: Errors) -> ApiError {
        let Some(first) = errors.0.iter().find(|d| d.severity == crate::diagnostic::Severity::Error) else {
            return ApiError::internal("an error without a diagnostic");
        };
        if first.kind == Kind::Environment {
            return match first.code {
                code if OVERLOAD.contains(&code) => {
                    ApiError::new(StatusCode::SERVICE_UNAVAILABLE, first.message.clone())
                }
                _ => ApiError::internal(&errors),
            };
        }
        if OVERLOAD.contains(&first.code) {
            return ApiError::new(StatusCode::SERVICE_UNAVAILABLE, first.message.clone());
        }
        // The weights are to blame, not the request.
        if first.code == "not-finite" {
            return ApiError::new(StatusCode::INTERNAL_SERVER_ERROR, first.message.clone());
        }
        let mut message = first.message.clone();
        // What to do may be said with a path of the host, which is nobody's business here.
        for help in first.help.iter().filter(|h| !h.contains(['/', '\\'])) {
            message.push_str("; ");
            message.push_str(help);
        }
        ApiError::bad_request(message)
    }
}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        let mut response = self.status.into_response();
        response.extensions_mut().insert(self);
        response
    }
}

/// The API that a path belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Dialect {
    /// `{"error": "..."}`.
    Ollama,
    /// `{"error": {"message", "type", "param", "code"}}`.
    OpenAi,
    /// `{"type": "error", "error": {"type", "message"}, "request_id"}`.
    Anthropic,
}

impl Dialect {
    /// The dialect of a path.
    pub fn of(path: &str) -> Dialect {
        match path {
            p if p.starts_with("/v1/messages") => Dialect::Anthropic,
            p if p.starts_with("/v1/") => Dialect::OpenAi,
            _ => Dialect::Ollama,
        }
    }

    /// An error's body.
    pub fn error(self, error: &ApiError) -> Value {
        match self {
            Dialect::Ollama => json!({"error": error.message}),
            Dialect::OpenAi => json!({"error": {
                "message": error.message,
                "type": match error.status {
                    StatusCode::BAD_REQUEST | StatusCode::PAYLOAD_TOO_LARGE => "invalid_request_error",
                    StatusCode::NOT_FOUND => "not_found_error",
                    StatusCode::UNAUTHORIZED => "authentication_error",
                    StatusCode::FORBIDDEN => "permission_error",
                    _ => "api_error",
                },
                "param": error.param,
                "code": error.code,
            }}),
            Dialect::Anthropic => json!({
                "type": "error",
                "error": {
                    "type": match error.status {
                        StatusCode::BAD_REQUEST => "invalid_request_error",
                        StatusCode::UNAUTHORIZED => "authentication_error",
                        StatusCode::FORBIDDEN => "permission_error",
                        StatusCode::NOT_FOUND => "not_found_error",
                        StatusCode::PAYLOAD_TOO_LARGE => "request_too_large",
                        StatusCode::SERVICE_UNAVAILABLE => "overloaded_error",
                        _ => "api_error",
                    },
                    "message": error.message,
                },
                "request_id": super::observe::current_request_id(),
            }),
        }
    }
}

/// Gives an error the body of the dialect it was asked in.
pub async fn render(request: Request, next: Next) -> Response {
    let dialect = Dialect::of(request.uri().path());
    let mut response = next.run(request).await;
    let Some(error) = response.extensions_mut().remove::<ApiError>() else { return response };
    let mut rendered = (error.status, Json(dialect.error(&error))).into_response();
    for (name, value) in response.headers() {
        if name != header::CONTENT_LENGTH && name != header::CONTENT_TYPE {
            rendered.headers_mut().insert(name, value.clone());
        }
    }
    match error.status {
        StatusCode::SERVICE_UNAVAILABLE => {
            rendered.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from_static("1"));
        }
        StatusCode::UNAUTHORIZED => {
            rendered.headers_mut().insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
        }
        _ => {}
    }
    rendered
}

/// The error of a path that is none, in gin's words.
pub fn no_page() -> ApiError {
    ApiError::not_found("404 page not found")
}

/// The answer to a path that is none.
pub async fn not_found(request: Request) -> Response {
    refuse(request, no_page()).await
}

/// The answer to a method that a path does not have.
pub async fn method_not_allowed(request: Request) -> Response {
    refuse(request, ApiError::new(StatusCode::METHOD_NOT_ALLOWED, "405 method not allowed")).await
}
