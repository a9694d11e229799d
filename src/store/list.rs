//! The models of a store.

use std::cmp::Reverse;
use std::time::SystemTime;

use super::{Digest, Manifest, Name, Store, blob};
use crate::diagnostic::{Diagnostic, Errors, Result};

/// A line of the list. A damaged model is listed, and marked.
#[derive(Clone, Debug, PartialEq)]
pub struct Entry {
    /// The model's name.
    pub name: Name,
    /// Its identity: the digest of the manifest's bytes; `None` if these cannot be read.
    pub id: Option<Digest>,
    /// The bytes of its blobs, as the manifest states them; 0 if it cannot be read.
    pub size: u64,
    /// When it was published.
    pub modified: SystemTime,
    /// What it is made of, if that can be read.
    pub manifest: Option<Manifest>,
    /// What is wrong with it, as far as a look at the directories tells.
    pub damage: Vec<Diagnostic>,
}

impl Store {
    /// All models, the newest first.
    ///
    /// # Errors
    /// A directory cannot be read. A damaged model is no error.
    pub fn list(&self) -> Result<Vec<Entry>> {
        let mut entries = Vec::new();
        for found in self.tree()?.files {
            let Ok(name) = found.name else { continue };
            match self.read_manifest(name.clone(), &found.path) {
                Ok(Some(stored)) => entries.push(Entry {
                    damage: self.missing(&name, &stored.manifest),
                    name,
                    id: Some(stored.id),
                    size: stored.manifest.size(),
                    modified: stored.modified,
                    manifest: Some(stored.manifest),
                }),
                // Removed meanwhile.
                Ok(None) => {}
                Err(Errors(damage)) => {
                    let modified = std::fs::metadata(&found.path).and_then(|m| m.modified());
                    entries.push(Entry {
                        name,
                        id: None,
                        size: 0,
                        modified: modified.unwrap_or(SystemTime::UNIX_EPOCH),
                        manifest: None,
                        damage,
                    });
                }
            }
        }
        entries.sort_by(|a, b| (Reverse(a.modified), &a.name).cmp(&(Reverse(b.modified), &b.name)));
        Ok(entries)
    }

    /// A model's blobs that are missing or of a wrong size.
    fn missing(&self, name: &Name, manifest: &Manifest) -> Vec<Diagnostic> {
        let check = |layer: &super::Layer| match self.find_blob(&layer.digest) {
            Ok(found) => blob::damage(name, layer, found.as_ref()),
            Err(Errors(mut errors)) => errors.pop(),
        };
        manifest.blobs().filter_map(check).collect()
    }
}
