//! `mdl du`, `mdl gc` and `mdl doctor`.

use serde_json::Value;

use crate::place::{Place, text};

#[test]
fn du_says_what_takes_the_room() {
    let place = Place::with_sources("");
    place.ok(&["build", "-q", "q8_0", "-t", "one", "."]);
    place.write("two/Modelfile", "FROM one\nSYSTEM two\n");
    place.ok(&["build", "-t", "two", "two"]);
    place.ok(&["build", "-q", "q4_0", "-t", "three", "."]);
    let usage: Value = serde_json::from_str(&place.ok(&["du", "--json"])).unwrap();
    let of = |name: &str| {
        let models = usage["models"].as_array().unwrap();
        models.iter().find(|m| m["name"] == name).unwrap_or_else(|| panic!("{usage:#}")).clone()
    };
    let number = |value: &Value| value.as_u64().unwrap();
    assert!(
        number(&of("one:latest")["own"]) < 1000 && number(&of("one:latest")["shared"]) > 500_000,
        "{usage:#}"
    );
    assert!(number(&of("three:latest")["own"]) > 300_000);
    assert!(number(&usage["cache"]) > 0);
    let listed = place.ok(&["du"]);
    for word in ["MODEL", "three:latest", "build cache", "total"] {
        assert!(listed.contains(word), "{listed}");
    }
    // What removing a model gives back is what was said to be its own.
    let own = number(&of("three:latest")["own"]);
    let before = number(&usage["referenced"]);
    place.ok(&["rm", "three"]);
    let usage: Value = serde_json::from_str(&place.ok(&["du", "--json"])).unwrap();
    assert_eq!(before - number(&usage["referenced"]), own);
    assert_eq!(usage["unreferenced"], 0);
}

#[test]
fn gc_says_first_what_it_would_remove() {
    let place = Place::with_sources("");
    place.ok(&["build", "-q", "q8_0", "-t", "one", "."]);
    std::fs::remove_dir_all(place.path("store/manifests/registry.ollama.ai")).unwrap();
    let blobs = || std::fs::read_dir(place.path("store/blobs")).unwrap().count();
    let before = blobs();
    let said = place.ok(&["gc", "--dry-run", "--grace-minutes", "0"]);
    assert_eq!(said.lines().filter(|l| l.starts_with("sha256:")).count(), before, "{said}");
    assert!(said.lines().last().unwrap().starts_with("would remove "), "{said}");
    assert_eq!(blobs(), before);
    assert!(place.ok(&["gc"]).contains("nothing"), "within the hour");
    let said = place.ok(&["gc", "--grace-minutes", "0"]);
    let mut lines = said.lines();
    assert!(lines.next().unwrap().starts_with(&format!("removing {before} blobs")), "{said}");
    assert!(lines.next().unwrap().starts_with(&format!("removed {before} blobs")), "{said}");
    assert_eq!(blobs(), 0);
}

#[test]
fn doctor_says_what_a_report_needs_and_no_secret() {
    let place = Place::with_sources("");
    let doctor = |arguments: &[&str]| {
        let mut command = place.command();
        for (name, value) in [
            ("HTTPS_PROXY", "http://me:hunter2@proxy.example:3128"),
            ("AWS_SECRET_ACCESS_KEY", "hunter2"),
            ("OLLAMA_API_KEY", "hunter2"),
            ("MDL_API_KEY", "hunter2"),
            ("SOME_TOKEN", "hunter2"),
            ("MDL_HOST", "127.0.0.1:7777"),
        ] {
            command.env(name, value);
        }
        let output = command.arg("doctor").args(arguments).output().unwrap();
        assert!(output.status.success(), "{}", text(&output.stderr));
        let said = text(&output.stdout);
        assert!(!said.contains("hunter2"), "{said}");
        said
    };
    assert!(doctor(&[]).contains("not made yet"));
    assert!(!place.path("store").exists(), "it changes nothing");
    place.ok(&["build", "-q", "q8_0", "-t", "one", "."]);
    let said = doctor(&[]);
    for word in [
        env!("CARGO_PKG_VERSION"),
        "level in use",
        "cores",
        "available",
        "GPU",
        "no damage",
        "space that is free",
        "http://…@proxy.example:3128",
        "127.0.0.1:7777",
        "set; its value is not shown",
    ] {
        assert!(said.contains(word), "{word}: {said}");
    }
    let json: Value = serde_json::from_str(&doctor(&["--json"])).unwrap();
    assert_eq!(json["store"]["models"], "1");
    let manifest = place.path("store/manifests/registry.ollama.ai/library/one/latest");
    std::fs::write(manifest, "{").unwrap();
    assert!(doctor(&[]).contains("store  (look here)"));
}
