//! `mdl man`.

use std::path::PathBuf;

use clap::{Args, CommandFactory as _};

use super::{Cli, write_out};
use crate::diagnostic::{Diagnostic, Result};

/// Prints the manual page of `mdl`, or writes one for each command into a directory.
#[derive(Args)]
#[command(after_help = "\
Examples:
  mdl man | man -l -
  mdl man ~/.local/share/man/man1      then: man mdl-build")]
pub(super) struct Man {
    /// Where to write a page for each command; it is created
    #[arg(value_name = "DIR")]
    directory: Option<PathBuf>,
}

impl Man {
    pub(super) fn run(&self) -> Result<()> {
        let command = Cli::command();
        match &self.directory {
            None => {
                let mut page = Vec::new();
                let rendered = clap_mangen::Man::new(command).render(&mut page);
                rendered.map_err(|e| Diagnostic::environment(format!("cannot write the page: {e}")))?;
                write_out(&String::from_utf8_lossy(&page))
            }
            Some(directory) => {
                let written = std::fs::create_dir_all(directory)
                    .and_then(|()| clap_mangen::generate_to(command, directory));
                Ok(written.map_err(|e| Diagnostic::io("write to", directory, &e))?)
            }
        }
    }
}
