//! Threads that work together on one call after another, and stay awake in between for a while.

use std::any::Any;
use std::cell::UnsafeCell;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::Duration;

use super::spin::{Padded, look_for, wait_for};

/// How long a thread looks for the next call before it sleeps. Between two tokens of an answer passes
/// less; to wake a thread takes the system 5 to 50 microseconds.
const AWAKE: Duration = Duration::from_micros(100);

/// What the threads of a call do, each with its number.
type Work<'a> = &'a (dyn Fn(usize) + Sync);

/// Threads 1 and up; thread 0 is the caller's.
pub(super) struct Crew {
    board: Arc<Board>,
    threads: Vec<JoinHandle<()>>,
    /// The number of the last call. Held during a call: calls of several callers run one after the
    /// other.
    turn: Mutex<u64>,
}

/// What the caller and the threads tell each other.
struct Board {
    /// The number of the call that `work` is of. It only grows.
    call: Padded<AtomicU64>,
    work: UnsafeCell<Option<Work<'static>>>,
    closed: AtomicBool,
    stations: Box<[Padded<Station>]>,
}

/// One thread's side of it.
#[derive(Default)]
struct Station {
    asleep: AtomicBool,
    /// The number of the last call that this thread is done with.
    done: AtomicU64,
    panic: Mutex<Option<Box<dyn Any + Send>>>,
}

// SAFETY: `work` is written by the caller whose turn it is while every thread is done with the call
// before, and read only after `call` says so.
unsafe impl Sync for Board {}
// SAFETY: what `work` points to is `Sync`.
unsafe impl Send for Board {}

impl Crew {
    /// Starts threads 1 to `threads - 1`.
    ///
    /// # Errors
    /// The system refuses a thread.
    pub(super) fn new(threads: usize) -> Result<Crew, String> {
        let board = Arc::new(Board {
            call: Padded::default(),
            work: UnsafeCell::new(None),
            closed: AtomicBool::new(false),
            stations: (1..threads).map(|_| Padded::default()).collect(),
        });
        let mut crew = Crew { board, threads: Vec::new(), turn: Mutex::new(0) };
        for thread in 1..threads {
            let board = crew.board.clone();
            let named = std::thread::Builder::new().name(format!("mdl-compute-{thread}"));
            crew.threads.push(named.spawn(move || board.serve(thread)).map_err(|e| e.to_string())?);
        }
        Ok(crew)
    }

    /// Calls `work` with 0 on this thread and with each other number on its thread; returns when all have
    /// returned.
    ///
    /// # Panics
    /// If `work` panics on a thread.
    pub(super) fn run(&self, work: Work<'_>) {
        let mut turn = self.turn.lock().unwrap_or_else(|e| e.into_inner());
        *turn += 1;
        // SAFETY: only the lifetime changes. The threads use it in this call alone, and this
        // function ends only when each of them is done with the call.
        let endless = unsafe { std::mem::transmute::<Work<'_>, Work<'static>>(work) };
        // SAFETY: every thread is done with the call before, so nobody reads it.
        unsafe { *self.board.work.get() = Some(endless) };
        // Sequentially consistent, as is what a thread does before it sleeps: either it sees the
        // call, or this sees that it sleeps.
        self.board.call.store(*turn, Ordering::SeqCst);
        for (thread, station) in self.threads.iter().zip(&self.board.stations) {
            if station.asleep.load(Ordering::SeqCst) {
                thread.thread().unpark();
            }
        }
        let mut panic = catch_unwind(AssertUnwindSafe(|| work(0))).err();
        for station in &self.board.stations {
            wait_for(|| station.done.load(Ordering::Acquire) == *turn);
            let theirs = station.panic.lock().unwrap_or_else(|e| e.into_inner()).take();
            panic = panic.or(theirs);
        }
        drop(turn);
        if let Some(panic) = panic {
            resume_unwind(panic);
        }
    }
}

impl Drop for Crew {
    fn drop(&mut self) {
        self.board.closed.store(true, Ordering::SeqCst);
        for thread in self.threads.drain(..) {
            thread.thread().unpark();
            let _ = thread.join();
        }
    }
}

impl Board {
    /// Waits for one call after another, until the crew is dropped.
    fn serve(&self, thread: usize) {
        let station = &self.stations[thread - 1];
        let mut last = 0;
        loop {
            if !look_for(AWAKE, || self.call.load(Ordering::SeqCst) != last) {
                station.asleep.store(true, Ordering::SeqCst);
                while self.call.load(Ordering::SeqCst) == last {
                    if self.closed.load(Ordering::SeqCst) {
                        return;
                    }
                    std::thread::park();
                }
                station.asleep.store(false, Ordering::SeqCst);
            }
            last = self.call.load(Ordering::SeqCst);
            // SAFETY: the caller wrote it before the number, and writes it again only when this
            // thread is done.
            let work = unsafe { *self.work.get() };
            if let Some(work) = work
                && let Err(panic) = catch_unwind(AssertUnwindSafe(|| work(thread)))
            {
                *station.panic.lock().unwrap_or_else(|e| e.into_inner()) = Some(panic);
            }
            station.done.store(last, Ordering::Release);
        }
    }
}
