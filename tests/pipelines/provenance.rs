//! `mdl build --provenance` and what is kept of it.

use serde_json::{Value, json};

use crate::place::{Place, digest, root, valid};

/// What CycloneDX's published schema finds wrong.
fn wrong_in_bom(bom: &Value) -> Vec<String> {
    let read = |name: &str| -> Value {
        let text = std::fs::read_to_string(root("testdata/schemas").join(name)).unwrap();
        serde_json::from_str(&text).unwrap()
    };
    let registry = jsonschema::Registry::new()
        .add("http://cyclonedx.org/schema/spdx.schema.json", read("spdx.schema.json"))
        .unwrap()
        .add("http://cyclonedx.org/schema/jsf-0.82.schema.json", read("jsf-0.82.schema.json"))
        .unwrap()
        .prepare()
        .unwrap();
    let schema = read("bom-1.6.schema.json");
    let validator = jsonschema::options().with_registry(&registry).build(&schema).unwrap();
    validator.iter_errors(bom).map(|e| format!("{}: {e}", e.instance_path())).collect()
}

fn json(text: &str) -> Value {
    serde_json::from_str(text).unwrap()
}

#[test]
fn a_build_states_what_it_was() {
    let place = Place::with_sources("SYSTEM be brief\nLICENSE only for bedtime\n");
    place.write("model/LICENSE.txt", "May be told to children.\n");
    place.write("lora/NOTICE", "Trained on tales.\n");
    place.write("model/LICENSE-binary", "");
    std::fs::write(place.path("model/LICENSE-binary"), [0xff, 0xfe, 0]).unwrap();
    std::fs::create_dir(place.path("out")).unwrap();
    let build = ["build", "-q", "q8_0", "-t", "story:v1", ".", "--provenance", "out"];
    let id = digest(&place.ok(&build));
    let (statement, bom) = (place.read("out/provenance.json"), place.read("out/bom.json"));

    let said = json(&statement);
    valid("testdata/schemas/slsa.schema.json", &said);
    assert_eq!(said["subject"], json!([{"name": "story:v1", "digest": {"sha256": &id[7..]}}]));
    let definition = &said["predicate"]["buildDefinition"];
    assert_eq!(definition["externalParameters"]["options"], json!({"--quantize": "q8_0"}));
    let dependencies = definition["resolvedDependencies"].as_array().unwrap();
    let weights = std::fs::read(place.path("model/model.safetensors")).unwrap();
    use sha2::Digest as _;
    let hex: String = sha2::Sha256::digest(&weights).iter().map(|b| format!("{b:02x}")).collect();
    let of =
        |name: &str| dependencies.iter().find(|d| d["name"] == name).unwrap_or_else(|| panic!("{said:#}"));
    assert_eq!(of("model.safetensors")["digest"]["sha256"], hex);
    assert_eq!(of("adapter_model.safetensors")["annotations"]["role"], "ADAPTER");
    assert_eq!(said["predicate"]["runDetails"].get("metadata"), None, "no clock");

    let listed = json(&bom);
    assert_eq!(wrong_in_bom(&listed), Vec::<String>::new(), "{listed:#}");
    assert!(!wrong_in_bom(&json!({"bomFormat": "x", "specVersion": "1.6"})).is_empty());
    let model = &listed["metadata"]["component"];
    assert_eq!(model["type"], "machine-learning-model");
    let texts: Vec<&str> = model["licenses"]
        .as_array()
        .unwrap()
        .iter()
        .map(|l| l["license"]["text"]["content"].as_str().unwrap())
        .collect();
    assert_eq!(texts, ["only for bedtime", "May be told to children.\n", "Trained on tales.\n"]);
    assert_eq!(listed["components"][1]["licenses"][0]["license"]["name"], "NOTICE");

    // Kept with the model; the same again from another store, into a file this time.
    assert_eq!(place.ok(&["show", "story:v1", "--provenance"]), statement);
    assert_eq!(place.ok(&["show", "story:v1", "--bom"]), bom);
    std::fs::remove_dir_all(place.path("store")).unwrap();
    place.ok(&["build", "-q", "q8_0", "-t", "story:v1", ".", "--provenance", "again.json"]);
    assert_eq!(place.read("again.json"), statement);
    assert_eq!(place.read("again.bom.json"), bom);

    // It goes with its model.
    let kept = place.path("store/mdl/provenance").join(&id[7..]);
    place.ok(&["gc", "--grace-minutes", "0"]);
    assert!(kept.exists());
    place.ok(&["rm", "story:v1"]);
    place.ok(&["gc", "--grace-minutes", "0"]);
    assert!(!kept.exists());
    place.ok(&["build", "-q", "q8_0", "-t", "story:v1", "."]);
    assert!(place.fails(1, &["show", "story:v1", "--provenance"]).contains("--provenance"));
}

#[test]
fn a_clock_is_asked_only_when_it_is_given() {
    let place = Place::with_sources("");
    std::fs::create_dir(place.path("out")).unwrap();
    let arguments = ["--progress", "none", "build", "-t", "m", ".", "--provenance", "out"];
    let builder = ["--builder-id", "https://ci.example/runner"];
    let run = |time: &str| {
        let mut command = place.command();
        command.env("SOURCE_DATE_EPOCH", time).args(arguments).args(builder).output().unwrap()
    };
    assert!(run("1700000000").status.success());
    let said = json(&place.read("out/provenance.json"));
    valid("testdata/schemas/slsa.schema.json", &said);
    let run_details = &said["predicate"]["runDetails"];
    assert_eq!(run_details["metadata"]["finishedOn"], "2023-11-14T22:13:20Z");
    assert_eq!(run_details["builder"]["id"], builder[1]);
    let bom = json(&place.read("out/bom.json"));
    assert_eq!(wrong_in_bom(&bom), Vec::<String>::new());
    assert_eq!(bom["metadata"]["timestamp"], "2023-11-14T22:13:20Z");
    for bad in ["yesterday", "-1", "99999999999999999999"] {
        let output = run(bad);
        assert_eq!(output.status.code(), Some(2), "{bad}");
    }
    place.fails(2, &["build", "-t", "m", ".", "--provenance", "out", "--builder-id", "not a uri"]);
}

#[test]
fn a_stored_source_is_stated_by_its_manifest() {
    let place = Place::with_sources("LICENSE mine\n");
    let base = digest(&place.ok(&["build", "-t", "base", "."]));
    place.write("over/Modelfile", "FROM base\nSYSTEM x\n");
    place.ok(&["build", "-t", "over", "over", "--provenance", "p.json"]);
    let said = json(&place.read("p.json"));
    valid("testdata/schemas/slsa.schema.json", &said);
    let dependency = &said["predicate"]["buildDefinition"]["resolvedDependencies"][0];
    assert_eq!((&dependency["name"], &dependency["digest"]["sha256"]), (&json!("base"), &json!(&base[7..])));
    let bom = json(&place.read("p.bom.json"));
    assert_eq!(wrong_in_bom(&bom), Vec::<String>::new());
    assert_eq!(bom["metadata"]["component"]["licenses"][0]["license"]["text"]["content"], "mine");
}
