//! Removing a model, and the blobs that only it needed.

use std::fs;
use std::io;

use super::durable::{self, sync_directory};
use super::read::{former_bytes, there};
use super::{Collected, Digest, Manifest, Name, Store, blob};
use crate::diagnostic::{Errors, Result, Severity};

/// What was removed.
#[derive(Clone, Debug, PartialEq)]
pub struct Removed {
    /// The model's name, spelled as the store spelled it.
    pub name: Name,
    /// Its blobs that no other model needs, and warnings where some had to stay.
    pub collected: Collected,
}

impl Store {
    /// Removes a model, damaged or not, then its blobs that no other model needs. While a build
    /// runs, the blobs stay for the next [`gc`](Self::gc), with a note.
    ///
    /// # Errors
    /// There is no such model; the disk refuses or does not confirm, and then the model stays.
    pub fn remove(&self, name: &Name) -> Result<Removed> {
        if !there(&self.manifest_path(&self.spelling(name)?))? {
            return Err(self.no_such_model(name).into());
        }
        self.create()?;
        let (name, former) = self.remove_manifest(name)?;
        let former = former.and_then(|bytes| Manifest::parse(&bytes).ok());
        let digests: Vec<Digest> = former.iter().flat_map(Manifest::blobs).map(|l| l.digest).collect();
        // The model is gone: that its blobs are not is no failure.
        let collected = self.prune(&digests).unwrap_or_else(|Errors(mut warnings)| {
            warnings.iter_mut().for_each(|w| w.severity = Severity::Warning);
            Collected { warnings, ..Collected::default() }
        });
        Ok(Removed { name, collected })
    }

    /// Takes the name away, for good; the manifest's bytes, if they could be read.
    fn remove_manifest(&self, name: &Name) -> Result<(Name, Option<Vec<u8>>)> {
        let _manifests = self.change_manifests()?;
        let name = self.spelling(name)?;
        let path = self.manifest_path(&name);
        let former = former_bytes(&path)?;
        match fs::remove_file(&path) {
            Ok(()) => {}
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Err(self.no_such_model(&name).into()),
            Err(e) => return Err(durable::failed("remove the manifest", &path, &e).into()),
        }
        // Before its blobs go: after a power cut the model must not be back without them.
        if let Some(dir) = path.parent()
            && let Err(e) = sync_directory(dir)
        {
            if former.is_some() {
                self.restore(&path, former.as_deref());
            }
            return Err(blob::unconfirmed(&path, &e).into());
        }
        self.prune_directories(&path);
        Ok((name, former))
    }
}
