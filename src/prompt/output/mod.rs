//! Reads what a model writes: thinking, tool calls and text, out of a stream of pieces.

use serde_json::Value as Json;

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
    /// Thinking is told apart. Where false, its text stays part of the text.
    pub thinking: bool,
    /// The prompt ends inside of thinking: the model goes on with it.
    pub begins_in_thinking: bool,
}

/// Takes text as it comes and gives parts as soon as they are certain. No part of a tag is ever given as text.
pub struct OutputReader {}

impl OutputReader {
    /// At the beginning of an answer.
    pub fn new(_syntax: &OutputSyntax, _options: ReaderOptions) -> OutputReader {
        OutputReader {}
    }

    /// Takes more text.
    pub fn push(&mut self, text: &str) -> Vec<Piece> {
        vec![Piece::Text(text.to_owned())]
    }

    /// The answer is over: gives what was held back.
    pub fn finish(&mut self) -> Vec<Piece> {
        Vec::new()
    }
}

/// Stub.
pub fn begins_in_thinking(_prompt: &str, _syntax: &ThinkingSyntax) -> bool {
    false
}
/// Stub.
pub fn strip_thinking(_messages: &mut [crate::prompt::ChatMessage], _syntax: &ThinkingSyntax) {}
impl ToolSyntax {
    /// Stub.
    pub fn bare() -> ToolSyntax {
        unreachable!()
    }
}
impl crate::prompt::Template {
    /// Stub.
    pub fn output_syntax(&self) -> &OutputSyntax {
        static S: OutputSyntax = OutputSyntax { thinking: None, tools: None };
        &S
    }
}
