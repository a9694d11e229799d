//! What the pointer is on: documentation, and where it leads.

use std::ops::Range;
use std::path::PathBuf;

use lsp_types::{GotoDefinitionResponse, Hover, HoverContents, Location, MarkupContent, MarkupKind};

use super::document::{Document, uri_of};
use super::position::Encoding;
use crate::ir::ParameterValue;
use crate::modelfile::parameters::{self, Parameter, ParameterType, Stage};
use crate::modelfile::{Instruction, Keyword};
use crate::world::{EntryKind, World};

/// What is known of the place: an instruction, a parameter, or a file.
pub(super) fn hover(
    world: &dyn World,
    document: &Document,
    encoding: Encoding,
    offset: usize,
) -> Option<Hover> {
    let offset = document.inside(offset);
    let instruction = document.instruction_at(offset)?;
    let ast = &document.checked.ast;
    let touches = |range: &Range<usize>| range.start <= offset && offset <= range.end;
    let (range, text) = match &instruction.word {
        _ if touches(&instruction.keyword_range) => {
            let text = format!("**{}**\n\n{}", instruction.keyword, instruction.keyword.doc());
            (instruction.keyword_range.clone(), text)
        }
        Some(word) if touches(word) && instruction.keyword == Keyword::Parameter => {
            (word.clone(), parameter(parameters::find(ast.text(word))?))
        }
        _ => {
            let (range, path) = file(world, document, instruction, offset)?;
            let text = match world.kind(&path) {
                Some(EntryKind::File) => match world.stamp(&path) {
                    Ok(stamp) => format!("`{}`\n\n{} bytes", path.display(), stamp.len),
                    Err(_) => format!("`{}`", path.display()),
                },
                Some(EntryKind::Directory) => format!("`{}`\n\na directory", path.display()),
                None => return None,
            };
            (range, text)
        }
    };
    Some(Hover {
        contents: HoverContents::Markup(MarkupContent { kind: MarkupKind::Markdown, value: text }),
        range: Some(encoding.range(&document.text, &document.range(&range))),
    })
}

/// A parameter: its type, range and default, and what it does.
pub(super) fn parameter(parameter: &Parameter) -> String {
    let mut text = format!("**{}**: {}", parameter.name, parameter.ty.name());
    let numeric = matches!(parameter.ty, ParameterType::Int | ParameterType::Float);
    if numeric && parameter.range.0.is_finite() {
        text += &format!(", {}", parameter.range_in_words());
    }
    text += &format!("\n\n{}\n", parameter.doc);
    match &parameter.default {
        Some(ParameterValue::Int(v)) => text += &format!("\nDefault: `{v}`"),
        Some(ParameterValue::Float(v)) => text += &format!("\nDefault: `{v}`"),
        Some(ParameterValue::Bool(v)) => text += &format!("\nDefault: `{v}`"),
        Some(ParameterValue::String(v)) => text += &format!("\nDefault: `{v}`"),
        Some(ParameterValue::Strings(_)) => text += "\nDefault: none",
        None if parameter.stage != Stage::Deprecated => text += "\nDefault: the runtime chooses",
        None => {}
    }
    if parameter.stage == Stage::Load {
        text += "\n\nTakes effect when the model is loaded.";
    }
    text
}

/// The file or directory that the value at an offset names, and where it is written.
fn file(
    world: &dyn World,
    document: &Document,
    instruction: &Instruction,
    offset: usize,
) -> Option<(Range<usize>, PathBuf)> {
    let recipe = &document.checked.recipe;
    let lines = match instruction.keyword {
        Keyword::From => recipe.from.iter().collect(),
        Keyword::Adapter => recipe.adapters.iter().map(|line| &line.path).collect(),
        Keyword::Draft => recipe.draft.iter().collect::<Vec<_>>(),
        _ => return None,
    };
    let line =
        lines.into_iter().find(|line| line.span.range.start <= offset && offset <= line.span.range.end)?;
    let path = document.path(world, &line.value)?;
    world.kind(&path).is_some().then(|| (line.span.range.clone(), path))
}

/// Where FROM, ADAPTER or DRAFT leads: the file, or of a directory the file that says what is in it.
pub(super) fn definition(
    world: &dyn World,
    document: &Document,
    offset: usize,
) -> Option<GotoDefinitionResponse> {
    let offset = document.inside(offset);
    let (_, path) = file(world, document, document.instruction_at(offset)?, offset)?;
    let path = match world.kind(&path)? {
        EntryKind::File => path,
        EntryKind::Directory => ["config.json", "adapter_config.json", "params.json", "Modelfile"]
            .iter()
            .map(|name| path.join(name))
            .find(|path| world.kind(path) == Some(EntryKind::File))?,
    };
    let uri = uri_of(&world.canonical(&path).ok()?)?;
    Some(GotoDefinitionResponse::Scalar(Location { uri, range: lsp_types::Range::default() }))
}
