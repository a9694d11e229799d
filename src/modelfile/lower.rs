//! Syntax tree to recipe: which value counts, and of which type it is.

use super::adapter_line;
use super::ast::{Ast, Instruction, Keyword};
use super::parameter_mistakes;
use super::parameters;
use super::recipe::{Recipe, Spanned};
use super::reports::Reports;
use crate::diagnostic::{Diagnostic, Span};
use crate::ir::{Message, ParameterValue, Role};

/// Lowers a syntax tree. FROM, ADAPTER, LICENSE, MESSAGE and `PARAMETER stop` accumulate; of
/// everything else the last one counts. Deprecated parameters are left out.
pub(super) fn lower_ast(ast: &Ast, reports: &mut Reports) -> Recipe {
    let mut recipe = Recipe::default();
    for instruction in ast.instructions() {
        lower_instruction(ast, instruction, &mut recipe, reports);
    }
    adapter_line::check(&recipe, reports);
    // A line that could not be parsed may have been the FROM line.
    if recipe.from.is_empty() && !ast.has_errors() {
        reports.error(|| {
            Diagnostic::error("no FROM line")
                .code("missing-from")
                .at(&ast.span(&(0..0)))
                .label("a Modelfile says what the model is made from")
                .help("add a model's name, `FROM llama3.2`, or the path of its files, `FROM ./model`")
        });
    }
    recipe
}

fn lower_instruction(ast: &Ast, instruction: &Instruction, recipe: &mut Recipe, reports: &mut Reports) {
    let span = ast.span(&instruction.value.text);
    let value = ast.text(&instruction.value.text).to_owned();
    let prompt = &mut recipe.prompt;
    match instruction.keyword {
        Keyword::From => recipe.from.push(Spanned { value, span }),
        Keyword::Adapter => recipe.adapters.push(adapter_line::read(ast, instruction)),
        Keyword::Draft => recipe.draft = Some(Spanned { value, span }),
        Keyword::Template => {
            prompt.template = Some(value);
            recipe.spans.template = Some(span);
        }
        Keyword::System => prompt.system = Some(value),
        Keyword::License => prompt.licenses.push(value),
        Keyword::Renderer => {
            (prompt.renderer, recipe.spans.renderer) = unless_empty(value, span);
        }
        Keyword::Parser => {
            (prompt.parser, recipe.spans.parser) = unless_empty(value, span);
        }
        Keyword::Requires => match version(&value) {
            Some(version) => {
                prompt.requires = Some(version);
                recipe.spans.requires = Some(span);
            }
            None => reports.error(|| {
                Diagnostic::error("REQUIRES takes a semantic version")
                    .code("invalid-version")
                    .at(&span)
                    .label("not a semantic version")
                    .help("for instance `REQUIRES 0.14.0`")
            }),
        },
        Keyword::Message => {
            let role = instruction.word.as_ref().and_then(|word| Role::from_name(ast.text(word)));
            if let Some(role) = role {
                prompt.messages.push(Message { role, content: value });
            }
        }
        Keyword::Parameter => lower_parameter(ast, instruction, recipe, reports),
    }
}

/// An empty RENDERER or PARSER names none.
fn unless_empty(value: String, span: Span) -> (Option<String>, Option<Span>) {
    if value.is_empty() { (None, None) } else { (Some(value), Some(span)) }
}

/// A semantic version in full: without a leading `v`, missing minor and patch numbers as 0.
pub fn version(text: &str) -> Option<String> {
    let text = text.strip_prefix('v').unwrap_or(text);
    let dots = text.matches('.').count();
    let plain = text.bytes().all(|b| b.is_ascii_digit() || b == b'.');
    let full = match dots {
        0 if plain => format!("{text}.0.0"),
        1 if plain => format!("{text}.0"),
        _ => text.to_owned(),
    };
    semver::Version::parse(&full).ok().map(|version| version.to_string())
}

fn lower_parameter(ast: &Ast, instruction: &Instruction, recipe: &mut Recipe, reports: &mut Reports) {
    let Some(word) = &instruction.word else { return };
    let name = ast.text(word);
    let Some(parameter) = parameters::find(name) else {
        reports.error(|| parameter_mistakes::unknown(ast, word));
        return;
    };
    if parameter.is_deprecated() {
        reports.warning(|| parameter_mistakes::deprecated(ast, word));
        return;
    }
    let text = &instruction.value.text;
    let value = match parameter.parse(ast.text(text)) {
        Ok(value) => value,
        Err(why) => {
            reports.error(|| parameter_mistakes::value(ast, parameter, &instruction.value.range, why));
            return;
        }
    };
    let parameters = &mut recipe.prompt.parameters;
    let spans = &mut recipe.spans.parameters;
    match parameters.iter().position(|(n, _)| n == name) {
        Some(at) => match (&mut parameters[at].1, value) {
            (ParameterValue::Strings(all), ParameterValue::Strings(more)) => all.extend(more),
            (old, new) => {
                *old = new;
                spans[at] = ast.span(text);
            }
        },
        None => {
            parameters.push((name.to_owned(), value));
            spans.push(ast.span(text));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::version;

    #[test]
    fn versions_are_written_in_full() {
        assert_eq!(version("v0.14.0").as_deref(), Some("0.14.0"));
        assert_eq!(version("0.14").as_deref(), Some("0.14.0"));
        assert_eq!(version("1").as_deref(), Some("1.0.0"));
        assert_eq!(version("1.2.3-rc.1+b").as_deref(), Some("1.2.3-rc.1+b"));
        for bad in ["", "v", "latest", "1.2.3.4", "01.2.3", "1.2-rc", ">=1.2.3", "1.", "V1.0.0"] {
            assert_eq!(version(bad), None, "{bad}");
        }
    }
}
