//! `mdl check`.

use std::path::{Path, PathBuf};

use clap::Args;

use super::{Global, MessageFormat, annotations, printable, write_out};
use crate::diagnostic::{Diagnostic, Errors, Result};
use crate::passes::{Context, Options};
use crate::pipeline::{self, Input};
use crate::prompt::isolated::ChildCommand;
use crate::prompt::{Renderer, SpecialTokens, Template, standard};
use crate::world::SystemWorld;

/// Reports every error and warning of a Modelfile or a template, without reading weights.
#[derive(Args)]
#[command(after_help = "\
Examples:
  mdl check                                  ./Modelfile
  mdl check --message-format json story/     for an editor
  mdl check --deny-warnings Modelfile        for CI
  mdl check --message-format github          annotations on a pull request
  mdl check --message-format sarif > mdl.sarif
  mdl check --render Modelfile               what the model reads
  mdl check --render chat_template.jinja     the same for a template alone")]
pub(super) struct Check {
    /// A Modelfile, a directory that has one, or a template: `.jinja`, `.gotmpl`, `.tmpl`
    #[arg(default_value = "Modelfile", value_name = "PATH")]
    path: Vec<PathBuf>,

    /// Print what the template makes of a few conversations: a system prompt, turns, a tool
    #[arg(long)]
    render: bool,

    /// Fail on warnings
    #[arg(long)]
    deny_warnings: bool,
}

impl Check {
    pub(super) fn run(self, global: &Global) -> Result<()> {
        let renderer = Renderer::in_children(ChildCommand::current()?);
        let mut warnings = Vec::new();
        let mut errors = Vec::new();
        for path in &self.path {
            match self.check(path, global, &renderer) {
                Ok(found) => warnings.extend(found),
                Err(found) => errors.extend(found.0),
            }
        }
        if global.message_format.is_document() {
            let all: Vec<Diagnostic> = errors.iter().chain(&warnings).cloned().collect();
            let document = match global.message_format {
                MessageFormat::Gitlab => annotations::gitlab(&all),
                _ => annotations::sarif(&all),
            };
            write_out(&format!("{document:#}\n"))?;
        }
        if !errors.is_empty() {
            global.print(&warnings);
            return Err(Errors(errors));
        }
        global.warn(&warnings, self.deny_warnings)
    }

    /// The warnings about one file.
    fn check(&self, path: &Path, global: &Global, renderer: &Renderer) -> Result<Vec<Diagnostic>> {
        if pipeline::is_template(path) {
            let (template, tokens, warnings) = pipeline::read_template(&SystemWorld, path, renderer)?;
            self.show(&template, &tokens, renderer)?;
            return Ok(warnings);
        }
        let Input { directory, checked, .. } = pipeline::read(&SystemWorld, path)?;
        let (recipe, mut warnings) = checked.into_recipe()?;
        if self.render {
            let store = global.open_store()?;
            let context = Context::new(&SystemWorld, Some(&store), directory, Options::default());
            let (template, tokens) = pipeline::template(&recipe, &context, renderer)?;
            warnings.extend(context.take_notes());
            self.show(&template, &tokens, renderer)?;
        }
        Ok(warnings)
    }

    fn show(&self, template: &Template, tokens: &SpecialTokens, renderer: &Renderer) -> Result<()> {
        if !self.render {
            return Ok(());
        }
        write_out(&printable(&standard::preview(renderer, template, tokens)?))
    }
}
