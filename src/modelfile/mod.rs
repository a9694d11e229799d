//! The Modelfile language.
//!
//! ```text
//! bytes ──decode──▶ text ──parse──▶ Ast ──lower──▶ Recipe        errors
//!                                    │ └──lint──▶                warnings
//!                                    └──format──▶ text           mdl fmt
//!                                      Recipe ──print──▶ text    mdl show --modelfile
//! ```
//!
//! [`check`] runs the first line of it, and reports everything that is wrong in one run. A
//! Modelfile is a list of instructions, one to a line: a keyword, for PARAMETER and MESSAGE a name
//! or role, and a value to the end of the line or between quotes. The grammar is
//! `grammar/modelfile.pest`.

mod adapter_line;
mod ast;
mod decode;
mod format;
mod lint;
mod lower;
mod mistakes;
mod parameter_mistakes;
mod parse;
mod place;
mod print;
mod quoting;
mod recipe;
mod reports;
pub mod suggest;
pub mod parameters;
pub mod path;

pub use ast::{Ast, Instruction, Item, ItemKind, Keyword, Quoting, Value};
pub use decode::{MAX_BYTES, decode};
pub use format::format;
pub use lower::version;
pub use print::print;
pub use recipe::{AdapterLine, PromptSpans, Recipe, Spanned};

use std::path::Path;
use std::sync::Arc;

use crate::diagnostic::{Diagnostic, Errors, Result, Severity, Source};
use crate::world::World;
use reports::Reports;

/// A parsed Modelfile, and what is wrong with its syntax.
#[derive(Clone, Debug)]
pub struct Parsed {
    /// The tree. It is whole: lines with errors are in it as [`ItemKind::Error`]. It is empty for
    /// a file that is no text.
    pub ast: Ast,
    /// The errors, in order.
    pub diagnostics: Vec<Diagnostic>,
}

/// A Modelfile after all that can be said without opening a model.
#[derive(Clone, Debug)]
pub struct Checked {
    /// The tree.
    pub ast: Ast,
    /// What it means; complete only if there are no errors.
    pub recipe: Recipe,
    /// Errors and warnings, in order; at most 100 of each, then how many more there are.
    pub diagnostics: Vec<Diagnostic>,
}

impl Checked {
    /// True when one of the diagnostics is an error.
    pub fn has_errors(&self) -> bool {
        self.diagnostics.iter().any(|d| d.severity == Severity::Error)
    }

    /// The recipe and the warnings.
    ///
    /// # Errors
    /// All diagnostics, when one of them is an error.
    pub fn into_recipe(self) -> Result<(Recipe, Vec<Diagnostic>)> {
        if self.has_errors() { Err(Errors(self.diagnostics)) } else { Ok((self.recipe, self.diagnostics)) }
    }
}

/// Parses a Modelfile. `name` is what diagnostics call it.
pub fn parse(name: &str, bytes: &[u8]) -> Parsed {
    let mut reports = Reports::default();
    match decode(name, bytes) {
        Ok(source) => {
            let ast = parse::parse_source(source, &mut reports);
            Parsed { ast, diagnostics: reports.finish() }
        }
        Err(Errors(diagnostics)) => Parsed { ast: empty(name), diagnostics },
    }
}

/// The tree of a file that is no text.
fn empty(name: &str) -> Ast {
    let source = Source { name: name.to_owned(), text: String::new() };
    Ast { source: Arc::new(source), items: Vec::new() }
}

/// Lowers a tree to what it means, as far as that can be said without looking for files: a number at
/// the end of an ADAPTER line is taken for its scale. The diagnostics are errors and warnings about values, in order;
/// the recipe is complete only if none of them is an error and the tree has none.
pub fn lower(ast: &Ast) -> (Recipe, Vec<Diagnostic>) {
    let mut reports = Reports::default();
    let recipe = lower::lower_ast(ast, &mut reports);
    (recipe, reports.finish())
}

/// Warns about what a Modelfile says that is probably not meant. `base` is its directory, in which
/// `world` is asked for the files that FROM might name. A warning never fails anything by itself.
pub fn lint(ast: &Ast, world: &dyn World, base: &Path) -> Vec<Diagnostic> {
    let mut reports = Reports::default();
    lint::lint_ast(ast, world, base, &mut reports);
    reports.finish()
}

/// Parses, lowers and lints a Modelfile that stands in the directory `base`.
pub fn check(world: &dyn World, base: &Path, name: &str, bytes: &[u8]) -> Checked {
    let mut reports = Reports::default();
    match decode(name, bytes) {
        Ok(source) => {
            let ast = parse::parse_source(source, &mut reports);
            let mut recipe = lower::lower_ast(&ast, &mut reports);
            adapter_line::settle(&mut recipe, world, base);
            lint::lint_ast(&ast, world, base, &mut reports);
            Checked { ast, recipe, diagnostics: reports.finish() }
        }
        Err(Errors(diagnostics)) => Checked { ast: empty(name), recipe: Recipe::default(), diagnostics },
    }
}
