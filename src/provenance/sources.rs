//! Which files each line of a recipe led to, and what they are.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use super::Recording;
use super::licenses::{self, License};
use crate::codegen::{self, Progress};
use crate::diagnostic::{Diagnostic, Result};
use crate::ir::SourceFile;
use crate::modelfile::{Recipe, path};
use crate::store::{Digest, Name, Store};
use crate::world::{EntryKind, World as _};

/// What a source is to a build.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Role {
    /// FROM.
    From,
    /// ADAPTER.
    Adapter,
    /// `--imatrix`.
    Imatrix,
}

impl Role {
    /// The word that names it, as it is written.
    pub fn name(self) -> &'static str {
        match self {
            Role::From => "FROM",
            Role::Adapter => "ADAPTER",
            Role::Imatrix => "--imatrix",
        }
    }
}

/// A file that was read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FileState {
    /// What its bytes are.
    pub digest: Digest,
    /// How many.
    pub size: u64,
    /// Where it was.
    pub path: PathBuf,
}

/// What a line names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Named {
    /// A model of the store, by the digest of its manifest.
    Model(Digest),
    /// Files, by their paths from the directory that the line names, or that its file is in; with `/`.
    Files(BTreeMap<String, FileState>),
}

/// A line that brings weights, and what was read for it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Source {
    /// What it is to the build.
    pub role: Role,
    /// The line's value, as written.
    pub value: String,
    /// What that is.
    pub named: Named,
    /// The licences in its directory, or beside its file.
    pub licenses: Vec<License>,
}

impl Source {
    /// The value as others may see it: where a matrix lies on this machine is nobody's business.
    pub fn shown(&self) -> String {
        let name = Path::new(&self.value).file_name().filter(|_| self.role == Role::Imatrix);
        name.map_or_else(|| self.value.clone(), |name| name.to_string_lossy().into_owned())
    }
}

/// Gives every file that was opened to the line that led to it. `imatrix` is the path of `--imatrix`.
///
/// # Errors
/// A file cannot be read, or is not the one that was opened any more.
pub fn identify(
    recipe: &Recipe,
    directory: &Path,
    imatrix: Option<&Path>,
    opened: &Recording<'_>,
    store: &Store,
    progress: &dyn Progress,
) -> Result<Vec<Source>> {
    let mut lines = Vec::new();
    for from in &recipe.from {
        lines.push((Role::From, from.value.clone(), path::expand(opened, directory, &from.value)?));
    }
    for adapter in &recipe.adapters {
        let scale = adapter.scale.as_ref().map(|s| format!(" {}", s.value)).unwrap_or_default();
        let path = path::expand(opened, directory, &adapter.path.value)?;
        lines.push((Role::Adapter, format!("{}{scale}", adapter.path.value), path));
    }
    if let Some(path) = imatrix {
        lines.push((Role::Imatrix, path.display().to_string(), path.to_owned()));
    }
    let roots: Vec<Root> = lines.iter().map(|(_, _, path)| Root::new(path, opened)).collect();
    let mut files = vec![BTreeMap::new(); lines.len()];
    for source in opened.opened() {
        let canonical = opened.canonical(&source.path).unwrap_or_else(|_| source.path.clone());
        let fits =
            roots.iter().enumerate().filter_map(|(at, root)| Some((root.name(&source, &canonical)?, at)));
        // A path that is named itself first, then the innermost directory, then a file's neighbour. Two
        // lines that name the same have both read it.
        let fits: Vec<_> = fits.collect();
        let Some(best) = fits.iter().map(|(fit, _)| fit.0).min() else { continue };
        let digest = codegen::source_digest(&source, opened, store, progress)?;
        for ((_, name), at) in fits.into_iter().filter(|(fit, _)| fit.0 == best) {
            let state = FileState { digest, size: source.file.len(), path: source.path.clone() };
            files[at].insert(name, state);
        }
    }
    let named = |(role, value, path): (Role, String, PathBuf), files| {
        let kind = opened.kind(&path);
        let named = match kind {
            None if role == Role::From => Named::Model(model(store, &value)?),
            _ => Named::Files(files),
        };
        let beside = match kind {
            Some(EntryKind::Directory) => Some(path.as_path()),
            // A directory that the user's files are in has whatever else they have, so a matrix brings none.
            Some(EntryKind::File) if role != Role::Imatrix => path.parent(),
            _ => None,
        };
        let licenses = beside.map(|d| licenses::find(opened, d)).transpose()?.unwrap_or_default();
        Ok(Source { role, value, named, licenses })
    };
    lines.into_iter().zip(files).map(|(line, files)| named(line, files)).collect()
}

/// The digest of a stored model's manifest.
fn model(store: &Store, name: &str) -> Result<Digest> {
    let name = Name::parse(name)?;
    let stored = store.find(&name)?.ok_or_else(|| {
        Diagnostic::environment(format!("`{name}` has left the store while it was read"))
            .code("source-changed")
    })?;
    Ok(stored.id)
}

/// Where the files of a line are.
struct Root {
    path: PathBuf,
    canonical: PathBuf,
    is_directory: bool,
}

/// How near a file is to what a line names: the smaller, the nearer.
type Distance = (u8, usize);

impl Root {
    fn new(path: &Path, world: &Recording<'_>) -> Root {
        let canonical = world.canonical(path).unwrap_or_else(|_| path.to_owned());
        Root {
            path: path.to_owned(),
            canonical,
            is_directory: world.kind(path) == Some(EntryKind::Directory),
        }
    }

    /// The name of a file from here, if it may be of this line.
    fn name(&self, file: &SourceFile, canonical: &Path) -> Option<(Distance, String)> {
        let below = |path: &Path, root: &Path| path.strip_prefix(root).ok().map(slashes);
        if self.is_directory {
            let name = below(&file.path, &self.path).or_else(|| below(canonical, &self.canonical))?;
            let depth = name.matches('/').count();
            return Some(((1, depth), name));
        }
        if file.path == self.path || canonical == self.canonical {
            let name = self.path.file_name().map(|n| n.to_string_lossy().into_owned())?;
            return Some(((0, 0), name));
        }
        // Shards stand beside the one that is named.
        let name = below(&file.path, self.path.parent()?).filter(|n| !n.contains('/'))?;
        Some(((2, 0), name))
    }
}

/// A relative path, written the same on every system.
fn slashes(path: &Path) -> String {
    let parts: Vec<_> = path.components().map(|c| c.as_os_str().to_string_lossy().into_owned()).collect();
    parts.join("/")
}
