//! `mdl check` as a person calls it.

#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::fmt::Write as _;
use std::path::Path;

use assert_cmd::Command;

/// A folder with files, in which `mdl check` runs.
struct Place {
    directory: tempfile::TempDir,
    report: String,
}

impl Place {
    fn new(files: &[(&str, &str)]) -> Place {
        let directory = tempfile::tempdir().unwrap();
        for (name, text) in files {
            std::fs::write(directory.path().join(name), text).unwrap();
        }
        Place { directory, report: String::new() }
    }

    /// Runs `mdl check` and adds what it prints to the report.
    fn check(&mut self, arguments: &[&str]) {
        let mut command = Command::cargo_bin("mdl").unwrap();
        command.current_dir(self.directory.path()).args(["--store", "store", "check"]).args(arguments);
        let output = command.output().unwrap();
        writeln!(self.report, "$ mdl check {}", arguments.join(" ")).unwrap();
        self.report.push_str(&String::from_utf8(output.stdout).unwrap());
        self.report.push_str(&String::from_utf8(output.stderr).unwrap());
        writeln!(self.report, "exit code {}\n", output.status.code().unwrap()).unwrap();
    }

    fn snapshot(self, name: &str) {
        let testdata = concat!(env!("CARGO_MANIFEST_DIR"), "/testdata");
        let report = self.report.replace(testdata, "testdata");
        insta::with_settings!({
            snapshot_path => concat!(env!("CARGO_MANIFEST_DIR"), "/snapshots"),
            prepend_module_to_snapshot => false,
            omit_expression => true,
        }, { insta::assert_snapshot!(name, report) });
    }
}

const TOOLS: &str = r#"{{- if or .System .Tools }}<|im_start|>system
{{ .System }}
{{- if .Tools }}
Tools: {{ .Tools }}
{{- end }}<|im_end|>
{{ end }}
{{- range .Messages }}
{{- if eq .Role "user" }}<|im_start|>user
{{ .Content }}<|im_end|>
{{ else if eq .Role "assistant" }}<|im_start|>assistant
{{ .Content }}{{ range .ToolCalls }}<tool_call>{"name": "{{ .Function.Name }}", "arguments": {{ .Function.Arguments }}}</tool_call>{{ end }}<|im_end|>
{{ else if eq .Role "tool" }}<|im_start|>tool
{{ .Content }}<|im_end|>
{{ end }}
{{- end }}<|im_start|>assistant
"#;

#[test]
fn a_template_is_checked_where_it_stands() {
    let mut place = Place::new(&[
        (
            "fields",
            "FROM x\nSYSTEM hi\nTEMPLATE \"\"\"{{ range .Mesages }}{{ .Role }}{{ end }}\n{{ range .Messages }}\n  {{ .Contnt }}\n{{ end }}\"\"\"\nPARAMETER top_k 0.5\n",
        ),
        ("function", "FROM x\nTEMPLATE {{ .Prompt | trim }}\n"),
        ("open", "FROM x\nTEMPLATE \"\"\"{{ if .System }}{{ .Prompt }}\"\"\"\n"),
        ("crlf", "FROM x\r\nTEMPLATE \"\"\"a\r\n{{ .Promt }}{{ .Prompt }}\"\"\"\r\n"),
        ("own.gotmpl", "{{ .System }}\n{{ len .Messages .Tools }}"),
        ("own.jinja", "{{ messages[0].content }"),
    ]);
    for name in ["fields", "function", "open", "crlf", "own.gotmpl", "own.jinja"] {
        place.check(&[name]);
    }
    place.check(&["--deny-warnings", "own.gotmpl"]);
    place.check(&["--message-format", "json", "crlf"]);
    place.snapshot("check_templates");
}

#[test]
fn a_template_is_rendered() {
    let storyteller = Path::new(env!("CARGO_MANIFEST_DIR")).join("testdata/storyteller");
    let jinja = include_str!("../testdata/templates/jinja/Qwen-Qwen2.5-7B-Instruct.jinja");
    let mut place = Place::new(&[
        ("go", &format!("FROM x\nTEMPLATE \"\"\"{TOOLS}\"\"\"\n")),
        ("file", &format!("FROM {}\n", storyteller.display())),
        ("qwen.jinja", jinja),
        (
            "refuses.jinja",
            "{% if messages[0].role == 'system' %}{{ raise_exception('no system') }}{% endif %}x",
        ),
        ("endless.jinja", "{% for i in range(9999) %}{% for j in range(9999) %}{% endfor %}{% endfor %}"),
    ]);
    for name in ["go", "file", "qwen.jinja", "refuses.jinja", "endless.jinja"] {
        place.check(&["--render", name]);
    }
    place.snapshot("check_render");
}

/// A chat template that no budget of the engine stops ends with its process: a build says so and goes on.
#[test]
fn a_build_does_not_hang_on_a_chat_template() {
    let storyteller = Path::new(env!("CARGO_MANIFEST_DIR")).join("testdata/storyteller");
    let doubled = "{% set a = [a, a] %}{% set b = [b, b] %}".repeat(40);
    let endless = format!("{{% set a = [1] %}}{{% set b = [1] %}}{doubled}{{{{ a == b }}}}");
    let itself = "{% set ns = namespace() %}{% set ns.x = ns %}{{ ns ~ '' }}";
    for hostile in [endless.as_str(), itself] {
        let place = Place::new(&[
            ("Modelfile", "FROM .\nTEMPLATE {{ .System }} {{ .Prompt }}\n"),
            ("chat_template.jinja", hostile),
        ]);
        for name in ["config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json"] {
            std::fs::copy(storyteller.join(name), place.directory.path().join(name)).unwrap();
        }
        let started = std::time::Instant::now();
        let mut command = Command::cargo_bin("mdl").unwrap();
        command.current_dir(place.directory.path()).args([
            "--store",
            "store",
            "build",
            "--dry-run",
            "-t",
            "m",
        ]);
        let output = command.output().unwrap();
        let said = String::from_utf8(output.stderr).unwrap();
        assert!(output.status.success(), "{said}");
        assert!(said.contains("chat template cannot be compared with TEMPLATE"), "{said}");
        assert!(started.elapsed().as_secs() < 30);
    }
}
