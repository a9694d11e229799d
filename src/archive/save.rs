//! Writing models to a tar.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{self, Write};

use super::attached::{self, Beside};
use super::layout::{BLOBS, Descriptor, INDEX, LAYOUT, Layout, MEDIA_INDEX, REF_NAME};
use super::{layout, tar};
use crate::codegen::Progress;
use crate::diagnostic::{Diagnostic, Result};
use crate::store::{Digest, HashingWriter, Layer, Name, Store, Stored, to_go_json};

/// What was written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Saved {
    /// The models, in the order in which they were asked for.
    pub models: Vec<(Name, Digest)>,
    /// Bytes of the whole file.
    pub bytes: u64,
}

/// Bytes copied at a time.
const PIECE: usize = 1 << 20;

/// Writes models to `out`. Each blob is there once, however many models share it. No blob may be removed
/// meanwhile, so the store is held as a writer holds it.
///
/// # Errors
/// There is no such model; a blob is missing or damaged; `out` refuses.
pub fn save(store: &Store, names: &[Name], out: &mut dyn Write, progress: &dyn Progress) -> Result<Saved> {
    // Before the store is held, which would make one that is not there.
    for name in names {
        store.read(name)?;
    }
    let _held = store.writer()?;
    let models = names.iter().map(|name| store.read(name)).collect::<Result<Vec<Stored>>>()?;
    let mut blobs: BTreeMap<Digest, (&Stored, &Layer)> = BTreeMap::new();
    for model in &models {
        blobs.extend(model.manifest.blobs().map(|layer| (layer.digest, (model, layer))));
    }
    // Manifests, and what is kept beside models.
    let mut small: BTreeMap<Digest, Vec<u8>> = models.iter().map(|m| (m.id, m.bytes.clone())).collect();
    let mut beside: BTreeMap<Digest, Vec<Descriptor>> = BTreeMap::new();
    for model in &models {
        let Beside { descriptors, blobs } = attached::of(store, model)?;
        beside.insert(model.id, descriptors);
        small.extend(blobs);
    }
    let beside: Vec<Descriptor> = beside.into_values().flatten().collect();
    let mut out = Counted { out, bytes: 0 };
    write(&mut out, LAYOUT, &to_go_json(&Layout { image_layout_version: "1.0.0".to_owned() })?)?;
    write(&mut out, INDEX, &index(&models, beside)?)?;
    progress.begin("saving", blobs.values().map(|(_, layer)| layer.size).fold(0, u64::saturating_add));
    let digests: BTreeSet<Digest> = blobs.keys().chain(small.keys()).copied().collect();
    for digest in digests {
        let name = format!("{BLOBS}{}", digest.hex());
        match (small.get(&digest), blobs.get(&digest)) {
            (Some(bytes), _) => write(&mut out, &name, bytes)?,
            (None, Some((model, layer))) => copy(store, model, layer, &name, &mut out, progress)?,
            (None, None) => {}
        }
    }
    progress.end();
    out.write_all(&[0; 2 * tar::BLOCK]).map_err(|e| refused(&e))?;
    let named = models.into_iter().map(|m| (m.name, m.id)).collect();
    Ok(Saved { models: named, bytes: out.bytes })
}

/// The models by name, then what is attached to them.
fn index(models: &[Stored], beside: Vec<Descriptor>) -> Result<Vec<u8>> {
    let mut manifests: Vec<Descriptor> = models
        .iter()
        .map(|model| Descriptor {
            media_type: model.manifest.media_type().to_owned(),
            digest: model.id,
            size: model.bytes.len() as u64,
            annotations: BTreeMap::from([(REF_NAME.to_owned(), model.name.to_string())]),
        })
        .collect();
    manifests.sort_by(|a, b| a.annotations.cmp(&b.annotations));
    manifests.dedup_by(|a, b| a.annotations == b.annotations);
    manifests.extend(beside);
    to_go_json(&layout::Index { schema_version: 2, media_type: MEDIA_INDEX.to_owned(), manifests })
}

fn write(out: &mut dyn Write, name: &str, bytes: &[u8]) -> Result<()> {
    let header = tar::header(name, bytes.len() as u64)?;
    let padding = tar::padding(bytes.len() as u64);
    let written = out
        .write_all(&header)
        .and_then(|()| out.write_all(bytes))
        .and_then(|()| out.write_all(&[0; tar::BLOCK][..padding]));
    Ok(written.map_err(|e| refused(&e))?)
}

/// Copies a blob, and looks at every byte of it on the way.
fn copy(
    store: &Store,
    model: &Stored,
    layer: &Layer,
    name: &str,
    out: &mut dyn Write,
    progress: &dyn Progress,
) -> Result<()> {
    let file = store.open_layer(&model.name, layer)?;
    out.write_all(&tar::header(name, layer.size)?).map_err(|e| refused(&e))?;
    let mut hashing = HashingWriter::new(out);
    let mut piece = vec![0; PIECE];
    let mut at = 0;
    while at < file.len() {
        let n = (file.len() - at).min(PIECE as u64) as usize;
        let bytes = &mut piece[..n];
        file.read_at(at, bytes).map_err(|e| Diagnostic::io("read", &store.blob_path(&layer.digest), &e))?;
        hashing.write_all(bytes).map_err(|e| refused(&e))?;
        progress.advance(n as u64);
        at += n as u64;
    }
    let (out, digest, _) = hashing.finish();
    if digest != layer.digest {
        return Err(Diagnostic::error(format!("the blob {} of `{}` is damaged", layer.digest, model.name))
            .code("damaged-blob")
            .help("build or pull the model again")
            .into());
    }
    Ok(out.write_all(&[0; tar::BLOCK][..tar::padding(layer.size)]).map_err(|e| refused(&e))?)
}

fn refused(error: &io::Error) -> Diagnostic {
    Diagnostic::environment(format!("cannot write the archive: {error}")).code("write")
}

/// Counts what is written.
struct Counted<'a> {
    out: &'a mut dyn Write,
    bytes: u64,
}

impl Write for Counted<'_> {
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        let n = self.out.write(buf)?;
        self.bytes = self.bytes.saturating_add(n as u64);
        Ok(n)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.out.flush()
    }
}
