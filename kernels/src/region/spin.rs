//! Waiting for another thread: first by looking, then by giving the core away.

use std::ops::Deref;
use std::time::{Duration, Instant};

/// A value with cache lines of its own, so that a thread that writes it slows down no other. Two lines: the
/// processor fetches them in pairs.
#[repr(align(128))]
#[derive(Default)]
pub(super) struct Padded<T>(pub T);

impl<T> Deref for Padded<T> {
    type Target = T;

    fn deref(&self) -> &T {
        &self.0
    }
}

/// Looks between which the clock is not asked: a pause is 40 to 140 cycles.
const LOOKS: u32 = 16;

/// Looks until `is_there`, for `limit` at most; false if it was not.
pub(super) fn look_for(limit: Duration, is_there: impl Fn() -> bool) -> bool {
    let mut begin = None;
    loop {
        for _ in 0..LOOKS {
            if is_there() {
                return true;
            }
            std::hint::spin_loop();
        }
        if begin.get_or_insert_with(Instant::now).elapsed() >= limit {
            return is_there();
        }
    }
}

/// Waits until `is_there`, which is soon. The core is given away when it takes longer than an operation of a
/// small model: where there are fewer cores than threads, the thread that is waited for needs it.
pub(super) fn wait_for(is_there: impl Fn() -> bool) {
    if !look_for(Duration::from_micros(30), &is_there) {
        while !is_there() {
            std::thread::yield_now();
        }
    }
}
