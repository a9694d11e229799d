//! Signatures that are kept beside models: `mdl/signatures/<digest of the manifest>/<digest of the signature>.json`.
//!
//! The store keeps them and knows nothing of keys; `signing` does. They go with garbage, once no manifest has the digest.

use std::collections::HashSet;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use super::temp::write_whole;
use super::{Digest, Store, Writer, durable};
use crate::diagnostic::{Diagnostic, Result};
use crate::world::{SystemWorld, read_file};

/// The most bytes of a signature.
const LONGEST: u64 = 4 << 20;
/// The most signatures of one model that are read.
const MOST: usize = 64;

impl Store {
    /// Every signature that is kept of the model with this manifest, in the order of their digests.
    ///
    /// # Errors
    /// A file cannot be read, or there are more than 64.
    pub fn signatures(&self, manifest: &Digest) -> Result<Vec<Vec<u8>>> {
        let dir = self.signatures_dir().join(manifest.hex());
        let mut paths = entries(&dir)?;
        paths.retain(|path| path.extension().is_some_and(|e| e == "json"));
        paths.sort_unstable();
        if paths.len() > MOST {
            return Err(Diagnostic::error(format!(
                "{} signatures are kept here; at most {MOST} are read",
                paths.len()
            ))
            .in_file(&dir, "")
            .code("too-many-signatures")
            .help("remove those that nobody needs")
            .into());
        }
        paths.iter().map(|path| read_file(&SystemWorld, path, LONGEST)).collect()
    }

    pub(super) fn signatures_dir(&self) -> PathBuf {
        self.own_dir().join("signatures")
    }

    /// Removes the signatures of models that are none of `manifests`.
    pub(super) fn forget_signatures(&self, manifests: &HashSet<Digest>) -> Result<()> {
        for dir in entries(&self.signatures_dir())? {
            let digest =
                dir.file_name().and_then(|n| n.to_str()).and_then(|hex| format!("sha256:{hex}").parse().ok());
            // What has another name is not ours.
            let Some(digest) = digest else { continue };
            if !manifests.contains(&digest) {
                fs::remove_dir_all(&dir).map_err(|e| durable::failed("remove the signatures", &dir, &e))?;
            }
        }
        Ok(())
    }
}

impl Writer {
    /// Keeps a signature of the model with this manifest.
    ///
    /// # Errors
    /// It is too long; the disk refuses.
    pub fn add_signature(&self, manifest: &Digest, signature: &[u8]) -> Result<()> {
        if signature.len() as u64 > LONGEST {
            return Err(Diagnostic::error(format!("a signature has at most {LONGEST} bytes"))
                .code("signature-too-long")
                .into());
        }
        let dir = self.store().signatures_dir().join(manifest.hex());
        let path = dir.join(format!("{}.json", Digest::of(signature).hex()));
        let written = durable::create_directories(&dir).and_then(|()| write_whole(&dir, &path, signature));
        Ok(written.map_err(|e| durable::failed("write the signature", &path, &e))?)
    }
}

fn entries(dir: &Path) -> Result<Vec<PathBuf>> {
    let failed = |e: io::Error| durable::failed("read the directory", dir, &e);
    match fs::read_dir(dir) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
        Err(e) => Err(failed(e).into()),
        Ok(found) => found.map(|entry| Ok(entry.map_err(failed)?.path())).collect(),
    }
}
