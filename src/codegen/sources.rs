//! The files that a module is made of: their digests, and whether they stay as they are.

use std::path::{Path, PathBuf};

use super::artifact::damaged;
use super::emit::Progress;
use crate::diagnostic::{Diagnostic, Result};
use crate::ir::{Module, SourceFile};
use crate::store::{Digest, Store};
use crate::world::{Stamp, World};

/// Bytes hashed or copied at a time.
const PIECE: usize = 1 << 20;

/// The digest of a source, which is read only where it is not remembered from an earlier build.
///
/// # Errors
/// The file cannot be read, or is not the one that was opened any more.
pub fn source_digest(
    source: &SourceFile,
    world: &dyn World,
    store: &Store,
    progress: &dyn Progress,
) -> Result<Digest> {
    identify(source, world, store, progress).map(|(digest, _, _)| digest)
}

/// The digest of a source, its canonical path and the state it has.
fn identify(
    source: &SourceFile,
    world: &dyn World,
    store: &Store,
    progress: &dyn Progress,
) -> Result<(Digest, PathBuf, Stamp)> {
    let cache = store.cache();
    let failed = |e: &std::io::Error| Diagnostic::io("read", &source.path, e);
    let path = world.canonical(&source.path).map_err(|e| failed(&e))?;
    // Of the open file: its path may lead to another by now, whose digest this is not.
    let stamp = source.file.stamp().map_err(|e| failed(&e))?;
    if world.stamp(&path).map_err(|e| failed(&e))? != stamp {
        return Err(changed(&source.path).into());
    }
    let of_blob = path.file_name().and_then(|n| n.to_str()).and_then(|n| n.parse::<Digest>().ok());
    let known = of_blob.filter(|d| store.blob_path(d) == source.path);
    if let Some(digest) = known
        && store.find_whole_blob(&digest)?.is_none()
    {
        return Err(damaged(&digest).into());
    }
    let digest = match known.or_else(|| cache.digest_of(&path, &stamp)) {
        Some(digest) => digest,
        None => {
            let digest = hash(source, progress)?;
            if world.stamp(&path).map_err(|e| failed(&e))? != stamp {
                return Err(changed(&source.path).into());
            }
            cache.remember_digest(&path, &stamp, &digest);
            digest
        }
    };
    Ok((digest, path, stamp))
}

pub(super) fn read_all(source: &SourceFile, mut each: impl FnMut(&[u8]) -> Result<()>) -> Result<()> {
    let mut buffer = vec![0; PIECE];
    let mut at = 0;
    while at < source.file.len() {
        let n = (source.file.len() - at).min(PIECE as u64) as usize;
        source.file.read_at(at, &mut buffer[..n]).map_err(|e| Diagnostic::io("read", &source.path, &e))?;
        each(&buffer[..n])?;
        at += n as u64;
    }
    Ok(())
}

/// The digests of a module's files, and the state the files had.
pub(super) struct Sources {
    pub digests: Vec<[u8; 32]>,
    stamps: Vec<(PathBuf, Stamp)>,
}

impl Sources {
    /// Digests are remembered by path and state, so that a source is read for it only once.
    pub fn identify(
        module: &Module,
        world: &dyn World,
        store: &Store,
        progress: &dyn Progress,
    ) -> Result<Sources> {
        let mut sources = Sources { digests: Vec::new(), stamps: Vec::new() };
        for source in &module.files {
            let (digest, path, stamp) = identify(source, world, store, progress)?;
            sources.digests.push(*digest.as_bytes());
            sources.stamps.push((path, stamp));
        }
        Ok(sources)
    }

    pub fn still_the_same(&self, world: &dyn World) -> Result<()> {
        for (path, stamp) in &self.stamps {
            if world.stamp(path).ok().as_ref() != Some(stamp) {
                return Err(changed(path).into());
            }
        }
        Ok(())
    }
}

pub(super) fn changed(path: &Path) -> Diagnostic {
    Diagnostic::environment(format!("{} changed while it was read", path.display()))
        .code("source-changed")
        .help("build again when nothing writes to it")
}

fn hash(source: &SourceFile, progress: &dyn Progress) -> Result<Digest> {
    use sha2::Digest as _;
    let mut hash = sha2::Sha256::new();
    progress.begin("hashing sources", source.file.len());
    read_all(source, |bytes| {
        hash.update(bytes);
        progress.advance(bytes.len() as u64);
        Ok(())
    })?;
    progress.end();
    Ok(Digest::from_bytes(hash.finalize().into()))
}
