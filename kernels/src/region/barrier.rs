//! A barrier of which each thread writes one flag and reads all the others.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use super::spin::{Padded, wait_for};

/// Times that a thread is idle at each barrier at least.
const AT_LEAST: usize = 16;

/// A barrier for the steps of one region after another. Steps are numbered without end, so nothing is ever
/// set back. A thread's flag is the last step it has finished: a barrier costs the time in which
/// one line of the cache goes from core to core, where a counter that all change would go through
/// every core and back.
pub(super) struct Barrier {
    finished: Box<[Padded<AtomicU64>]>,
    broken: AtomicBool,
}

/// Lets everybody go if its thread leaves before it is done.
pub(super) struct Presence<'a> {
    barrier: &'a Barrier,
    thread: usize,
    last: u64,
    done: bool,
}

impl Presence<'_> {
    /// Says that the thread leaves as it should.
    pub(super) fn end(mut self) {
        self.done = true;
    }
}

impl Drop for Presence<'_> {
    fn drop(&mut self) {
        if !self.done {
            self.barrier.broken.store(true, Ordering::Relaxed);
        }
        // Release: who passes because of this also sees that the barrier is broken.
        self.barrier.finished[self.thread].store(self.last, Ordering::Release);
    }
}

impl Barrier {
    pub(super) fn new(threads: usize) -> Barrier {
        Barrier { finished: (0..threads).map(|_| Padded::default()).collect(), broken: false.into() }
    }

    /// Forgets that a thread has panicked. No thread is at the barrier.
    pub(super) fn mend(&self) {
        self.broken.store(false, Ordering::Relaxed);
    }

    /// `thread` takes part in the steps up to `last`.
    pub(super) fn enter(&self, thread: usize, last: u64) -> Presence<'_> {
        Presence { barrier: self, thread, last, done: false }
    }

    /// Says that `thread` has finished `step`, and waits until every thread has; false if one has panicked.
    /// Meanwhile it does what `idle` does, a little at a time, until that says false.
    pub(super) fn wait(&self, thread: usize, step: u64, mut idle: impl FnMut() -> bool) -> bool {
        // Release what this thread wrote, acquire what the others did.
        self.finished[thread].store(step, Ordering::Release);
        // However soon the others come: what is read first would else be waited for.
        let _ = (0..AT_LEAST).all(|_| idle());
        for other in &self.finished {
            let is_there = || other.load(Ordering::Acquire) >= step;
            while !is_there() && idle() {}
            wait_for(is_there);
        }
        !self.broken.load(Ordering::Relaxed)
    }
}
