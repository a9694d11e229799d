//! A world that remembers which files were opened.

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use crate::ir::SourceFile;
use crate::world::{EntryKind, File, Stamp, World};

/// A world that remembers which files were opened through it.
pub struct Recording<'a> {
    world: &'a dyn World,
    opened: Mutex<BTreeMap<PathBuf, Arc<dyn File>>>,
}

impl<'a> Recording<'a> {
    /// The same world, with nothing opened yet.
    pub fn new(world: &'a dyn World) -> Recording<'a> {
        Recording { world, opened: Mutex::default() }
    }

    /// The files that were opened so far, by the paths they were opened by. Of one that was opened
    /// twice, the first: if it has changed since, that is noticed when it is hashed.
    pub fn opened(&self) -> Vec<SourceFile> {
        let opened = self.opened.lock().unwrap_or_else(PoisonError::into_inner);
        opened.iter().map(|(path, file)| SourceFile { path: path.clone(), file: file.clone() }).collect()
    }
}

impl World for Recording<'_> {
    fn open(&self, path: &Path) -> io::Result<Arc<dyn File>> {
        let file = self.world.open(path)?;
        let mut opened = self.opened.lock().unwrap_or_else(PoisonError::into_inner);
        opened.entry(path.to_owned()).or_insert_with(|| file.clone());
        Ok(file)
    }

    fn kind(&self, path: &Path) -> Option<EntryKind> {
        self.world.kind(path)
    }

    fn names(&self, directory: &Path) -> io::Result<Vec<String>> {
        self.world.names(directory)
    }

    fn canonical(&self, path: &Path) -> io::Result<PathBuf> {
        self.world.canonical(path)
    }

    fn stamp(&self, path: &Path) -> io::Result<Stamp> {
        self.world.stamp(path)
    }

    fn home(&self) -> Option<PathBuf> {
        self.world.home()
    }
}
