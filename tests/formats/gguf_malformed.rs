//! GGUF files that are wrong in one thing each.

use std::path::Path;
use std::time::{Duration, Instant};

use mdl::diagnostic::Location;
use mdl::formats::gguf::Gguf;

use crate::bytes::Raw;
use crate::report::{check, report};

const F32: u32 = 0;
const Q4_0: u32 = 2;
const Q4_K: u32 = 12;
const F64: u32 = 28;

/// One key-value and nothing else: `value` writes what comes after the key's type.
fn one_key(value_type: u32, value: impl FnOnce(Raw) -> Raw) -> Raw {
    value(Raw::gguf(0, 1).key("k", value_type))
}

/// An array as the value of the one key.
fn array(element: u32, count: u64, elements: impl FnOnce(Raw) -> Raw) -> Raw {
    one_key(9, |raw| elements(raw.u32(element).u64(count)))
}

/// One tensor at offset 0 with `data` bytes after the header.
fn one_tensor(ne: &[u64], dtype: u32, data: usize) -> Raw {
    Raw::gguf(1, 0).tensor("t", ne, dtype, 0).pad(32).zeros(data)
}

/// `general.alignment`, and one tensor of 64 bytes.
fn alignment(value_type: u32, value: impl FnOnce(Raw) -> Raw) -> Raw {
    value(Raw::gguf(1, 1).key("general.alignment", value_type)).tensor("t", &[16], F32, 0).zeros(256)
}

fn two_tensors(names: [&str; 2], offsets: [u64; 2], data: usize) -> Raw {
    Raw::gguf(2, 0)
        .tensor(names[0], &[16], F32, offsets[0])
        .tensor(names[1], &[16], F32, offsets[1])
        .pad(32)
        .zeros(data)
}

fn nested(depth: usize) -> Raw {
    let raw = one_key(9, |raw| raw);
    let raw = (1..depth).fold(raw, |raw, _| raw.u32(9).u64(1));
    raw.u32(0).u64(1).u8(7)
}

fn cases() -> Vec<(&'static str, Raw)> {
    let start = |bytes: &[u8]| Raw::default().raw(bytes).zeros(64);
    let version = |v: u32| Raw::default().raw(b"GGUF").u32(v).u64(0).u64(0);
    vec![
        ("empty file", Raw::default()),
        ("two bytes", Raw::default().raw(b"GG")),
        ("four bytes", Raw::default().raw(b"GGUF")),
        ("PyTorch zip", start(b"PK\x03\x04")),
        ("pickle", start(b"\x80\x02}q\x00")),
        ("Safetensors", Raw::default().text(r#"{"__metadata__":{}}"#).zeros(8)),
        ("web page", start(b"<!DOCTYPE html><html>")),
        ("Git LFS pointer", start(b"version https://git-lfs.github.com/spec/v1")),
        ("GGJT", start(b"tjgg\x03\0\0\0")),
        ("text", start(b"hello, world")),
        ("version 0", version(0)),
        ("version 1", version(1)),
        ("version 4", version(4)),
        ("version 2^32-1", version(u32::MAX)),
        ("big-endian version 3", Raw::default().raw(b"GGUF").raw(&3u32.to_be_bytes()).zeros(16)),
        ("no counts", Raw::default().raw(b"GGUF").u32(3)),
        ("half a count", Raw::default().raw(b"GGUF").u32(3).u32(0)),
        ("2^32-1 key-values", Raw::gguf(0, u32::MAX.into())),
        ("2^64-1 key-values", Raw::gguf(0, u64::MAX)),
        ("2^63 tensors", Raw::gguf(1 << 63, 0)),
        ("2^64-1 tensors", Raw::gguf(u64::MAX, 0)),
        ("more keys than there are", Raw::gguf(0, 2).key("a", 4).u32(1).zeros(13)),
        ("5000 keys", (0..5000).fold(Raw::gguf(0, 5000), |raw, i| raw.key(i.to_string(), 0).u8(1))),
        ("300,000 tensors", Raw::gguf(300_000, 0).zeros(300_000 * 25)),
        ("empty key", Raw::gguf(0, 1).key("", 4).u32(1).zeros(8)),
        ("key of 2^63 bytes", Raw::gguf(0, 1).u64(1 << 63).zeros(32)),
        ("key of 2^64-1 bytes", Raw::gguf(0, 1).u64(u64::MAX).zeros(32)),
        ("key of 65536 bytes", Raw::gguf(0, 1).key("k".repeat(65536), 0).u8(1)),
        ("key is longer than the file", Raw::gguf(0, 1).u64(60_000).zeros(32)),
        ("key is not UTF-8", Raw::gguf(0, 1).key(b"ab\xff", 4).u32(1)),
        ("key speaks to the terminal", Raw::gguf(0, 1).key("\x1b[2J", 13).u32(1)),
        ("key twice", Raw::gguf(0, 2).key("a", 4).u32(1).key("a", 4).u32(2)),
        ("value type 13", one_key(13, |raw| raw.u64(0))),
        ("value type 2^32-1", one_key(u32::MAX, |raw| raw.u64(0))),
        ("u64 cut", one_key(10, |raw| raw.u32(1))),
        ("value missing", one_key(12, |raw| raw.u8(0))),
        ("boolean 2", one_key(7, |raw| raw.u8(2))),
        ("string of 2^63 bytes", one_key(8, |raw| raw.u64(1 << 63))),
        ("string of 64 MiB and a byte", one_key(8, |raw| raw.u64((64 << 20) + 1))),
        ("string one byte too long", one_key(8, |raw| raw.u64(4).raw(b"abc"))),
        ("string is not UTF-8", one_key(8, |raw| raw.text(b"caf\xe9 au lait"))),
        ("array of type 13", array(13, 1, |raw| raw.u64(0))),
        ("array of 2^61 u64", array(10, 1 << 61, |raw| raw.u64(0))),
        ("array of 2^64-1 u8", array(0, u64::MAX, |raw| raw.u64(0))),
        ("array one u32 too long", array(4, 3, |raw| raw.u32(0).u32(0))),
        ("array of 2^32 strings", array(8, 1 << 32, |raw| raw.u64(0))),
        ("array string of 2^64-1 bytes", array(8, 2, |raw| raw.text("a").u64(u64::MAX).zeros(8))),
        ("array string is not UTF-8", array(8, 2, |raw| raw.text("a").text(b"\xc3\x28"))),
        ("array boolean 255", array(7, 2, |raw| raw.u8(1).u8(255))),
        ("array of 2^40 arrays", array(9, 1 << 40, |raw| raw.zeros(64))),
        ("inner array of 2^63 elements", array(9, 1, |raw| raw.u32(0).u64(1 << 63))),
        ("arrays nested five deep", nested(5)),
        ("arrays nested ten thousand deep", nested(10_000)),
        ("alignment 0", alignment(4, |raw| raw.u32(0))),
        ("alignment 13", alignment(4, |raw| raw.u32(13))),
        ("alignment 2^21", alignment(4, |raw| raw.u32(1 << 21))),
        ("alignment 2^31", alignment(4, |raw| raw.u32(1 << 31))),
        ("alignment is a u64", alignment(10, |raw| raw.u64(32))),
        ("alignment is a string", alignment(8, |raw| raw.text("32"))),
        ("tensor without a name", Raw::gguf(1, 0).tensor("", &[16], F32, 0).pad(32).zeros(64)),
        ("tensor name of 2^63 bytes", Raw::gguf(1, 0).u64(1 << 63).zeros(64)),
        (
            "tensor name of 1025 bytes",
            Raw::gguf(1, 0).tensor("n".repeat(1025), &[16], F32, 0).pad(32).zeros(64),
        ),
        ("tensor name is not UTF-8", Raw::gguf(1, 0).tensor(b"\xf0\x9f", &[16], F32, 0).pad(32).zeros(64)),
        ("tensor twice", two_tensors(["t", "t"], [0, 64], 128)),
        ("five dimensions", one_tensor(&[2, 2, 2, 2, 1], F32, 64)),
        ("2^32-1 dimensions", Raw::gguf(1, 0).text("t").u32(u32::MAX).zeros(64)),
        ("a dimension of 0", one_tensor(&[16, 0], F32, 64)),
        ("a dimension of 2^64-1", one_tensor(&[u64::MAX], F32, 64)),
        ("product of dimensions is 2^64", one_tensor(&[1 << 32, 1 << 32], F32, 64)),
        ("product of dimensions is 2^63", one_tensor(&[1 << 32, 1 << 31], F32, 64)),
        ("size is 2^64", one_tensor(&[1 << 61], F64, 64)),
        ("removed tensor type", one_tensor(&[32], 4, 64)),
        ("removed packed tensor type", one_tensor(&[32], 31, 64)),
        ("tensor type 99", one_tensor(&[32], 99, 64)),
        ("tensor type 2^32-1", one_tensor(&[32], u32::MAX, 64)),
        ("row of Q4_0 is no whole block", one_tensor(&[48, 2], Q4_0, 64)),
        ("row of Q4_K is half a superblock", one_tensor(&[128, 2], Q4_K, 256)),
        ("offset is not aligned", two_tensors(["a", "b"], [0, 65], 256)),
        ("offset is not aligned to 64", {
            Raw::gguf(1, 1).key("general.alignment", 4).u32(64).tensor("t", &[16], F32, 32).zeros(512)
        }),
        ("offset after the end", two_tensors(["a", "b"], [0, 1 << 20], 256)),
        ("offset near 2^64", two_tensors(["a", "b"], [0, u64::MAX - 31], 256)),
        ("tensor ends a byte after the file", one_tensor(&[16], F32, 63)),
        ("no data at all", one_tensor(&[16], F32, 0)),
        ("tensors at the same place", two_tensors(["a", "b"], [0, 0], 128)),
        ("tensors overlap by half", two_tensors(["a", "b"], [32, 0], 128)),
        ("table of tensors is cut", Raw::gguf(2, 0).tensor("a", &[16], F32, 0).text("b").u32(1).zeros(20)),
    ]
}

#[test]
fn each_is_refused_with_the_place_named() {
    let cases = cases();
    assert!(cases.len() >= 60);
    let mut text = String::new();
    for (name, raw) in cases {
        let start = Instant::now();
        let errors = Gguf::read(Path::new("m.gguf"), &raw.file()).expect_err(name);
        assert!(start.elapsed() < Duration::from_secs(1), "{name} took {:?}", start.elapsed());
        assert_eq!(errors.exit_code(), 1, "{name}");
        let place = match &errors.0[0].location {
            Some(Location::File { place, .. }) => place.as_deref(),
            _ => None,
        };
        let named = place.is_some_and(|p| p.starts_with("byte ") || p.contains('`') || p.contains(", byte "));
        assert!(named || name == "empty file", "{name}: {place:?}");
        text += &report(name, &errors);
    }
    check("formats_malformed_gguf", &text);
}

#[test]
fn the_building_blocks_of_the_cases_are_right_by_themselves() {
    for (name, raw) in [
        ("key", one_key(4, |raw| raw.u32(1))),
        ("array", array(8, 2, |raw| raw.text("a").text(""))),
        ("nested", nested(4)),
        ("alignment", alignment(4, |raw| raw.u32(64))),
        ("tensor", one_tensor(&[16], F32, 64)),
        ("tensors", two_tensors(["a", "b"], [64, 0], 128)),
        ("scalar", one_tensor(&[], F32, 4)),
    ] {
        Gguf::read(Path::new("m.gguf"), &raw.file()).expect(name);
    }
}
