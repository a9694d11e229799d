//! Go's `text/template` with the option `missingkey=zero`: the language of a Modelfile's TEMPLATE.
//!
//! `parse` reads a source into [`ast::Templates`] and `eval` executes them on a [`Value`],
//! both within the budgets of [`Limits`]. A template can compute text from the values it is given
//! and nothing else: it reads no file, no environment and runs no program.

pub mod ast;
mod blocks;
mod compare;
mod constant;
mod eval;
mod float;
mod format;
pub mod functions;
mod json;
mod parse;
mod pipeline;
mod quote;
mod text;
pub mod value;

use std::sync::Arc;

use jiff::civil::Date;

use crate::diagnostic::{Result, Source};

use super::limits::Limits;
use super::thread::on_own_stack;

pub use eval::Spent;
pub use functions::function_names;
pub use value::Value;

/// A source and the templates it defines.
#[derive(Clone, Debug)]
pub struct Template {
    source: Arc<Source>,
    templates: ast::Templates,
    limits: Limits,
}

impl Template {
    /// Reads a template.
    ///
    /// # Errors
    /// The source is not a template or is larger than `limits` allow; the diagnostic has the place.
    pub fn parse(source: Arc<Source>, limits: Limits) -> Result<Template> {
        let templates = on_own_stack(limits.stack_bytes, || parse::parse(&source, &limits))?;
        Ok(Template { source, templates, limits })
    }

    /// The text it was read from.
    pub fn source(&self) -> &Arc<Source> {
        &self.source
    }

    /// The limits it was read under and is executed under.
    pub fn limits(&self) -> &Limits {
        &self.limits
    }

    /// The templates by name.
    pub fn templates(&self) -> &ast::Templates {
        &self.templates
    }

    /// The same source with other templates made of it.
    pub fn with_templates(&self, templates: ast::Templates) -> Template {
        Template { source: self.source.clone(), templates, limits: self.limits }
    }

    /// Executes the template on `data`; `today` is what `currentDate` prints.
    ///
    /// # Errors
    /// The template asks for what cannot be done, or exceeds a budget; the diagnostic has the place.
    pub fn execute(&self, data: &Value, today: Date) -> Result<String> {
        on_own_stack(self.limits.stack_bytes, || self.execute_here(data, today, &mut Spent::default()))
    }

    /// As [`Template::execute`], on the present thread, which must have the stack that the limits
    /// name. What is `spent` already counts against the budgets.
    ///
    /// # Errors
    /// See [`Template::execute`].
    pub fn execute_here(&self, data: &Value, today: Date, spent: &mut Spent) -> Result<String> {
        eval::execute(&self.source, &self.templates, data, today, &self.limits, spent)
    }
}
