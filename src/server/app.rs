//! What every handler sees.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use axum::http::StatusCode;

use tokio::sync::{Semaphore, watch};

use super::config::Config;
use super::describe::Descriptions;
use super::error::ApiError;
use super::guard::Keys;
use super::metrics::Metrics;
use super::scheduler::{SIGNATURE_REQUIRED, Scheduler};
use crate::diagnostic::{Errors, Result};
use crate::prompt::isolated::{ChildCommand, Renderer};
use crate::store::Store;

/// Blobs that are uploaded at once; more wait.
const UPLOADS: usize = 16;

/// Models that are pulled and pushed at once; more are refused.
const TRANSFERS: usize = 32;

/// The server's state.
pub struct App {
    /// The models on the disk.
    pub store: Store,
    /// What the operator says.
    pub config: Config,
    /// Which models are loaded.
    pub scheduler: Scheduler,
    /// The keys that open the server.
    pub keys: Keys,
    /// What is counted.
    pub metrics: Metrics,
    /// Renders chat templates where they can do no harm.
    pub renderer: Renderer,
    /// What the stored models are.
    pub descriptions: Descriptions,
    /// One model is made at a time: it takes every core.
    pub builds: Arc<Semaphore>,
    /// Each upload holds a thread for as long as its client sends.
    pub uploads: Arc<Semaphore>,
    /// Models that are pulled or pushed.
    pub transfers: Arc<Semaphore>,
    /// When the server started.
    pub started: Instant,
    /// True once the models to preload are loaded.
    pub preloaded: AtomicBool,
    /// True once one of them could not be.
    pub preload_failed: AtomicBool,
    draining: AtomicBool,
    /// True once the time for running requests is over.
    stop: watch::Sender<bool>,
}

impl App {
    /// A server with nothing loaded.
    ///
    /// # Errors
    /// The file of keys cannot be read, or the system refuses what a chat template is rendered in.
    pub fn new(store: Store, config: Config) -> Result<Arc<App>> {
        let renderer = Renderer::in_children(ChildCommand::current()?);
        let keys = config.api_keys_file.as_deref().map(Keys::read).transpose()?.unwrap_or_default();
        let app = Arc::new(App {
            scheduler: Scheduler::new(&config),
            keys,
            metrics: Metrics::new(),
            store,
            config,
            renderer,
            descriptions: Descriptions::default(),
            builds: Arc::new(Semaphore::new(1)),
            uploads: Arc::new(Semaphore::new(UPLOADS)),
            transfers: Arc::new(Semaphore::new(TRANSFERS)),
            started: Instant::now(),
            preloaded: AtomicBool::new(false),
            preload_failed: AtomicBool::new(false),
            draining: AtomicBool::new(false),
            stop: watch::Sender::new(false),
        });
        app.scheduler.start_reaper(&app);
        Ok(app)
    }

    /// Does what blocks (disk, templates, compiling) beside the threads that serve.
    pub async fn blocking<T: Send + 'static>(
        self: &Arc<Self>,
        work: impl FnOnce(&App) -> Result<T, ApiError> + Send + 'static,
    ) -> Result<T, ApiError> {
        let app = self.clone();
        let done = tokio::task::spawn_blocking(move || work(&app)).await;
        done.unwrap_or_else(|panic| Err(ApiError::internal(panic)))
    }

    /// Why requests are not answered now; `None` when they are.
    pub fn unready(&self) -> Option<&'static str> {
        match () {
            () if self.draining.load(Ordering::Acquire) => Some("stopping"),
            () if self.preload_failed.load(Ordering::Acquire) => Some("a model cannot be preloaded"),
            () if !self.preloaded.load(Ordering::Acquire) => Some("loading"),
            () if self.scheduler.is_stuck() => Some("an engine does not move"),
            () => None,
        }
    }

    /// True once the server is about to stop.
    pub fn is_draining(&self) -> bool {
        self.draining.load(Ordering::Acquire)
    }

    /// Why a stored model cannot be loaded: nothing that the client did, so 500, except where it is a matter
    /// of memory. The store's place on the host stays untold.
    pub fn cannot_load(&self, errors: &Errors) -> ApiError {
        let error = ApiError::from(errors.clone());
        if errors.0.iter().any(|d| d.code == SIGNATURE_REQUIRED) {
            return ApiError::new(StatusCode::FORBIDDEN, error.message);
        }
        if error.status != StatusCode::BAD_REQUEST {
            return error;
        }
        tracing::error!(%errors, "a model cannot be loaded");
        let root = self.store.root().display().to_string();
        let message = error.message.replace(&root, "").trim_start_matches('/').to_owned();
        ApiError::new(StatusCode::INTERNAL_SERVER_ERROR, format!("the model cannot be loaded: {message}"))
    }

    /// Says that the server is about to stop.
    pub fn drain(&self) {
        self.draining.store(true, Ordering::Release);
    }

    /// Ends every answer that still runs.
    pub fn stop(&self) {
        self.stop.send_replace(true);
    }

    /// Becomes true when answers must end.
    pub fn stopping(&self) -> watch::Receiver<bool> {
        self.stop.subscribe()
    }
}
