//! What a Modelfile means, with typed values and the places they come from.

use std::fmt;

use super::place::Places;
use crate::diagnostic::Span;
use crate::ir::{ParameterValue, Prompt};

/// A value, and where it was written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Spanned<T> {
    /// The value.
    pub value: T,
    /// Where.
    pub span: Span,
}

/// An ADAPTER line, as `adapter_line.rs` reads it.
#[derive(Clone, Debug, PartialEq)]
pub struct AdapterLine {
    /// The path, as written.
    pub path: Spanned<String>,
    /// The factor of what the adapter adds, other than 0; 1 where there is none.
    pub scale: Option<Spanned<f32>>,
}

impl AdapterLine {
    /// True when two lines say the same, wherever they say it.
    pub fn means_the_same(&self, other: &AdapterLine) -> bool {
        let scale = |line: &AdapterLine| line.scale.as_ref().map(|s| s.value);
        self.path.value == other.path.value && scale(self) == scale(other)
    }
}

/// What a Modelfile means. Paths and names are as written; nothing has been looked up yet.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Recipe {
    /// FROM, in order: names of models or paths of their files.
    pub from: Vec<Spanned<String>>,
    /// ADAPTER, in order. (In Ollama a later ADAPTER replaces an earlier one.)
    pub adapters: Vec<AdapterLine>,
    /// DRAFT: the path of a draft model for speculative decoding.
    pub draft: Option<Spanned<String>>,
    /// Everything else.
    pub prompt: Prompt,
    /// Where the parts of `prompt` were written that later passes may object to.
    pub spans: PromptSpans,
}

/// The places of the values in a [`Recipe`]'s prompt; `None` where it has no such value.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PromptSpans {
    /// TEMPLATE's text, without its quotes.
    pub template: Option<Span>,
    /// RENDERER's value.
    pub renderer: Option<Span>,
    /// PARSER's value.
    pub parser: Option<Span>,
    /// REQUIRES' value.
    pub requires: Option<Span>,
    /// The PARAMETER value that counts, or the first of several; in the order of
    /// `Prompt::parameters`.
    pub parameters: Vec<Span>,
}

impl Recipe {
    /// True when two recipes say the same, wherever they say it.
    pub fn means_the_same(&self, other: &Recipe) -> bool {
        let same = |a: &[Spanned<String>], b: &[Spanned<String>]| {
            a.iter().map(|s| &s.value).eq(b.iter().map(|s| &s.value))
        };
        same(&self.from, &other.from)
            && self.adapters.len() == other.adapters.len()
            && self.adapters.iter().zip(&other.adapters).all(|(a, b)| a.means_the_same(b))
            && self.draft.as_ref().map(|s| &s.value) == other.draft.as_ref().map(|s| &s.value)
            && self.prompt == other.prompt
    }
}

/// One line per value, strings in quotes with Rust's escapes.
impl fmt::Display for Recipe {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let from = self.from.iter().map(|s| ("from", s, None));
        let adapters =
            self.adapters.iter().map(|line| ("adapter", &line.path, line.scale.as_ref().map(|s| s.value)));
        let draft = self.draft.iter().map(|s| ("draft", s, None));
        let mut places: Option<Places<'_>> = None;
        for (what, s, scale) in from.chain(adapters).chain(draft) {
            let places = places.get_or_insert_with(|| Places::new(&s.span.source.text));
            let (line, column) = places.line_column(s.span.range.start);
            let scale = scale.map(|scale| format!(" x{scale}")).unwrap_or_default();
            writeln!(f, "{what} {:?}{scale} at {line}:{column}", s.value)?;
        }
        let prompt = &self.prompt;
        for (what, value) in [
            ("template", &prompt.template),
            ("system", &prompt.system),
            ("renderer", &prompt.renderer),
            ("parser", &prompt.parser),
            ("requires", &prompt.requires),
        ] {
            if let Some(value) = value {
                writeln!(f, "{what} {value:?}")?;
            }
        }
        for (name, value) in &prompt.parameters {
            match value {
                ParameterValue::Int(v) => writeln!(f, "parameter {name}: int = {v}")?,
                ParameterValue::Float(v) => writeln!(f, "parameter {name}: float = {v}")?,
                ParameterValue::Bool(v) => writeln!(f, "parameter {name}: bool = {v}")?,
                ParameterValue::String(v) => writeln!(f, "parameter {name}: string = {v:?}")?,
                ParameterValue::Strings(v) => writeln!(f, "parameter {name}: strings = {v:?}")?,
            }
        }
        for message in &prompt.messages {
            writeln!(f, "message {} {:?}", message.role.name(), message.content)?;
        }
        for license in &prompt.licenses {
            writeln!(f, "license {license:?}")?;
        }
        Ok(())
    }
}
