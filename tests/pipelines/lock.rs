//! `mdl build --lock` and `--locked`.

use crate::place::{Place, digest, snapshot, valid};

const BUILD: &[&str] = &["build", "-q", "q8_0", "-t", "m", "."];

fn with<'a>(more: &[&'a str]) -> Vec<&'a str> {
    BUILD.iter().copied().chain(more.iter().copied()).collect()
}

/// Changes one byte in the middle of a file, and leaves its length and time as they were.
fn change_a_byte(place: &Place, name: &str, at: usize, to: u8) {
    let mut bytes = std::fs::read(place.path(name)).unwrap();
    assert_ne!(bytes[at], to);
    bytes[at] = to;
    std::fs::write(place.path(name), bytes).unwrap();
}

#[test]
fn a_lock_says_what_a_model_was_made_of() {
    let place = Place::with_sources("SYSTEM be brief\nPARAMETER temperature 0.5\n");
    let id = digest(&place.ok(&with(&["--lock"])));
    let text = place.read("Modelfile.lock");
    snapshot("lock_storyteller", &text.replace(env!("CARGO_PKG_VERSION"), "VERSION"));
    let lock: serde_json::Value = serde_json::from_str(&text).unwrap();
    valid("docs/schemas/lock.schema.json", &lock);
    assert_eq!(lock["artifact"], id);

    // Held to, in a store that knows nothing.
    std::fs::remove_dir_all(place.path("store")).unwrap();
    assert_eq!(digest(&place.ok(&with(&["--locked", "--offline"]))), id);
    place.ok(&with(&["--locked", "--dry-run"]));
    // Written again, it is the same; and so it is from another place.
    place.ok(&with(&["--lock"]));
    assert_eq!(place.read("Modelfile.lock"), text);
    let other = Place::with_sources("SYSTEM be brief\nPARAMETER temperature 0.5\n");
    other.ok(&with(&["--lock"]));
    assert_eq!(other.read("Modelfile.lock"), text);
}

#[test]
fn whatever_differs_is_named() {
    let place = Place::with_sources("SYSTEM be brief\nPARAMETER temperature 0.5\n");
    place.write("imatrix/a", "");
    place.ok(&with(&["--lock"]));
    let mut report = String::new();
    let mut fails = |title: &str, place: &Place, arguments: &[&str]| {
        let said = place.fails(1, arguments);
        report.push_str(&format!("--- {title}\n{said}"));
        assert!(place.mdl(&["show", "m:other"]).status.code() == Some(1), "nothing got a name");
    };
    let locked: Vec<&str> = ["build", "-q", "q8_0", "-t", "m:other", ".", "--locked"].to_vec();
    let of = |more: &[&'static str]| [&locked[..], more].concat();

    let weights = std::fs::read(place.path("model/model.safetensors")).unwrap();
    let middle = weights.len() / 2;
    change_a_byte(&place, "model/model.safetensors", middle, weights[middle] ^ 1);
    fails("a byte of the weights", &place, &locked);
    std::fs::write(place.path("model/model.safetensors"), &weights).unwrap();

    let adapter = std::fs::read(place.path("lora/adapter_model.safetensors")).unwrap();
    let middle = adapter.len() / 2;
    change_a_byte(&place, "lora/adapter_model.safetensors", middle, adapter[middle] ^ 1);
    fails("another adapter", &place, &locked);
    std::fs::write(place.path("lora/adapter_model.safetensors"), &adapter).unwrap();

    fails("another option", &place, &["build", "-q", "q4_0", "-t", "m:other", ".", "--locked"]);
    fails("one option more", &place, &of(&["--tensor-type", "attn_v=q6_K"]));
    fails("one option less", &place, &["build", "-t", "m:other", ".", "--locked"]);

    let text =
        "FROM ./model\nADAPTER ./lora 0.5\nSYSTEM be long\nPARAMETER temperature 0.7\nPARAMETER top_k 3\n";
    place.write("Modelfile", text);
    fails("other lines", &place, &locked);
    place.write("Modelfile", "FROM ./model\nSYSTEM be brief\nPARAMETER temperature 0.5\n");
    fails("no adapter", &place, &locked);
    // A comment and another form are no difference.
    place.write(
        "Modelfile",
        "# hello\nfrom ./model\nadapter ./lora\nSYSTEM \"be brief\"\nPARAMETER temperature 0.50\n",
    );
    place.ok(&with(&["--locked"]));

    let lock = place.read("Modelfile.lock");
    let id = digest(&place.ok(BUILD));
    let other = format!("sha256:{}", "0".repeat(64));
    place.write("Modelfile.lock", &lock.replace(&id, &other));
    fails("another artifact", &place, &locked);
    place.write("Modelfile.lock", &lock.replace("\"mdl codegen 1\"", "\"mdl codegen 0\""));
    fails("another byte format", &place, &locked);
    place.write("Modelfile.lock", &lock.replace("\"format\": 1", "\"format\": 2"));
    fails("another format", &place, &locked);
    place.write("Modelfile.lock", &lock[..lock.len() / 2]);
    fails("half a lock", &place, &locked);
    std::fs::remove_file(place.path("Modelfile.lock")).unwrap();
    fails("no lock", &place, &locked);
    snapshot("lock_differences", &shorter(&report));
}

/// Digests as their first digits, so that the snapshot is readable; they stay different.
fn shorter(text: &str) -> String {
    let digest = regex::Regex::new("sha256:([0-9a-f]{6})[0-9a-f]{58}").unwrap();
    digest.replace_all(text, "sha256:$1…").into_owned()
}

#[test]
fn a_model_is_built_again() {
    let place = Place::with_sources("SYSTEM be brief\n");
    place.ok(&["build", "-t", "float", "."]);
    let text = crate::place::root("testdata/storyteller/heldout.txt").display().to_string();
    place.ok(&["imatrix", "-f", &text, "-o", "m.gguf", "float"]);
    let mut build = vec!["build", "-q", "q4_K_M", "--imatrix", "m.gguf", "-t", "m", "."];
    let first = ["--tensor-type", "blk.0.attn_v=q8_0", "--tensor-type", "attn_v=q6_K"];
    build.extend(first);
    let id = digest(&place.ok(&[&build[..], &["--lock"]].concat()));
    let said = place.ok(&["verify", "--rebuild", ".", "m"]);
    assert_eq!(said, format!(". gives {id} again\n'm:latest' is that\n"));
    let said = place.fails(1, &["verify", "--rebuild", ".", "m", "float"]);
    assert!(said.contains("`float:latest` is sha256:") && said.contains("something else"), "{said}");
    let lock = place.read("Modelfile.lock");
    place.write("Modelfile.lock", &lock.replace("q4_K_M", "q5_K_M"));
    let said = place.fails(1, &["verify", "--rebuild", ".", "m"]);
    assert!(said.contains("another-artifact"), "{said}");
    place.write("Modelfile.lock", &lock.replace("q4_K_M", "q9_K_M"));
    let said = place.fails(1, &["verify", "--rebuild", ".", "m"]);
    assert!(said.contains("no option of this version"), "{said}");
}

#[test]
fn a_stored_model_is_locked_by_its_manifest() {
    let place = Place::with_sources("");
    place.ok(&["build", "-t", "base", "model"]);
    place.write("over/Modelfile", "FROM base\nSYSTEM be brief\n");
    place.ok(&["build", "-t", "over", "--lock", "over"]);
    place.ok(&["build", "-t", "over", "--locked", "over"]);
    let manifest = serde_json::from_str::<serde_json::Value>(&place.read("over/Modelfile.lock")).unwrap();
    assert!(manifest["sources"][0]["manifest"].as_str().unwrap().starts_with("sha256:"));
    assert_eq!(manifest["sources"][0].get("files"), None);
    place.write("base/Modelfile", "FROM ../model\nLICENSE mine\n");
    place.ok(&["build", "-t", "base", "base"]);
    let said = place.fails(1, &["build", "-t", "over", "--locked", "over"]);
    assert!(said.contains("the model of FROM changed: sha256:"), "{said}");
}

#[test]
fn offline_says_that_no_registry_was_asked() {
    let place = Place::new();
    place.write("Modelfile", "FROM nothing-here\n");
    for arguments in [&["--offline", "build", "-t", "x", "."][..], &["run", "--offline", "nothing-here", "x"]]
    {
        let said = place.fails(1, arguments);
        assert!(said.contains("no registry was asked"), "{said}");
    }
}
