//! Other people's readers and writers of GGUF.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;

use mdl::formats::gguf::{Gguf, GgufWriter, Layout};
use mdl::ir::{Array, Metadata, Shape, Value};
use mdl::world::{SystemWorld, World};
use mdl_kernels::TensorType;

/// Python with the `gguf` package: `MDL_PYTHON`, or `python3`. Without it the test is skipped, or
/// fails where `MDL_REQUIRE_PYTHON=1` says that it must be there.
fn python() -> Option<PathBuf> {
    let python = PathBuf::from(std::env::var_os("MDL_PYTHON").unwrap_or_else(|| "python3".into()));
    let output = Command::new(&python).args(["-c", "import gguf, numpy"]).output();
    if output.is_ok_and(|output| output.status.success()) {
        return Some(python);
    }
    assert!(
        std::env::var_os("MDL_REQUIRE_PYTHON").is_none_or(|v| v != "1"),
        "{} has no `gguf` package: pip install gguf",
        python.display()
    );
    eprintln!("skipped: {} has no `gguf` package", python.display());
    None
}

fn script(python: &Path, arguments: &[&Path]) -> String {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("testdata/interop/check_gguf.py");
    let output = Command::new(python).arg(script).args(arguments).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

/// Something of every type that Python's reader knows; it has no arrays of arrays.
fn metadata() -> Metadata {
    let mut metadata = Metadata::default();
    metadata.set("general.architecture", "llama");
    metadata.set("u8", 200u8);
    metadata.set("i8", -100i8);
    metadata.set("u16", 60_000u16);
    metadata.set("i16", -30_000i16);
    metadata.set("u32", u32::MAX);
    metadata.set("i32", i32::MIN);
    metadata.set("u64", u64::MAX);
    metadata.set("i64", i64::MIN);
    metadata.set("f32", 0.5f32);
    metadata.set("f64", 1e300f64);
    metadata.set("bool", true);
    metadata.set("string", "Ωmega \u{1f600} \"quoted\"");
    metadata.set("empty", "");
    metadata.set("strings", vec!["a".to_owned(), String::new(), "▁x".to_owned()]);
    metadata.set("u32s", vec![1u32, 2, 3]);
    metadata.set("i64s", vec![-1i64, i64::MAX]);
    metadata.set("f32s", vec![1.5f32, -2.25]);
    metadata.set("bools", vec![true, false, true]);
    metadata
}

fn tensors() -> Vec<(String, Shape, TensorType)> {
    let tensor = |name: &str, shape: &[u64], dtype| (name.to_owned(), Shape(shape.to_vec()), dtype);
    let mut tensors =
        vec![tensor("vector", &[3], TensorType::F32), tensor("cube", &[2, 3, 4], TensorType::F16)];
    // Python has 40 bytes for a block of Q8_1, which is 36 (two F16 and 32 bytes); no file has it.
    for &dtype in TensorType::ALL.iter().filter(|t| **t != TensorType::Q8_1) {
        tensors.push(tensor(&format!("t.{dtype}"), &[2, 512], dtype));
    }
    tensors
}

/// How the script prints a value.
fn printed(value: &Value) -> serde_json::Value {
    use serde_json::json;
    match value {
        Value::U8(v) => json!(v),
        Value::I8(v) => json!(v),
        Value::U16(v) => json!(v),
        Value::I16(v) => json!(v),
        Value::U32(v) => json!(v),
        Value::I32(v) => json!(v),
        Value::U64(v) => json!(v),
        Value::I64(v) => json!(v),
        Value::F32(v) => json!(f64::from(*v)),
        Value::F64(v) => json!(v),
        Value::Bool(v) => json!(v),
        Value::String(v) => json!(v),
        Value::Array(Array::String(v)) => v.iter().collect(),
        Value::Array(Array::U32(v)) => json!(v),
        Value::Array(Array::I64(v)) => json!(v),
        Value::Array(Array::F32(v)) => json!(v.iter().map(|v| f64::from(*v)).collect::<Vec<_>>()),
        Value::Array(Array::Bool(v)) => json!(v),
        other => panic!("not used here: {other:?}"),
    }
}

/// The sum of bytes that both sides compute over a tensor's data.
fn checksum(bytes: &[u8]) -> u64 {
    bytes.iter().zip(1u64..).map(|(byte, i)| u64::from(*byte) * i).sum()
}

#[test]
fn python_reads_what_is_written() {
    let Some(python) = python() else { return };
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("ours.gguf");
    let layout = Layout::new(&metadata(), tensors()).unwrap();
    let mut writer = GgufWriter::new(std::fs::File::create(&path).unwrap(), layout.clone()).unwrap();
    let mut expected = Vec::new();
    for tensor in layout.tensors() {
        let data: Vec<u8> = (0..tensor.len).map(|i| (i * 7 + tensor.offset) as u8).collect();
        writer.write_data(&data).unwrap();
        expected.push(serde_json::json!({
            "name": tensor.name, "shape": tensor.shape.0, "type": tensor.dtype.name(),
            "offset": tensor.offset, "bytes": tensor.len, "checksum": checksum(&data),
        }));
    }
    writer.finish().unwrap();

    let found: serde_json::Value = serde_json::from_str(&script(&python, &["read".as_ref(), &path])).unwrap();
    let keys = found["metadata"].as_object().unwrap();
    assert_eq!(keys.len(), metadata().len());
    for (key, value) in metadata().iter() {
        assert_eq!(keys[key]["value"], printed(value), "{key}");
    }
    assert_eq!(found["tensors"], serde_json::Value::Array(expected));
    assert_eq!(found["alignment"], 32);
}

/// The same with the crate gguf-rs, where `MDL_GGUF_RS` names the program built in
/// `testdata/interop/gguf-rs`.
#[test]
fn gguf_rs_reads_what_is_written() {
    let Some(program) = std::env::var_os("MDL_GGUF_RS") else {
        eprintln!("skipped: MDL_GGUF_RS is not set");
        return;
    };
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("ours.gguf");
    let layout = Layout::new(&metadata(), tensors()).unwrap();
    std::fs::write(&path, layout.header()).unwrap();
    let output = Command::new(program).arg(&path).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let found: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();

    let keys = found["metadata"].as_object().unwrap();
    assert_eq!(keys.len(), metadata().len());
    for (key, value) in metadata().iter() {
        assert_eq!(keys[key], printed(value), "{key}");
    }
    let expected = layout.tensors().iter().map(|tensor| {
        serde_json::json!({
            "name": tensor.name, "shape": tensor.shape.0, "type": tensor.dtype.id(), "offset": tensor.offset,
        })
    });
    assert_eq!(found["tensors"], serde_json::Value::Array(expected.collect()));
}

#[test]
fn what_python_writes_is_read() {
    let Some(python) = python() else { return };
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("theirs.gguf");
    let expected: serde_json::Value =
        serde_json::from_str(&script(&python, &["write".as_ref(), &path])).unwrap();

    let file = SystemWorld.open(&path).unwrap();
    let gguf = Gguf::read(&path, &*file).unwrap();
    let keys = expected["metadata"].as_object().unwrap();
    assert!(keys.len() > 10);
    for (key, entry) in keys {
        let value = gguf.metadata.get(key).unwrap_or_else(|| panic!("{key} is missing"));
        assert_eq!(printed(value), entry["value"], "{key}");
    }
    assert_eq!(gguf.metadata.len(), keys.len());
    assert_eq!(u64::from(u32::try_from(gguf.alignment).unwrap()), expected["alignment"].as_u64().unwrap());
    let tensors = expected["tensors"].as_array().unwrap();
    assert_eq!(gguf.tensors.len(), tensors.len());
    for (tensor, entry) in gguf.tensors.iter().zip(tensors) {
        assert_eq!(tensor.name, entry["name"].as_str().unwrap());
        assert_eq!(serde_json::json!(tensor.shape.0), entry["shape"], "{}", tensor.name);
        assert_eq!(tensor.dtype.name(), entry["type"].as_str().unwrap());
        assert_eq!(tensor.offset, entry["offset"].as_u64().unwrap());
        let mut data = vec![0; tensor.len as usize];
        file.read_at(tensor.offset, &mut data).unwrap();
        assert_eq!(checksum(&data), entry["checksum"].as_u64().unwrap(), "{}", tensor.name);
    }
}

/// A file that Python's package wrote, kept so that it is read on every machine.
#[test]
fn a_kept_file_of_python_is_read() {
    let bytes = include_bytes!("../../testdata/formats/python.gguf");
    let gguf = Gguf::read(Path::new("python.gguf"), &Arc::<[u8]>::from(bytes.as_slice())).unwrap();
    assert_eq!(gguf.metadata.str("general.architecture"), Some("llama"));
    assert_eq!(gguf.metadata.get("big"), Some(&Value::U64(u64::MAX)));
    let shapes: Vec<_> =
        gguf.tensors.iter().map(|t| (t.name.as_str(), t.shape.to_string(), t.dtype.name())).collect();
    assert_eq!(
        shapes,
        [
            ("matrix", "[3, 4]".to_owned(), "F32"),
            ("half", "[2, 2, 2]".to_owned(), "F16"),
            ("blocks", "[2, 64]".to_owned(), "Q8_0")
        ]
    );
}
