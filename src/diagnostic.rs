//! The one error shape a person sees.
//!
//! A [`Diagnostic`] is data: severity, message, where, help. Only the command line renders it
//! (`cli::report`). Every fallible function of the crate returns [`Result`], whose error
//! [`Errors`] holds one or more diagnostics, so that a front end can report all it found.

use std::fmt;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// How bad it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Severity {
    /// Worth saying; nothing is wrong.
    Note,
    /// Suspicious; fails only under `--deny-warnings`.
    Warning,
    /// The command fails.
    Error,
}

/// Whose fault an error is; it decides the exit code.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    /// The input is wrong (exit code 1).
    Input,
    /// The command was called wrongly (exit code 2).
    Usage,
    /// The environment failed: disk, permissions, memory (exit code 3).
    Environment,
}

/// A text that spans point into: its name as the user knows it, and what it says.
#[derive(Debug, PartialEq, Eq)]
pub struct Source {
    /// The path or name to print.
    pub name: String,
    /// The whole text, decoded to UTF-8.
    pub text: String,
}

/// A range of bytes in a [`Source`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Span {
    /// The text.
    pub source: Arc<Source>,
    /// Byte range in `source.text`, on character boundaries.
    pub range: Range<usize>,
}

impl Span {
    /// One-based line and column (in characters) of the span's start.
    pub fn line_column(&self) -> (usize, usize) {
        let text = &self.source.text;
        let start = self.range.start.min(text.len());
        let before = text.get(..start).unwrap_or(text);
        let line = before.matches('\n').count() + 1;
        let column = before.rsplit('\n').next().unwrap_or("").chars().count() + 1;
        (line, column)
    }
}

/// Where a diagnostic points.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Location {
    /// Somewhere in a text.
    Text(Span),
    /// Somewhere in a file without lines: the place is a key, a tensor's name or a byte offset.
    File {
        /// The file, as the user named it.
        path: PathBuf,
        /// ``key `llama.block_count` ``, `byte 24`.
        place: Option<String>,
    },
}

/// One thing to tell the user.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Diagnostic {
    /// How bad it is.
    pub severity: Severity,
    /// Whose fault it is; only errors have a use for it.
    pub kind: Kind,
    /// A stable name for tools, such as `unknown-instruction`; empty where none was given.
    pub code: &'static str,
    /// What happened, one sentence without a full stop.
    pub message: String,
    /// Where.
    pub location: Option<Location>,
    /// What the marked place is, printed at the caret.
    pub label: Option<String>,
    /// What to do, each its own line.
    pub help: Vec<String>,
}

impl Diagnostic {
    fn new(severity: Severity, kind: Kind, message: impl Into<String>) -> Self {
        Diagnostic {
            severity,
            kind,
            code: "",
            message: message.into(),
            location: None,
            label: None,
            help: Vec::new(),
        }
    }

    /// The input is wrong.
    pub fn error(message: impl Into<String>) -> Self {
        Self::new(Severity::Error, Kind::Input, message)
    }

    /// The command was called wrongly.
    pub fn usage(message: impl Into<String>) -> Self {
        Self::new(Severity::Error, Kind::Usage, message)
    }

    /// Something outside failed: disk, permissions, memory.
    pub fn environment(message: impl Into<String>) -> Self {
        Self::new(Severity::Error, Kind::Environment, message)
    }

    /// Suspicious, but no reason to stop.
    pub fn warning(message: impl Into<String>) -> Self {
        Self::new(Severity::Warning, Kind::Input, message)
    }

    /// Worth saying.
    pub fn note(message: impl Into<String>) -> Self {
        Self::new(Severity::Note, Kind::Input, message)
    }

    /// An operating system's error on `path`: a missing or unreadable file is the input's fault
    /// (`doing` says what was tried: "read"), everything else the environment's.
    pub fn io(doing: &str, path: &Path, error: &std::io::Error) -> Self {
        use std::io::ErrorKind::*;
        let kind = match error.kind() {
            NotFound | IsADirectory | NotADirectory | InvalidData | UnexpectedEof => Kind::Input,
            _ => Kind::Environment,
        };
        let mut d = Self::new(Severity::Error, kind, format!("cannot {doing} {}: {error}", path.display()));
        d.code = "io";
        d
    }

    /// Names the diagnostic for tools.
    pub fn code(mut self, code: &'static str) -> Self {
        self.code = code;
        self
    }

    /// Points at a span of text.
    pub fn at(mut self, span: &Span) -> Self {
        self.location = Some(Location::Text(span.clone()));
        self
    }

    /// Points into a file without lines.
    pub fn in_file(mut self, path: impl Into<PathBuf>, place: impl Into<String>) -> Self {
        let place = place.into();
        self.location =
            Some(Location::File { path: path.into(), place: (!place.is_empty()).then_some(place) });
        self
    }

    /// Says what the marked place is.
    pub fn label(mut self, label: impl Into<String>) -> Self {
        self.label = Some(label.into());
        self
    }

    /// Adds a line on what to do.
    pub fn help(mut self, help: impl Into<String>) -> Self {
        self.help.push(help.into());
        self
    }
}

impl fmt::Display for Diagnostic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.location {
            Some(Location::Text(span)) => {
                let (line, column) = span.line_column();
                write!(f, "{}:{line}:{column}: ", span.source.name)?;
            }
            Some(Location::File { path, place: Some(place) }) => {
                write!(f, "{}: {place}: ", path.display())?;
            }
            Some(Location::File { path, place: None }) => write!(f, "{}: ", path.display())?,
            None => {}
        }
        f.write_str(&self.message)
    }
}

/// One or more diagnostics that ended an operation. Warnings may be among them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Errors(pub Vec<Diagnostic>);

impl Errors {
    /// The exit code the worst of them asks for: 1 input, 2 usage, 3 environment.
    pub fn exit_code(&self) -> u8 {
        let worst = self.0.iter().filter(|d| d.severity == Severity::Error).map(|d| d.kind).max();
        match worst {
            Some(Kind::Environment) => 3,
            Some(Kind::Usage) => 2,
            Some(Kind::Input) | None => 1,
        }
    }
}

impl From<Diagnostic> for Errors {
    fn from(diagnostic: Diagnostic) -> Self {
        Errors(vec![diagnostic])
    }
}

impl fmt::Display for Errors {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, d) in self.0.iter().enumerate() {
            if i > 0 {
                f.write_str("\n")?;
            }
            write!(f, "{d}")?;
        }
        Ok(())
    }
}

impl std::error::Error for Errors {}

/// What every fallible function of the crate returns.
pub type Result<T, E = Errors> = std::result::Result<T, E>;
