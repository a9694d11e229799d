//! The tree of manifests, whatever is in it.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use super::read::there;
use super::{Name, Store, durable};
use crate::diagnostic::Result;

/// A file in the tree.
#[derive(Debug)]
pub(super) struct Found {
    /// The file.
    pub path: PathBuf,
    /// The name that its place spells, or why its place spells none.
    pub name: Result<Name, String>,
}

/// All that is below `manifests`, to the depth of a tag.
#[derive(Debug, Default)]
pub(super) struct Tree {
    /// Whether the directory `manifests` is there at all.
    pub exists: bool,
    /// The directories, each before those in it.
    pub directories: Vec<PathBuf>,
    /// The files, but for hidden ones, which can be no manifests; sorted by path.
    pub files: Vec<Found>,
}

impl Store {
    /// Looks through the manifests' directories.
    ///
    /// # Errors
    /// One of them cannot be read.
    pub(super) fn tree(&self) -> Result<Tree> {
        let root = self.manifests_dir();
        let mut tree = Tree { exists: there(&root)?, ..Tree::default() };
        if tree.exists {
            visit(&root, &mut Vec::new(), &mut tree)?;
            tree.files.sort_unstable_by(|a, b| a.path.cmp(&b.path));
        }
        Ok(tree)
    }
}

/// Adds what is in `dir`, to which the directories `parts` lead.
fn visit(dir: &Path, parts: &mut Vec<String>, tree: &mut Tree) -> Result<()> {
    let failed = |e: io::Error| durable::failed("read the directory", dir, &e);
    let entries = match fs::read_dir(dir) {
        // Pruned meanwhile.
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(()),
        other => other.map_err(failed)?,
    };
    tree.directories.push(dir.to_owned());
    for entry in entries {
        let path = entry.map_err(failed)?.path();
        let part = path.file_name().map(|n| n.to_string_lossy().into_owned()).unwrap_or_default();
        if part.starts_with('.') {
            continue;
        }
        let metadata = match fs::metadata(&path) {
            Ok(metadata) => metadata,
            // Gone, or a symbolic link to nothing.
            Err(e) if e.kind() == io::ErrorKind::NotFound => continue,
            Err(e) => return Err(durable::failed("look at", &path, &e).into()),
        };
        parts.push(part);
        if !metadata.is_dir() {
            let name = match parts.as_slice() {
                [host, namespace, model, tag] => Name::from_parts(host, namespace, model, tag),
                _ => Err("it is not at `host/namespace/model/tag`".to_owned()),
            };
            tree.files.push(Found { path, name });
        } else if parts.len() < 4 {
            visit(&path, parts, tree)?;
        }
        parts.pop();
    }
    Ok(())
}
