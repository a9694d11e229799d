//! `mdl lsp`.

use clap::Args;

use super::Global;
use crate::diagnostic::Result;
use crate::lsp;
use crate::world::SystemWorld;

/// A language server for Modelfiles, for an editor: diagnostics, completion, hover, formatting, definitions, symbols.
#[derive(Args)]
#[command(after_help = "\
Examples:
  mdl lsp                    speaks the Language Server Protocol on standard input and output

In an editor, set `mdl lsp` as the server of files named Modelfile; see editors/README.md.")]
pub(super) struct Lsp {}

impl Lsp {
    pub(super) fn run(self, global: &Global) -> Result<()> {
        let models = || {
            let entries = global.open_store().and_then(|store| store.list()).unwrap_or_default();
            entries.into_iter().map(|entry| entry.name.to_string()).collect()
        };
        lsp::serve(&SystemWorld, &models)
    }
}
