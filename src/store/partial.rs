//! Blobs that are being downloaded: bytes at any offset, kept over a kill, and a blob's name only in the end.
//!
//! The file `blobs/sha256-<hex>-mdl-partial` is locked by whoever downloads it, so that one blob is downloaded once
//! at a time, by one task of one process. `mdl/<hex>.partial` says how far each part is: a byte is recorded only
//! once the disk has it, so that a download that was killed goes on behind what is recorded.

use std::fs::{self, File, TryLockError};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use serde::{Deserialize, Serialize};

use super::blob::{Blob, unconfirmed};
use super::durable::{self, sync_directory};
use super::publish::Writer;
use super::{Digest, Store, temp};
use crate::diagnostic::{Diagnostic, Result};

const SUFFIX: &str = "-mdl-partial";

/// The most bytes that are read of a record.
const RECORD_LIMIT: u64 = 1 << 20;

/// A blob that is being downloaded. Dropped before [`finish`](Self::finish), it stays for a later download.
#[derive(Debug)]
pub struct Partial {
    store: Store,
    digest: Digest,
    size: u64,
    /// Bytes of each part but the last.
    part: u64,
    file: File,
    path: PathBuf,
    done: Vec<u64>,
    /// True once it is a blob or gone: a record that another thread is still at must not come after that.
    ended: Mutex<bool>,
}

/// What the disk surely has.
#[derive(Debug, Serialize, Deserialize)]
struct Record {
    size: u64,
    part: u64,
    /// Bytes of each part, from its beginning.
    done: Vec<u64>,
}

impl Writer {
    /// Takes up the download of a blob of `size` bytes in parts of `part` bytes; `None` while another task or
    /// process is at it.
    ///
    /// # Errors
    /// The file cannot be made or locked.
    pub fn partial(&self, digest: &Digest, size: u64, part: u64) -> Result<Option<Partial>> {
        let store = self.store().clone();
        let path = store.partial_path(digest);
        let failed = |e: &io::Error| durable::failed("download to", &path, e);
        let mut options = File::options();
        let file = options.read(true).write(true).create(true).truncate(false).open(&path);
        let file = file.map_err(|e| failed(&e))?;
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => return Ok(None),
            // A file system without locks: two downloads may meet, and the digest decides.
            Err(TryLockError::Error(e)) if e.kind() == io::ErrorKind::Unsupported => {}
            Err(TryLockError::Error(e)) => return Err(failed(&e).into()),
        }
        // Between its opening and its lock, it may have become a blob, or been removed.
        if !is_at(&file, &path) {
            return Ok(None);
        }
        #[cfg(unix)]
        {
            use std::os::unix::fs::PermissionsExt;
            file.set_permissions(fs::Permissions::from_mode(0o644)).map_err(|e| failed(&e))?;
        }
        let (part, done, ended) = (part.max(1), Vec::new(), Mutex::new(false));
        let mut partial = Partial { store, digest: *digest, size, part, file, path, done, ended };
        partial.done = match partial.recorded() {
            Some(done) => done,
            None => {
                partial.file.set_len(0).map_err(|e| partial.failed(&e))?;
                vec![0; partial.parts()]
            }
        };
        Ok(Some(partial))
    }
}

impl Store {
    /// How many bytes of a blob an unfinished download has, as it last recorded.
    pub fn partly_there(&self, digest: &Digest) -> Option<u64> {
        let record = read_record(&self.record_path(digest))?;
        Some(record.done.iter().fold(0, |sum, n| n.saturating_add(sum)))
    }

    fn partial_path(&self, digest: &Digest) -> PathBuf {
        self.blobs_dir().join(digest.file_name() + SUFFIX)
    }

    fn record_path(&self, digest: &Digest) -> PathBuf {
        self.own_dir().join(digest.hex() + ".partial")
    }

    /// Removes the downloads that nobody is at and that rest for longer than `grace`, or only counts them;
    /// their number and bytes.
    pub(super) fn remove_partials(&self, grace: Duration, dry_run: bool) -> Result<(usize, u64)> {
        let dir = self.blobs_dir();
        let failed = |e: io::Error| durable::failed("read the directory", &dir, &e);
        let now = SystemTime::now();
        let mut removed = (0, 0);
        for entry in fs::read_dir(&dir).map_err(failed)? {
            let entry = entry.map_err(failed)?;
            let name = entry.file_name();
            let digest = name.to_str().and_then(|n| Digest::of_file_name(n.strip_suffix(SUFFIX)?));
            let Some(digest) = digest else { continue };
            let Ok(file) = File::options().read(true).write(true).open(entry.path()) else { continue };
            let Ok(metadata) = file.metadata() else { continue };
            let old = |m: SystemTime| now.duration_since(m).is_ok_and(|age| age >= grace);
            if !metadata.modified().is_ok_and(old) || file.try_lock().is_err() {
                continue;
            }
            if dry_run || fs::remove_file(entry.path()).is_ok() {
                removed = (removed.0 + 1, removed.1 + metadata.len());
            }
            if !dry_run {
                let _ = fs::remove_file(self.record_path(&digest));
            }
        }
        Ok(removed)
    }
}

impl Partial {
    /// How many bytes of each part the disk surely has.
    pub fn done(&self) -> &[u64] {
        &self.done
    }

    fn parts(&self) -> usize {
        usize::try_from(self.size.div_ceil(self.part)).unwrap_or(usize::MAX).max(1)
    }

    /// Puts bytes where they belong.
    ///
    /// # Errors
    /// The disk refuses.
    pub fn write_at(&self, offset: u64, bytes: &[u8]) -> Result<()> {
        write_all_at(&self.file, offset, bytes).map_err(|e| self.failed(&e).into())
    }

    /// Fills `buf` from what was written at `offset`.
    ///
    /// # Errors
    /// It cannot be read, or was not written.
    pub fn read_at(&self, offset: u64, buf: &mut [u8]) -> Result<()> {
        read_exact_at(&self.file, offset, buf).map_err(|e| self.failed(&e).into())
    }

    /// Waits until the disk has what was written, then records that it has `done` bytes of each part.
    ///
    /// # Errors
    /// The disk does not confirm.
    pub fn record(&self, done: &[u64]) -> Result<()> {
        let ended = self.ended.lock().unwrap_or_else(PoisonError::into_inner);
        if *ended {
            return Ok(());
        }
        self.file.sync_data().map_err(|e| unconfirmed(&self.path, &e))?;
        let record = Record { size: self.size, part: self.part, done: done.to_vec() };
        let bytes = serde_json::to_vec(&record).map_err(|e| self.failed(&e.into()))?;
        let path = self.store.record_path(&self.digest);
        temp::write_whole(&self.store.own_dir(), &path, &bytes).map_err(|e| self.failed(&e))?;
        Ok(())
    }

    /// Gives the blob its name: the bytes to the disk, then the name, then the directory to the disk. The caller
    /// has hashed them.
    ///
    /// # Errors
    /// The disk refuses or does not confirm; then the download is still there.
    pub fn finish(&self) -> Result<Blob> {
        let mut ended = self.ended.lock().unwrap_or_else(PoisonError::into_inner);
        self.file.set_len(self.size).map_err(|e| self.failed(&e))?;
        self.file.sync_all().map_err(|e| unconfirmed(&self.path, &e))?;
        let dir = self.store.blobs_dir();
        let path = dir.join(self.digest.file_name());
        fs::rename(&self.path, &path).map_err(|e| self.failed(&e))?;
        *ended = true;
        sync_directory(&dir).map_err(|e| unconfirmed(&dir, &e))?;
        let _ = fs::remove_file(self.store.record_path(&self.digest));
        let metadata = fs::metadata(&path).map_err(|e| self.failed(&e))?;
        let modified = metadata.modified().unwrap_or(SystemTime::UNIX_EPOCH);
        Ok(Blob { digest: self.digest, size: metadata.len(), path, modified })
    }

    /// Forgets what there is of the download.
    pub fn discard(&self) {
        *self.ended.lock().unwrap_or_else(PoisonError::into_inner) = true;
        let _ = fs::remove_file(self.store.record_path(&self.digest));
        let _ = fs::remove_file(&self.path);
    }

    /// What an earlier download recorded, if it can be true.
    fn recorded(&self) -> Option<Vec<u64>> {
        let record = read_record(&self.store.record_path(&self.digest))?;
        let len = self.file.metadata().ok()?.len();
        let same = record.size == self.size && record.part == self.part && record.done.len() == self.parts();
        let mut start = 0u64;
        for done in &record.done {
            let whole = self.part.min(self.size.saturating_sub(start));
            if *done > whole || *done > 0 && start.checked_add(*done)? > len {
                return None;
            }
            start = start.saturating_add(self.part);
        }
        same.then_some(record.done)
    }

    fn failed(&self, error: &io::Error) -> Diagnostic {
        durable::failed("download to", &self.path, error)
    }
}

fn read_record(path: &Path) -> Option<Record> {
    let long = fs::metadata(path).ok()?.len() > RECORD_LIMIT;
    if long { None } else { serde_json::from_slice(&fs::read(path).ok()?).ok() }
}

/// Whether `path` still leads to this file.
#[cfg(unix)]
fn is_at(file: &File, path: &Path) -> bool {
    use std::os::unix::fs::MetadataExt;
    let identity = |m: fs::Metadata| (m.dev(), m.ino());
    file.metadata().ok().map(identity) == fs::metadata(path).ok().map(identity)
}

/// Whether `path` still leads to this file. An open file is neither removed nor renamed here.
#[cfg(not(unix))]
fn is_at(_: &File, path: &Path) -> bool {
    path.exists()
}

#[cfg(unix)]
fn write_all_at(file: &File, offset: u64, bytes: &[u8]) -> io::Result<()> {
    std::os::unix::fs::FileExt::write_all_at(file, bytes, offset)
}

#[cfg(windows)]
fn write_all_at(file: &File, mut offset: u64, mut bytes: &[u8]) -> io::Result<()> {
    while !bytes.is_empty() {
        let n = std::os::windows::fs::FileExt::seek_write(file, bytes, offset)?;
        offset += n as u64;
        bytes = bytes.get(n..).unwrap_or_default();
    }
    Ok(())
}

#[cfg(unix)]
fn read_exact_at(file: &File, offset: u64, buf: &mut [u8]) -> io::Result<()> {
    std::os::unix::fs::FileExt::read_exact_at(file, buf, offset)
}

#[cfg(windows)]
fn read_exact_at(file: &File, mut offset: u64, mut buf: &mut [u8]) -> io::Result<()> {
    while !buf.is_empty() {
        match std::os::windows::fs::FileExt::seek_read(file, buf, offset)? {
            0 => return Err(io::ErrorKind::UnexpectedEof.into()),
            n => {
                offset += n as u64;
                buf = buf.get_mut(n..).unwrap_or_default();
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn store() -> (tempfile::TempDir, Writer) {
        let dir = tempfile::tempdir().unwrap();
        let writer = Store::open(dir.path()).unwrap().writer().unwrap();
        (dir, writer)
    }

    #[test]
    fn a_download_goes_on_behind_what_was_recorded() {
        let (_dir, writer) = store();
        let digest = Digest::of(b"0123456789");
        let partial = writer.partial(&digest, 10, 4).unwrap().unwrap();
        assert_eq!(partial.done(), [0, 0, 0]);
        partial.write_at(4, b"45").unwrap();
        partial.record(&[0, 2, 0]).unwrap();
        assert!(writer.partial(&digest, 10, 4).unwrap().is_none(), "one at a time");
        drop(partial);
        assert_eq!(writer.store().partly_there(&digest), Some(2));
        let partial = writer.partial(&digest, 10, 4).unwrap().unwrap();
        assert_eq!(partial.done(), [0, 2, 0]);
        let mut there = [0; 2];
        partial.read_at(4, &mut there).unwrap();
        assert_eq!(&there, b"45");
        partial.write_at(0, b"0123456789").unwrap();
        let blob = partial.finish().unwrap();
        // Too late to count.
        partial.record(&[0, 0, 0]).unwrap();
        assert_eq!(blob.size, 10);
        assert!(writer.store().find_whole_blob(&digest).unwrap().is_some());
        assert_eq!(writer.store().partly_there(&digest), None);
    }

    #[test]
    fn a_record_that_cannot_be_true_counts_for_nothing() {
        let (_dir, writer) = store();
        let digest = Digest::of(b"x");
        let path = writer.store().record_path(&digest);
        for record in [
            "",
            "{}",
            r#"{"size":10,"part":4,"done":[4,4]}"#,
            r#"{"size":10,"part":4,"done":[5,0,0]}"#,
            r#"{"size":10,"part":4,"done":[0,0,3]}"#,
            r#"{"size":10,"part":4,"done":[0,0,2]}"#,
            r#"{"size":10,"part":5,"done":[0,0]}"#,
            r#"{"size":11,"part":4,"done":[0,0,0]}"#,
            r#"{"size":10,"part":4,"done":[-1,0,0]}"#,
        ] {
            let partial = writer.partial(&digest, 10, 4).unwrap().unwrap();
            // Nine bytes: the last two of the blob cannot be there.
            partial.write_at(0, b"zzzzzzzzz").unwrap();
            drop(partial);
            fs::write(&path, record).unwrap();
            assert_eq!(writer.partial(&digest, 10, 4).unwrap().unwrap().done(), [0, 0, 0], "{record}");
        }
    }

    #[test]
    fn only_downloads_that_rest_are_collected() {
        let (_dir, writer) = store();
        let (a, b) = (Digest::of(b"a"), Digest::of(b"b"));
        let live = writer.partial(&a, 10, 4).unwrap().unwrap();
        live.write_at(0, b"12").unwrap();
        let rests = writer.partial(&b, 10, 4).unwrap().unwrap();
        rests.write_at(0, b"123").unwrap();
        rests.record(&[3, 0, 0]).unwrap();
        drop(rests);
        let store = writer.store();
        assert_eq!(store.remove_partials(Duration::from_secs(60), false).unwrap(), (0, 0));
        assert_eq!(store.remove_partials(Duration::ZERO, true).unwrap(), (1, 3));
        assert_eq!(store.remove_partials(Duration::ZERO, false).unwrap(), (1, 3));
        assert_eq!(store.partly_there(&b), None);
        live.discard();
        assert!(store.blobs().unwrap().is_empty());
    }
}
