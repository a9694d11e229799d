//! A backend that a test watches, holds up and breaks.

use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use super::open_storyteller;
use crate::diagnostic::{Diagnostic, Result};
use crate::runtime::backend::{Backend, Column, State};
use crate::runtime::engine::Model;
use crate::runtime::kv::{PageId, Shift};
use crate::runtime::loaded::Loaded;
use crate::runtime::program::{Program, Room};

/// What becomes of a step.
pub(super) enum Fate {
    Computed,
    Refused,
    Panics,
}

/// Sees the number of a step and its columns before it is computed.
pub(super) type Hook = Box<dyn Fn(usize, &[Column]) -> Fate + Send + Sync>;

/// What a test knows of a backend.
#[derive(Default)]
pub(super) struct Seen {
    /// The columns of each step.
    pub steps: Vec<Vec<Column>>,
    /// Caches there are now, and the most there were at once.
    pub states: (usize, usize),
    /// There is no memory for a cache.
    pub full: bool,
}

/// The test's end of it.
#[derive(Clone, Default)]
pub(super) struct Watch(Arc<Mutex<Seen>>);

impl Watch {
    pub fn seen<T>(&self, look: impl FnOnce(&mut Seen) -> T) -> T {
        look(&mut self.0.lock().unwrap())
    }
}

/// The storyteller on such a backend.
pub(super) fn watched(hook: Hook) -> (Arc<Loaded>, Watch) {
    let watch = Watch::default();
    let mut loaded = open_storyteller(None);
    let backend = Watched { inner: loaded.model.clone(), hook: Arc::new(hook), watch: watch.clone() };
    loaded.model = Model::on(Arc::new(backend));
    (Arc::new(loaded), watch)
}

/// Waits for what another thread brings about.
pub(super) fn until(what: &str, mut come: impl FnMut() -> bool) {
    let start = Instant::now();
    while !come() {
        assert!(start.elapsed() < Duration::from_secs(30), "{what} never came");
        std::thread::sleep(Duration::from_millis(1));
    }
}

struct Watched {
    inner: Model,
    hook: Arc<Hook>,
    watch: Watch,
}

impl Backend for Watched {
    fn program(&self) -> &Program {
        self.inner.program()
    }

    fn scratch_bytes(&self, _room: &Room) -> u64 {
        0
    }

    fn state(&self, room: &Room) -> Result<Box<dyn State>> {
        if self.watch.seen(|s| s.full) {
            return Err(Diagnostic::environment("there is no memory for a cache").into());
        }
        let inner = self.inner.state(room)?;
        self.watch.seen(|s| {
            s.states.0 += 1;
            s.states.1 = s.states.1.max(s.states.0);
        });
        Ok(Box::new(WatchedState { inner, hook: self.hook.clone(), watch: self.watch.clone() }))
    }
}

struct WatchedState {
    inner: Box<dyn State>,
    hook: Arc<Hook>,
    watch: Watch,
}

impl Drop for WatchedState {
    fn drop(&mut self) {
        self.watch.seen(|s| s.states.0 -= 1);
    }
}

impl State for WatchedState {
    fn step(&mut self, columns: &[Column], tables: &[&[PageId]], outputs: &[usize]) -> Result<()> {
        let number = self.watch.seen(|s| s.steps.len());
        match (self.hook)(number, columns) {
            Fate::Computed => {}
            Fate::Refused => return Err(Diagnostic::error("the step is refused").into()),
            Fate::Panics => {
                self.watch.seen(|s| s.steps.push(columns.to_vec()));
                panic!("a step that panics");
            }
        }
        self.watch.seen(|s| s.steps.push(columns.to_vec()));
        self.inner.step(columns, tables, outputs)
    }

    fn logits(&mut self, i: usize) -> &mut [f32] {
        self.inner.logits(i)
    }

    fn all_logits(&mut self) -> Vec<&mut [f32]> {
        self.inner.all_logits()
    }

    fn hidden(&mut self, i: usize) -> Vec<f32> {
        self.inner.hidden(i)
    }

    fn copy_page(&mut self, from: PageId, to: PageId) {
        self.inner.copy_page(from, to);
    }

    fn shift(&mut self, shift: Shift, from: &[PageId], to: &[PageId]) {
        self.inner.shift(shift, from, to);
    }
}
