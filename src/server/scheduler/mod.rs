//! Which models are loaded, who may use them, and who waits.
//!
//! A request takes a [`Lease`] of a model. A model that is not there is loaded, one at a time; a model that is
//! idle goes when its time is over, or when another needs its place. Requests that wait, for a model or for
//! a slot of its engine, are counted: beyond the limit the answer is 503 at once.

mod keep_alive;
mod memory;
mod served;

pub use keep_alive::KeepAlive;
pub use served::{SIGNATURE_REQUIRED, Served, Wish};

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::{Duration, Instant, SystemTime};

use tokio::sync::Notify;

use super::app::App;
use super::config::Config;
use super::error::ApiError;
use crate::diagnostic::Errors;
use crate::store::{Digest, Name, Stored};

/// How often expired models are looked for.
const REAP_EVERY: Duration = Duration::from_millis(200);

/// An engine that has work and makes no step for so long is stuck, unless its steps are as long.
const STUCK_AFTER: Duration = Duration::from_secs(8);

/// How long a model stays whose load nobody waited for.
const UNCLAIMED: Duration = Duration::from_secs(10);

/// The loaded models.
pub struct Scheduler {
    entries: Mutex<Vec<Entry>>,
    /// Held by the one that makes room and loads.
    loading: Arc<tokio::sync::Mutex<()>>,
    /// A lease ended, or a model went.
    changed: Notify,
    waiting: Arc<AtomicUsize>,
    queue: usize,
    most_models: usize,
    keep_alive: KeepAlive,
}

struct Entry {
    model: Arc<Served>,
    leases: usize,
    keep_alive: KeepAlive,
    /// When it goes; `None` while it is in use, or for ever.
    expires: Option<Instant>,
    /// No new leases: it goes when it is idle.
    retiring: bool,
    /// The engine's steps when they last changed, and when that was.
    moved: (u64, Instant),
    /// The longest time between two steps so far.
    longest: Duration,
}

/// A loaded model, for `/api/ps`.
pub struct Running {
    /// The model.
    pub model: Arc<Served>,
    /// When it goes, if nobody asks for it; `None` for never.
    pub expires: Option<SystemTime>,
}

impl Scheduler {
    /// With nothing loaded.
    pub fn new(config: &Config) -> Scheduler {
        Scheduler {
            entries: Mutex::default(),
            loading: Arc::default(),
            changed: Notify::new(),
            waiting: Arc::default(),
            queue: config.limits.queue,
            most_models: config.max_loaded_models,
            keep_alive: config.keep_alive,
        }
    }

    /// Starts the task that unloads models whose time is over.
    pub fn start_reaper(&self, app: &Arc<App>) {
        let app: Weak<App> = Arc::downgrade(app);
        tokio::spawn(async move {
            let mut ticks = tokio::time::interval(REAP_EVERY);
            loop {
                ticks.tick().await;
                let Some(app) = app.upgrade() else { return };
                app.scheduler.reap();
            }
        });
    }

    fn entries(&self) -> MutexGuard<'_, Vec<Entry>> {
        self.entries.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn reap(&self) {
        let now = Instant::now();
        let mut entries = self.entries();
        for entry in entries.iter_mut() {
            let usage = entry.model.engine.usage();
            let idle = usage.active == 0 && usage.waiting == 0;
            if idle || usage.steps != entry.moved.0 {
                if !idle {
                    entry.longest = entry.longest.max(now - entry.moved.1);
                }
                entry.moved = (usage.steps, now);
            }
        }
        let before = entries.len();
        entries.retain(|e| e.leases > 0 || !(e.retiring || e.expires.is_some_and(|t| t <= now)));
        if entries.len() != before {
            self.changed.notify_waiters();
        }
    }

    /// True when an engine has work and has made no step for a while.
    pub fn is_stuck(&self) -> bool {
        // A step of a large model may take long; it then did before.
        self.entries().iter().any(|e| e.moved.1.elapsed() > STUCK_AFTER.max(e.longest * 3))
    }

    /// Requests that wait.
    pub fn waiting(&self) -> usize {
        self.waiting.load(Ordering::Relaxed)
    }

    /// The loaded models.
    pub fn running(&self) -> Vec<Running> {
        let now = Instant::now();
        let expires = |e: &Entry| {
            let left = match (e.expires, e.keep_alive) {
                (Some(at), _) => at.saturating_duration_since(now),
                (None, KeepAlive::For(time)) => time,
                (None, KeepAlive::Forever) => return None,
            };
            SystemTime::now().checked_add(left)
        };
        self.entries().iter().map(|e| Running { model: e.model.clone(), expires: expires(e) }).collect()
    }

    /// Unloads a model as soon as nobody uses it. False when it is not loaded.
    pub fn unload(&self, id: &Digest) -> bool {
        let mut found = false;
        for entry in self.entries().iter_mut().filter(|e| e.model.id == *id) {
            entry.retiring = true;
            found = true;
        }
        self.reap();
        found
    }

    /// Takes a place among those that wait.
    ///
    /// # Errors
    /// 503: there is none.
    pub fn wait(&self) -> Result<Waiting, ApiError> {
        let waiting = Waiting(self.waiting.clone());
        match self.waiting.fetch_add(1, Ordering::Relaxed) >= self.queue {
            true => Err(ApiError::busy()),
            false => Ok(waiting),
        }
    }

    /// Loads a model, unless it is loaded, and keeps it from going until the lease is dropped.
    ///
    /// # Errors
    /// 404: there is no such model. 503: too many wait, there is no memory, or the server stops.
    pub async fn lease(
        &self,
        app: &Arc<App>,
        name: &Name,
        wish: Wish,
        keep_alive: Option<KeepAlive>,
    ) -> Result<Lease, ApiError> {
        let mut stopping = app.stopping();
        if app.is_draining() {
            return Err(ApiError::stopping());
        }
        tokio::select! {
            lease = self.lease_now(app, name, wish, keep_alive) => lease,
            _ = stopping.wait_for(|stop| *stop) => Err(ApiError::stopping()),
        }
    }

    async fn lease_now(
        &self,
        app: &Arc<App>,
        name: &Name,
        wish: Wish,
        keep_alive: Option<KeepAlive>,
    ) -> Result<Lease, ApiError> {
        let waiting = self.wait()?;
        let stored = find(app, name).await?;
        let lease =
            |model, load_duration| Lease { app: app.clone(), model, load_duration, waiting: Some(waiting) };
        if let Some(model) = self.take(&stored.id, &wish, keep_alive) {
            return Ok(lease(model, Duration::ZERO));
        }
        let loading = self.loading.clone().lock_owned().await;
        if let Some(model) = self.take(&stored.id, &wish, keep_alive) {
            return Ok(lease(model, Duration::ZERO));
        }
        self.make_room(&stored.id).await;
        // A load goes on when who asked for it has gone: it cannot be interrupted, and the next one must not
        // begin beside it.
        let (loader, wanted) = (app.clone(), keep_alive.unwrap_or(self.keep_alive));
        let id = stored.id;
        let load = tokio::spawn(async move {
            let _loading = loading;
            loader.scheduler.load(&loader, stored, wish, wanted).await
        });
        let load_duration = load.await.unwrap_or_else(|panic| Err(ApiError::internal(panic)))?;
        match self.take(&id, &wish, keep_alive) {
            Some(model) => Ok(lease(model, load_duration)),
            None => Err(ApiError::busy()),
        }
    }

    /// Loads a model into a place that is there. It goes after a while if nobody takes it.
    async fn load(
        &self,
        app: &Arc<App>,
        stored: Stored,
        wish: Wish,
        keep_alive: KeepAlive,
    ) -> Result<Duration, ApiError> {
        let model = loop {
            let stored = stored.clone();
            let loaded = app.blocking(move |app| Ok(Served::load(app, &stored, wish))).await?;
            match loaded {
                Ok(model) => break Arc::new(model),
                Err(errors) if is_memory(&errors) && self.evict_idle() => {}
                Err(errors) => return Err(app.cannot_load(&errors)),
            }
        };
        let took = model.load_duration;
        tracing::info!(model = %model.name, context = model.context, bytes = model.size, ?took, "loaded");
        self.entries().push(Entry {
            model,
            leases: 0,
            keep_alive,
            expires: Some(Instant::now() + UNCLAIMED),
            retiring: false,
            moved: (0, Instant::now()),
            longest: Duration::ZERO,
        });
        Ok(took)
    }

    /// Takes a lease of a model that is loaded as wished.
    fn take(&self, id: &Digest, wish: &Wish, keep_alive: Option<KeepAlive>) -> Option<Arc<Served>> {
        let mut entries = self.entries();
        let entry = entries.iter_mut().find(|e| e.model.id == *id && !e.retiring && e.model.serves(wish))?;
        entry.leases += 1;
        entry.expires = None;
        match keep_alive {
            Some(keep_alive) => entry.keep_alive = keep_alive,
            // What was loaded to stay does.
            None if entry.keep_alive == KeepAlive::Forever => {}
            None => entry.keep_alive = self.keep_alive,
        }
        Some(entry.model.clone())
    }

    /// Waits until the model is not loaded and there is a place for it.
    async fn make_room(&self, id: &Digest) {
        loop {
            let changed = self.changed.notified();
            let mut changed = std::pin::pin!(changed);
            // From here on no change is missed.
            changed.as_mut().enable();
            {
                let mut entries = self.entries();
                entries.iter_mut().filter(|e| e.model.id == *id).for_each(|e| e.retiring = true);
                entries.retain(|e| !(e.retiring && e.leases == 0));
                let there = entries.iter().any(|e| e.model.id == *id);
                if !there && entries.len() < self.most_models {
                    return;
                }
                if !there && remove_idle(&mut entries) {
                    continue;
                }
                // All are in use: the oldest takes no new requests, so that its turn comes to an end.
                if !there
                    && !entries.iter().any(|e| e.retiring)
                    && let Some(oldest) = entries.first_mut()
                {
                    oldest.retiring = true;
                }
            }
            changed.await;
        }
    }

    /// Unloads the idle model that would go first. False when there is none.
    fn evict_idle(&self) -> bool {
        remove_idle(&mut self.entries())
    }

    fn give_back(&self, id: &Digest, model: &Arc<Served>) {
        let mut entries = self.entries();
        if let Some(at) = entries.iter().position(|e| e.model.id == *id && Arc::ptr_eq(&e.model, model)) {
            let entry = &mut entries[at];
            entry.leases = entry.leases.saturating_sub(1);
            if entry.leases == 0 {
                entry.expires = match entry.keep_alive {
                    KeepAlive::Forever => None,
                    KeepAlive::For(time) => Instant::now().checked_add(time),
                };
                if entry.retiring || entry.keep_alive == KeepAlive::For(Duration::ZERO) {
                    entries.remove(at);
                }
                drop(entries);
                self.changed.notify_waiters();
            }
        }
    }
}

/// Removes the idle entry that would go first.
fn remove_idle(entries: &mut Vec<Entry>) -> bool {
    let idle = entries.iter().enumerate().filter(|(_, e)| e.leases == 0);
    // Those that stay for ever go last.
    let first = idle.min_by_key(|(_, e)| (e.expires.is_none(), e.expires)).map(|(i, _)| i);
    first.map(|i| entries.remove(i)).is_some()
}

fn is_memory(errors: &Errors) -> bool {
    errors.0.iter().any(|d| d.code == "out-of-memory")
}

/// The model with this name.
///
/// # Errors
/// 404, in Ollama's words.
pub async fn find(app: &Arc<App>, name: &Name) -> Result<Stored, ApiError> {
    let name = name.clone();
    app.blocking(move |app| match app.store.find(&name)? {
        Some(stored) => Ok(stored),
        None => Err(ApiError::not_found(format!("model '{name}' not found")).code("model_not_found")),
    })
    .await
}

/// A place among those that wait; given back when it is dropped.
pub struct Waiting(Arc<AtomicUsize>);

impl Drop for Waiting {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// The right to use a model. While it is there, the model stays.
pub struct Lease {
    app: Arc<App>,
    /// The model.
    pub model: Arc<Served>,
    /// The time this request took to load it; zero when it was there.
    pub load_duration: Duration,
    waiting: Option<Waiting>,
}

impl Lease {
    /// Another right to use the same model, which does not wait.
    pub fn again(&self) -> Lease {
        let mut entries = self.app.scheduler.entries();
        if let Some(entry) = entries.iter_mut().find(|e| Arc::ptr_eq(&e.model, &self.model)) {
            entry.leases += 1;
        }
        let (app, model) = (self.app.clone(), self.model.clone());
        Lease { app, model, load_duration: self.load_duration, waiting: None }
    }

    /// The request does not wait any more.
    pub fn started(&mut self) {
        self.waiting = None;
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        self.app.scheduler.give_back(&self.model.id, &self.model);
    }
}
