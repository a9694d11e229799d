//! The Go template engine against Go's own: `testdata/prompt/gotemplate/cases.json` holds what
//! text/template makes of each case.
#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used)]

use std::path::PathBuf;
use std::sync::Arc;

use jiff::civil::date;
use mdl::diagnostic::Source;
use mdl::prompt::gotemplate::{Template, Value};
use mdl::prompt::limits::Limits;
use serde_json::Value as Json;

/// JSON with its integers as integers, as the fixtures were made.
fn typed(json: &Json) -> Value {
    match json {
        Json::Null => Value::Null,
        Json::Bool(b) => Value::Bool(*b),
        Json::Number(n) => n.as_i64().map_or_else(|| Value::Float(n.as_f64().unwrap()), Value::Int),
        Json::String(s) => Value::from(s.as_str()),
        Json::Array(items) => Value::list(items.iter().map(typed).collect()),
        Json::Object(entries) => Value::map(entries.iter().map(|(k, v)| (k.clone(), typed(v)))),
    }
}

fn render(template: &str, data: &Value) -> Result<String, String> {
    let source = Arc::new(Source { name: "template".to_owned(), text: template.to_owned() });
    Template::parse(source, Limits::DEFAULT)
        .and_then(|t| t.execute(data, date(2026, 11, 24)))
        .map_err(|e| e.to_string())
}

#[test]
fn every_case_comes_out_as_go_has_it() {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("testdata/prompt/gotemplate/cases.json");
    let fixture: Json = serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap();
    let data = typed(&fixture["data"]);
    let cases = fixture["cases"].as_array().unwrap();
    assert!(cases.len() >= 400);
    let mut wrong = Vec::new();
    for case in cases {
        let template = case["template"].as_str().unwrap();
        let got = render(template, &data);
        match (case.get("output").and_then(Json::as_str), &got) {
            (Some(expected), Ok(text)) if expected == text => {}
            (None, Err(_)) => {}
            (Some(expected), got) => {
                wrong.push(format!("{template}\n  go:  {expected:?}\n  mdl: {got:?}"));
            }
            (None, Ok(text)) => wrong.push(format!("{template}\n  go:  {}\n  mdl: {text:?}", case["error"])),
        }
    }
    assert!(wrong.is_empty(), "{} of {} differ:\n{}", wrong.len(), cases.len(), wrong.join("\n"));
}
