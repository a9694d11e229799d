//! Blobs: finding, listing, opening and writing them.

use std::fs;
use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::SystemTime;

use super::digest::{Digest, HashingWriter};
use super::durable::{self, sync_directory};
use super::publish::Writer;
use super::temp::{self, Temp};
use super::{Layer, Name, Store};
use crate::diagnostic::{Diagnostic, Kind, Result};
use crate::world::{File, SystemWorld, World};

/// A blob that is in the store.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Blob {
    /// What it is named by; only [`Store::verify`] knows whether its bytes still are these.
    pub digest: Digest,
    /// Its bytes.
    pub size: u64,
    /// Its file.
    pub path: PathBuf,
    /// When the file was written.
    pub modified: SystemTime,
}

impl Store {
    /// Where a blob is or would be.
    pub fn blob_path(&self, digest: &Digest) -> PathBuf {
        let path = self.blobs_dir().join(digest.file_name());
        // The form that Ollama wrote until 2024, and that some stores still have.
        let old = self.blobs_dir().join(digest.to_string());
        if cfg!(unix) && !path.exists() && old.exists() { old } else { path }
    }

    /// The blob with this digest, if the store has it.
    ///
    /// # Errors
    /// The system refuses to tell.
    pub fn find_blob(&self, digest: &Digest) -> Result<Option<Blob>> {
        let path = self.blob_path(digest);
        match fs::metadata(&path) {
            Ok(metadata) if metadata.is_file() => Ok(Some(blob(*digest, path, &metadata))),
            Ok(_) => Ok(None),
            Err(e) if matches!(e.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => Ok(None),
            Err(e) => Err(durable::failed("find the blob", &path, &e).into()),
        }
    }

    /// The blob with this digest, if the store has it and its bytes are the digest's. It is hashed the
    /// first time, and again when the file's size, time or identity has changed.
    ///
    /// # Errors
    /// The blob cannot be read.
    pub fn find_whole_blob(&self, digest: &Digest) -> Result<Option<Blob>> {
        let Some(blob) = self.find_blob(digest)? else { return Ok(None) };
        let failed = |e: &io::Error| durable::failed("read the blob", &blob.path, e);
        let path = SystemWorld.canonical(&blob.path).map_err(|e| failed(&e))?;
        let stamp = SystemWorld.stamp(&path).map_err(|e| failed(&e))?;
        let cache = self.cache();
        if cache.digest_of(&path, &stamp).as_ref() == Some(digest) {
            return Ok(Some(blob));
        }
        let file = fs::File::open(&path).map_err(|e| failed(&e))?;
        if Digest::of_reader(file, &|_| {}).map_err(|e| failed(&e))? != *digest {
            return Ok(None);
        }
        if SystemWorld.stamp(&path).is_ok_and(|now| now == stamp) {
            cache.remember_digest(&path, &stamp, digest);
        }
        Ok(Some(blob))
    }

    /// Remembers that a blob is whole which this process has just hashed while it wrote it, so that
    /// [`find_whole_blob`](Self::find_whole_blob) need not read it. Waits until the file's time tells it
    /// from a later write.
    pub(super) fn remember_whole(&self, blob: &Blob) {
        std::thread::sleep(2 * super::cache::TICK);
        let Ok(path) = SystemWorld.canonical(&blob.path) else { return };
        if let Ok(stamp) = SystemWorld.stamp(&path) {
            self.cache().remember_digest(&path, &stamp, &blob.digest);
        }
    }

    /// Every regular file that is named as a blob, sorted by digest. Other files in the directory
    /// are not the store's business.
    ///
    /// # Errors
    /// The directory cannot be read.
    pub fn blobs(&self) -> Result<Vec<Blob>> {
        let dir = self.blobs_dir();
        let failed = |e: io::Error| durable::failed("read the directory", &dir, &e);
        let entries = match fs::read_dir(&dir) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            other => other.map_err(failed)?,
        };
        let mut blobs = Vec::new();
        for entry in entries {
            let entry = entry.map_err(failed)?;
            let Some(digest) = entry.file_name().to_str().and_then(Digest::of_file_name) else { continue };
            // This does not follow a symbolic link, which is somebody else's.
            match entry.metadata() {
                Ok(metadata) if metadata.is_file() => blobs.push(blob(digest, entry.path(), &metadata)),
                Ok(_) => {}
                Err(e) if e.kind() == io::ErrorKind::NotFound => {}
                Err(e) => return Err(failed(e).into()),
            }
        }
        blobs.sort_unstable_by(|a, b| (a.digest, &a.path).cmp(&(b.digest, &b.path)));
        Ok(blobs)
    }

    /// Opens a layer of `model`.
    ///
    /// # Errors
    /// Its blob is missing, has another size than the manifest states, or cannot be read. The
    /// content is not hashed.
    pub fn open_layer(&self, model: &Name, layer: &Layer) -> Result<Arc<dyn File>> {
        let found = self.find_blob(&layer.digest)?;
        if let Some(damage) = damage(model, layer, found.as_ref()) {
            return Err(damage.into());
        }
        let path = self.blob_path(&layer.digest);
        let file = SystemWorld.open(&path).map_err(|e| durable::failed("open the blob", &path, &e))?;
        Ok(file)
    }

    /// Reads a layer of `model` that is known to be small: a template, parameters, a license.
    ///
    /// # Errors
    /// As [`open_layer`](Self::open_layer); or it has more than `limit` bytes.
    pub fn read_layer(&self, model: &Name, layer: &Layer, limit: u64) -> Result<Vec<u8>> {
        let file = self.open_layer(model, layer)?;
        let path = self.blob_path(&layer.digest);
        if file.len() > limit {
            return Err(Diagnostic::error(format!(
                "a layer of model `{model}` has {} bytes; at most {limit} are read of a {}",
                file.len(),
                layer.media_type.rsplit('.').next().unwrap_or_default(),
            ))
            .in_file(path, "")
            .code("file-too-large")
            .into());
        }
        let mut bytes = vec![0; file.len() as usize];
        file.read_at(0, &mut bytes).map_err(|e| durable::failed("read the blob", &path, &e))?;
        Ok(bytes)
    }
}

fn blob(digest: Digest, path: PathBuf, metadata: &fs::Metadata) -> Blob {
    let modified = metadata.modified().unwrap_or(SystemTime::UNIX_EPOCH);
    Blob { digest, size: metadata.len(), path, modified }
}

/// What is wrong, as far as a look at the directory tells, with a layer whose blob was `found`.
pub(super) fn damage(model: &Name, layer: &Layer, found: Option<&Blob>) -> Option<Diagnostic> {
    let digest = &layer.digest;
    let (code, message) = match found {
        None => ("missing-blob", format!("model `{model}` needs the blob {digest}, which is missing")),
        Some(blob) if blob.size != layer.size => (
            "blob-size",
            format!("model `{model}`: the blob {digest} has {} bytes instead of {}", blob.size, layer.size),
        ),
        Some(_) => return None,
    };
    let mut damage = Diagnostic::error(message).code(code);
    damage = match found {
        Some(blob) => {
            damage.help(format!("delete {}, then build or pull `{model}` again", blob.path.display()))
        }
        None => damage.help(format!("build or pull `{model}` again, or remove it with `mdl rm {model}`")),
    };
    Some(damage)
}

/// A blob being written: hashed on the way, and in the store only once [`finish`](Self::finish)
/// has returned. Dropped before, it leaves nothing.
pub struct BlobWriter<'w> {
    writer: &'w Writer,
    /// Small pieces are gathered after they are hashed; large ones go straight through.
    out: HashingWriter<BufWriter<Temp>>,
    dir: PathBuf,
    expected: Option<u64>,
    failed: bool,
}

impl<'w> BlobWriter<'w> {
    pub(super) fn create(writer: &'w Writer, expected: Option<u64>) -> Result<Self> {
        let dir = writer.store().blobs_dir();
        let temp = Temp::create(&dir, temp::BLOB).map_err(|e| durable::failed("write to", &dir, &e))?;
        let out = HashingWriter::new(BufWriter::with_capacity(1 << 17, temp));
        Ok(BlobWriter { writer, out, dir, expected, failed: false })
    }

    /// Bytes written so far.
    pub fn written(&self) -> u64 {
        self.out.written()
    }

    /// What to tell of an error that writing returned.
    pub fn diagnose(&self, error: &io::Error) -> Diagnostic {
        refused(&self.dir, error, self.written(), self.expected)
    }

    /// Puts the blob into the store: the bytes to the disk, then the name, then the directory to
    /// the disk. If the store has it already, whole, that one stays; a damaged one is replaced.
    ///
    /// # Errors
    /// A write failed before or fails now; the disk does not confirm. The store is as it was.
    pub fn finish(self) -> Result<Blob> {
        self.hashed()?.keep()
    }

    /// As [`finish`](Self::finish), but only if the bytes have the digest `wanted`. Else nothing is kept,
    /// and the result is the digest that they have.
    ///
    /// # Errors
    /// As [`finish`](Self::finish).
    pub fn finish_as(self, wanted: &Digest) -> Result<std::result::Result<Blob, Digest>> {
        let hashed = self.hashed()?;
        match hashed.digest == *wanted {
            true => hashed.keep().map(Ok),
            false => Ok(Err(hashed.digest)),
        }
    }

    fn hashed(self) -> Result<Hashed<'w>> {
        let BlobWriter { writer, out, dir, expected, failed } = self;
        if failed {
            let error = Diagnostic::environment("the blob is incomplete: a write to it failed");
            return Err(error.code("blob-incomplete").into());
        }
        let (buffered, digest, size) = out.finish();
        let temp = buffered.into_inner().map_err(|e| refused(&dir, e.error(), size, expected))?;
        Ok(Hashed { writer, temp, digest, size, dir, expected })
    }
}

/// A blob that is written, and not yet in the store.
struct Hashed<'w> {
    writer: &'w Writer,
    temp: Temp,
    digest: Digest,
    size: u64,
    dir: PathBuf,
    expected: Option<u64>,
}

impl Hashed<'_> {
    fn keep(self) -> Result<Blob> {
        let Hashed { writer, mut temp, digest, size, dir, expected } = self;
        let refuse = |e: &io::Error| refused(&dir, e, size, expected);
        let existing = writer.store().find_blob(&digest)?;
        if let Some(existing) = existing.as_ref().filter(|b| b.size == size)
            && fs::File::open(&existing.path).and_then(|f| Digest::of_reader(f, &|_| {})).ok() == Some(digest)
        {
            return Ok(existing.clone());
        }
        temp.sync().map_err(|e| unconfirmed(temp.path(), &e))?;
        let path = dir.join(digest.file_name());
        temp.rename(&path).map_err(|e| refuse(&e))?;
        if let Err(e) = sync_directory(&dir) {
            // Without the disk's word it must not be found and relied on later.
            if existing.is_none() {
                let _ = fs::remove_file(&path);
            }
            return Err(unconfirmed(&dir, &e).into());
        }
        let metadata = fs::metadata(&path).map_err(|e| refuse(&e))?;
        Ok(blob(digest, path, &metadata))
    }
}

impl Write for BlobWriter<'_> {
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        let result = self.out.write(buf);
        self.failed |= result.as_ref().is_err_and(|e| e.kind() != io::ErrorKind::Interrupted);
        result
    }

    fn flush(&mut self) -> io::Result<()> {
        let result = self.out.flush();
        self.failed |= result.as_ref().is_err_and(|e| e.kind() != io::ErrorKind::Interrupted);
        result
    }
}

/// A write of a blob that the system refused.
fn refused(dir: &Path, error: &io::Error, written: u64, expected: Option<u64>) -> Diagnostic {
    let mut diagnostic = durable::failed("write a blob to", dir, error);
    let needed = expected.filter(|&e| e >= written);
    diagnostic.message += &match needed {
        Some(needed) => format!(" (after {written} of {needed} bytes)"),
        None => format!(" (after {written} bytes)"),
    };
    diagnostic
}

/// The disk did not confirm a write.
pub(super) fn unconfirmed(path: &Path, error: &io::Error) -> Diagnostic {
    let mut diagnostic = durable::failed("be sure that the disk has", path, error);
    diagnostic.kind = Kind::Environment;
    diagnostic.code = "not-durable";
    diagnostic.help("nothing was changed; the disk may be failing or full: see the system's log")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_full_disk_is_told_with_what_was_needed() {
        let full: io::Error = io::ErrorKind::StorageFull.into();
        insta::with_settings!({
            snapshot_path => concat!(env!("CARGO_MANIFEST_DIR"), "/snapshots"),
            prepend_module_to_snapshot => false,
        }, {
            let d = refused(Path::new("/models/blobs"), &full, 1_048_576, Some(4_920_738_944));
            insta::assert_snapshot!("store_disk_full", format!("{d}\n{}", d.help.join("\n")));
            assert_eq!(crate::diagnostic::Errors::from(d).exit_code(), 3);
        });
        let d = refused(Path::new("/b"), &full, 7, None);
        assert!(d.message.ends_with("(after 7 bytes)"), "{d}");
    }
}
