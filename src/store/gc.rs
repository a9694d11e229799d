//! Collection of garbage: blobs that no model needs, temporary files that no process writes.
//!
//! Removed is only what is surely the store's own: regular files whose name is a digest, and
//! temporary files of `mdl` whose writer is dead. Nothing is removed while it is unsure what is
//! needed: while a build runs, or where a manifest cannot be read.

use std::collections::HashSet;
use std::fs;
use std::io;
use std::time::{Duration, SystemTime};

use super::durable::{self, sync_directory};
use super::lock::FOR_BUILDS;
use super::{Blob, Digest, Manifest, Store, read, temp};
use crate::diagnostic::{Diagnostic, Errors, Result, Severity};

/// How to collect.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Collection {
    /// Younger blobs stay: a program that takes no locks, such as Ollama, may be about to refer to
    /// them.
    pub grace: Duration,
    /// Only tell what would be removed.
    pub dry_run: bool,
}

impl Default for Collection {
    /// An hour's grace, which is also Ollama's.
    fn default() -> Self {
        Collection { grace: Duration::from_secs(3600), dry_run: false }
    }
}

/// What was removed.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Collected {
    /// The blobs.
    pub blobs: Vec<Blob>,
    /// How many temporary files.
    pub temporary: usize,
    /// The bytes of both.
    pub bytes: u64,
    /// Why something stayed.
    pub warnings: Vec<Diagnostic>,
}

impl Store {
    /// Removes the blobs that no model needs, the temporary files of processes that were killed,
    /// what the build cache says of blobs that are gone, signatures and
    /// provenance of models that are gone.
    ///
    /// A manifest that cannot be read is a warning, and every blob stays.
    ///
    /// # Errors
    /// Builds are running; a directory cannot be read; the disk does not confirm that the
    /// manifests' removal, on which this relies, is there to stay.
    pub fn gc(&self, how: &Collection) -> Result<Collected> {
        if !read::there(self.root())? {
            return Ok(Collected::default());
        }
        self.create()?;
        let Some(_exclusive) = self.remove_blobs(FOR_BUILDS)? else {
            return Err(self.busy(Severity::Error).into());
        };
        let mut collected = Collected::default();
        let own = self.own_dir();
        for (dir, prefix) in
            [(self.blobs_dir(), temp::BLOB), (self.manifests_dir(), temp::OTHER), (own, temp::OTHER)]
        {
            let (files, bytes) = temp::remove_dead(&dir, prefix, how.dry_run)
                .map_err(|e| durable::failed("remove temporary files from", &dir, &e))?;
            collected.temporary += files;
            collected.bytes += bytes;
        }
        let (files, bytes) = self.remove_partials(how.grace, how.dry_run)?;
        collected.temporary += files;
        collected.bytes += bytes;
        if let Some(needed) = self.needed(&mut collected.warnings)? {
            let now = SystemTime::now();
            // A time in the future is a clock that was set back: the blob may be young.
            let old = |b: &Blob| now.duration_since(b.modified).is_ok_and(|age| age >= how.grace);
            let garbage = self.blobs()?.into_iter().filter(|b| !needed.contains(&b.digest) && old(b));
            collect(garbage, how.dry_run, &mut collected);
            if !how.dry_run {
                self.forget_signatures(&needed)?;
                self.forget_documents(&needed);
            }
        }
        if !how.dry_run {
            self.cache().forget_missing();
        }
        Ok(collected)
    }

    /// Removes those of `candidates` that no model needs, whatever their age. If builds are
    /// running or a manifest cannot be read, they stay, with a warning.
    ///
    /// # Errors
    /// As [`gc`](Self::gc), but for running builds.
    pub fn prune(&self, candidates: &[Digest]) -> Result<Collected> {
        let mut collected = Collected::default();
        if candidates.is_empty() {
            return Ok(collected);
        }
        let Some(_exclusive) = self.remove_blobs(FOR_BUILDS)? else {
            collected.warnings.push(self.busy(Severity::Note));
            return Ok(collected);
        };
        if let Some(needed) = self.needed(&mut collected.warnings)? {
            let mut garbage = Vec::new();
            for digest in candidates.iter().filter(|d| !needed.contains(d)).collect::<HashSet<_>>() {
                // A symbolic link is somebody else's.
                let blob = self.find_blob(digest)?;
                garbage.extend(blob.filter(|b| fs::symlink_metadata(&b.path).is_ok_and(|m| m.is_file())));
            }
            garbage.sort_unstable_by_key(|b| b.digest);
            collect(garbage, false, &mut collected);
        }
        Ok(collected)
    }

    /// Every manifest, and every blob that one refers to; `None`, with warnings, if that is not sure.
    fn needed(&self, warnings: &mut Vec<Diagnostic>) -> Result<Option<HashSet<Digest>>> {
        let tree = self.tree()?;
        if !tree.exists {
            let missing = format!("the directory {} is missing", self.manifests_dir().display());
            warnings.push(Diagnostic::warning(missing).code("gc-unsure").help("no blob was removed"));
            return Ok(None);
        }
        // A manifest may have been removed by somebody who did not wait for the disk: without
        // this, a power cut could bring it back without its blobs.
        for dir in &tree.directories {
            match sync_directory(dir) {
                Err(e) if e.kind() != io::ErrorKind::NotFound => {
                    return Err(durable::failed("be sure that the disk has", dir, &e).into());
                }
                _ => {}
            }
        }
        let mut needed = HashSet::new();
        let before = warnings.len();
        for found in &tree.files {
            // A file whose place spells no name may be a manifest all the same.
            let read = read::read_bytes(&found.path);
            match read.and_then(|b| b.map(|b| Ok((Digest::of(&b), Manifest::parse(&b)?))).transpose()) {
                Ok(None) => {}
                Ok(Some((id, manifest))) => {
                    needed.insert(id);
                    needed.extend(manifest.blobs().map(|l| l.digest));
                }
                Err(Errors(errors)) => warnings.extend(errors.into_iter().map(|error| {
                    let mut warning = error.in_file(&found.path, "").help(
                        "no blob was removed, for it may be this model's: repair or remove it, then collect again",
                    );
                    warning.severity = Severity::Warning;
                    warning
                })),
            }
        }
        Ok((warnings.len() == before).then_some(needed))
    }

    fn busy(&self, severity: Severity) -> Diagnostic {
        let message = format!("the store {} is being written to, so its blobs stay", self.root().display());
        let mut busy =
            Diagnostic::environment(message).code("store-busy").help("run `mdl gc` when no build is running");
        busy.severity = severity;
        busy
    }
}

/// Removes blobs, or tells that they would be.
fn collect(garbage: impl IntoIterator<Item = Blob>, dry_run: bool, collected: &mut Collected) {
    for blob in garbage {
        match if dry_run { Ok(()) } else { fs::remove_file(&blob.path) } {
            Ok(()) => {
                collected.bytes += blob.size;
                collected.blobs.push(blob);
            }
            Err(e) if e.kind() == io::ErrorKind::NotFound => {}
            Err(e) => {
                let mut warning = durable::failed("remove the blob", &blob.path, &e);
                warning.severity = Severity::Warning;
                collected.warnings.push(warning);
            }
        }
    }
}
