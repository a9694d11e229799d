//! `mdl fmt`.

use std::io::Write as _;
use std::path::{Path, PathBuf};

use clap::Args;

use super::{Global, write_out};
use crate::diagnostic::{Diagnostic, Errors, Result};
use crate::modelfile;
use crate::pipeline;
use crate::world::SystemWorld;

/// Formats Modelfiles in place. Comments stay; the meaning never changes.
#[derive(Args)]
#[command(after_help = "\
Examples:
  mdl fmt                    format ./Modelfile
  mdl fmt --check a/ b/      fail where formatting would change a file, for CI
  mdl fmt --stdout FILE      print the formatted text")]
pub(super) struct Fmt {
    /// Modelfiles, or directories that have one
    #[arg(default_value = "Modelfile", value_name = "PATH")]
    path: Vec<PathBuf>,

    /// Change nothing; fail if a file is not formatted
    #[arg(long, conflicts_with = "stdout")]
    check: bool,

    /// Print instead of writing
    #[arg(long)]
    stdout: bool,
}

impl Fmt {
    pub(super) fn run(self, _global: &Global) -> Result<()> {
        let mut problems = Vec::new();
        for path in &self.path {
            match self.format(path) {
                Ok(()) => {}
                Err(errors) => problems.extend(errors.0),
            }
        }
        if problems.is_empty() { Ok(()) } else { Err(Errors(problems)) }
    }

    fn format(&self, path: &Path) -> Result<()> {
        let input = pipeline::read(&SystemWorld, path)?;
        if input.checked.ast.has_errors() {
            return Err(Errors(input.checked.diagnostics));
        }
        let formatted = modelfile::format(&input.checked.ast);
        if self.stdout {
            return write_out(&formatted);
        }
        let before = std::fs::read(&input.path).map_err(|e| Diagnostic::io("read", &input.path, &e))?;
        if before == formatted.as_bytes() {
            return Ok(());
        }
        if self.check {
            return Err(Diagnostic::error(format!("{} is not formatted", input.path.display()))
                .code("not-formatted")
                .help("run `mdl fmt` on it")
                .into());
        }
        replace(&input.path, formatted.as_bytes())
    }
}

/// Replaces a file as a whole, so that a failure leaves the old one.
fn replace(path: &Path, bytes: &[u8]) -> Result<()> {
    let failed = |e: &std::io::Error| Diagnostic::io("write", path, e);
    // A symbolic link stays one: what it points to is replaced.
    let target = std::fs::canonicalize(path).map_err(|e| failed(&e))?;
    let directory = target.parent().unwrap_or(Path::new("."));
    let mut file = tempfile::NamedTempFile::new_in(directory).map_err(|e| failed(&e))?;
    file.write_all(bytes).map_err(|e| failed(&e))?;
    let permissions = std::fs::metadata(&target).map_err(|e| failed(&e))?.permissions();
    file.as_file().set_permissions(permissions).map_err(|e| failed(&e))?;
    file.as_file().sync_all().map_err(|e| failed(&e))?;
    file.persist(&target).map_err(|e| failed(&e.error))?;
    Ok(())
}
