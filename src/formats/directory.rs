//! Files of a directory that is not trusted: nothing outside it is opened.

use std::collections::HashSet;
use std::path::{Component, Path, PathBuf};

use super::quote::quoted;
use crate::diagnostic::{Diagnostic, Result};
use crate::world::{EntryKind, World, read_file};

/// A directory, with every symbolic link of its own path resolved.
pub(crate) struct Directory<'a> {
    world: &'a dyn World,
    path: PathBuf,
    canonical: PathBuf,
}

impl<'a> Directory<'a> {
    /// The directory at `path`.
    pub fn new(world: &'a dyn World, path: &Path) -> Result<Directory<'a>> {
        let canonical = world.canonical(path).map_err(|e| Diagnostic::io("read", path, &e))?;
        if world.kind(path) != Some(EntryKind::Directory) {
            return Err(Diagnostic::error("not a directory").in_file(path, "").into());
        }
        Ok(Directory { world, path: path.to_owned(), canonical })
    }

    /// The path as it was named.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The names in the directory, sorted.
    pub fn names(&self) -> Result<Vec<String>> {
        Ok(self.world.names(&self.canonical).map_err(|e| Diagnostic::io("read", &self.path, &e))?)
    }

    /// `name` and, for each subdirectory that lies inside, `subdirectory/name`, of those names that
    /// `wanted` accepts and that are files.
    pub fn find(&self, nested: bool, wanted: impl Fn(&str) -> bool) -> Result<Vec<String>> {
        let mut found = Vec::new();
        let mut below = Vec::new();
        for name in self.names()? {
            match self.world.kind(&self.canonical.join(&name)) {
                Some(EntryKind::File) if wanted(&name) => found.push(name),
                // Hidden directories are caches, and those that lead outside are not looked into.
                Some(EntryKind::Directory) if nested && !name.starts_with('.') => {
                    if let Ok(inside) = self.resolve(&name) {
                        let names = self.world.names(&inside).unwrap_or_default();
                        for file in names.into_iter().filter(|file| wanted(file)) {
                            if self.world.kind(&inside.join(&file)) == Some(EntryKind::File) {
                                below.push(format!("{name}/{file}"));
                            }
                        }
                    }
                }
                _ => {}
            }
        }
        found.append(&mut below);
        Ok(found)
    }

    /// Where `relative`, written with `/`, really is.
    ///
    /// # Errors
    /// It has `..` or is absolute, is missing, or a symbolic link leads out of the directory.
    pub fn resolve(&self, relative: &str) -> Result<PathBuf> {
        let path = Path::new(relative);
        let plain = path.components().all(|c| matches!(c, Component::Normal(_)));
        // On every system the same names are good: a backslash or a drive's colon is not.
        if relative.is_empty() || !plain || relative.contains(['\\', ':', '\0']) {
            return Err(self.insecure(relative, "a path must stay in the directory").into());
        }
        let joined = self.path.join(path);
        let canonical = self.world.canonical(&joined).map_err(|e| match e.kind() {
            std::io::ErrorKind::NotFound => {
                Diagnostic::error(format!("the file {} is missing", quoted(relative)))
                    .code("missing-file")
                    .in_file(&self.path, "")
                    .help("download the whole repository again")
            }
            _ => Diagnostic::io("read", &joined, &e),
        })?;
        if !canonical.starts_with(&self.canonical) {
            let mut error = self.insecure(relative, "a symbolic link leads out of the directory");
            let cached = |path: &Path| path.components().any(|c| c.as_os_str() == ".cache");
            error = if cached(&self.path) || cached(&self.canonical) {
                error.help(
                    "download with `hf download REPOSITORY --local-dir DIRECTORY`, which makes no links",
                )
            } else {
                error.help("copy the file into the directory")
            };
            return Err(error.into());
        }
        Ok(canonical)
    }

    fn insecure(&self, relative: &str, why: &str) -> Diagnostic {
        Diagnostic::error(format!("insecure path: {}", quoted(relative)))
            .code("insecure-path")
            .label(why)
            .in_file(&self.path, "")
    }

    /// The whole of a file of at most `limit` bytes; `None` when there is none of this name.
    pub fn read(&self, relative: &str, limit: u64) -> Result<Option<Vec<u8>>> {
        if self.world.kind(&self.path.join(relative)) != Some(EntryKind::File) {
            return Ok(None);
        }
        let canonical = self.resolve(relative)?;
        read_file(self.world, &canonical, limit).map(Some)
    }
}

/// Fails when names say that they are shards and one of them is missing.
pub(crate) fn require_all_shards(directory: &Path, names: &[String]) -> Result<()> {
    let there: HashSet<&str> = names.iter().map(String::as_str).collect();
    let mut series = HashSet::new();
    for name in names {
        let Some((prefix, count, extension)) = shard_series(name) else { continue };
        if !series.insert((prefix, count)) {
            continue;
        }
        // Ends at the first that is missing: a name that claims 99,999 shards costs nothing.
        for number in 1..=count {
            let expected = format!("{prefix}-{number:05}-of-{count:05}.{extension}");
            if !there.contains(expected.as_str()) {
                let message = format!("shard {number} of {count} is missing: {}", quoted(&expected));
                return Err(Diagnostic::error(message)
                    .code("missing-shard")
                    .in_file(directory, "")
                    .help("download the whole repository again")
                    .into());
            }
        }
    }
    Ok(())
}

/// Of `model-00002-of-00003.safetensors` the name `model`, the count 3 and the extension.
fn shard_series(name: &str) -> Option<(&str, u64, &str)> {
    let (stem, extension) = name.rsplit_once('.')?;
    let (rest, count) = stem.rsplit_once("-of-")?;
    let (prefix, number) = rest.rsplit_once('-')?;
    let digits = |text: &str| text.len() == 5 && text.bytes().all(|b| b.is_ascii_digit());
    if !digits(number) || !digits(count) {
        return None;
    }
    Some((prefix, count.parse().ok()?, extension))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shards_are_known_by_their_names() {
        assert_eq!(shard_series("model-00002-of-00003.safetensors"), Some(("model", 3, "safetensors")));
        assert_eq!(shard_series("sub/m-00002-of-00003.safetensors"), Some(("sub/m", 3, "safetensors")));
        assert_eq!(shard_series("model.safetensors"), None);
        assert_eq!(shard_series("model-2-of-3.safetensors"), None);
    }

    #[test]
    fn a_gap_in_the_shards_is_an_error() {
        let names = |numbers: &[u32]| {
            numbers.iter().map(|n| format!("model-{n:05}-of-00003.safetensors")).collect::<Vec<_>>()
        };
        assert!(require_all_shards(Path::new("m"), &names(&[1, 2, 3])).is_ok());
        let error = require_all_shards(Path::new("m"), &names(&[1, 3])).unwrap_err();
        assert!(error.to_string().contains("shard 2 of 3 is missing"), "{error}");
    }
}
