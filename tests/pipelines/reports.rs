//! Diagnostics and progress for machines, completions and manual pages.

use serde_json::Value;

use crate::place::{Place, snapshot, text, valid, violations};

/// A Modelfile with two errors, on the second line and in a folder with a blank in its name.
fn mistakes() -> Place {
    let place = Place::new();
    place.write("a b/Modelfile", "FROM ./nowhere\nPARAMETER temprature 0.5\nPARAMETER top_k é\n");
    place.write("warned/Modelfile", "FROM x\nSYSTEM a\nSYSTEM b\n");
    place
}

#[test]
fn code_hosts_are_told_in_their_own_words() {
    let place = mistakes();
    let mut report = String::new();
    for format in ["github", "sarif", "gitlab"] {
        let output = place.mdl(&[
            "check",
            "--message-format",
            format,
            "a b/Modelfile",
            "./warned/Modelfile",
            "missing",
        ]);
        assert_eq!(output.status.code(), Some(1));
        let (out, err) = (text(&output.stdout), text(&output.stderr));
        report.push_str(&format!("--- {format}\n{out}{err}"));
        if format != "github" {
            assert_eq!(err, "");
            let document: Value = serde_json::from_str(&out).unwrap();
            let schema = format!("testdata/schemas/{format}.schema.json");
            valid(&schema, &document);
        }
    }
    snapshot("check_annotations", &report.replace(env!("CARGO_PKG_VERSION"), "VERSION"));

    // Nothing to say is a document too.
    place.write("good/Modelfile", "FROM x\n");
    for format in ["sarif", "gitlab"] {
        let document: Value =
            serde_json::from_str(&place.ok(&["check", "--message-format", format, "good/Modelfile"]))
                .unwrap();
        valid(&format!("testdata/schemas/{format}.schema.json"), &document);
    }
    // The schemas can fail.
    assert!(
        !violations("testdata/schemas/sarif.schema.json", &serde_json::json!({"version": "2"})).is_empty()
    );
    assert!(!violations("testdata/schemas/gitlab.schema.json", &serde_json::json!([{"line": 1}])).is_empty());
    let said = place.fails(2, &["list", "--message-format", "sarif"]);
    assert!(said.contains("mdl check"), "{said}");
}

fn lines(text: &str) -> Vec<Value> {
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

#[test]
fn messages_are_as_their_schema_says() {
    let place = mistakes();
    let schema = "docs/schemas/diagnostic.schema.json";
    let mut seen = 0;
    for arguments in [
        &["check", "a b/Modelfile", "warned/Modelfile", "missing"][..],
        &["show", "missing"],
        &["build", "-q", "q9", "."],
        &["build", "--emit", "gguf", "-o", "x", "warned"],
    ] {
        let output = place.mdl(&[&["--message-format", "json"], arguments].concat());
        assert!(!output.status.success());
        for message in lines(&text(&output.stderr)) {
            valid(schema, &message);
            seen += 1;
        }
    }
    assert!(seen >= 6, "{seen}");
    assert!(
        !violations(schema, &serde_json::json!({"severity": "bad", "message": "x", "help": []})).is_empty()
    );
    assert!(!violations(schema, &serde_json::json!({"message": "x", "help": []})).is_empty());
}

#[test]
fn progress_is_as_its_schema_says() {
    let place = Place::with_sources("");
    let output = place
        .command()
        .args(["--progress", "json", "build", "-q", "q8_0", "--max-kld", "9", "--eval-text"])
        .arg(crate::place::root("testdata/storyteller/heldout.txt"))
        .args(["-t", "m", "."])
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", text(&output.stderr));
    let said = text(&output.stderr);
    let events = lines(&said.lines().filter(|l| l.starts_with('{')).collect::<Vec<_>>().join("\n"));
    for event in &events {
        valid("docs/schemas/progress.schema.json", event);
    }
    let statuses: Vec<&str> = events.iter().map(|e| e["status"].as_str().unwrap()).collect();
    for status in ["hashing sources", "writing tensors", "publishing", "measuring"] {
        assert!(statuses.contains(&status), "{statuses:?}");
    }
    assert!(
        !violations("docs/schemas/progress.schema.json", &serde_json::json!({"completed": 3})).is_empty()
    );
}

/// Every command that help names.
fn commands(place: &Place) -> Vec<String> {
    let help = place.ok(&["--help"]);
    let listed = help.split_once("Commands:").unwrap().1.split_once("\n\n").unwrap().0;
    let names = listed.lines().filter(|l| l.starts_with("  ") && !l.starts_with("    "));
    let names = names.filter_map(|l| l.split_whitespace().next()).map(str::to_owned);
    names.filter(|n| n != "help").collect()
}

#[test]
fn every_command_has_help_with_examples_a_page_and_completions() {
    let place = Place::new();
    let commands = commands(&place);
    assert!(commands.len() > 15, "{commands:?}");
    place.ok(&["man", "pages"]);
    let page = place.ok(&["man"]);
    assert!(page.starts_with(".") && page.contains(".TH mdl 1"), "{page}");
    let shells: Vec<String> = ["bash", "zsh", "fish", "powershell", "elvish"]
        .iter()
        .map(|shell| place.ok(&["completions", shell]))
        .collect();
    for command in &commands {
        let help = place.ok(&[command, "--help"]);
        assert!(help.contains("Example"), "`mdl {command} --help` has no examples");
        let page = place.read(&format!("pages/mdl-{command}.1"));
        assert!(page.contains(".SH SYNOPSIS"), "{command}");
        for script in &shells {
            assert!(script.contains(command.as_str()), "{command}");
        }
    }
    place.fails(2, &["completions", "tcsh"]);
}

/// A shell reads the script and completes with it.
#[test]
fn bash_completes() {
    let place = Place::new();
    if std::process::Command::new("bash").arg("--version").output().is_err() {
        eprintln!("skipped: there is no bash");
        return;
    }
    let script = place.ok(&["completions", "bash"]);
    place.write("mdl.bash", &script);
    let words =
        "source ./mdl.bash; COMP_WORDS=(mdl bui); COMP_CWORD=1; _mdl mdl bui mdl; echo \"${COMPREPLY[@]}\"";
    let output =
        std::process::Command::new("bash").args(["-c", words]).current_dir(place.path("")).output().unwrap();
    assert_eq!(text(&output.stdout), "build\n", "{}", text(&output.stderr));
}
