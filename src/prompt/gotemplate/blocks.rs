//! Blocks: `{{if}}` to `{{end}}`, matched on a stack of our own, so that no nesting of them can
//! exhaust the thread's.

use std::sync::Arc;

use pest::Parser;
use pest::iterators::Pair;

use crate::diagnostic::{Diagnostic, Result, Source};
use crate::prompt::limits::Limits;

use super::ast::{Choice, List, Node, Pipeline, Place, Templates};
use super::constant;
use super::parse::{Grammar, Rule, budget};
use super::pipeline::{Declarations, PipelineReader};

struct Frame {
    kind: Kind,
    /// The list being filled.
    body: List,
    /// The statement that opened it.
    place: Place,
    /// Variables in scope before it.
    variables: usize,
}

enum Kind {
    Root,
    Define { name: Arc<str> },
    Block { name: Arc<str>, outer_variables: Vec<Arc<str>> },
    Choice { with: bool, arms: Vec<(Pipeline, List)>, open: Option<Pipeline> },
    Range { pipeline: Pipeline, body: Option<List> },
}

impl Frame {
    fn new(kind: Kind, place: Place, variables: usize) -> Frame {
        Frame { kind, body: List::new(), place, variables }
    }
}

/// Puts the flat sequence of a source's text and actions together.
pub struct Builder<'s> {
    reader: PipelineReader<'s>,
    templates: Templates,
    /// The open blocks; the root is at the bottom.
    frames: Vec<Frame>,
}

impl<'s> Builder<'s> {
    /// Nothing read yet.
    pub fn new(source: &'s Arc<Source>, limits: &'s Limits) -> Builder<'s> {
        Builder {
            reader: PipelineReader::new(source, limits),
            templates: Templates::new(),
            frames: vec![Frame::new(Kind::Root, Place { start: 0, end: 0 }, 1)],
        }
    }

    fn push(&mut self, node: Node) {
        if let Some(frame) = self.frames.last_mut() {
            frame.body.push(node);
        }
    }

    /// Adds text, trimmed where a delimiter next to it says so.
    pub fn text(&mut self, text: &str, trim_start: bool, trim_end: bool) {
        const SPACES: [char; 4] = [' ', '\t', '\r', '\n'];
        let text = if trim_start { text.trim_start_matches(SPACES) } else { text };
        let text = if trim_end { text.trim_end_matches(SPACES) } else { text };
        if !text.is_empty() {
            self.push(Node::Text(text.into()));
        }
    }

    /// Adds an action: `inside` is what stands between its delimiters, at byte `base`.
    ///
    /// # Errors
    /// It is no action, or stands where it cannot.
    pub fn action(&mut self, inside: &str, base: usize) -> Result<()> {
        self.reader.count_nodes(1)?;
        self.reader.enter_action(inside, base)?;
        let parsed = Grammar::parse(Rule::statement, inside);
        let statement =
            parsed.map_err(|e| self.reader.syntax_error(inside, &e))?.flat_map(Pair::into_inner).next();
        let Some(statement) = statement else { return Ok(()) };
        let place = self.reader.place(statement.as_span());
        let variables = self.reader.variables.len();
        let rule = statement.as_rule();
        let mut parts = statement.clone().into_inner();
        match rule {
            Rule::pipeline => {
                let pipeline = self.reader.pipeline(statement, Declarations::One)?;
                self.push(Node::Action(pipeline));
            }
            Rule::if_open | Rule::with_open => {
                let open = Some(self.reader.pipelines(&mut parts, Declarations::One)?);
                let kind = Kind::Choice { with: rule == Rule::with_open, arms: Vec::new(), open };
                self.open(Frame::new(kind, place, variables))?;
            }
            Rule::range_open => {
                let pipeline = self.reader.pipelines(&mut parts, Declarations::Two)?;
                self.open(Frame::new(Kind::Range { pipeline, body: None }, place, variables))?;
            }
            Rule::else_if | Rule::else_with => {
                let pipeline = self.reader.pipelines(&mut parts, Declarations::One)?;
                self.otherwise(place, Some((rule == Rule::else_with, pipeline)))?;
            }
            Rule::else_plain => self.otherwise(place, None)?,
            Rule::end => self.end(place)?,
            Rule::define => {
                let name = self.name(&mut parts)?;
                if self.frames.len() > 1 {
                    return Err(self.error(place, "`define` cannot stand inside another block").into());
                }
                self.reader.variables.truncate(1);
                self.open(Frame::new(Kind::Define { name }, place, variables))?;
            }
            Rule::block => {
                let name = self.name(&mut parts)?;
                let pipeline = Some(self.reader.pipelines(&mut parts, Declarations::One)?);
                self.push(Node::Call { name: name.clone(), pipeline, place });
                let outer_variables = std::mem::replace(&mut self.reader.variables, vec!["$".into()]);
                self.open(Frame::new(Kind::Block { name, outer_variables }, place, 1))?;
            }
            Rule::template_call => {
                let name = self.name(&mut parts)?;
                let pipeline = match parts.peek() {
                    Some(_) => Some(self.reader.pipelines(&mut parts, Declarations::One)?),
                    None => None,
                };
                self.push(Node::Call { name, pipeline, place });
            }
            Rule::break_loop | Rule::continue_loop => {
                let (word, node) = match rule {
                    Rule::break_loop => ("break", Node::Break),
                    _ => ("continue", Node::Continue),
                };
                if !self.in_loop() {
                    return Err(self.error(place, format!("`{word}` outside of `range`")).into());
                }
                self.push(node);
            }
            _ => {}
        }
        Ok(())
    }

    fn in_loop(&self) -> bool {
        let own = |f: &&Frame| !matches!(f.kind, Kind::Define { .. } | Kind::Block { .. } | Kind::Root);
        self.frames.iter().rev().take_while(own).any(|f| matches!(f.kind, Kind::Range { body: None, .. }))
    }

    fn name(&self, parts: &mut pest::iterators::Pairs<'_, Rule>) -> Result<Arc<str>> {
        let pair = parts.next();
        let text = pair.as_ref().map_or("\"\"", |p| p.as_str());
        let place = pair.as_ref().map_or(Place { start: 0, end: 0 }, |p| self.reader.place(p.as_span()));
        Ok(constant::string(text).map_err(|e| self.error(place, e))?.into())
    }

    fn open(&mut self, frame: Frame) -> Result<()> {
        let limit = self.reader.limits.nesting;
        if self.frames.len() > limit {
            let message = format!("blocks are nested deeper than {limit}");
            return Err(budget(message).at(&self.reader.span(frame.place)).into());
        }
        self.frames.push(frame);
        Ok(())
    }

    fn otherwise(&mut self, place: Place, next: Option<(bool, Pipeline)>) -> Result<()> {
        let word = match &next {
            None => "else",
            Some((false, _)) => "else if",
            Some((true, _)) => "else with",
        };
        if let Some(frame) = self.frames.last_mut() {
            match &mut frame.kind {
                Kind::Choice { with, arms, open } if next.as_ref().is_none_or(|(w, _)| w == with) => {
                    if let Some(condition) = open.take() {
                        arms.push((condition, std::mem::take(&mut frame.body)));
                        *open = next.map(|(_, pipeline)| pipeline);
                        return Ok(());
                    }
                }
                Kind::Range { body: body @ None, .. } if next.is_none() => {
                    *body = Some(std::mem::take(&mut frame.body));
                    return Ok(());
                }
                _ => {}
            }
        }
        Err(self.error(place, format!("unexpected `{word}`")).into())
    }

    fn end(&mut self, place: Place) -> Result<()> {
        if self.frames.len() <= 1 {
            return Err(self.error(place, "unexpected `end`: no block is open").into());
        }
        let Some(frame) = self.frames.pop() else { return Ok(()) };
        self.reader.variables.truncate(frame.variables);
        match frame.kind {
            Kind::Root => {}
            Kind::Define { name } => self.define(name, frame.body, frame.place)?,
            Kind::Block { name, outer_variables } => {
                self.reader.variables = outer_variables;
                self.define(name, frame.body, frame.place)?;
            }
            Kind::Choice { with, mut arms, open } => {
                let choice = match open {
                    Some(condition) => {
                        arms.push((condition, frame.body));
                        Choice { arms, otherwise: None }
                    }
                    None => Choice { arms, otherwise: Some(frame.body) },
                };
                self.push(if with { Node::With(choice) } else { Node::If(choice) });
            }
            Kind::Range { pipeline, body: Some(body) } => {
                self.push(Node::Range { pipeline, body, otherwise: Some(frame.body) });
            }
            Kind::Range { pipeline, body: None } => {
                self.push(Node::Range { pipeline, body: frame.body, otherwise: None });
            }
        }
        Ok(())
    }

    /// A second template of a name is refused, unless one of the two prints nothing.
    fn define(&mut self, name: Arc<str>, body: List, place: Place) -> Result<()> {
        match self.templates.get(&name) {
            Some(old) if !is_blank(old) => {
                if !is_blank(&body) {
                    let message = format!("the template {name:?} is defined twice");
                    return Err(self.error(place, message).into());
                }
            }
            _ => {
                self.templates.insert(name, Arc::new(body));
            }
        }
        Ok(())
    }

    /// The templates, once every block is closed.
    pub fn finish(mut self) -> Result<Templates> {
        let Some(frame) = self.frames.pop() else { return Ok(self.templates) };
        if !self.frames.is_empty() {
            let opened = self.error(frame.place, "this block is not closed");
            return Err(opened.help("add `{{end}}`").into());
        }
        self.define("".into(), frame.body, frame.place)?;
        Ok(self.templates)
    }

    fn error(&self, place: Place, message: impl Into<String>) -> Diagnostic {
        self.reader.error(place, message)
    }
}

/// True when the list prints only white space.
fn is_blank(list: &[Node]) -> bool {
    list.iter().all(|node| matches!(node, Node::Text(text) if text.trim().is_empty()))
}
