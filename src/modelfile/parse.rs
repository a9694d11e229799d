//! Text to syntax tree, by the grammar in `grammar/modelfile.pest`.
//!
//! Parsing never stops at a mistake: what cannot be parsed becomes an [`ItemKind::Error`] and a
//! diagnostic, and parsing goes on at the next line. After a quote that never closes it goes on at
//! the next line that starts with a keyword in capitals.
//!
//! Everything Ollama parses is parsed, and to the same meaning, with these exceptions. Several
//! blanks may stand between PARAMETER and its name, or MESSAGE and its role. Invisible characters
//! inside a value are kept (Ollama drops them, and so breaks an emoji that is joined by U+200D);
//! only at its ends are they trimmed. FROM, ADAPTER, DRAFT, REQUIRES and PARAMETER need a value
//! (Ollama takes `FROM` with nothing but a blank after it for the Modelfile's directory).

use std::ops::Range;
use std::sync::Arc;

use pest::Parser;
use pest::iterators::Pair;

use super::ast::{Ast, Instruction, Item, ItemKind, Keyword, Quoting, Value};
use super::reports::Reports;
use super::{mistakes, parameter_mistakes, parameters};
use crate::diagnostic::{Diagnostic, Source};
use crate::ir::Role;

#[derive(pest_derive::Parser)]
#[grammar = "../grammar/modelfile.pest"]
struct Grammar;

/// Unclosed quotes after which the rest is parsed line by line. Each costs one pass over the text
/// behind it; the bound keeps the whole linear.
const MAX_PASSES: usize = 8;

/// Parses a text. The tree holds every line of it, whether or not errors are reported.
pub(super) fn parse_source(source: Arc<Source>, reports: &mut Reports) -> Ast {
    let mut parser = ModelfileParser {
        ast: Ast { source: source.clone(), items: Vec::new() },
        reports,
        unclosed: 0,
        offset: 0,
    };
    let mut next = Some(0);
    while let Some(offset) = next {
        let rest = source.text.get(offset..).unwrap_or("");
        let (chunk, after) = if parser.unclosed < MAX_PASSES {
            (rest, None)
        } else {
            let (line, length) = first_line(rest);
            (line, (length > line.len()).then_some(offset + length))
        };
        parser.offset = offset;
        next = parser.chunk(chunk).unwrap_or(after);
    }
    parser.ast
}

/// The first line of `text` without its end, and its length with it.
fn first_line(text: &str) -> (&str, usize) {
    match text.find(['\r', '\n']) {
        Some(at) => {
            let end = if text.as_bytes().get(at..at + 2) == Some(b"\r\n") { at + 2 } else { at + 1 };
            (text.get(..at).unwrap_or(text), end)
        }
        None => (text, text.len()),
    }
}

/// True for the characters that are trimmed at the ends of an unquoted value; the grammar's `edge`
/// (a value has no line end).
pub(super) fn is_edge(c: char) -> bool {
    c.is_whitespace() || c == '\u{200B}' || c == '\u{FEFF}'
}

struct ModelfileParser<'a> {
    ast: Ast,
    reports: &'a mut Reports,
    unclosed: usize,
    /// Where the text that the grammar sees begins.
    offset: usize,
}

impl ModelfileParser<'_> {
    /// Parses one stretch of text. `Some` when a quote in it never closes: where to go on, if
    /// anywhere.
    fn chunk(&mut self, text: &str) -> Option<Option<usize>> {
        let lines = match Grammar::parse(Rule::file, text) {
            Ok(mut pairs) => pairs.next()?.into_inner(),
            Err(error) => {
                // Out of reach as long as the grammar is total.
                let span = self.ast.span(&(self.offset..self.offset));
                self.reports.error(|| Diagnostic::error(format!("cannot parse: {error}")).at(&span));
                return None;
            }
        };
        for line in lines.filter(|pair| pair.as_rule() == Rule::line) {
            let range = self.range(&line);
            let Some(pair) = line.into_inner().next() else {
                // What follows the last line end is no line.
                if range.end < self.ast.source.text.len() {
                    self.push(ItemKind::Blank, range.start..range.start);
                }
                continue;
            };
            let start = self.range(&pair).start;
            if let Some(open) = self.line(pair) {
                self.unclosed += 1;
                return Some(self.recover(start, open));
            }
        }
        None
    }

    fn range(&self, pair: &Pair<'_, Rule>) -> Range<usize> {
        let span = pair.as_span();
        self.offset + span.start()..self.offset + span.end()
    }

    fn push(&mut self, kind: ItemKind, range: Range<usize>) {
        self.ast.items.push(Item { kind, range });
    }

    /// Takes one line with something on it, or all the lines of its value. Returns the place of a
    /// quote that never closes.
    fn line(&mut self, pair: Pair<'_, Rule>) -> Option<usize> {
        let range = self.range(&pair);
        let rule = pair.as_rule();
        let mut parts = pair.into_inner();
        match rule {
            Rule::comment => self.push(ItemKind::Comment, range),
            Rule::unknown => {
                let word = parts.next().map_or(range.clone(), |word| self.range(&word));
                let rest = parts.next();
                let unclosed = rest.as_ref().is_some_and(is_unclosed);
                let (ast, reports) = (&self.ast, &mut *self.reports);
                reports.error(|| mistakes::unknown_instruction(ast, &word));
                match rest {
                    Some(rest) if unclosed => return Some(self.range(&rest).start),
                    _ => self.push(ItemKind::Error, range),
                }
            }
            Rule::stray => {
                let triple = parts.next()?;
                let open = range.start;
                let (ast, reports) = (&self.ast, &mut *self.reports);
                if !mistakes::value_is_on_the_next_line(ast) {
                    reports.error(|| mistakes::stray_text(ast, open));
                }
                if is_unclosed(&triple) {
                    return Some(open);
                }
                self.push(ItemKind::Error, range);
            }
            _ => {
                let keyword_pair = parts.next()?;
                let keyword = Keyword::from_name(keyword_pair.as_str())?;
                let keyword_range = self.range(&keyword_pair);
                let with_word = matches!(keyword, Keyword::Parameter | Keyword::Message);
                let word = if with_word { parts.next().map(|word| self.range(&word)) } else { None };
                let value = match parts.next() {
                    Some(pair) => match self.value(pair) {
                        Ok(value) => Some(value),
                        Err(open) => {
                            let (ast, reports) = (&self.ast, &mut *self.reports);
                            reports.error(|| mistakes::unclosed_quote(ast, keyword, open));
                            return Some(open);
                        }
                    },
                    None => None,
                };
                let kind = match self.check(keyword, &keyword_range, word.as_ref(), value) {
                    Some(value) => ItemKind::Instruction(Instruction { keyword, keyword_range, word, value }),
                    None => ItemKind::Error,
                };
                self.push(kind, range);
            }
        }
        None
    }

    /// The value of an instruction, or the place of its quote that never closes.
    fn value(&self, pair: Pair<'_, Rule>) -> Result<Value, usize> {
        let whole = self.range(&pair);
        let Some(form) = pair.into_inner().next() else {
            return Ok(Value { quoting: Quoting::Bare, range: whole.clone(), text: whole });
        };
        let range = self.range(&form);
        let quoting = match form.as_rule() {
            Rule::triple => Quoting::Triple,
            Rule::single => Quoting::Single,
            _ => {
                let text = self.ast.text(&range);
                let start = range.start + (text.len() - text.trim_start_matches(is_edge).len());
                let trimmed = start..start + text.trim_matches(is_edge).len();
                return Ok(Value { quoting: Quoting::Bare, range: trimmed.clone(), text: trimmed });
            }
        };
        let mut parts = form.into_inner();
        match (parts.next(), parts.next()) {
            (Some(text), Some(_close)) => Ok(Value { quoting, range, text: self.range(&text) }),
            _ => Err(range.start),
        }
    }

    /// Reports what a single instruction can have wrong; the value if it has one and all is well.
    fn check(
        &mut self,
        keyword: Keyword,
        keyword_range: &Range<usize>,
        word: Option<&Range<usize>>,
        value: Option<Value>,
    ) -> Option<Value> {
        let (ast, reports) = (&self.ast, &mut *self.reports);
        if keyword == Keyword::Message
            && let Some(word) = word
            && !matches!(Role::from_name(ast.text(word)), Some(Role::System | Role::User | Role::Assistant))
        {
            reports.error(|| mistakes::unknown_role(ast, word));
            return None;
        }
        let needs_text = !matches!(
            keyword,
            Keyword::Template
                | Keyword::System
                | Keyword::License
                | Keyword::Message
                | Keyword::Renderer
                | Keyword::Parser
        );
        match value {
            // `PARAMETER stop ""` says what it means; a bare nothing does not.
            Some(value)
                if !(needs_text
                    && value.text.is_empty()
                    && (value.quoting == Quoting::Bare || keyword != Keyword::Parameter)) =>
            {
                Some(value)
            }
            _ => {
                reports.error(|| match word {
                    Some(word) if keyword == Keyword::Parameter && !is_parameter(ast.text(word)) => {
                        parameter_mistakes::unknown(ast, word)
                    }
                    _ => mistakes::missing_value(ast, keyword, keyword_range, word),
                });
                None
            }
        }
    }

    /// Skips from an unclosed quote, in the instruction that begins at `start`, to the next line
    /// that is surely an instruction.
    fn recover(&mut self, start: usize, open: usize) -> Option<usize> {
        let source = self.ast.source.clone();
        let rest = source.text.get(open..).unwrap_or("");
        let length = mistakes::unclosed_length(rest);
        let skipped = rest.get(..length).unwrap_or(rest).trim_end_matches(['\r', '\n']);
        self.push(ItemKind::Error, start..open + skipped.len());
        // One more for the line end before the instruction.
        (length < rest.len()).then_some(open + length + 1)
    }
}

fn is_parameter(name: &str) -> bool {
    parameters::find(name).is_some()
}

/// True for a quoted form that ran to the end of the file.
fn is_unclosed(form: &Pair<'_, Rule>) -> bool {
    form.as_rule() == Rule::triple && form.clone().into_inner().count() < 2
}
