//! An answer as it comes.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use tokio::sync::{mpsc, watch};

use super::Truncation;
use super::prepare::Started;
use crate::prompt::output::{OutputReader, Piece};
use crate::runtime::batch::{Event, Request, TokenLogprob};
use crate::runtime::constrain::Constraint;
use crate::runtime::generate::{Done, Stats};
use crate::server::app::App;
use crate::server::error::ApiError;
use crate::server::scheduler::{Lease, Waiting};

/// What came of an answer.
#[derive(Clone, Debug)]
pub enum Part {
    /// More of it. There may be tokens and no pieces: their text is not certain yet.
    Pieces {
        /// Text, thinking, calls.
        pieces: Vec<Piece>,
        /// One for each token, if asked for.
        logprobs: Vec<TokenLogprob>,
    },
    /// The end.
    End(End),
}

/// How an answer ended.
#[derive(Clone, Debug)]
pub struct End {
    /// Why.
    pub done: Done,
    /// The stop text that was found.
    pub stop: Option<String>,
    /// Counts and times of the engine.
    pub stats: Stats,
    /// Tokens of the whole prompt, cached ones included.
    pub prompt_tokens: usize,
    /// The tokens of the answer.
    pub tokens: Vec<u32>,
    /// Since the request was leased a model.
    pub total_duration: Duration,
    /// Of it, loading.
    pub load_duration: Duration,
    /// What was left out of the prompt.
    pub truncation: Option<Truncation>,
}

/// An answer that is being made. Dropping it stops the work.
pub struct Answer {
    app: Arc<App>,
    prepared: Arc<Started>,
    events: mpsc::Receiver<Event>,
    reader: OutputReader,
    tokens: Vec<u32>,
    cancelled: Arc<AtomicBool>,
    /// Set when the client left too much unread.
    overrun: Arc<AtomicBool>,
    waiting: Option<Waiting>,
    stopping: watch::Receiver<bool>,
    started: Instant,
    first: Option<Instant>,
    previous: Option<Instant>,
    over: bool,
    end: Option<End>,
}

impl Answer {
    pub(super) fn start(
        app: &Arc<App>,
        prepared: Arc<Started>,
        index: u32,
        constraint: Option<Constraint>,
        lease: Lease,
        waiting: Waiting,
    ) -> Answer {
        let engine = lease.model.engine.clone();
        let cancelled = Arc::new(AtomicBool::new(false));
        let overrun = Arc::new(AtomicBool::new(false));
        let (sender, events) = mpsc::channel(app.config.limits.unread_parts);
        let mut options = prepared.options.clone();
        if options.sampler.seed >= 0 {
            options.sampler.seed = options.sampler.seed.wrapping_add(i64::from(index)) & i64::MAX;
        }
        let request = Request {
            prompt: prepared.tokens.clone(),
            options,
            shift: prepared.job.shift,
            logprobs: prepared.job.logprobs,
            logit_bias: prepared.job.logit_bias.clone(),
            constraint,
            cancelled: cancelled.clone(),
        };
        let (stop, lost) = (cancelled.clone(), overrun.clone());
        // The model may go once the engine is done, however slowly the client reads.
        let mut lease = Some(lease);
        let sink = Box::new(move |event| {
            if matches!(event, Event::Ended { .. } | Event::Failed(_)) {
                drop(lease.take());
            }
            if let Err(mpsc::error::TrySendError::Full(_)) = sender.try_send(event) {
                lost.store(true, Ordering::Relaxed);
                stop.store(true, Ordering::Relaxed);
            }
        });
        app.metrics.started();
        engine.submit(request, sink);
        Answer {
            reader: OutputReader::new(&prepared.syntax, prepared.reader.clone()),
            waiting: Some(waiting),
            stopping: app.stopping(),
            app: app.clone(),
            prepared,
            events,
            tokens: Vec::new(),
            cancelled,
            overrun,
            started: Instant::now(),
            first: None,
            previous: None,
            over: false,
            end: None,
        }
    }

    /// The number of tokens of the prompt.
    pub fn prompt_tokens(&self) -> usize {
        self.prepared.tokens.len()
    }

    /// What was left out of the prompt.
    pub fn truncation(&self) -> Option<Truncation> {
        self.prepared.truncation
    }

    /// The next part; `None` after the [`End`] or an error.
    ///
    /// # Errors
    /// The engine failed, the client was too slow, or the server stops.
    pub async fn next(&mut self) -> Option<Result<Part, ApiError>> {
        if self.over {
            return None;
        }
        if let Some(end) = self.end.take() {
            self.over = true;
            return Some(Ok(Part::End(end)));
        }
        loop {
            let event = tokio::select! {
                event = self.events.recv() => Some(event),
                _ = self.stopping.wait_for(|stop| *stop) => None,
            };
            let Some(event) = event else { return self.fail(ApiError::stopping()) };
            match event {
                Some(Event::Began { .. }) => {
                    self.waiting = None;
                    self.app.metrics.began(self.started.elapsed());
                }
                Some(Event::Text { text, tokens, logprobs }) => {
                    self.count(&tokens);
                    let pieces = self.reader.push(&text);
                    return Some(Ok(Part::Pieces { pieces, logprobs }));
                }
                Some(Event::Ended { .. }) if self.overrun.load(Ordering::Relaxed) => {
                    let message = "the answer was not read in time";
                    return self.fail(ApiError::new(axum::http::StatusCode::REQUEST_TIMEOUT, message));
                }
                Some(Event::Ended { done, stop, stats }) => {
                    self.app.metrics.finished(&stats);
                    let end = End {
                        done,
                        stop,
                        stats,
                        prompt_tokens: self.prepared.tokens.len(),
                        tokens: std::mem::take(&mut self.tokens),
                        total_duration: self.started.elapsed() + self.prepared.load_duration,
                        load_duration: self.prepared.load_duration,
                        truncation: self.prepared.truncation,
                    };
                    let pieces = self.reader.finish();
                    if pieces.is_empty() {
                        self.over = true;
                        return Some(Ok(Part::End(end)));
                    }
                    self.end = Some(end);
                    return Some(Ok(Part::Pieces { pieces, logprobs: Vec::new() }));
                }
                Some(Event::Failed(errors)) => return self.fail(errors.into()),
                None if self.overrun.load(Ordering::Relaxed) => {
                    let message = "the answer was not read in time";
                    return self.fail(ApiError::new(axum::http::StatusCode::REQUEST_TIMEOUT, message));
                }
                None => return self.fail(ApiError::internal("the engine dropped a request")),
            }
        }
    }

    fn fail(&mut self, error: ApiError) -> Option<Result<Part, ApiError>> {
        self.over = true;
        self.app.metrics.failed();
        Some(Err(error))
    }

    fn count(&mut self, tokens: &[u32]) {
        let now = Instant::now();
        match self.previous {
            Some(previous) if !tokens.is_empty() => self.app.metrics.between(now - previous),
            _ => {}
        }
        if self.first.is_none() && !tokens.is_empty() {
            self.first = Some(now);
            self.app.metrics.first_token(now - self.started);
        }
        self.previous = Some(now);
        self.tokens.extend_from_slice(tokens);
    }
}

impl Drop for Answer {
    fn drop(&mut self) {
        self.cancelled.store(true, Ordering::Relaxed);
        if !self.over && self.end.is_none() {
            self.app.metrics.cancelled();
        }
    }
}
