//! Whole templates on whole conversations: the expected texts are what Go's text/template and
//! Jinja2 make of them (testdata/prompt/generate).
#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used)]

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use jiff::civil::datetime;
use mdl::diagnostic::Errors;
use mdl::ir;
use mdl::prompt::{
    ChatMessage, ChatRequest, GoTemplate, JinjaTemplate, Limits, SpecialTokens, Template, Think, ToolCall,
    conversation, gotemplate,
};
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
        thinking: text(&json["thinking"]),
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
            let think = conversation["think"].as_bool().map(|on| if on { Think::On } else { Think::Off });
            let request = ChatRequest {
                tools,
                think,
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

fn go(text: &str) -> Template {
    Template::choose(Some(text), None, Limits::DEFAULT).unwrap()
}

fn says(role: &str, content: &str) -> ChatMessage {
    ChatMessage::new(role, content)
}

fn render(template: &Template, messages: &[ChatMessage]) -> String {
    template.render(&ChatRequest::new(messages), &SpecialTokens::default()).unwrap()
}

#[test]
fn a_modelfile_template_goes_before_the_files_own() {
    let messages = [says("user", "hi")];
    let choose = |go, jinja| Template::choose(go, jinja, Limits::DEFAULT).unwrap();
    let jinja = Some("J {{ messages[0].content }}");
    assert_eq!(render(&choose(Some("G {{ .Prompt }}"), jinja), &messages), "G hi");
    assert_eq!(render(&choose(None, jinja), &messages), "J hi");
    assert_eq!(render(&choose(None, None), &messages), "hi");
    assert!(Template::choose(Some("{{ .Prompt"), jinja, Limits::DEFAULT).is_err());
}

#[test]
fn the_models_own_messages_come_first() {
    let prompt = ir::Prompt {
        system: Some("be brief".to_owned()),
        messages: vec![ir::Message { role: ir::Role::User, content: "1+1?".to_owned() }],
        ..ir::Prompt::default()
    };
    let texts = |request: &[ChatMessage]| -> Vec<String> {
        conversation(&prompt, request).iter().map(|m| format!("{}:{}", m.role, m.content)).collect()
    };
    assert_eq!(texts(&[says("User", "x")]), ["system:be brief", "user:1+1?", "user:x"]);
    assert_eq!(texts(&[says("SYSTEM", "be long")]), ["user:1+1?", "system:be long"]);
    assert_eq!(texts(&[]), ["system:be brief", "user:1+1?"]);
}

#[test]
fn an_older_template_runs_once_per_exchange_and_stops_where_the_answer_begins() {
    let template = go("<{{ .System }}|{{ .Prompt }}>{{ if true }}[{{ .Response }}]{{ else }}no{{ end }}END");
    assert_eq!(render(&template, &[says("user", "a")]), "<|a>[");
    let chat = [says("user", "a"), says("assistant", "b"), says("system", "s"), says("user", "c")];
    assert_eq!(render(&template, &chat), "<|a>[b]END<s|c>[");
    // An answer that was begun is continued.
    assert_eq!(render(&template, &chat[..2]), "<|a>[b");
    // Neighbours of one role are one message.
    assert_eq!(render(&template, &[says("user", "a"), says("user", "b")]), "<|a\n\nb>[");
    assert_eq!(render(&template, &[]), "<|>[");
}

#[test]
fn a_response_is_added_where_there_is_none() {
    let chat = [says("user", "a"), says("assistant", "b"), says("user", "c")];
    assert_eq!(render(&go("Q:{{ .Prompt }} A:"), &chat), "Q:a A:bQ:c A:");
    assert_eq!(render(&go("{{ define \"x\" }}{{ .Response }}{{ end }}Q:{{ .Prompt }};"), &chat), "Q:a;Q:c;");
    assert_eq!(
        render(&go("{{ range $.messages }}{{ end }}{{ range .Messages }}{{ .Content }}{{ end }}"), &chat),
        "abc"
    );
}

#[test]
fn system_messages_are_together_and_in_their_place() {
    let chat = [
        says("system", "s"),
        says("system", "t"),
        says("user", "u"),
        says("tool", "1"),
        says("tool", "2"),
        says("system", "v"),
    ];
    let template = go("{{ json .System }}{{ range .Messages }}[{{ .Role }} {{ json .Content }}]{{ end }}");
    let expected = r#""s\n\nt\n\nv"[system "s\n\nt"][user "u"][tool "1"][tool "2"][system "v"]"#;
    assert_eq!(render(&template, &chat), expected);
}

#[test]
fn thinking_is_told() {
    let template =
        go("{{ range .Messages }}{{ .Thinking }}{{ end }}{{ .Think }} {{ .ThinkLevel }} {{ .IsThinkSet }}");
    let jinja = "{{ messages[0].reasoning_content }}{{ enable_thinking }} {{ reasoning_effort }} {{ enable_thinking is defined }}";
    let jinja = Template::choose(None, Some(jinja), Limits::DEFAULT).unwrap();
    let messages = [ChatMessage { thinking: "hm ".to_owned(), ..says("assistant", "x") }];
    for (think, go_text, jinja_text) in [
        (None, "hm false  false", "hm   False"),
        (Some(Think::Off), "hm false  true", "hm False  True"),
        (Some(Think::On), "hm true  true", "hm True  True"),
        (Some(Think::Level("high".to_owned())), "hm true high true", "hm True high True"),
    ] {
        let request = ChatRequest { think, ..ChatRequest::new(&messages) };
        assert_eq!(template.render(&request, &SpecialTokens::default()).unwrap(), go_text);
        assert_eq!(jinja.render(&request, &SpecialTokens::default()).unwrap(), jinja_text);
    }
}

#[test]
fn a_suffix_needs_a_place() {
    let now = datetime(2026, 11, 24, 0, 0, 0, 0);
    let template = go("<PRE>{{ .Prompt }}<SUF>{{ .Suffix }}<MID>{{ .Response }}");
    assert!(template.supports_infill());
    assert_eq!(template.render_infill("a", "b", None, now).unwrap(), "<PRE>a<SUF>b<MID>");
    let error = go("{{ .Prompt }}").render_infill("a", "b", None, now).unwrap_err();
    assert!(error.to_string().contains("does not support insert"), "{error}");
}

#[test]
fn dates_are_the_requests() {
    let messages = [says("user", "a")];
    let request = ChatRequest { now: datetime(2024, 3, 1, 9, 5, 0, 0), ..ChatRequest::new(&messages) };
    let render = |template: Template| template.render(&request, &SpecialTokens::default()).unwrap();
    assert_eq!(render(go("{{ currentDate }} {{ yesterdayDate }}{{ .Response }}")), "2024-03-01 2024-02-29");
    let jinja = Template::choose(None, Some("{{ strftime_now('%d %b %Y') }}"), Limits::DEFAULT).unwrap();
    assert_eq!(render(jinja), "01 Mar 2024");
}

#[test]
fn bos_is_known_in_the_text() {
    let tokens = SpecialTokens { bos: Some("<s>".to_owned()), eos: None };
    assert!(tokens.begin("<s>[INST]"));
    assert!(!tokens.begin("[INST]<s>"));
    assert!(!SpecialTokens { bos: Some(String::new()), eos: None }.begin("x"));
    assert!(!SpecialTokens::default().begin("x"));
}

#[test]
fn tools_and_arguments_must_have_their_shape() {
    let messages = [ChatMessage {
        tool_calls: vec![ToolCall {
            name: "f".to_owned(),
            arguments: Json::from("{}"),
            ..ToolCall::default()
        }],
        ..says("assistant", "")
    }];
    let template = go("{{ range .Messages }}{{ .Content }}{{ end }}{{ .Tools }}");
    let render = |request: &ChatRequest<'_>| template.render(request, &SpecialTokens::default());
    let error = render(&ChatRequest::new(&messages)).unwrap_err();
    assert_eq!(error.to_string(), "the arguments of the call of \"f\" are not an object");
    let tools = [Json::from(1)];
    let error = render(&ChatRequest { tools: &tools, ..ChatRequest::new(&[]) }).unwrap_err();
    assert_eq!(error.to_string(), "a tool has no `function`");
    let mut deep = Json::from(1);
    for _ in 0..500 {
        deep = Json::Array(vec![deep]);
    }
    let tools = [serde_json::json!({"function": {"parameters": {"properties": {"a": {"items": deep}}}}})];
    let request = ChatRequest { tools: &tools, ..ChatRequest::new(&[]) };
    assert_eq!(render(&request).unwrap_err().0[0].code, "template-budget");
    let jinja = Template::choose(None, Some("{{ tools|tojson }}"), Limits::DEFAULT).unwrap();
    assert_eq!(jinja.render(&request, &SpecialTokens::default()).unwrap_err().0[0].code, "template-budget");
}

#[test]
fn what_a_template_supports_is_known() {
    assert!(go("{{ range .Messages }}{{ $.Tools }}{{ end }}").supports_tools());
    assert!(!go("{{ .Prompt }}").supports_tools());
    let jinja = |text| Template::choose(None, Some(text), Limits::DEFAULT).unwrap();
    assert!(jinja("{% for t in tools %}{% endfor %}").supports_tools());
    assert!(!jinja("{{ messages }}").supports_tools());
    assert!(!jinja("{{ messages }}").supports_infill());
}

/// A template can call these and nothing else: whoever adds one says here what it can reach.
#[test]
fn the_functions_are_these() {
    assert_eq!(
        gotemplate::function_names().collect::<Vec<_>>().join(" "),
        "and call eq ge gt html index js le len lt ne not or print printf println slice urlquery \
         currentDate json toTypeScriptType yesterdayDate"
    );
    let jinja = JinjaTemplate::parse("t", "", Limits::DEFAULT).unwrap();
    assert_eq!(jinja.globals().join(" "), "dict namespace raise_exception range");
}

/// An error as its parts: where, what, the label, the help.
fn shown(errors: &Errors) -> String {
    let mut text = String::new();
    for d in &errors.0 {
        text += &format!("  [{}] {d}\n", d.code);
        text.extend(d.label.iter().map(|label| format!("    label: {label}\n")));
        text.extend(d.help.iter().map(|help| format!("    help: {help}\n")));
    }
    text
}

#[test]
fn errors_say_where_and_what_to_do() {
    let messages = [says("user", "hi")];
    let mut report = String::new();
    for text in [
        "Hello {{ .Prompt",
        "a\nb {{/* c }}",
        "{{ if .System }}x",
        "{{ end }}",
        "{{ else }}",
        "{{ if }}x{{ end }}",
        "{{ range .Messages }}{{ else if .X }}{{ end }}",
        "{{ Prompt }}",
        "line one\n  {{ .System | trim }}",
        "{{ $x }}",
        "{{ .System . }}",
        "{{ .Prompt.Foo }}",
        "{{ range .Prompt.Foo }}{{ end }}",
        "{{ range .Messages }}{{ .Contents }}{{ end }}",
        "{{ eq .Prompt 1 }}",
        "{{ index .Prompt 99 }}",
        "{{ template \"x\" }}",
        "{{ break }}",
        "{{ .Prompt; }}",
        "{{ (.Prompt }}",
        "{{ printf \"%d }}",
        "{{ \"\\q\" }}",
        "{{ }}",
        "{{ 99999999999999999999 }}",
        "{{ range 9999999 }}{{ end }}",
        "{{ template \"\" . }}",
    ] {
        let result = GoTemplate::parse("TEMPLATE", text, Limits::DEFAULT)
            .and_then(|t| t.render(&ChatRequest::new(&messages)));
        report += &format!("{text:?}\n{}", shown(&result.unwrap_err()));
    }
    for text in [
        "{{ messages[0].content",
        "{% for m in messages %}",
        "{% endif %}",
        "a\n{{ messages|nothing }}",
        "{{ nothing() }}",
        "{{ messages[0].content.nothing() }}",
        "{{ messages[7].content }}",
        "{{ raise_exception('roles must alternate') }}",
        "{% include 'x' %}",
        "{% for a in range(9999) %}{% for b in range(9999) %}{% endfor %}{% endfor %}",
        "{{ 1 + 'a' }}",
    ] {
        let result = JinjaTemplate::parse("chat_template", text, Limits::DEFAULT)
            .and_then(|t| t.render(&ChatRequest::new(&messages), &SpecialTokens::default()));
        report += &format!("{text:?}\n{}", shown(&result.unwrap_err()));
    }
    insta::with_settings!({
        snapshot_path => concat!(env!("CARGO_MANIFEST_DIR"), "/snapshots"),
        prepend_module_to_snapshot => false,
        omit_expression => true,
    }, { insta::assert_snapshot!("prompt_errors", report) });
}
