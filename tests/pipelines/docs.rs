//! The pipelines of `docs/ci` do what they say, and the pages name commands that there are.

use std::process::Command;

use crate::place::{Place, root, text};

/// The steps of a workflow for GitHub Actions: name and script. Of the YAML that this repository's file is written in,
/// and no more than that.
fn github(yaml: &str) -> Vec<(String, String)> {
    let mut steps = Vec::new();
    let mut name = String::new();
    let mut lines = yaml.lines().peekable();
    while let Some(line) = lines.next() {
        if let Some(found) = line.trim().strip_prefix("- name: ") {
            found.clone_into(&mut name);
        }
        let Some(run) = line.trim().strip_prefix("run: ") else { continue };
        let indent = line.len() - line.trim_start().len();
        let mut script = String::new();
        if run == "|" {
            while let Some(line) =
                lines.next_if(|l| l.trim().is_empty() || l.len() - l.trim_start().len() > indent)
            {
                script.push_str(line.trim_start());
                script.push('\n');
            }
        } else {
            script.push_str(run);
        }
        steps.push((std::mem::take(&mut name), script));
    }
    steps
}

/// The scripts of a pipeline for GitLab: the items of every `script:`, in order.
fn gitlab(yaml: &str) -> Vec<(String, String)> {
    let mut steps = Vec::new();
    let mut job = String::new();
    let mut inside = false;
    for line in yaml.lines() {
        if !line.starts_with([' ', '#']) && line.ends_with(':') {
            line.trim_end_matches(':').clone_into(&mut job);
        }
        match line.strip_prefix("    - ") {
            Some(item) if inside => steps.push((job.clone(), item.to_owned())),
            _ => inside = line == "  script:",
        }
    }
    steps
}

/// A repository as the pipelines expect one.
fn repository() -> Place {
    let place = Place::with_sources("SYSTEM You tell stories.\n");
    std::fs::copy(root("testdata/storyteller/heldout.txt"), place.path("heldout.txt")).unwrap();
    place.ok(&["fmt", "Modelfile"]);
    place.ok(&["build", "--lock", "-q", "q8_0", "-t", "model", "."]);
    std::fs::remove_dir_all(place.path("store")).unwrap();
    place
}

/// Runs the steps as the code host would; the first that fails ends it.
fn run(place: &Place, steps: &[(String, String)]) -> Result<String, String> {
    let binaries = std::path::Path::new(env!("CARGO_BIN_EXE_mdl")).parent().unwrap();
    let path = format!("{}:{}", binaries.display(), std::env::var("PATH").unwrap());
    let mut said = String::new();
    for (name, script) in steps {
        let mut command = Command::new("bash");
        command.args(["--noprofile", "--norc", "-eo", "pipefail", "-c", script]).current_dir(place.path(""));
        command.env("PATH", &path).env("MDL_MODELS", ".mdl/models").env("MDL_CACHE", ".mdl/cache");
        let output = command.output().unwrap();
        said.push_str(&format!("--- {name}\n{}{}", text(&output.stdout), text(&output.stderr)));
        if !output.status.success() {
            return Err(said);
        }
    }
    Ok(said)
}

fn read(name: &str) -> String {
    std::fs::read_to_string(root(name)).unwrap()
}

/// What every one of the pipelines must have made.
fn made(place: &Place) {
    let lock: serde_json::Value = serde_json::from_str(&place.read("Modelfile.lock")).unwrap();
    let other = Place::new();
    std::fs::copy(place.path("out/model.tar"), other.path("model.tar")).unwrap();
    let loaded = other.ok(&["load", "model.tar"]);
    assert_eq!(loaded, format!("loaded 'model:latest' {}\n", lock["artifact"].as_str().unwrap()));
    let measured: serde_json::Value = serde_json::from_str(&place.read("out/eval.json")).unwrap();
    assert!(measured.is_object());
    for name in ["out/provenance.json", "out/bom.json"] {
        let _: serde_json::Value = serde_json::from_str(&place.read(name)).unwrap();
    }
}

fn flip(place: &Place) {
    let weights = place.path("lora/adapter_model.safetensors");
    let mut bytes = std::fs::read(&weights).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    std::fs::write(weights, bytes).unwrap();
}

#[test]
#[cfg(unix)]
fn the_pipeline_for_github_runs() {
    let steps = github(&read("docs/ci/github.yml"));
    let steps: Vec<_> = steps.into_iter().filter(|(name, _)| name != "Install mdl").collect();
    assert_eq!(steps.len(), 4, "{steps:#?}");
    let place = repository();
    run(&place, &steps).unwrap();
    made(&place);
    // Once more, as another job with the shared cache does it; then with another adapter.
    std::fs::remove_dir_all(place.path(".mdl/models")).unwrap();
    run(&place, &steps).unwrap();
    flip(&place);
    let said = run(&place, &steps).unwrap_err();
    assert!(
        said.contains("::error ") && said.contains("the file `adapter_model.safetensors` of ADAPTER changed"),
        "{said}"
    );
}

#[test]
#[cfg(unix)]
fn the_pipeline_for_gitlab_runs() {
    let steps = gitlab(&read("docs/ci/gitlab.yml"));
    assert_eq!(steps.len(), 7, "{steps:#?}");
    let place = repository();
    run(&place, &steps).unwrap();
    made(&place);
    let report: serde_json::Value = serde_json::from_str(&place.read("gl-code-quality-report.json")).unwrap();
    assert_eq!(report, serde_json::json!([]));
    place.write("Modelfile", "FROM ./model\nPARAMETER temprature 1\n");
    assert!(run(&place, &steps).unwrap_err().contains("--- check"));
    let report: serde_json::Value = serde_json::from_str(&place.read("gl-code-quality-report.json")).unwrap();
    assert_eq!(report[0]["check_name"], "unknown-parameter");
}

/// Every `mdl COMMAND --option` that the pages show is one that there is.
#[test]
fn the_pages_name_what_there_is() {
    let place = Place::new();
    let mut seen = 0;
    for page in [
        "docs/pipeline.md",
        "docs/offline.md",
        "docs/coming-from-ollama.md",
        "docs/ci/github.yml",
        "docs/ci/gitlab.yml",
    ] {
        let text = read(page).replace("\\\n", " ");
        for line in text.lines() {
            for call in line.split("mdl ").skip(1) {
                let call = call.split(['`', '#', '|', '>']).next().unwrap();
                let mut words = call.split_whitespace();
                let Some(command) = words.next().filter(|c| c.chars().all(|c| c.is_ascii_lowercase())) else {
                    continue;
                };
                let output = place.mdl(&[command, "--help"]);
                // A word of prose, such as "mdl keeps".
                if !output.status.success() {
                    assert!(!line.starts_with("    "), "{page}: {line}");
                    continue;
                }
                let help = String::from_utf8(output.stdout).unwrap();
                for option in words.filter(|w| w.starts_with("--") && w.len() > 2) {
                    let option = option.trim_end_matches(|c: char| !c.is_ascii_alphanumeric());
                    assert!(help.contains(option), "{page}: `mdl {command}` has no {option}");
                    seen += 1;
                }
            }
        }
        for (_, link) in text.match_indices("](").map(|(at, _)| text.split_at(at + 2)) {
            let link = link.split(')').next().unwrap();
            assert!(root("docs").join(link).exists(), "{page}: {link}");
        }
    }
    assert!(seen > 15, "{seen}");
}
