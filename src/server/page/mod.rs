//! The page for a browser.

use std::sync::Arc;

use axum::Router;

use super::app::App;

/// The page.
pub fn routes() -> Router<Arc<App>> {
    Router::new()
}
