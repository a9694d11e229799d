//! Source to [`Templates`]: the grammar splits the source and reads each action, [`Builder`]
//! matches blocks.

use std::sync::Arc;

use pest::Parser;
use pest::iterators::Pair;

use crate::diagnostic::{Diagnostic, Errors, Result, Source, Span};
use crate::prompt::limits::Limits;

use super::ast::Templates;
use super::blocks::Builder;

/// The parser that grammar/gotemplate.pest describes.
#[allow(missing_docs)]
mod grammar {
    #[derive(pest_derive::Parser)]
    #[grammar = "../grammar/gotemplate.pest"]
    pub struct Grammar;
}

pub use grammar::{Grammar, Rule};

/// Reads every template of a source.
///
/// # Errors
/// See [`super::Template::parse`].
pub fn parse(source: &Arc<Source>, limits: &Limits) -> Result<Templates> {
    let text = source.text.as_str();
    if text.len() > limits.source_bytes || u32::try_from(text.len()).is_err() {
        return Err(budget(format!(
            "the template has {} bytes; its source may have {}",
            text.len(),
            limits.source_bytes
        ))
        .into());
    }
    let actions = text.matches("{{").count();
    if actions > limits.nodes {
        return Err(too_many_nodes(limits).into());
    }
    let outer = Grammar::parse(Rule::template, text).map_err(|e| unclosed(source, &e))?;
    let mut builder = Builder::new(source, limits);
    let mut trim_next = false;
    let mut pairs = outer.into_iter().flat_map(Pair::into_inner).peekable();
    while let Some(pair) = pairs.next() {
        match pair.as_rule() {
            Rule::text => {
                let trim_end = pairs.peek().is_some_and(|next| has(next, Rule::trim_left));
                builder.text(pair.as_str(), trim_next, trim_end);
                trim_next = false;
            }
            Rule::comment => trim_next = has(&pair, Rule::trim_right),
            Rule::action => {
                trim_next = has(&pair, Rule::trim_right);
                if let Some(inside) = pair.into_inner().find(|p| p.as_rule() == Rule::inside) {
                    builder.action(inside.as_str(), inside.as_span().start())?;
                }
            }
            _ => {}
        }
    }
    builder.finish()
}

/// An error for a budget that a template exceeds.
pub fn budget(message: impl Into<String>) -> Diagnostic {
    Diagnostic::error(message).code("template-budget")
}

/// The error for a template of too many parts.
pub fn too_many_nodes(limits: &Limits) -> Diagnostic {
    budget(format!("the template has too many actions and operands; it may have {}", limits.nodes))
}

fn has(pair: &Pair<'_, Rule>, rule: Rule) -> bool {
    pair.clone().into_inner().any(|p| p.as_rule() == rule)
}

/// The outer grammar refuses only what is opened and not closed.
fn unclosed(source: &Arc<Source>, error: &pest::error::Error<Rule>) -> Errors {
    let text = &source.text;
    let at = match error.location {
        pest::error::InputLocation::Pos(at) | pest::error::InputLocation::Span((at, _)) => at.min(text.len()),
    };
    // The failure is reported inside the action or at it; its start is the last opening before.
    let start = if text[at..].starts_with("{{") { at } else { text[..at].rfind("{{").unwrap_or(at) };
    let inside = text[start..].trim_start_matches("{{").trim_start_matches('-').trim_start();
    let (message, help) = if inside.starts_with("/*") {
        ("this comment is not closed", "a comment ends with `*/}}`, nothing between the two")
    } else {
        ("this action is not closed", "an action ends with `}}`; strings in it must be closed too")
    };
    let end = (start + 2).min(text.len());
    Diagnostic::error(message)
        .code("template-syntax")
        .at(&Span { source: source.clone(), range: start..end })
        .help(help)
        .into()
}
