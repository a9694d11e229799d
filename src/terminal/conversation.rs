//! The prompt loop.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::SystemTime;

use super::answers::{Answered, Answers, Report};
use super::lines::{Lines, Typed};
use super::view::{Look, View};
use super::{commands, editor, listing, message, screen};
use crate::diagnostic::{Diagnostic, Errors, Result};
use crate::ir::{Message, ParameterValue, Prompt, Role};
use crate::prompt::output::Piece;
use crate::prompt::{ChatMessage, Think};
use crate::runtime::answer::{Input, Job};
use crate::runtime::constrain::Grammar;
use crate::runtime::generate::Done;

/// What leads to a conversation, and goes on to change in it.
pub struct Conversation<'a> {
    /// The model.
    pub answers: &'a mut dyn Answers,
    /// How answers are shown.
    pub look: Look,
    /// Counts and times after each answer.
    pub verbose: bool,
    /// What answers must be.
    pub format: Option<Grammar>,
    /// Whether the model thinks.
    pub think: Option<Think>,
    /// Drop the oldest messages of a conversation that is longer than the context; else it is refused.
    pub truncate: bool,
    /// Parameters that go before the model's.
    pub parameters: Vec<(String, ParameterValue)>,
    /// Instead of the model's SYSTEM.
    pub system: Option<String>,
    /// What was said.
    pub messages: Vec<ChatMessage>,
    /// Where the history is kept; nowhere in private mode.
    pub history: Option<PathBuf>,
    /// What is typed becomes part of the history.
    pub records: bool,
    /// Set by Ctrl-C while an answer is made.
    pub cancelled: Arc<AtomicBool>,
    /// Prints diagnostics.
    pub report: &'a Report<'a>,
}

/// Whether the loop goes on.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Next {
    Go,
    Leave,
}

impl Conversation<'_> {
    /// Answers what is typed until its end.
    ///
    /// # Errors
    /// The terminal fails. What is wrong with a message or a command is said, and the next is read.
    pub fn converse(&mut self) -> Result<()> {
        let mut lines = Lines::new(self.history.clone(), self.look.screen.styled, self.answers.names())?;
        let mut initial = String::new();
        loop {
            lines.records = self.records;
            self.cancelled.store(false, Ordering::Relaxed);
            let typed = read_message(&mut lines, &std::mem::take(&mut initial))?;
            let text = match typed {
                Typed::End => return Ok(()),
                Typed::Interrupt { empty } => {
                    if empty {
                        screen::write("Use Ctrl + d or /bye to exit.\n")?;
                    }
                    continue;
                }
                Typed::Edit(text) => {
                    match editor::edit(&text, &|name| std::env::var(name).ok()) {
                        Ok(edited) => initial = edited,
                        Err(errors) => {
                            (self.report)(&errors.0);
                            initial = text;
                        }
                    }
                    continue;
                }
                Typed::Line(text) => text,
            };
            if text.trim().is_empty() {
                continue;
            }
            lines.remember(text.trim_end());
            let done = match text.trim_start().starts_with('/') {
                true => self.command(&text),
                false => self.say(message::message(&text)).map(|()| Next::Go),
            };
            match done {
                Ok(Next::Leave) => return Ok(()),
                Ok(Next::Go) => {}
                Err(errors) => (self.report)(&errors.0),
            }
        }
    }

    /// Answers one text; `raw`: as it is, without a template.
    ///
    /// # Errors
    /// There is no answer.
    pub fn answer_once(&mut self, text: &str, raw: bool) -> Result<Answered> {
        let input = match raw {
            true => Input::Raw(text.to_owned()),
            false => Input::Chat(self.with_system(vec![ChatMessage::new("user", text)])),
        };
        self.show_answer(input).map(|(_, answered)| answered)
    }

    /// Says something, and hears what comes back.
    fn say(&mut self, text: &str) -> Result<()> {
        self.messages.push(ChatMessage::new("user", text));
        let input = Input::Chat(self.with_system(self.messages.clone()));
        match self.show_answer(input) {
            // What was interrupted before it began has not been said.
            Ok((said, answered))
                if answered.done == Done::Cancelled
                    && said.content.is_empty()
                    && said.thinking.is_empty() =>
            {
                self.messages.pop();
            }
            Ok((said, _)) => self.messages.push(said),
            Err(errors) => {
                self.messages.pop();
                return Err(errors);
            }
        }
        screen::write("\n")
    }

    fn with_system(&self, messages: Vec<ChatMessage>) -> Vec<ChatMessage> {
        let system = self.system.iter().filter(|s| !s.is_empty()).map(|s| ChatMessage::new("system", s));
        system.chain(messages).collect()
    }

    /// Shows an answer as it comes; gives all of it, as far as it came.
    fn show_answer(&mut self, input: Input) -> Result<(ChatMessage, Answered)> {
        let job = Job {
            parameters: self.parameters.clone(),
            format: self.format.clone(),
            think: self.think.clone(),
            truncate: self.truncate,
            ..Job::new(input)
        };
        let mut said = ChatMessage::new("assistant", "");
        let mut write = screen::write_styled;
        let mut view = View::new(self.look, &mut write, &screen::width);
        let answered = self.answers.answer(&job, &self.cancelled, &mut |piece| {
            match &piece {
                Piece::Text(text) => said.content.push_str(text),
                Piece::Thinking(text) => said.thinking.push_str(text),
                Piece::ToolCall { .. } => {}
            }
            view.piece(&piece)
        });
        // A line that was begun is ended, whatever came of it.
        if answered.is_ok() || !said.content.is_empty() || !said.thinking.is_empty() {
            view.end()?;
        }
        let answered = answered?;
        if self.verbose {
            eprint!("{}", answered.figures.lines());
        }
        Ok((said, answered))
    }

    fn command(&mut self, text: &str) -> Result<Next> {
        let Some((command, rest)) = commands::find(text) else {
            let first = text.split_whitespace().next().unwrap_or_default();
            match first {
                "/set" | "/show" => screen::write(&commands::help(first))?,
                _ => screen::write(&format!("Unknown command '{first}'. Type /? for help\n"))?,
            }
            return Ok(Next::Go);
        };
        match command.words {
            ["/set", what] => self.set(what, rest)?,
            ["/show", what] => self.show(what)?,
            ["/load"] => self.load(rest.trim())?,
            ["/save"] => self.save(rest.trim())?,
            ["/list"] => screen::write(&listing::columns(&self.answers.models()?, SystemTime::now()))?,
            ["/clear"] => {
                self.messages.clear();
                screen::write("Cleared session context\n")?;
            }
            ["/bye" | "/exit"] => return Ok(Next::Leave),
            _ => screen::write(&commands::help(rest))?,
        }
        Ok(Next::Go)
    }

    fn load(&mut self, name: &str) -> Result<()> {
        if name.is_empty() {
            return Err(Diagnostic::error("a model is needed: /load MODEL").into());
        }
        screen::write(&format!("Loading model '{name}'\n"))?;
        self.answers.open(name)?;
        // Another model begins as it is.
        self.messages.clear();
        self.parameters.clear();
        (self.system, self.think) = (None, None);
        Ok(())
    }

    fn save(&mut self, name: &str) -> Result<()> {
        if name.is_empty() {
            return Err(Diagnostic::error("a name is needed: /save MODEL").into());
        }
        let role = |name: &str| Role::from_name(name).unwrap_or(Role::User);
        let mut messages: Vec<Message> = Vec::new();
        if !self.messages.is_empty() {
            // Those of the model come first, as in the conversation.
            let before = self.answers.description()?.messages;
            messages.extend(before.into_iter().map(|(r, content)| Message { role: role(&r), content }));
        }
        let said = self.messages.iter().map(|m| Message { role: role(&m.role), content: m.content.clone() });
        messages.extend(said);
        let over = Prompt {
            system: self.system.clone(),
            parameters: self.parameters.clone(),
            messages,
            ..Prompt::default()
        };
        self.answers.save(name, over)?;
        screen::write(&format!("Created new model '{name}'\n"))
    }
}

/// Reads lines until they are a whole message.
fn read_message(lines: &mut Lines, initial: &str) -> Result<Typed> {
    let mut text = match lines.read(">>> ", initial, true)? {
        Typed::Line(line) => line,
        other => return Ok(other),
    };
    while message::is_open(&text) {
        match lines.read("... ", "", false)? {
            Typed::Line(line) => text = format!("{text}\n{line}"),
            // The block is dropped, and that is no wish to leave.
            Typed::Interrupt { .. } | Typed::End => return Ok(Typed::Interrupt { empty: false }),
            Typed::Edit(line) => return Ok(Typed::Edit(format!("{text}\n{line}"))),
        }
    }
    Ok(Typed::Line(text))
}

/// The error of a model that makes embeddings, where it is to converse.
pub fn needs_a_text(model: &str) -> Errors {
    Diagnostic::error("the model makes embeddings: it needs a text")
        .help(format!("mdl run {model} \"a text\""))
        .into()
}
