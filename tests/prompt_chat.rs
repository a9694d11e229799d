//! Whole templates on whole conversations: the expected texts are what Go's text/template and
//! Jinja2 make of them (testdata/prompt/generate).

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use jiff::civil::datetime;
use mdl::prompt::{ChatMessage, ChatRequest, Limits, SpecialTokens, Template, ToolCall};
use serde_json::Value as Json;

fn testdata() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("testdata/prompt")
}

fn read(path: &Path) -> String {
    std::fs::read_to_string(path).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
}

fn message(json: &Json) -> ChatMessage {
    let text = |json: &Json| json.as_str().unwrap_or_default().to_owned();
    let call =
        |c: &Json| ToolCall { id: text(&c["id"]), name: text(&c["name"]), arguments: c["arguments"].clone() };
    ChatMessage {
        role: text(&json["role"]),
        content: text(&json["content"]),
        tool_calls: json["tool_calls"].as_array().into_iter().flatten().map(call).collect(),
        tool_name: text(&json["tool_name"]),
        tool_call_id: text(&json["tool_call_id"]),
        ..ChatMessage::default()
    }
}

/// The sections of an `.expected` file by the conversation's name.
fn sections(text: &str) -> BTreeMap<&str, &str> {
    text.split("=== ")
        .skip(1)
        .map(|section| section.split_once('\n').unwrap())
        .map(|(name, text)| (name, text.strip_suffix('\n').unwrap()))
        .collect()
}

fn check(folder: &str, extension: &str, choose: impl Fn(&str) -> Template) {
    let conversations: Json = serde_json::from_str(&read(&testdata().join("conversations.json"))).unwrap();
    let tokens = SpecialTokens { bos: Some("<s>".to_owned()), eos: Some("</s>".to_owned()) };
    let mut checked = 0;
    let mut wrong = Vec::new();
    let mut paths: Vec<_> =
        std::fs::read_dir(testdata().join(folder)).unwrap().map(|e| e.unwrap().path()).collect();
    paths.sort();
    for path in paths.iter().filter(|p| p.extension().is_some_and(|e| e == extension)) {
        let template = choose(&read(path));
        let expected = read(&path.with_extension("expected"));
        for (name, expected) in sections(&expected) {
            let conversation = &conversations[name];
            let messages: Vec<_> = conversation["messages"].as_array().unwrap().iter().map(message).collect();
            let tools = conversation["tools"].as_array().map(Vec::as_slice).unwrap_or_default();
            let request = ChatRequest {
                tools,
                now: datetime(2026, 11, 24, 13, 5, 9, 0),
                ..ChatRequest::new(&messages)
            };
            checked += 1;
            match (template.render(&request, &tokens), expected.strip_prefix("!!! ")) {
                (Err(e), Some(said)) if e.to_string().contains(said) => {}
                (Ok(text), None) if text == expected => {}
                (got, _) => wrong.push(format!(
                    "{} on {name}\nexpected {expected:?}\ngot      {:?}",
                    path.display(),
                    got.map_err(|e| e.to_string())
                )),
            }
        }
    }
    assert!(checked >= 60, "only {checked} texts were checked");
    assert!(wrong.is_empty(), "{} of {checked} differ:\n{}", wrong.len(), wrong.join("\n"));
}

#[test]
fn go_templates_make_what_text_template_makes() {
    check("go", "gotmpl", |text| Template::choose(Some(text), None, Limits::DEFAULT).unwrap());
}

#[test]
fn jinja_templates_make_what_jinja2_makes() {
    check("jinja", "jinja", |text| Template::choose(None, Some(text), Limits::DEFAULT).unwrap());
}
