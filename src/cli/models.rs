//! The commands that keep house in the store: `list`, `cp`, `rm`, `gc`.

use std::time::{Duration, SystemTime};

use clap::Args;

use super::{Global, table, write_out};
use crate::diagnostic::{Errors, Result};
use crate::store::{Collected, Collection, Name};
use crate::terminal::listing::{self, Listed};
use crate::terminal::remote;

/// Lists the models of the store, the newest first.
#[derive(Args)]
#[command(after_help = "\
Examples:
  mdl list
  mdl list smol          models whose names begin so
  mdl list --json")]
pub(super) struct List {
    /// Only names that begin with this
    #[arg(value_name = "PREFIX", default_value = "", hide_default_value = true)]
    prefix: String,

    /// Print JSON
    #[arg(long)]
    json: bool,
}

impl List {
    pub(super) fn run(self, global: &Global) -> Result<()> {
        let prefix = self.prefix.to_lowercase();
        let mut entries = global.open_store()?.list()?;
        entries.retain(|e| e.name.to_string().to_lowercase().starts_with(&prefix));
        if self.json {
            let all: Vec<_> = entries
                .iter()
                .map(|e| {
                    let digest = e.id.map(|d| d.to_string());
                    let damage: Vec<String> = e.damage.iter().map(ToString::to_string).collect();
                    serde_json::json!({"name": e.name.to_string(), "digest": digest, "size": e.size, "damage": damage})
                })
                .collect();
            write_out(&format!("{}\n", serde_json::Value::Array(all)))?;
            return Ok(());
        }
        let listed: Vec<Listed> = entries.iter().map(Listed::from).collect();
        write_out(&listing::columns(&listed, SystemTime::now()))
    }
}

/// Gives a model a second name. No weight is copied.
#[derive(Args)]
#[command(after_help = "Example:\n  mdl cp story story:before")]
pub(super) struct Cp {
    /// The model
    source: String,
    /// The new name
    destination: String,
}

impl Cp {
    pub(super) fn run(self, global: &Global) -> Result<()> {
        let (from, to) = (Name::parse(&self.source)?, Name::parse(&self.destination)?);
        let store = global.open_store()?;
        let writer = store.writer()?;
        let published = writer.copy(&from, &to)?;
        drop(writer);
        store.prune(&published.replaced)?;
        write_out(&format!("copied '{}' to '{}'\n", self.source, self.destination))
    }
}

/// Removes models, and the blobs that no other model needs.
#[derive(Args)]
#[command(after_help = "Example:\n  mdl rm story smollm2:old")]
pub(super) struct Rm {
    /// The models
    #[arg(required = true, value_name = "NAME")]
    names: Vec<String>,
}

impl Rm {
    pub(super) fn run(self, global: &Global) -> Result<()> {
        let store = global.open_store()?;
        let server = remote::server_of(&store, &|name| std::env::var(name).ok()).unwrap_or_default();
        let mut problems = Vec::new();
        for text in &self.names {
            // What a server holds of it, it lets go; where it holds nothing, that is no mistake.
            if let Some(server) = &server {
                let _ = server.stop(text);
            }
            match Name::parse(text).and_then(|name| store.remove(&name)) {
                Ok(removed) => {
                    global.print(&removed.collected.warnings);
                    write_out(&format!("deleted '{text}'\n"))?;
                }
                Err(errors) => problems.extend(errors.0),
            }
        }
        if problems.is_empty() { Ok(()) } else { Err(Errors(problems)) }
    }
}

/// Removes blobs that no model uses and what killed builds left.
#[derive(Args)]
#[command(after_help = "\
Examples:
  mdl gc --dry-run          what would be removed, blob by blob
  mdl gc --grace-minutes 0  also what was written within the last hour")]
pub(super) struct Gc {
    /// Remove nothing; say what would be removed
    #[arg(long)]
    dry_run: bool,

    /// Keep unused blobs that are younger: another program may be about to use them
    #[arg(long, default_value_t = 60, value_name = "N")]
    grace_minutes: u64,
}

impl Gc {
    pub(super) fn run(self, global: &Global) -> Result<()> {
        let grace = Duration::from_secs(self.grace_minutes.saturating_mul(60));
        let store = global.open_store()?;
        let planned = store.gc(&Collection { grace, dry_run: true })?;
        if self.dry_run {
            global.print(&planned.warnings);
            for blob in &planned.blobs {
                write_out(&format!("{}  {}\n", blob.digest, table::size(blob.size)))?;
            }
            return write_out(&format!("would remove {}\n", amount(&planned)));
        }
        if planned.blobs.is_empty() && planned.temporary == 0 {
            write_out("there is nothing to remove\n")?;
        } else {
            write_out(&format!("removing {}\n", amount(&planned)))?;
        }
        let collected = store.gc(&Collection { grace, dry_run: false })?;
        global.print(&collected.warnings);
        write_out(&format!("removed {}\n", amount(&collected)))
    }
}

/// How much is removed.
fn amount(collected: &Collected) -> String {
    let (blobs, files) = (collected.blobs.len(), collected.temporary);
    format!("{blobs} blobs and {files} temporary files, {}", table::size(collected.bytes))
}
