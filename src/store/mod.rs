//! The content-addressed store: blobs, manifests, names, locks, collection of garbage.
//!
//! The layout on disk is Ollama's, so that either program reads what the other wrote:
//!
//! ```text
//! <root>/blobs/sha256-<64 hex>                      a layer or a configuration, named by its digest
//! <root>/manifests/<host>/<namespace>/<model>/<tag> which blobs a model is made of
//! <root>/blobs/sha256-<64 hex>-mdl-partial          a blob that is being downloaded
//! <root>/mdl/                                       ours alone: locks, the build cache, signatures, provenance, downloads
//! ```
//!
//! What is promised, and by which file:
//! - a blob or manifest is whole and on the disk before it has its name ([`blob`](BlobWriter),
//!   [`publish`](Writer::publish)); a tag is always the old model or the new one;
//! - nothing is removed that a manifest refers to, or that a running build may refer to
//!   ([`lock`](Writer), [`gc`](Store::gc));
//! - a killed process leaves at most temporary files, which the next [`Writer`] or
//!   [`gc`](Store::gc) removes;
//! - what is read is not trusted: a damaged manifest is a [`Diagnostic`], never a panic.

mod attached;
mod behind;
mod blob;
mod cache;
mod config;
mod digest;
mod durable;
mod gc;
mod identity;
mod json;
mod list;
mod locate;
mod lock;
mod manifest;
mod name;
mod partial;
mod publish;
mod read;
mod remove;
mod roles;
mod signatures;
mod temp;
mod usage;
mod verify;
mod walk;

pub use attached::Document;
pub use behind::WriteBehind;
pub use blob::{Blob, BlobWriter};
pub use cache::{Cache, Cached, Key};
pub use config::ConfigV2;
pub use digest::{Digest, HashingWriter};
pub use gc::{Collected, Collection};
pub use json::to_go_json;
pub use list::Entry;
pub use locate::data_directory;
pub use manifest::{Layer, MANIFEST_LIMIT, Manifest, media};
pub use name::Name;
pub use partial::Partial;
pub use publish::{Published, Writer};
pub use read::Stored;
pub use remove::Removed;
pub use roles::{TITLE, file_of, modelpack};
pub use usage::{ModelUsage, Usage};
pub use verify::{Progress, Report};

use std::path::{Path, PathBuf};

use crate::diagnostic::{Diagnostic, Result};

/// A store: a directory and the rules of its layout. Cheap to clone; holds no lock and no handle.
///
/// A store that does not exist yet reads as an empty one; the first [`Writer`] creates it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Store {
    root: PathBuf,
}

impl Store {
    /// The store at `root`, whether it exists already or not.
    ///
    /// # Errors
    /// Something other than a directory is there.
    pub fn open(root: impl Into<PathBuf>) -> Result<Store> {
        let root = root.into();
        match std::fs::metadata(&root) {
            Ok(metadata) if !metadata.is_dir() => {
                Err(Diagnostic::error(format!("the store {} is not a directory", root.display()))
                    .code("store-not-a-directory")
                    .help("name another place with --store or MDL_MODELS")
                    .into())
            }
            Ok(_) => Ok(Store { root }),
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(Store { root }),
            Err(e) => Err(durable::failed("open the store", &root, &e).into()),
        }
    }

    /// The directory that holds `blobs` and `manifests`.
    pub fn root(&self) -> &Path {
        &self.root
    }

    fn blobs_dir(&self) -> PathBuf {
        self.root.join("blobs")
    }

    fn manifests_dir(&self) -> PathBuf {
        self.root.join("manifests")
    }

    /// What only `mdl` reads and writes.
    fn own_dir(&self) -> PathBuf {
        self.root.join("mdl")
    }

    /// Makes the directories, each known to the disk before anything is put into it.
    fn create(&self) -> Result<()> {
        for dir in [self.blobs_dir(), self.manifests_dir(), self.own_dir()] {
            durable::create_directories(&dir).map_err(|e| {
                durable::failed("create the directory", &dir, &e)
                    .help("name a place that you may write to with --store or MDL_MODELS")
            })?;
        }
        Ok(())
    }
}
