//! What is allowed but probably not meant.

use std::collections::HashMap;
use std::ops::Range;
use std::path::Path;

use super::ast::{Ast, Instruction, Keyword, Quoting};
use super::mistakes::starts_with_keyword;
use super::parameters::{self, ParameterType};
use super::path;
use super::reports::Reports;
use super::suggest::{excerpt, is_invisible};
use crate::diagnostic::Diagnostic;
use crate::world::World;

/// Warns about what a Modelfile says that is probably not meant. `base` is its directory.
pub(super) fn lint_ast(ast: &Ast, world: &dyn World, base: &Path, reports: &mut Reports) {
    overridden(ast, reports);
    messages(ast, reports);
    sources(ast, world, base, reports);
    for instruction in ast.instructions() {
        match instruction.keyword {
            Keyword::Parameter => parameter(ast, instruction, reports),
            Keyword::Template => template(ast, instruction, reports),
            _ => {}
        }
        value(ast, instruction, reports);
    }
}

/// A value that a later line replaces by another one.
fn overridden(ast: &Ast, reports: &mut Reports) {
    let mut last: HashMap<(Keyword, &str), &Instruction> = HashMap::new();
    for instruction in ast.instructions() {
        let name = match instruction.keyword {
            Keyword::From | Keyword::Adapter | Keyword::License | Keyword::Message => continue,
            Keyword::Parameter => {
                let name = instruction.word.as_ref().map_or("", |word| ast.text(word));
                let text = ast.text(&instruction.value.text);
                match parameters::find(name).filter(|p| !p.is_deprecated() && p.parse(text).is_ok()) {
                    Some(p) if p.ty != ParameterType::Strings => p.name,
                    _ => continue,
                }
            }
            _ => "",
        };
        let Some(earlier) = last.insert((instruction.keyword, name), instruction) else { continue };
        if ast.text(&earlier.value.text) == ast.text(&instruction.value.text) {
            continue;
        }
        reports.warning(|| {
            let what =
                if name.is_empty() { earlier.keyword.to_string() } else { format!("parameter `{name}`") };
            not_used(ast, earlier, &what, instruction)
        });
    }
    if let (Some(template), Some(renderer)) =
        (last.get(&(Keyword::Template, "")), last.get(&(Keyword::Renderer, "")))
        && !renderer.value.text.is_empty()
    {
        reports.warning(|| {
            let (line, _) = ast.span(&renderer.keyword_range).line_column();
            Diagnostic::warning("this TEMPLATE is not used")
                .code("overridden")
                .at(&ast.span(&first_line(ast, template)))
                .label(format!("the RENDERER of line {line} takes its place"))
                .help("delete one of the two")
        });
    }
}

fn not_used(ast: &Ast, earlier: &Instruction, what: &str, later: &Instruction) -> Diagnostic {
    let (line, _) = ast.span(&later.keyword_range).line_column();
    Diagnostic::warning(format!("this {what} is not used"))
        .code("overridden")
        .at(&ast.span(&first_line(ast, earlier)))
        .label(format!("line {line} sets another value, and the last one counts"))
        .help("delete one of the two lines")
}

/// An instruction as far as its first line.
fn first_line(ast: &Ast, instruction: &Instruction) -> Range<usize> {
    let range = instruction.keyword_range.start..instruction.value.range.end;
    let length = ast.text(&range).find(['\r', '\n']).unwrap_or(range.len());
    range.start..range.start + length
}

/// An example conversation that does not alternate.
fn messages(ast: &Ast, reports: &mut Reports) {
    let mut before: Option<&str> = None;
    let mut last = None;
    for instruction in ast.instructions().filter(|i| i.keyword == Keyword::Message) {
        let Some(word) = &instruction.word else { continue };
        let role = ast.text(word);
        if role != "system" && before == Some(role) {
            reports.warning(|| {
                Diagnostic::warning(format!("two {role} messages in a row"))
                    .code("message-order")
                    .at(&ast.span(word))
                    .help("templates join them with a blank line; if one message is meant, write one")
            });
        }
        before = Some(role);
        last = Some((role, word));
    }
    if let Some(("user", word)) = last {
        reports.warning(|| {
            Diagnostic::warning("the last message is the user's")
                .code("message-order")
                .at(&ast.span(word))
                .help("the messages are an example conversation: add the assistant's answer")
        });
    }
}

/// FROM: names that are paths as well, and names that a later one replaces.
fn sources(ast: &Ast, world: &dyn World, base: &Path, reports: &mut Reports) {
    let mut named: Option<&Instruction> = None;
    for instruction in ast.instructions().filter(|i| i.keyword == Keyword::From) {
        let text = &instruction.value.text;
        let name = ast.text(text);
        let looks_like_a_path = name.starts_with(['.', '/', '\\', '~'])
            || [".gguf", ".safetensors", ".bin"].iter().any(|end| name.ends_with(end));
        if looks_like_a_path {
            continue;
        }
        if path::expand(world, base, name).is_ok_and(|path| world.kind(&path).is_some()) {
            reports.warning(|| {
                Diagnostic::warning(format!("`{}` is a model's name and a path", excerpt(name)))
                    .code("ambiguous-from")
                    .at(&ast.span(text))
                    .label("the path is taken, because it exists")
                    .help(format!("write `FROM ./{}` to say that the path is meant", excerpt(name)))
            });
            continue;
        }
        if let Some(earlier) = named.replace(instruction)
            && ast.text(&earlier.value.text) != name
        {
            reports.warning(|| not_used(ast, earlier, "FROM", instruction));
        }
    }
}

fn parameter(ast: &Ast, instruction: &Instruction, reports: &mut Reports) {
    let name = instruction.word.as_ref().map_or("", |word| ast.text(word));
    let Some(parameter) = parameters::find(name).filter(|p| !p.is_deprecated()) else { return };
    let text = &instruction.value.text;
    if parameter.ty == ParameterType::Strings && text.is_empty() {
        reports.warning(|| {
            Diagnostic::warning(format!("`{name}` with an empty text"))
                .code("empty-value")
                .at(&ast.span(&instruction.value.range))
                .help("delete the line: an empty text cannot mark the end of anything")
        });
    }
    if parameter.parse(ast.text(text)).is_ok_and(|value| parameter.is_out_of_range(&value)) {
        reports.warning(|| {
            Diagnostic::warning(format!("`{name}` should be {}", parameter.range_in_words()))
                .code("out-of-range")
                .at(&ast.span(text))
                .help(format!("`{name}`: {}", parameter.doc))
        });
    }
}

/// A template that cannot show the user's message.
fn template(ast: &Ast, instruction: &Instruction, reports: &mut Reports) {
    let text = ast.text(&instruction.value.text);
    if text.is_empty() {
        return;
    }
    let mut actions = actions(text).peekable();
    let (message, help) = if actions.peek().is_none() {
        (
            "this TEMPLATE uses no variable",
            "the model would be given the same text whatever the user says; \
             for instance `TEMPLATE {{ .System }} {{ .Prompt }}`",
        )
    } else if !actions.any(|action| [".Prompt", ".Messages"].iter().any(|v| action.contains(v))) {
        ("this TEMPLATE never shows the user's message", "use `{{ .Prompt }}`, or go over `.Messages`")
    } else {
        return;
    };
    reports.warning(|| {
        Diagnostic::warning(message)
            .code("template-without-prompt")
            .at(&ast.span(&instruction.keyword_range))
            .help(help)
    });
}

/// What stands between `{{` and `}}`. Only for warnings: strings and comments are not told apart.
fn actions(template: &str) -> impl Iterator<Item = &str> {
    template.split("{{").skip(1).map(|rest| rest.split_once("}}").map_or(rest, |(action, _)| action))
}

/// What can be suspicious about any value.
fn value(ast: &Ast, instruction: &Instruction, reports: &mut Reports) {
    let Instruction { keyword, value, .. } = instruction;
    let text = ast.text(&value.text);
    if value.quoting == Quoting::Bare && text.is_empty() {
        reports.warning(|| {
            Diagnostic::warning(format!("{keyword} has an empty value"))
                .code("empty-value")
                .at(&ast.span(&instruction.keyword_range))
                .help("if that is meant, say so with `\"\"`")
        });
    }
    if value.quoting == Quoting::Single
        && let Some(at) = line_with_keyword(text)
    {
        reports.warning(|| {
            let start = value.text.start + at;
            let length = ast.text(&(start..value.text.end)).find([' ', '\t']).unwrap_or(0);
            let (line, _) = ast.span(&value.range).line_column();
            Diagnostic::warning(format!("this line belongs to the {keyword} of line {line}"))
                .code("instruction-in-value")
                .at(&ast.span(&(start..start + length)))
                .label("looks like an instruction, but is inside of quotes")
                .help(format!(
                    "the `\"` of line {line} closes where a line ends in `\"`; if all of it is meant, use `\"\"\"`"
                ))
        });
    }
    if let Some(at) = text.find(" #")
        && matches!(
            keyword,
            Keyword::From | Keyword::Adapter | Keyword::Draft | Keyword::Renderer | Keyword::Parser
        )
    {
        reports.warning(|| {
            Diagnostic::warning(format!("`#` is part of what {keyword} names"))
                .code("comment-in-value")
                .at(&ast.span(&(value.text.start + at + 1..value.text.end)))
                .help("a comment stands on a line of its own")
        });
    }
    if let Some(at) = text.find("\r\n") {
        reports.warning(|| {
            let start = value.text.start + at;
            let first = ast.text(&(value.text.start..start)).rfind('\n').map_or(0, |n| n + 1);
            Diagnostic::warning(format!("this {keyword} has CRLF line ends"))
                .code("crlf-in-value")
                .at(&ast.span(&(value.text.start + first..start)))
                .help("the CR becomes part of what the model reads; save the file with LF line ends")
        });
    }
    let is_prose =
        matches!(keyword, Keyword::System | Keyword::Template | Keyword::License | Keyword::Message);
    let suspicious = |c: char| if is_prose { c.is_control() } else { c.is_control() || is_invisible(c) };
    let hidden = text.char_indices().find(|(_, c)| suspicious(*c) && !matches!(c, '\t' | '\r' | '\n'));
    if let Some((at, c)) = hidden {
        reports.warning(|| {
            let start = value.text.start + at;
            Diagnostic::warning(format!("this {keyword} holds an invisible U+{:04X}", u32::from(c)))
                .code("invisible-character")
                .at(&ast.span(&(start..start + c.len_utf8())))
                .help("it is kept as part of the value (Ollama drops it); delete it if it is not meant")
        });
    }
}

/// The start of a line, other than the first, that looks like an instruction.
fn line_with_keyword(text: &str) -> Option<usize> {
    text.match_indices('\n').map(|(at, _)| at + 1).find(|at| text.get(*at..).is_some_and(starts_with_keyword))
}
