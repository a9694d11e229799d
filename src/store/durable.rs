//! What makes a change to a directory last, and what is said when the disk refuses.

use std::fs;
use std::io;
use std::path::Path;

use crate::diagnostic::{Diagnostic, Kind};

/// Waits until the entries of `dir` are on the disk. Without this, a file that was renamed may
/// have its old name again after a power cut.
///
/// After a failure the entries must be taken as lost: a second call may succeed and mean nothing.
pub(super) fn sync_directory(dir: &Path) -> io::Result<()> {
    // Windows opens no directories; NTFS logs its own metadata.
    if cfg!(unix) { fs::File::open(dir)?.sync_all() } else { Ok(()) }
}

/// Makes `dir` and what leads to it, each on the disk before the next.
pub(super) fn create_directories(dir: &Path) -> io::Result<()> {
    if dir.is_dir() {
        return Ok(());
    }
    // A relative path of one part has the parent "".
    let parent = dir.parent().map(|p| if p.as_os_str().is_empty() { Path::new(".") } else { p });
    if let Some(parent) = parent {
        create_directories(parent)?;
    }
    match fs::create_dir(dir) {
        Ok(()) => parent.map_or(Ok(()), sync_directory),
        Err(e) if e.kind() == io::ErrorKind::AlreadyExists && dir.is_dir() => Ok(()),
        Err(e) => Err(e),
    }
}

/// An operation of the store that the system refused. It is never the input's fault.
pub(super) fn failed(doing: &str, path: &Path, error: &io::Error) -> Diagnostic {
    let mut diagnostic = Diagnostic::io(doing, path, error);
    diagnostic.kind = Kind::Environment;
    match error.kind() {
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => diagnostic
            .code("disk-full")
            .help("make room (`mdl gc` removes what no model uses), or name another disk with --store or MDL_MODELS"),
        io::ErrorKind::FileTooLarge => {
            diagnostic.code("file-too-large").help("the file system or a limit (`ulimit -f`) allows no larger file")
        }
        io::ErrorKind::PermissionDenied | io::ErrorKind::ReadOnlyFilesystem => {
            diagnostic.help("the store must be yours to write to; name another with --store or MDL_MODELS")
        }
        _ => diagnostic,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn directories_are_made_once() {
        let dir = tempfile::tempdir().unwrap();
        let deep = dir.path().join("a/b/c");
        create_directories(&deep).unwrap();
        create_directories(&deep).unwrap();
        assert!(deep.is_dir());
        fs::write(dir.path().join("file"), "").unwrap();
        assert!(create_directories(&dir.path().join("file")).is_err());
        assert!(create_directories(&dir.path().join("file/x")).is_err());
        assert!(sync_directory(&dir.path().join("absent")).is_err());
    }

    #[test]
    fn every_failure_is_the_environments() {
        for kind in [io::ErrorKind::NotFound, io::ErrorKind::StorageFull, io::ErrorKind::PermissionDenied] {
            assert_eq!(failed("write", Path::new("/s"), &kind.into()).kind, Kind::Environment);
        }
    }
}
