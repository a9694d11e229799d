//! Answers, whole and in pieces.

use super::super::families::FAMILIES;
use super::*;
use proptest::prelude::*;
use serde_json::json;

fn syntax(tools: ToolSyntax) -> OutputSyntax {
    let thinking = ThinkingSyntax { open: "<think>".to_owned(), close: "</think>".to_owned() };
    OutputSyntax { thinking: Some(thinking), tools: Some(tools) }
}

fn options() -> ReaderOptions {
    ReaderOptions {
        tools: vec!["weather".into(), "add".into()],
        thinking: true,
        begins_in_thinking: false,
        ..ReaderOptions::default()
    }
}

fn read(tools: &ToolSyntax, options: ReaderOptions, parts: &[&str]) -> Vec<Piece> {
    let mut reader = OutputReader::new(&syntax(tools.clone()), options);
    let mut pieces: Vec<Piece> = parts.iter().flat_map(|p| reader.push(p)).collect();
    pieces.extend(reader.finish());
    join(pieces)
}

fn call(name: &str, arguments: Json) -> Piece {
    Piece::ToolCall { name: name.to_owned(), arguments }
}

/// A call as its family writes it.
fn written(tools: &ToolSyntax, calls: &[(&str, Json)]) -> String {
    let one = |(name, arguments): &(&str, Json)| match &tools.call {
        CallSyntax::Object { name: n, arguments: a, .. } => {
            format!("{{\"{n}\": \"{name}\", \"{a}\": {arguments}}}")
        }
        CallSyntax::Named { between, before, after } => {
            format!("{before}{name}{between}{arguments}{after}")
        }
        CallSyntax::Tagged(call) => {
            let values: String = arguments
                .as_object()
                .unwrap()
                .iter()
                .map(|(key, value)| {
                    let value = value.as_str().map_or_else(|| value.to_string(), str::to_owned);
                    format!("{}{key}{}{}{value}{}", call.key.0, call.key.1, call.value.0, call.value.1)
                })
                .collect();
            format!("{}{name}{}{values}{}", call.name.0, call.name.1, call.end)
        }
    };
    let list = matches!(tools.call, CallSyntax::Object { list: true, .. });
    let all: Vec<String> = calls.iter().map(|c| format!("{}{}{}", tools.open, one(c), tools.close)).collect();
    let all = if list { format!("[{}]", all.join(", ")) } else { all.join(&tools.separator) };
    format!("{}{all}{}", tools.begin, tools.end)
}

#[test]
fn an_id_may_stand_after_the_name() {
    let family = FAMILIES.iter().find(|f| f.name == "mistral, newer").unwrap();
    let text = "[TOOL_CALLS]weather[CALL_ID]a1b2c3d4e[ARGS]{\"city\": \"Rome\"}";
    let expected = vec![call("weather", json!({"city": "Rome"}))];
    assert_eq!(read(&(family.tools)(), options(), &[text]), expected);
}

/// The same whatever the cuts, one character at a time included.
#[test]
fn every_family_is_read_whatever_the_cuts() {
    let arguments = json!({"city": "Zürich }]\"<", "days": [1, 2, {"a": null}]});
    for family in FAMILIES {
        let tools = (family.tools)();
        let calls = [("weather", arguments.clone()), ("add", json!({}))];
        let separable =
            tools.tags().next().is_some() || matches!(tools.call, CallSyntax::Object { list: true, .. });
        let calls = if separable { &calls[..] } else { &calls[..1] };
        let text = format!("\n<think>\nhm, {{so}}\n</think>\n\n{}", written(&tools, calls));
        let mut expected = vec![Piece::Thinking("hm, {so}".to_owned())];
        expected.extend(calls.iter().map(|(n, a)| call(n, a.clone())));
        let ends: Vec<usize> = text.char_indices().map(|(i, _)| i).chain([text.len()]).collect();
        for cut in &ends {
            let (a, b) = text.split_at(*cut);
            assert_eq!(read(&tools, options(), &[a, b]), expected, "{} cut at {cut}: {text}", family.name);
        }
        let letters: Vec<&str> = ends.windows(2).map(|w| &text[w[0]..w[1]]).collect();
        assert_eq!(read(&tools, options(), &letters), expected, "{}", family.name);
    }
}

#[test]
fn text_around_calls_stays() {
    let tools = ToolSyntax::object("", "<tool_call>\n", "\n</tool_call>", "arguments");
    let text = "Let me see. <tool_call>\n{\"name\": \"add\", \"arguments\": {\"a\": 1}}\n</tool_call>\nDone.";
    let expected =
        [Piece::Text("Let me see. ".into()), call("add", json!({"a": 1})), Piece::Text("Done.".into())];
    assert_eq!(read(&tools, options(), &[text]), expected);
}

#[test]
fn what_is_no_call_is_text() {
    let tools = ToolSyntax::object("", "<tool_call>\n", "\n</tool_call>", "arguments");
    for text in [
        "<tool_call>\n{\"name\": \"unknown\", \"arguments\": {}}\n</tool_call>",
        "<tool_call> not JSON",
        "<tool_call>\n{\"name\": 7}\n</tool_call> and more",
        "a < b <tool_c",
        "<tool_call>\n{\"name\": \"add\", \"argum",
        "{\"answer\": 42}",
        "1 <think> 2",
    ] {
        for cut in 0..=text.len() {
            let (a, b) = text.split_at(cut);
            assert_eq!(read(&tools, options(), &[a, b]), [Piece::Text(text.to_owned())], "{text} at {cut}");
        }
    }
}

#[test]
fn arguments_come_in_several_ways() {
    let tools = ToolSyntax::bare();
    let one = |text: &str| read(&tools, options(), &[text]);
    assert_eq!(
        one(r#"{"name": "add", "parameters": {"b": 1, "a": 2}}"#),
        [call("add", json!({"b": 1, "a": 2}))]
    );
    assert_eq!(one(r#"{"name": "add", "arguments": "{\"a\": 1}"}"#), [call("add", json!({"a": 1}))]);
    assert_eq!(one(r#" {"name": "add"}"#), [call("add", json!({}))]);
    assert_eq!(
        one(r#"[{"name": "add"}, {"name": "weather"}]"#),
        [call("add", json!({})), call("weather", json!({}))]
    );
    // A bare object is a call only where the answer begins.
    let later = r#"See: {"name": "add"}"#;
    assert_eq!(one(later), [Piece::Text(later.into())]);
}

#[test]
fn thinking_can_be_begun_by_the_prompt() {
    let tools = ToolSyntax::bare();
    let begun = ReaderOptions { begins_in_thinking: true, ..options() };
    let expected = [Piece::Thinking("so it is".into()), Piece::Text("42".into())];
    assert_eq!(read(&tools, begun.clone(), &["so it ", "is</thi", "nk>\n", "\n42"]), expected);
    assert_eq!(read(&tools, begun, &["so it is "]), [Piece::Thinking("so it is".into())]);
    let off = ReaderOptions { thinking: false, ..options() };
    assert_eq!(read(&tools, off, &["<think>a</think>b"]), [Piece::Text("<think>a</think>b".into())]);
}

#[test]
fn long_and_deep_answers_cost_what_they_are_long() {
    let tools = ToolSyntax::object("", "<tool_call>", "</tool_call>", "arguments");
    let started = std::time::Instant::now();
    for unit in ["<", "{", "<tool_call>{", "<tool_call>{\"a", "[", "<think>"] {
        let text = unit.repeat((256 << 10) / unit.len());
        let mut reader = OutputReader::new(&syntax(tools.clone()), options());
        let mut total = 0;
        for chunk in text.as_bytes().chunks(64) {
            total += reader.push(std::str::from_utf8(chunk).unwrap()).len();
        }
        total += reader.finish().len();
        assert!(total > 0);
    }
    assert!(started.elapsed() < std::time::Duration::from_secs(20), "{:?}", started.elapsed());
}

proptest! {
    /// Nothing of plain text is lost or changed, whatever it looks like.
    #[test]
    fn plain_text_comes_back(parts in prop::collection::vec("[a-z<>{}\\[\\]_/ \n]{0,8}|<tool_call>|<think>", 0..12)) {
        let tools = ToolSyntax::object("", "<tool_call>", "</tool_call>", "arguments");
        let text = parts.concat();
        let parts: Vec<&str> = parts.iter().map(String::as_str).collect();
        let off = ReaderOptions { thinking: false, ..options() };
        let read: String = read(&tools, off, &parts).into_iter().map(|p| match p {
            Piece::Text(t) => t,
            other => panic!("{other:?}"),
        }).collect();
        prop_assert_eq!(read, text);
    }
}
