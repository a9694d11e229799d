//! Importance matrices of both formats.

use std::path::Path;
use std::sync::Arc;

use mdl::diagnostic::Result;
use mdl::formats::gguf::{GgufWriter, Layout};
use mdl::formats::imatrix::{Importances, read};
use mdl::ir::{Metadata, Shape};
use mdl_kernels::TensorType;

use crate::bytes::{Cut, Raw};
use crate::report::{check, report};

fn read_bytes(bytes: Vec<u8>) -> Result<Importances> {
    read(Path::new("imatrix"), &Arc::<[u8]>::from(bytes))
}

fn gguf_bytes(kind: &str, tensors: &[(&str, &[u64], &[f32])]) -> Vec<u8> {
    let mut metadata = Metadata::default();
    metadata.set("general.type", kind);
    let shapes =
        tensors.iter().map(|(n, s, _)| ((*n).to_owned(), Shape(s.to_vec()), TensorType::F32)).collect();
    let mut writer = GgufWriter::new(Vec::new(), Layout::new(&metadata, shapes).unwrap()).unwrap();
    for (_, _, values) in tensors {
        writer.write_data(&values.iter().flat_map(|v| v.to_le_bytes()).collect::<Vec<_>>()).unwrap();
    }
    writer.finish().unwrap()
}

fn gguf(tensors: &[(&str, &[u64], &[f32])]) -> Result<Importances> {
    read_bytes(gguf_bytes("imatrix", tensors))
}

fn legacy(entries: u32) -> Raw {
    Raw::default().u32(entries)
}

trait Entry {
    fn entry(self, name: &str, calls: u32, values: &[f32]) -> Raw;
}

impl Entry for Raw {
    fn entry(self, name: &str, calls: u32, values: &[f32]) -> Raw {
        let raw = self.u32(name.len() as u32).raw(name.as_bytes()).u32(calls).u32(values.len() as u32);
        values.iter().fold(raw, |raw, v| raw.f32(*v))
    }
}

#[test]
fn sums_are_divided_by_counts() {
    let importances = gguf(&[
        ("a.weight.in_sum2", &[1, 3], &[2.0, 4.0, 0.0]),
        ("a.weight.counts", &[1, 1], &[2.0]),
        ("e.weight.in_sum2", &[3, 2], &[4.0, 8.0, 5.0, 0.0, 9.0, 9.0]),
        ("e.weight.counts", &[3, 1], &[4.0, 0.0, 3.0]),
    ])
    .unwrap();
    assert_eq!(importances["a.weight"], [1.0, 2.0, 0.0]);
    // The second expert was never chosen.
    assert_eq!(importances["e.weight"], [1.0, 2.0, 1.0, 1.0, 3.0, 3.0]);
    assert_eq!(importances.len(), 2);
}

#[test]
fn the_older_format_is_read_with_and_without_its_end() {
    let entries = legacy(2).entry("a.weight", 4, &[8.0, 2.0]).entry("b.weight", 0, &[3.0]);
    let with_end = entries.clone().u32(7).u32(8).raw(b"wiki.txt");
    for raw in [entries, with_end] {
        let importances = read_bytes(raw.0).unwrap();
        assert_eq!(importances["a.weight"], [2.0, 0.5]);
        assert_eq!(importances["b.weight"], [3.0]);
    }
}

#[test]
fn both_formats_cut_anywhere_are_refused() {
    let entries = legacy(2).entry("a.weight", 4, &[8.0, 2.0]).entry("b.weight", 1, &[3.0]);
    let without_end = entries.0.len();
    let older = entries.u32(7).u32(8).raw(b"wiki.txt").0;
    let mut newer =
        gguf_bytes("imatrix", &[("a.in_sum2", &[1, 8], &[1.0; 8]), ("a.counts", &[1, 8], &[1.0; 8])]);
    newer.truncate(newer.len() - newer.len() % 32);
    for bytes in [older, newer] {
        let bytes: Arc<[u8]> = bytes.into();
        let allowed = if bytes.starts_with(b"GGUF") { usize::MAX } else { without_end };
        for len in (0..bytes.len()).filter(|len| *len != allowed) {
            assert!(
                read(Path::new("cut"), &Cut { bytes: bytes.clone(), len }).is_err(),
                "cut to {len} bytes"
            );
        }
    }
}

#[test]
fn wrong_files_are_refused() {
    let mut text = String::new();
    let mut case = |name: &str, result: Result<Importances>| text += &report(name, &result.expect_err(name));
    case("empty", read_bytes(vec![]));
    case("text", read_bytes(b"hello, world, this is no importance matrix".to_vec()));
    case("a model", read_bytes(gguf_bytes("model", &[("a", &[1], &[1.0])])));
    case("nothing in it", gguf(&[]));
    case("no counts", gguf(&[("a.in_sum2", &[1, 2], &[1.0, 2.0])]));
    case("no sums", gguf(&[("a.counts", &[1, 1], &[1.0])]));
    case("another tensor", gguf(&[("a.weight", &[1, 1], &[1.0])]));
    case("too few counts", gguf(&[("a.in_sum2", &[2, 2], &[1.0; 4]), ("a.counts", &[1, 1], &[1.0])]));
    case("NaN", gguf(&[("a.in_sum2", &[1, 2], &[1.0, f32::NAN]), ("a.counts", &[1, 1], &[1.0])]));
    case("infinite", gguf(&[("a.in_sum2", &[1, 2], &[f32::INFINITY, 1.0]), ("a.counts", &[1, 1], &[1.0])]));
    case("negative", gguf(&[("a.in_sum2", &[1, 2], &[1.0, -1.0]), ("a.counts", &[1, 1], &[1.0])]));
    case("negative count", gguf(&[("a.in_sum2", &[1, 2], &[1.0, 1.0]), ("a.counts", &[1, 1], &[-1.0])]));
    case("quotient overflows", gguf(&[("a.in_sum2", &[1, 1], &[1e38]), ("a.counts", &[1, 1], &[1e-38])]));
    case("older: negative entries", read_bytes(legacy(u32::MAX).zeros(64).0));
    case("older: 2^31-1 entries", read_bytes(legacy(i32::MAX as u32).zeros(64).0));
    case("older: name of 2^31-1 bytes", read_bytes(legacy(1).u32(i32::MAX as u32).zeros(64).0));
    case(
        "older: 2^31-1 values",
        read_bytes(legacy(1).u32(1).raw(b"a").u32(1).u32(i32::MAX as u32).zeros(64).0),
    );
    case("older: no values", read_bytes(legacy(1).entry("a", 1, &[]).zeros(4).0));
    case("older: negative calls", read_bytes(legacy(1).entry("a", u32::MAX, &[1.0]).0));
    case("older: NaN", read_bytes(legacy(1).entry("a", 1, &[1.0, f32::NAN]).0));
    case("older: twice", read_bytes(legacy(2).entry("a", 1, &[1.0]).entry("a", 1, &[1.0]).0));
    case("older: not UTF-8", read_bytes(legacy(1).u32(1).raw(b"\xff").u32(1).u32(1).f32(1.0).0));
    case("older: trailing bytes", read_bytes(legacy(1).entry("a", 1, &[1.0]).u32(1).u32(1).raw(b"dx").0));
    check("formats_malformed_imatrix", &text);
}
