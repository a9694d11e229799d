//! Diagnostics, symbols and formatting: what is said of a whole document.

use lsp_types::{
    Diagnostic, DiagnosticSeverity, DocumentSymbol, NumberOrString, PublishDiagnosticsParams, SymbolKind,
    TextEdit,
};

use super::document::Document;
use super::position::Encoding;
use crate::diagnostic::{self, Location, Severity};
use crate::modelfile;

/// What `mdl check` says of it.
pub(super) fn diagnostics(document: &Document, encoding: Encoding) -> PublishDiagnosticsParams {
    let diagnostics =
        document.checked.diagnostics.iter().map(|d| diagnostic(document, encoding, d)).collect();
    PublishDiagnosticsParams { uri: document.uri.clone(), diagnostics, version: Some(document.version) }
}

fn diagnostic(document: &Document, encoding: Encoding, d: &diagnostic::Diagnostic) -> Diagnostic {
    let range = match &d.location {
        Some(Location::Text(span)) => document.range(&span.range),
        _ => 0..0,
    };
    let mut message = d.message.clone();
    for line in d.label.iter().chain(&d.help) {
        message.push('\n');
        message.push_str(line);
    }
    Diagnostic {
        range: encoding.range(&document.text, &range),
        severity: Some(match d.severity {
            Severity::Error => DiagnosticSeverity::ERROR,
            Severity::Warning => DiagnosticSeverity::WARNING,
            Severity::Note => DiagnosticSeverity::INFORMATION,
        }),
        code: (!d.code.is_empty()).then(|| NumberOrString::String(d.code.to_owned())),
        source: Some("mdl".to_owned()),
        message,
        ..Diagnostic::default()
    }
}

/// The instructions, in order.
#[expect(deprecated, reason = "the protocol's type has a field that it no longer wants")]
pub(super) fn symbols(document: &Document, encoding: Encoding) -> Vec<DocumentSymbol> {
    let ast = &document.checked.ast;
    let symbol = |i: &modelfile::Instruction| {
        let mut name = i.keyword.name().to_owned();
        if let Some(word) = &i.word {
            name.push(' ');
            name.push_str(ast.text(word));
        }
        let first = ast.text(&i.value.text).lines().find(|line| !line.trim().is_empty()).unwrap_or("");
        let range = |range| encoding.range(&document.text, &document.range(range));
        DocumentSymbol {
            name,
            detail: Some(first.chars().take(80).collect()),
            kind: SymbolKind::PROPERTY,
            tags: None,
            deprecated: None,
            range: range(&(i.keyword_range.start..i.value.range.end)),
            selection_range: range(&i.keyword_range),
            children: None,
        }
    };
    ast.instructions().map(symbol).collect()
}

/// What formatting changes; nothing where lines have errors, as `mdl fmt` refuses those.
pub(super) fn format(document: &Document, encoding: Encoding) -> Option<Vec<TextEdit>> {
    if document.checked.ast.has_errors() {
        return None;
    }
    let new_text = modelfile::format(&document.checked.ast);
    if new_text == document.text {
        return Some(Vec::new());
    }
    let range = encoding.range(&document.text, &(0..document.text.len()));
    Some(vec![TextEdit { range, new_text }])
}
