//! Constrained decoding: tokens that would break a grammar are ruled out before one is chosen.
//!
//! llguidance follows the grammar; here a [`Tokenizer`] becomes its vocabulary (`vocabulary`), what a client
//! sends becomes its grammars (`schema`, `tools`), and what a client may cost is bounded ([`Limits`]).

mod constraint;
mod schema;
#[cfg(test)]
mod tests;
mod tools;
mod vocabulary;

pub use constraint::Constraint;

use std::collections::VecDeque;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError, mpsc};
use std::time::Duration;

use llguidance::api::TopLevelGrammar;
use llguidance::{Matcher, ParserFactory};
use serde_json::Value as Json;

use crate::diagnostic::{Diagnostic, Errors, Result};
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

/// Thinking that may come before what a grammar constrains.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct After<'a> {
    /// What it begins with. A model that would rather begin with something else does not think.
    pub open: &'a str,
    /// What it ends with.
    pub close: &'a str,
    /// The prompt has begun it.
    pub begun: bool,
}

/// What a grammar may cost.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Bytes of a schema, written out.
    pub bytes: usize,
    /// Nesting of a schema.
    pub depth: usize,
    /// Time to compile it.
    pub time: Duration,
    /// Grammars that are compiled at the same time.
    pub compiling: usize,
    /// Compiled grammars that are kept.
    pub kept: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Limits { bytes: 1 << 20, depth: 64, time: Duration::from_secs(1), compiling: 4, kept: 32 }
    }
}

/// The compiled grammars of one vocabulary.
pub struct Grammars {
    factory: Arc<ParserFactory>,
    limits: Limits,
    /// The latest first.
    kept: Mutex<VecDeque<(String, Matcher)>>,
    compiling: Arc<AtomicUsize>,
}

/// Memory of the threads that compile: grammars nest.
const STACK: usize = 64 << 20;

impl Grammars {
    /// Reads a vocabulary. It takes a while (0.4 s for 128k tokens): once per model, when first needed.
    ///
    /// # Errors
    /// The vocabulary is not fit for it.
    pub fn new(tokenizer: &Tokenizer) -> Result<Grammars> {
        Grammars::with_limits(tokenizer, Limits::default())
    }

    /// The same, with limits of one's own.
    ///
    /// # Errors
    /// As [`Grammars::new`].
    pub fn with_limits(tokenizer: &Tokenizer, limits: Limits) -> Result<Grammars> {
        let factory = vocabulary::factory(tokenizer)?;
        Ok(Grammars { factory: Arc::new(factory), limits, kept: Mutex::default(), compiling: Arc::default() })
    }

    /// A fresh constraint. Where the model may think first, the grammar begins with the token after the one
    /// that ends its thinking.
    ///
    /// # Errors
    /// The schema is malformed, too large, or has a keyword that is not supported: the error names it.
    pub fn constraint(&self, grammar: &Grammar, after: Option<After<'_>>) -> Result<Constraint> {
        let key = format!("{grammar:?}");
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(at) = kept.iter().position(|(k, _)| *k == key)
            && let Some(found) = kept.remove(at)
        {
            let fresh = found.1.deep_clone();
            kept.push_front(found);
            return Ok(Constraint::new(fresh, after));
        }
        // Compiling takes time that others need not wait for.
        drop(kept);
        let matcher = self.compile(grammar)?;
        let fresh = matcher.deep_clone();
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        kept.push_front((key, matcher));
        kept.truncate(self.limits.kept);
        Ok(Constraint::new(fresh, after))
    }

    fn compile(&self, grammar: &Grammar) -> Result<Matcher> {
        let grammar = match grammar {
            Grammar::Json => TopLevelGrammar::from_json_schema(schema::any_object()),
            Grammar::Schema(schema) => {
                TopLevelGrammar::from_json_schema(schema::prepare(schema, &self.limits)?)
            }
            Grammar::Tools { syntax, tools, parallel } => TopLevelGrammar::from_lark(tools::lark(
                syntax,
                tools,
                *parallel,
                self.factory.tok_env().tok_trie(),
                &self.limits,
            )?),
        };
        if self.compiling.fetch_add(1, Ordering::AcqRel) >= self.limits.compiling {
            self.compiling.fetch_sub(1, Ordering::AcqRel);
            let message = "too many grammars are being compiled; try again";
            return Err(Diagnostic::error(message).code("grammar-busy").into());
        }
        let (sender, receiver) = mpsc::channel();
        let (factory, compiling) = (self.factory.clone(), self.compiling.clone());
        // The library cannot be interrupted: whoever waits gives up, and the thread ends when it does.
        let thread =
            std::thread::Builder::new().name("mdl-grammar".to_owned()).stack_size(STACK).spawn(move || {
                let compiled = catch_unwind(AssertUnwindSafe(|| {
                    let parser = factory.create_parser(grammar).map_err(|e| format!("{e:#}"))?;
                    Ok(Matcher::new(Ok(parser)))
                }));
                compiling.fetch_sub(1, Ordering::AcqRel);
                let _ = sender
                    .send(compiled.unwrap_or_else(|_| Err("the grammar cannot be compiled".to_owned())));
            });
        if thread.is_err() {
            self.compiling.fetch_sub(1, Ordering::AcqRel);
            return Err(Diagnostic::environment("cannot start a thread to compile a grammar").into());
        }
        match receiver.recv_timeout(self.limits.time) {
            Ok(Ok(matcher)) => Ok(matcher),
            Ok(Err(why)) => Err(refused(&why)),
            Err(_) => {
                let message = format!("the schema takes longer than {:?} to compile", self.limits.time);
                Err(Diagnostic::error(message).code("unsupported-schema").into())
            }
        }
    }
}

/// What the library says, in one short line.
fn refused(why: &str) -> Errors {
    let line = why.lines().next().unwrap_or("").trim();
    let short: String = line.chars().take(300).collect();
    Diagnostic::error(format!("the schema is not supported: {short}")).code("unsupported-schema").into()
}
