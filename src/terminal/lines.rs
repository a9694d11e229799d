//! A line editor with a history.

use std::borrow::Cow;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use rustyline::completion::Completer;
use rustyline::error::ReadlineError;
use rustyline::highlight::{CmdKind, Highlighter};
use rustyline::hint::{Hint, Hinter};
use rustyline::history::FileHistory;
use rustyline::validate::Validator;
use rustyline::{
    Cmd, ColorMode, CompletionType, ConditionalEventHandler, Config, Context, Editor, Event, EventContext,
    EventHandler, Helper, KeyEvent, RepeatCount,
};

use super::answers::Names;
use super::commands;
use crate::diagnostic::{Diagnostic, Result};

/// Entries of the history.
const MOST: usize = 1000;

/// What a person did.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Typed {
    /// A line, or several that were pasted.
    Line(String),
    /// Ctrl-C, and whether there was nothing yet.
    Interrupt {
        /// Nothing had been typed.
        empty: bool,
    },
    /// Ctrl-D.
    End,
    /// Ctrl-X Ctrl-E: an editor, on what had been typed.
    Edit(String),
}

/// Reads lines.
pub(super) struct Lines {
    editor: Editor<Assistant, FileHistory>,
    noted: Arc<Noted>,
    /// Where the history is kept; nowhere in private mode.
    history: Option<PathBuf>,
    /// What is typed becomes part of the history.
    pub(super) records: bool,
}

/// What keys leave behind.
#[derive(Default)]
struct Noted {
    line: Mutex<String>,
    wants_editor: AtomicBool,
}

impl Noted {
    fn line(&self) -> String {
        self.line.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn note(&self, line: &str) {
        line.clone_into(&mut self.line.lock().unwrap_or_else(PoisonError::into_inner));
    }
}

impl Lines {
    /// A line editor, with the history that a file keeps. `styled`: the terminal may be given styles.
    ///
    /// # Errors
    /// The terminal cannot be used.
    pub(super) fn new(history: Option<PathBuf>, styled: bool, names: Names) -> Result<Lines> {
        let config = Config::builder()
            .max_history_size(MOST)
            .map_err(failed)?
            .history_ignore_dups(true)
            .map_err(failed)?
            .completion_type(CompletionType::List)
            .color_mode(if styled { ColorMode::Enabled } else { ColorMode::Disabled })
            .bracketed_paste(true)
            .build();
        let mut editor: Editor<Assistant, FileHistory> = Editor::with_config(config).map_err(failed)?;
        let noted = Arc::new(Noted::default());
        editor.set_helper(Some(Assistant { names, placeholder: true }));
        let open = Event::KeySeq(vec![KeyEvent::ctrl('X'), KeyEvent::ctrl('E')]);
        editor.bind_sequence(open, EventHandler::Conditional(Box::new(Open(noted.clone()))));
        let interrupt = EventHandler::Conditional(Box::new(Interrupt(noted.clone())));
        editor.bind_sequence(KeyEvent::ctrl('C'), interrupt);
        if let Some(path) = &history {
            // A history that cannot be read is none.
            let _ = editor.load_history(path);
        }
        Ok(Lines { editor, noted, history, records: true })
    }

    /// Reads one. `initial` is there already; the placeholder is shown where nothing is, if this is a `first` line.
    ///
    /// # Errors
    /// The terminal fails.
    pub(super) fn read(&mut self, prompt: &str, initial: &str, first: bool) -> Result<Typed> {
        if let Some(assistant) = self.editor.helper_mut() {
            assistant.placeholder = first;
        }
        self.noted.wants_editor.store(false, Ordering::Relaxed);
        self.noted.note("");
        match self.editor.readline_with_initial(prompt, (initial, "")) {
            Ok(_) if self.noted.wants_editor.load(Ordering::Relaxed) => Ok(Typed::Edit(self.noted.line())),
            Ok(line) => Ok(Typed::Line(line)),
            Err(ReadlineError::Interrupted) => Ok(Typed::Interrupt { empty: self.noted.line().is_empty() }),
            Err(ReadlineError::Eof) => Ok(Typed::End),
            Err(e) => Err(failed(e).into()),
        }
    }

    /// Adds to the history, and to its file. A file that cannot be written costs the history, not the conversation.
    pub(super) fn remember(&mut self, text: &str) {
        if !self.records || !self.editor.add_history_entry(text).unwrap_or(false) {
            return;
        }
        if let Some(path) = &self.history {
            let _ = prepare(path).map(|()| self.editor.append_history(path));
        }
    }
}

/// Makes the folder of the history, for its owner alone.
fn prepare(path: &Path) -> std::io::Result<()> {
    let Some(parent) = path.parent().filter(|p| !p.exists()) else { return Ok(()) };
    let mut builder = std::fs::DirBuilder::new();
    builder.recursive(true);
    #[cfg(unix)]
    std::os::unix::fs::DirBuilderExt::mode(&mut builder, 0o700);
    builder.create(parent)
}

fn failed(e: ReadlineError) -> Diagnostic {
    Diagnostic::environment(format!("cannot read from the terminal: {e}"))
}

/// Ctrl-X Ctrl-E.
struct Open(Arc<Noted>);

impl ConditionalEventHandler for Open {
    fn handle(&self, _: &Event, _: RepeatCount, _: bool, context: &EventContext<'_>) -> Option<Cmd> {
        self.0.note(context.line());
        self.0.wants_editor.store(true, Ordering::Relaxed);
        Some(Cmd::AcceptLine)
    }
}

/// Ctrl-C.
struct Interrupt(Arc<Noted>);

impl ConditionalEventHandler for Interrupt {
    fn handle(&self, _: &Event, _: RepeatCount, _: bool, context: &EventContext<'_>) -> Option<Cmd> {
        self.0.note(context.line());
        Some(Cmd::Interrupt)
    }
}

/// Completes, and says what to do.
struct Assistant {
    names: Names,
    placeholder: bool,
}

/// Shown where nothing has been typed; no key takes it over.
struct Placeholder;

impl Hint for Placeholder {
    fn display(&self) -> &str {
        "Send a message (/? for help)"
    }

    fn completion(&self) -> Option<&str> {
        None
    }
}

impl Hinter for Assistant {
    type Hint = Placeholder;

    fn hint(&self, line: &str, _: usize, _: &Context<'_>) -> Option<Placeholder> {
        (self.placeholder && line.is_empty()).then_some(Placeholder)
    }
}

impl Completer for Assistant {
    type Candidate = String;

    fn complete(&self, line: &str, at: usize, _: &Context<'_>) -> rustyline::Result<(usize, Vec<String>)> {
        Ok(commands::candidates(line.get(..at).unwrap_or(line), &self.names))
    }
}

impl Highlighter for Assistant {
    fn highlight_hint<'h>(&self, hint: &'h str) -> Cow<'h, str> {
        Cow::Owned(format!("\u{1b}[2m{hint}\u{1b}[22m"))
    }

    fn highlight_char(&self, _: &str, _: usize, _: CmdKind) -> bool {
        false
    }
}

impl Validator for Assistant {}

impl Helper for Assistant {}
