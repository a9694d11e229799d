//! Pipelines: the inside of an action, from the grammar's pairs to the tree.

use std::sync::Arc;

use pest::error::{Error, ErrorVariant, InputLocation};
use pest::iterators::{Pair, Pairs};

use crate::diagnostic::{Diagnostic, Result, Source, Span};
use crate::prompt::limits::Limits;

use super::ast::{Command, Operand, Pipeline, Place, Term};
use super::constant;
use super::functions::Function;
use super::parse::{Rule, budget, too_many_nodes};
use super::value::Value;

/// How many variables a pipeline may declare.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Declarations {
    /// One.
    One,
    /// Index and element: in `range`.
    Two,
}

const KEYWORDS: [&str; 10] =
    ["if", "with", "range", "else", "end", "define", "template", "block", "break", "continue"];

/// Reads the pipelines of one source.
pub struct PipelineReader<'s> {
    source: &'s Arc<Source>,
    /// What it may cost.
    pub limits: &'s Limits,
    /// Byte of the source where the present action's inside begins.
    base: usize,
    /// Commands, operands and actions so far.
    nodes: usize,
    /// Variables in scope, innermost last; `$` is always there.
    pub variables: Vec<Arc<str>>,
}

impl<'s> PipelineReader<'s> {
    /// A reader at the start of `source`.
    pub fn new(source: &'s Arc<Source>, limits: &'s Limits) -> PipelineReader<'s> {
        PipelineReader { source, limits, base: 0, nodes: 0, variables: vec!["$".into()] }
    }

    /// Adds to the size of the tree.
    ///
    /// # Errors
    /// The tree becomes too large.
    pub fn count_nodes(&mut self, count: usize) -> Result<()> {
        self.nodes += count;
        if self.nodes > self.limits.nodes {
            return Err(too_many_nodes(self.limits).into());
        }
        Ok(())
    }

    /// Goes on to the action whose inside stands at byte `base`.
    ///
    /// # Errors
    /// It is too long, or its parentheses are nested deeper than allowed: the grammar recurses on
    /// them.
    pub fn enter_action(&mut self, inside: &str, base: usize) -> Result<()> {
        self.base = base;
        match over_budget(inside, self.limits) {
            None => Ok(()),
            Some((at, message)) => {
                let place = Place { start: (base + at) as u32, end: (base + at) as u32 };
                Err(budget(message).at(&self.span(place)).into())
            }
        }
    }

    /// Where a pair of the present action stands in the source.
    pub fn place(&self, span: pest::Span<'_>) -> Place {
        Place { start: (self.base + span.start()) as u32, end: (self.base + span.end()) as u32 }
    }

    /// A place as a diagnostic has it.
    pub fn span(&self, place: Place) -> Span {
        Span { source: self.source.clone(), range: place.start as usize..place.end as usize }
    }

    /// A syntax error at a place.
    pub fn error(&self, place: Place, message: impl Into<String>) -> Diagnostic {
        Diagnostic::error(message).code("template-syntax").at(&self.span(place))
    }

    /// Reads the pipeline that comes next among the parts of a statement.
    ///
    /// # Errors
    /// As [`PipelineReader::pipeline`].
    pub fn pipelines(&mut self, parts: &mut Pairs<'_, Rule>, declarations: Declarations) -> Result<Pipeline> {
        match parts.find(|p| p.as_rule() == Rule::pipeline) {
            Some(pair) => self.pipeline(pair, declarations),
            // The grammar has a pipeline wherever this is called.
            None => Err(Diagnostic::error("a value is missing").code("template-syntax").into()),
        }
    }

    /// Reads a pipeline.
    ///
    /// # Errors
    /// A function or variable is unknown, a constant is malformed, or a stage cannot be executed.
    pub fn pipeline(&mut self, pair: Pair<'_, Rule>, declarations: Declarations) -> Result<Pipeline> {
        let place = self.place(pair.as_span());
        let mut variables = Vec::new();
        let mut assigns = false;
        let mut commands: Vec<Command> = Vec::new();
        for part in pair.into_inner() {
            if part.as_rule() == Rule::declaration {
                let declaration = self.place(part.as_span());
                for item in part.into_inner() {
                    match item.as_rule() {
                        Rule::variable => variables.push(Arc::from(item.as_str())),
                        Rule::operator => assigns = item.as_str() == "=",
                        _ => {}
                    }
                }
                if variables.len() > 1 && declarations == Declarations::One {
                    return Err(self.error(declaration, "only `range` declares two variables").into());
                }
                for name in &variables {
                    if assigns && !self.variables.contains(name) {
                        return Err(self.undefined(name, declaration).into());
                    }
                    self.variables.push(name.clone());
                    let limit = self.limits.variables;
                    if self.variables.len() > limit {
                        let message = format!("more than {limit} variables are in scope");
                        return Err(budget(message).at(&self.span(declaration)).into());
                    }
                }
            } else if part.as_rule() == Rule::command {
                let operands = self.operands(part)?;
                if let (false, Some(first)) = (commands.is_empty(), operands.first())
                    && first.fields.is_empty()
                    && matches!(first.term, Term::Constant(_) | Term::Nil | Term::Dot)
                {
                    let message = "a value cannot receive the result of the command before it";
                    return Err(self
                        .error(first.place, message)
                        .help("only a function can follow `|`")
                        .into());
                }
                commands.push(Command { operands });
            }
        }
        Ok(Pipeline { variables, assigns, commands, place })
    }

    fn operands(&mut self, command: Pair<'_, Rule>) -> Result<Vec<Operand>> {
        let pairs = command.into_inner().filter(|p| p.as_rule() == Rule::operand);
        let mut operands = Vec::with_capacity(1);
        for pair in pairs {
            self.count_nodes(1)?;
            operands.push(self.operand(pair)?);
        }
        Ok(operands)
    }

    fn operand(&mut self, pair: Pair<'_, Rule>) -> Result<Operand> {
        let place = self.place(pair.as_span());
        let mut fields = Vec::new();
        let mut term = Term::Dot;
        let mut after = "";
        for part in pair.into_inner() {
            let text = part.as_str();
            let at = self.place(part.as_span());
            let constant = |value: Result<Value, String>| value.map(Term::Constant);
            let read = match part.as_rule() {
                Rule::field => {
                    if !after.is_empty() {
                        return Err(self.error(at, format!("{after} has no fields")).into());
                    }
                    self.count_nodes(1)?;
                    fields.push(Arc::from(text.trim_start_matches('.')));
                    continue;
                }
                Rule::dot => {
                    after = "the dot before another dot";
                    Ok(Term::Dot)
                }
                Rule::variable => Ok(self.variable(text, at)?),
                Rule::parenthesised => {
                    let inner = self.pipelines(&mut part.into_inner(), Declarations::One)?;
                    Ok(Term::Parenthesised(Box::new(inner)))
                }
                Rule::number => {
                    after = "a number";
                    constant(constant::number(text))
                }
                Rule::char => {
                    after = "a character";
                    constant(constant::character(text))
                }
                Rule::string | Rule::raw_string => {
                    after = "a string";
                    constant(constant::string(text).map(Value::from))
                }
                _ => {
                    if matches!(text, "true" | "false" | "nil") {
                        after = "a constant";
                    }
                    Ok(self.word(text, at)?)
                }
            };
            term = read.map_err(|message| self.error(at, message))?;
        }
        Ok(Operand { term, fields, place })
    }

    fn variable(&self, name: &str, place: Place) -> Result<Term> {
        match self.variables.iter().rfind(|v| &***v == name) {
            Some(known) => Ok(Term::Variable(known.clone())),
            None => Err(self.undefined(name, place).into()),
        }
    }

    fn undefined(&self, name: &str, place: Place) -> Diagnostic {
        self.error(place, format!("the variable `{name}` is not defined here"))
    }

    fn word(&self, word: &str, place: Place) -> Result<Term> {
        match word {
            "true" => return Ok(Term::Constant(Value::Bool(true))),
            "false" => return Ok(Term::Constant(Value::Bool(false))),
            "nil" => return Ok(Term::Nil),
            _ => {}
        }
        if let Some(function) = Function::named(word) {
            return Ok(Term::Function(function));
        }
        Err(if KEYWORDS.contains(&word) {
            let message = format!("unexpected keyword `{word}`");
            self.error(place, message)
                .label("either a value is missing after it, or it stands in the wrong place")
        } else {
            let names = super::functions::function_names().collect::<Vec<_>>().join(", ");
            self.error(place, format!("the function `{word}` is not defined"))
                .help(format!("functions are: {names}"))
                .help("a field begins with a dot, as in `.System`")
        }
        .into())
    }

    /// What the grammar could not read, for a person.
    pub fn syntax_error(&self, inside: &str, error: &Error<Rule>) -> Diagnostic {
        let at = match error.location {
            InputLocation::Pos(at) | InputLocation::Span((at, _)) => at.min(inside.len()),
        };
        let found = inside[at..].chars().next();
        let end = at + found.map_or(0, char::len_utf8);
        let place = Place { start: (self.base + at) as u32, end: (self.base + end) as u32 };
        let message = match found {
            None if inside.trim().is_empty() => return self.error(place, "the action is empty"),
            None if inside.matches('(').count() > inside.matches(')').count() => {
                return self.error(place, "a parenthesis is not closed");
            }
            None => "the action ends where a value should follow".to_owned(),
            Some(c) => format!("unexpected {c:?} in an action"),
        };
        let mut expected = match &error.variant {
            ErrorVariant::ParsingError { positives, .. } => {
                positives.iter().map(|rule| rule_name(*rule)).collect::<Vec<_>>()
            }
            ErrorVariant::CustomError { .. } => Vec::new(),
        };
        expected.sort_unstable();
        expected.dedup();
        let diagnostic = self.error(place, message);
        if expected.is_empty() {
            diagnostic
        } else {
            diagnostic.label(format!("expected {}", expected.join(" or ")))
        }
    }
}

fn rule_name(rule: Rule) -> &'static str {
    match rule {
        Rule::EOI => "the end of the action",
        Rule::operator => "`:=` or `=`",
        Rule::name => "a name in quotes",
        Rule::field => "a field",
        _ => "a value",
    }
}

/// Where an action, its strings aside, becomes too long or its parentheses too deep.
fn over_budget(inside: &str, limits: &Limits) -> Option<(usize, String)> {
    let mut depth = 0_usize;
    let mut code = 0_usize;
    let mut quote = None;
    let mut bytes = inside.bytes().enumerate();
    while let Some((at, b)) = bytes.next() {
        match (quote, b) {
            (Some(q), _) if q == b => quote = None,
            (Some(b'"' | b'\''), b'\\') => {
                bytes.next();
            }
            (Some(_), _) => {}
            (None, _) => {
                code += 1;
                match b {
                    b'"' | b'\'' | b'`' => quote = Some(b),
                    b'(' => depth += 1,
                    b')' => depth = depth.saturating_sub(1),
                    _ => {}
                }
            }
        }
        if depth > limits.nesting {
            return Some((at, format!("parentheses are nested deeper than {}", limits.nesting)));
        }
        if code > limits.tag_bytes && inside.is_char_boundary(at) {
            return Some((
                at,
                format!("the action has more than {} bytes besides its strings", limits.tag_bytes),
            ));
        }
    }
    None
}
