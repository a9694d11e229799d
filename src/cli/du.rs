//! `mdl du`.

use clap::Args;

use super::{Global, table, write_out};
use crate::diagnostic::Result;

/// Says what takes the room in the store. OWN is what removing the model would give back.
#[derive(Args)]
#[command(after_help = "\
Examples:
  mdl du
  mdl du --json")]
pub(super) struct Du {
    /// Print JSON
    #[arg(long)]
    json: bool,
}

impl Du {
    pub(super) fn run(&self, global: &Global) -> Result<()> {
        let usage = global.open_store()?.usage()?;
        if self.json {
            let models: Vec<_> = usage
                .models
                .iter()
                .map(|m| {
                    let digest = m.id.map(|d| d.to_string());
                    serde_json::json!({"name": m.name.to_string(), "digest": digest, "own": m.own, "shared": m.shared})
                })
                .collect();
            let all = serde_json::json!({
                "models": models, "referenced": usage.referenced, "unreferenced": usage.unreferenced,
                "temporary": usage.temporary, "cache": usage.cache, "total": usage.total(),
            });
            return write_out(&format!("{all:#}\n"));
        }
        let mut rows: Vec<Vec<String>> = usage
            .models
            .iter()
            .map(|m| vec![m.name.to_string(), table::size(m.own), table::size(m.shared)])
            .collect();
        let rest = [
            ("all models together", usage.referenced),
            ("no model needs (mdl gc)", usage.unreferenced),
            ("temporary files", usage.temporary),
            ("build cache", usage.cache),
            ("total", usage.total()),
        ];
        rows.extend(rest.map(|(what, bytes)| vec![what.to_owned(), table::size(bytes), String::new()]));
        write_out(&format!("{}\n", table::columns(&["MODEL", "OWN", "SHARED"], &rows)))
    }
}
