//! Request ids and logs.

use std::io::IsTerminal as _;
use std::sync::Arc;
use std::time::Instant;

use axum::extract::{MatchedPath, Request, State};
use axum::http::{HeaderName, HeaderValue};
use axum::middleware::Next;
use axum::response::Response;

use super::app::App;
use super::config::{Config, LogFormat};
use crate::diagnostic::{Diagnostic, Result};

/// The header that names a request.
const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

tokio::task_local! {
    static CURRENT: String;
}

/// The id of the request that the task works on; empty outside of one.
pub fn current_request_id() -> String {
    CURRENT.try_with(Clone::clone).unwrap_or_default()
}

/// `bytes` random bytes as lower-case hexadecimal digits.
pub fn random_hex(bytes: usize) -> String {
    let mut all = [0; 32];
    let some = &mut all[..bytes.min(32)];
    // Ids only: a system without random numbers gives zeros.
    let _ = getrandom::fill(some);
    some.iter().map(|b| format!("{b:02x}")).collect()
}

/// Starts writing logs to standard error; `MDL_LOG` says what, as in `debug` or `mdl=trace`.
///
/// # Errors
/// `MDL_LOG` cannot be read.
pub fn start(config: &Config) -> Result<()> {
    let filter = match std::env::var("MDL_LOG") {
        Ok(text) => tracing_subscriber::EnvFilter::try_new(&text)
            .map_err(|e| Diagnostic::usage(format!("MDL_LOG: {e}")))?,
        Err(_) => tracing_subscriber::EnvFilter::new("info"),
    };
    let builder = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_ansi(std::io::stderr().is_terminal())
        .with_target(false);
    // Fails only where a subscriber is set already, as in a test.
    let _ = match config.log_format {
        LogFormat::Text => builder.try_init(),
        LogFormat::Json => builder.json().flatten_event(true).try_init(),
    };
    Ok(())
}

/// Names a request, counts it, and logs how it went.
pub async fn request(State(app): State<Arc<App>>, request: Request, next: Next) -> Response {
    let id = format!("req_{}", random_hex(12));
    let method = request.method().clone();
    let path = request.uri().path().to_owned();
    // What was matched, so that names in paths make no new series.
    let route = request.extensions().get::<MatchedPath>().map_or("other", |m| m.as_str()).to_owned();
    let started = Instant::now();
    let mut response = CURRENT.scope(id.clone(), next.run(request)).await;
    let status = response.status();
    app.metrics.request(&route, method.as_str(), status.as_u16());
    tracing::info!(id, %method, path = %path.escape_debug(), status = status.as_u16(), took = ?started.elapsed(), "request");
    if let Ok(value) = HeaderValue::from_str(&id) {
        response.headers_mut().insert(REQUEST_ID, value);
    }
    response
}
