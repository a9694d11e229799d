//! What a build does about templates: those it knows, and those that do not agree.

#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use mdl::ir::{Module, ParameterValue};
use mdl::modelfile;
use mdl::passes::{Context, Options};
use mdl::pipeline;
use mdl::prompt::Renderer;
use mdl::world::MemoryWorld;

const LLAMA3: &str = include_str!("../src/prompt/known/templates/llama3-instruct-2.jinja");
const CHATML: &str = include_str!("../src/prompt/known/templates/chatml.jinja");

/// Compiles the storyteller with another chat template and more lines in its Modelfile.
fn compile(chat_template: &str, lines: &str) -> (Module, Vec<mdl::diagnostic::Diagnostic>) {
    let mut world = MemoryWorld::default();
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("testdata/storyteller");
    for name in ["config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json"] {
        world.insert(format!("/m/{name}"), std::fs::read(directory.join(name)).unwrap());
    }
    world.insert("/m/chat_template.jinja", chat_template.as_bytes().to_vec());
    let text = format!("FROM /m\n{lines}");
    let checked = modelfile::check(&world, Path::new("/"), "Modelfile", text.as_bytes());
    let (recipe, _) = checked.into_recipe().unwrap();
    let context = Context::new(&world, None, PathBuf::from("/"), Options::default());
    let module = pipeline::compile(&recipe, &context, &Renderer::in_process(), &mut |_, _| {}).unwrap();
    (module, context.take_notes())
}

fn stops(module: &Module) -> Option<Vec<String>> {
    match module.prompt.parameter("stop") {
        Some(ParameterValue::Strings(texts)) => Some(texts.clone()),
        None => None,
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_known_template_brings_its_template_and_stop_texts() {
    let (module, notes) = compile(LLAMA3, "");
    assert!(
        module.prompt.template.as_ref().unwrap().starts_with("{{- range .Messages }}<|start_header_id|>")
    );
    assert_eq!(stops(&module).unwrap(), ["<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"]);
    let notes: Vec<String> = notes.iter().map(ToString::to_string).collect();
    assert_eq!(notes, ["using autodetected template llama3-instruct"]);

    let (module, _) = compile(LLAMA3, "PARAMETER stop END\n");
    assert!(module.prompt.template.is_some());
    assert_eq!(stops(&module).unwrap(), ["END"]);
}

#[test]
fn what_the_modelfile_says_stays() {
    let (module, notes) = compile(LLAMA3, "TEMPLATE \"\"\"{{ .Prompt }}\"\"\"\n");
    assert_eq!(module.prompt.template.as_deref(), Some("{{ .Prompt }}"));
    assert_eq!(stops(&module), None);
    assert_eq!(notes.len(), 1);
    let (module, _) = compile(LLAMA3, "RENDERER qwen3-coder\n");
    assert_eq!(module.prompt.template, None);
}

#[test]
fn a_template_that_looks_like_a_known_one_and_says_something_else_is_none() {
    for other in [
        LLAMA3.replace("| trim", "| upper"),
        LLAMA3.replace("<|eot_id|>", "<|end_of_text|>"),
        format!("{LLAMA3}{{# tools #}}"),
        "{{ messages[0].content }}".to_owned(),
    ] {
        let (module, _) = compile(&other, "");
        assert_eq!(module.prompt.template, None, "{other}");
        assert_eq!(stops(&module), None);
    }
}

#[test]
fn templates_that_do_not_agree_are_told() {
    let go = "TEMPLATE \"\"\"{{ range .Messages }}<|start_header_id|>{{ .Role }}<|end_header_id|>\n\n{{ .Content }}<|eot_id|>{{ end }}\
              <|start_header_id|>assistant<|end_header_id|>\n\n\"\"\"\n";
    let mut report = String::new();
    for (what, jinja, lines) in [
        ("the same", LLAMA3, go.to_owned()),
        ("a line less", LLAMA3, go.replace("|>\n\n{{ .C", "|>\n{{ .C")),
        ("no system prompt", LLAMA3, go.replace("{{ .Content }}", "{{ if ne .Role \"system\" }}{{ .Content }}{{ end }}")),
        ("BOS in both", LLAMA3, go.replace("{{ range .M", "<|begin_of_text|>{{ range .M")),
        ("BOS twice", LLAMA3, go.replace("{{ range .M", "<|begin_of_text|><|begin_of_text|>{{ range .M")),
        (
            "plain text without a stop text",
            "### User:\n{{ messages[0].content }}",
            "TEMPLATE \"\"\"{{ if .Prompt }}### User:\n{{ .Prompt }}\n\n{{ end }}### Assistant:\n{{ .Response }}\n\n\"\"\"\n".to_owned(),
        ),
        (
            "plain text with a stop text",
            "{{ raise_exception('no') }}",
            "TEMPLATE \"\"\"### User:\n{{ .Prompt }}\n\n### Assistant:\n{{ .Response }}\n\n\"\"\"\nPARAMETER stop \"### User:\"\n".to_owned(),
        ),
        ("tokens that the model does not have", CHATML, String::new()),
        ("an answer that does not end", &LLAMA3.replace("<|eot_id|>", ""), String::new()),
        ("a TEMPLATE that fails", LLAMA3, "TEMPLATE \"\"\"{{ range .Messages }}{{ .Content.Text }}{{ end }}\"\"\"\n".to_owned()),
        ("a chat template that does not end", "{% for i in range(9999) %}{% for j in range(9999) %}{% endfor %}{% endfor %}", go.to_owned()),
        ("a chat template that is none", "{{ messages", go.to_owned()),
    ] {
        let (_, notes) = compile(jinja, &lines);
        writeln!(report, "== {what}").unwrap();
        for d in notes {
            writeln!(report, "{:?} [{}] {d}", d.severity, d.code).unwrap();
            d.help.iter().for_each(|help| writeln!(report, "  {help}").unwrap());
        }
    }
    insta::with_settings!({
        snapshot_path => concat!(env!("CARGO_MANIFEST_DIR"), "/snapshots"),
        prepend_module_to_snapshot => false,
        omit_expression => true,
    }, { insta::assert_snapshot!("prompt_agreement", report) });
}
