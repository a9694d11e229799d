//! What is wrong with a TEMPLATE, before there is a conversation.
//!
//! Syntax and unknown functions are errors, as Go's parser refuses them. What fails only where it is reached,
//! such as a field that a message does not have, is a warning: the place may never be reached.

mod types;
mod walk;

use std::sync::Arc;

use crate::diagnostic::{Diagnostic, Location, Severity, Source, Span};

use super::gotemplate::Template;
use super::known;
use super::limits::Limits;
use super::thread::on_own_stack;

/// The most warnings about one template.
const MOST: usize = 20;

/// Errors and warnings of a TEMPLATE, in order. `place` is where its text stands, which diagnostics point
/// into.
pub fn check(text: &str, place: Option<&Span>, limits: Limits) -> Vec<Diagnostic> {
    let source = Arc::new(Source { name: "TEMPLATE".to_owned(), text: text.to_owned() });
    let found = Template::parse(source, limits).and_then(|template| {
        on_own_stack(limits.stack_bytes, || {
            let mut found = walk::warnings(&template);
            found.sort_by_key(start);
            found.dedup();
            found.truncate(MOST);
            Ok(found)
        })
    });
    let mut found = found.unwrap_or_else(|errors| errors.0);
    if let Some(diagnostic) = jinja(text, &mut found) {
        found.insert(0, diagnostic);
    }
    found.into_iter().map(|d| moved(d, text, place)).collect()
}

/// Says of a template in Jinja that it is one: to the errors that it has as a Go template, else as a warning.
fn jinja(text: &str, found: &mut [Diagnostic]) -> Option<Diagnostic> {
    let statement = |rest: &str| {
        let word = rest.trim_start_matches('-').trim_start();
        ["for ", "if ", "set ", "macro "].iter().any(|keyword| word.starts_with(keyword))
    };
    let at = text.match_indices("{%").map(|(at, _)| at).find(|at| statement(&text[at + 2..]))?;
    const LANGUAGE: &str = "`{% %}` is Jinja; a TEMPLATE is in Go's template language";
    let help = match known::nearest(text) {
        Some(known) => format!("in Go it is:\n{}", known.go),
        None => {
            "leave TEMPLATE out where the model has this chat template itself: then it is used".to_owned()
        }
    };
    if let Some(first) = found.first_mut().filter(|d| d.severity == Severity::Error) {
        first.help.extend([LANGUAGE.to_owned(), help]);
        return None;
    }
    let source = Arc::new(Source { name: "TEMPLATE".to_owned(), text: text.to_owned() });
    let span = Span { source, range: at..at + 2 };
    let warning = Diagnostic::warning("this is text to a TEMPLATE, and the model reads it as it stands");
    Some(warning.code("template-language").at(&span).help(LANGUAGE).help(help))
}

fn start(diagnostic: &Diagnostic) -> usize {
    match &diagnostic.location {
        Some(Location::Text(span)) => span.range.start,
        _ => 0,
    }
}

/// A diagnostic of a template's text, pointing to where that text stands.
fn moved(mut diagnostic: Diagnostic, text: &str, place: Option<&Span>) -> Diagnostic {
    let Some(place) = place else { return diagnostic };
    diagnostic.location = Some(Location::Text(match &diagnostic.location {
        Some(Location::Text(span)) if place.source.text.get(place.range.clone()) == Some(text) => {
            let from = place.range.start;
            Span { source: place.source.clone(), range: from + span.range.start..from + span.range.end }
        }
        _ => place.clone(),
    }));
    diagnostic
}

#[cfg(test)]
mod tests {
    use std::fmt::Write as _;

    use super::*;

    fn shown(text: &str) -> String {
        let mut out = format!("{text:?}\n");
        for d in check(text, None, Limits::DEFAULT) {
            let marked = match &d.location {
                Some(Location::Text(span)) => &text[span.range.clone()],
                _ => "nowhere",
            };
            writeln!(out, "  {:?} [{}] {d}: `{marked}`", d.severity, d.code).unwrap();
            d.help.iter().for_each(|help| writeln!(out, "    {help}").unwrap());
        }
        out
    }

    #[test]
    fn what_cannot_be_is_told_where_it_stands() {
        let mut report = String::new();
        for text in [
            "{{ .mesages }}{{ .Sytem }}{{ .Context }}",
            "{{ range .Messages }}{{ .Contents }}{{ .Role.Name }}{{ $.Prompts }}{{ end }}",
            "{{ range $i, $m := .Messages }}{{ $m.ToolCals }}{{ $i.Foo }}{{ range $m.ToolCalls }}{{ .Name }}{{ .Function.Arguments.city }}{{ .Function.arguments }}{{ end }}{{ end }}",
            "{{ .Messages.Content }}{{ (index .Messages 0).Conten }}{{ (index .Messages 0).Content }}",
            "{{ with .Tools }}{{ range . }}{{ .Function.Parameters.Propertys }}{{ range $n, $p := .Function.Parameters.Properties }}{{ $p.ToTypeScriptType }}{{ $p.Types }}{{ .Type }}{{ end }}{{ end }}{{ end }}",
            "{{ len }}{{ json .Tools .System }}{{ not .System .Prompt }}{{ .Tools | json .System }}{{ ne .System }}",
            "{{ eq .System 1 }}{{ ne .Think \"true\" }}{{ lt (len .Messages) \"3\" }}{{ eq .System .Prompt \"x\" }}",
            "{{ range .System }}{{ end }}{{ range 3 }}{{ end }}{{ range .Think }}{{ end }}{{ len .Think }}",
            "{{ .System .Prompt }}{{ \"x\" | .System }}",
            "{{ define \"m\" }}{{ .Rol }}{{ end }}{{ range .Messages }}{{ template \"m\" . }}{{ end }}{{ template \"n\" . }}",
            "{{ $x := \"\" }}{{ range .Messages }}{{ if $x }}{{ $x.Content }}{{ end }}{{ $x = . }}{{ end }}",
            "{{ if .Suffix }}{{ .Suffix }}{{ else if $s := .System }}{{ $s.Foo }}{{ else }}{{ $s }}{{ end }}",
            "{{ trim .System }}",
            "{{ if .System }}",
            "{% for m in messages %}{{ m['content'] }}{% endfor %}",
            "{%- if true %}x{% endif %}{{ .Prompt }}",
            super::super::known::KNOWN[2].jinja[0],
            "100 {% sure",
        ] {
            report.push_str(&shown(text));
        }
        insta::with_settings!({
            snapshot_path => concat!(env!("CARGO_MANIFEST_DIR"), "/snapshots"),
            prepend_module_to_snapshot => false,
            omit_expression => true,
        }, { insta::assert_snapshot!("prompt_check", report) });
    }

    #[test]
    fn templates_that_are_right_are_left_alone() {
        for known in &super::super::known::KNOWN {
            assert!(check(known.go, None, Limits::DEFAULT).is_empty(), "{}", shown(known.go));
        }
        let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/testdata/prompt/go");
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.extension().is_some_and(|e| e == "gotmpl") {
                let text = std::fs::read_to_string(&path).unwrap();
                assert!(check(&text, None, Limits::DEFAULT).is_empty(), "{}", shown(&text));
            }
        }
    }

    #[test]
    fn a_template_of_nothing_but_mistakes_costs_little() {
        let text = "{{ .Foo }}".repeat(9_000);
        assert_eq!(check(&text, None, Limits::DEFAULT).len(), MOST);
        let calls: String = (0..2_000)
            .map(|i| format!("{{{{ define \"t{i}\" }}}}{{{{ template \"t{0}\" . }}}}{{{{ template \"t{0}\" $ }}}}{{{{ end }}}}", i + 1))
            .collect();
        let found = check(&format!("{calls}{{{{ template \"t0\" . }}}}"), None, Limits::DEFAULT);
        assert_eq!(found.len(), 2);
    }

    #[test]
    fn places_are_those_of_the_modelfile() {
        let text = "FROM x\nTEMPLATE \"\"\"a\n{{ .Promt }}\"\"\"\n";
        let source = Arc::new(Source { name: "Modelfile".to_owned(), text: text.to_owned() });
        let start = text.find("a\n").unwrap();
        let place = Span { source, range: start..text.rfind("\"\"\"").unwrap() };
        let template = &text[place.range.clone()];
        let found = check(template, Some(&place), Limits::DEFAULT);
        assert_eq!(found[0].to_string(), "Modelfile:3:4: there is no variable `.Promt`");
    }
}
