//! The resources of a model that lies in files: a directory, or one file.

use std::fs::{self, File};
use std::io::{Read as _, Seek as _, SeekFrom};
use std::path::{Path, PathBuf};

use rayon::prelude::*;

use super::statement::{Resource, Serialization, Statement};
use crate::diagnostic::{Diagnostic, Result};
use crate::store::Digest;

/// What versions a model and is no part of it.
pub const GIT: [&str; 4] = [".git", ".gitattributes", ".github", ".gitignore"];

/// Directories in directories, at most.
const DEPTH: usize = 64;

/// A statement about all files of `model`, but those of [`GIT`] and `ignored`, which are relative to it.
///
/// # Errors
/// A file cannot be read, is a symbolic link, or has a name that is no UTF-8.
pub fn statement(model: &Path, ignored: &[String]) -> Result<Statement> {
    let ignore_paths = if fs::metadata(model).is_ok_and(|m| m.is_dir()) {
        GIT.iter().map(|&name| name.to_owned()).chain(ignored.iter().cloned()).collect()
    } else {
        Vec::new()
    };
    let serialization = Serialization::files(ignore_paths);
    let resources = resources(model, &serialization, &[])?;
    Ok(Statement::new(name_of(model), serialization, resources))
}

/// Every resource of `model`, found as `how` says; `ignored` are more paths to leave out, relative to it.
///
/// # Errors
/// As [`statement()`].
pub fn resources(model: &Path, how: &Serialization, ignored: &[String]) -> Result<Vec<Resource>> {
    let mut files = Vec::new();
    let is_file = fs::metadata(model).map_err(|e| Diagnostic::io("read", model, &e))?.is_file();
    if is_file {
        files.push((".".to_owned(), model.to_owned()));
    } else {
        let ignored: Vec<&str> =
            how.ignore_paths.iter().chain(ignored).map(|path| path.trim_end_matches('/')).collect();
        walk(model, "", how.allow_symlinks, &ignored, DEPTH, &mut files)?;
    }
    let shard = (how.method == "shards").then_some(how.shard_size.unwrap_or(1_000_000_000));
    let hashed: Result<Vec<Vec<Resource>>> =
        files.par_iter().map(|(name, path)| hash(name, path, shard)).collect();
    Ok(hashed?.into_iter().flatten().collect())
}

/// The last component of a model's path, as the informative name in a statement.
fn name_of(model: &Path) -> String {
    let absolute = fs::canonicalize(model).unwrap_or_else(|_| model.to_owned());
    absolute.file_name().map_or_else(|| "model".to_owned(), |name| name.to_string_lossy().into_owned())
}

fn walk(
    dir: &Path,
    prefix: &str,
    links: bool,
    ignored: &[&str],
    depth: usize,
    files: &mut Vec<(String, PathBuf)>,
) -> Result<()> {
    if depth == 0 {
        return Err(Diagnostic::error(format!("directories lie more than {DEPTH} deep"))
            .in_file(dir, "")
            .code("too-deep")
            .into());
    }
    let failed = |e: std::io::Error| Diagnostic::io("read the directory", dir, &e);
    for entry in fs::read_dir(dir).map_err(failed)? {
        let entry = entry.map_err(failed)?;
        let path = entry.path();
        let Some(name) = entry.file_name().to_str().map(|name| format!("{prefix}{name}")) else {
            let message = "the name of this file is no UTF-8, so it cannot be signed";
            return Err(Diagnostic::error(message).in_file(&path, "").code("invalid-name").into());
        };
        if ignored.contains(&name.as_str()) {
            continue;
        }
        let mut kind = entry.file_type().map_err(failed)?;
        if kind.is_symlink() {
            if !links {
                return Err(Diagnostic::error(
                    "a symbolic link cannot be signed: what it leads to may change",
                )
                .in_file(&path, "")
                .code("symbolic-link")
                .help("put the file itself there, or leave it out with `--ignore`")
                .into());
            }
            kind = fs::metadata(&path).map_err(|e| Diagnostic::io("read", &path, &e))?.file_type();
        }
        if kind.is_dir() {
            walk(&path, &format!("{name}/"), links, ignored, depth - 1, files)?;
        } else if kind.is_file() {
            files.push((name, path));
        } else {
            let message = "this is neither a file nor a directory";
            return Err(Diagnostic::error(message).in_file(&path, "").code("not-a-file").into());
        }
    }
    Ok(())
}

fn hash(name: &str, path: &Path, shard: Option<u64>) -> Result<Vec<Resource>> {
    let failed = |e: std::io::Error| Diagnostic::io("read", path, &e);
    let mut file = File::open(path).map_err(failed)?;
    let Some(shard) = shard else {
        let digest = Digest::of_reader(file, &|_| ()).map_err(failed)?;
        return Ok(vec![Resource { name: name.to_owned(), digest }]);
    };
    let len = file.metadata().map_err(failed)?.len();
    let mut parts = Vec::new();
    let mut start = 0;
    while start < len {
        let end = len.min(start.saturating_add(shard));
        file.seek(SeekFrom::Start(start)).map_err(failed)?;
        let digest = Digest::of_reader((&mut file).take(end - start), &|_| ()).map_err(failed)?;
        parts.push(Resource { name: format!("{name}:{start}:{end}"), digest });
        start = end;
    }
    Ok(parts)
}
