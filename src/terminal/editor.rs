//! A person's own editor, for a message.

use std::process::Command;

use crate::diagnostic::{Diagnostic, Result};

/// The variables that name an editor; the first that is set counts.
const VARIABLES: [&str; 4] = ["MDL_EDITOR", "OLLAMA_EDITOR", "VISUAL", "EDITOR"];

const FALLBACK: &str = if cfg!(windows) { "notepad" } else { "vi" };

/// The most bytes of a message.
const LIMIT: u64 = 8 << 20;

/// Opens the editor on a text; gives the text that it leaves.
///
/// # Errors
/// There is no such editor, it fails, or it leaves no text.
pub(super) fn edit(text: &str, env: &dyn Fn(&str) -> Option<String>) -> Result<String> {
    let set = VARIABLES.iter().find_map(|name| env(name).filter(|v| !v.trim().is_empty()));
    let command = set.unwrap_or_else(|| FALLBACK.to_owned());
    let mut words = command.split_whitespace();
    let program = words.next().unwrap_or(FALLBACK);
    let failed =
        |what: &str, e: &dyn std::fmt::Display| Diagnostic::environment(format!("cannot {what}: {e}"));
    // Only its owner can read it.
    let file = tempfile::Builder::new().prefix("mdl-").suffix(".md").tempfile();
    let path = file.map_err(|e| failed("make a file for the editor", &e))?.into_temp_path();
    std::fs::write(&path, text).map_err(|e| failed("write a file for the editor", &e))?;
    let status = Command::new(program).args(words).arg(&path).status();
    let status = status.map_err(|e| {
        failed(&format!("start the editor `{command}`"), &e).help("set MDL_EDITOR, VISUAL or EDITOR")
    })?;
    if !status.success() {
        return Err(Diagnostic::environment(format!("the editor `{command}` failed: {status}")).into());
    }
    let length = std::fs::metadata(&path).map_err(|e| failed("read what the editor wrote", &e))?.len();
    if length > LIMIT {
        return Err(Diagnostic::error(format!("the editor left more than {LIMIT} bytes")).into());
    }
    let text = std::fs::read_to_string(&path).map_err(|e| failed("read what the editor wrote", &e))?;
    Ok(text.trim_end().to_owned())
}
