//! The processes that render, shared by all who ask.

use std::io;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use jiff::civil::DateTime;

use crate::diagnostic::{Diagnostic, Result};
use crate::prompt::jinja::JinjaTemplate;
use crate::prompt::jinja_values::Variables;
use crate::prompt::thread::over_time;

use super::wire::{self, Failure, Request};
use super::worker::{Failed, Worker};
use super::{ChildCommand, PoolOptions};

/// At most so many processes, started when there is work for them.
#[derive(Debug)]
pub struct Pool {
    command: ChildCommand,
    options: PoolOptions,
    state: Mutex<State>,
    /// A process became free, or may be started.
    freed: Condvar,
}

#[derive(Debug, Default)]
struct State {
    /// Those without work; the one that worked last is the last.
    idle: Vec<Worker>,
    /// Processes, and those about to be started.
    count: usize,
    /// Processes that were ever started.
    started: u64,
}

impl Pool {
    /// A pool without processes.
    pub fn new(command: ChildCommand, options: PoolOptions) -> Arc<Pool> {
        let options = PoolOptions { most: options.most.max(1), ..options };
        Arc::new(Pool { command, options, state: Mutex::default(), freed: Condvar::new() })
    }

    /// The text that a template makes of `variables`; without, it is only compiled.
    ///
    /// # Errors
    /// See [`super::Renderer::render`].
    pub fn render(
        self: &Arc<Self>,
        template: &JinjaTemplate,
        variables: Option<Variables>,
        now: DateTime,
    ) -> Result<String> {
        let limits = *template.limits();
        let frame = Arc::new(Request::new(template.source(), limits, variables, now).encode()?);
        let most = limits.output_bytes.max(wire::ERROR_BYTES).saturating_add(1);
        let mut reply = self.ask(&frame, most, limits.time.min(self.options.time))?;
        let kind = if reply.is_empty() { 0 } else { reply.remove(0) };
        match kind {
            wire::TEXT => String::from_utf8(reply).map_err(|_| crashed().into()),
            wire::ERROR => Err(match serde_json::from_slice::<Failure>(&reply) {
                Ok(failure) => failure.diagnostic(template.source()).into(),
                Err(_) => crashed().into(),
            }),
            _ => Err(crashed().into()),
        }
    }

    /// The ids of the processes without work.
    pub fn idle_processes(&self) -> Vec<u32> {
        self.state().idle.iter().map(Worker::process).collect()
    }

    fn ask(self: &Arc<Self>, frame: &Arc<Vec<u8>>, most: usize, time: Duration) -> Result<Vec<u8>> {
        let mut place = self.place()?;
        let mut left = time;
        loop {
            let (mut worker, begun) = (place.worker()?, Instant::now());
            match worker.ask(frame, most, left) {
                Ok(reply) => {
                    place.keep(worker);
                    return Ok(reply);
                }
                Err(Failed::Time) => return Err(over_time(time).into()),
                // What ended a process that had worked before need not be this template: it may have
                // been killed while it had no work. In a new process it is.
                Err(Failed::Died) if worker.has_served => left = left.saturating_sub(begun.elapsed()),
                Err(Failed::Died) => return Err(crashed().into()),
            }
        }
    }

    /// Waits until a process may work for the caller.
    fn place(self: &Arc<Self>) -> Result<Place<'_>> {
        let busy = |state: &mut State| state.idle.is_empty() && state.count >= self.options.most;
        let waited = self.freed.wait_timeout_while(self.state(), self.options.wait, busy);
        let (mut state, waited) = waited.unwrap_or_else(PoisonError::into_inner);
        if waited.timed_out() && busy(&mut state) {
            let message =
                format!("no chat template could be rendered for {} seconds", self.options.wait.as_secs_f32());
            return Err(Diagnostic::environment(message)
                .code("template-busy")
                .help("others are being rendered; try again later")
                .into());
        }
        let worker = state.idle.pop();
        state.count += usize::from(worker.is_none());
        Ok(Place { pool: self, worker })
    }

    fn start(self: &Arc<Self>) -> Result<Worker> {
        let number = {
            let mut state = self.state();
            state.started += 1;
            state.started
        };
        let pool = Arc::downgrade(self);
        let on_idle = move || pool.upgrade().is_none_or(|pool| pool.give_up(number));
        Worker::start(&self.command, number, self.options.idle, on_idle).map_err(|e| not_started(&e).into())
    }

    /// Ends a process if it has no work; false when it has.
    fn give_up(&self, number: u64) -> bool {
        let mut state = self.state();
        let Some(at) = state.idle.iter().position(|w| w.number == number) else { return false };
        let worker = state.idle.remove(at);
        state.count -= 1;
        drop(state);
        drop(worker);
        self.freed.notify_one();
        true
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The right to one process of the pool; it ends with the place unless it was kept.
struct Place<'p> {
    pool: &'p Arc<Pool>,
    worker: Option<Worker>,
}

impl Place<'_> {
    /// The process: the one that was there if it still runs, else a new one.
    fn worker(&mut self) -> Result<Worker> {
        match self.worker.take().map(|mut worker| (worker.is_alive(), worker)) {
            Some((true, worker)) => Ok(worker),
            _ => self.pool.start(),
        }
    }

    /// Gives the process back to the pool.
    fn keep(self, worker: Worker) {
        let mut state = self.pool.state();
        // The place counts until it is dropped, the process from now on.
        state.count += 1;
        state.idle.push(worker);
    }
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        self.pool.state().count -= 1;
        self.pool.freed.notify_one();
    }
}

fn crashed() -> Diagnostic {
    Diagnostic::error("the model's chat template crashed the process that renders it")
        .code("template-crashed")
        .help("it takes too much memory, or makes a value that holds itself; nothing else is affected")
}

fn not_started(error: &io::Error) -> Diagnostic {
    Diagnostic::environment(format!("cannot start the process that renders chat templates: {error}"))
        .code("template-process")
}
