//! What is written is what is read.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use mdl::formats::gguf::{Gguf, GgufWriter, Layout};
use mdl::ir::{Array, Metadata, Shape, Value};
use mdl_kernels::TensorType;
use proptest::collection::vec;
use proptest::prelude::*;

use crate::gguf_liars::valid;

fn scalar_array() -> impl Strategy<Value = Array> {
    const MOST: usize = 20;
    prop_oneof![
        vec(any::<u8>(), 0..MOST).prop_map(Array::U8),
        vec(any::<i8>(), 0..MOST).prop_map(Array::I8),
        vec(any::<u16>(), 0..MOST).prop_map(Array::U16),
        vec(any::<i16>(), 0..MOST).prop_map(Array::I16),
        vec(any::<u32>(), 0..MOST).prop_map(Array::U32),
        vec(any::<i32>(), 0..MOST).prop_map(Array::I32),
        vec(any::<u64>(), 0..MOST).prop_map(Array::U64),
        vec(any::<i64>(), 0..MOST).prop_map(Array::I64),
        vec(any::<u32>().prop_map(f32::from_bits), 0..MOST).prop_map(Array::F32),
        vec(any::<u64>().prop_map(f64::from_bits), 0..MOST).prop_map(Array::F64),
        vec(any::<bool>(), 0..MOST).prop_map(Array::Bool),
        vec(".{0,12}", 0..MOST).prop_map(|strings| Array::String(strings.into())),
    ]
}

fn array() -> impl Strategy<Value = Array> {
    scalar_array().prop_recursive(3, 24, 4, |inner| vec(inner, 0..4).prop_map(Array::Array))
}

fn value() -> impl Strategy<Value = Value> {
    prop_oneof![
        any::<u8>().prop_map(Value::U8),
        any::<i8>().prop_map(Value::I8),
        any::<u16>().prop_map(Value::U16),
        any::<i16>().prop_map(Value::I16),
        any::<u32>().prop_map(Value::U32),
        any::<i32>().prop_map(Value::I32),
        any::<u64>().prop_map(Value::U64),
        any::<i64>().prop_map(Value::I64),
        any::<u32>().prop_map(|bits| Value::F32(f32::from_bits(bits))),
        any::<u64>().prop_map(|bits| Value::F64(f64::from_bits(bits))),
        any::<bool>().prop_map(Value::Bool),
        ".{0,40}".prop_map(Value::String),
        array().prop_map(Value::Array),
        array().prop_map(Value::Array),
    ]
}

fn metadata() -> impl Strategy<Value = Metadata> {
    let entries = vec(("[a-z.]{1,20}|.{1,6}", value()), 0..12);
    (entries, proptest::option::of(0u32..13)).prop_map(|(entries, alignment)| {
        let mut metadata = Metadata::default();
        for (key, value) in entries {
            metadata.set(key, value);
        }
        if let Some(bits) = alignment {
            metadata.set("general.alignment", 1u32 << bits);
        }
        metadata
    })
}

fn tensors() -> impl Strategy<Value = Vec<(String, Shape, TensorType)>> {
    let shape = vec(1u64..4, 0..=4);
    let tensor = (shape, 0..TensorType::ALL.len());
    proptest::collection::btree_map("[a-z0-9._]{1,24}", tensor, 0..8).prop_map(|tensors: BTreeMap<_, _>| {
        let tensors = tensors.into_iter().map(|(name, (mut shape, dtype))| {
            let dtype = TensorType::ALL[dtype];
            match shape.last_mut() {
                Some(cols) => *cols *= dtype.block_len() as u64,
                None if dtype.is_quantized() => shape.push(dtype.block_len() as u64),
                None => {}
            }
            (name, Shape(shape), dtype)
        });
        tensors.collect()
    })
}

/// Writes every tensor, byte `i` of the file's data being `i`, in pieces of `piece` bytes.
fn write(layout: &Layout, piece: usize) -> Vec<u8> {
    let mut writer = GgufWriter::new(Vec::new(), layout.clone()).unwrap();
    for tensor in layout.tensors() {
        let data: Vec<u8> = (tensor.offset..tensor.offset + tensor.len).map(|i| i as u8).collect();
        for piece in data.chunks(piece) {
            writer.write_data(piece).unwrap();
        }
    }
    writer.finish().unwrap()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn what_is_written_is_read(metadata in metadata(), tensors in tensors(), piece in 1usize..5000) {
        let layout = Layout::new(&metadata, tensors.clone()).unwrap();
        let bytes = write(&layout, piece);
        prop_assert_eq!(bytes.len() as u64, layout.total_len());

        let file: Arc<[u8]> = bytes.into();
        let gguf = Gguf::read(Path::new("m.gguf"), &file).unwrap();
        prop_assert_eq!(gguf.version, 3);
        prop_assert_eq!(&gguf.tensors, layout.tensors());
        prop_assert_eq!(gguf.data_offset, layout.data_offset());
        prop_assert_eq!(gguf.alignment, layout.alignment());
        // NaN is not equal to itself: the printed form and the bytes are.
        prop_assert_eq!(format!("{:?}", gguf.metadata), format!("{metadata:?}"));
        let again = Layout::new(&gguf.metadata, tensors).unwrap();
        prop_assert_eq!(again.header(), layout.header());
        for tensor in &gguf.tensors {
            prop_assert_eq!(tensor.offset % gguf.alignment, 0);
            prop_assert_eq!(file[tensor.offset as usize], tensor.offset as u8);
        }
    }

    #[test]
    fn a_damaged_file_is_refused_or_makes_sense(
        places in vec((any::<proptest::sample::Index>(), any::<u8>()), 1..4),
    ) {
        let mut bytes = valid();
        let whole: Arc<[u8]> = bytes.clone().into();
        let header = Gguf::read(Path::new("m.gguf"), &whole).unwrap().data_offset as usize;
        for (at, byte) in places {
            bytes[at.index(header)] = byte;
        }
        let file: Arc<[u8]> = bytes.into();
        if let Ok(gguf) = Gguf::read(Path::new("m.gguf"), &file) {
            let end = gguf.tensors.iter().map(|t| t.offset + t.len).max().unwrap_or(0);
            prop_assert!(end <= file.len() as u64);
            let tensors = gguf.tensors.iter().map(|t| (t.name.clone(), t.shape.clone(), t.dtype)).collect();
            let layout = Layout::new(&gguf.metadata, tensors).unwrap();
            let again: Arc<[u8]> = write(&layout, 4096).into();
            let again = Gguf::read(Path::new("m.gguf"), &again).unwrap();
            prop_assert_eq!(format!("{:?}", again.metadata), format!("{:?}", gguf.metadata));
        }
    }
}

#[test]
fn version_2_is_read_like_version_3() {
    let mut bytes = valid();
    let three = Gguf::read(Path::new("m.gguf"), &Arc::<[u8]>::from(bytes.clone())).unwrap();
    bytes[4] = 2;
    let two = Gguf::read(Path::new("m.gguf"), &Arc::<[u8]>::from(bytes)).unwrap();
    assert_eq!(two, Gguf { version: 2, ..three });
}

#[test]
fn a_layout_refuses_what_could_not_be_read() {
    let tensor = |name: &str, shape: &[u64], dtype| vec![(name.to_owned(), Shape(shape.to_vec()), dtype)];
    let none = Metadata::default();
    let error = |metadata: &Metadata, tensors| Layout::new(metadata, tensors).unwrap_err().to_string();

    assert_eq!(
        error(&none, tensor("t", &[2, 48], TensorType::Q4_0)),
        "tensor `t`: Q4_0 stores blocks of 32 values; a row of 48 is no multiple of it"
    );
    assert_eq!(error(&none, tensor("", &[1], TensorType::F32)), "tensor ``: a name has 1 to 1024 bytes");
    assert!(error(&none, tensor("t", &[1, 1, 1, 1, 1], TensorType::F32)).contains("5 dimensions"));
    assert!(error(&none, tensor("t", &[4, 0], TensorType::F32)).contains("is 0"));
    assert!(error(&none, tensor("t", &[1 << 62, 1 << 10], TensorType::F32)).contains("2^63"));
    let twice = [tensor("t", &[1], TensorType::F32), tensor("t", &[1], TensorType::F32)].concat();
    assert!(error(&none, twice).contains("twice"));

    let with = |key: &str, value: Value| Metadata::from_unique(vec![(key.to_owned(), value)]);
    assert!(error(&with("general.alignment", Value::U32(48)), vec![]).contains("power of two"));
    assert!(error(&with("", Value::U32(1)), vec![]).contains("a key has"));
    let deep = (0..4).fold(Array::U8(vec![1]), |inner, _| Array::Array(vec![inner]));
    assert!(error(&with("k", Value::Array(deep)), vec![]).contains("nested"));
    let same = Metadata::from_unique(vec![("k".into(), Value::U8(1)), ("k".into(), Value::U8(2))]);
    assert!(error(&same, vec![]).contains("twice"));
}

/// The bytes of a small file, spelled out: they must never change.
#[test]
fn the_bytes_are_those_of_the_specification() {
    let mut metadata = Metadata::default();
    metadata.set("a", 7u8);
    metadata.set("b", vec!["x".to_owned()]);
    let layout = Layout::new(&metadata, vec![("t".to_owned(), Shape(vec![1, 2]), TensorType::F16)]).unwrap();
    let mut writer = GgufWriter::new(Vec::new(), layout).unwrap();
    writer.write_data(&[1, 2, 3, 4]).unwrap();
    let expected = crate::bytes::Raw::default()
        .raw(b"GGUF\x03\0\0\0\x01\0\0\0\0\0\0\0\x02\0\0\0\0\0\0\0")
        .raw(b"\x01\0\0\0\0\0\0\0a\0\0\0\0\x07")
        .raw(b"\x01\0\0\0\0\0\0\0b\x09\0\0\0\x08\0\0\0\x01\0\0\0\0\0\0\0\x01\0\0\0\0\0\0\0x")
        .raw(b"\x01\0\0\0\0\0\0\0t\x02\0\0\0\x02\0\0\0\0\0\0\0\x01\0\0\0\0\0\0\0\x01\0\0\0\0\0\0\0\0\0\0\0")
        .pad(32)
        .raw(&[1, 2, 3, 4])
        .pad(32);
    assert_eq!(writer.finish().unwrap(), expected.0);
}
