//! Files as read-only memory.

use std::fs::File;
use std::io;
use std::ops::Deref;
use std::path::Path;

/// A whole file, mapped read-only. Pages are read when they are first touched and shared with
/// every process that maps the same file.
///
/// Map only a file that nobody rewrites in place, such as a blob of the store: a file that
/// shrinks while it is mapped ends the process at the next touch of a lost page, and one that
/// changes changes under the reader. Replacing a file by `rename` is harmless.
#[derive(Debug)]
pub struct Map {
    /// `None` for an empty file, which cannot be mapped.
    map: Option<memmap2::Mmap>,
}

impl Map {
    /// Maps the regular file at `path`.
    ///
    /// # Errors
    /// The file cannot be opened or mapped, or is no regular file.
    pub fn open(path: &Path) -> io::Result<Map> {
        // Asked first: opening a named pipe would wait for a writer.
        if !std::fs::metadata(path)?.is_file() {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "not a regular file"));
        }
        Map::of(&File::open(path)?)
    }

    /// Maps an open file. The map outlives the handle.
    ///
    /// # Errors
    /// The file cannot be mapped.
    pub fn of(file: &File) -> io::Result<Map> {
        if file.metadata()?.len() == 0 {
            return Ok(Map { map: None });
        }
        // SAFETY: the map is private and read-only; that nobody truncates or rewrites the file is
        // the condition this type documents.
        let map = unsafe { memmap2::MmapOptions::new().map(file)? };
        Ok(Map { map: Some(map) })
    }

    /// Gives the memory of these bytes back to the system, which reads them again from the file if they are
    /// touched again. Advice: what the system cannot do, it leaves.
    ///
    /// # Panics
    /// If the range is not in the file.
    pub fn release(&self, range: std::ops::Range<usize>) {
        assert!(range.start <= range.end && range.end <= self.len(), "the range is in the file");
        #[cfg(unix)]
        if let Some(map) = &self.map {
            // SAFETY: the map is of a file, shared and read-only; a dropped page reads as the file again.
            let _ = unsafe {
                map.unchecked_advise_range(memmap2::UncheckedAdvice::DontNeed, range.start, range.len())
            };
        }
    }
}

impl Deref for Map {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        self.map.as_deref().unwrap_or(&[])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_map_is_the_files_bytes() {
        let directory = std::env::temp_dir().join(format!("mdl-map-{}", std::process::id()));
        std::fs::create_dir_all(&directory).unwrap();
        let path = directory.join("bytes");
        std::fs::write(&path, [1, 2, 3]).unwrap();
        let map = Map::open(&path).unwrap();
        assert_eq!(&map[..], [1, 2, 3]);
        map.release(0..3);
        assert_eq!(&map[..], [1, 2, 3]);
        std::fs::write(&path, []).unwrap();
        assert!(Map::open(&path).unwrap().is_empty());
        assert!(Map::open(&directory).is_err());
        assert!(Map::open(&directory.join("none")).is_err());
        std::fs::remove_dir_all(&directory).unwrap();
    }
}
