//! The texts of licences that lie beside weights.

use std::path::Path;

use crate::diagnostic::Result;
use crate::world::{EntryKind, World, read_file};

/// What a file with a licence is called, without its extension, in capitals.
const NAMES: &[&str] = &["LICENSE", "LICENCE", "COPYING", "NOTICE", "USE_POLICY", "TERMS"];

/// The longest text that is taken.
const LIMIT: u64 = 1 << 20;

/// The most texts of one source.
const MOST: usize = 16;

/// A licence as it was found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct License {
    /// The name of its file, or of the instruction that has it.
    pub name: String,
    /// What it says.
    pub text: String,
}

/// The licences in a source's directory, in the order of their names. One that is no text is left out.
pub(super) fn find(world: &dyn World, directory: &Path) -> Result<Vec<License>> {
    let mut found = Vec::new();
    for name in world.names(directory).unwrap_or_default() {
        let stem = name.split('.').next().unwrap_or("").to_uppercase().replace('-', "_");
        let path = directory.join(&name);
        let wanted = NAMES.iter().any(|n| stem == *n || stem.starts_with(&format!("{n}_")));
        if !wanted || found.len() == MOST || world.kind(&path) != Some(EntryKind::File) {
            continue;
        }
        if let Ok(text) = String::from_utf8(read_file(world, &path, LIMIT)?) {
            found.push(License { name, text });
        }
    }
    Ok(found)
}
