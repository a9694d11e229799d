//! The models of a store.

use std::cmp::Reverse;
use std::fs;
use std::time::SystemTime;

use super::{Digest, Layer, Manifest, Name, Store, Stored, blob};
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
                    damage: self.damage(&stored),
                    name,
                    id: Some(stored.id),
                    size: stored.manifest.size(),
                    modified: stored.modified,
                    manifest: Some(stored.manifest),
                }),
                // Removed meanwhile.
                Ok(None) => {}
                Err(Errors(damage)) => {
                    let modified = fs::metadata(&found.path).and_then(|m| m.modified());
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

    /// What a look at the directories tells of a model's blobs: missing, or of a wrong size. A
    /// model that was removed or replaced meanwhile may have lost its blobs by right.
    pub(super) fn damage(&self, model: &Stored) -> Vec<Diagnostic> {
        let look = |layer: &Layer| match self.find_blob(&layer.digest) {
            Ok(found) => blob::damage(&model.name, layer, found.as_ref()),
            Err(Errors(mut errors)) => errors.pop(),
        };
        let sure = |layer: &Layer| look(layer).filter(|_| still(model)).and_then(|_| look(layer));
        model.manifest.blobs().filter_map(sure).collect()
    }
}

/// Whether a model's manifest is the one that was read.
fn still(model: &Stored) -> bool {
    let modified = fs::metadata(&model.path).and_then(|m| m.modified());
    modified.is_ok_and(|m| m == model.modified) && fs::read(&model.path).is_ok_and(|b| b == model.bytes)
}
