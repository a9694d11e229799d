//! Hugging Face directories: which files count, and that nothing outside is opened.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use mdl::formats::checkpoint::{Checkpoint, Weights, read_config, read_optional};
use mdl::world::{EntryKind, File, MemoryWorld, Stamp, SystemWorld, World};

use crate::archive::{pickled, pytorch};
use crate::bytes::f32_safetensors;
use crate::report::{check, report};

/// Names and contents.
type Files = Vec<(&'static str, Vec<u8>)>;

fn world(files: &[(&str, Vec<u8>)]) -> MemoryWorld {
    let mut world = MemoryWorld::default();
    for (name, bytes) in files {
        world.insert(format!("/m/{name}"), bytes.clone());
    }
    world
}

fn weights(name: &str) -> Vec<u8> {
    f32_safetensors(&[(name, &[2, 2])])
}

fn index(map: &[(&str, &str)]) -> Vec<u8> {
    let members: Vec<String> = map.iter().map(|(tensor, file)| format!("{tensor:?}: {file:?}")).collect();
    format!(r#"{{"metadata": {{"total_size": 1}}, "weight_map": {{{}}}}}"#, members.join(", ")).into_bytes()
}

const INDEX: &str = "model.safetensors.index.json";
const ONE: &str = "model-00001-of-00002.safetensors";
const TWO: &str = "model-00002-of-00002.safetensors";

fn find(files: &[&str]) -> mdl::diagnostic::Result<Weights> {
    let files: Vec<_> = files.iter().map(|name| (*name, weights("t"))).collect();
    Weights::find(&world(&files), Path::new("/m"))
}

#[test]
fn the_first_group_that_has_files_counts() {
    let safetensors =
        |names: &[&str]| Ok(Weights::Safetensors(names.iter().map(|n| (*n).to_owned()).collect()));
    assert_eq!(
        find(&["model.safetensors", "consolidated.safetensors", "x.gguf", "pytorch_model.bin"]),
        safetensors(&["model.safetensors"])
    );
    assert_eq!(
        find(&["unet/model.safetensors", "a/b/model.safetensors", "a.json"]),
        safetensors(&["unet/model.safetensors"])
    );
    assert_eq!(
        find(&[".cache/model.safetensors", "consolidated.safetensors"]),
        safetensors(&["consolidated.safetensors"])
    );
    assert_eq!(
        find(&["sub/consolidated.safetensors", "x.gguf"]),
        Ok(Weights::Gguf(vec!["x.gguf".to_owned()]))
    );
    assert_eq!(
        find(&["model-00001.safetensors", "other.safetensors"]),
        safetensors(&["model-00001.safetensors"])
    );
}

/// PyTorch's files come after Safetensors and before GGUF, where they are archives.
#[test]
fn pytorch_files_have_their_place_in_the_order() {
    let find = |files: &[&'static str], contents: &[u8]| {
        let files: Vec<_> = files.iter().map(|name| (*name, contents.to_vec())).collect();
        Weights::find(&world(&files), Path::new("/m"))
    };
    let torch = |names: &[&str]| Ok(Weights::Torch(names.iter().map(|n| (*n).to_owned()).collect()));
    let zip = b"PK\x03\x04";
    let bins = ["pytorch_model-00001-of-00002.bin", "pytorch_model-00002-of-00002.bin"];
    assert_eq!(find(&[bins[0], bins[1], "consolidated.00.pth", "x.gguf"], zip), torch(&bins));
    assert_eq!(find(&["consolidated.00.pth", "x.gguf", "model.pt"], zip), torch(&["consolidated.00.pth"]));
    assert_eq!(find(&["training_args.bin", "optimizer.pt", "model.pt"], zip), torch(&["model.pt"]));
    let gguf = Ok(Weights::Gguf(vec!["x.gguf".to_owned()]));
    assert_eq!(find(&["pytorch_model.bin", "x.gguf"], b"\x80\x02"), gguf);
    assert_eq!(find(&["training_args.bin", "x.gguf"], zip), gguf);
    assert_eq!(find(&["pytorch_model.bin"], b"\x80\x02"), torch(&["pytorch_model.bin"]));
}

#[test]
fn a_sharded_pytorch_checkpoint_is_opened() {
    const FIRST: &str = "pytorch_model-00001-of-00002.bin";
    const SECOND: &str = "pytorch_model-00002-of-00002.bin";
    let file = |name: &str| pytorch(&pickled(&[name], |_| {}), &[0; 16]);
    let index = index(&[("a", FIRST), ("b", SECOND)]);
    let files = [(FIRST, file("a")), (SECOND, file("b")), ("pytorch_model.bin.index.json", index)];
    for files in [&files[..], &files[..2]] {
        let checkpoint = Checkpoint::open(&world(files), Path::new("/m")).unwrap();
        let names: Vec<_> = checkpoint.tensors().map(|(file, t)| (file, t.name.as_str())).collect();
        assert_eq!(names, [(0, "a"), (1, "b")]);
    }
    assert!(Checkpoint::open(&world(&files[1..]), Path::new("/m")).is_err());
}

#[test]
fn a_sharded_checkpoint_is_opened() {
    let files = [(ONE, weights("a")), (TWO, weights("b")), (INDEX, index(&[("a", ONE), ("b", TWO)]))];
    for files in [&files[..], &files[..2]] {
        let checkpoint = Checkpoint::open(&world(files), Path::new("/m")).unwrap();
        let names: Vec<_> = checkpoint.tensors().map(|(file, t)| (file, t.name.as_str())).collect();
        assert_eq!(names, [(0, "a"), (1, "b")]);
        assert_eq!(checkpoint.files[1].path, Path::new("/m").join(TWO));
    }
}

#[test]
fn a_file_that_the_index_does_not_name_does_not_count() {
    let files = [("model.safetensors", weights("a")), ("model.fp16.safetensors", weights("a"))];
    assert!(Checkpoint::open(&world(&files), Path::new("/m")).is_err());
    let mut files = files.to_vec();
    files.push((INDEX, index(&[("a", "model.safetensors")])));
    assert_eq!(Checkpoint::open(&world(&files), Path::new("/m")).unwrap().files.len(), 1);
}

#[test]
fn directories_that_are_wrong_are_refused() {
    let model = ("model.safetensors", weights("a"));
    let shards = [(ONE, weights("a")), (TWO, weights("b"))];
    let indexed = |map: &[(&str, &str)]| vec![shards[0].clone(), shards[1].clone(), (INDEX, index(map))];
    let cases: Vec<(&str, Files)> = vec![
        ("nothing there", vec![("readme.md", vec![])]),
        ("only PyTorch", vec![("pytorch_model-00001-of-00002.bin", b"PK\x03\x04".to_vec())]),
        ("PyTorch's older format", vec![("pytorch_model.bin", b"\x80\x02\x8a\x0a".to_vec())]),
        ("weights for two devices", {
            let part = pytorch(&pickled(&["w"], |_| {}), &[0; 16]);
            vec![("consolidated.00.pth", part.clone()), ("consolidated.01.pth", part)]
        }),
        ("only .pth", vec![("consolidated.00.pth", b"PK\x03\x04".to_vec())]),
        ("GGUF files", vec![("m.gguf", b"GGUF".to_vec())]),
        ("a pickle named .safetensors", vec![("model.safetensors", b"PK\x03\x04\x14\0\0\0\x08\0".to_vec())]),
        ("a shard is missing", vec![shards[0].clone()]),
        ("an indexed shard is missing", vec![shards[0].clone(), (INDEX, index(&[("a", ONE), ("b", TWO)]))]),
        ("a tensor in two files", vec![(ONE, weights("a")), (TWO, weights("a"))]),
        ("a tensor in two indexed files", {
            vec![(ONE, weights("a")), (TWO, weights("a")), (INDEX, index(&[("a", ONE), ("b", TWO)]))]
        }),
        ("indexed in the wrong file", indexed(&[("a", TWO), ("b", ONE)])),
        ("indexed, but in no file", indexed(&[("a", ONE), ("b", TWO), ("c", TWO)])),
        ("in a file, but not indexed", vec![model.clone(), (INDEX, index(&[("z", "model.safetensors")]))]),
        ("index with ..", indexed(&[("a", "../other/model.safetensors")])),
        ("index with a hidden ..", indexed(&[("a", "sub/../../model.safetensors")])),
        ("index with an absolute path", indexed(&[("a", "/etc/model.safetensors")])),
        ("index with a drive", indexed(&[("a", "C:\\model.safetensors")])),
        ("index with a file that is none", indexed(&[("a", "/etc/passwd")])),
        ("index names a tensor twice", {
            let text = format!(r#"{{"weight_map": {{"a": "{ONE}", "a": "{TWO}"}}}}"#);
            vec![shards[0].clone(), shards[1].clone(), (INDEX, text.into_bytes())]
        }),
        ("index without a map", vec![model.clone(), (INDEX, b"{}".to_vec())]),
        ("index with an empty map", vec![model.clone(), (INDEX, index(&[]))]),
        ("index is no JSON", vec![model.clone(), (INDEX, b"<!DOCTYPE html>".to_vec())]),
        ("index nests deeply", vec![model, (INDEX, "[".repeat(100_000).into_bytes())]),
    ];
    let mut text = String::new();
    for (name, files) in cases {
        let errors = Checkpoint::open(&world(&files), Path::new("/m")).expect_err(name);
        text += &report(name, &errors);
    }
    let errors = Checkpoint::open(&world(&[]), Path::new("/m")).unwrap_err();
    text += &report("no directory", &errors);
    check("formats_malformed_checkpoints", &text);
}

/// The machine's files, with a record of every one that is opened or listed.
#[derive(Default)]
struct Watched(Mutex<Vec<PathBuf>>);

impl Watched {
    fn note(&self, path: &Path) {
        self.0.lock().unwrap().push(path.canonicalize().unwrap_or_else(|_| path.to_owned()));
    }
}

impl World for Watched {
    fn open(&self, path: &Path) -> io::Result<Arc<dyn File>> {
        self.note(path);
        SystemWorld.open(path)
    }
    fn kind(&self, path: &Path) -> Option<EntryKind> {
        SystemWorld.kind(path)
    }
    fn names(&self, directory: &Path) -> io::Result<Vec<String>> {
        self.note(directory);
        SystemWorld.names(directory)
    }
    fn canonical(&self, path: &Path) -> io::Result<PathBuf> {
        SystemWorld.canonical(path)
    }
    fn stamp(&self, path: &Path) -> io::Result<Stamp> {
        SystemWorld.stamp(path)
    }
    fn home(&self) -> Option<PathBuf> {
        None
    }
}

/// Opens `DIR/<model>` after `prepare`, and checks that nothing outside it was opened.
#[cfg(unix)]
fn open_watched(model: &str, prepare: impl FnOnce(&Path)) -> (mdl::diagnostic::Result<Checkpoint>, PathBuf) {
    let root = tempfile::tempdir().unwrap();
    let directory = root.path().join(model);
    std::fs::create_dir_all(&directory).unwrap();
    std::fs::create_dir_all(root.path().join("outside")).unwrap();
    std::fs::write(root.path().join("outside/model.safetensors"), weights("secret")).unwrap();
    std::fs::write(root.path().join("outside/config.json"), b"{}").unwrap();
    prepare(&directory);
    let world = Watched::default();
    let result = Checkpoint::open(&world, &directory);
    let _ = read_config(&world, &directory);
    let _ = read_optional(&world, &directory, "tokenizer.json", 1 << 20);
    let inside = directory.canonicalize().unwrap();
    for path in world.0.lock().unwrap().iter() {
        assert!(path.starts_with(&inside), "{} was opened", path.display());
    }
    (result, root.path().to_owned())
}

#[test]
#[cfg(unix)]
fn symbolic_links_stay_inside() {
    use std::os::unix::fs::symlink;

    let (inside, _) = open_watched("m", |directory| {
        std::fs::create_dir(directory.join("blobs")).unwrap();
        std::fs::write(directory.join("blobs/1"), weights("a")).unwrap();
        symlink("blobs/1", directory.join("model.safetensors")).unwrap();
    });
    assert_eq!(inside.unwrap().tensors().count(), 1);

    let mut text = String::new();
    let mut case = |name: &str, model: &str, prepare: &dyn Fn(&Path)| {
        let (result, root) = open_watched(model, prepare);
        text += &report(name, &result.expect_err(name)).replace(root.to_str().unwrap(), "ROOT");
    };
    case("file", "m", &|directory| {
        symlink("../outside/model.safetensors", directory.join("model.safetensors")).unwrap();
    });
    case("Hugging Face cache", ".cache/huggingface/hub/models--x/snapshots/1", &|directory| {
        std::fs::create_dir_all(directory.join("../../blobs")).unwrap();
        std::fs::write(directory.join("../../blobs/1"), weights("a")).unwrap();
        symlink("../../blobs/1", directory.join("model.safetensors")).unwrap();
    });
    case("index", "m", &|directory| {
        std::fs::write(directory.join("model.safetensors"), weights("a")).unwrap();
        symlink("../outside/config.json", directory.join(INDEX)).unwrap();
    });
    case("file that an index names, through a directory", "m", &|directory| {
        symlink("../outside", directory.join("sub")).unwrap();
        std::fs::write(directory.join(INDEX), index(&[("secret", "sub/model.safetensors")])).unwrap();
    });
    case("subdirectory", "m", &|directory| symlink("../outside", directory.join("sub")).unwrap());
    case("broken link", "m", &|directory| {
        symlink("gone", directory.join(ONE)).unwrap();
        std::fs::write(directory.join(INDEX), index(&[("a", ONE)])).unwrap();
    });
    check("formats_insecure_paths", &text);
}

#[test]
#[cfg(unix)]
fn the_config_may_not_lead_outside_either() {
    let (_, root) = open_watched("m", |directory| {
        std::os::unix::fs::symlink("../outside/config.json", directory.join("config.json")).unwrap();
    });
    // The directory is gone by now; what matters was checked within.
    assert!(!root.exists());
}

#[test]
fn a_missing_config_says_so() {
    let errors = read_config(&world(&[("model.safetensors", weights("a"))]), Path::new("/m")).unwrap_err();
    assert!(errors.to_string().contains("no config.json"), "{errors}");
}
