//! Standard output, and what may reach it.

use std::borrow::Cow;
use std::io::{IsTerminal as _, Write as _};

use crate::diagnostic::{Diagnostic, Result};

/// What the terminal can do.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Screen {
    /// Standard output is a terminal.
    pub terminal: bool,
    /// It may be given styles.
    pub styled: bool,
}

impl Screen {
    /// Standard output as it is. `styled` says what a person wants; otherwise styles go to a terminal that has
    /// some and whose user has not said no.
    pub fn of_stdout(styled: Option<bool>) -> Screen {
        let terminal = std::io::stdout().is_terminal();
        let set = |name: &str| std::env::var_os(name).filter(|v| !v.is_empty());
        let has_styles = || set("NO_COLOR").is_none() && set("TERM").is_none_or(|term| term != "dumb");
        Screen { terminal, styled: styled.unwrap_or_else(|| terminal && has_styles()) }
    }
}

/// The columns of the terminal, now.
pub fn width() -> Option<usize> {
    terminal_size::terminal_size().map(|(width, _)| usize::from(width.0)).filter(|n| *n > 0)
}

/// Writes to standard output at once. A reader that has gone, as in `mdl list | head`, ends the process
/// quietly.
///
/// # Errors
/// Standard output cannot be written to.
pub fn write(text: &str) -> Result<()> {
    let shown = if std::io::stdout().is_terminal() { printable(text) } else { Cow::Borrowed(text) };
    write_styled(&shown)
}

/// As [`write`], for a text whose control sequences are our own.
///
/// # Errors
/// Standard output cannot be written to.
pub fn write_styled(text: &str) -> Result<()> {
    let mut out = std::io::stdout().lock();
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        Ok(()) => Ok(()),
        Err(e) if e.kind() == std::io::ErrorKind::BrokenPipe => std::process::exit(0),
        Err(e) => Err(Diagnostic::environment(format!("cannot write to standard output: {e}")).into()),
    }
}

/// Text for a terminal: what a model says, or a file says of itself, must not steer it.
pub fn printable(text: &str) -> Cow<'_, str> {
    let steers = |c: char| c.is_control() && !matches!(c, '\n' | '\t');
    match text.contains(steers) {
        true => Cow::Owned(text.replace(steers, "\u{FFFD}")),
        false => Cow::Borrowed(text),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_control_character_is_printable() {
        assert_eq!(
            printable("a\u{1b}[2Jb\r\u{7}\u{9b}c\td\n"),
            "a\u{fffd}[2Jb\u{fffd}\u{fffd}\u{fffd}c\td\n"
        );
        assert!(matches!(printable("plain ü 語"), Cow::Borrowed(_)));
    }
}
