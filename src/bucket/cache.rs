//! Keys to digests, digests to bytes.

use std::sync::atomic::Ordering;

use futures_util::{StreamExt as _, TryStreamExt as _, stream};
use object_store::path::Path;
use object_store::{ObjectStoreExt as _, PutPayload, WriteMultipart};
use sha2::Digest as _;

use super::Bucket;
use crate::codegen::{Got, Key, Read, Shared, Take, Value};
use crate::diagnostic::{Diagnostic, Result};
use crate::store::Digest;

/// Questions that are under way at once.
const AT_ONCE: usize = 8;

/// The most bytes of an entry.
const ENTRY: u64 = 200;

/// Bytes that are sent at a time; a value of no more is sent at once.
const PART: usize = 8 << 20;

/// Parts of one value that are under way at once.
const PARTS: usize = 4;

/// The cache failed, or the caller did.
enum Failed {
    Cache(object_store::Error),
    Caller(crate::diagnostic::Errors),
}

impl From<object_store::Error> for Failed {
    fn from(error: object_store::Error) -> Failed {
        Failed::Cache(error)
    }
}

impl Shared for Bucket {
    fn get(&self, wanted: &[Value], take: Take<'_>) -> Result<Vec<Got>> {
        let all = stream::iter(wanted.iter().enumerate())
            .map(|(i, value)| async move {
                if self.failed.load(Ordering::Relaxed) {
                    return Ok(Got::Nothing);
                }
                self.or_nothing(self.get_one(i, value, take).await, Got::Nothing)
            })
            .buffered(AT_ONCE)
            .try_collect::<Vec<Got>>();
        self.runtime.block_on(all)
    }

    fn refused(&self, count: usize) {
        let (entries, are) = if count == 1 { ("entry", "is") } else { ("entries", "are") };
        let message = format!("{count} {entries} of the build cache {} {are} not as promised", self.shown);
        let note = Diagnostic::warning(message).code("poisoned-cache");
        self.note(note.help("what should have come from there is made here; find out who writes to it"));
    }

    fn put(&self, values: &[Value], read: Read<'_>) -> Result<()> {
        let all = stream::iter(values.iter().enumerate())
            .map(|(i, value)| async move {
                if self.failed.load(Ordering::Relaxed) {
                    return Ok(());
                }
                self.or_nothing(self.put_one(i, value, read).await, ())
            })
            .buffer_unordered(AT_ONCE)
            .try_collect::<Vec<()>>();
        self.runtime.block_on(all).map(drop)
    }
}

impl Bucket {
    /// A cache that fails has nothing, and takes nothing.
    fn or_nothing<T>(&self, result: Result<T, Failed>, nothing: T) -> Result<T> {
        match result {
            Ok(value) => Ok(value),
            Err(Failed::Caller(errors)) => Err(errors),
            Err(Failed::Cache(error)) => {
                if !self.failed.swap(true, Ordering::Relaxed) {
                    let message = format!("the build cache {} fails: {error}", self.shown);
                    let note = Diagnostic::warning(message).code("cache");
                    self.note(note.help("the build goes on without it"));
                }
                Ok(nothing)
            }
        }
    }

    fn key(&self, key: &Key) -> Path {
        self.below(&["1", "keys", &Digest::from_bytes(key.0).hex()])
    }

    fn blob(&self, digest: &Digest) -> Path {
        self.below(&["1", "blobs", "sha256", &digest.hex()])
    }

    fn below(&self, parts: &[&str]) -> Path {
        parts.iter().fold(self.prefix.clone(), |path, part| path.join(*part))
    }

    /// What the cache promises for a key: a digest and a length. The inner `None` is a promise that is none.
    async fn entry(&self, key: &Key) -> Result<Option<Option<(Digest, u64)>>, Failed> {
        let found = match self.store.get(&self.key(key)).await {
            Ok(found) => found,
            Err(object_store::Error::NotFound { .. }) => return Ok(None),
            Err(e) => return Err(e.into()),
        };
        if found.meta.size > ENTRY {
            return Ok(Some(None));
        }
        let mut bytes = Vec::new();
        let mut stream = found.into_stream();
        while let Some(piece) = stream.next().await {
            bytes.extend_from_slice(&piece?);
            // Whatever it said of its size.
            if bytes.len() as u64 > ENTRY {
                return Ok(Some(None));
            }
        }
        Ok(Some(parse(&bytes)))
    }

    async fn get_one(&self, i: usize, value: &Value, take: Take<'_>) -> Result<Got, Failed> {
        let Some(entry) = self.entry(&value.key).await? else { return Ok(Got::Nothing) };
        let Some((digest, _)) = entry.filter(|(_, len)| *len == value.len) else { return Ok(Got::Refused) };
        let found = match self.store.get(&self.blob(&digest)).await {
            Ok(found) => found,
            // Cleared away, perhaps by age; the entry goes the same way.
            Err(object_store::Error::NotFound { .. }) => return Ok(Got::Nothing),
            Err(e) => return Err(e.into()),
        };
        if found.meta.size != value.len {
            return Ok(Got::Refused);
        }
        let mut hash = sha2::Sha256::new();
        let mut at = 0u64;
        let mut stream = found.into_stream();
        while let Some(piece) = stream.next().await {
            let piece = piece?;
            let end = at.saturating_add(piece.len() as u64);
            if end > value.len {
                return Ok(Got::Refused);
            }
            hash.update(&piece);
            take(i, at, &piece).map_err(Failed::Caller)?;
            at = end;
        }
        let whole = at == value.len && Digest::from_bytes(hash.finalize().into()) == digest;
        Ok(if whole { Got::Whole } else { Got::Refused })
    }

    async fn put_one(&self, i: usize, value: &Value, read: Read<'_>) -> Result<(), Failed> {
        let mut piece = vec![0; PART.min(usize::try_from(value.len).unwrap_or(PART))];
        let mut hash = sha2::Sha256::new();
        let mut at = 0;
        while at < value.len {
            let n = (value.len - at).min(PART as u64) as usize;
            read(i, at, &mut piece[..n]).map_err(Failed::Caller)?;
            hash.update(&piece[..n]);
            at += n as u64;
        }
        let digest = Digest::from_bytes(hash.finalize().into());
        if !value.replace && self.entry(&value.key).await? == Some(Some((digest, value.len))) {
            return Ok(());
        }
        let blob = self.blob(&digest);
        let there = match self.store.head(&blob).await {
            Ok(meta) => meta.size == value.len && !value.replace,
            Err(object_store::Error::NotFound { .. }) => false,
            Err(e) => return Err(e.into()),
        };
        match there {
            true => {}
            // The one piece that was read is still there.
            false if value.len <= PART as u64 => {
                self.store.put(&blob, PutPayload::from(piece)).await?;
            }
            false => {
                let upload = self.store.put_multipart(&blob).await?;
                let mut upload = WriteMultipart::new_with_chunk_size(upload, PART);
                let mut at = 0;
                while at < value.len {
                    let n = (value.len - at).min(PART as u64) as usize;
                    read(i, at, &mut piece[..n]).map_err(Failed::Caller)?;
                    upload.wait_for_capacity(PARTS).await?;
                    upload.write(&piece[..n]);
                    at += n as u64;
                }
                upload.finish().await?;
            }
        }
        // Last: whoever finds the entry finds the value.
        let entry = format!("{digest} {}\n", value.len);
        self.store.put(&self.key(&value.key), PutPayload::from(entry.into_bytes())).await?;
        Ok(())
    }
}

/// `sha256:<hex> <length>` and a line feed.
fn parse(bytes: &[u8]) -> Option<(Digest, u64)> {
    let (digest, len) = std::str::from_utf8(bytes).ok()?.strip_suffix('\n')?.split_once(' ')?;
    Some((digest.parse().ok()?, len.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_entry_is_a_digest_and_a_length() {
        let digest = Digest::of(b"x");
        assert_eq!(parse(format!("{digest} 7\n").as_bytes()), Some((digest, 7)));
        for bad in [
            "",
            "\n",
            "7\n",
            &format!("{digest} 7"),
            &format!("{digest} -7\n"),
            &format!("{digest} 7 8\n"),
            "sha256:../../x 7\n",
        ] {
            assert_eq!(parse(bad.as_bytes()), None, "{bad:?}");
        }
    }
}
