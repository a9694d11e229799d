//! Reading models from a tar.

use std::collections::{BTreeMap, BTreeSet};
use std::io::Write as _;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use super::attached::{self, Attachment};
use super::layout::{
    BLOBS, Descriptor, INDEX, Index, LAYOUT, Layout, MEDIA_INDEX, MEDIA_LIST, MEDIA_MANIFEST, NAMES,
};
use super::tar::{self, refused};
use crate::codegen::Progress;
use crate::diagnostic::{Diagnostic, Errors, Location, Result};
use crate::signing::PublicKey;
use crate::store::{Digest, Layer, MANIFEST_LIMIT, Manifest, Name, Published, Store, Stored, media};
use crate::world::{File, World};

/// Bytes hashed or copied at a time.
const PIECE: usize = 1 << 20;

/// The most manifests of one archive.
const MOST: usize = 1000;

/// A model that was read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Loaded {
    /// Its name.
    pub name: Name,
    /// Its identity.
    pub id: Digest,
}

/// What is asked of an archive.
#[derive(Clone, Copy, Default)]
pub struct Wanted<'a> {
    /// What to call the one model that is in it.
    pub name: Option<&'a Name>,
    /// Each model must be signed with one of these, if there are any.
    pub keys: &'a [PublicKey],
}

/// Reads every model of an archive into the store.
///
/// # Errors
/// It is no such archive; a digest or a size is not what it should be; something is in it that is no model, or not signed
/// as it must be. The store has the models that it had, then.
pub fn load(
    world: &dyn World,
    path: &Path,
    store: &Store,
    wanted: Wanted<'_>,
    progress: &dyn Progress,
) -> Result<Vec<Loaded>> {
    let file = world.open(path).map_err(|e| Diagnostic::io("read", path, &e))?;
    read(&*file, store, wanted, progress).map_err(|Errors(mut all)| {
        for d in all.iter_mut().filter(|d| d.code == "bad-archive" && d.location.is_none()) {
            d.location = Some(Location::File { path: path.to_owned(), place: None });
        }
        Errors(all)
    })
}

/// A manifest of the archive and what it shall be called.
struct Model {
    name: Name,
    bytes: Vec<u8>,
    manifest: Manifest,
}

fn read(file: &dyn File, store: &Store, wanted: Wanted<'_>, progress: &dyn Progress) -> Result<Vec<Loaded>> {
    let Wanted { name, keys } = wanted;
    let archive = Archive { files: tar::files(file)?, file };
    let layout: Layout = archive.json(LAYOUT)?;
    if !layout.image_layout_version.starts_with("1.") {
        return Err(refused(&format!("its layout is of version {:?}", layout.image_layout_version)).into());
    }
    let index: Index = archive.json(INDEX)?;
    let mut found = Found::default();
    archive.find(&index, None, name, 0, &mut found)?;
    let Found { models, attachments } = found;
    match (name, models.len()) {
        (_, 0) => return Err(refused("no model is in it").into()),
        (Some(_), 2..) => {
            let d = refused("several models are in it, and one name is given");
            return Err(d.help("leave the name out: each has its own").into());
        }
        _ => {}
    }
    // Two of one name: the second would take it from the first without a word.
    let names: BTreeSet<&Name> = models.iter().map(|m| &m.name).collect();
    if names.len() < models.len() {
        return Err(refused("two models in it have the same name").into());
    }
    let layers: BTreeMap<Digest, u64> =
        models.iter().flat_map(|m| m.manifest.blobs()).map(|l| (l.digest, l.size)).collect();
    let total = layers.values().copied().fold(0, u64::saturating_add);
    let ids: BTreeSet<Digest> = models.iter().map(|m| Digest::of(&m.bytes)).collect();
    // What is attached to something else is nothing to keep.
    let attachments = attachments.into_iter().filter(|a| ids.contains(&a.subject));
    let attached = attachments
        .map(|a| archive.small(&a.layer).map(|bytes| (a, bytes)))
        .collect::<Result<Vec<(Attachment, Vec<u8>)>>>()?;
    for layer in models.iter().flat_map(|m| m.manifest.blobs()) {
        archive.require(layer)?;
    }
    progress.begin("checking", total);
    for digest in layers.keys() {
        archive.check(digest, progress)?;
    }
    progress.end();
    if !keys.is_empty() {
        models
            .iter()
            .try_for_each(|model| attached::require_signature(store, &model.stored(), &attached, keys))?;
    }
    let writer = store.writer()?;
    progress.begin("loading", total);
    for (digest, size) in &layers {
        if store.find_whole_blob(digest)?.is_some_and(|blob| blob.size == *size) {
            progress.advance(*size);
            continue;
        }
        let mut blob = writer.blob(Some(*size))?;
        archive.each(digest, |bytes| {
            blob.write_all(bytes).map_err(|e| blob.diagnose(&e))?;
            progress.advance(bytes.len() as u64);
            Ok(())
        })?;
        // It was checked, so the file has changed since.
        let blob = blob.finish_as(digest)?.map_err(|_| refused("it changed while it was read"))?;
        writer.remember_whole(&blob);
    }
    progress.end();
    attached::keep(&writer, &attached)?;
    let published = models
        .iter()
        .map(|model| writer.publish_manifest(&model.name, &model.bytes))
        .collect::<Result<Vec<Published>>>()?;
    drop(writer);
    let replaced: Vec<Digest> = published.iter().flat_map(|p| p.replaced.clone()).collect();
    store.prune(&replaced)?;
    Ok(published.into_iter().map(|p| Loaded { name: p.name, id: p.id }).collect())
}

impl Model {
    /// The model as the store would give it.
    fn stored(&self) -> Stored {
        Stored {
            name: self.name.clone(),
            id: Digest::of(&self.bytes),
            manifest: self.manifest.clone(),
            bytes: self.bytes.clone(),
            path: PathBuf::new(),
            modified: SystemTime::UNIX_EPOCH,
        }
    }
}

/// What an archive has.
#[derive(Default)]
struct Found {
    models: Vec<Model>,
    attachments: Vec<Attachment>,
}

struct Archive<'a> {
    file: &'a dyn File,
    files: BTreeMap<String, Range<u64>>,
}

impl Archive<'_> {
    /// Finds the models of an index, what is attached to them, and of an index in it: a list for several platforms, which a model has one of.
    fn find(
        &self,
        index: &Index,
        called: Option<&str>,
        name: Option<&Name>,
        depth: usize,
        found: &mut Found,
    ) -> Result<()> {
        if index.schema_version != 2 || index.manifests.len() > MOST {
            return Err(refused("its index is no index of this form").into());
        }
        for descriptor in &index.manifests {
            let called =
                NAMES.iter().find_map(|a| descriptor.annotations.get(*a)).map(String::as_str).or(called);
            let bytes = self.small(descriptor)?;
            match descriptor.media_type.as_str() {
                MEDIA_INDEX | MEDIA_LIST if depth == 0 => {
                    let inner: Index = serde_json::from_slice(&bytes)
                        .map_err(|e| refused(&format!("{} is no index: {e}", descriptor.digest)))?;
                    self.find(&inner, called, name, depth + 1, found)?;
                }
                MEDIA_MANIFEST | media::MANIFEST => {
                    match attached::parse(&bytes)? {
                        None => found.models.push(model(called, name, descriptor, bytes)?),
                        Some(attachment) => found.attachments.extend(attachment),
                    }
                    if found.models.len().max(found.attachments.len()) > MOST {
                        return Err(refused("too many manifests are in it").into());
                    }
                }
                other => {
                    return Err(refused(&format!("{} is of the type {other:?}", descriptor.digest)).into());
                }
            }
        }
        Ok(())
    }

    fn range(&self, name: &str) -> Result<Range<u64>> {
        let range = self.files.get(name).cloned();
        Ok(range.ok_or_else(|| refused(&format!("`{name}` is missing")))?)
    }

    fn blob(&self, digest: &Digest) -> Result<Range<u64>> {
        self.range(&format!("{BLOBS}{}", digest.hex()))
    }

    /// A file that is read whole.
    fn bytes(&self, name: &str) -> Result<Vec<u8>> {
        let range = self.range(name)?;
        let len = range.end - range.start;
        if len > MANIFEST_LIMIT {
            return Err(refused(&format!("`{name}` has {len} bytes, more than {MANIFEST_LIMIT}")).into());
        }
        let mut bytes = vec![0; len as usize];
        self.file.read_at(range.start, &mut bytes).map_err(|e| unreadable(&e))?;
        Ok(bytes)
    }

    fn json<T: serde::de::DeserializeOwned>(&self, name: &str) -> Result<T> {
        let bytes = self.bytes(name)?;
        Ok(serde_json::from_slice(&bytes).map_err(|e| refused(&format!("`{name}` cannot be read: {e}")))?)
    }

    /// The bytes of a manifest or an index, which are those that the descriptor promises.
    fn small(&self, descriptor: &Descriptor) -> Result<Vec<u8>> {
        let digest = &descriptor.digest;
        let bytes = self.bytes(&format!("{BLOBS}{}", digest.hex()))?;
        if bytes.len() as u64 != descriptor.size {
            return Err(wrong_size(digest, bytes.len() as u64, descriptor.size).into());
        }
        if Digest::of(&bytes) != *digest {
            return Err(wrong_digest(digest).into());
        }
        Ok(bytes)
    }

    /// Fails where a blob's bytes are others than its name says.
    fn check(&self, digest: &Digest, progress: &dyn Progress) -> Result<()> {
        use sha2::Digest as _;
        let mut hash = sha2::Sha256::new();
        self.each(digest, |bytes| {
            hash.update(bytes);
            progress.advance(bytes.len() as u64);
            Ok(())
        })?;
        match Digest::from_bytes(hash.finalize().into()) == *digest {
            true => Ok(()),
            false => Err(wrong_digest(digest).into()),
        }
    }

    fn each(&self, digest: &Digest, mut each: impl FnMut(&[u8]) -> Result<()>) -> Result<()> {
        let range = self.blob(digest)?;
        let mut piece = vec![0; PIECE];
        let mut at = range.start;
        while at < range.end {
            let n = (range.end - at).min(PIECE as u64) as usize;
            self.file.read_at(at, &mut piece[..n]).map_err(|e| unreadable(&e))?;
            each(&piece[..n])?;
            at += n as u64;
        }
        Ok(())
    }

    /// Fails where a layer is missing, or of another size than its manifest states.
    fn require(&self, layer: &Layer) -> Result<()> {
        let range = self.blob(&layer.digest)?;
        let len = range.end - range.start;
        match len == layer.size {
            true => Ok(()),
            false => Err(wrong_size(&layer.digest, len, layer.size).into()),
        }
    }
}

fn model(
    called: Option<&str>,
    name: Option<&Name>,
    descriptor: &Descriptor,
    bytes: Vec<u8>,
) -> Result<Model> {
    let manifest = Manifest::parse(&bytes).map_err(|e| refused(&e.to_string()))?;
    let name = match (name, called) {
        (Some(name), _) => name.clone(),
        (None, Some(called)) => {
            Name::parse(called).map_err(|e| refused(&format!("{called:?} in it names no model: {e}")))?
        }
        (None, None) => {
            let d = refused(&format!("{} has no name in it", descriptor.digest));
            return Err(d.help("give it one with `-t NAME`").into());
        }
    };
    if manifest.layer(media::MODEL).is_none() {
        let types: BTreeSet<&str> = manifest.layers.iter().map(|l| l.media_type.as_str()).collect();
        let types = types.into_iter().take(5).collect::<Vec<_>>().join(", ");
        return Err(
            refused(&format!("`{name}` in it is no model: its layers are of the types {types}")).into()
        );
    }
    Ok(Model { name, bytes, manifest })
}

fn wrong_size(digest: &Digest, has: u64, stated: u64) -> Diagnostic {
    refused(&format!("{digest} has {has} bytes, not {stated}"))
}

fn wrong_digest(digest: &Digest) -> Diagnostic {
    refused(&format!("the bytes of {digest} are others"))
}

fn unreadable(error: &std::io::Error) -> Diagnostic {
    Diagnostic::environment(format!("cannot read the archive: {error}"))
}
