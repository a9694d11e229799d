//! `mdl check`.

use std::path::PathBuf;

use clap::Args;

use super::Global;
use crate::diagnostic::Result;
use crate::pipeline;
use crate::world::SystemWorld;

/// Reports every error and warning of a Modelfile, without opening a model.
#[derive(Args)]
#[command(after_help = "\
Examples:
  mdl check                                  ./Modelfile
  mdl check --message-format json story/     for an editor
  mdl check --deny-warnings Modelfile        for CI")]
pub(super) struct Check {
    /// A Modelfile, or a directory that has one
    #[arg(default_value = "Modelfile", value_name = "PATH")]
    path: Vec<PathBuf>,

    /// Fail on warnings
    #[arg(long)]
    deny_warnings: bool,
}

impl Check {
    pub(super) fn run(self, global: &Global) -> Result<()> {
        let mut warnings = Vec::new();
        let mut errors = Vec::new();
        for path in &self.path {
            match pipeline::read(&SystemWorld, path).and_then(|input| input.checked.into_recipe()) {
                Ok((_, found)) => warnings.extend(found),
                Err(found) => errors.extend(found.0),
            }
        }
        if !errors.is_empty() {
            global.print(&warnings);
            return Err(crate::diagnostic::Errors(errors));
        }
        global.warn(&warnings, self.deny_warnings)
    }
}
