//! Looking for damage: every manifest followed, every blob hashed.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};

use rayon::prelude::*;

use super::lock::FOR_BUILDS;
use super::walk::Found;
use super::{Blob, Digest, Name, Store, Stored, durable};
use crate::diagnostic::{Diagnostic, Errors, Result};

/// How far a verification is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Progress {
    /// Bytes hashed.
    pub done: u64,
    /// Bytes to hash.
    pub total: u64,
}

/// What a verification found.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Report {
    /// Models whose manifests were followed.
    pub models: usize,
    /// Blobs that were hashed.
    pub blobs: usize,
    /// Their bytes.
    pub bytes: u64,
    /// Each damage, and what to do about it. Empty if there is none.
    pub damage: Vec<Diagnostic>,
    /// Blobs whose bytes are not those of their digest, for [`Store::discard`].
    pub damaged: Vec<Digest>,
}

impl Store {
    /// Follows the manifests of `names`, or of all models if it is empty, and hashes their blobs;
    /// for all models also the blobs that no model needs, for a build may take them up again.
    ///
    /// `progress` is called from several threads. Writers may go on meanwhile.
    ///
    /// # Errors
    /// A name is not in the store; a directory cannot be read. Damage is no error, but the result.
    pub fn verify(&self, names: &[Name], progress: &(dyn Fn(Progress) + Sync)) -> Result<Report> {
        let mut report = Report::default();
        let models = self.models(names, &mut report)?;
        report.models = models.len();
        let mut blobs: BTreeMap<Digest, Blob> = BTreeMap::new();
        if names.is_empty() {
            blobs.extend(self.blobs()?.into_iter().map(|b| (b.digest, b)));
        }
        for model in &models {
            report.damage.extend(self.damage(model));
            for layer in model.manifest.blobs() {
                blobs.extend(self.find_blob(&layer.digest)?.map(|b| (b.digest, b)));
            }
        }
        self.hash(blobs.into_values().collect(), &models, progress, &mut report);
        Ok(report)
    }

    /// Removes a blob if its bytes are not those of its digest; whether it did. The models that
    /// need it can then be built or pulled again.
    ///
    /// # Errors
    /// Builds are running; the blob cannot be read or removed.
    pub fn discard(&self, digest: &Digest) -> Result<bool> {
        self.create()?;
        let Some(_exclusive) = self.remove_blobs(FOR_BUILDS)? else {
            return Err(Diagnostic::environment(format!(
                "the store {} is being written to, so the damaged blob {digest} stays",
                self.root().display()
            ))
            .code("store-busy")
            .help("try again when no build is running")
            .into());
        };
        let Some(blob) = self.find_blob(digest)? else { return Ok(false) };
        let failed = |doing: &str, e: &io::Error| durable::failed(doing, &blob.path, e);
        if content(&blob.path, &|_| ()).map_err(|e| failed("read the blob", &e))? == *digest {
            return Ok(false);
        }
        fs::remove_file(&blob.path).map_err(|e| failed("remove the damaged blob", &e))?;
        Ok(true)
    }

    /// The models to follow. Manifests that cannot be are reported.
    fn models(&self, names: &[Name], report: &mut Report) -> Result<Vec<Stored>> {
        let mut models = Vec::new();
        let mut add = |name: Name, path: &Path| match self.read_manifest(name, path) {
            Ok(stored) => {
                let there = stored.is_some();
                models.extend(stored);
                there
            }
            Err(Errors(damage)) => {
                report.damage.extend(damage);
                true
            }
        };
        if names.is_empty() {
            let mut strange = Vec::new();
            for Found { path, name } in self.tree()?.files {
                match name {
                    Ok(name) => drop(add(name, &path)),
                    Err(why) => strange.push(
                        Diagnostic::error(format!("this file is in no model's place: {why}"))
                            .in_file(path, "")
                            .code("invalid-name")
                            .help("move it out of the store"),
                    ),
                }
            }
            report.damage.extend(strange);
            return Ok(models);
        }
        for name in names {
            let spelled = self.spelling(name)?;
            let path = self.manifest_path(&spelled);
            if !add(spelled, &path) {
                return Err(self.no_such_model(name).into());
            }
        }
        Ok(models)
    }

    /// Hashes blobs in parallel and reports those that differ from their names.
    fn hash(
        &self,
        mut blobs: Vec<Blob>,
        models: &[Stored],
        progress: &(dyn Fn(Progress) + Sync),
        report: &mut Report,
    ) {
        report.blobs = blobs.len();
        report.bytes = blobs.iter().map(|b| b.size).sum();
        let total = report.bytes;
        let done = AtomicU64::new(0);
        let advance = |n: u64| {
            let done = done.fetch_add(n, Ordering::Relaxed) + n;
            progress(Progress { done: done.min(total), total });
        };
        // One at a time to whoever is free, the largest first, so that all end together.
        blobs.sort_by_key(|b| std::cmp::Reverse(b.size));
        let contents: Vec<(Blob, io::Result<Digest>)> = blobs
            .into_par_iter()
            .with_max_len(1)
            .map(|b| (content(&b.path, &advance), b))
            .map(|(d, b)| (b, d))
            .collect();
        for (blob, content) in contents {
            match content {
                Ok(digest) if digest == blob.digest => {}
                Ok(digest) => {
                    // A size that is not the manifest's has been told already.
                    let users = users(models, &blob);
                    if users.iter().all(|(_, size)| *size == blob.size) {
                        report.damage.push(differs(&blob, digest, &users));
                    }
                    report.damaged.push(blob.digest);
                }
                // Removed meanwhile; a model that needs it says so.
                Err(e) if e.kind() == io::ErrorKind::NotFound => {}
                Err(e) => report.damage.push(durable::failed("read the blob", &blob.path, &e)),
            }
        }
    }
}

fn content(path: &Path, progress: &dyn Fn(u64)) -> io::Result<Digest> {
    Digest::of_reader(fs::File::open(path)?, progress)
}

/// The models that need a blob, and the size that each expects.
fn users<'a>(models: &'a [Stored], blob: &Blob) -> BTreeSet<(&'a Name, u64)> {
    let uses = |m: &'a Stored| {
        let layer = m.manifest.blobs().find(|l| l.digest == blob.digest)?;
        Some((&m.name, layer.size))
    };
    models.iter().filter_map(uses).collect()
}

fn differs(blob: &Blob, content: Digest, users: &BTreeSet<(&Name, u64)>) -> Diagnostic {
    let damage = Diagnostic::error(format!("the blob is damaged: its bytes have the digest {content}"))
        .in_file(&blob.path, "")
        .code("blob-digest");
    if users.is_empty() {
        return damage.help("delete it; no model needs it");
    }
    let names: Vec<String> = users.iter().map(|(name, _)| format!("`{name}`")).collect();
    damage.help(format!("delete it, then build or pull {} again", names.join(", ")))
}
