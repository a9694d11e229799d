//! Execution: walks the tree on the data, within the budgets.

use std::fmt::Write;
use std::sync::Arc;
use std::time::Instant;

use jiff::civil::Date;

use crate::diagnostic::{Diagnostic, Result, Source, Span};
use crate::prompt::limits::Limits;
use crate::prompt::thread::over_time;

use super::ast::{Choice, Command, List, Node, Operand, Pipeline, Place, Templates, Term};
use super::format::print_value;
use super::functions::{self, Fault, Function};
use super::parse::budget;
use super::text::Text;
use super::value::Value;

/// What executions have taken from their common budgets.
#[derive(Clone, Copy, Debug, Default)]
pub struct Spent {
    /// Steps.
    steps: u64,
    /// Bytes of text.
    bytes: usize,
    /// When the time is over; nothing before the first execution.
    until: Option<Instant>,
}

/// Executes the template named `""` on `data`.
///
/// # Errors
/// See [`super::Template::execute`].
pub fn execute(
    source: &Arc<Source>,
    templates: &Templates,
    data: &Value,
    today: Date,
    limits: &Limits,
    spent: &mut Spent,
) -> Result<String> {
    spent.until = spent.until.or_else(|| Instant::now().checked_add(limits.time));
    let mut run = Run {
        source,
        until: spent.until,
        templates,
        limits,
        today,
        out: Text::new(limits.output_bytes.saturating_sub(spent.bytes)),
        made: 0,
        fuel: limits.fuel.saturating_sub(spent.steps),
        depth: 0,
        variables: vec![("$".into(), data.clone())],
    };
    if let Some(root) = templates.get("") {
        run.list(root, data)?;
    }
    spent.steps = limits.fuel - run.fuel;
    spent.bytes = limits.output_bytes - run.room();
    Ok(run.out.into_string())
}

/// Steps after which the clock is looked at, besides at every call.
const STEPS_BETWEEN_LOOKS: u64 = 1024;

/// What comes after a node.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Flow {
    Next,
    Break,
    Continue,
}

/// An execution under way.
struct Run<'t> {
    source: &'t Arc<Source>,
    templates: &'t Templates,
    limits: &'t Limits,
    /// When the time is over.
    until: Option<Instant>,
    today: Date,
    out: Text,
    /// Bytes of intermediate strings so far.
    made: usize,
    fuel: u64,
    depth: usize,
    /// The variables of the present template, innermost last.
    variables: Vec<(Arc<str>, Value)>,
}

impl<'t> Run<'t> {
    fn error(&self, place: Place, message: impl Into<String>) -> Diagnostic {
        Diagnostic::error(message).code("template-execution").at(&self.span(place))
    }

    fn span(&self, place: Place) -> Span {
        Span { source: self.source.clone(), range: place.start as usize..place.end as usize }
    }

    /// Ends the execution when its time is over. Fuel bounds the number of calls, and what one of
    /// them does is bounded; the time bounds the product.
    fn check_time(&self) -> Result<()> {
        match self.until {
            Some(until) if Instant::now() >= until => Err(over_time(self.limits.time).into()),
            _ => Ok(()),
        }
    }

    /// Takes steps from the fuel.
    fn burn(&mut self, steps: usize) -> Result<()> {
        match self.fuel.checked_sub(steps as u64) {
            Some(left) => {
                let past = self.fuel / STEPS_BETWEEN_LOOKS != left / STEPS_BETWEEN_LOOKS;
                self.fuel = left;
                if past { self.check_time() } else { Ok(()) }
            }
            None => {
                let message = format!("the template takes more than {} steps", self.limits.fuel);
                Err(budget(message)
                    .help("it loops too much: nested ranges, or a range in a long list")
                    .into())
            }
        }
    }

    fn out_of_room(&self) -> Diagnostic {
        budget(format!("the template makes more than {} bytes of text", self.limits.output_bytes))
    }

    /// Bytes of text that may still be made.
    fn room(&self) -> usize {
        self.out.room().saturating_sub(self.made)
    }

    fn print(&mut self, text: &str) -> Result<()> {
        if text.len() > self.room() || self.out.write_str(text).is_err() {
            return Err(self.out_of_room().into());
        }
        Ok(())
    }

    /// Goes one level deeper while `work` runs.
    fn deeper<T>(&mut self, place: Place, work: impl FnOnce(&mut Self) -> Result<T>) -> Result<T> {
        if self.depth >= self.limits.depth {
            let message = format!("blocks and template calls are nested deeper than {}", self.limits.depth);
            return Err(budget(message).at(&self.span(place)).into());
        }
        self.depth += 1;
        let result = work(self);
        self.depth -= 1;
        result
    }

    fn list(&mut self, list: &'t List, dot: &Value) -> Result<Flow> {
        for node in list {
            let flow = self.node(node, dot)?;
            if flow != Flow::Next {
                return Ok(flow);
            }
        }
        Ok(Flow::Next)
    }

    fn node(&mut self, node: &'t Node, dot: &Value) -> Result<Flow> {
        self.burn(1)?;
        match node {
            Node::Text(text) => self.print(text)?,
            Node::Action(pipeline) => {
                let value = self.pipeline(pipeline, dot)?;
                if pipeline.variables.is_empty() {
                    self.print_value(&value)?;
                }
            }
            Node::If(choice) => return self.choice(choice, dot, false),
            Node::With(choice) => return self.choice(choice, dot, true),
            Node::Range { pipeline, body, otherwise } => {
                return self.range(pipeline, body, otherwise.as_ref(), dot);
            }
            Node::Call { name, pipeline, place } => {
                let argument = match pipeline {
                    Some(pipeline) => self.pipeline(pipeline, dot)?,
                    None => Value::Nil,
                };
                let Some(callee) = self.templates.get(name) else {
                    return Err(self.error(*place, format!("the template {name:?} is not defined")).into());
                };
                let own = vec![("$".into(), argument.clone())];
                let outer = std::mem::replace(&mut self.variables, own);
                self.deeper(*place, |run| run.list(callee, &argument))?;
                self.variables = outer;
            }
            Node::Break => return Ok(Flow::Break),
            Node::Continue => return Ok(Flow::Continue),
        }
        Ok(Flow::Next)
    }

    fn print_value(&mut self, value: &Value) -> Result<()> {
        if let Value::String(s) = value {
            return self.print(s);
        }
        let mut text = Text::new(self.room());
        print_value(&mut text, value).map_err(|_| self.out_of_room())?;
        self.print(&text.into_string())
    }

    fn choice(&mut self, choice: &'t Choice, dot: &Value, with: bool) -> Result<Flow> {
        let mark = self.variables.len();
        let mut flow = None;
        for (condition, body) in &choice.arms {
            let value = self.pipeline(condition, dot)?;
            if value.is_true() {
                let dot = if with { &value } else { dot };
                flow = Some(self.deeper(condition.place, |run| run.list(body, dot))?);
                break;
            }
        }
        let flow = match (flow, &choice.otherwise, choice.arms.first()) {
            (Some(flow), ..) => flow,
            (None, Some(body), Some((first, _))) => self.deeper(first.place, |run| run.list(body, dot))?,
            _ => Flow::Next,
        };
        self.variables.truncate(mark);
        Ok(flow)
    }

    fn range(
        &mut self,
        pipeline: &'t Pipeline,
        body: &'t List,
        otherwise: Option<&'t List>,
        dot: &Value,
    ) -> Result<Flow> {
        let outer = self.variables.len();
        let value = self.pipeline(pipeline, dot)?;
        let mark = self.variables.len();
        let mut any = false;
        let mut each = |run: &mut Self, index: Value, element: Value| -> Result<Flow> {
            any = true;
            run.burn(1)?;
            run.set_loop_variables(pipeline, index, &element)?;
            let flow = run.deeper(pipeline.place, |run| run.list(body, &element))?;
            run.variables.truncate(mark);
            Ok(flow)
        };
        match &value {
            Value::List(list) => {
                for (i, item) in list.items.iter().enumerate() {
                    if each(self, Value::Int(i as i64), item.clone())? == Flow::Break {
                        break;
                    }
                }
            }
            Value::Map(map) => {
                for (key, item) in &map.entries {
                    if each(self, Value::from(key.as_str()), item.clone())? == Flow::Break {
                        break;
                    }
                }
            }
            Value::Int(count) => {
                if pipeline.variables.len() > 1 {
                    let message = "a number has no elements: use one variable";
                    return Err(self.error(pipeline.place, message).into());
                }
                for i in 0..*count {
                    if each(self, Value::Nil, Value::Int(i))? == Flow::Break {
                        break;
                    }
                }
            }
            Value::Nil | Value::Null => {}
            other => {
                let message = format!("range can't iterate over a value of type {}", other.type_name());
                return Err(self.error(pipeline.place, message).into());
            }
        }
        let flow = match otherwise {
            Some(list) if !any => self.deeper(pipeline.place, |run| run.list(list, dot))?,
            _ => Flow::Next,
        };
        self.variables.truncate(outer);
        Ok(flow)
    }

    /// Gives the variables of a `range` the present index and element: with one, the element.
    fn set_loop_variables(&mut self, pipeline: &Pipeline, index: Value, element: &Value) -> Result<()> {
        let element = normal(element.clone());
        let values: &[Value] = match pipeline.variables.len() {
            0 => return Ok(()),
            1 => &[element],
            _ => &[index, element],
        };
        if pipeline.assigns {
            for (name, value) in pipeline.variables.iter().zip(values) {
                self.assign(name, value.clone(), pipeline.place)?;
            }
        } else {
            let first = self.variables.len().saturating_sub(values.len());
            for ((_, slot), value) in self.variables.iter_mut().skip(first).zip(values) {
                *slot = value.clone();
            }
        }
        Ok(())
    }

    fn find(&mut self, name: &str, place: Place) -> Result<usize> {
        let at = self.variables.iter().rposition(|(n, _)| &**n == name);
        match at {
            Some(at) => {
                self.burn((self.variables.len() - at) / 16)?;
                Ok(at)
            }
            None => Err(self.error(place, format!("the variable `{name}` is not defined")).into()),
        }
    }

    fn assign(&mut self, name: &str, value: Value, place: Place) -> Result<()> {
        let at = self.find(name, place)?;
        self.variables[at].1 = value;
        Ok(())
    }

    fn pipeline(&mut self, pipeline: &'t Pipeline, dot: &Value) -> Result<Value> {
        let mut value = None;
        for command in &pipeline.commands {
            value = Some(normal(self.command(command, dot, value)?));
        }
        let value = value.unwrap_or(Value::Nil);
        for name in &pipeline.variables {
            if pipeline.assigns {
                self.assign(name, value.clone(), pipeline.place)?;
            } else {
                self.variables.push((name.clone(), value.clone()));
            }
        }
        Ok(value)
    }

    /// Evaluates a command; `last` is the result of the one before it.
    fn command(&mut self, command: &'t Command, dot: &Value, last: Option<Value>) -> Result<Value> {
        let Some((first, rest)) = command.operands.split_first() else { return Ok(Value::Nil) };
        if let Term::Function(function) = first.term
            && first.fields.is_empty()
        {
            return self.call(function, first.place, rest, dot, last);
        }
        if matches!(first.term, Term::Nil) {
            return Err(self.error(first.place, "nil is not a command").into());
        }
        if !rest.is_empty() || last.is_some() {
            let message = "a value that is not a function is given arguments";
            return Err(self.error(first.place, message).into());
        }
        self.operand(first, dot)
    }

    fn call(
        &mut self,
        function: Function,
        place: Place,
        operands: &'t [Operand],
        dot: &Value,
        last: Option<Value>,
    ) -> Result<Value> {
        self.burn(1)?;
        self.check_time()?;
        let fault = |run: &Self, fault| match fault {
            Fault::Arguments(message) => run.error(place, format!("{}: {message}", function.name())),
            Fault::OutOfRoom => run.out_of_room().at(&run.span(place)),
        };
        function.check_arity(operands.len() + usize::from(last.is_some())).map_err(|f| fault(self, f))?;
        let mut args = Vec::with_capacity(operands.len() + 1);
        for operand in operands {
            let value = self.operand(operand, dot)?;
            // `and` and `or` do not evaluate what comes after the answer.
            match function {
                Function::And if !value.is_true() => return Ok(value),
                Function::Or if value.is_true() => return Ok(value),
                _ => args.push(value),
            }
        }
        args.extend(last);
        // Reading a long string takes time too.
        self.burn(args.iter().map(|arg| functions::cost(arg) / 256).sum())?;
        let value = function.call(&args, self.room(), self.today).map_err(|f| fault(self, f))?;
        self.made += match function {
            Function::And | Function::Or | Function::Index => 0,
            _ => functions::cost(&value),
        };
        Ok(value)
    }

    fn operand(&mut self, operand: &'t Operand, dot: &Value) -> Result<Value> {
        self.burn(1)?;
        let mut value = match &operand.term {
            Term::Dot => dot.clone(),
            Term::Variable(name) => {
                let at = self.find(name, operand.place)?;
                self.variables[at].1.clone()
            }
            Term::Nil => Value::Nil,
            Term::Constant(value) => value.clone(),
            Term::Function(function) => self.call(*function, operand.place, &[], dot, None)?,
            Term::Parenthesised(pipeline) => {
                self.deeper(pipeline.place, |run| run.pipeline(pipeline, dot))?
            }
        };
        for field in &operand.fields {
            self.burn(1)?;
            value = self.field(&value, field, operand.place)?;
        }
        Ok(value)
    }

    fn field(&mut self, value: &Value, name: &str, place: Place) -> Result<Value> {
        let found = match value {
            Value::Nil => return Ok(Value::Nil),
            Value::Null => {
                return Err(self.error(place, format!("a nil value has no field {name}")).into());
            }
            Value::Map(map) => return Ok(map.entries.get(name).cloned().unwrap_or(Value::Null)),
            Value::Struct(s) => s.field(name).cloned(),
            _ => None,
        };
        if let Some(found) = found {
            return Ok(found);
        }
        if let Some(result) = functions::method(value, name, self.room()) {
            let result = result.map_err(|_| self.out_of_room().at(&self.span(place)))?;
            self.made += functions::cost(&result);
            return Ok(result);
        }
        let message = format!("can't evaluate field {name} in type {}", value.type_name());
        Err(self.error(place, message).into())
    }
}

/// What a variable or a pipeline holds of a nil that an element was.
fn normal(value: Value) -> Value {
    if matches!(value, Value::Null) { Value::Nil } else { value }
}
