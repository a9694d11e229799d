//! Temporary files: where bytes are before they have their name.
//!
//! A live one is locked by the process that writes it, so that one left by a killed process can be
//! told apart and removed at any time.

use std::fs::{self, File, TryLockError};
use std::io;
use std::path::{Path, PathBuf};

use tempfile::NamedTempFile;

use super::behind::WriteBehind;
use super::durable::sync_directory;

/// How a temporary blob's name begins. Ollama's are `sha256-` and a decimal number, and it removes
/// any `sha256-…` that is no digest once it is an hour old.
pub(super) const BLOB: &str = "sha256-mdl-";

/// How every other temporary file's name begins. No part of a model's name begins with a dot, so
/// that nobody takes it for a manifest.
pub(super) const OTHER: &str = ".mdl-";

const RANDOM: usize = 16;

/// A temporary file, gone when dropped.
#[derive(Debug)]
pub(super) struct Temp {
    /// Before the file, so that it ends before the file is removed.
    behind: WriteBehind,
    file: NamedTempFile,
}

impl Temp {
    /// Makes a locked file in `dir` that anyone may read (mode 0644).
    pub(super) fn create(dir: &Path, prefix: &str) -> io::Result<Temp> {
        for _ in 0..100 {
            let file = tempfile::Builder::new().prefix(prefix).rand_bytes(RANDOM).tempfile_in(dir)?;
            match file.as_file().lock() {
                // A file system without locks: nobody can lock it, so nobody removes it.
                Err(e) if e.kind() == io::ErrorKind::Unsupported => {}
                other => other?,
            }
            // Between its creation and its lock, somebody may have taken it for a dead one.
            if !file.path().try_exists()? {
                continue;
            }
            #[cfg(unix)]
            {
                use std::os::unix::fs::PermissionsExt;
                file.as_file().set_permissions(fs::Permissions::from_mode(0o644))?;
            }
            return Ok(Temp { behind: WriteBehind::default(), file });
        }
        Err(io::Error::other("temporary files vanish as they are made"))
    }

    /// Where it is now.
    pub(super) fn path(&self) -> &Path {
        self.file.path()
    }

    /// Waits until the bytes are on the disk. After a failure they must be taken as lost.
    pub(super) fn sync(&mut self) -> io::Result<()> {
        self.behind.sync(self.file.as_file())
    }

    /// Gives the file its name, in place of what had it. Call [`sync`](Self::sync) before, and
    /// [`sync_directory`] after.
    pub(super) fn rename(self, to: &Path) -> io::Result<()> {
        self.file.persist(to).map(drop).map_err(|e| e.error)
    }
}

impl io::Write for Temp {
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        let written = self.file.as_file_mut().write(buf)?;
        self.behind.wrote(self.file.as_file(), written);
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Writes a small file whole: either `to` is as before, or it has these bytes and the disk knows.
pub(super) fn write_whole(dir: &Path, to: &Path, bytes: &[u8]) -> io::Result<()> {
    let mut temp = Temp::create(dir, OTHER)?;
    io::Write::write_all(&mut temp, bytes)?;
    temp.sync()?;
    temp.rename(to)?;
    to.parent().map_or(Ok(()), sync_directory)
}

/// The files in `dir` that are named like ours.
pub(super) fn find(dir: &Path, prefix: &str) -> io::Result<Vec<PathBuf>> {
    let entries = match fs::read_dir(dir) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        other => other?,
    };
    let mut found = Vec::new();
    for entry in entries {
        let entry = entry?;
        let name = entry.file_name();
        let random = name.to_str().and_then(|n| n.strip_prefix(prefix));
        let ours = random.is_some_and(|r| r.len() == RANDOM && r.bytes().all(|b| b.is_ascii_alphanumeric()));
        if ours && entry.file_type()?.is_file() {
            found.push(entry.path());
        }
    }
    Ok(found)
}

/// Removes the temporary files in `dir` that no living process writes, or only counts them; their
/// number and bytes.
pub(super) fn remove_dead(dir: &Path, prefix: &str, dry_run: bool) -> io::Result<(usize, u64)> {
    let mut removed = (0, 0);
    for path in find(dir, prefix)? {
        // Whoever made it may have named or removed it meanwhile: then there is nothing to do.
        let Ok(file) = File::options().read(true).write(true).open(&path) else { continue };
        match file.try_lock() {
            Ok(()) => {
                let len = file.metadata().map_or(0, |m| m.len());
                if dry_run || fs::remove_file(&path).is_ok() {
                    removed = (removed.0 + 1, removed.1 + len);
                }
            }
            Err(TryLockError::WouldBlock | TryLockError::Error(_)) => {}
        }
    }
    Ok(removed)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;

    #[test]
    fn only_the_dead_and_only_ours_are_removed() {
        let dir = tempfile::tempdir().unwrap();
        let mut live = Temp::create(dir.path(), BLOB).unwrap();
        live.write_all(b"live").unwrap();
        fs::write(dir.path().join("sha256-mdl-0123456789abcdef"), "dead").unwrap();
        for other in ["sha256-mdl-0123", "sha256-1234567890", "sha256-mdl-0123456789abcde-", "x"] {
            fs::write(dir.path().join(other), "").unwrap();
        }
        fs::create_dir(dir.path().join("sha256-mdl-fedcba9876543210")).unwrap();
        assert_eq!(remove_dead(dir.path(), BLOB, true).unwrap(), (1, 4));
        assert_eq!(remove_dead(dir.path(), BLOB, false).unwrap(), (1, 4));
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 6);
        live.sync().unwrap();
        live.rename(&dir.path().join("named")).unwrap();
        assert_eq!(fs::read(dir.path().join("named")).unwrap(), b"live");
    }

    #[cfg(unix)]
    #[test]
    fn anyone_may_read_it() {
        use std::os::unix::fs::PermissionsExt;
        let dir = tempfile::tempdir().unwrap();
        write_whole(dir.path(), &dir.path().join("f"), b"x").unwrap();
        assert_eq!(fs::metadata(dir.path().join("f")).unwrap().permissions().mode() & 0o777, 0o644);
    }

    #[test]
    fn a_failure_leaves_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let to = dir.path().join("taken");
        fs::create_dir(&to).unwrap();
        fs::write(to.join("x"), "").unwrap();
        assert!(write_whole(dir.path(), &to, b"bytes").is_err());
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
    }

    /// A file made while another thread removes dead ones all the time keeps its name to the end.
    #[test]
    fn a_new_file_is_never_taken_for_a_dead_one() {
        let dir = tempfile::tempdir().unwrap();
        std::thread::scope(|scope| {
            let maker = scope.spawn(|| {
                for i in 0..500 {
                    let to = dir.path().join(format!("n{i}"));
                    let mut temp = Temp::create(dir.path(), OTHER).unwrap();
                    temp.write_all(b"x").unwrap();
                    temp.rename(&to).unwrap();
                    assert!(to.exists());
                }
            });
            while !maker.is_finished() {
                remove_dead(dir.path(), OTHER, false).unwrap();
            }
        });
    }
}
