//! What a model is made of, as a CycloneDX 1.6 bill of materials.

use std::collections::BTreeSet;

use serde_json::{Map, Value, json};

use super::licenses::License;
use super::sources::{FileState, Named, Role, Source};
use super::statement::Build;
use crate::passes::package;
use crate::store::Digest;

/// What is written of one source.
const MODEL: &str = "machine-learning-model";

/// The bill of materials of a build.
pub fn bom(build: &Build<'_>) -> Value {
    let model = format!("model:{}", build.id);
    let components: Vec<Value> = build.sources.iter().enumerate().map(|(i, s)| component(i, s)).collect();
    let mut depends: Vec<Value> = (0..build.sources.len()).map(|i| json!({ "ref": reference(i) })).collect();
    let on: Vec<String> = (0..build.sources.len()).map(reference).collect();
    depends.insert(0, json!({ "ref": model, "dependsOn": on }));
    let mut metadata = Map::new();
    if let Some(time) = build.time.and_then(super::timestamp) {
        metadata.insert("timestamp".to_owned(), time.into());
    }
    metadata.insert(
        "tools".to_owned(),
        json!({ "components": [{ "type": "application", "name": "mdl", "version": env!("CARGO_PKG_VERSION") }] }),
    );
    metadata.insert("component".to_owned(), described(build, &model));
    json!({
        "$schema": "http://cyclonedx.org/schema/bom-1.6.schema.json",
        "bomFormat": "CycloneDX",
        "specVersion": "1.6",
        "serialNumber": serial(build.id),
        "version": 1,
        "metadata": metadata,
        "components": components,
        "dependencies": depends,
    })
}

/// The model itself.
fn described(build: &Build<'_>, reference: &str) -> Value {
    let module = build.module;
    let mut parameters = json!({ "inputs": [{ "format": "text" }], "outputs": [{ "format": "text" }] });
    if let Some(architecture) = module.architecture() {
        parameters["architectureFamily"] = architecture.into();
    }
    let property = |name: &str, value: String| json!({ "name": format!("mdl:{name}"), "value": value });
    let mut properties = vec![
        property("parameters", module.parameter_count().to_string()),
        property("quantization", package::file_type(&module.metadata)),
        property("tensors", module.tensors.len().to_string()),
    ];
    let architecture = module.architecture().unwrap_or("");
    if let Some(length) = module.metadata.u64(&format!("{architecture}.context_length")) {
        properties.push(property("context_length", length.to_string()));
    }
    let mut own: Vec<License> = (1..)
        .zip(&module.prompt.licenses)
        .map(|(i, text)| License { name: format!("LICENSE {i}"), text: text.clone() })
        .collect();
    own.extend(build.sources.iter().flat_map(|s| s.licenses.iter().cloned()));
    let mut component = json!({
        "type": MODEL,
        "bom-ref": reference,
        "name": build.name.to_string(),
        "version": build.id.to_string(),
        "hashes": hashes(build.id),
        "modelCard": { "modelParameters": parameters, "properties": properties },
    });
    add_licenses(&mut component, &own);
    component
}

fn component(number: usize, source: &Source) -> Value {
    let kind = if source.role == Role::Imatrix { "data" } else { MODEL };
    let mut component = json!({
        "type": kind,
        "bom-ref": reference(number),
        "name": source.shown(),
        "properties": [{ "name": "mdl:role", "value": source.role.name() }],
    });
    match &source.named {
        Named::Model(manifest) => component["hashes"] = hashes(manifest),
        Named::Files(files) => {
            let files = files.iter().map(|(name, state)| file(number, name, state));
            component["components"] = files.collect();
        }
    }
    add_licenses(&mut component, &source.licenses);
    component
}

fn file(number: usize, name: &str, state: &FileState) -> Value {
    json!({
        "type": "file",
        "bom-ref": format!("{}/{name}", reference(number)),
        "name": name,
        "hashes": hashes(&state.digest),
        "properties": [{ "name": "mdl:size", "value": state.size.to_string() }],
    })
}

fn reference(number: usize) -> String {
    format!("source:{}", number + 1)
}

fn hashes(digest: &Digest) -> Value {
    json!([{ "alg": "SHA-256", "content": digest.hex() }])
}

/// Texts as they were found: which licence one is, is for a reader to say. Equal ones are there once.
fn add_licenses(component: &mut Value, licenses: &[License]) {
    let mut seen = BTreeSet::new();
    let entries = licenses.iter().filter(|l| seen.insert(l.text.trim())).map(|license| {
        json!({
            "license": {
                "name": license.name,
                "text": { "contentType": "text/plain", "content": license.text },
            },
        })
    });
    let entries: Vec<Value> = entries.collect();
    if !entries.is_empty() {
        component["licenses"] = entries.into();
    }
}

/// A UUID that follows from the digest: version 8, which is free to be made so.
fn serial(id: &Digest) -> String {
    let mut bytes: Vec<u8> = id.as_bytes().iter().take(16).copied().collect();
    bytes[6] = bytes[6] & 0x0f | 0x80;
    bytes[8] = bytes[8] & 0x3f | 0x80;
    let hex: String = bytes.iter().map(|b| format!("{b:02x}")).collect();
    let parts = [&hex[..8], &hex[8..12], &hex[12..16], &hex[16..20], &hex[20..]];
    format!("urn:uuid:{}", parts.join("-"))
}
