//! A directory with a model: which files hold the weights, and that they belong together.
//!
//! The first group of [`GROUPS`] that has a file counts. Where there is an index
//! (`model.safetensors.index.json`), it says which files count; a file beside it does not.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde::Deserialize;

use super::directory::{Directory, require_all_shards};
use super::hf_config::Config;
use super::quote::quoted;
use super::safetensors::Safetensors;
use super::{TensorInfo, json, limits, signature, torch};
use crate::diagnostic::{Diagnostic, Result};
use crate::world::{File, World};

/// What a directory has for weights. Paths are relative to it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Weights {
    /// Files of a checkpoint.
    Safetensors(Vec<String>),
    /// PyTorch's files of a checkpoint.
    Torch(Vec<String>),
    /// Files that are models already.
    Gguf(Vec<String>),
}

/// A format of weights.
#[derive(Clone, Copy, PartialEq)]
enum Format {
    Safetensors,
    /// Only where the file is a ZIP archive: other programs have files of these names, too.
    Torch,
    Gguf,
}

/// Names that hold weights.
struct Group {
    prefix: &'static str,
    suffix: &'static str,
    /// Whether files one directory down count.
    nested: bool,
    format: Format,
}

const fn group(prefix: &'static str, suffix: &'static str, format: Format) -> Group {
    Group { prefix, suffix, nested: false, format }
}

/// Names that hold weights, in the order of preference.
const GROUPS: &[Group] = &[
    Group { nested: true, ..group("model", ".safetensors", Format::Safetensors) },
    group("consolidated", ".safetensors", Format::Safetensors),
    group("pytorch_model", ".bin", Format::Torch),
    group("consolidated", ".pth", Format::Torch),
    group("", ".gguf", Format::Gguf),
    group("model", ".pt", Format::Torch),
    group("model", ".pth", Format::Torch),
];

impl Group {
    fn has(&self, name: &str) -> bool {
        name.starts_with(self.prefix) && name.ends_with(self.suffix)
    }

    /// The name of the group's index.
    fn index(&self) -> String {
        format!("{}{}.index.json", self.prefix, self.suffix)
    }
}

impl Weights {
    /// What `directory` has.
    ///
    /// # Errors
    /// It has no weights, or ones that are not read.
    pub fn find(world: &dyn World, directory: &Path) -> Result<Weights> {
        find(world, &Directory::new(world, directory)?).map(|(weights, _)| weights)
    }
}

/// The weights of a directory, and the index that lists their files.
fn find(world: &dyn World, directory: &Directory<'_>) -> Result<(Weights, Option<Index>)> {
    // PyTorch's older files are named where there is nothing else: reading them says what to do.
    let mut unreadable = None;
    for group in GROUPS {
        let mut files = directory.find(group.nested, |name| group.has(name))?;
        if group.format == Format::Gguf {
            if files.is_empty() {
                continue;
            }
            return Ok((Weights::Gguf(files), None));
        }
        let name = group.index();
        let mut index = None;
        if let Some(text) = directory.read(&name, limits::INDEX)? {
            let read = Index::parse(&directory.path().join(&name), &text, group.suffix)?;
            files = read.files.clone();
            index = Some(read);
        } else {
            require_all_shards(directory.path(), &files)?;
        }
        let Some(first) = files.first() else { continue };
        match group.format {
            Format::Safetensors => return Ok((Weights::Safetensors(files), index)),
            Format::Torch | Format::Gguf => {
                refuse_model_parallel(directory.path(), &files)?;
                if is_archive(world, directory, first)? {
                    return Ok((Weights::Torch(files), index));
                }
                unreadable = unreadable.or(Some(Weights::Torch(files)));
            }
        }
    }
    if let Some(weights) = unreadable {
        return Ok((weights, None));
    }
    Err(Diagnostic::error("no weights found: no model*.safetensors, no pytorch_model*.bin and no .gguf file")
        .code("no-weights")
        .in_file(directory.path(), "")
        .into())
}

/// Refuses `consolidated.00.pth`, `consolidated.01.pth` and so on: each has a part of every matrix.
fn refuse_model_parallel(directory: &Path, files: &[String]) -> Result<()> {
    let parts = files.iter().filter(|name| name.starts_with("consolidated.")).count();
    if parts < 2 {
        return Ok(());
    }
    Err(Diagnostic::error(format!("the weights are split for {parts} devices, which is not read"))
        .code("model-parallel")
        .label("each of consolidated.00.pth and those after it has a part of every matrix")
        .in_file(directory, "")
        .help("take the repository's Hugging Face files (model*.safetensors) instead")
        .into())
}

fn is_archive(world: &dyn World, directory: &Directory<'_>, name: &str) -> Result<bool> {
    let path = directory.path().join(name);
    let file = world.open(&directory.resolve(name)?).map_err(|e| Diagnostic::io("read", &path, &e))?;
    let mut start = [0; signature::ZIP.len()];
    let shown = file.len().min(start.len() as u64) as usize;
    file.read_at(0, &mut start[..shown]).map_err(|e| Diagnostic::io("read", &path, &e))?;
    Ok(start == *signature::ZIP)
}

/// The members of an index that matter.
#[derive(Deserialize)]
struct IndexText {
    weight_map: json::Members<String>,
}

/// `model.safetensors.index.json`: which file each tensor is in.
struct Index {
    path: PathBuf,
    /// Each file once, sorted.
    files: Vec<String>,
    /// For each tensor its file, as an index in `files`.
    tensors: HashMap<String, usize>,
}

impl Index {
    /// Parses the index at `path`, all of whose files end in `suffix`.
    fn parse(path: &Path, text: &[u8], suffix: &str) -> Result<Index> {
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
        if let Some(other) = files.iter().find(|file| !file.ends_with(suffix)) {
            return Err(wrong(format!("{} is no {suffix} file", quoted(other))).into());
        }
        let tensors = members
            .into_iter()
            .filter_map(|(tensor, file)| Some((tensor, files.binary_search(&file).ok()?)))
            .collect();
        Ok(Index { path: path.to_owned(), files, tensors })
    }
}

/// One file of a checkpoint.
#[derive(Clone)]
pub struct CheckpointFile {
    /// The path, as the user would recognise it.
    pub path: PathBuf,
    /// The open file.
    pub file: Arc<dyn File>,
    /// Its tensors, in the file's order.
    pub tensors: Vec<TensorInfo>,
}

impl std::fmt::Debug for CheckpointFile {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "CheckpointFile({}, {} tensors)", self.path.display(), self.tensors.len())
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
    /// Opens the files of `directory` that hold weights.
    ///
    /// # Errors
    /// There are none; one is missing, wrong or leads out of the directory; a tensor is in two of
    /// them; or the index does not agree with them.
    pub fn open(world: &dyn World, directory: &Path) -> Result<Checkpoint> {
        let directory = Directory::new(world, directory)?;
        let (weights, index) = find(world, &directory)?;
        let names = match weights {
            Weights::Safetensors(names) | Weights::Torch(names) => names,
            Weights::Gguf(_) => {
                return Err(Diagnostic::error("the directory holds GGUF files, no checkpoint")
                    .code("no-weights")
                    .in_file(directory.path(), "")
                    .help("name the .gguf file itself")
                    .into());
            }
        };
        let files = open_files(world, &directory, &names)?;
        if let Some(index) = index {
            check_index(&index, &files)?;
        }
        Ok(Checkpoint { directory: directory.path().to_owned(), files })
    }

    /// Every tensor, with the index of its file in `files`.
    pub fn tensors(&self) -> impl Iterator<Item = (usize, &TensorInfo)> {
        let numbered = self.files.iter().enumerate();
        numbered.flat_map(|(i, file)| file.tensors.iter().map(move |tensor| (i, tensor)))
    }

    /// The tensor with this name, and the index of its file in `files`.
    pub fn tensor(&self, name: &str) -> Option<(usize, &TensorInfo)> {
        self.tensors().find(|(_, tensor)| tensor.name == name)
    }
}

/// Opens Safetensors and PyTorch files of a directory, and checks that no tensor is in two of them.
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
        let mut tensors = match name.ends_with(".safetensors") {
            true => Safetensors::read(&path, &*file)?.tensors,
            false => torch::read(&path, &*file)?,
        };
        // A directory beside the model is a module of its own, whose names are its own too.
        if let Some((module, _)) = name.rsplit_once('/').filter(|_| names.iter().any(|n| !n.contains('/'))) {
            tensors.iter_mut().for_each(|tensor| tensor.name = format!("{module}/{}", tensor.name));
        }
        files.push(CheckpointFile { path, file, tensors });
    }
    let mut seen: HashMap<&str, &CheckpointFile> = HashMap::new();
    for file in &files {
        for tensor in &file.tensors {
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
fn check_index(index: &Index, files: &[CheckpointFile]) -> Result<()> {
    let numbered = files.iter().enumerate();
    let places: HashMap<&str, usize> = numbered
        .flat_map(|(i, file)| file.tensors.iter().map(move |tensor| (tensor.name.as_str(), i)))
        .collect();
    let mut wrong: Vec<(&str, String)> = Vec::new();
    for (tensor, file) in &index.tensors {
        match places.get(tensor.as_str()) {
            Some(place) if place == file => {}
            Some(place) => wrong.push((tensor, format!("the tensor is in {}", files[*place].path.display()))),
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
    let Some((tensor, what)) = wrong.first() else { return Ok(()) };
    let says = index.tensors.get(*tensor).map(|file| format!(", not in {}", quoted(&index.files[*file])));
    Err(Diagnostic::error(format!("{what}{}", says.unwrap_or_default()))
        .code("bad-index")
        .in_file(&index.path, format!("tensor {}", quoted(tensor)))
        .help("the index belongs to other files; download both again, or remove the index")
        .into())
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
