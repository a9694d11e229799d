//! The syntax tree: a Modelfile as written, line by line.

use std::fmt;
use std::ops::Range;
use std::sync::Arc;

use super::place::Places;
use super::suggest::excerpt;
use crate::diagnostic::{Source, Span};

/// An instruction's keyword. Case does not matter in the text.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[allow(missing_docs)]
pub enum Keyword {
    From,
    Parameter,
    Template,
    System,
    Adapter,
    License,
    Message,
    Renderer,
    Parser,
    Requires,
    Draft,
}

impl Keyword {
    /// Every keyword, with its canonical spelling.
    pub const ALL: [(Keyword, &'static str); 11] = [
        (Keyword::From, "FROM"),
        (Keyword::Parameter, "PARAMETER"),
        (Keyword::Template, "TEMPLATE"),
        (Keyword::System, "SYSTEM"),
        (Keyword::Adapter, "ADAPTER"),
        (Keyword::License, "LICENSE"),
        (Keyword::Message, "MESSAGE"),
        (Keyword::Renderer, "RENDERER"),
        (Keyword::Parser, "PARSER"),
        (Keyword::Requires, "REQUIRES"),
        (Keyword::Draft, "DRAFT"),
    ];

    /// The canonical, upper-case spelling.
    pub fn name(self) -> &'static str {
        Self::ALL.iter().find(|(k, _)| *k == self).map_or("", |(_, name)| name)
    }

    /// What the instruction does, in a sentence or two.
    pub fn doc(self) -> &'static str {
        match self {
            Keyword::From => {
                "What the model is made from: the name of a model in the store, a GGUF file, or a directory with a checkpoint."
            }
            Keyword::Parameter => {
                "Sets a parameter of the runtime: `PARAMETER temperature 0.7`. `stop` may be set several times."
            }
            Keyword::Template => {
                "A Go template of the whole prompt. Without it, the chat template of the model counts."
            }
            Keyword::System => "The system message, where a request has none.",
            Keyword::Adapter => {
                "A LoRA adapter: a directory or a file, PEFT, MLX or GGUF, and if you like a scale. It is fused into the weights before they are rounded."
            }
            Keyword::License => "The text of a license; may be given several times.",
            Keyword::Message => {
                "A message that every conversation begins with: `MESSAGE user Hello`. Roles are system, user and assistant."
            }
            Keyword::Renderer => "The name of a renderer of prompts that is built in; kept for Ollama.",
            Keyword::Parser => "The name of a parser of answers that is built in; kept for Ollama.",
            Keyword::Requires => "The least version of Ollama that the model needs, such as `0.14.0`.",
            Keyword::Draft => "A smaller model for speculative decoding; not supported yet.",
        }
    }

    /// The keyword with this name, in any case.
    pub fn from_name(name: &str) -> Option<Keyword> {
        Self::ALL.iter().find(|(_, n)| n.eq_ignore_ascii_case(name)).map(|(k, _)| *k)
    }
}

impl fmt::Display for Keyword {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// How a value was written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Quoting {
    /// Without quotes: one line, trimmed at both ends.
    Bare,
    /// In `"`.
    Single,
    /// In `"""`.
    Triple,
}

/// A value. Ranges are of bytes in the source's text.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Value {
    /// How it was written.
    pub quoting: Quoting,
    /// The value with its quotes.
    pub range: Range<usize>,
    /// What it says: the text between the quotes.
    pub text: Range<usize>,
}

/// One instruction.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Instruction {
    /// What it sets.
    pub keyword: Keyword,
    /// The keyword as written.
    pub keyword_range: Range<usize>,
    /// PARAMETER's name or MESSAGE's role; `None` for every other keyword.
    pub word: Option<Range<usize>>,
    /// The value; it may be empty.
    pub value: Value,
}

/// What a line, or the lines of one instruction, are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ItemKind {
    /// A well-formed instruction.
    Instruction(Box<Instruction>),
    /// A comment, from `#` to the end of its line.
    Comment,
    /// One or more lines with nothing on them.
    Blank,
    /// Lines that a diagnostic was reported for.
    Error,
}

/// One item of a Modelfile.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Item {
    /// What it is.
    pub kind: ItemKind,
    /// Where: bytes in the source's text, without indentation and line end.
    pub range: Range<usize>,
}

/// A parsed Modelfile: all that is in it, comments and blank lines too.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ast {
    /// The text.
    pub source: Arc<Source>,
    /// Its items, in order.
    pub items: Vec<Item>,
}

impl Ast {
    /// The text of a range of this tree.
    pub fn text(&self, range: &Range<usize>) -> &str {
        self.source.text.get(range.clone()).unwrap_or("")
    }

    /// The span of a range of this tree.
    pub fn span(&self, range: &Range<usize>) -> Span {
        Span { source: self.source.clone(), range: range.clone() }
    }

    /// The instructions, in order.
    pub fn instructions(&self) -> impl Iterator<Item = &Instruction> {
        self.items.iter().filter_map(|item| match &item.kind {
            ItemKind::Instruction(instruction) => Some(instruction.as_ref()),
            _ => None,
        })
    }

    /// True when some lines could not be parsed.
    pub fn has_errors(&self) -> bool {
        self.items.iter().any(|item| item.kind == ItemKind::Error)
    }
}

/// One line per item: line and column, what it is, its value in quotes with Rust's escapes.
impl fmt::Display for Ast {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut places = Places::new(&self.source.text);
        for item in &self.items {
            let (line, column) = places.line_column(item.range.start);
            write!(f, "{:<8}", format!("{line}:{column}"))?;
            match &item.kind {
                ItemKind::Instruction(i) => {
                    write!(f, "{} ", i.keyword)?;
                    if let Some(word) = &i.word {
                        write!(f, "{} ", excerpt(self.text(word)))?;
                    }
                    let quoting = match i.value.quoting {
                        Quoting::Bare => "",
                        Quoting::Single => " (in \")",
                        Quoting::Triple => " (in \"\"\")",
                    };
                    writeln!(f, "{:?}{quoting}", self.text(&i.value.text))?;
                }
                ItemKind::Comment => writeln!(f, "comment {:?}", self.text(&item.range))?,
                ItemKind::Blank => f.write_str("blank\n")?,
                ItemKind::Error => writeln!(f, "error {:?}", self.text(&item.range))?,
            }
        }
        Ok(())
    }
}
