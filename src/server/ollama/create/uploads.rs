//! Uploaded blobs as files: what a build reads is what the client named, and nothing else of the host.

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use tokio::sync::mpsc;

use super::CreateResponse;
use crate::server::error::ApiError;
use crate::store::{Blob, Digest, Store};
use crate::world::{EntryKind, File, Stamp, SystemWorld, World};

/// The directory that uploaded files appear in. It is nowhere on the disk.
pub const UPLOADS: &str = "/uploads/";

/// The directory of a model's files.
pub const FILES: &str = "/uploads/files";

/// The directory of an adapter's files.
pub const ADAPTERS: &str = "/uploads/adapters";

/// The client that waits for a build.
type Client = mpsc::Sender<Result<CreateResponse, ApiError>>;

/// Uploaded files, and the blobs of models of the store. Reads fail once the client has gone, which ends
/// the build.
pub struct Uploads {
    files: BTreeMap<PathBuf, PathBuf>,
    client: Client,
}

impl Uploads {
    /// No files.
    pub fn new(client: Client) -> Uploads {
        Uploads { files: BTreeMap::new(), client }
    }

    /// Adds a file: a whole blob.
    pub fn insert(&mut self, store: &Store, path: PathBuf, blob: Blob) {
        // It was hashed: the build need not do it again.
        if let Ok(stamp) = SystemWorld.stamp(&blob.path) {
            store.cache().remember_digest(&path, &stamp, &blob.digest);
        }
        self.files.insert(path, blob.path);
    }

    /// Where a file is on the disk: an uploaded one, or a blob.
    fn place<'a>(&'a self, path: &'a Path) -> io::Result<&'a Path> {
        match self.files.get(path) {
            Some(place) => Ok(place),
            None if path.starts_with(UPLOADS) => Err(io::ErrorKind::NotFound.into()),
            None => {
                let name = path.file_name().and_then(|n| n.to_str());
                let is_blob = name.is_some_and(|n| n.parse::<Digest>().is_ok());
                if is_blob { Ok(path) } else { Err(io::ErrorKind::NotFound.into()) }
            }
        }
    }

    fn is_directory(&self, path: &Path) -> bool {
        self.files.keys().any(|file| file != path && file.starts_with(path))
    }
}

impl World for Uploads {
    fn open(&self, path: &Path) -> io::Result<Arc<dyn File>> {
        if self.is_directory(path) {
            return Err(io::ErrorKind::IsADirectory.into());
        }
        let file = SystemWorld.open(self.place(path)?)?;
        Ok(Arc::new(Watched { file, client: self.client.clone() }))
    }

    fn kind(&self, path: &Path) -> Option<EntryKind> {
        match self.is_directory(path) {
            true => Some(EntryKind::Directory),
            false => SystemWorld.kind(self.place(path).ok()?),
        }
    }

    fn names(&self, directory: &Path) -> io::Result<Vec<String>> {
        let below = self.files.keys().filter_map(|file| file.strip_prefix(directory).ok());
        let first = below.filter_map(|rest| rest.components().next()?.as_os_str().to_str().map(str::to_owned));
        let mut names: Vec<String> = first.collect();
        names.sort_unstable();
        names.dedup();
        if names.is_empty() { Err(io::ErrorKind::NotFound.into()) } else { Ok(names) }
    }

    fn canonical(&self, path: &Path) -> io::Result<PathBuf> {
        match path.starts_with(UPLOADS) {
            true => self.kind(path).map(|_| path.to_owned()).ok_or_else(|| io::ErrorKind::NotFound.into()),
            false => SystemWorld.canonical(self.place(path)?),
        }
    }

    fn stamp(&self, path: &Path) -> io::Result<Stamp> {
        SystemWorld.stamp(self.place(path)?)
    }

    fn home(&self) -> Option<PathBuf> {
        None
    }
}

/// A file that is read as long as somebody waits.
struct Watched {
    file: Arc<dyn File>,
    client: Client,
}

impl File for Watched {
    fn len(&self) -> u64 {
        self.file.len()
    }

    fn stamp(&self) -> io::Result<Stamp> {
        self.file.stamp()
    }

    fn read_at(&self, offset: u64, buf: &mut [u8]) -> io::Result<()> {
        if self.client.is_closed() {
            return Err(io::Error::new(io::ErrorKind::ConnectionAborted, "the client has gone"));
        }
        self.file.read_at(offset, buf)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_was_uploaded_is_there() {
        let directory = tempfile::tempdir().unwrap();
        let store = Store::open(directory.path()).unwrap();
        let blob = store.writer().unwrap().put(b"hello").unwrap();
        let (client, lines) = mpsc::channel(1);
        let mut world = Uploads::new(client);
        world.insert(&store, PathBuf::from("/uploads/files/a/b.json"), blob.clone());
        assert_eq!(world.kind(Path::new(FILES)), Some(EntryKind::Directory));
        assert_eq!(world.kind(Path::new("/uploads/files/a/b.json")), Some(EntryKind::File));
        assert_eq!(world.names(Path::new(FILES)).unwrap(), ["a"]);
        assert_eq!(world.kind(&blob.path), Some(EntryKind::File));
        let secret = directory.path().join("secret");
        std::fs::write(&secret, "x").unwrap();
        for path in [secret.as_path(), Path::new("/etc/passwd"), Path::new("/uploads/files/c"), Path::new("/")] {
            assert!(world.open(path).is_err() && world.stamp(path).is_err(), "{path:?}");
        }
        assert_eq!(world.kind(Path::new("/etc")), None);
        assert!(world.canonical(Path::new("/etc/passwd")).is_err());

        let file = world.open(Path::new("/uploads/files/a/b.json")).unwrap();
        let mut bytes = [0; 5];
        file.read_at(0, &mut bytes).unwrap();
        assert_eq!(&bytes, b"hello");
        drop(lines);
        let error = file.read_at(0, &mut bytes).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::ConnectionAborted);
    }
}
