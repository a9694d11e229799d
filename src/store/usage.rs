//! What takes the room.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;

use super::{Digest, Name, Store};
use crate::diagnostic::Result;

/// The room that a model takes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ModelUsage {
    /// The model.
    pub name: Name,
    /// Its identity; `None` if its manifest cannot be read.
    pub id: Option<Digest>,
    /// Bytes of blobs that no other model refers to: what removing it would give back.
    pub own: u64,
    /// Bytes of blobs that others refer to as well.
    pub shared: u64,
}

/// What takes the room in a store, as the disk has it now.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Usage {
    /// The models, those that take most first.
    pub models: Vec<ModelUsage>,
    /// Bytes of all blobs that models refer to, each counted once.
    pub referenced: u64,
    /// Bytes of blobs that no model refers to.
    pub unreferenced: u64,
    /// Bytes of files in the directory of blobs that are none: written now, or left by what was killed.
    pub temporary: u64,
    /// Bytes of what is `mdl`'s own: the build cache, locks.
    pub cache: u64,
}

impl Usage {
    /// Everything together.
    pub fn total(&self) -> u64 {
        [self.referenced, self.unreferenced, self.temporary, self.cache]
            .into_iter()
            .fold(0, u64::saturating_add)
    }
}

impl Store {
    /// Measures what takes the room.
    ///
    /// # Errors
    /// A directory cannot be read.
    pub fn usage(&self) -> Result<Usage> {
        let sizes: BTreeMap<Digest, u64> = self.blobs()?.into_iter().map(|b| (b.digest, b.size)).collect();
        let models: Vec<_> = self
            .list()?
            .into_iter()
            .map(|entry| {
                let blobs = entry.manifest.iter().flat_map(|m| m.blobs()).map(|l| l.digest);
                (entry.name, entry.id, blobs.collect::<BTreeSet<Digest>>())
            })
            .collect();
        let mut users: BTreeMap<Digest, usize> = BTreeMap::new();
        for digest in models.iter().flat_map(|(_, _, blobs)| blobs) {
            *users.entry(*digest).or_default() += 1;
        }
        let size = |digest: &Digest| sizes.get(digest).copied().unwrap_or(0);
        let mut usage = Usage::default();
        for (name, id, blobs) in models {
            let (mut own, mut shared) = (0, 0);
            for digest in &blobs {
                let part = if users.get(digest) == Some(&1) { &mut own } else { &mut shared };
                *part += size(digest);
            }
            usage.models.push(ModelUsage { name, id, own, shared });
        }
        usage.models.sort_by_key(|m| (std::cmp::Reverse(m.own + m.shared), m.name.clone()));
        for (digest, bytes) in &sizes {
            let part =
                if users.contains_key(digest) { &mut usage.referenced } else { &mut usage.unreferenced };
            *part += bytes;
        }
        let in_blobs = bytes_below(&self.blobs_dir(), 0);
        usage.temporary = in_blobs.saturating_sub(usage.referenced + usage.unreferenced);
        usage.cache = bytes_below(&self.own_dir(), DEPTH);
        Ok(usage)
    }
}

/// Directories of `mdl`'s own are no deeper.
const DEPTH: usize = 4;

/// The bytes of the files in a directory, and in those in it to a depth. Links are not followed.
fn bytes_below(directory: &Path, depth: usize) -> u64 {
    let entries = fs::read_dir(directory).into_iter().flatten().flatten();
    let bytes = entries.map(|entry| match entry.metadata() {
        Ok(metadata) if metadata.is_file() => metadata.len(),
        Ok(metadata) if metadata.is_dir() && depth > 0 => bytes_below(&entry.path(), depth - 1),
        _ => 0,
    });
    bytes.fold(0, u64::saturating_add)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::{Layer, media};

    #[test]
    fn each_byte_is_counted_once() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path().join("models")).unwrap();
        assert_eq!(store.usage().unwrap(), Usage::default());
        let writer = store.writer().unwrap();
        let publish = |name: &str, parts: &[&[u8]]| {
            let layers = parts.iter().map(|bytes| {
                let blob = writer.put(bytes).unwrap();
                Layer::new(media::SYSTEM, blob.digest, blob.size)
            });
            let layers = layers.collect();
            writer.publish(&Name::parse(name).unwrap(), b"{}", layers).unwrap();
        };
        publish("a", &[b"12345", b"1234567"]);
        publish("b", &[b"1234567", b"1"]);
        writer.put(b"nobody's").unwrap();
        fs::write(store.root().join("blobs/sha256-mdl-x"), b"abc").unwrap();
        let usage = store.usage().unwrap();
        let of = |name: &str| usage.models.iter().find(|m| m.name.to_string() == name).unwrap();
        assert_eq!((of("a:latest").own, of("a:latest").shared), (5, 9));
        assert_eq!((of("b:latest").own, of("b:latest").shared), (1, 9));
        assert_eq!((usage.referenced, usage.unreferenced, usage.temporary), (15, 8, 3));
        assert_eq!(usage.total(), 26 + usage.cache);
        assert_eq!(usage.models[0].name.to_string(), "a:latest");
    }
}
