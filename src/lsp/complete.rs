//! What may be written at a place.

use std::ops::Range;

use lsp_types::{CompletionItem, CompletionItemKind, CompletionTextEdit, Documentation, TextEdit};
use lsp_types::{MarkupContent, MarkupKind};

use super::describe;
use super::document::Document;
use super::position::Encoding;
use crate::modelfile::Keyword;
use crate::modelfile::parameters::{self, PARAMETERS, ParameterType};
use crate::world::{EntryKind, World};

/// The most entries of a directory, and the most models, that are offered.
const MOST: usize = 500;

/// What fits at `offset` of the document. `models` are the names of the store.
pub(super) fn complete(
    world: &dyn World,
    models: &dyn Fn() -> Vec<String>,
    document: &Document,
    encoding: Encoding,
    offset: usize,
) -> Vec<CompletionItem> {
    let Some(before) = document.text.get(..offset) else { return Vec::new() };
    let start = before.rfind('\n').map_or(0, |at| at + 1);
    let line = &before[start..];
    // On the later lines of a text in quotes, or in a comment, nothing is an instruction.
    let at = document.inside(offset);
    let started_before = document
        .instruction_at(at)
        .is_some_and(|i| document.range(&i.keyword_range).start < start && at <= i.value.range.end);
    if started_before || line.trim_start().starts_with('#') {
        return Vec::new();
    }
    let edit = |from: usize, label: String, kind, detail: &str, doc: &str, new_text: String| CompletionItem {
        kind: Some(kind),
        detail: (!detail.is_empty()).then(|| detail.to_owned()),
        documentation: (!doc.is_empty()).then(|| {
            Documentation::MarkupContent(MarkupContent { kind: MarkupKind::Markdown, value: doc.to_owned() })
        }),
        text_edit: Some(CompletionTextEdit::Edit(TextEdit {
            range: encoding.range(&document.text, &Range { start: from, end: offset }),
            new_text,
        })),
        label,
        ..CompletionItem::default()
    };
    let words: Vec<&str> = line.split_whitespace().collect();
    let open = line.ends_with([' ', '\t']);
    let last = if open { "" } else { words.last().copied().unwrap_or("") };
    let from = offset - last.len();
    let keyword = words.first().and_then(|word| Keyword::from_name(word));
    // The number of words before the one that is being written.
    let done = words.len() - usize::from(!open && !words.is_empty());
    match (done, keyword) {
        (0, _) => {
            let item = |(keyword, name): (Keyword, &str)| {
                edit(
                    from,
                    name.to_owned(),
                    CompletionItemKind::KEYWORD,
                    "",
                    keyword.doc(),
                    format!("{name} "),
                )
            };
            Keyword::ALL.into_iter().map(item).collect()
        }
        (1, Some(Keyword::Parameter)) => PARAMETERS
            .iter()
            .filter(|p| !p.is_deprecated())
            .map(|p| {
                let doc = describe::parameter(p);
                let kind = CompletionItemKind::PROPERTY;
                edit(from, p.name.to_owned(), kind, p.ty.name(), &doc, format!("{} ", p.name))
            })
            .collect(),
        (2, Some(Keyword::Parameter)) => {
            let Some(parameter) = words.get(1).and_then(|name| parameters::find(name)) else {
                return Vec::new();
            };
            let values = match parameter.ty {
                ParameterType::Bool => vec!["true".to_owned(), "false".to_owned()],
                _ => vec![parameter.example()],
            };
            let kind = CompletionItemKind::VALUE;
            values.into_iter().map(|v| edit(from, v.clone(), kind, parameter.doc, "", v)).collect()
        }
        (1, Some(Keyword::Message)) => ["system", "user", "assistant"]
            .map(|role| edit(from, role.to_owned(), CompletionItemKind::VALUE, "", "", format!("{role} ")))
            .into(),
        (1, Some(keyword @ (Keyword::From | Keyword::Adapter | Keyword::Draft))) => {
            let mut items: Vec<CompletionItem> = entries(world, document, last)
                .into_iter()
                .map(|(name, kind)| {
                    let kind = match kind {
                        EntryKind::File => CompletionItemKind::FILE,
                        EntryKind::Directory => CompletionItemKind::FOLDER,
                    };
                    // Only the last part of the path is written anew.
                    let from = offset - last.rsplit('/').next().unwrap_or("").len();
                    edit(from, name.clone(), kind, "", "", name)
                })
                .collect();
            if keyword == Keyword::From {
                let model = |name: String| {
                    edit(from, name.clone(), CompletionItemKind::MODULE, "a model of the store", "", name)
                };
                items.extend(models().into_iter().take(MOST).map(model));
            }
            items
        }
        _ => Vec::new(),
    }
}

/// What is in the directory that a path has come to; directories end with a slash.
fn entries(world: &dyn World, document: &Document, typed: &str) -> Vec<(String, EntryKind)> {
    let directory = typed.rfind('/').map_or("", |at| &typed[..=at]);
    let Some(directory) = document.path(world, directory) else { return Vec::new() };
    let names = world.names(&directory).unwrap_or_default();
    let entry = |name: String| {
        let kind = world.kind(&directory.join(&name))?;
        (!name.starts_with('.')).then(|| match kind {
            EntryKind::File => (name, kind),
            EntryKind::Directory => (name + "/", kind),
        })
    };
    names.into_iter().filter_map(entry).take(MOST).collect()
}
