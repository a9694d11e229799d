//! The build cache: what earlier builds learned, so that the next one reads no weight twice.
//!
//! - `mdl/sources/<hash of path>`: the digest of a source file in the state of its [`Stamp`];
//! - `mdl/tensors/<digest of blob>`: which expressions' values are in that blob, and where.
//!
//! Each file ends with a digest of what precedes it. Nothing here is needed: a file that is gone,
//! torn or forged to no valid form is a miss, and a failed write is forgotten. An entry is found
//! only while its blob is in the store with the size it had, and [`Store::gc`] drops the others.

use std::cmp::Reverse;
use std::collections::{BTreeMap, HashMap};
use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use super::Store;
use super::digest::Digest;
use super::durable;
use super::temp::{self, write_whole};
use crate::world::Stamp;

/// The hash of an expression over its sources' digests.
pub type Key = [u8; 32];

/// Where the value of an expression is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cached {
    /// The blob.
    pub blob: Digest,
    /// The first byte in it.
    pub offset: u64,
    /// Bytes.
    pub len: u64,
}

/// Remembered source files, at most.
const SOURCES: usize = 4096;
/// Blobs whose contents are remembered, at most.
const BLOBS: usize = 1024;
/// Entries of one blob, at most.
const ENTRIES: usize = 100_000;
/// The longest file that is read: a key, two numbers and blanks for each entry.
const LONGEST: u64 = 110 * ENTRIES as u64 + 1024;
/// File systems stamp files with the time of the kernel's last tick, at least 100 a second. A file
/// can change twice within one tick and have the same stamp, so it is remembered only when older.
pub(super) const TICK: Duration = Duration::from_millis(10);

/// The build cache of a store. Whoever acts on what it finds holds a [`Writer`](super::Writer), so
/// that the blob stays.
#[derive(Debug)]
pub struct Cache {
    store: Store,
    /// Read at the first use, since a build may have no use for it.
    tensors: Mutex<Option<HashMap<Key, (Cached, u64)>>>,
}

impl Store {
    /// The build cache.
    pub fn cache(&self) -> Cache {
        Cache { store: self.clone(), tensors: Mutex::new(None) }
    }
}

impl Cache {
    /// The digest that the file at `path` (canonical) had in this state.
    pub fn digest_of(&self, path: &Path, stamp: &Stamp) -> Option<Digest> {
        let lines = read(&self.source_path(path), "mdl-source 1")?;
        let digest = lines.strip_suffix('\n')?.strip_prefix(&state(stamp))?;
        digest.parse().ok()
    }

    /// Remembers the digest of the file at `path` (canonical). `stamp` was taken before the file
    /// was read and was the same after.
    pub fn remember_digest(&self, path: &Path, stamp: &Stamp, digest: &Digest) {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_nanos() as i128;
        if now - stamp.modified_ns < TICK.as_nanos() as i128 {
            return;
        }
        let to = self.source_path(path);
        if !to.exists() {
            make_room(&self.sources_dir(), SOURCES);
        }
        write(&to, &format!("mdl-source 1\n{}{digest}\n", state(stamp)));
    }

    /// Where the value of this expression is, if a blob of the store has it.
    pub fn find(&self, key: &Key) -> Option<Cached> {
        let (cached, size) = *self.tensors().as_ref()?.get(key)?;
        let blob = self.store.find_blob(&cached.blob).ok()??;
        (blob.size == size).then_some(cached)
    }

    /// Remembers that `blob`, of `size` bytes, has the values of these expressions at (offset,
    /// length). A whole GGUF is the expression at (0, `size`).
    pub fn remember(&self, blob: &Digest, size: u64, values: &[(Key, u64, u64)]) {
        let to = self.tensors_dir().join(blob.hex());
        let mut entries =
            read_entries(&to, blob).filter(|e| e.size == size).map(|e| e.values).unwrap_or_default();
        entries.extend(values.iter().filter(|v| within(v.1, v.2, size)).map(|&(key, o, l)| (key, (o, l))));
        if entries.len() > ENTRIES {
            return;
        }
        let mut text = format!("mdl-tensors 1\n{blob} {size}\n");
        for (key, (offset, len)) in &entries {
            // Writing to a String cannot fail.
            let _ = writeln!(text, "{} {offset} {len}", Digest::from_bytes(*key).hex());
        }
        if !to.exists() {
            make_room(&self.tensors_dir(), BLOBS);
        }
        write(&to, &text);
        if let Some(known) = self.tensors().as_mut() {
            let blob = *blob;
            known
                .extend(entries.iter().map(|(&k, &(offset, len))| (k, (Cached { blob, offset, len }, size))));
        }
    }

    /// Drops what is remembered of blobs that are not in the store any more.
    pub(super) fn forget_missing(&self) {
        let dir = self.tensors_dir();
        for (path, _) in files(&dir) {
            let digest = blob_of(&path);
            if digest.is_none_or(|d| matches!(self.store.find_blob(&d), Ok(None))) {
                let _ = fs::remove_file(path);
            }
        }
        *self.tensors() = None;
        for dir in [dir, self.sources_dir()] {
            let _ = temp::remove_dead(&dir, temp::OTHER, false);
        }
    }

    /// The known expressions, read from the disk if they are not yet.
    fn tensors(&self) -> MutexGuard<'_, Option<HashMap<Key, (Cached, u64)>>> {
        let mut tensors = self.tensors.lock().unwrap_or_else(PoisonError::into_inner);
        tensors.get_or_insert_with(|| self.load());
        tensors
    }

    fn load(&self) -> HashMap<Key, (Cached, u64)> {
        let mut known = HashMap::new();
        let mut paths = files(&self.tensors_dir());
        // Where there are too many, the newest.
        paths.sort_by_key(|p| Reverse(p.1));
        for (path, _) in paths.into_iter().take(BLOBS) {
            let Some(blob) = blob_of(&path) else { continue };
            let Some(entries) = read_entries(&path, &blob) else { continue };
            for (key, (offset, len)) in entries.values {
                known.entry(key).or_insert((Cached { blob, offset, len }, entries.size));
            }
        }
        known
    }

    fn source_path(&self, path: &Path) -> PathBuf {
        self.sources_dir().join(Digest::of(path.as_os_str().as_encoded_bytes()).hex())
    }

    fn sources_dir(&self) -> PathBuf {
        self.store.own_dir().join("sources")
    }

    fn tensors_dir(&self) -> PathBuf {
        self.store.own_dir().join("tensors")
    }
}

/// A file's state, as a line says it.
fn state(stamp: &Stamp) -> String {
    let Stamp { len, modified_ns, identity: (device, inode) } = stamp;
    format!("{len} {modified_ns} {device} {inode} ")
}

/// What is remembered of a blob.
struct Entries {
    size: u64,
    /// Sorted, so that equal content has equal bytes.
    values: BTreeMap<Key, (u64, u64)>,
}

fn read_entries(path: &Path, blob: &Digest) -> Option<Entries> {
    let text = read(path, "mdl-tensors 1")?;
    let mut lines = text.lines();
    let (digest, size) = lines.next()?.split_once(' ')?;
    let size: u64 = size.parse().ok()?;
    if digest.parse::<Digest>().ok()? != *blob {
        return None;
    }
    let mut values = BTreeMap::new();
    for line in lines {
        let mut words = line.split(' ');
        let key: Digest = format!("sha256:{}", words.next()?).parse().ok()?;
        let (offset, len) = (words.next()?.parse().ok()?, words.next()?.parse().ok()?);
        if words.next().is_some() || !within(offset, len, size) {
            return None;
        }
        values.insert(*key.as_bytes(), (offset, len));
    }
    Some(Entries { size, values })
}

fn within(offset: u64, len: u64, size: u64) -> bool {
    offset.checked_add(len).is_some_and(|end| end <= size)
}

fn blob_of(path: &Path) -> Option<Digest> {
    format!("sha256:{}", path.file_name()?.to_str()?).parse().ok()
}

/// The lines of a cache file between its title and its digest; `None` if it is not whole.
fn read(path: &Path, title: &str) -> Option<String> {
    let metadata = fs::metadata(path).ok()?;
    if !metadata.is_file() || metadata.len() > LONGEST {
        return None;
    }
    let text = fs::read_to_string(path).ok()?;
    let (body, digest) = text.strip_suffix('\n')?.rsplit_once('\n')?;
    let body = text.get(..body.len() + 1)?;
    (digest.parse::<Digest>().ok()? == Digest::of(body.as_bytes())).then_some(())?;
    Some(body.strip_prefix(title)?.strip_prefix('\n')?.to_owned())
}

/// Writes a cache file. It is only forgotten where that fails.
fn write(to: &Path, body: &str) {
    let Some(dir) = to.parent() else { return };
    let text = format!("{body}{}\n", Digest::of(body.as_bytes()));
    let _ = durable::create_directories(dir).and_then(|()| write_whole(dir, to, text.as_bytes()));
}

/// The files in `dir`, with their times.
fn files(dir: &Path) -> Vec<(PathBuf, SystemTime)> {
    let entries = fs::read_dir(dir).into_iter().flatten().flatten();
    let named = entries.filter(|e| !e.file_name().as_encoded_bytes().starts_with(b"."));
    let file = |e: fs::DirEntry| {
        let metadata = e.metadata().ok().filter(fs::Metadata::is_file)?;
        Some((e.path(), metadata.modified().unwrap_or(UNIX_EPOCH)))
    };
    named.filter_map(file).collect()
}

/// Removes the older half of the files in `dir` when it has `most`.
fn make_room(dir: &Path, most: usize) {
    let mut files = files(dir);
    if files.len() >= most {
        files.sort_by_key(|f| f.1);
        for (path, _) in files.iter().take(most / 2) {
            let _ = fs::remove_file(path);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn store() -> (tempfile::TempDir, Store) {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path().join("models")).unwrap();
        (dir, store)
    }

    fn stamp(len: u64) -> Stamp {
        Stamp { len, modified_ns: 1_700_000_000_123_456_789, identity: (66, 77) }
    }

    #[test]
    fn a_file_is_known_in_the_state_it_had() {
        let (_dir, store) = store();
        let (cache, path, digest) = (store.cache(), Path::new("/m/a.safetensors"), Digest::of(b"a"));
        assert_eq!(cache.digest_of(path, &stamp(5)), None);
        cache.remember_digest(path, &stamp(5), &digest);
        assert_eq!(store.cache().digest_of(path, &stamp(5)), Some(digest));
        for other in [
            stamp(6),
            Stamp { modified_ns: 1_700_000_000_123_456_788, ..stamp(5) },
            Stamp { identity: (66, 78), ..stamp(5) },
            Stamp { identity: (67, 77), ..stamp(5) },
        ] {
            assert_eq!(cache.digest_of(path, &other), None);
        }
        assert_eq!(cache.digest_of(Path::new("/m/b.safetensors"), &stamp(5)), None);
        cache.remember_digest(path, &stamp(6), &Digest::of(b"b"));
        assert_eq!(cache.digest_of(path, &stamp(5)), None);
        assert_eq!(cache.digest_of(path, &stamp(6)), Some(Digest::of(b"b")));
    }

    #[test]
    fn a_file_that_just_changed_is_not_remembered() {
        let (_dir, store) = store();
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_nanos() as i128;
        let path = Path::new("/m/a");
        for modified_ns in [now, now + 1_000_000_000_000] {
            let young = Stamp { modified_ns, ..stamp(1) };
            store.cache().remember_digest(path, &young, &Digest::of(b"a"));
            assert_eq!(store.cache().digest_of(path, &young), None);
        }
    }

    #[test]
    fn values_are_found_while_their_blob_is_there() {
        let (_dir, store) = store();
        let blob = store.writer().unwrap().put(b"0123456789").unwrap();
        let cache = store.cache();
        assert_eq!(cache.find(&[1; 32]), None);
        cache.remember(
            &blob.digest,
            10,
            &[([1; 32], 2, 3), ([2; 32], 0, 10), ([9; 32], 8, 3), ([9; 32], u64::MAX, 2)],
        );
        cache.remember(&blob.digest, 10, &[([3; 32], 10, 0)]);
        for cache in [cache, store.cache()] {
            assert_eq!(cache.find(&[1; 32]), Some(Cached { blob: blob.digest, offset: 2, len: 3 }));
            assert_eq!(cache.find(&[2; 32]), Some(Cached { blob: blob.digest, offset: 0, len: 10 }));
            assert_eq!(cache.find(&[3; 32]), Some(Cached { blob: blob.digest, offset: 10, len: 0 }));
            assert_eq!(cache.find(&[9; 32]), None);
        }
        let cache = store.cache();
        assert!(cache.find(&[1; 32]).is_some());
        fs::write(&blob.path, b"012345678").unwrap();
        assert_eq!(cache.find(&[1; 32]), None);
        fs::remove_file(&blob.path).unwrap();
        assert_eq!(cache.find(&[1; 32]), None);
        let file = store.root().join("mdl/tensors").join(blob.digest.hex());
        assert!(file.exists());
        cache.forget_missing();
        assert!(!file.exists());
    }

    #[test]
    fn a_damaged_file_is_a_miss() {
        let (_dir, store) = store();
        let blob = store.writer().unwrap().put(b"0123456789").unwrap();
        store.cache().remember(&blob.digest, 10, &[([1; 32], 2, 3)]);
        store.cache().remember_digest(Path::new("/a"), &stamp(5), &Digest::of(b"a"));
        let tensors = store.root().join("mdl/tensors").join(blob.digest.hex());
        let source = files(&store.root().join("mdl/sources")).remove(0).0;
        for file in [&tensors, &source] {
            let good = fs::read(file).unwrap();
            let check = |bytes: &[u8]| {
                fs::write(file, bytes).unwrap();
                let cache = store.cache();
                cache.find(&[1; 32]).is_some() && cache.digest_of(Path::new("/a"), &stamp(5)).is_some()
            };
            assert!(check(&good));
            for end in 0..good.len() {
                assert!(!check(&good[..end]), "cut at {end}");
            }
            for at in 0..good.len() {
                let mut bad = good.clone();
                bad[at] ^= 1;
                assert!(!check(&bad), "flipped at {at}");
            }
            assert!(!check(&vec![0; good.len()]));
            assert!(check(&good));
        }
        // Whole, but of another blob or beyond its end.
        let other = Digest::of(b"other");
        for body in [
            format!("mdl-tensors 1\n{other} 10\n{} 2 3\n", "01".repeat(32)),
            format!("mdl-tensors 1\n{} 10\n{} 8 3\n", blob.digest, "01".repeat(32)),
            format!("mdl-tensors 1\n{} 10\n{} -1 3\n", blob.digest, "01".repeat(32)),
            format!("mdl-tensors 1\n{} 10\n{} 2 3 4\n", blob.digest, "01".repeat(32)),
            format!("mdl-tensors 2\n{} 10\n{} 2 3\n", blob.digest, "01".repeat(32)),
        ] {
            write(&tensors, &body);
            assert_eq!(store.cache().find(&[1; 32]), None, "{body}");
        }
        fs::remove_file(&tensors).unwrap();
        fs::create_dir(&tensors).unwrap();
        store.cache().remember(&blob.digest, 10, &[([1; 32], 2, 3)]);
        assert_eq!(store.cache().find(&[1; 32]), None);
    }

    #[test]
    fn room_is_made_by_dropping_the_oldest() {
        let dir = tempfile::tempdir().unwrap();
        for i in 0..6u64 {
            let file = fs::File::create(dir.path().join(i.to_string())).unwrap();
            file.set_modified(UNIX_EPOCH + Duration::from_secs(1000 - i)).unwrap();
        }
        make_room(dir.path(), 7);
        assert_eq!(files(dir.path()).len(), 6);
        make_room(dir.path(), 6);
        let mut left: Vec<_> =
            files(dir.path()).into_iter().map(|f| f.0.file_name().unwrap().to_owned()).collect();
        left.sort();
        assert_eq!(left, ["0", "1", "2"]);
    }
}
