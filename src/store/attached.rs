//! What is known of how a model was built, kept beside it: `mdl/provenance/<digest of manifest>/`.

use std::fs;
use std::path::PathBuf;

use super::{Digest, Store, durable, temp};
use crate::diagnostic::{Diagnostic, Result};
use crate::world::{SystemWorld, read_file};

/// A document about a model.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Document {
    /// An in-toto statement with SLSA provenance.
    Statement,
    /// A CycloneDX bill of materials.
    Bom,
}

impl Document {
    /// The name of its file.
    pub fn file_name(self) -> &'static str {
        match self {
            Document::Statement => "provenance.json",
            Document::Bom => "bom.json",
        }
    }
}

/// The most bytes that are read of a document.
const LIMIT: u64 = 64 << 20;

impl Store {
    /// Keeps a document about the model with this manifest. [`gc`](Store::gc) drops it once no name has that manifest.
    ///
    /// # Errors
    /// The disk refuses.
    pub fn keep_document(&self, id: &Digest, document: Document, bytes: &[u8]) -> Result<()> {
        let dir = self.documents_dir(id);
        let to = dir.join(document.file_name());
        let written = durable::create_directories(&dir).and_then(|()| temp::write_whole(&dir, &to, bytes));
        Ok(written.map_err(|e| durable::failed("write", &to, &e))?)
    }

    /// A document about the model with this manifest, if there is one.
    ///
    /// # Errors
    /// It cannot be read.
    pub fn document(&self, id: &Digest, document: Document) -> Result<Option<Vec<u8>>> {
        let path = self.documents_dir(id).join(document.file_name());
        match fs::metadata(&path) {
            Ok(_) => read_file(&SystemWorld, &path, LIMIT).map(Some),
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(None),
            Err(e) => Err(Diagnostic::io("read", &path, &e).into()),
        }
    }

    /// Drops the documents of models that are gone; `models` has the digests of all manifests.
    pub(super) fn forget_documents(&self, models: &std::collections::HashSet<Digest>) {
        let dir = self.own_dir().join("provenance");
        for entry in fs::read_dir(&dir).into_iter().flatten().flatten() {
            let name = entry.file_name();
            let digest = name.to_str().and_then(|n| format!("sha256:{n}").parse::<Digest>().ok());
            // What is named otherwise is somebody else's.
            let Some(digest) = digest.filter(|d| !models.contains(d)) else { continue };
            let of_model = self.documents_dir(&digest);
            for document in [Document::Statement, Document::Bom] {
                let _ = fs::remove_file(of_model.join(document.file_name()));
            }
            let _ = temp::remove_dead(&of_model, temp::OTHER, false);
            let _ = fs::remove_dir(&of_model);
        }
    }

    fn documents_dir(&self, id: &Digest) -> PathBuf {
        self.own_dir().join("provenance").join(id.hex())
    }
}
