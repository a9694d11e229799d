//! Safetensors headers, right and wrong.

use std::path::Path;
use std::sync::Arc;

use mdl::formats::safetensors::Safetensors;
use mdl_kernels::TensorType;

use crate::bytes::{Cut, Raw, f32_safetensors, safetensors, typed_safetensors};
use crate::report::{check, report};

fn read(bytes: Vec<u8>) -> mdl::diagnostic::Result<Safetensors> {
    Safetensors::read(Path::new("model.safetensors"), &Arc::<[u8]>::from(bytes))
}

#[test]
fn a_header_is_read() {
    let header = r#"{"__metadata__":{"format":"pt"},
        "b":{"dtype":"BF16","shape":[2,3],"data_offsets":[8,20]},
        "a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]},
        "s":{"dtype":"I64","shape":[],"data_offsets":[20,28]}}   "#;
    let read = read(safetensors(header, 28)).unwrap();
    let data = 8 + header.len() as u64;
    let tensors: Vec<_> =
        read.tensors.iter().map(|t| (t.name.as_str(), t.shape.0.clone(), t.dtype, t.offset, t.len)).collect();
    assert_eq!(
        tensors,
        [
            ("a", vec![2], TensorType::F32, data, 8),
            ("b", vec![2, 3], TensorType::BF16, data + 8, 12),
            ("s", vec![], TensorType::I64, data + 20, 8),
        ]
    );
    assert_eq!(read.metadata.get("format").map(String::as_str), Some("pt"));
}

/// Headers whose lengths begin like other files' first bytes.
#[test]
fn a_length_that_looks_like_a_signature_is_a_length() {
    for len in [0x7b, 0x0280, 0x0480, 0x8b1f] {
        let mut header = r#"{"a":{"dtype":"I8","shape":[1],"data_offsets":[0,1]}}"#.to_owned();
        header.extend(std::iter::repeat_n(' ', len - header.len()));
        assert_eq!(read(safetensors(&header, 1)).unwrap().tensors.len(), 1);
    }
}

#[test]
fn every_type_that_exists_here_is_read() {
    let shared =
        [("F64", 8), ("F32", 4), ("F16", 2), ("BF16", 2), ("I64", 8), ("I32", 4), ("I16", 2), ("I8", 1)];
    let others =
        [("F8_E4M3", 1), ("F8_E5M2", 1), ("F8_E8M0", 1), ("BOOL", 1), ("U8", 1), ("U16", 2), ("U64", 8)];
    for (dtype, width) in shared.into_iter().chain(others) {
        let read = read(typed_safetensors(dtype, width, &[("t", &[3])])).unwrap();
        assert_eq!(read.tensors[0].dtype.name(), dtype);
    }
}

/// One tensor whose entry is `entry`.
fn entry(entry: &str, data: usize) -> Vec<u8> {
    safetensors(&format!(r#"{{"t":{{{entry}}}}}"#), data)
}

/// Tensors of I8 at these offsets.
fn at(ranges: &[(u64, u64)], data: usize) -> Vec<u8> {
    let entries: Vec<String> = ranges
        .iter()
        .enumerate()
        .map(|(i, (a, b))| {
            let len = b.saturating_sub(*a);
            format!(r#""t{i}":{{"dtype":"I8","shape":[{len}],"data_offsets":[{a},{b}]}}"#)
        })
        .collect();
    safetensors(&format!("{{{}}}", entries.join(",")), data)
}

fn cases() -> Vec<(&'static str, Vec<u8>)> {
    let start = |bytes: &[u8]| Raw::default().raw(bytes).zeros(64).0;
    let one = r#""dtype":"I8","shape":[4],"data_offsets":[0,4]"#;
    vec![
        ("empty file", vec![]),
        ("seven bytes", vec![1; 7]),
        ("pickle in a zip", start(b"PK\x03\x04\x00\x00\x08\x08")),
        ("pickle", start(b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19.")),
        ("GGUF", start(b"GGUF\x03\0\0\0")),
        ("Git LFS pointer", start(b"version https://git-lfs.github.com/spec/v1\n")),
        ("web page", start(b"<!DOCTYPE html>")),
        ("JSON without a length", start(br#"{"weight_map": {}}"#)),
        ("header longer than the file", Raw::default().u64(1000).raw(b"{}").0),
        ("header of 100,000,001 bytes", Raw::default().u64(100_000_001).raw(b"{}").0),
        ("header of 2^63 bytes", Raw::default().u64(1 << 63).raw(b"{}").0),
        ("header of 2^64-1 bytes", Raw::default().u64(u64::MAX).raw(b"{}").0),
        ("header of 0 bytes", Raw::default().u64(0).0),
        ("header padded with NUL", safetensors("{}\0\0\0\0\0\0", 0)),
        ("header is a list", safetensors("[]", 0)),
        ("header is no JSON", safetensors("{\"t\": ", 0)),
        ("header is not UTF-8", Raw::default().text(b"{\"\xff\":1}").0),
        ("header nests deeply", safetensors(&format!("{{\"t\":{}", "[".repeat(100_000)), 0)),
        ("entry is a number", safetensors(r#"{"t":1}"#, 0)),
        ("no dtype", entry(r#""shape":[4],"data_offsets":[0,4]"#, 4)),
        ("no shape", entry(r#""dtype":"I8","data_offsets":[0,4]"#, 4)),
        ("no offsets", entry(r#""dtype":"I8","shape":[4]"#, 4)),
        ("dtype twice", entry(&format!(r#"{one},"dtype":"F32""#), 4)),
        ("name twice", safetensors(&format!(r#"{{"t":{{{one}}},"t":{{{one}}}}}"#), 4)),
        ("metadata twice", safetensors(r#"{"__metadata__":{},"__metadata__":{}}"#, 0)),
        ("metadata key twice", safetensors(r#"{"__metadata__":{"a":"1","a":"2"}}"#, 0)),
        ("metadata of numbers", safetensors(r#"{"__metadata__":{"a":1}}"#, 0)),
        ("empty name", safetensors(&format!(r#"{{"":{{{one}}}}}"#), 4)),
        ("name of 5000 bytes", safetensors(&format!(r#"{{"{}":{{{one}}}}}"#, "n".repeat(5000)), 4)),
        ("name speaks to the terminal", safetensors(&format!(r#"{{"\u001b[2J":{{{one}}}}}"#), 5)),
        ("unknown dtype", entry(r#""dtype":"F7","shape":[4],"data_offsets":[0,4]"#, 4)),
        ("dtype C64", entry(r#""dtype":"C64","shape":[4],"data_offsets":[0,32]"#, 32)),
        ("dtype F4", entry(r#""dtype":"F4","shape":[4],"data_offsets":[0,2]"#, 2)),
        ("dtype F4 of an odd number", entry(r#""dtype":"F4","shape":[3],"data_offsets":[0,1]"#, 1)),
        ("negative dimension", entry(r#""dtype":"I8","shape":[-4],"data_offsets":[0,4]"#, 4)),
        ("dimension 1.5", entry(r#""dtype":"I8","shape":[1.5],"data_offsets":[0,4]"#, 4)),
        ("dimension 1e308", entry(r#""dtype":"I8","shape":[1e308],"data_offsets":[0,4]"#, 4)),
        ("nine dimensions", entry(r#""dtype":"I8","shape":[4,1,1,1,1,1,1,1,1],"data_offsets":[0,4]"#, 4)),
        ("dimension 0", entry(r#""dtype":"I8","shape":[0,4],"data_offsets":[0,0]"#, 0)),
        ("shape overflows", entry(r#""dtype":"I8","shape":[4294967296,4294967296],"data_offsets":[0,0]"#, 0)),
        ("size overflows", entry(r#""dtype":"F64","shape":[2305843009213693952],"data_offsets":[0,0]"#, 0)),
        ("offsets too short for the shape", entry(r#""dtype":"F32","shape":[4],"data_offsets":[0,4]"#, 4)),
        ("offsets the wrong way round", entry(r#""dtype":"I8","shape":[4],"data_offsets":[4,0]"#, 4)),
        ("three offsets", entry(r#""dtype":"I8","shape":[4],"data_offsets":[0,4,8]"#, 8)),
        ("negative offset", entry(r#""dtype":"I8","shape":[4],"data_offsets":[-4,0]"#, 4)),
        (
            "offset 2^64-1",
            entry(
                r#""dtype":"I8","shape":[4],"data_offsets":[18446744073709551611,18446744073709551615]"#,
                4,
            ),
        ),
        ("hole before the first", at(&[(2, 6)], 6)),
        ("hole between", at(&[(0, 4), (6, 10)], 10)),
        ("overlap", at(&[(0, 4), (3, 7)], 7)),
        ("two at one place", at(&[(0, 4), (0, 4)], 4)),
        ("one within another", at(&[(0, 8), (2, 4)], 8)),
        ("ends after the file", at(&[(0, 4), (4, 12)], 11)),
        ("bytes after the last", at(&[(0, 4)], 5)),
        ("bytes without a tensor", safetensors("{}", 8)),
    ]
}

#[test]
fn each_malformed_file_is_refused() {
    let cases = cases();
    assert!(cases.len() >= 40);
    let mut text = String::new();
    for (name, bytes) in cases {
        let errors = read(bytes).expect_err(name);
        assert_eq!(errors.exit_code(), 1, "{name}");
        text += &report(name, &errors);
    }
    check("formats_malformed_safetensors", &text);
}

#[test]
fn a_file_cut_at_any_byte_is_refused() {
    let bytes: Arc<[u8]> = f32_safetensors(&[("a", &[2, 3]), ("b", &[100]), ("c", &[7, 1, 3])]).into();
    for len in 0..bytes.len() {
        let cut = Cut { bytes: bytes.clone(), len };
        assert!(Safetensors::read(Path::new("cut.safetensors"), &cut).is_err(), "cut to {len} bytes");
    }
    read(bytes.to_vec()).unwrap();
}

/// Our reader takes no file that the format's own crate refuses.
#[test]
fn what_is_accepted_the_reference_accepts() {
    let files: [&[(&str, &[u64])]; 2] = [&[("a", &[2, 3]), ("b", &[5])], &[("x", &[1])]];
    for tensors in files {
        let bytes = f32_safetensors(tensors);
        let ours = read(bytes.clone()).unwrap();
        let theirs = ::safetensors::SafeTensors::deserialize(&bytes).unwrap();
        assert_eq!(ours.tensors.len(), theirs.len());
        for tensor in &ours.tensors {
            let view = theirs.tensor(&tensor.name).unwrap();
            assert_eq!(view.data().len() as u64, tensor.len);
            let offset = view.data().as_ptr() as usize - bytes.as_ptr() as usize;
            assert_eq!(offset as u64, tensor.offset);
        }
    }
}
