//! A request that waits for a slot, and who hears of it.
//!
//! Whoever asked is told of an end, once, whatever happens: what is dropped before its end says that it failed.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use super::{EmbedSink, Embedding, Event, Request, Sink};
use crate::diagnostic::{Diagnostic, Errors, Result};
use crate::runtime::generate::{Done, Stats};

/// Who hears of a generation.
pub(super) struct Listener(Option<Sink>);

impl Listener {
    pub(super) fn new(sink: Sink) -> Listener {
        Listener(Some(sink))
    }

    /// Tells an event, unless the end has been told. A sink that panics is its own request's matter, and is
    /// not called again.
    pub(super) fn tell(&mut self, event: Event) {
        let Some(sink) = &mut self.0 else { return };
        let last = matches!(event, Event::Ended { .. } | Event::Failed(_));
        let told = catch_unwind(AssertUnwindSafe(|| sink(event)));
        if last || told.is_err() {
            let sink = self.0.take();
            let _ = catch_unwind(AssertUnwindSafe(|| drop(sink)));
        }
    }

    /// True when nobody can be told any more.
    pub(super) fn is_gone(&self) -> bool {
        self.0.is_none()
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        self.tell(Event::Failed(broken("the engine")));
    }
}

/// Who waits for an embedding.
pub(super) struct EmbedListener(Option<EmbedSink>);

impl EmbedListener {
    pub(super) fn new(sink: EmbedSink) -> EmbedListener {
        EmbedListener(Some(sink))
    }

    /// Tells the result, unless one has been told.
    pub(super) fn tell(&mut self, result: Result<Embedding>) {
        if let Some(sink) = self.0.take() {
            let _ = catch_unwind(AssertUnwindSafe(|| sink(result)));
        }
    }

    /// Tells that the caller left.
    pub(super) fn tell_cancelled(&mut self) {
        self.tell(Err(Diagnostic::error("the request was cancelled").code("cancelled").into()));
    }
}

impl Drop for EmbedListener {
    fn drop(&mut self) {
        self.tell(Err(broken("the engine")));
    }
}

/// A request that waits for a slot.
pub(super) enum Waiting {
    Generate(Box<Request>, Listener),
    Embed(Vec<u32>, Arc<AtomicBool>, EmbedListener),
}

impl Waiting {
    /// Its tokens.
    pub(super) fn prompt(&self) -> &[u32] {
        match self {
            Waiting::Generate(request, _) => &request.prompt,
            Waiting::Embed(tokens, ..) => tokens,
        }
    }

    pub(super) fn is_cancelled(&self) -> bool {
        match self {
            Waiting::Generate(request, _) => request.cancelled.load(Ordering::Relaxed),
            Waiting::Embed(_, cancelled, _) => cancelled.load(Ordering::Relaxed),
        }
    }

    /// Tells that it failed.
    pub(super) fn fail(self, errors: Errors) {
        match self {
            Waiting::Generate(_, mut listener) => listener.tell(Event::Failed(errors)),
            Waiting::Embed(_, _, mut listener) => listener.tell(Err(errors)),
        }
    }

    /// Tells that the caller left.
    pub(super) fn cancel(self) {
        match self {
            Waiting::Generate(_, mut listener) => {
                listener.tell(Event::Ended { done: Done::Cancelled, stop: None, stats: Stats::default() });
            }
            Waiting::Embed(_, _, mut listener) => listener.tell_cancelled(),
        }
    }
}

/// What a request is told that a bug ends.
pub(super) fn broken(what: &str) -> Errors {
    Diagnostic::environment(format!("{what} failed; this is a bug of the engine")).code("engine").into()
}
