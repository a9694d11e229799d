//! Shows how far a build is: bars on a terminal, plain lines or JSON lines elsewhere.

use std::io::IsTerminal as _;
use std::sync::Mutex;
use std::time::{Duration, Instant};

use clap::ValueEnum;
use indicatif::{ProgressBar, ProgressStyle};

use crate::codegen::Progress;

/// How progress is shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(super) enum Style {
    /// Bars on a terminal, plain lines elsewhere
    Auto,
    /// Plain lines
    Plain,
    /// One JSON object a line, on standard error
    Json,
    /// Nothing
    None,
}

/// The least time between two plain or JSON lines of one stretch.
const INTERVAL: Duration = Duration::from_secs(1);

/// The progress of one build.
pub(super) struct Shown {
    style: Style,
    bar: ProgressBar,
    state: Mutex<State>,
}

struct State {
    what: String,
    total: u64,
    done: u64,
    tensor: String,
    started: Instant,
    told: Instant,
}

impl Shown {
    /// Progress in this style, on standard error.
    pub(super) fn new(style: Style) -> Shown {
        let terminal = std::io::stderr().is_terminal();
        let style = if style == Style::Auto && !terminal { Style::Plain } else { style };
        let bar = if style == Style::Auto { ProgressBar::no_length() } else { ProgressBar::hidden() };
        let now = Instant::now();
        let state =
            State { what: String::new(), total: 0, done: 0, tensor: String::new(), started: now, told: now };
        Shown { style, bar, state: Mutex::new(state) }
    }

    fn with_state(&self, f: impl FnOnce(&mut State)) {
        if let Ok(mut state) = self.state.lock() {
            f(&mut state);
        }
    }

    fn tell(&self, state: &State) {
        match self.style {
            Style::Plain => {
                let percent = state.done.saturating_mul(100).checked_div(state.total).unwrap_or(100);
                eprintln!("{}: {percent} % of {}", state.what, super::table::size(state.total));
            }
            Style::Json => eprintln!(
                "{}",
                serde_json::json!({
                    "status": state.what, "completed": state.done, "total": state.total,
                    "tensor": state.tensor, "seconds": state.started.elapsed().as_secs_f64(),
                })
            ),
            Style::Auto | Style::None => {}
        }
    }
}

/// The progress over the chunks of a text, with a figure that settles as it goes.
pub(super) struct Chunked {
    style: Style,
    bar: ProgressBar,
    /// What is counted.
    counted: &'static str,
    /// What the figure is.
    figure: &'static str,
    started: Instant,
    told: Instant,
}

impl Chunked {
    /// Progress in this style, on standard error.
    pub(super) fn new(style: Style, figure: &'static str) -> Chunked {
        Chunked::of(style, "chunk", figure)
    }

    /// The same over something else than chunks.
    pub(super) fn of(style: Style, counted: &'static str, figure: &'static str) -> Chunked {
        let Shown { style, bar, .. } = Shown::new(style);
        if let Ok(style) = ProgressStyle::with_template("{bar:24} {pos:>5}/{len:5} eta {eta:4} {wide_msg}") {
            bar.set_style(style);
        }
        let now = Instant::now();
        Chunked { style, bar, counted, figure, started: now, told: now }
    }

    /// So many chunks of all are done.
    pub(super) fn tell(&mut self, done: usize, total: usize, figure: Option<f64>) {
        let text = figure.map(|f| format!(": {} {f:.4}", self.figure)).unwrap_or_default();
        self.bar.set_length(total as u64);
        self.bar.set_position(done as u64);
        self.bar.set_message(text.trim_start_matches(": ").to_owned());
        if done == total {
            self.bar.finish_and_clear();
        }
        if done < total && self.told.elapsed() < INTERVAL {
            return;
        }
        self.told = Instant::now();
        match self.style {
            Style::Plain => eprintln!("{} {done} of {total}{text}", self.counted),
            Style::Json => eprintln!(
                "{}",
                serde_json::json!({
                    "status": "measuring", "completed": done, "total": total,
                    "figure": figure, "seconds": self.started.elapsed().as_secs_f64(),
                })
            ),
            Style::Auto | Style::None => {}
        }
    }
}

impl Progress for Shown {
    fn pass(&self, name: &str) {
        match self.style {
            Style::Json => eprintln!("{}", serde_json::json!({ "status": name })),
            Style::Auto => self.bar.set_message(name.to_owned()),
            Style::Plain | Style::None => {}
        }
    }

    fn begin(&self, what: &str, bytes: u64) {
        let style = ProgressStyle::with_template(
            "{prefix:18} {bar:24} {bytes:>10}/{total_bytes:10} {binary_bytes_per_sec:12} eta {eta:4} {wide_msg}",
        );
        if let Ok(style) = style {
            self.bar.set_style(style);
        }
        self.bar.reset();
        self.bar.set_length(bytes);
        self.bar.set_prefix(what.to_owned());
        self.bar.set_message("");
        self.with_state(|s| {
            let now = Instant::now();
            *s = State {
                what: what.to_owned(),
                total: bytes,
                done: 0,
                tensor: String::new(),
                started: now,
                told: now,
            };
        });
    }

    fn tensor(&self, name: &str, i: usize, n: usize) {
        self.bar.set_message(format!("{}/{n} {name}", i + 1));
        self.with_state(|s| name.clone_into(&mut s.tensor));
    }

    fn advance(&self, bytes: u64) {
        self.bar.inc(bytes);
        self.with_state(|s| {
            s.done = s.done.saturating_add(bytes);
            if s.told.elapsed() >= INTERVAL {
                s.told = Instant::now();
                self.tell(s);
            }
        });
    }

    fn end(&self) {
        self.bar.finish_and_clear();
        self.with_state(|s| {
            s.done = s.total;
            self.tell(s);
        });
    }
}
