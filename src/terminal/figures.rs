//! Counts and times of an answer, as Ollama prints them.

use std::time::Duration;

/// What an answer took.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Figures {
    /// All of it.
    pub total: Duration,
    /// Of it, loading the model.
    pub load: Duration,
    /// Tokens of the prompt that were read.
    pub prompt_count: u64,
    /// The time for them.
    pub prompt: Duration,
    /// Tokens of the answer.
    pub count: u64,
    /// The time for them.
    pub answer: Duration,
}

impl Figures {
    /// A line for each.
    pub fn lines(&self) -> String {
        let rate = |count: u64, time: Duration| {
            format!("{:.2} tokens/s", count as f64 / time.as_secs_f64().max(1e-9))
        };
        let time = |time: Duration| format!("{time:.3?}");
        [
            ("total duration:", time(self.total)),
            ("load duration:", time(self.load)),
            ("prompt eval count:", format!("{} token(s)", self.prompt_count)),
            ("prompt eval duration:", time(self.prompt)),
            ("prompt eval rate:", rate(self.prompt_count, self.prompt)),
            ("eval count:", format!("{} token(s)", self.count)),
            ("eval duration:", time(self.answer)),
            ("eval rate:", rate(self.count, self.answer)),
        ]
        .map(|(name, value)| format!("{name:<22}{value}\n"))
        .concat()
    }
}
