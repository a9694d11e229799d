//! PyTorch's files: what PyTorch wrote is read to the bit, and what is hostile is refused.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use mdl::codegen::Evaluator;
use mdl::diagnostic::Result;
use mdl::formats::TensorInfo;
use mdl::formats::safetensors::Safetensors;
use mdl::formats::torch::{self, pickle, zip::Archive};
use mdl::ir::{FileId, SourceFile};
use proptest::prelude::*;

use crate::archive::{Stored, archive, pickled, pytorch};
use crate::report::{check, report};

fn testdata(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("testdata/sources").join(name)
}

fn source(name: &str) -> Arc<[u8]> {
    std::fs::read(testdata(name)).unwrap().into()
}

fn read(bytes: &Arc<[u8]>) -> Result<Vec<TensorInfo>> {
    torch::read(Path::new("pytorch_model.bin"), bytes)
}

/// The bits of each value as float32.
fn values(bytes: &Arc<[u8]>, tensor: &TensorInfo) -> Vec<u32> {
    let files = [SourceFile { path: "source".into(), file: Arc::new(bytes.clone()) }];
    let expr = tensor.load(FileId(0));
    assert_eq!(expr.shape(), tensor.shape);
    let evaluator = Evaluator::new(&expr, &files).unwrap();
    evaluator.values(0..evaluator.rows()).unwrap().iter().map(|v| v.to_bits()).collect()
}

#[test]
fn what_pytorch_wrote_is_read_to_the_bit() {
    let expected_bytes = source("state.expected.safetensors");
    let expected = Safetensors::read(Path::new("expected"), &expected_bytes).unwrap();
    for name in ["state.pt", "state-protocol3.pt", "state-protocol4.pt", "state-protocol5.pt"] {
        let bytes = source(name);
        let tensors = read(&bytes).unwrap();
        for expected in &expected.tensors {
            let tensor = tensors.iter().find(|t| t.name == expected.name).expect(&expected.name);
            assert_eq!(tensor.shape, expected.shape, "{}", expected.name);
            assert_eq!(values(&bytes, tensor), values(&expected_bytes, expected), "{}", expected.name);
        }
        let types: Vec<_> = tensors.iter().map(|t| (t.name.as_str(), t.dtype.name())).collect();
        let after: Vec<_> = types.iter().skip(expected.tensors.len()).copied().collect();
        assert_eq!(after, [("bytes", "U8"), ("flags", "BOOL"), ("count", "I64"), ("wide", "U32")]);
        let tied = |name: &str| tensors.iter().find(|t| t.name == name).unwrap().offset;
        assert_eq!(tied("tied"), tied("f32"), "tensors may share a storage");
        assert!(tensors.iter().any(|t| t.transposed));
    }
}

#[test]
fn the_state_of_a_module_is_read() {
    let bytes = source("module.bin");
    let tensors = read(&bytes).unwrap();
    let names: Vec<_> = tensors.iter().map(|t| (t.name.as_str(), t.shape.0.clone())).collect();
    assert_eq!(names[0], ("0.weight", vec![3, 2]));
    assert_eq!(names.last(), Some(&("1.num_batches_tracked", vec![])));
    assert_eq!(values(&bytes, &tensors[0]), vec![0.25f32.to_bits(); 6]);
}

#[test]
fn what_is_no_state_dict_is_refused() {
    let mut text = String::new();
    for name in ["legacy.bin", "strided.bin", "expanded.bin", "nested.bin", "whole.bin", "script.pt"] {
        text += &report(name, &read(&source(name)).expect_err(name));
    }
    let files: [(&str, &[u8]); 4] =
        [("GGUF", b"GGUF\x03\0\0\0"), ("empty", b""), ("text", b"hello"), ("page", b"<!DOCTYPE html><html>")];
    for (name, bytes) in files {
        text += &report(name, &read(&bytes.into()).expect_err(name));
    }
    check("formats_torch_foreign", &text);
}

/// A pickle with a head and an end around `body`.
fn program(body: &[u8]) -> Vec<u8> {
    [b"\x80\x02", body, b"."].concat()
}

#[test]
fn hostile_pickles_do_nothing() {
    let call = |module: &str, name: &str| {
        [format!("c{module}\n{name}\n").as_bytes(), b"X\x04\0\0\0true\x85R"].concat()
    };
    let cases: Vec<(&str, Vec<u8>)> = vec![
        ("os.system", program(&call("os", "system"))),
        ("posix.system", program(&call("posix", "system"))),
        ("builtins.eval", program(&call("builtins", "eval"))),
        ("Python 2's eval", program(&call("__builtin__", "eval"))),
        ("a name with control characters", program(&call("os\x1b[2J", "system"))),
        ("subprocess by STACK_GLOBAL", program(b"\x8c\x0asubprocess\x8c\x05Popen\x93)R")),
        ("a name like a known one", program(&call("torch._utils", "_rebuild_tensor_v4"))),
        ("INST", program(b"(ios\nsystem\n")),
        ("OBJ", program(b"(ccollections\nOrderedDict\no")),
        ("NEWOBJ", program(b"ccollections\nOrderedDict\n)\x81")),
        ("EXT1", program(b"\x82\x01")),
        ("PERSID as text", program(b"Pstorage\n")),
        ("DUP", program(b"}2")),
        ("protocol 0", b"I1\n.".to_vec()),
        ("protocol 9", b"\x80\x09}.".to_vec()),
        ("a dictionary is called", program(b"})R")),
        ("a type is called", program(b"ctorch\nFloatStorage\n)R")),
        ("a call without arguments", program(b"ctorch._utils\n_rebuild_tensor_v2\n)R")),
        ("BUILD on a list", program(b"]}b")),
        ("APPENDS to a dictionary", program(b"}(K\x01e")),
        ("SETITEMS in a list", program(b"](K\x01K\x02u")),
        ("SETITEMS with an odd number", program(b"}(K\x01u")),
        ("SETITEM in a tensor's place", program(b"K\x01K\x02K\x03s")),
        ("nothing on the stack", program(b"")),
        ("POP below a mark", program(b"}(0")),
        ("TUPLE without a mark", program(b"t")),
        ("TUPLE3 of one", program(b"}\x87")),
        ("memo of nothing", program(b"h\x07")),
        ("memo of an empty stack", program(b"q\x07")),
        ("text of 4 GiB", program(b"X\xff\xff\xff\xffa")),
        ("text of 2^63", program(b"\x8d\xff\xff\xff\xff\xff\xff\xff\x7fa")),
        ("bytes of 2^64", program(b"\x8e\xff\xff\xff\xff\xff\xff\xff\xffa")),
        ("a number of 255 bytes", program(b"\x8a\xff\x01")),
        ("a text that is no UTF-8", program(b"X\x01\0\0\0\xff")),
        ("a name without an end", program(&[b"c".to_vec(), vec![b'a'; 5000]].concat())),
        ("no STOP", b"\x80\x02}".to_vec()),
        ("a number", program(b"K\x01")),
        ("a list", program(b"]")),
        ("an empty dictionary", program(b"}")),
        ("a key that is a number", program(b"}K\x01K\x02s")),
        ("a key that is the dictionary", program(b"}q\x00h\x00K\x02s")),
        ("a value that is the dictionary", program(b"}q\x00X\x01\0\0\0ah\x00s")),
        (
            "a long integer as a size",
            pickled(&["w"], |p| p.size = b"\x8a\x09\0\0\0\0\0\0\0\0\x01\x85".to_vec()),
        ),
        ("a negative size", pickled(&["w"], |p| p.size = b"J\xff\xff\xff\xff\x85".to_vec())),
        (
            "a size of nine dimensions",
            pickled(&["w"], |p| p.size = b"(K\x01K\x01K\x01K\x01K\x01K\x01K\x01K\x01K\x01t".to_vec()),
        ),
        ("a size that is a number", pickled(&["w"], |p| p.size = b"K\x01".to_vec())),
        ("a size that is a dictionary", pickled(&["w"], |p| p.size = b"}".to_vec())),
        ("a storage that is a text", pickled(&["w"], |p| p.class = b"X\x01\0\0\0a".to_vec())),
        (
            "a storage that is a function",
            pickled(&["w"], |p| p.class = b"ccollections\nOrderedDict\n".to_vec()),
        ),
        ("a storage of a negative length", pickled(&["w"], |p| p.count = b"J\xff\xff\xff\xff".to_vec())),
        ("a storage of 2^62 numbers", pickled(&["w"], |p| p.count = b"\x8a\x08\0\0\0\0\0\0\0\x40".to_vec())),
        ("a storage with a long name", pickled(&["w"], |p| p.key = "k".repeat(1000))),
        ("an untyped storage", pickled(&["w"], |p| p.class = b"ctorch.storage\nUntypedStorage\n".to_vec())),
        ("a tensor without a name", pickled(&[""], |_| {})),
        ("a tensor with a long name", pickled(&[&"n".repeat(5000)], |_| {})),
    ];
    let mut text = String::new();
    for (name, bytes) in cases {
        let errors = pickle::state_dict(Path::new("pytorch_model.bin"), &bytes).expect_err(name);
        text += &report(name, &errors);
    }
    check("formats_torch_hostile_pickles", &text);
}

/// Lists within lists and tuples of themselves: nothing walks into them, and nothing is copied.
#[test]
fn depth_and_references_cost_nothing() {
    let deep = [b"\x80\x02".as_slice(), &b"]".repeat(1 << 20), &b"a".repeat((1 << 20) - 1), b"."].concat();
    let errors = pickle::state_dict(Path::new("p"), &deep).unwrap_err();
    assert!(errors.to_string().contains("holds a list"), "{errors}");
    // Each tuple refers to the one before twice: 2^100,000 leaves to anyone who walks in.
    let laughs = [b"\x80\x02)q\x00".as_slice(), &b"h\x00h\x00\x86q\x00".repeat(100_000), b"."].concat();
    assert!(pickle::state_dict(Path::new("p"), &laughs).unwrap_err().to_string().contains("a tuple"));
    let cycle = b"\x80\x02}q\x00X\x01\0\0\0aK\x01sh\x00.";
    assert!(pickle::state_dict(Path::new("p"), cycle).unwrap_err().to_string().contains("no tensor"));
    let many = [b"\x80\x02".as_slice(), &b")".repeat((1 << 22) + 1), b"."].concat();
    assert!(pickle::state_dict(Path::new("p"), &many).unwrap_err().to_string().contains("values"));
    let long = vec![b'.'; (16 << 20) + 1];
    assert!(pickle::state_dict(Path::new("p"), &long).unwrap_err().to_string().contains("at most"));
}

#[test]
fn tensors_outside_of_their_storages_are_refused() {
    let good = pickled(&["w"], |_| {});
    let file = |pickle: &[u8], data: &[u8]| read(&pytorch(pickle, data).into());
    assert_eq!(file(&good, &[0; 16]).unwrap().len(), 1);
    let of = |change: &dyn Fn(&mut crate::archive::Pickle)| file(&pickled(&["w"], |p| change(p)), &[0; 16]);
    let stored = |name: &str, contents: &[u8]| Stored::new(name, contents);
    let cases = [
        ("a shorter storage", file(&good, &[0; 12])),
        ("a longer storage", file(&good, &[0; 20])),
        ("no storage", read(&archive(&[stored("m/data.pkl", &good)]).into())),
        ("storage of another name", of(&|p| p.key = "../0".to_owned())),
        ("offset", of(&|p| p.offset = b"K\x01".to_vec())),
        ("offset of 2^63", of(&|p| p.offset = b"\x8a\x08\xff\xff\xff\xff\xff\xff\xff\x7f".to_vec())),
        ("size", of(&|p| p.size = b"K\x02K\x03\x86".to_vec())),
        ("size of 2^62", of(&|p| p.size = b"\x8a\x08\0\0\0\0\0\0\0\x40K\x02\x86".to_vec())),
        ("size of 0", of(&|p| p.size = b"K\0K\x02\x86".to_vec())),
        ("strides", of(&|p| p.stride = b"K\0K\x01\x86".to_vec())),
        ("strides of another rank", of(&|p| p.stride = b"K\x01\x85".to_vec())),
        ("big-endian", {
            let entries =
                [stored("m/data.pkl", &good), stored("m/byteorder", b"big"), stored("m/data/0", &[0; 16])];
            read(&archive(&entries).into())
        }),
        ("no pickle", read(&archive(&[stored("m/data/0", &[0; 16])]).into())),
        ("two pickles", {
            read(&archive(&[stored("a/data.pkl", &good), stored("b/data.pkl", &good)]).into())
        }),
        ("a pickle at the top", read(&archive(&[stored("data.pkl", &good)]).into())),
    ];
    let mut text = String::new();
    for (name, result) in cases {
        text += &report(name, &result.expect_err(name));
    }
    check("formats_torch_misplaced_tensors", &text);
}

fn zip(bytes: Vec<u8>) -> Result<Archive> {
    Archive::read(Path::new("m.zip"), &Arc::<[u8]>::from(bytes))
}

#[test]
fn archives_are_read_with_and_without_64_bits() {
    for wide in [false, true] {
        let entry = |name: &str, bytes: &[u8]| Stored { wide, ..Stored::new(name, bytes) };
        let bytes = archive(&[entry("a/x", b"hello"), entry("a/", b""), entry("b", b"")]);
        let read = zip(bytes.clone()).unwrap();
        let names: Vec<_> = read.entries.iter().map(|e| e.name.as_str()).collect();
        assert_eq!(names, ["a/x", "b"]);
        let x = read.entry("a/x").unwrap();
        assert_eq!(&bytes[x.offset as usize..][..x.len as usize], b"hello");
        let mut commented = bytes;
        let at = commented.len() - 2;
        commented.splice(at.., [&[4, 0][..], b"PK\x05\x06"].concat());
        assert_eq!(zip(commented).unwrap(), read, "a comment may hold anything");
    }
}

#[test]
fn archives_that_are_wrong_are_refused() {
    let entry = |name: &str| Stored::new(name, b"contents");
    let with = |change: fn(&mut Stored)| {
        let mut changed = entry("second");
        change(&mut changed);
        archive(&[entry("first"), changed])
    };
    let good = archive(&[entry("first"), entry("second")]);
    let patched = |at_from_end: usize, bytes: &[u8]| {
        let mut file = good.clone();
        let at = file.len() - at_from_end;
        file[at..at + bytes.len()].copy_from_slice(bytes);
        file
    };
    let cases: Vec<(&str, Vec<u8>)> = vec![
        ("nothing", Vec::new()),
        ("only a beginning", b"PK\x03\x04".to_vec()),
        ("cut short", good[..good.len() - 1].to_vec()),
        ("bytes after the end", [&good[..], b"x"].concat()),
        ("compressed", with(|e| e.method = 8)),
        ("compressed, says the entry alone", with(|e| e.local_method = Some(8))),
        ("stored in fewer bytes", with(|e| e.compressed = Some(3))),
        ("encrypted", with(|e| e.flags = 1)),
        ("a name that is no UTF-8", with(|e| e.name = vec![0xff])),
        ("another name in the entry", with(|e| e.local_name = Some(b"sxcond".to_vec()))),
        ("a longer name in the entry", with(|e| e.local_name = Some(vec![b'n'; 60000]))),
        ("two of one name", with(|e| e.name = b"first".to_vec())),
        ("the same bytes twice", with(|e| e.local_offset = Some(0))),
        ("a place outside of the file", with(|e| e.local_offset = Some(1 << 30))),
        ("a place without an entry", with(|e| e.local_offset = Some(4))),
        ("a length that runs into the table", with(|e| e.len = Some(9000))),
        (
            "a length of 2^64 - 1",
            with(|e| {
                e.wide = true;
                e.len = Some(u64::MAX);
            }),
        ),
        ("a 64-bit length that is missing", with(|e| e.len = Some(u64::from(u32::MAX)))),
        ("entries that overlap", with(|e| e.inside_previous = true)),
        ("several disks", patched(18, &[1, 0])),
        ("more entries than there are", patched(14, &[3, 0, 3, 0])),
        ("fewer entries than there are", patched(14, &[1, 0, 1, 0])),
        ("a table of 4 GiB", patched(10, &[0xff; 4])),
        ("a table beyond the end", patched(6, &[0xff, 0xff, 0xff, 0x7f])),
        ("a table elsewhere", patched(6, &[0; 4])),
    ];
    let mut text = String::new();
    for (name, bytes) in cases {
        text += &report(name, &zip(bytes).expect_err(name));
    }
    check("formats_zip_malformed", &text);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 96, ..ProptestConfig::default() })]

    /// Whatever is changed in a real file, no reader panics, and what is read lies in the file.
    #[test]
    fn changed_files_are_read_or_refused(at in any::<prop::sample::Index>(), byte: u8, cut in any::<prop::sample::Index>()) {
        let mut bytes = source("state.pt").to_vec();
        let at = at.index(bytes.len());
        bytes[at] = byte;
        if byte & 7 == 0 {
            bytes.truncate(cut.index(bytes.len()));
        }
        let file: Arc<[u8]> = bytes.into();
        if let Ok(tensors) = read(&file) {
            for tensor in tensors {
                prop_assert!(tensor.offset + tensor.len <= file.len() as u64);
                let count = tensor.shape.len() * tensor.dtype.block_bytes() as u64;
                prop_assert_eq!(count, tensor.len);
            }
        }
    }

    #[test]
    fn any_pickle_is_read_or_refused(body in prop::collection::vec(any::<u8>(), 0..200)) {
        let _ = pickle::state_dict(Path::new("p"), &program(&body));
    }
}
