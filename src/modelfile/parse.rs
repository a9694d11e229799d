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

/// Bytes that the grammar is given at a time, to the next line end. The tokens of a parse take many
/// times the memory of its text.
const CHUNK: usize = 64 << 10;

/// Parses a text. The tree holds every line of it, whether or not errors are reported.
///
/// Time and memory are linear in the text. A value that is longer than a chunk is parsed again with
/// twice as much text each time, until it closes. One that never closes costs the whole rest of the
/// text, but only once: then it is known that no later quote of its kind closes either.
pub(super) fn parse_source(source: Arc<Source>, reports: &mut Reports) -> Ast {
    parse_in_chunks(source, CHUNK, reports)
}

fn parse_in_chunks(source: Arc<Source>, chunk: usize, reports: &mut Reports) -> Ast {
    let ast = Ast { source: source.clone(), items: Vec::new() };
    let mut parser = ModelfileParser { ast, reports, offset: 0, closing: Closing::Both };
    let mut size = chunk;
    loop {
        let rest = source.text.get(parser.offset..).unwrap_or("");
        let length = through_line_end(rest, size);
        let next = parser.chunk(rest.get(..length).unwrap_or(rest), length == rest.len());
        size = if parser.closing == Closing::Both { chunk } else { 1 };
        parser.offset = match next {
            Next::Chunk if length == rest.len() => break,
            Next::Chunk => parser.offset + length,
            Next::More(at) => {
                size = 2 * (parser.offset + length - at);
                at
            }
            Next::At(at) => at,
            Next::End => break,
        };
    }
    parser.ast
}

/// The length of `text` to the first line end, with it, at or after byte `from`.
fn through_line_end(text: &str, from: usize) -> usize {
    let from = text.floor_char_boundary(from.saturating_sub(1));
    match text.get(from..).and_then(|t| t.find(['\r', '\n'])).map(|at| from + at) {
        Some(at) if text.as_bytes().get(at..at + 2) == Some(b"\r\n") => at + 2,
        Some(at) => at + 1,
        None => text.len(),
    }
}

/// The quotes that may still close somewhere. What closes `"""` would close `"` as well.
#[derive(Clone, Copy, PartialEq)]
enum Closing {
    Both,
    Single,
    Neither,
}

/// Where parsing goes on.
enum Next {
    /// Behind the chunk.
    Chunk,
    /// At this place, with a longer chunk.
    More(usize),
    /// At this place.
    At(usize),
    /// Nowhere.
    End,
}

/// True for the characters that are trimmed at the ends of an unquoted value; the grammar's `edge`
/// (a value has no line end).
pub(super) fn is_edge(c: char) -> bool {
    c.is_whitespace() || c == '\u{200B}' || c == '\u{FEFF}'
}

struct ModelfileParser<'a> {
    ast: Ast,
    reports: &'a mut Reports,
    /// Where the chunk that the grammar sees begins.
    offset: usize,
    closing: Closing,
}

impl ModelfileParser<'_> {
    /// Parses one chunk: whole lines, the last of the text if `is_last`.
    fn chunk(&mut self, text: &str, is_last: bool) -> Next {
        let lines = match Grammar::parse(Rule::file, text) {
            Ok(pairs) => pairs.flat_map(Pair::into_inner),
            Err(error) => {
                // Out of reach as long as the grammar is total.
                let span = self.ast.span(&(self.offset..self.offset));
                self.reports.error(|| Diagnostic::error(format!("cannot parse: {error}")).at(&span));
                return Next::Chunk;
            }
        };
        for line in lines.filter(|pair| pair.as_rule() == Rule::line) {
            let start = line.as_span().start();
            let Some(pair) = line.into_inner().next() else {
                // What follows the last line end is no line.
                let after_blank = self.ast.items.last().is_some_and(|item| item.kind == ItemKind::Blank);
                if start < text.len() && !after_blank {
                    self.push(ItemKind::Blank, self.offset + start..self.offset + start);
                }
                continue;
            };
            let Some((open, quoting)) = self.open_quote(&pair) else {
                self.line(pair);
                continue;
            };
            let may_close = match quoting {
                Quoting::Triple => self.closing == Closing::Both,
                _ => self.closing != Closing::Neither,
            };
            if may_close && !is_last {
                return Next::More(self.range(&pair).start);
            }
            self.closing = match quoting {
                Quoting::Triple if self.closing == Closing::Both => Closing::Single,
                Quoting::Triple => self.closing,
                _ => Closing::Neither,
            };
            return self.unclosed(pair, open);
        }
        Next::Chunk
    }

    /// The place and kind of a quote in this line that does not close within the chunk.
    fn open_quote(&self, line: &Pair<'_, Rule>) -> Option<(usize, Quoting)> {
        line.clone().into_inner().flatten().find_map(|pair| {
            let quoting = match pair.as_rule() {
                Rule::triple => Quoting::Triple,
                Rule::single => Quoting::Single,
                _ => return None,
            };
            let start = self.range(&pair).start;
            (pair.into_inner().count() < 2).then_some((start, quoting))
        })
    }

    /// Reports a line with a quote that never closes, and skips to the next line that is surely an
    /// instruction.
    fn unclosed(&mut self, line: Pair<'_, Rule>, open: usize) -> Next {
        let (ast, reports) = (&self.ast, &mut *self.reports);
        let start = self.offset + line.as_span().start();
        let rule = line.as_rule();
        let word = line.into_inner().next();
        let word = word.map_or(start..open, |w| start..self.offset + w.as_span().end());
        match rule {
            Rule::unknown => reports.error(|| mistakes::unknown_instruction(ast, &word)),
            Rule::stray => {
                if !mistakes::value_is_on_the_next_line(ast) {
                    reports.error(|| mistakes::stray_text(ast, open));
                }
            }
            _ => reports.error(|| mistakes::unclosed_quote(ast, ast.text(&word), open)),
        }
        let rest = self.ast.source.text.get(open..).unwrap_or("");
        let length = mistakes::unclosed_length(rest);
        let skipped = rest.get(..length).unwrap_or(rest).trim_end_matches(['\r', '\n']).len();
        // One more for the line end before the instruction.
        let next = if length < rest.len() { Next::At(open + length + 1) } else { Next::End };
        self.push(ItemKind::Error, start..open + skipped);
        next
    }

    fn range(&self, pair: &Pair<'_, Rule>) -> Range<usize> {
        let span = pair.as_span();
        self.offset + span.start()..self.offset + span.end()
    }

    fn push(&mut self, kind: ItemKind, range: Range<usize>) {
        self.ast.items.push(Item { kind, range });
    }

    /// Takes one line with something on it, or all the lines of its value.
    fn line(&mut self, pair: Pair<'_, Rule>) {
        let range = self.range(&pair);
        let kind = match pair.as_rule() {
            Rule::comment => ItemKind::Comment,
            Rule::unknown => {
                let word = pair.into_inner().next().map_or(range.clone(), |word| self.range(&word));
                let (ast, reports) = (&self.ast, &mut *self.reports);
                reports.error(|| mistakes::unknown_instruction(ast, &word));
                ItemKind::Error
            }
            Rule::stray => {
                let (ast, reports) = (&self.ast, &mut *self.reports);
                if !mistakes::value_is_on_the_next_line(ast) {
                    reports.error(|| mistakes::stray_text(ast, range.start));
                }
                ItemKind::Error
            }
            _ => match self.instruction(pair) {
                Some(instruction) => ItemKind::Instruction(Box::new(instruction)),
                None => ItemKind::Error,
            },
        };
        self.push(kind, range);
    }

    /// An instruction, if all is well with it.
    fn instruction(&mut self, pair: Pair<'_, Rule>) -> Option<Instruction> {
        let mut parts = pair.into_inner();
        let first = parts.next()?;
        let keyword = Keyword::from_name(first.as_str())?;
        let keyword_range = self.range(&first);
        let has_word = matches!(keyword, Keyword::Parameter | Keyword::Message);
        let word = if has_word { parts.next().map(|word| self.range(&word)) } else { None };
        let value = parts.next().and_then(|value| self.value(value));
        let value = self.check(keyword, &keyword_range, word.as_ref(), value)?;
        Some(Instruction { keyword, keyword_range, word, value })
    }

    /// The value of an instruction.
    fn value(&self, pair: Pair<'_, Rule>) -> Option<Value> {
        let form = pair.into_inner().next()?;
        let range = self.range(&form);
        let quoting = match form.as_rule() {
            Rule::triple => Quoting::Triple,
            Rule::single => Quoting::Single,
            _ => {
                let text = self.ast.text(&range);
                let start = range.start + (text.len() - text.trim_start_matches(is_edge).len());
                let trimmed = start..start + text.trim_matches(is_edge).len();
                return Some(Value { quoting: Quoting::Bare, range: trimmed.clone(), text: trimmed });
            }
        };
        let text = form.into_inner().next()?;
        Some(Value { quoting, range, text: self.range(&text) })
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
}

fn is_parameter(name: &str) -> bool {
    parameters::find(name).is_some()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn parse(text: &str, chunk: usize) -> (Ast, Vec<Diagnostic>) {
        let mut reports = Reports::default();
        let source = Source { name: "m".to_owned(), text: text.to_owned() };
        let ast = parse_in_chunks(Arc::new(source), chunk, &mut reports);
        (ast, reports.finish())
    }

    fn syntax() -> impl Strategy<Value = String> {
        const PARTS: [&str; 16] = [
            "FROM x",
            "SYSTEM ",
            "SYSTEM \"",
            "SYSTM \"\"\"",
            "LICENSE \"\"\"",
            "MESSAGE user ",
            "\"",
            "\"\"\"",
            "\"\n",
            "\"\"\"\r\n",
            " ",
            "\n",
            "\r\n",
            "\r",
            "#",
            "é",
        ];
        prop::collection::vec(prop::sample::select(PARTS.as_slice()), 0..40).prop_map(|parts| parts.concat())
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(500))]

        #[test]
        fn chunks_do_not_show(text in syntax(), chunk in 1_usize..30) {
            prop_assert_eq!(parse(&text, chunk), parse(&text, CHUNK));
        }
    }
}
