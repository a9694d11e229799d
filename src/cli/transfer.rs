//! What commands that speak to registries have in common: their options, and progress with a bar for each layer.

use std::collections::BTreeMap;
use std::io::IsTerminal as _;
use std::sync::Mutex;
use std::time::{Duration, Instant};

use clap::Args;
use indicatif::{MultiProgress, ProgressBar, ProgressStyle};

use super::progress::Style;
use super::{Global, printable, table};
use crate::diagnostic::{Errors, Result};
use crate::registry::{self, Client, Options, Progress};
use crate::store::{Digest, Name, Store};

/// How the registry is spoken to.
#[derive(Args, Clone, Default)]
pub(super) struct Registry {
    /// Speak to the registry without encryption
    #[arg(long)]
    insecure: bool,

    /// A host that may have your login though it is of another domain than the registry that sends for it; may be
    /// repeated
    #[arg(long, value_name = "HOST")]
    allow_realm: Vec<String>,
}

impl Registry {
    /// These options, and what the environment says.
    pub(super) fn options(&self, global: &Global) -> Options {
        let environment = Options::from_env(&|name| std::env::var_os(name));
        Options {
            insecure: self.insecure,
            offline: global.offline,
            allow_realms: self.allow_realm.clone(),
            ..environment
        }
    }

    /// Pulls models that the store lacks, unless the network is not to be used.
    pub(super) fn bring(&self, global: &Global, store: &Store, names: &[Name]) -> Result<()> {
        let options = self.options(global);
        if options.offline || names.is_empty() {
            return Ok(());
        }
        let client = Client::new(options)?;
        let progress = Transfers::new(global.progress);
        let pulled = registry::block_on(async {
            for name in names {
                client.pull(store, name, &progress).await.map_err(|errors| looked_for(errors, name))?;
            }
            Ok(())
        });
        progress.end();
        pulled
    }
}

/// Why there was anything to pull.
fn looked_for(errors: Errors, name: &Name) -> Errors {
    let why =
        format!("`{name}` is not in the store, and so was looked for there; with `--offline` it is not");
    Errors(errors.0.into_iter().map(|d| d.help(why.clone())).collect())
}

/// The least time between two plain or JSON lines of one blob.
const INTERVAL: Duration = Duration::from_secs(1);

/// The progress of a transfer: on a terminal a bar for each layer and one for all, lines or JSON lines elsewhere.
pub(super) struct Transfers {
    style: Style,
    bars: MultiProgress,
    state: Mutex<State>,
}

struct State {
    blobs: BTreeMap<Digest, Blob>,
    total: Option<ProgressBar>,
    started: Instant,
}

struct Blob {
    bar: ProgressBar,
    total: u64,
    completed: u64,
    told: Option<Instant>,
}

impl Transfers {
    /// Progress in this style, on standard error.
    pub(super) fn new(style: Style) -> Transfers {
        let terminal = std::io::stderr().is_terminal();
        let style = if style == Style::Auto && !terminal { Style::Plain } else { style };
        let state = State { blobs: BTreeMap::new(), total: None, started: Instant::now() };
        Transfers { style, bars: MultiProgress::new(), state: Mutex::new(state) }
    }

    /// Leaves a terminal as it was.
    pub(super) fn end(&self) {
        let _ = self.bars.clear();
    }

    fn bar(&self, status: &str, total: u64) -> ProgressBar {
        if self.style != Style::Auto {
            return ProgressBar::hidden();
        }
        let bar = self.bars.add(ProgressBar::new(total));
        let style = ProgressStyle::with_template(
            "{prefix:20} {bar:24} {bytes:>10}/{total_bytes:10} {binary_bytes_per_sec:12} eta {eta:4}",
        );
        if let Ok(style) = style {
            bar.set_style(style);
        }
        bar.set_prefix(printable(status).into_owned());
        bar
    }

    fn tell(&self, status: &str, digest: &Digest, blob: &mut Blob, started: Instant) {
        let ended = blob.completed >= blob.total;
        if !ended && blob.told.is_some_and(|told| told.elapsed() < INTERVAL) {
            return;
        }
        blob.told = Some(Instant::now());
        match self.style {
            Style::Plain => {
                let percent = blob.completed.saturating_mul(100).checked_div(blob.total).unwrap_or(100);
                eprintln!("{}: {percent} % of {}", printable(status), table::size(blob.total));
            }
            Style::Json => eprintln!(
                "{}",
                serde_json::json!({
                    "status": status, "digest": digest.to_string(), "completed": blob.completed, "total": blob.total,
                    "seconds": started.elapsed().as_secs_f64(),
                })
            ),
            Style::Auto | Style::None => {}
        }
    }
}

impl Progress for Transfers {
    fn status(&self, status: &str) {
        match self.style {
            Style::Plain => eprintln!("{}", printable(status)),
            Style::Json => eprintln!("{}", serde_json::json!({ "status": status })),
            Style::Auto | Style::None => {}
        }
    }

    fn transfer(&self, status: &str, digest: &Digest, total: u64, completed: u64) {
        let Ok(mut state) = self.state.lock() else { return };
        let State { blobs, total: all, started } = &mut *state;
        let fresh = || Blob { bar: self.bar(status, total), total, completed: u64::MAX, told: None };
        let blob = blobs.entry(*digest).or_insert_with(fresh);
        if blob.completed == completed {
            return;
        }
        blob.completed = completed;
        blob.bar.set_position(completed);
        self.tell(status, digest, blob, *started);
        if self.style == Style::Auto && blobs.len() > 1 {
            let all = all.get_or_insert_with(|| self.bar("total", 0));
            let sum = |of: fn(&Blob) -> u64| blobs.values().map(of).fold(0, u64::saturating_add);
            all.set_length(sum(|b| b.total));
            all.set_position(sum(|b| b.completed));
        }
    }
}
