//! Goes over a template's tree with the types of what it is given.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use crate::diagnostic::{Diagnostic, Source, Span};
use crate::modelfile::suggest::nearest;
use crate::prompt::gotemplate::Template;
use crate::prompt::gotemplate::ast::{Command, Node, Operand, Pipeline, Place, Templates, Term};
use crate::prompt::gotemplate::functions::{Fault, Function};
use crate::prompt::gotemplate::value::Value;

use super::MOST;
use super::types::{Record, Type, VARIABLES};

/// What is wrong with the templates of a source, in no order.
pub(super) fn warnings(template: &Template) -> Vec<Diagnostic> {
    let templates = template.templates();
    let mut assigned = BTreeSet::new();
    for list in templates.values() {
        assignments(list, &mut assigned);
    }
    let mut walk = Walk {
        templates,
        source: template.source(),
        assigned,
        scope: Vec::new(),
        calls: vec![("".into(), Type::Record(&VARIABLES))],
        seen: BTreeMap::new(),
        found: Vec::new(),
    };
    while let Some((name, dot)) = walk.calls.pop() {
        let Some(list) = templates.get(&name) else { continue };
        walk.scope = vec![("$".into(), dot)];
        walk.list(list, dot);
    }
    walk.found
}

/// The variables that are given a new value after their first: their type is not followed.
fn assignments(list: &[Node], assigned: &mut BTreeSet<Arc<str>>) {
    for node in list {
        let (lists, otherwise): (Vec<&Vec<Node>>, _) = match node {
            Node::Action(p) => {
                assigned.extend(p.variables.iter().filter(|_| p.assigns).cloned());
                continue;
            }
            Node::If(choice) | Node::With(choice) => {
                for (p, _) in &choice.arms {
                    assigned.extend(p.variables.iter().filter(|_| p.assigns).cloned());
                }
                (choice.arms.iter().map(|(_, body)| body).collect(), &choice.otherwise)
            }
            Node::Range { pipeline: p, body, otherwise } => {
                assigned.extend(p.variables.iter().filter(|_| p.assigns).cloned());
                (vec![body], otherwise)
            }
            _ => continue,
        };
        for list in lists.into_iter().chain(otherwise) {
            assignments(list, assigned);
        }
    }
}

struct Walk<'t> {
    templates: &'t Templates,
    source: &'t Arc<Source>,
    assigned: BTreeSet<Arc<str>>,
    /// Variables, the innermost last.
    scope: Vec<(Arc<str>, Type)>,
    /// Templates that are still to be gone over, with their dot.
    calls: Vec<(Arc<str>, Type)>,
    /// The types of the dot that templates were called with.
    seen: BTreeMap<Arc<str>, Vec<Type>>,
    found: Vec<Diagnostic>,
}

impl Walk<'_> {
    fn warn(&mut self, place: Place, code: &'static str, message: String, help: Option<String>) {
        if self.found.len() >= MOST {
            return;
        }
        let span = Span { source: self.source.clone(), range: place.start as usize..place.end as usize };
        let mut diagnostic = Diagnostic::warning(message).code(code).at(&span);
        diagnostic.help.extend(help);
        self.found.push(diagnostic);
    }

    fn list(&mut self, list: &[Node], dot: Type) {
        let outer = self.scope.len();
        for node in list {
            match node {
                Node::Text(_) | Node::Break | Node::Continue => {}
                Node::Action(pipeline) => drop(self.pipeline(pipeline, dot)),
                Node::If(choice) | Node::With(choice) => {
                    let inner = self.scope.len();
                    for (pipeline, body) in &choice.arms {
                        let value = self.pipeline(pipeline, dot);
                        self.list(body, if matches!(node, Node::With(_)) { value } else { dot });
                    }
                    self.list(choice.otherwise.as_deref().unwrap_or_default(), dot);
                    self.scope.truncate(inner);
                }
                Node::Range { pipeline, body, otherwise } => {
                    let inner = self.scope.len();
                    let over = self.commands(pipeline, dot);
                    let (key, element) = self.elements(over, pipeline.place);
                    match pipeline.variables.as_slice() {
                        [one] => self.declare(one, element, pipeline.assigns),
                        [first, second] => {
                            self.declare(first, key, pipeline.assigns);
                            self.declare(second, element, pipeline.assigns);
                        }
                        _ => {}
                    }
                    self.list(body, element);
                    self.scope.truncate(inner);
                    self.list(otherwise.as_deref().unwrap_or_default(), dot);
                }
                Node::Call { name, pipeline, place } => {
                    let dot = pipeline.as_ref().map_or(Type::Any, |p| self.pipeline(p, dot));
                    self.call(name, dot, *place);
                }
            }
        }
        self.scope.truncate(outer);
    }

    /// A template is gone over once for each type of its dot.
    fn call(&mut self, name: &Arc<str>, dot: Type, place: Place) {
        if !self.templates.contains_key(name) {
            let message = format!("there is no template {name:?}");
            return self.warn(place, "template-name", message, None);
        }
        let seen = self.seen.entry(name.clone()).or_default();
        if !seen.contains(&dot) {
            seen.push(dot);
            self.calls.push((name.clone(), dot));
        }
    }

    fn declare(&mut self, name: &Arc<str>, ty: Type, assigns: bool) {
        if !assigns {
            let ty = if self.assigned.contains(name) { Type::Any } else { ty };
            self.scope.push((name.clone(), ty));
        }
    }

    /// Key and element of what is ranged over.
    fn elements(&mut self, over: Type, place: Place) -> (Type, Type) {
        match over {
            Type::List(element) => (Type::Number, *element),
            Type::Map(element) => (Type::Text, *element),
            Type::Number => (Type::Number, Type::Number),
            Type::Any => (Type::Any, Type::Any),
            Type::Text | Type::Bool | Type::Record(_) => {
                let message = format!("this is {}: `range` cannot go over it", over.name());
                self.warn(place, "template-type", message, None);
                (Type::Any, Type::Any)
            }
        }
    }

    fn pipeline(&mut self, pipeline: &Pipeline, dot: Type) -> Type {
        let ty = self.commands(pipeline, dot);
        for name in &pipeline.variables {
            self.declare(name, ty, pipeline.assigns);
        }
        ty
    }

    fn commands(&mut self, pipeline: &Pipeline, dot: Type) -> Type {
        pipeline
            .commands
            .iter()
            .fold(None, |piped, command| Some(self.command(command, piped, dot)))
            .unwrap_or(Type::Any)
    }

    fn command(&mut self, command: &Command, piped: Option<Type>, dot: Type) -> Type {
        let Some((first, rest)) = command.operands.split_first() else { return Type::Any };
        let mut arguments: Vec<Type> = rest.iter().map(|operand| self.operand(operand, dot)).collect();
        arguments.extend(piped);
        match first.term {
            Term::Function(function) => {
                let ty = self.function(function, &arguments, first.place);
                self.fields(ty, first)
            }
            _ => {
                let ty = self.operand(first, dot);
                if !arguments.is_empty() && ty != Type::Any {
                    let message = format!("this is {}, and no function: it takes no arguments", ty.name());
                    self.warn(first.place, "template-arguments", message, None);
                }
                ty
            }
        }
    }

    fn operand(&mut self, operand: &Operand, dot: Type) -> Type {
        let ty = match &operand.term {
            Term::Dot => dot,
            Term::Variable(name) => {
                self.scope.iter().rev().find(|(n, _)| n == name).map_or(Type::Any, |(_, ty)| *ty)
            }
            Term::Nil => Type::Any,
            Term::Constant(Value::String(_)) => Type::Text,
            Term::Constant(Value::Bool(_)) => Type::Bool,
            Term::Constant(Value::Int(_) | Value::Float(_)) => Type::Number,
            Term::Constant(_) => Type::Any,
            Term::Function(function) => self.function(*function, &[], operand.place),
            Term::Parenthesised(pipeline) => self.pipeline(pipeline, dot),
        };
        self.fields(ty, operand)
    }

    /// The type of `.A.B` of a value.
    fn fields(&mut self, mut ty: Type, operand: &Operand) -> Type {
        // The fields are the operand's end, each after its dot.
        let mut length: usize = operand.fields.iter().map(|f| f.len() + 1).sum();
        for field in &operand.fields {
            let start = (operand.place.end as usize).saturating_sub(length);
            length -= field.len() + 1;
            let end = (operand.place.end as usize).saturating_sub(length);
            let place = Place { start: start as u32, end: end as u32 };
            ty = match ty {
                Type::Any => return Type::Any,
                Type::Map(element) => *element,
                Type::Record(record) => match record.fields.iter().find(|(name, _)| *name == &**field) {
                    Some((_, ty)) => *ty,
                    None if record.methods.contains(&&**field) => Type::Text,
                    None => {
                        self.no_field(record, field, place);
                        return Type::Any;
                    }
                },
                Type::List(_) => {
                    let message = format!("this is a list, which has no `.{field}`");
                    let help = "go over its elements with `range`, or take one with `index`".to_owned();
                    self.warn(place, "template-field", message, Some(help));
                    return Type::Any;
                }
                Type::Text | Type::Bool | Type::Number => {
                    let message = format!("this is {}, which has no `.{field}`", ty.name());
                    self.warn(place, "template-field", message, None);
                    return Type::Any;
                }
            };
        }
        ty
    }

    fn no_field(&mut self, record: &'static Record, field: &str, place: Place) {
        let names = || record.fields.iter().map(|(name, _)| *name);
        let is_variable = *record == VARIABLES;
        let (code, message) = match is_variable {
            true => ("template-variable", format!("there is no variable `.{field}`")),
            false => ("template-field", format!("{} has no `.{field}`", record.name)),
        };
        let help = match nearest(field, names()) {
            Some(name) => format!("did you mean `.{name}`?"),
            // A variable of the whole inside of a `range` or `with`.
            None if !is_variable && VARIABLES.fields.iter().any(|(name, _)| *name == field) => {
                format!("the template's own is `$.{field}` here")
            }
            None => format!("it has .{}", names().collect::<Vec<_>>().join(" .")),
        };
        self.warn(place, code, message, Some(help));
    }

    fn function(&mut self, function: Function, arguments: &[Type], place: Place) -> Type {
        if let Err(Fault::Arguments(why)) = function.check_arity(arguments.len()) {
            self.warn(place, "template-arguments", format!("`{}`: {why}", function.name()), None);
            return Type::Any;
        }
        let first = arguments.first().copied().unwrap_or(Type::Any);
        match function {
            Function::Equal | Function::NotEqual | Function::Order(_) => {
                let other =
                    arguments.iter().skip(1).find(|t| first.is_basic() && t.is_basic() && **t != first);
                if let Some(other) = other {
                    let message = format!(
                        "`{}` cannot compare {} with {}",
                        function.name(),
                        first.name(),
                        other.name()
                    );
                    self.warn(place, "template-type", message, None);
                }
                Type::Bool
            }
            Function::And | Function::Or => match arguments.iter().all(|t| *t == first) {
                true => first,
                false => Type::Any,
            },
            Function::Not => Type::Bool,
            Function::Len => {
                if matches!(first, Type::Bool | Type::Number | Type::Record(_)) {
                    let message = format!("`len` of {}, which has no length", first.name());
                    self.warn(place, "template-type", message, None);
                }
                Type::Number
            }
            Function::Index => arguments.iter().skip(1).fold(first, |ty, _| match ty {
                Type::List(element) | Type::Map(element) => *element,
                _ => Type::Any,
            }),
            Function::Slice => first,
            Function::Call => Type::Any,
            _ => Type::Text,
        }
    }
}
