//! Diagnostics as code hosts read them: SARIF, GitHub's annotations, GitLab's Code Quality.

use std::collections::{BTreeSet, HashMap};

use serde_json::{Value, json};

use super::report::{self, Place};
use crate::diagnostic::{Diagnostic, Location, Severity};
use crate::store::Digest;

/// What a diagnostic without a name of its own is called.
const UNNAMED: &str = "mdl";

fn code(d: &Diagnostic) -> &str {
    if d.code.is_empty() { UNNAMED } else { d.code }
}

/// All that a diagnostic says, in lines.
fn text(d: &Diagnostic) -> String {
    let mut lines = vec![d.message.clone()];
    lines.extend(d.label.clone());
    if let Some(Location::File { place: Some(place), .. }) = &d.location {
        lines.push(format!("at {place}"));
    }
    lines.extend(d.help.iter().map(|help| format!("help: {help}")));
    lines.join("\n")
}

/// A SARIF 2.1.0 log of one run.
pub(super) fn sarif(all: &[Diagnostic]) -> Value {
    let codes: BTreeSet<&str> = all.iter().map(code).collect();
    let rules: Vec<Value> = codes.iter().map(|id| json!({ "id": id })).collect();
    let results: Vec<Value> = all
        .iter()
        .map(|d| {
            let level = match d.severity {
                Severity::Error => "error",
                Severity::Warning => "warning",
                Severity::Note => "note",
            };
            let index = codes.iter().position(|c| *c == code(d));
            let mut result = json!({
                "ruleId": code(d), "ruleIndex": index, "level": level, "message": { "text": text(d) },
            });
            if let Some(place) = report::place(d) {
                let mut physical = json!({ "artifactLocation": { "uri": uri(&place.file) } });
                if let Some([line, column, end_line, end_column]) = place.lines {
                    physical["region"] = json!({
                        "startLine": line, "startColumn": column, "endLine": end_line, "endColumn": end_column,
                    });
                }
                result["locations"] = json!([{ "physicalLocation": physical }]);
            }
            result
        })
        .collect();
    json!({
        "$schema": "https://json.schemastore.org/sarif-2.1.0.json",
        "version": "2.1.0",
        "runs": [{
            "tool": { "driver": { "name": "mdl", "semanticVersion": env!("CARGO_PKG_VERSION"), "rules": rules } },
            "columnKind": "unicodeCodePoints",
            "results": results,
        }],
    })
}

/// A relative reference as RFC 3986 has it: segments in percent encoding.
fn uri(path: &str) -> String {
    let path = if cfg!(windows) { path.replace('\\', "/") } else { path.to_owned() };
    let plain = |b: u8| b.is_ascii_alphanumeric() || b"-._~/!$&'()*+,;=@".contains(&b);
    let path = path.strip_prefix("./").unwrap_or(&path);
    path.bytes().map(|b| if plain(b) { char::from(b).to_string() } else { format!("%{b:02X}") }).collect()
}

/// An annotation of GitHub Actions: one line.
pub(super) fn github(d: &Diagnostic) -> String {
    let level = match d.severity {
        Severity::Error => "error",
        Severity::Warning => "warning",
        Severity::Note => "notice",
    };
    let mut properties = Vec::new();
    if let Some(Place { file, lines }) = report::place(d) {
        properties.push(("file", file.strip_prefix("./").unwrap_or(&file).to_owned()));
        if let Some([line, column, end_line, end_column]) = lines {
            properties.push(("line", line.to_string()));
            properties.push(("endLine", end_line.to_string()));
            // Columns count only within one line.
            if line == end_line {
                properties.push(("col", column.to_string()));
                properties.push(("endColumn", end_column.to_string()));
            }
        }
    }
    properties.push(("title", code(d).to_owned()));
    let properties: Vec<String> = properties
        .into_iter()
        .map(|(name, value)| format!("{name}={}", command(&value).replace(':', "%3A").replace(',', "%2C")))
        .collect();
    format!("::{level} {}::{}", properties.join(","), command(&text(d)))
}

/// Text inside a command of GitHub Actions. What would begin another command, or steer a terminal, does not.
fn command(text: &str) -> String {
    let steers = |c: char| c.is_control() && !matches!(c, '\n' | '\r' | '\t');
    text.replace(steers, "\u{FFFD}").replace('%', "%25").replace('\r', "%0D").replace('\n', "%0A")
}

/// A GitLab Code Quality report.
pub(super) fn gitlab(all: &[Diagnostic]) -> Value {
    let mut seen: HashMap<String, usize> = HashMap::new();
    let entries = all.iter().map(|d| {
        let severity = match d.severity {
            Severity::Error => "critical",
            Severity::Warning => "minor",
            Severity::Note => "info",
        };
        let place = report::place(d);
        let file = place.as_ref().map_or("Modelfile", |p| p.file.as_str());
        let path = file.strip_prefix("./").unwrap_or(file);
        let line = place.as_ref().and_then(|p| p.lines).map_or(1, |[line, ..]| line);
        // The same in a later version of the file, wherever its line has moved.
        let identity = format!("{}\0{path}\0{}", code(d), d.message);
        let again = seen.entry(identity.clone()).and_modify(|n| *n += 1).or_insert(0);
        let fingerprint = Digest::of(format!("{identity}\0{again}").as_bytes()).hex();
        json!({
            "description": text(d), "check_name": code(d), "fingerprint": fingerprint, "severity": severity,
            "location": { "path": path, "lines": { "begin": line } },
        })
    });
    entries.collect()
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::diagnostic::{Source, Span};

    #[test]
    fn paths_are_references() {
        assert_eq!(uri("./a b/Modelfile"), "a%20b/Modelfile");
        assert_eq!(uri("/m/é#1?"), "/m/%C3%A9%231%3F");
        assert_eq!(uri("a:b"), "a%3Ab");
    }

    #[test]
    fn a_message_is_no_command() {
        let source = Arc::new(Source { name: "a,b:c\n::d".into(), text: "x\ny".into() });
        let d =
            Diagnostic::warning("100 %\n::error::no\u{1b}[2J").code("c").at(&Span { source, range: 0..3 });
        let line = github(&d);
        assert_eq!(
            line,
            "::warning file=a%2Cb%3Ac%0A%3A%3Ad,line=1,endLine=2,title=c::100 %25%0A::error::no\u{FFFD}[2J"
        );
    }

    #[test]
    fn fingerprints_do_not_follow_lines_and_are_unique() {
        let at = |range: std::ops::Range<usize>| {
            let source = Arc::new(Source { name: "M".into(), text: "a\nb\nc".into() });
            Diagnostic::error("e").at(&Span { source, range })
        };
        let print = |all: &[Diagnostic], i: usize| gitlab(all)[i]["fingerprint"].clone();
        assert_eq!(print(&[at(0..1)], 0), print(&[at(2..3)], 0));
        assert_ne!(print(&[at(0..1), at(2..3)], 0), print(&[at(0..1), at(2..3)], 1));
    }
}
