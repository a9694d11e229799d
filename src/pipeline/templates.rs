//! How a model is spoken to, at a build: its TEMPLATE and its chat template.

use std::path::Path;
use std::sync::Arc;

use super::compile;
use crate::diagnostic::{Diagnostic, Result, Source, Span};
use crate::ir::Module;
use crate::modelfile::{Recipe, path};
use crate::passes::Context;
use crate::prompt::agreement::Trial;
use crate::prompt::{self, GoTemplate, JinjaTemplate, Limits, Renderer, SpecialTokens, Template};
use crate::tokenizer::Tokenizer;
use crate::world::{self, World};

/// Looks at how the model is spoken to. Weights from outside of the store get the TEMPLATE that their own chat
/// template is known by; and where this build decides on a template, it is tried.
pub(super) fn try_templates(
    module: &mut Module,
    recipe: &Recipe,
    context: &Context<'_>,
    renderer: &Renderer,
) -> Result<()> {
    let is_there = |from: &str| {
        path::expand(context.world, &context.directory, from).is_ok_and(|p| context.world.kind(&p).is_some())
    };
    let from_files = recipe.from.first().is_some_and(|from| is_there(&from.value));
    if !from_files && recipe.prompt.template.is_none() {
        return Ok(());
    }
    let Module { metadata, prompt, .. } = module;
    let chat_template = metadata.str("tokenizer.chat_template");
    // One that cannot be read is an error where it is used; what is said here are warnings.
    let tokenizer = Tokenizer::from_metadata(metadata).ok();
    let trial = Trial { renderer, tokens: SpecialTokens::of(metadata), tokenizer: tokenizer.as_ref() };
    if let Some(text) = chat_template.filter(|_| from_files)
        && let Some(known) = trial.adopt(prompt, text)
    {
        context.note(Diagnostic::note(format!("using autodetected template {}", known.name)));
    }
    for warning in trial.review(prompt, chat_template, recipe.spans.template.as_ref())? {
        context.note(warning);
    }
    Ok(())
}

/// The template of a model that is not built yet, and the texts of its tokens: TEMPLATE, else the chat template
/// of what FROM names.
///
/// # Errors
/// What the passes report; the template is malformed.
pub fn template(
    recipe: &Recipe,
    context: &Context<'_>,
    renderer: &Renderer,
) -> Result<(Template, SpecialTokens)> {
    let own = recipe.prompt.template.as_deref().filter(|t| !t.is_empty());
    if own.is_some() {
        // It is its own text: no model is opened.
        return Ok((Template::choose(own, None, Limits::DEFAULT)?, SpecialTokens::default()));
    }
    let module = compile(recipe, context, renderer, &mut |_, _| {})?;
    let chat_template = module.metadata.str("tokenizer.chat_template");
    let own = module.prompt.template.as_deref();
    Ok((Template::choose(own, chat_template, Limits::DEFAULT)?, SpecialTokens::of(&module.metadata)))
}

/// True for a file that is a template by its name: `.jinja`, or `.gotmpl` and `.tmpl` in Go's language.
pub fn is_template(path: &Path) -> bool {
    path.extension().is_some_and(|e| e == "jinja" || e == "gotmpl" || e == "tmpl")
}

/// A file that is a template, the texts of tokens to try it with, and warnings about it.
///
/// # Errors
/// There is no such file, or it is no template.
pub fn read_template(
    world: &dyn World,
    path: &Path,
    renderer: &Renderer,
) -> Result<(Template, SpecialTokens, Vec<Diagnostic>)> {
    let limits = Limits::DEFAULT;
    let bytes = world::read_file(world, path, limits.source_bytes as u64)?;
    let text = String::from_utf8(bytes)
        .map_err(|e| Diagnostic::error(format!("the template is not UTF-8: {e}")).in_file(path, ""))?;
    let name = path.display().to_string();
    let tokens = SpecialTokens { bos: Some("<bos>".to_owned()), eos: Some("<eos>".to_owned()) };
    if path.extension().is_some_and(|e| e == "jinja") {
        let template = Template::Jinja(JinjaTemplate::unread(&name, &text, limits)?);
        renderer.check(&template)?;
        return Ok((template, tokens, Vec::new()));
    }
    let template = Template::Go(GoTemplate::parse(&name, &text, limits)?);
    let source = Arc::new(Source { name, text: text.clone() });
    let place = Span { source, range: 0..text.len() };
    Ok((template, tokens, prompt::check::check(&text, Some(&place), limits)))
}
