//! `mdl bench` as a person and a script use it, on the storyteller.

#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::path::Path;
use std::process::{Command, Output, Stdio};

use serde_json::Value;

struct Place(tempfile::TempDir);

impl Place {
    /// A store with the storyteller as `story`.
    fn new() -> Place {
        let place = Place(tempfile::tempdir().unwrap());
        let modelfile = Path::new(env!("CARGO_MANIFEST_DIR")).join("testdata/storyteller/Modelfile");
        place.ok(&["build", "-q", "q8_0", "-t", "story", &modelfile.display().to_string()]);
        place
    }

    fn mdl(&self, arguments: &[&str]) -> Output {
        let mut command = Command::new(env!("CARGO_BIN_EXE_mdl"));
        command.arg("--store").arg(self.0.path().join("store"));
        command.args(["--progress", "none", "--color", "never", "--threads", "2"]).args(arguments);
        command.stdin(Stdio::null()).output().unwrap()
    }

    fn ok(&self, arguments: &[&str]) -> String {
        let output = self.mdl(arguments);
        assert!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap()
    }

    fn fails(&self, code: i32, arguments: &[&str]) -> String {
        let output = self.mdl(arguments);
        assert_eq!(output.status.code(), Some(code), "{}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stderr).unwrap()
    }
}

/// What differs from run to run and from machine to machine: the line that names it, figures with a point or a unit, and
/// the width of columns.
fn masked(table: &str) -> String {
    let mask = |word: &str| match word.contains('.') && word.chars().all(|c| c.is_ascii_digit() || c == '.') {
        true => "#.#".to_owned(),
        false => word.to_owned(),
    };
    let line = |line: &str| line.split_whitespace().map(mask).collect::<Vec<_>>().join(" ");
    table.lines().skip(2).map(line).collect::<Vec<_>>().join("\n")
}

fn snapshot(name: &str, text: &str) {
    insta::with_settings!({
        snapshot_path => concat!(env!("CARGO_MANIFEST_DIR"), "/snapshots"),
        prepend_module_to_snapshot => false,
        omit_expression => true,
    }, { insta::assert_snapshot!(name, text) });
}

const SHORT: [&str; 8] = ["bench", "story", "-p", "24", "-n", "3", "-r", "2"];

#[test]
fn the_help_has_examples() {
    let place = Place(tempfile::tempdir().unwrap());
    snapshot("cli_bench_help", &place.ok(&["bench", "--help"]));
}

#[test]
fn a_table_has_a_row_for_each_test() {
    let place = Place::new();
    let out = place.ok(&[&SHORT[..], &["-d", "0,20", "--sequences", "1,2"]].concat());
    assert!(out.starts_with(&format!("mdl {} on ", env!("CARGO_PKG_VERSION"))), "{out}");
    snapshot("cli_bench_table", &masked(&out));
}

#[test]
fn json_has_every_sample() {
    let place = Place::new();
    let out = place
        .ok(&[&SHORT[..], &["--batch", "16", "--kv-cache-type", "q8_0", "-t", "1,2", "--json"]].concat());
    let json: Value = serde_json::from_str(&out).unwrap();
    let text = |path: &str| json.pointer(path).and_then(Value::as_str).expect(path).to_owned();
    assert_eq!(text("/version"), env!("CARGO_PKG_VERSION"));
    assert!(!text("/cpu/name").is_empty() && json["cpu"]["features"].is_array());
    assert!(["portable", "avx2", "avx512", "amx"].contains(&text("/cpu/level").as_str()));
    let results = json["results"].as_array().unwrap();
    assert_eq!(results.iter().map(|r| r["threads"].as_u64().unwrap()).collect::<Vec<_>>(), [1, 2]);
    for result in results {
        assert_eq!((result["model"].as_str(), result["type"].as_str()), (Some("story"), Some("Q8_0")));
        assert_eq!((result["batch"].as_u64(), result["kv_cache_type"].as_str()), (Some(16), Some("q8_0")));
        assert!(
            result["parameters"].as_u64().unwrap() > 100_000 && result["bytes"].as_u64().unwrap() > 100_000
        );
        assert_eq!(result.get("limits"), None);
        let tests = result["tests"].as_array().unwrap();
        assert_eq!(
            tests.iter().map(|t| t["kind"].as_str().unwrap()).collect::<Vec<_>>(),
            ["prefill", "decode"]
        );
        for test in tests {
            let speed = &test["tokens_per_second"];
            let figure = |name: &str| speed[name].as_f64().unwrap();
            let samples = speed["samples"].as_array().unwrap();
            assert_eq!(samples.len(), 2);
            let sorted = ["min", "median", "max"].map(figure);
            assert!(sorted[0] > 0.0 && sorted.is_sorted(), "{test:#}");
            assert!((figure("mean") - (sorted[0] + sorted[2]) / 2.0).abs() < 1e-6 * figure("mean"));
            assert!(figure("standard_deviation") >= 0.0);
        }
    }
}

#[test]
fn a_profile_accounts_for_all_of_the_time() {
    let place = Place::new();
    let profiled = [&SHORT[..], &["--profile"]].concat();
    let table = place.ok(&profiled);
    for word in [
        "matmul Q8_0",
        "attention",
        "store kv",
        "OF READ",
        "OF PEAK",
        "between operations",
        "limits with 2 threads",
    ] {
        assert!(table.contains(word), "no {word} in {table}");
    }
    let json: Value = serde_json::from_str(&place.ok(&[&profiled[..], &["--json"]].concat())).unwrap();
    let result = &json["results"][0];
    for limit in [
        "read_bytes_per_second",
        "read_bytes",
        "float32_macs_per_second",
        "bf16_macs_per_second",
        "int8_macs_per_second",
    ] {
        assert!(result["limits"][limit].as_f64().unwrap() > 0.0, "{limit}");
    }
    for (test, steps) in [(0, 1), (1, 3)] {
        let profile = &result["tests"][test]["profile"];
        assert_eq!(profile["steps"].as_u64(), Some(steps));
        let operations = profile["operations"].as_array().unwrap();
        let sum: f64 = operations.iter().map(|o| o["seconds"].as_f64().unwrap()).sum();
        let rest = profile["between_operations_seconds"].as_f64().unwrap();
        let total = profile["seconds"].as_f64().unwrap();
        assert!((sum + rest - total).abs() < 1e-6, "{profile:#}");
        assert!(operations.iter().all(|o| o["bytes"].as_u64().unwrap() > 0), "{profile:#}");
        assert!(operations.iter().any(|o| o["int8_macs"].as_u64().unwrap() > 0), "{profile:#}");
    }
}

#[test]
fn what_measures_nothing_is_refused() {
    let place = Place::new();
    for (arguments, message) in [
        (&["-p", "0", "-n", "0"][..], "leaves nothing to measure"),
        (&["-r", "0"], "`--repeat 0`"),
        (&["-b", "0"], "`--batch 0`"),
        (&["--sequences", "0"], "at least one sequence"),
        (&["--kv-cache-type", "q3"], "none of f16"),
    ] {
        let shown = place.fails(2, &[&["bench", "story"], arguments].concat());
        assert!(shown.contains(message), "{shown}");
    }
    place.fails(2, &["bench"]);
    assert!(place.fails(1, &["bench", "nobody"]).contains("nobody"));
}
