//! Chat templates that models are shipped with: the expected texts are what Jinja2 makes of them in
//! the environment of transformers (testdata/templates/make.py).
#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used)]

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use jiff::civil::datetime;
use mdl::ir;
use mdl::prompt::agreement::Trial;
use mdl::prompt::output::{OutputReader, Piece, ReaderOptions};
use mdl::prompt::{JinjaTemplate, Limits, Renderer, SpecialTokens, known};
use serde_json::Value as Json;

fn testdata() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("testdata/templates")
}

fn read(path: &Path) -> String {
    std::fs::read_to_string(path).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
}

fn json(path: &Path) -> Json {
    serde_json::from_str(&read(path)).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
}

/// The files of all templates, by name.
fn templates() -> Vec<PathBuf> {
    let mut paths: Vec<_> =
        std::fs::read_dir(testdata().join("jinja")).unwrap().map(|e| e.unwrap().path()).collect();
    paths.retain(|p| p.extension().is_some_and(|e| e == "jinja"));
    paths.sort();
    paths
}

fn unescape(html: &str) -> String {
    let plain = html.replace("&#34;", "\"").replace("&#39;", "'").replace("&lt;", "<").replace("&gt;", ">");
    plain.replace("&amp;", "&")
}

/// How a text stands to Jinja2's.
enum Verdict {
    /// It is the same to the byte, or both refuse; in the same words, where the template chose them.
    Same,
    /// The engine differs by intention, for this reason.
    Known(&'static str),
    /// It is another.
    Wrong(String),
}

fn verdict(expected: &Json, got: Result<String, String>) -> Verdict {
    let text = |key: &str| expected.get(key).and_then(Json::as_str);
    match (text("output"), text("raised"), &got) {
        (Some(output), _, Ok(got)) if output == got => Verdict::Same,
        (_, Some(raised), Err(said)) if said.contains(raised) => Verdict::Same,
        (None, None, Err(_)) => Verdict::Same,
        (None, None, Ok(_)) if text("error") == Some("TypeError: 'NoneType' object is not iterable") => {
            Verdict::Known("none is iterated over")
        }
        // Jinja2 escapes what is joined to a text marked `safe`, which is not what the model was trained on.
        (Some(output), _, Ok(got)) if output.contains("&#34;") && &unescape(output) == got => {
            Verdict::Known("a safe text is joined")
        }
        (Some(output), _, Ok(got)) => {
            let at = output.bytes().zip(got.bytes()).take_while(|(a, b)| a == b).count();
            let around = |s: &str| {
                String::from_utf8_lossy(&s.as_bytes()[at.saturating_sub(40)..(at + 60).min(s.len())])
                    .into_owned()
            };
            Verdict::Wrong(format!(
                "byte {at}\n    jinja2: {:?}\n    mdl:    {:?}",
                around(output),
                around(got)
            ))
        }
        _ => Verdict::Wrong(format!("\n    jinja2: {expected}\n    mdl:    {got:?}")),
    }
}

#[test]
fn templates_of_models_come_out_as_jinja2_has_them() {
    let cases = json(&testdata().join("cases.json"));
    let paths = templates();
    let (mut texts, mut refusals, mut errors) = (0, 0, 0);
    let mut wrong = Vec::new();
    let mut known = BTreeSet::new();
    for path in &paths {
        let template = JinjaTemplate::unread("chat_template", &read(path), Limits::DEFAULT).unwrap();
        let expected = json(&path.with_extension("json"));
        assert_eq!(
            expected.as_array().unwrap().len(),
            cases.as_object().unwrap().len(),
            "{}",
            path.display()
        );
        for expected in expected.as_array().unwrap() {
            let name = expected["case"].as_str().unwrap();
            let variables = cases[name].as_object().unwrap().clone().into_iter().collect();
            let got = template
                .render_here(Some(variables), datetime(2026, 11, 24, 13, 5, 9, 0))
                .map_err(|e| e.to_string());
            match (expected.get("output"), expected.get("raised")) {
                (Some(_), _) => texts += 1,
                (_, Some(_)) => refusals += 1,
                _ => errors += 1,
            }
            let template = path.file_stem().unwrap().to_string_lossy().into_owned();
            match verdict(expected, got) {
                Verdict::Same => {}
                Verdict::Known(reason) => drop(known.insert((reason, template))),
                Verdict::Wrong(difference) => wrong.push(format!("{template} on {name}: {difference}")),
            }
        }
    }
    println!("{} templates: {texts} texts, {refusals} refusals and {errors} errors compared", paths.len());
    assert!(paths.len() >= 80 && texts >= 2000, "{} templates, {texts} texts", paths.len());
    let known: Vec<_> = known.iter().map(|(reason, template)| format!("{reason}: {template}")).collect();
    assert_eq!(
        known,
        [
            "a safe text is joined: meetkai-functionary-medium-v3.1",
            "none is iterated over: Cohere2MoE",
            "none is iterated over: CohereForAI-c4ai-command-r-plus-tool_use",
            "none is iterated over: CohereForAI-c4ai-command-r7b-12-2024-tool_use",
            "none is iterated over: LFM2.5-8B-A1B",
            "none is iterated over: NousResearch-Hermes-3-Llama-3.1-8B-tool_use",
        ]
    );
    assert!(wrong.is_empty(), "{} differ:\n{}", wrong.len(), wrong.join("\n"));
}

/// What a template writes for an assistant that calls a tool is how its model calls one: it must be read so.
#[test]
fn calls_are_read_as_templates_write_them() {
    let cases = json(&testdata().join("cases.json"));
    let case = cases["call and result"].as_object().unwrap();
    let mut report = String::new();
    let paths = templates();
    for path in &paths {
        let template = JinjaTemplate::unread("chat_template", &read(path), Limits::DEFAULT).unwrap();
        let render = |messages: usize, prompt: bool| {
            let mut variables = case.clone();
            variables["messages"].as_array_mut().unwrap().truncate(messages);
            variables["add_generation_prompt"] = prompt.into();
            let now = datetime(2026, 11, 24, 13, 5, 9, 0);
            template.render_here(Some(variables.into_iter().collect()), now).ok()
        };
        let (Some(prompt), Some(whole)) = (render(1, true), render(2, false)) else { continue };
        let same = prompt.bytes().zip(whole.bytes()).take_while(|(a, b)| a == b).count();
        // Not in the middle of a tag.
        let tag = whole[..same].rfind('<').filter(|at| !whole[*at..same].contains('>'));
        let same = tag.unwrap_or(same);
        let Some(answer) = whole.get(same..).filter(|a| a.contains("Paris")) else { continue };
        let options = ReaderOptions {
            tools: vec!["get_weather".to_owned()],
            thinking: true,
            parameters: [("get_weather".to_owned(), case["tools"][0]["function"]["parameters"].clone())]
                .into(),
            begins_in_thinking: false,
        };
        let mut reader = OutputReader::new(template.output_syntax(), options);
        let mut pieces = reader.push(answer);
        pieces.extend(reader.finish());
        let given = &case["messages"][1]["tool_calls"][0]["function"]["arguments"];
        let is_read = pieces.iter().any(|p| {
            matches!(p, Piece::ToolCall { name, arguments } if name == "get_weather" && arguments == given)
        });
        let shown = path.file_stem().unwrap().to_string_lossy().into_owned();
        report += &format!("{} {shown}\n", if is_read { "read    " } else { "not read" });
        if !is_read {
            report += &format!("    {answer:?}\n");
        }
    }
    insta::with_settings!({
        snapshot_path => concat!(env!("CARGO_MANIFEST_DIR"), "/snapshots"),
        prepend_module_to_snapshot => false,
        omit_expression => true,
    }, { insta::assert_snapshot!("prompt_calls_read", report) });
}

/// Which of the templates are known, and which of those are adopted: they say the same as well.
#[test]
fn known_templates_are_found_among_those_of_models() {
    let renderer = Renderer::in_process();
    let tokens = SpecialTokens { bos: Some("<s>".to_owned()), eos: Some("</s>".to_owned()) };
    let trial = Trial { renderer: &renderer, tokens, tokenizer: None };
    let mut report = String::new();
    for path in templates() {
        let text = read(&path);
        let Some(known) = known::nearest(&text) else { continue };
        let adopted = trial.adopt(&mut ir::Prompt::default(), &text).is_some();
        let what = if adopted { "adopted" } else { "says something else" };
        report += &format!("{}: {}, {what}\n", path.file_stem().unwrap().display(), known.name);
    }
    insta::with_settings!({
        snapshot_path => concat!(env!("CARGO_MANIFEST_DIR"), "/snapshots"),
        prepend_module_to_snapshot => false,
        omit_expression => true,
    }, { insta::assert_snapshot!("prompt_known", report) });
}
