//! Reads what a model writes: thinking, tool calls and text, out of a stream of pieces.

mod families;
mod infer;
mod json_scan;
mod reader;
mod tagged;

pub use infer::{go_syntax, jinja_syntax};
pub use reader::OutputReader;
pub use tagged::TaggedCall;

use std::collections::BTreeMap;

use serde_json::Value as Json;

use super::ChatMessage;

/// How a model writes what is not plain text; inferred from its template.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct OutputSyntax {
    /// The texts around thinking.
    pub thinking: Option<ThinkingSyntax>,
    /// How it calls tools.
    pub tools: Option<ToolSyntax>,
}

/// The texts around thinking: `<think>` and `</think>`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ThinkingSyntax {
    /// Before it.
    pub open: String,
    /// After it.
    pub close: String,
}

/// How a call of a tool is written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ToolSyntax {
    /// The text before the first call, such as `[TOOL_CALLS]`; may be empty.
    pub begin: String,
    /// The text before each call, such as `<tool_call>`; may be empty.
    pub open: String,
    /// How the call itself is written.
    pub call: CallSyntax,
    /// The text after each call, such as `</tool_call>`; may be empty.
    pub close: String,
    /// The text between calls; may be empty.
    pub separator: String,
    /// The text after the last call; may be empty.
    pub end: String,
}

/// How a call itself is written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CallSyntax {
    /// `{"name": ..., "arguments": {...}}` with these keys. Where `list`, all calls are one JSON array.
    Object {
        /// The key of the function's name.
        name: String,
        /// The key of its arguments.
        arguments: String,
        /// All calls are one array.
        list: bool,
    },
    /// The function's name, a text, and the arguments as an object.
    Named {
        /// Between name and arguments, such as `<｜tool▁sep｜>` or a newline and a code fence.
        between: String,
        /// Before the name, after `open`: such as `function<｜tool▁sep｜>`; may be empty.
        before: String,
        /// After the arguments, such as the end of the code fence; may be empty.
        after: String,
    },
    /// The function's name, and each argument between tags of its own.
    Tagged(Box<TaggedCall>),
}

/// A part of an answer.
#[derive(Clone, Debug, PartialEq)]
pub enum Piece {
    /// Text for the reader.
    Text(String),
    /// What the model thinks.
    Thinking(String),
    /// A whole call of a tool.
    ToolCall {
        /// The function.
        name: String,
        /// An object.
        arguments: Json,
    },
}

/// What a reader should look for.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct ReaderOptions {
    /// The names of the tools on offer; a call of another is text. Empty: no calls are read.
    pub tools: Vec<String>,
    /// The JSON schemas of their arguments by name: what tells a number from a text where calls are written
    /// between tags.
    pub parameters: BTreeMap<String, Json>,
    /// Thinking is told apart. Where false, its text stays part of the text.
    pub thinking: bool,
    /// The prompt ends inside of thinking: the model goes on with it.
    pub begins_in_thinking: bool,
}

impl ToolSyntax {
    /// A call as a bare object: what a model with a place for tools, but no way to call them, is asked for.
    pub fn bare() -> ToolSyntax {
        ToolSyntax::object("", "", "", "arguments")
    }

    /// `open {"name": ..., KEY: {...}} close`, one after the other.
    pub(super) fn object(begin: &str, open: &str, close: &str, arguments: &str) -> ToolSyntax {
        ToolSyntax {
            begin: begin.to_owned(),
            open: open.to_owned(),
            call: CallSyntax::Object {
                name: "name".to_owned(),
                arguments: arguments.to_owned(),
                list: false,
            },
            close: close.to_owned(),
            separator: if open.is_empty() { String::new() } else { "\n".to_owned() },
            end: String::new(),
        }
    }

    /// The texts that tell that a call follows; none where only its first brace does.
    pub fn tags(&self) -> impl Iterator<Item = &str> {
        [self.begin.trim(), self.open.trim()].into_iter().filter(|t| !t.is_empty())
    }
}

/// Adds pieces to those before them: text goes on with text, thinking with thinking, and what is empty is
/// left out.
pub fn append(all: &mut Vec<Piece>, pieces: Vec<Piece>) {
    for piece in pieces {
        match (all.last_mut(), piece) {
            (_, Piece::Text(text) | Piece::Thinking(text)) if text.is_empty() => {}
            (Some(Piece::Text(before)), Piece::Text(text)) => before.push_str(&text),
            (Some(Piece::Thinking(before)), Piece::Thinking(text)) => before.push_str(&text),
            (_, piece) => all.push(piece),
        }
    }
}

/// True when a rendered prompt ends inside of thinking: the model goes on with it.
pub fn begins_in_thinking(prompt: &str, syntax: &ThinkingSyntax) -> bool {
    prompt.trim_end().ends_with(&syntax.open)
}

/// Takes the thinking out of what the assistant said before the last question: models are not shown it again.
pub fn strip_thinking(messages: &mut [ChatMessage], syntax: &ThinkingSyntax) {
    let Some(last) = messages.iter().rposition(|m| m.role == "user") else { return };
    for message in messages[..last].iter_mut().filter(|m| m.role == "assistant") {
        let rest = message.content.trim_start().strip_prefix(&syntax.open);
        if let Some((_, answer)) = rest.and_then(|r| r.split_once(&syntax.close)) {
            message.content = answer.trim_start().to_owned();
        }
        message.thinking.clear();
    }
}
