//! Diagnostics as text and as JSON.

use std::ops::Range;

use annotate_snippets::{AnnotationKind, Group, Level, Origin, Renderer, Snippet, normalize_untrusted_str};
use serde_json::{Value, json};

use crate::diagnostic::{Diagnostic, Location, Severity, Source, Span};

/// Bytes shown before, at and after the place that is marked in a line too long to show.
const CONTEXT: usize = 80;

/// Bytes of a line too long to show.
const MAX_LINE: usize = 800;

/// Lines of a marked text beyond which only its first line is shown.
const MAX_LINES: usize = 6;

/// A diagnostic as a person reads it: the message, the place, the source line with a caret, what
/// to do. Ends in a line break.
pub fn render(diagnostic: &Diagnostic, color: bool) -> String {
    let level = match diagnostic.severity {
        Severity::Error => Level::ERROR,
        Severity::Warning => Level::WARNING,
        Severity::Note => Level::NOTE,
    };
    // Messages quote the input, which may hold control characters for a terminal.
    let mut title = level.primary_title(normalize_untrusted_str(&diagnostic.message));
    if !diagnostic.code.is_empty() {
        title = title.id(diagnostic.code);
    }
    let mut group = Group::with_title(title);
    match &diagnostic.location {
        Some(Location::Text(span)) => group = snippet(group, span, diagnostic.label.as_deref()),
        Some(Location::File { path, place }) => {
            let path = path.display().to_string();
            group = group.element(Origin::path(match place {
                Some(place) => format!("{path}: {place}"),
                None => path,
            }));
            if let Some(label) = &diagnostic.label {
                group = group.element(Level::NOTE.message(normalize_untrusted_str(label)));
            }
        }
        None => {
            if let Some(label) = &diagnostic.label {
                group = group.element(Level::NOTE.message(normalize_untrusted_str(label)));
            }
        }
    }
    for help in &diagnostic.help {
        group = group.element(Level::HELP.message(normalize_untrusted_str(help)));
    }
    let renderer = if color { Renderer::styled() } else { Renderer::plain() };
    let mut out = renderer.render(&[group]);
    out.push('\n');
    out
}

/// Adds the source lines of a span, with the caret and its label.
fn snippet<'a>(group: Group<'a>, span: &'a Span, label: Option<&str>) -> Group<'a> {
    let source = span.source.as_ref();
    let range = first_lines(source, clamp(span));
    let (line, column) = line_column(source, range.start);
    let lines = whole_lines(source, &range);
    let (shown, marked) = shorten(source, lines.clone(), range);
    let text = source.text.get(shown.clone()).unwrap_or("");
    let label = label.map(normalize_untrusted_str);
    let caret = AnnotationKind::Primary.span(marked.start - shown.start..marked.end - shown.start);
    let snippet = Snippet::source(text).line_start(line).annotation(caret.label(label));
    if shown == lines {
        return group.element(snippet.path(source.name.as_str()));
    }
    // The renderer would count columns from the cut.
    let origin = Origin::path(source.name.as_str()).line(line).char_column(column);
    group.element(origin).element(snippet)
}

/// A diagnostic for `--message-format json`. Lines and columns are one-based, columns in
/// characters, `byte_start` and `byte_end` in the text decoded to UTF-8; they are absent for a
/// place that is not in a text. `place` says where in a file without lines.
pub fn json(diagnostic: &Diagnostic) -> Value {
    let severity = match diagnostic.severity {
        Severity::Error => "error",
        Severity::Warning => "warning",
        Severity::Note => "note",
    };
    let mut out = json!({ "severity": severity });
    if !diagnostic.code.is_empty() {
        out["code"] = json!(diagnostic.code);
    }
    out["message"] = json!(diagnostic.message);
    if let Some(label) = &diagnostic.label {
        out["label"] = json!(label);
    }
    match &diagnostic.location {
        Some(Location::Text(span)) => {
            let range = clamp(span);
            let (line, column) = line_column(&span.source, range.start);
            let (end_line, end_column) = line_column(&span.source, range.end);
            out["file"] = json!(span.source.name);
            out["line"] = json!(line);
            out["column"] = json!(column);
            out["end_line"] = json!(end_line);
            out["end_column"] = json!(end_column);
            out["byte_start"] = json!(range.start);
            out["byte_end"] = json!(range.end);
        }
        Some(Location::File { path, place }) => {
            out["file"] = json!(path.display().to_string());
            if let Some(place) = place {
                out["place"] = json!(place);
            }
        }
        None => {}
    }
    out["help"] = json!(diagnostic.help);
    out
}

/// Where a diagnostic points, as its output formats say it.
pub(super) struct Place {
    /// The file.
    pub file: String,
    /// Line, column, and those of the end; one-based, columns in characters.
    pub lines: Option<[usize; 4]>,
}

/// The place of a diagnostic that has one.
pub(super) fn place(diagnostic: &Diagnostic) -> Option<Place> {
    match diagnostic.location.as_ref()? {
        Location::Text(span) => {
            let range = clamp(span);
            let (line, column) = line_column(&span.source, range.start);
            let (end_line, end_column) = line_column(&span.source, range.end);
            Some(Place { file: span.source.name.clone(), lines: Some([line, column, end_line, end_column]) })
        }
        Location::File { path, .. } => Some(Place { file: path.display().to_string(), lines: None }),
    }
}

/// The span's range, within its text and on character boundaries whatever the span says.
fn clamp(span: &Span) -> Range<usize> {
    let text = &span.source.text;
    let boundary = |at: usize| text.floor_char_boundary(at);
    let start = boundary(span.range.start);
    start..boundary(span.range.end).max(start)
}

fn line_column(source: &Source, at: usize) -> (usize, usize) {
    let before = source.text.get(..at).unwrap_or("");
    let line_start = before.rfind('\n').map_or(0, |n| n + 1);
    let line = before.matches('\n').count() + 1;
    (line, before.get(line_start..).unwrap_or("").chars().count() + 1)
}

/// The part of a range that is shown: all of it, or the rest of its first line if it has many.
fn first_lines(source: &Source, range: Range<usize>) -> Range<usize> {
    let text = source.text.get(range.clone()).unwrap_or("");
    if text.matches('\n').take(MAX_LINES).count() < MAX_LINES {
        return range;
    }
    range.start..range.start + text.find('\n').unwrap_or(text.len())
}

/// The lines that a range is on. Only they are given to the renderer, which reads all it is given.
fn whole_lines(source: &Source, range: &Range<usize>) -> Range<usize> {
    let text = source.text.as_str();
    let start = text.get(..range.start).and_then(|t| t.rfind('\n')).map_or(0, |n| n + 1);
    let length = text.get(range.end..).and_then(|t| t.find('\n'));
    start..length.map_or(text.len(), |n| range.end + n)
}

/// What is shown of the lines, and marked of the range: all, unless the lines are very long.
fn shorten(source: &Source, lines: Range<usize>, range: Range<usize>) -> (Range<usize>, Range<usize>) {
    if lines.len() <= MAX_LINE {
        return (lines, range);
    }
    let boundary = |at: usize| source.text.floor_char_boundary(at).clamp(lines.start, lines.end);
    let end = boundary(range.end.min(range.start.saturating_add(CONTEXT))).max(range.start);
    (boundary(range.start.saturating_sub(CONTEXT))..boundary(end.saturating_add(CONTEXT)), range.start..end)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;

    fn at(text: &str, range: Range<usize>) -> Diagnostic {
        let source = Arc::new(Source { name: "Modelfile".to_owned(), text: text.to_owned() });
        Diagnostic::error("wrong")
            .code("a-code")
            .label("here")
            .help("one")
            .help("two")
            .at(&Span { source, range })
    }

    fn snapshot(name: &str, diagnostic: &Diagnostic) {
        insta::with_settings!({
            snapshot_path => concat!(env!("CARGO_MANIFEST_DIR"), "/snapshots"),
            prepend_module_to_snapshot => false,
            omit_expression => true,
        }, {
            let json = serde_json::to_string_pretty(&json(diagnostic)).unwrap();
            insta::assert_snapshot!(name, format!("{}\n{json}\n", render(diagnostic, false)));
        });
    }

    #[test]
    fn places_are_shown() {
        snapshot("report_text", &at("FROM é x\nSYSTEM y\n", 8..9));
        snapshot("report_several_lines", &at("a\nbcd\nefg\nh\n", 3..8));
        snapshot("report_many_lines", &at(&format!("FROM x\n{}", "line\n".repeat(50)), 9..240));
        snapshot(
            "report_long_line",
            &at(&format!("a\n{}XYZ{}", "é".repeat(3000), "b".repeat(3000)), 6002..6005),
        );
        snapshot("report_end_of_text", &at("FROM", 4..4));
        let file =
            Diagnostic::error("wrong value").code("b-code").in_file("a/model.gguf", "key `x`").label("why");
        snapshot("report_file", &file.help("do this"));
        let bare = Diagnostic::environment("the disk is full").label("only 3 bytes are left");
        snapshot("report_no_place", &bare);
    }

    #[test]
    fn control_characters_do_not_reach_the_terminal() {
        let mut d = at("a\u{1b}[2J\u{202e}b", 1..3).label("x\u{1b}y").help("x\u{1b}y");
        d.message = "bad \u{1b}[31m".to_owned();
        let text = render(&d, false);
        assert!(!text.contains(['\u{1b}', '\u{202e}']), "{text}");
        assert!(render(&at("a", 0..1), true).contains("\u{1b}["), "colors are asked for");
    }

    #[test]
    fn a_wrong_span_is_no_panic() {
        for range in [0..100, 50..100, 2..2, 1..2, Range { start: 3, end: 1 }] {
            let d = at("é\nè", range);
            assert!(render(&d, false).contains("wrong"));
            assert!(json(&d)["line"].is_u64());
        }
    }
}
