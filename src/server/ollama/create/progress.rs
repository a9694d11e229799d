//! The progress of a build as lines.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::mpsc;

use super::CreateResponse;
use crate::codegen::Progress;
use crate::server::error::ApiError;

/// A stretch of work tells how far it is no more often than that.
const EVERY: Duration = Duration::from_millis(100);

/// Stands for the digest of a blob that is being made, as in Ollama.
const UNKNOWN: &str = "0000000000000000000";

/// Tells a client. What it does not read in time is left out.
pub struct Lines {
    client: mpsc::Sender<Result<CreateResponse, ApiError>>,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    /// What writing tensors is called.
    quantizing: Option<String>,
    /// The stretch that runs.
    line: CreateResponse,
    told: Option<Instant>,
}

impl Lines {
    /// Nothing told yet.
    pub fn new(client: mpsc::Sender<Result<CreateResponse, ApiError>>) -> Lines {
        Lines { client, state: Mutex::default() }
    }

    /// Tells a status.
    pub fn say(&self, status: impl Into<String>) {
        self.send(CreateResponse::status(status));
    }

    /// What writing tensors is called from now on.
    pub fn quantizes(&self, status: String) {
        self.state().quantizing = Some(status);
    }

    fn send(&self, line: CreateResponse) {
        let _ = self.client.try_send(Ok(line));
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Tells the stretch, unless that was done a moment ago.
    fn tell(&self, state: &mut State, now: bool) {
        if now || state.told.is_none_or(|told| told.elapsed() >= EVERY) {
            state.told = Some(Instant::now());
            self.send(state.line.clone());
        }
    }
}

impl Progress for Lines {
    fn begin(&self, what: &str, bytes: u64) {
        let mut state = self.state();
        let status = match (&state.quantizing, what) {
            (Some(quantizing), "writing tensors") => quantizing.clone(),
            _ => what.to_owned(),
        };
        let digest = Some(UNKNOWN.to_owned());
        state.line = CreateResponse { status, digest, total: Some(bytes), completed: Some(0) };
        self.tell(&mut state, true);
    }

    fn advance(&self, bytes: u64) {
        let mut state = self.state();
        let done = state.line.completed.unwrap_or(0).saturating_add(bytes);
        state.line.completed = Some(done);
        self.tell(&mut state, false);
    }

    fn end(&self) {
        let mut state = self.state();
        state.line.completed = state.line.total;
        self.tell(&mut state, true);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stretch_begins_and_ends_with_a_line() {
        let (client, mut told) = mpsc::channel(8);
        let lines = Lines::new(client);
        lines.say("parsing GGUF");
        lines.quantizes("quantizing F16 model to Q8_0".to_owned());
        lines.begin("hashing sources", 10);
        lines.end();
        lines.begin("writing tensors", 100);
        (0..50).for_each(|_| lines.advance(2));
        lines.end();
        drop(lines);
        let mut text = String::new();
        while let Ok(line) = told.try_recv() {
            text.push_str(&serde_json::to_string(&line.unwrap()).unwrap());
            text.push('\n');
        }
        insta::with_settings!({
            snapshot_path => concat!(env!("CARGO_MANIFEST_DIR"), "/snapshots"),
            prepend_module_to_snapshot => false,
        }, {
            insta::assert_snapshot!("server_ollama_create_progress", text);
        });
    }
}
