//! Small files that claim to be huge, and whole files that were cut.

use std::path::Path;
use std::time::{Duration, Instant};

use mdl::formats::gguf::{Gguf, GgufWriter, Layout};
use mdl::ir::{Array, Metadata, Shape, Value};
use mdl_kernels::TensorType;

use crate::bytes::{Cut, Raw};

const HUGE: &[u64] = &[
    1 << 20,
    (1 << 31) - 1,
    1 << 31,
    (1 << 32) - 1,
    1 << 32,
    1_000_000_000_000,
    1 << 61,
    (1 << 63) - 1,
    1 << 63,
    u64::MAX,
];

/// Files of at most 1 KiB, each with a count or length that is a lie.
fn liars() -> Vec<Raw> {
    let mut liars = Vec::new();
    for &n in HUGE {
        liars.push(Raw::gguf(n, 0));
        liars.push(Raw::gguf(0, n));
        liars.push(Raw::gguf(n, n));
        liars.push(Raw::gguf(0, 1).u64(n));
        liars.push(Raw::gguf(0, 1).key("k", 8).u64(n));
        for element in 0..=12 {
            liars.push(Raw::gguf(0, 1).key("k", 9).u32(element).u64(n));
            liars.push(Raw::gguf(0, 1).key("k", 9).u32(9).u64(1).u32(element).u64(n));
        }
        liars.push(Raw::gguf(0, 1).key("k", 9).u32(9).u64(16).u32(9).u64(8).u32(0).u64(n));
        liars.push(Raw::gguf(1, 0).u64(n));
        liars.push(Raw::gguf(1, 0).text("t").u32(n as u32));
        liars.push(Raw::gguf(1, 0).tensor("t", &[n], 24, 0));
        liars.push(Raw::gguf(1, 0).tensor("t", &[32, n], 2, 0));
        liars.push(Raw::gguf(1, 0).tensor("t", &[8], 0, n));
    }
    // What follows the lie may be zeros, so that reading can go on, or nothing.
    let padded = liars.clone().into_iter().map(|raw| {
        let len = raw.0.len();
        raw.zeros(1024 - len)
    });
    liars.extend(padded.collect::<Vec<_>>());
    liars
}

fn read_all_liars() {
    let liars = liars();
    assert!(liars.len() >= 200);
    for (i, raw) in liars.into_iter().enumerate() {
        assert!(raw.0.len() <= 1024);
        let start = Instant::now();
        // The rank of the 2^32 and larger lies is 0 or 1 after it was cut to 32 bits, and
        // what follows may be right: those may be read.
        if let Ok(gguf) = Gguf::read(Path::new("liar.gguf"), &raw.file()) {
            assert!(gguf.tensors.len() <= 1 && gguf.metadata.len() <= 1, "liar {i}");
        }
        assert!(start.elapsed() < Duration::from_millis(100), "liar {i} took {:?}", start.elapsed());
    }
}

#[test]
fn small_liars_take_little_time() {
    read_all_liars();
}

/// The same in a process of its own whose address space is so small that it could not hold what the
/// files claim.
#[test]
#[cfg(target_os = "linux")]
fn small_liars_take_little_memory() {
    const CHILD: &str = "MDL_TEST_LIARS_CHILD";
    if std::env::var_os(CHILD).is_some() {
        read_all_liars();
        return;
    }
    let output = std::process::Command::new("sh")
        .args(["-c", "ulimit -v 262144; exec \"$0\" --exact gguf_liars::small_liars_take_little_memory"])
        .arg(std::env::current_exe().unwrap())
        .env(CHILD, "1")
        .env("RUST_TEST_THREADS", "1")
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(
        output.status.success() && text.contains("1 passed"),
        "{text}{}",
        String::from_utf8_lossy(&output.stderr)
    );
}

/// A valid file with something of everything, whose last byte is a tensor's.
pub fn valid() -> Vec<u8> {
    let mut metadata = Metadata::default();
    metadata.set("general.architecture", "llama");
    metadata.set("general.alignment", 64u32);
    metadata.set("flag", true);
    metadata.set("numbers", vec![1.5f64, -2.0]);
    metadata.set("tokens", (0..100).map(|i| format!("token {i}")).collect::<Vec<_>>());
    let inner = vec![Array::U8(vec![1, 2]), Array::String(vec!["x".to_owned()].into()), Array::Array(vec![])];
    metadata.set("nested", Value::Array(Array::Array(inner)));
    let tensors = vec![
        ("token_embd.weight".to_owned(), Shape(vec![20, 32]), TensorType::Q8_0),
        ("blk.0.attn_q.weight".to_owned(), Shape(vec![4, 256]), TensorType::Q4_K),
        ("output_norm.weight".to_owned(), Shape(vec![2, 4, 8]), TensorType::F32),
    ];
    let layout = Layout::new(&metadata, tensors).unwrap();
    let lens: Vec<u64> = layout.tensors().iter().map(|t| t.len).collect();
    let mut writer = GgufWriter::new(Vec::new(), layout).unwrap();
    for len in lens {
        writer.write_data(&vec![0xaa; len as usize]).unwrap();
    }
    writer.finish().unwrap()
}

#[test]
fn a_file_cut_at_any_byte_is_refused() {
    let bytes: std::sync::Arc<[u8]> = valid().into();
    assert_eq!(bytes.last(), Some(&0xaa));
    for len in 0..bytes.len() {
        let cut = Cut { bytes: bytes.clone(), len };
        assert!(Gguf::read(Path::new("cut.gguf"), &cut).is_err(), "cut to {len} bytes");
    }
    Gguf::read(Path::new("whole.gguf"), &bytes).unwrap();
}
