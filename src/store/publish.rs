//! Writing models: blobs first, then the manifest that makes them a model.

use std::collections::BTreeSet;
use std::fs;
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use super::blob::{self, unconfirmed};
use super::durable::{self, sync_directory};
use super::lock::Lock;
use super::read::former_bytes;
use super::temp::{self, Temp};
use super::{Blob, BlobWriter, Digest, Layer, Manifest, Name, Store, media};
use crate::diagnostic::{Diagnostic, Result};

/// The right to add to a store. While it lives, no blob is removed: what was found or written
/// through it is still there when the manifest is published.
#[derive(Debug)]
pub struct Writer {
    store: Store,
    _blobs: Lock,
}

/// A model that was published.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Published {
    /// Its name, spelled as the store spells it.
    pub name: Name,
    /// Its identity: the digest of the manifest's bytes.
    pub id: Digest,
    /// Blobs of the model that had the name before and that this one does not need. Once the
    /// [`Writer`] is gone, [`Store::prune`] removes those that no other model needs.
    pub replaced: Vec<Digest>,
}

impl Store {
    /// Begins to write, and removes the temporary files of writers that were killed. A store that
    /// does not exist is created.
    ///
    /// # Errors
    /// The store may not be written to; garbage is being collected and that does not end.
    pub fn writer(&self) -> Result<Writer> {
        self.create()?;
        let blobs = self.keep_blobs()?;
        // Only room is lost where this fails.
        let _ = temp::remove_dead(&self.blobs_dir(), temp::BLOB, false);
        let _ = temp::remove_dead(&self.manifests_dir(), temp::OTHER, false);
        Ok(Writer { store: self.clone(), _blobs: blobs })
    }
}

impl Writer {
    /// The store.
    pub fn store(&self) -> &Store {
        &self.store
    }

    /// Begins a blob. `expected` is how many bytes it will have, where that is known, for the
    /// message when the disk is full.
    ///
    /// # Errors
    /// No file can be made.
    pub fn blob(&self, expected: Option<u64>) -> Result<BlobWriter<'_>> {
        BlobWriter::create(self, expected)
    }

    /// Remembers that a large blob, which this writer has just finished, is whole: what a later build or
    /// run would otherwise hash it for.
    pub fn remember_whole(&self, blob: &Blob) {
        self.store.remember_whole(blob);
    }

    /// A file for what is needed while this writes. It goes when it is dropped, or with garbage after a kill.
    ///
    /// # Errors
    /// No file can be made.
    pub fn scratch(&self) -> Result<tempfile::NamedTempFile> {
        let dir = self.store.own_dir();
        let made = tempfile::Builder::new().prefix(temp::OTHER).tempfile_in(&dir);
        Ok(made.map_err(|e| durable::failed("write to", &dir, &e))?)
    }

    /// Writes a small blob.
    ///
    /// # Errors
    /// The disk refuses.
    pub fn put(&self, bytes: &[u8]) -> Result<Blob> {
        let mut blob = self.blob(Some(bytes.len() as u64))?;
        blob.write_all(bytes).map_err(|e| blob.diagnose(&e))?;
        blob.finish()
    }

    /// Gives `name` to the model of this configuration and these layers. The name's former model,
    /// if any, is replaced in one step.
    ///
    /// # Errors
    /// A layer's blob is not in the store with the size that the layer states; the disk refuses or
    /// does not confirm. The name is what it was.
    pub fn publish(&self, name: &Name, config: &[u8], layers: Vec<Layer>) -> Result<Published> {
        self.publish_manifest(name, &self.manifest(config, layers)?)
    }

    /// Writes a configuration; the bytes of the manifest of it and these layers, which has no name yet.
    ///
    /// # Errors
    /// The disk refuses.
    pub fn manifest(&self, config: &[u8], layers: Vec<Layer>) -> Result<Vec<u8>> {
        let config = self.put(config)?;
        Manifest::new(Layer::new(media::CONFIG, config.digest, config.size), layers).to_bytes()
    }

    /// Gives `name` to the model of a manifest whose bytes, and so whose identity, are kept.
    ///
    /// # Errors
    /// As [`publish`](Self::publish); or the bytes are no manifest.
    pub fn publish_manifest(&self, name: &Name, bytes: &[u8]) -> Result<Published> {
        let manifest = Manifest::parse(bytes)?;
        self.confirm_blobs(name, &manifest)?;
        let _manifests = self.store.change_manifests()?;
        let name = self.store.spelling(name)?;
        let id = Digest::of(bytes);
        if let Some(named) = name.digest().filter(|named| *named != id) {
            return Err(Diagnostic::error(format!("the model is {id}, so it cannot be named {named}"))
                .code("another-digest")
                .help("give it a tag")
                .into());
        }
        let path = self.store.manifest_path(&name);
        let former = former_bytes(&path)?;
        self.replace(&path, bytes, former.as_deref())?;
        let needed: BTreeSet<Digest> = manifest.blobs().map(|l| l.digest).collect();
        let former = former.and_then(|b| Manifest::parse(&b).ok());
        let replaced: BTreeSet<Digest> = former
            .iter()
            .flat_map(Manifest::blobs)
            .map(|l| l.digest)
            .filter(|d| !needed.contains(d))
            .collect();
        Ok(Published { name, id, replaced: replaced.into_iter().collect() })
    }

    /// Gives the model `from` a second name.
    ///
    /// # Errors
    /// There is no such model, or it is damaged; as [`publish`](Self::publish).
    pub fn copy(&self, from: &Name, to: &Name) -> Result<Published> {
        let from = self.store.read(from)?;
        self.publish_manifest(to, &from.bytes)
    }

    /// Makes sure that every blob is there and on the disk. Those that this process wrote are; one
    /// that was found may be from a program that does not wait for the disk, or just renamed.
    fn confirm_blobs(&self, name: &Name, manifest: &Manifest) -> Result<()> {
        let mut confirmed = BTreeSet::new();
        for layer in manifest.blobs() {
            let found = self.store.find_blob(&layer.digest)?;
            if let Some(damage) = blob::damage(name, layer, found.as_ref()) {
                return Err(damage.into());
            }
            // Windows flushes only files opened for writing, and a blob may not be writable.
            if let Some(found) = found.filter(|_| cfg!(unix) && confirmed.insert(layer.digest)) {
                let synced = fs::File::open(&found.path).and_then(|f| f.sync_all());
                synced.map_err(|e| unconfirmed(&found.path, &e))?;
            }
        }
        let dir = self.store.blobs_dir();
        Ok(sync_directory(&dir).map_err(|e| unconfirmed(&dir, &e))?)
    }

    /// Puts a manifest in its place; on failure what was there before is there again.
    fn replace(&self, path: &Path, bytes: &[u8], former: Option<&[u8]>) -> Result<()> {
        let manifests = self.store.manifests_dir();
        let dir = path.parent().unwrap_or(&manifests);
        let failed = |e: &io::Error| durable::failed("write the manifest", path, e);
        let mut temp = Temp::create(&manifests, temp::OTHER).map_err(|e| failed(&e))?;
        temp.write_all(bytes).map_err(|e| failed(&e))?;
        temp.sync().map_err(|e| unconfirmed(temp.path(), &e))?;
        let placed = durable::create_directories(dir).and_then(|()| temp.rename(path));
        if let Err(e) = placed {
            self.store.prune_directories(path);
            return Err(failed(&e).into());
        }
        sync_directory(dir).map_err(|e| {
            self.store.restore(path, former);
            unconfirmed(path, &e).into()
        })
    }
}

impl Store {
    /// Undoes a change to a manifest that the disk did not confirm, as well as that can be done.
    pub(super) fn restore(&self, path: &Path, former: Option<&[u8]>) {
        match former {
            Some(bytes) => drop(temp::write_whole(&self.manifests_dir(), path, bytes)),
            None => {
                let _ = fs::remove_file(path);
                self.prune_directories(path);
            }
        }
    }

    /// Removes the directories that lead to a manifest and are empty without it.
    pub(super) fn prune_directories(&self, path: &Path) {
        let root = self.manifests_dir();
        let dirs: Vec<PathBuf> =
            path.ancestors().skip(1).take_while(|d| *d != root).take(3).map(Path::to_owned).collect();
        for dir in dirs {
            // This fails, as it should, where something is left in it.
            if fs::remove_dir(&dir).is_err() {
                break;
            }
        }
    }
}
