//! `mdl completions`.

use clap::{Args, CommandFactory as _};
use clap_complete::Shell;

use super::{Cli, write_out};
use crate::diagnostic::Result;

/// Prints a script that completes commands, options and their values in a shell.
#[derive(Args)]
#[command(after_help = "\
Examples:
  mdl completions bash > ~/.local/share/bash-completion/completions/mdl
  mdl completions zsh > ~/.zfunc/_mdl                 with ~/.zfunc in $fpath
  mdl completions fish > ~/.config/fish/completions/mdl.fish
  mdl completions powershell >> $PROFILE")]
pub(super) struct Completions {
    /// The shell
    shell: Shell,
}

impl Completions {
    pub(super) fn run(&self) -> Result<()> {
        let mut script = Vec::new();
        clap_complete::generate(self.shell, &mut Cli::command(), "mdl", &mut script);
        write_out(&String::from_utf8_lossy(&script))
    }
}
