//! A Hugging Face directory: which files hold the weights, and that they belong together.
//!
//! The first group that has a file counts: `model*.safetensors` (also one directory down),
//! `consolidated*.safetensors`, `*.gguf`. Where there is an index
//! (`model.safetensors.index.json`), it says which files count; a file beside it does not.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde::Deserialize;

use super::directory::{Directory, require_all_shards};
use super::hf_config::Config;
use super::quote::quoted;
use super::safetensors::Safetensors;
use super::{TensorInfo, json, limits};
use crate::diagnostic::{Diagnostic, Result};
use crate::world::{File, World};

/// What a directory has for weights. Paths are relative to it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Weights {
    /// Files of a checkpoint.
    Safetensors(Vec<String>),
    /// Files that are models already.
    Gguf(Vec<String>),
}

/// Names that hold weights, in the order of preference.
const GROUPS: &[Group] = &[
    Group { prefix: "model", suffix: ".safetensors", nested: true },
    Group { prefix: "consolidated", suffix: ".safetensors", nested: false },
];

struct Group {
    prefix: &'static str,
    suffix: &'static str,
    nested: bool,
}

/// Names of files whose contents are Python pickles: programs.
const PICKLES: &[(&str, &str)] =
    &[("pytorch_model", ".bin"), ("consolidated", ".pth"), ("", ".pt"), ("", ".ckpt")];

impl Weights {
    /// What `directory` has.
    ///
    /// # Errors
    /// It has no weights, or only ones that are not read, such as PyTorch's.
    pub fn find(world: &dyn World, directory: &Path) -> Result<Weights> {
        find(&Directory::new(world, directory)?)
    }
}

fn find(directory: &Directory<'_>) -> Result<Weights> {
    for group in GROUPS {
        let matches = |name: &str| name.starts_with(group.prefix) && name.ends_with(group.suffix);
        let mut files = directory.find(group.nested, matches)?;
        let index = format!("{}.safetensors.index.json", group.prefix);
        if let Some(text) = directory.read(&index, limits::INDEX)? {
            files = Index::parse(&directory.path().join(&index), &text)?.files;
        } else {
            require_all_shards(directory.path(), &files)?;
        }
        if !files.is_empty() {
            return Ok(Weights::Safetensors(files));
        }
    }
    let gguf = directory.find(false, |name| name.ends_with(".gguf"))?;
    if !gguf.is_empty() {
        return Ok(Weights::Gguf(gguf));
    }
    let pickles = directory.find(false, |name| {
        PICKLES.iter().any(|(prefix, suffix)| name.starts_with(prefix) && name.ends_with(suffix))
    })?;
    if let Some(pickle) = pickles.first() {
        return Err(Diagnostic::error(format!("{} is a PyTorch file, which is not read", quoted(pickle)))
            .code("pickle")
            .label("its contents are a Python pickle: a program, not data")
            .in_file(directory.path(), "")
            .help("in Python: `AutoModelForCausalLM.from_pretrained(DIR).save_pretrained(DIR, safe_serialization=True)`")
            .help("or download the repository's .safetensors files, if it has them")
            .into());
    }
    Err(Diagnostic::error("no weights found: neither model*.safetensors nor a .gguf file")
        .code("no-weights")
        .in_file(directory.path(), "")
        .into())
}

/// The members of an index that matter.
#[derive(Deserialize)]
struct IndexText {
    weight_map: json::Members<String>,
}

/// `model.safetensors.index.json`: which file each tensor is in.
struct Index {
    /// Each file once, sorted.
    files: Vec<String>,
    /// For each tensor its file, as an index in `files`.
    tensors: HashMap<String, usize>,
}

impl Index {
    fn parse(path: &Path, text: &[u8]) -> Result<Index> {
        let members = json::parse::<IndexText>(path, "", text)?.weight_map.0;
        let mut files: Vec<String> = members.iter().map(|(_, file)| file.clone()).collect();
        files.sort_unstable();
        files.dedup();
        let wrong =
            |message: String| Diagnostic::error(message).code("bad-index").in_file(path, "key `weight_map`");
        if files.is_empty() {
            return Err(wrong("the index names no tensor".to_owned()).into());
        }
        if files.len() as u64 > limits::SHARDS {
            return Err(
                wrong(format!("{} files; at most {} are allowed", files.len(), limits::SHARDS)).into()
            );
        }
        if let Some(other) = files.iter().find(|file| !file.ends_with(".safetensors")) {
            return Err(wrong(format!("{} is no Safetensors file", quoted(other))).into());
        }
        let tensors = members
            .into_iter()
            .filter_map(|(tensor, file)| Some((tensor, files.binary_search(&file).ok()?)))
            .collect();
        Ok(Index { files, tensors })
    }
}

/// One Safetensors file of a checkpoint.
#[derive(Clone)]
pub struct CheckpointFile {
    /// The path, as the user would recognise it.
    pub path: PathBuf,
    /// The open file.
    pub file: Arc<dyn File>,
    /// Its header.
    pub header: Safetensors,
}

impl std::fmt::Debug for CheckpointFile {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "CheckpointFile({}, {} tensors)", self.path.display(), self.header.tensors.len())
    }
}

/// The weights of a directory: open files whose headers are checked, each tensor in one of them.
#[derive(Clone, Debug)]
pub struct Checkpoint {
    /// The directory, as it was named.
    pub directory: PathBuf,
    /// The files, sorted by name.
    pub files: Vec<CheckpointFile>,
}

impl Checkpoint {
    /// Opens the Safetensors files of `directory`.
    ///
    /// # Errors
    /// There are none; one is missing, wrong or leads out of the directory; a tensor is in two of
    /// them; or the index does not agree with them.
    pub fn open(world: &dyn World, directory: &Path) -> Result<Checkpoint> {
        let directory = Directory::new(world, directory)?;
        let names = match find(&directory)? {
            Weights::Safetensors(names) => names,
            Weights::Gguf(_) => {
                return Err(Diagnostic::error("the directory holds GGUF files, no checkpoint")
                    .code("no-weights")
                    .in_file(directory.path(), "")
                    .help("name the .gguf file itself")
                    .into());
            }
        };
        let files = open_files(world, &directory, &names)?;
        check_index(&directory, &files)?;
        Ok(Checkpoint { directory: directory.path().to_owned(), files })
    }

    /// Every tensor, with the index of its file in `files`.
    pub fn tensors(&self) -> impl Iterator<Item = (usize, &TensorInfo)> {
        let numbered = self.files.iter().enumerate();
        numbered.flat_map(|(i, file)| file.header.tensors.iter().map(move |tensor| (i, tensor)))
    }

    /// The tensor with this name, and the index of its file in `files`.
    pub fn tensor(&self, name: &str) -> Option<(usize, &TensorInfo)> {
        self.tensors().find(|(_, tensor)| tensor.name == name)
    }
}

/// Opens Safetensors files of a directory and checks that no tensor is in two of them.
pub(super) fn open_files(
    world: &dyn World,
    directory: &Directory<'_>,
    names: &[String],
) -> Result<Vec<CheckpointFile>> {
    if names.len() as u64 > limits::SHARDS {
        let message = format!("{} files with weights; at most {} are allowed", names.len(), limits::SHARDS);
        return Err(Diagnostic::error(message).code("count-too-large").in_file(directory.path(), "").into());
    }
    let mut files = Vec::with_capacity(names.len());
    for name in names {
        let inside = directory.resolve(name)?;
        let path = directory.path().join(name);
        let file = world.open(&inside).map_err(|e| Diagnostic::io("read", &path, &e))?;
        let header = Safetensors::read(&path, &*file)?;
        files.push(CheckpointFile { path, file, header });
    }
    let mut seen: HashMap<&str, &CheckpointFile> = HashMap::new();
    for file in &files {
        for tensor in &file.header.tensors {
            if let Some(other) = seen.insert(&tensor.name, file) {
                return Err(Diagnostic::error(format!("the tensor is also in {}", other.path.display()))
                    .code("duplicate-tensor")
                    .in_file(&file.path, format!("tensor {}", quoted(&tensor.name)))
                    .help("keep the files of one checkpoint in the directory, and move the others away")
                    .into());
            }
        }
    }
    Ok(files)
}

/// Checks that each tensor of the index is in the file that the index says.
fn check_index(directory: &Directory<'_>, files: &[CheckpointFile]) -> Result<()> {
    for group in GROUPS {
        let name = format!("{}.safetensors.index.json", group.prefix);
        let Some(text) = directory.read(&name, limits::INDEX)? else { continue };
        let path = directory.path().join(&name);
        let index = Index::parse(&path, &text)?;
        let places: HashMap<&str, usize> = files
            .iter()
            .enumerate()
            .flat_map(|(i, file)| file.header.tensors.iter().map(move |tensor| (tensor.name.as_str(), i)))
            .collect();
        let mut wrong: Vec<(&str, String)> = Vec::new();
        for (tensor, file) in &index.tensors {
            match places.get(tensor.as_str()) {
                Some(place) if place == file => {}
                Some(place) => {
                    wrong.push((tensor, format!("the tensor is in {}", files[*place].path.display())))
                }
                None => wrong.push((tensor, "the tensor is in none of the files".to_owned())),
            }
        }
        wrong.extend(
            places
                .keys()
                .filter(|tensor| !index.tensors.contains_key(**tensor))
                .map(|tensor| (*tensor, "the index does not name the tensor".to_owned())),
        );
        wrong.sort_unstable();
        if let Some((tensor, what)) = wrong.first() {
            let says =
                index.tensors.get(*tensor).map(|file| format!(", not in {}", quoted(&index.files[*file])));
            return Err(Diagnostic::error(format!("{what}{}", says.unwrap_or_default()))
                .code("bad-index")
                .in_file(&path, format!("tensor {}", quoted(tensor)))
                .help("the index belongs to other files; download both again, or remove the index")
                .into());
        }
        return Ok(());
    }
    Ok(())
}

/// `config.json` of a directory.
///
/// # Errors
/// The file is missing or no JSON object.
pub fn read_config(world: &dyn World, directory: &Path) -> Result<Config> {
    read_optional_config(world, directory, "config.json")?.ok_or_else(|| {
        Diagnostic::error("the directory has no config.json, which says what the weights are")
            .code("no-config")
            .in_file(directory, "")
            .help("download the whole repository, not the weights alone")
            .into()
    })
}

/// A JSON configuration of a directory, such as `generation_config.json`; `None` where it is not there.
///
/// # Errors
/// The file leads out of the directory or is no JSON object.
pub fn read_optional_config(world: &dyn World, directory: &Path, name: &str) -> Result<Option<Config>> {
    match Directory::new(world, directory)?.read(name, limits::CONFIG)? {
        Some(text) => Config::parse(&directory.join(name), &text).map(Some),
        None => Ok(None),
    }
}

/// Any file of a directory, of at most `limit` bytes, such as `tokenizer.json`; `None` where it is
/// not there.
///
/// # Errors
/// The file is too long, cannot be read or leads out of the directory.
pub fn read_optional(world: &dyn World, directory: &Path, name: &str, limit: u64) -> Result<Option<Vec<u8>>> {
    Directory::new(world, directory)?.read(name, limit)
}
