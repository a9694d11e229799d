//! Routes.

use std::sync::Arc;

use utoipa_axum::router::OpenApiRouter;

use super::app::App;

/// The routes of this dialect.
pub fn routes() -> OpenApiRouter<Arc<App>> {
    OpenApiRouter::new()
}
