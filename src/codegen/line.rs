//! A line of workers: what they make is taken in the order it was asked for.
//!
//! Each thread makes the next chunk that nobody makes yet, whichever tensor it is of, while the calling thread
//! takes finished ones. Only so many chunks are under way, so memory is bounded however uneven the work is.

use std::any::Any;
use std::collections::{HashMap, VecDeque};
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};

use crate::diagnostic::{Diagnostic, Result};

/// Chunks under way for each thread: made, being made or waiting.
const AHEAD: usize = 4;

/// A chunk as a worker leaves it: its job, its bytes, and whether making it went well.
struct Made<J> {
    job: J,
    bytes: Vec<u8>,
    result: std::thread::Result<Result<()>>,
}

struct State<J> {
    waiting: VecDeque<(usize, J)>,
    made: HashMap<usize, Made<J>>,
    /// Buffers to use again.
    spare: Vec<Vec<u8>>,
    closed: bool,
}

struct Line<J> {
    state: Mutex<State<J>>,
    /// There is a job, or the line is closed.
    work: Condvar,
    /// A chunk was made.
    done: Condvar,
}

impl<J> Line<J> {
    fn state(&self) -> MutexGuard<'_, State<J>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn give(&self, number: usize, job: J) {
        self.state().waiting.push_back((number, job));
        self.work.notify_one();
    }

    fn next(&self, number: usize) -> Made<J> {
        let mut state = self.state();
        loop {
            match state.made.remove(&number) {
                Some(made) => return made,
                None => state = self.done.wait(state).unwrap_or_else(PoisonError::into_inner),
            }
        }
    }

    fn close(&self) {
        self.state().closed = true;
        self.work.notify_all();
    }

    fn run(&self, make: &(dyn Fn(&J, &mut Vec<u8>) -> Result<()> + Sync)) {
        loop {
            let mut state = self.state();
            let (number, job) = loop {
                if state.closed {
                    return;
                }
                match state.waiting.pop_front() {
                    Some(next) => break next,
                    None => state = self.work.wait(state).unwrap_or_else(PoisonError::into_inner),
                }
            };
            let mut bytes = state.spare.pop().unwrap_or_default();
            drop(state);
            bytes.clear();
            let result = catch_unwind(AssertUnwindSafe(|| make(&job, &mut bytes)));
            self.state().made.insert(number, Made { job, bytes, result });
            self.done.notify_one();
        }
    }
}

/// Closes the line however its use ends: the workers would wait for ever.
struct Closing<'a, J>(&'a Line<J>);

impl<J> Drop for Closing<'_, J> {
    fn drop(&mut self) {
        self.0.close();
    }
}

/// Has each of `jobs` made into an empty buffer, on as many threads as rayon has, and gives them to `take` in order,
/// on this thread. The first failure in that order ends it.
///
/// # Errors
/// Those of `jobs`, `make` and `take`; or the system starts no thread.
pub(super) fn in_order<J: Send>(
    jobs: impl Iterator<Item = Result<J>>,
    make: &(dyn Fn(&J, &mut Vec<u8>) -> Result<()> + Sync),
    take: &mut dyn FnMut(&J, &[u8]) -> Result<()>,
) -> Result<()> {
    let threads = rayon::current_num_threads().max(1);
    let line = Line {
        state: Mutex::new(State {
            waiting: VecDeque::new(),
            made: HashMap::new(),
            spare: Vec::new(),
            closed: false,
        }),
        work: Condvar::new(),
        done: Condvar::new(),
    };
    let panicked: Box<dyn Any + Send> = match std::thread::scope(|scope| {
        let _closing = Closing(&line);
        for started in 0..threads {
            let worker = std::thread::Builder::new().name("codegen".to_owned());
            match worker.spawn_scoped(scope, || line.run(make)) {
                Ok(_) => {}
                // Fewer do as well.
                Err(_) if started > 0 => break,
                Err(e) => {
                    return Ok(Err(Diagnostic::environment(format!("cannot start a thread: {e}")).into()));
                }
            }
        }
        drive(&line, jobs, AHEAD * threads, take)
    }) {
        Ok(result) => return result,
        Err(panicked) => panicked,
    };
    resume_unwind(panicked)
}

/// Gives jobs and takes chunks; the outer error is a worker's panic.
fn drive<J>(
    line: &Line<J>,
    mut jobs: impl Iterator<Item = Result<J>>,
    ahead: usize,
    take: &mut dyn FnMut(&J, &[u8]) -> Result<()>,
) -> std::thread::Result<Result<()>> {
    let (mut given, mut taken) = (0, 0);
    let mut more = true;
    loop {
        while more && given - taken < ahead {
            match jobs.next() {
                Some(Ok(job)) => {
                    line.give(given, job);
                    given += 1;
                }
                // What was asked for before it is taken first, so that the first failure is the one told.
                Some(Err(errors)) => return Ok(rest(line, taken..given, take)?.and(Err(errors))),
                None => more = false,
            }
        }
        if given == taken {
            return Ok(Ok(()));
        }
        if let Err(errors) = rest(line, taken..taken + 1, take)? {
            return Ok(Err(errors));
        }
        taken += 1;
    }
}

/// Takes the chunks of these numbers.
fn rest<J>(
    line: &Line<J>,
    numbers: std::ops::Range<usize>,
    take: &mut dyn FnMut(&J, &[u8]) -> Result<()>,
) -> std::thread::Result<Result<()>> {
    for number in numbers {
        let Made { job, bytes, result } = line.next(number);
        if let Err(errors) = result?.and_then(|()| take(&job, &bytes)) {
            return Ok(Err(errors));
        }
        line.state().spare.push(bytes);
    }
    Ok(Ok(()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    fn failed(what: &str) -> crate::diagnostic::Errors {
        Diagnostic::error(what.to_owned()).into()
    }

    #[test]
    fn chunks_come_in_order_whoever_is_slow() {
        let mut taken = Vec::new();
        in_order(
            (0..200u64).map(Ok),
            &|job, bytes| {
                std::thread::sleep(Duration::from_micros(job * 37 % 5 * 100));
                assert!(bytes.is_empty());
                bytes.extend(job.to_le_bytes());
                Ok(())
            },
            &mut |job, bytes| {
                taken.push(u64::from_le_bytes(bytes.try_into().unwrap()));
                assert_eq!(taken.last(), Some(job));
                Ok(())
            },
        )
        .unwrap();
        assert!(taken.into_iter().eq(0..200));
    }

    #[test]
    fn no_more_is_under_way_than_is_bounded() {
        use std::sync::atomic::{AtomicUsize, Ordering};
        let (given, taken) = (AtomicUsize::new(0), AtomicUsize::new(0));
        let most = AHEAD * rayon::current_num_threads();
        let jobs = (0..500).map(|job| {
            let ahead = given.fetch_add(1, Ordering::SeqCst) - taken.load(Ordering::SeqCst);
            assert!(ahead < most, "{ahead}");
            Ok(job)
        });
        let mut take = |_: &i32, _: &[u8]| {
            taken.fetch_add(1, Ordering::SeqCst);
            Ok(())
        };
        in_order(jobs, &|_, _| Ok(()), &mut take).unwrap();
        assert_eq!(taken.load(Ordering::SeqCst), 500);
    }

    #[test]
    fn the_first_failure_in_order_is_told() {
        let fails_at =
            |at: u64| move |job: &u64, _: &mut Vec<u8>| if *job >= at { Err(failed("made")) } else { Ok(()) };
        let last = std::cell::Cell::new(0);
        let mut take = |job: &u64, _: &[u8]| {
            last.set(*job);
            Ok(())
        };
        let errors = in_order((0..99).map(Ok), &fails_at(30), &mut take).unwrap_err();
        assert_eq!((errors.0[0].message.as_str(), last.get()), ("made", 29));
        let jobs = |at: u64| (0..99).map(move |job| if job == at { Err(failed("asked")) } else { Ok(job) });
        assert_eq!(in_order(jobs(30), &fails_at(99), &mut take).unwrap_err().0[0].message, "asked");
        assert_eq!(last.get(), 29);
        let errors = in_order(jobs(30), &fails_at(28), &mut |_, _| Ok(())).unwrap_err();
        assert_eq!(errors.0[0].message, "made");
        let errors = in_order((0..99).map(Ok), &fails_at(99), &mut |_, _| Err(failed("taken"))).unwrap_err();
        assert_eq!(errors.0[0].message, "taken");
    }

    #[test]
    #[should_panic(expected = "worker's")]
    fn a_worker_that_panics_does_so_here() {
        let make = |job: &u64, _: &mut Vec<u8>| if *job == 7 { panic!("the worker's") } else { Ok(()) };
        let _ = in_order((0..99).map(Ok), &make, &mut |_, _| Ok(()));
    }
}
