//! The same tensors, bytes and metadata as llama.cpp's converter.

use std::collections::BTreeMap;

use mdl::formats::gguf;
use mdl::ir::{Array, Metadata, Value};
use mdl::passes::resolve;
use mdl::world::SystemWorld;
use serde_json::Value as Json;
use sha2::{Digest as _, Sha256};

use crate::differences::{DIFFERENCES, SAME_CUT};
use crate::fixture::{Fixture, copy_directory};

/// A value as the fixtures show it.
fn shown(value: &Value) -> String {
    match value {
        Value::Array(array) => {
            let mut hash = Sha256::new();
            let mut put = |bytes: &[u8]| hash.update(bytes);
            match array {
                Array::String(all) => all.iter().for_each(|s| {
                    put(&(s.len() as u64).to_le_bytes());
                    put(s.as_bytes());
                }),
                Array::I32(all) => all.iter().for_each(|v| put(&v.to_le_bytes())),
                Array::U32(all) => all.iter().for_each(|v| put(&v.to_le_bytes())),
                Array::F32(all) => all.iter().for_each(|v| put(&v.to_le_bytes())),
                Array::Bool(all) => all.iter().for_each(|v| put(&[u8::from(*v)])),
                Array::U8(all) => put(all),
                Array::I8(all) => all.iter().for_each(|v| put(&v.to_le_bytes())),
                other => panic!("no fixture has an array of {:?}", other.element_type()),
            }
            let hex: String = hash.finalize().iter().map(|b| format!("{b:02x}")).collect();
            format!("{} x {:?} {hex}", array.len(), array.element_type()).to_lowercase()
        }
        Value::F32(v) => format!("f32 {v:?}"),
        Value::String(s) => format!("string {s:?}"),
        Value::Bool(v) => format!("bool {v}"),
        other => format!("{:?} {}", other.value_type(), other.as_u64().unwrap()).to_lowercase(),
    }
}

fn expected(value: &Json) -> String {
    let ty = value["type"].as_str().unwrap();
    if let Some(element) = ty.strip_prefix("array of ") {
        return format!("{} x {element} {}", value["length"], value["sha256"].as_str().unwrap());
    }
    match ty {
        "f32" => format!("f32 {:?}", value["value"].as_f64().unwrap() as f32),
        "string" => format!("string {:?}", value["value"].as_str().unwrap()),
        other => format!("{other} {}", value["value"]),
    }
}

fn compare_metadata(
    fixture: &str,
    own: &Metadata,
    theirs: &BTreeMap<String, String>,
    problems: &mut Vec<String>,
) {
    let ours: BTreeMap<String, String> = own.iter().map(|(k, v)| (k.to_owned(), shown(v))).collect();
    let keys: std::collections::BTreeSet<&String> = ours.keys().chain(theirs.keys()).collect();
    for key in keys {
        let (a, b) = (ours.get(key), theirs.get(key));
        let pre = |name: &str| Some(format!("string {name:?}"));
        let same_cut = key == "tokenizer.ggml.pre"
            && SAME_CUT.iter().any(|(own, their, _)| (a.cloned(), b.cloned()) == (pre(own), pre(their)));
        if a != b && !same_cut && !DIFFERENCES.iter().any(|d| d.is_of(fixture, key)) {
            problems.push(format!("  {key}: ours {a:?}, theirs {b:?}"));
        }
    }
}

fn compare_tensors(path: &std::path::Path, theirs: &Json, problems: &mut Vec<String>) {
    let bytes = std::fs::read(path).unwrap();
    let module = resolve::open_gguf(&SystemWorld, path).unwrap();
    let ours: BTreeMap<String, String> = module
        .tensors
        .iter()
        .map(|tensor| {
            let mdl::ir::Expr::Load { offset, len, dtype, shape, .. } = &tensor.expr else { panic!() };
            let data = &bytes[*offset as usize..(*offset + *len) as usize];
            let hex: String = Sha256::digest(data).iter().map(|b| format!("{b:02x}")).collect();
            let mut dims = shape.0.clone();
            dims.reverse();
            (tensor.name.clone(), format!("{dtype} {dims:?} {hex}"))
        })
        .collect();
    let theirs: BTreeMap<String, String> = theirs
        .as_array()
        .unwrap()
        .iter()
        .map(|tensor| {
            let dims: Vec<u64> =
                tensor["shape"].as_array().unwrap().iter().map(|d| d.as_u64().unwrap()).collect();
            let (ty, hash) = (tensor["type"].as_str().unwrap(), tensor["sha256"].as_str().unwrap());
            (tensor["name"].as_str().unwrap().to_owned(), format!("{ty} {dims:?} {hash}"))
        })
        .collect();
    for name in ours.keys().chain(theirs.keys()).collect::<std::collections::BTreeSet<_>>() {
        let (a, b) = (ours.get(name), theirs.get(name));
        if a != b {
            problems.push(format!("  {name}: ours {a:?}, theirs {b:?}"));
        }
    }
}

fn listing(value: &Json) -> BTreeMap<String, String> {
    value.as_object().unwrap().iter().map(|(k, v)| (k.clone(), expected(v))).collect()
}

#[test]
fn files_are_those_of_the_converter() {
    let out = tempfile::tempdir().unwrap();
    let (mut problems, mut files) = (Vec::new(), 0);
    for fixture in Fixture::all() {
        let Some(theirs) = fixture.json("gguf.json") else {
            assert!(
                fixture.directory.join("gguf-refused.txt").is_file(),
                "{} has neither a listing nor a reason why there is none",
                fixture.name
            );
            continue;
        };
        let f16 = listing(&theirs["f16"]["metadata"]);
        let mut f32 = f16.clone();
        f32.extend(listing(&theirs["f32"]["metadata_differing"]));
        for (preset, metadata) in [("f16", &f16), ("f32", &f32)] {
            files += 1;
            let path = match fixture.compile(preset, out.path()) {
                Ok(path) => path,
                Err(e) => {
                    problems.push(e);
                    continue;
                }
            };
            let own = gguf::take_metadata(&mut gguf::read_shards(&SystemWorld, &path).unwrap());
            let mut found = Vec::new();
            compare_metadata(&fixture.name, &own, metadata, &mut found);
            compare_tensors(&path, &theirs[preset]["tensors"], &mut found);
            if !found.is_empty() {
                problems.push(format!("{} {preset}:\n{}", fixture.name, found.join("\n")));
            }
        }
    }
    println!("{files} files");
    assert!(problems.is_empty(), "{}", problems.join("\n"));
}

/// Newer versions of `transformers` write the same configuration in other words.
#[test]
fn a_configuration_in_new_words_makes_the_same_file() {
    let out = tempfile::tempdir().unwrap();
    let (mut problems, mut pairs) = (Vec::new(), 0);
    for fixture in Fixture::all().into_iter().filter(|f| f.directory.join("config.resaved.json").is_file()) {
        pairs += 1;
        let copy = out.path().join(&fixture.name);
        copy_directory(&fixture.directory, &copy);
        std::fs::rename(copy.join("config.resaved.json"), copy.join("config.json")).unwrap();
        let again = Fixture { name: format!("{}-resaved", fixture.name), directory: copy };
        match (fixture.compile("f16", out.path()), again.compile("f16", out.path())) {
            (Ok(a), Ok(b)) if std::fs::read(&a).unwrap() == std::fs::read(&b).unwrap() => {}
            (Ok(a), Ok(b)) => problems.push(format!("{}: {}", fixture.name, first_difference(&a, &b))),
            (a, b) => problems.extend([a.err(), b.err()].into_iter().flatten()),
        }
    }
    println!("{pairs} pairs");
    assert!(problems.is_empty(), "{}", problems.join("\n"));
    assert!(pairs > 20, "only {pairs} pairs");
}

/// The keys of which the values differ, else that tensors do.
fn first_difference(a: &std::path::Path, b: &std::path::Path) -> String {
    let metadata = |path| gguf::take_metadata(&mut gguf::read_shards(&SystemWorld, path).unwrap());
    let (a, b) = (metadata(a), metadata(b));
    let keys = a.iter().chain(b.iter()).map(|(key, _)| key.to_owned());
    let mut differing: Vec<String> = keys.filter(|key| a.get(key) != b.get(key)).collect();
    differing.dedup();
    if differing.is_empty() { "tensors".to_owned() } else { differing.join(", ") }
}

#[test]
fn every_difference_has_a_reason() {
    assert!(DIFFERENCES.iter().all(|d| !d.why.is_empty()));
}
