//! Who may do what at the same time.
//!
//! Two files in `<root>/mdl` carry advisory locks, which the system releases when their holder
//! ends, however it ends:
//!
//! - `blobs.lock`. A [`Writer`](super::Writer) holds it *shared* from before it looks for or
//!   writes its first blob until its manifest is published, so any number of builds run side by
//!   side. Whoever removes blobs holds it *exclusively*, so a blob that is not yet in a manifest
//!   cannot be removed under a build. A build may take hours: nobody waits for one for long, but
//!   leaves the blobs for the next collection.
//! - `manifests.lock`. Held exclusively, and briefly, around each change to the tree of manifests:
//!   a directory is not pruned while a manifest moves into it, and one name does not get two
//!   spellings.
//!
//! The first is always taken before the second. Readers take none: files appear whole under their
//! names and disappear whole.
//!
//! Ollama knows nothing of these locks. Against its writers stands only the grace of
//! [`Store::gc`]: a blob younger than an hour stays.

use std::fs::{File, TryLockError};
use std::io;
use std::time::{Duration, Instant};

use super::{Store, durable};
use crate::diagnostic::{Diagnostic, Result};

/// How long to wait for those who hold a lock briefly.
pub(super) const BRIEF: Duration = Duration::from_secs(30);

/// How long to wait for builds to end before leaving blobs to a later collection.
pub(super) const FOR_BUILDS: Duration = Duration::from_millis(500);

/// A lock, held until dropped.
#[derive(Debug)]
pub(super) struct Lock {
    _file: File,
}

impl Store {
    /// Blobs stay while this is held.
    pub(super) fn keep_blobs(&self) -> Result<Lock> {
        self.lock("blobs.lock", File::try_lock_shared, BRIEF, true)?.ok_or_else(|| {
            Diagnostic::environment(format!(
                "the store {} is locked by a collection of garbage that does not end",
                self.root().display()
            ))
            .code("store-busy")
            .help("try again; if it stays so, end the other `mdl` process")
            .into()
        })
    }

    /// Blobs may be removed while this is held; `None` while others write.
    pub(super) fn remove_blobs(&self, wait: Duration) -> Result<Option<Lock>> {
        self.lock("blobs.lock", File::try_lock, wait, false)
    }

    /// The tree of manifests may be changed while this is held.
    pub(super) fn change_manifests(&self) -> Result<Lock> {
        self.lock("manifests.lock", File::try_lock, BRIEF, true)?.ok_or_else(|| {
            Diagnostic::environment(format!(
                "the manifests of the store {} stay locked by another process",
                self.root().display()
            ))
            .code("store-busy")
            .help("try again; if it stays so, end the other `mdl` process")
            .into()
        })
    }

    /// Takes a lock within `wait`. `without` tells to go on where the file system has no locks.
    fn lock(
        &self,
        name: &str,
        take: fn(&File) -> Result<(), TryLockError>,
        wait: Duration,
        without: bool,
    ) -> Result<Option<Lock>> {
        let path = self.own_dir().join(name);
        let failed = |e: &io::Error| durable::failed("lock", &path, e);
        let mut options = File::options();
        let file = match options.read(true).write(true).create(true).truncate(false).open(&path) {
            // Another user's file, in a store that several may write to: to lock it, reading is enough.
            Err(e) if e.kind() == io::ErrorKind::PermissionDenied => File::open(&path),
            other => other,
        }
        .map_err(|e| failed(&e))?;
        let deadline = Instant::now() + wait;
        let mut pause = Duration::from_millis(1);
        loop {
            match take(&file) {
                Ok(()) => return Ok(Some(Lock { _file: file })),
                Err(TryLockError::Error(e)) if without && e.kind() == io::ErrorKind::Unsupported => {
                    return Ok(Some(Lock { _file: file }));
                }
                Err(TryLockError::Error(e)) => return Err(failed(&e).into()),
                Err(TryLockError::WouldBlock) if Instant::now() >= deadline => return Ok(None),
                Err(TryLockError::WouldBlock) => {
                    std::thread::sleep(pause);
                    pause = (pause * 2).min(Duration::from_millis(20));
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn writers_exclude_removers_and_no_one_else() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path()).unwrap();
        store.create().unwrap();
        let none = Duration::ZERO;
        let (a, b) = (store.keep_blobs().unwrap(), store.keep_blobs().unwrap());
        assert!(store.remove_blobs(none).unwrap().is_none());
        drop(a);
        assert!(store.remove_blobs(none).unwrap().is_none());
        drop(b);
        let remover = store.remove_blobs(none).unwrap();
        assert!(remover.is_some());
        assert!(store.remove_blobs(none).unwrap().is_none());
        drop(remover);
        drop(store.change_manifests().unwrap());
        drop(store.change_manifests().unwrap());
    }
}
