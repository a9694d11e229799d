//! A parsed template: data that `eval` walks.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::functions::Function;
use super::value::Value;

/// A range of bytes in the source.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place {
    /// First byte.
    pub start: u32,
    /// One past the last byte.
    pub end: u32,
}

/// Nodes executed one after the other.
pub type List = Vec<Node>;

/// The templates of one source by name; the source itself is named `""`.
pub type Templates = BTreeMap<Arc<str>, Arc<List>>;

/// One node of a template.
#[derive(Clone, Debug)]
pub enum Node {
    /// Text to print as it is.
    Text(Arc<str>),
    /// `{{pipeline}}`: printed unless it declares or assigns.
    Action(Pipeline),
    /// `{{if}} {{else if}} {{else}} {{end}}`: the first arm whose pipeline is true.
    If(Choice),
    /// `{{with}} {{else with}} {{else}} {{end}}`: the same, with the dot set to the value.
    With(Choice),
    /// `{{range}} {{else}} {{end}}`.
    Range {
        /// What to go over, and the variables that take index and element.
        pipeline: Pipeline,
        /// Executed for each element.
        body: List,
        /// Executed when there is none.
        otherwise: Option<List>,
    },
    /// `{{template "name" pipeline}}`.
    Call {
        /// The template's name.
        name: Arc<str>,
        /// The dot of the callee; nil where there is none.
        pipeline: Option<Pipeline>,
        /// The statement.
        place: Place,
    },
    /// `{{break}}`.
    Break,
    /// `{{continue}}`.
    Continue,
}

/// The arms of an `if` or a `with`.
#[derive(Clone, Debug)]
pub struct Choice {
    /// Conditions and what to do when they hold, in order.
    pub arms: Vec<(Pipeline, List)>,
    /// What to do when none holds.
    pub otherwise: Option<List>,
}

/// Commands, each given the result of the one before as its last argument.
#[derive(Clone, Debug)]
pub struct Pipeline {
    /// `$x :=`, `$x =`, `$i, $x :=`: one or two variables, or none.
    pub variables: Vec<Arc<str>>,
    /// `=` rather than `:=`.
    pub assigns: bool,
    /// At least one.
    pub commands: Vec<Command>,
    /// The whole pipeline.
    pub place: Place,
}

/// A function or value and its arguments.
#[derive(Clone, Debug)]
pub struct Command {
    /// At least one.
    pub operands: Vec<Operand>,
}

/// What a command is made of: a term and the fields asked of it.
#[derive(Clone, Debug)]
pub struct Operand {
    /// Where it starts from.
    pub term: Term,
    /// `.A.B` after the term.
    pub fields: Vec<Arc<str>>,
    /// The whole operand.
    pub place: Place,
}

/// The start of an operand.
#[derive(Clone, Debug)]
pub enum Term {
    /// `.`, also the start of `.A`.
    Dot,
    /// `$x`; the dollar sign is part of the name.
    Variable(Arc<str>),
    /// `nil`.
    Nil,
    /// A boolean, number, character or string.
    Constant(Value),
    /// A function's name.
    Function(Function),
    /// `(pipeline)`.
    Parenthesised(Box<Pipeline>),
}

/// Calls `visit` with every field name and variable name that a list mentions, blocks included.
pub fn identifiers(list: &[Node], visit: &mut dyn FnMut(&str)) {
    for node in list {
        match node {
            Node::Text(_) | Node::Break | Node::Continue => {}
            Node::Action(pipeline) => pipeline_identifiers(pipeline, visit),
            Node::If(choice) | Node::With(choice) => {
                for (pipeline, body) in &choice.arms {
                    pipeline_identifiers(pipeline, visit);
                    identifiers(body, visit);
                }
                identifiers(choice.otherwise.as_deref().unwrap_or_default(), visit);
            }
            Node::Range { pipeline, body, otherwise } => {
                pipeline_identifiers(pipeline, visit);
                identifiers(body, visit);
                identifiers(otherwise.as_deref().unwrap_or_default(), visit);
            }
            Node::Call { pipeline, .. } => {
                if let Some(pipeline) = pipeline {
                    pipeline_identifiers(pipeline, visit);
                }
            }
        }
    }
}

fn pipeline_identifiers(pipeline: &Pipeline, visit: &mut dyn FnMut(&str)) {
    for operand in pipeline.commands.iter().flat_map(|c| &c.operands) {
        match &operand.term {
            Term::Variable(name) => visit(name),
            Term::Parenthesised(inner) => pipeline_identifiers(inner, visit),
            _ => {}
        }
        operand.fields.iter().for_each(|f| visit(f));
    }
}

/// The list up to and with the first action, block by block, that mentions the field `name` in a
/// printed pipeline; what comes after it is dropped, the blocks around it stay.
///
/// Returns whether the field was found.
pub fn truncate_after(list: &mut List, name: &str) -> bool {
    let mut found_at = None;
    for (i, node) in list.iter_mut().enumerate() {
        let found = match node {
            Node::Action(pipeline) => truncate_pipeline(pipeline, name),
            Node::If(choice) | Node::With(choice) => truncate_choice(choice, name),
            Node::Range { body, otherwise, .. } => {
                if truncate_after(body, name) {
                    *otherwise = None;
                    true
                } else {
                    otherwise.as_mut().is_some_and(|list| truncate_after(list, name))
                }
            }
            Node::Text(_) | Node::Call { .. } | Node::Break | Node::Continue => false,
        };
        if found {
            found_at = Some(i);
            break;
        }
    }
    match found_at {
        Some(i) => {
            list.truncate(i + 1);
            true
        }
        None => false,
    }
}

fn truncate_choice(choice: &mut Choice, name: &str) -> bool {
    let Some(i) = choice.arms.iter_mut().position(|(_, body)| truncate_after(body, name)) else {
        return choice.otherwise.as_mut().is_some_and(|list| truncate_after(list, name));
    };
    // The other arms stay as conditions, or a later arm would be taken for an earlier one.
    for (_, body) in choice.arms.iter_mut().skip(i + 1) {
        body.clear();
    }
    choice.otherwise = None;
    true
}

fn truncate_pipeline(pipeline: &mut Pipeline, name: &str) -> bool {
    let of_dot = |o: &Operand| matches!(o.term, Term::Dot) && o.fields.iter().any(|f| &**f == name);
    let Some(command) = pipeline.commands.iter().position(|c| c.operands.iter().any(of_dot)) else {
        return false;
    };
    pipeline.commands.truncate(command + 1);
    if let Some(command) = pipeline.commands.last_mut() {
        let at = command.operands.iter().position(of_dot).unwrap_or_default();
        command.operands.truncate(at + 1);
    }
    true
}
