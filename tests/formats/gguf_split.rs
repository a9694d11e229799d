//! Models in several files.

use std::path::Path;

use mdl::formats::gguf::{GgufWriter, Layout, read_shards, take_metadata};
use mdl::ir::{Metadata, Shape, Value};
use mdl::world::MemoryWorld;
use mdl_kernels::TensorType;

use crate::report::{check, report};

fn shard(no: u16, count: u16, total: i32, tensors: &[&str], extra: &[(&str, Value)]) -> Vec<u8> {
    let mut metadata = Metadata::default();
    for (key, value) in extra {
        metadata.set(*key, value.clone());
    }
    metadata.set("split.no", no);
    metadata.set("split.count", count);
    metadata.set("split.tensors.count", total);
    let tensors = tensors.iter().map(|name| ((*name).to_owned(), Shape(vec![8]), TensorType::F32)).collect();
    let layout = Layout::new(&metadata, tensors).unwrap();
    let count = layout.tensors().len();
    let mut writer = GgufWriter::new(Vec::new(), layout).unwrap();
    for _ in 0..count {
        writer.write_data(&[0; 32]).unwrap();
    }
    writer.finish().unwrap()
}

fn path(no: u32, count: u32) -> String {
    format!("/m/model-{no:05}-of-{count:05}.gguf")
}

fn architecture(name: &str) -> [(&str, Value); 1] {
    [("general.architecture", name.into())]
}

/// Three shards that belong together.
fn three() -> MemoryWorld {
    let mut world = MemoryWorld::default();
    world.insert(path(1, 3), shard(0, 3, 4, &["a"], &architecture("llama")));
    world.insert(path(2, 3), shard(1, 3, 4, &["b", "c"], &[]));
    world.insert(path(3, 3), shard(2, 3, 4, &["d"], &[]));
    world
}

#[test]
fn shards_are_found_from_any_of_them() {
    let world = three();
    for no in 1..=3 {
        let mut shards = read_shards(&world, Path::new(&path(no, 3))).unwrap();
        let names: Vec<_> =
            shards.iter().flat_map(|s| s.gguf.tensors.iter().map(|t| t.name.as_str())).collect();
        assert_eq!(names, ["a", "b", "c", "d"]);
        assert_eq!(shards[1].path, Path::new(&path(2, 3)));
        let metadata = take_metadata(&mut shards);
        assert_eq!(metadata.iter().map(|(key, _)| key).collect::<Vec<_>>(), ["general.architecture"]);
    }
}

#[test]
fn one_file_is_one_shard() {
    let mut world = MemoryWorld::default();
    world.insert("/m/x.gguf", shard(0, 1, 1, &["a"], &architecture("llama")));
    assert_eq!(read_shards(&world, Path::new("/m/x.gguf")).unwrap().len(), 1);
}

#[test]
fn shards_that_do_not_go_together_are_refused() {
    let mut text = String::new();
    let mut case = |name: &str, no: u32, count: u32, change: &dyn Fn(&mut MemoryWorld)| {
        let mut world = three();
        change(&mut world);
        let errors = read_shards(&world, Path::new(&path(no, count))).expect_err(name);
        text += &report(name, &errors);
    };
    case("missing file", 1, 4, &|world| {
        world.insert(path(1, 4), shard(0, 4, 4, &["a"], &[]));
        world.insert(path(2, 4), shard(1, 4, 4, &["b"], &[]));
    });
    case("not where the name says", 1, 3, &|world| {
        world.insert(path(2, 3), shard(0, 3, 4, &["b", "c"], &[]))
    });
    case("another count", 1, 3, &|world| world.insert(path(3, 3), shard(2, 5, 4, &["d"], &[])));
    case("not a shard", 1, 3, &|world| {
        let layout = Layout::new(&Metadata::default(), vec![]).unwrap();
        world.insert(path(3, 3), layout.header().to_vec());
    });
    case("a tensor in two", 1, 3, &|world| world.insert(path(3, 3), shard(2, 3, 4, &["b"], &[])));
    case("a tensor missing", 1, 3, &|world| world.insert(path(2, 3), shard(1, 3, 4, &["b"], &[])));
    case("another model", 1, 3, &|world| {
        world.insert(path(2, 3), shard(1, 3, 4, &["b", "c"], &architecture("qwen3")));
    });
    case("a name without a number", 9, 9, &|world| world.insert(path(9, 9), shard(0, 3, 4, &["a"], &[])));
    case("65535 shards", 1, 65535, &|world| world.insert(path(1, 65535), shard(0, 65535, 4, &["a"], &[])));
    case("a damaged shard", 1, 3, &|world| world.insert(path(2, 3), b"GGUF\x03".as_slice()));
    check("formats_gguf_split", &text);
}
