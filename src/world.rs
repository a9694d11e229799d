//! Where input comes from.
//!
//! Everything the compiler reads enters through [`World`], so that the core does no I/O of its own
//! and tests run on a [`MemoryWorld`].

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::diagnostic::{Diagnostic, Result};

/// An open file that any thread may read at any offset.
pub trait File: Send + Sync {
    /// Bytes in the file when it was opened.
    fn len(&self) -> u64;

    /// True when there is nothing to read.
    fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The state of the file that is open, whatever its path leads to by now.
    fn stamp(&self) -> io::Result<Stamp>;

    /// Fills `buf` from `offset`; `UnexpectedEof` when the file ends before.
    fn read_at(&self, offset: u64, buf: &mut [u8]) -> io::Result<()>;
}

/// What a path leads to, symbolic links followed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EntryKind {
    /// A regular file.
    File,
    /// A directory.
    Directory,
}

/// What tells one state of a file from another without reading it.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Stamp {
    /// Bytes.
    pub len: u64,
    /// Modification time, nanoseconds since 1970.
    pub modified_ns: i128,
    /// Device and inode where the system has them, else zeros.
    pub identity: (u64, u64),
}

/// The outside, as the compiler sees it. Read only.
pub trait World: Send + Sync {
    /// Opens a regular file.
    fn open(&self, path: &Path) -> io::Result<Arc<dyn File>>;

    /// What `path` leads to; `None` when there is nothing.
    fn kind(&self, path: &Path) -> Option<EntryKind>;

    /// The names in a directory, sorted by their bytes.
    fn names(&self, directory: &Path) -> io::Result<Vec<String>>;

    /// The path with every symbolic link resolved.
    fn canonical(&self, path: &Path) -> io::Result<PathBuf>;

    /// The present state of a file.
    fn stamp(&self, path: &Path) -> io::Result<Stamp>;

    /// The current user's home directory, for `~`.
    fn home(&self) -> Option<PathBuf>;
}

/// Reads a whole file of at most `limit` bytes.
///
/// # Errors
/// The file cannot be read, or is longer than `limit`.
pub fn read_file(world: &dyn World, path: &Path, limit: u64) -> Result<Vec<u8>> {
    let file = world.open(path).map_err(|e| Diagnostic::io("read", path, &e))?;
    let len = file.len();
    if len > limit {
        return Err(Diagnostic::error(format!("the file has {len} bytes; at most {limit} are read"))
            .in_file(path, "")
            .code("file-too-large")
            .into());
    }
    let mut bytes = vec![0; len as usize];
    file.read_at(0, &mut bytes).map_err(|e| Diagnostic::io("read", path, &e))?;
    Ok(bytes)
}

/// The machine's own files.
#[derive(Clone, Copy, Debug, Default)]
pub struct SystemWorld;

struct SystemFile {
    file: std::fs::File,
    len: u64,
}

impl File for SystemFile {
    fn len(&self) -> u64 {
        self.len
    }

    fn stamp(&self) -> io::Result<Stamp> {
        stamp_of(&self.file.metadata()?)
    }

    #[cfg(unix)]
    fn read_at(&self, offset: u64, buf: &mut [u8]) -> io::Result<()> {
        std::os::unix::fs::FileExt::read_exact_at(&self.file, buf, offset)
    }

    #[cfg(windows)]
    fn read_at(&self, mut offset: u64, mut buf: &mut [u8]) -> io::Result<()> {
        while !buf.is_empty() {
            match std::os::windows::fs::FileExt::seek_read(&self.file, buf, offset)? {
                0 => return Err(io::ErrorKind::UnexpectedEof.into()),
                n => {
                    offset += n as u64;
                    buf = &mut buf[n..];
                }
            }
        }
        Ok(())
    }
}

impl World for SystemWorld {
    fn open(&self, path: &Path) -> io::Result<Arc<dyn File>> {
        // Asked first: opening a named pipe would wait for a writer.
        let metadata = std::fs::metadata(path)?;
        if metadata.is_dir() {
            return Err(io::ErrorKind::IsADirectory.into());
        }
        if !metadata.is_file() {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "not a regular file"));
        }
        let file = std::fs::File::open(path)?;
        let len = file.metadata()?.len();
        Ok(Arc::new(SystemFile { file, len }))
    }

    fn kind(&self, path: &Path) -> Option<EntryKind> {
        let metadata = std::fs::metadata(path).ok()?;
        if metadata.is_dir() {
            Some(EntryKind::Directory)
        } else if metadata.is_file() {
            Some(EntryKind::File)
        } else {
            None
        }
    }

    fn names(&self, directory: &Path) -> io::Result<Vec<String>> {
        let mut names = Vec::new();
        for entry in std::fs::read_dir(directory)? {
            // A name that is no Unicode cannot be one that a model's files have.
            if let Ok(name) = entry?.file_name().into_string() {
                names.push(name);
            }
        }
        names.sort_unstable();
        Ok(names)
    }

    fn canonical(&self, path: &Path) -> io::Result<PathBuf> {
        std::fs::canonicalize(path)
    }

    fn stamp(&self, path: &Path) -> io::Result<Stamp> {
        stamp_of(&std::fs::metadata(path)?)
    }

    fn home(&self) -> Option<PathBuf> {
        std::env::home_dir()
    }
}

fn stamp_of(metadata: &std::fs::Metadata) -> io::Result<Stamp> {
    let modified_ns = match metadata.modified()?.duration_since(std::time::UNIX_EPOCH) {
        Ok(after) => after.as_nanos() as i128,
        Err(before) => -(before.duration().as_nanos() as i128),
    };
    #[cfg(unix)]
    let identity = {
        use std::os::unix::fs::MetadataExt;
        (metadata.dev(), metadata.ino())
    };
    #[cfg(not(unix))]
    let identity = (0, 0);
    Ok(Stamp { len: metadata.len(), modified_ns, identity })
}

/// Files that exist only in memory, for tests. Directories are the prefixes of paths.
#[derive(Clone, Debug, Default)]
pub struct MemoryWorld {
    files: BTreeMap<PathBuf, Arc<[u8]>>,
}

impl MemoryWorld {
    /// Adds or replaces a file.
    pub fn insert(&mut self, path: impl Into<PathBuf>, bytes: impl Into<Arc<[u8]>>) {
        self.files.insert(path.into(), bytes.into());
    }

    fn find(&self, path: &Path) -> io::Result<&Arc<[u8]>> {
        self.files.get(path).ok_or_else(|| io::ErrorKind::NotFound.into())
    }
}

impl File for Arc<[u8]> {
    fn len(&self) -> u64 {
        self.as_ref().len() as u64
    }

    fn stamp(&self) -> io::Result<Stamp> {
        Ok(Stamp { len: self.as_ref().len() as u64, modified_ns: 0, identity: (0, 0) })
    }

    fn read_at(&self, offset: u64, buf: &mut [u8]) -> io::Result<()> {
        let start = usize::try_from(offset).ok();
        let range = start.and_then(|s| Some(s..s.checked_add(buf.len())?));
        match range.and_then(|r| self.get(r)) {
            Some(bytes) => {
                buf.copy_from_slice(bytes);
                Ok(())
            }
            None => Err(io::ErrorKind::UnexpectedEof.into()),
        }
    }
}

impl World for MemoryWorld {
    fn open(&self, path: &Path) -> io::Result<Arc<dyn File>> {
        Ok(Arc::new(self.find(path)?.clone()))
    }

    fn kind(&self, path: &Path) -> Option<EntryKind> {
        if self.files.contains_key(path) {
            Some(EntryKind::File)
        } else if self.files.keys().any(|p| p.starts_with(path)) {
            Some(EntryKind::Directory)
        } else {
            None
        }
    }

    fn names(&self, directory: &Path) -> io::Result<Vec<String>> {
        let mut names: Vec<String> = self
            .files
            .keys()
            .filter_map(|p| p.strip_prefix(directory).ok())
            .filter_map(|rest| rest.components().next())
            .filter_map(|c| c.as_os_str().to_str().map(str::to_owned))
            .collect();
        names.sort_unstable();
        names.dedup();
        if names.is_empty() { Err(io::ErrorKind::NotFound.into()) } else { Ok(names) }
    }

    fn canonical(&self, path: &Path) -> io::Result<PathBuf> {
        self.kind(path).map(|_| path.to_owned()).ok_or_else(|| io::ErrorKind::NotFound.into())
    }

    fn stamp(&self, path: &Path) -> io::Result<Stamp> {
        let bytes = self.find(path)?;
        Ok(Stamp { len: bytes.as_ref().len() as u64, modified_ns: 0, identity: (0, 0) })
    }

    fn home(&self) -> Option<PathBuf> {
        Some(PathBuf::from("/home/user"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_memory_world_has_files_and_directories() {
        let mut world = MemoryWorld::default();
        world.insert("/m/a.json", b"{}".as_slice());
        world.insert("/m/sub/b", b"xyz".as_slice());
        assert_eq!(world.kind(Path::new("/m")), Some(EntryKind::Directory));
        assert_eq!(world.names(Path::new("/m")).unwrap(), ["a.json", "sub"]);
        assert_eq!(read_file(&world, Path::new("/m/sub/b"), 3).unwrap(), b"xyz");
        assert!(read_file(&world, Path::new("/m/sub/b"), 2).is_err());
        assert!(read_file(&world, Path::new("/m/c"), 2).is_err());
    }

    #[test]
    fn reading_past_the_end_is_an_error() {
        let file: Arc<[u8]> = b"abc".as_slice().into();
        let mut buf = [0; 2];
        assert!(file.read_at(2, &mut buf).is_err());
        assert!(file.read_at(u64::MAX, &mut buf).is_err());
        assert!(file.read_at(1, &mut buf).is_ok());
    }
}
