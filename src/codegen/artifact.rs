//! The weights of a model as a blob of the store.
//!
//! What an earlier build made is not made again: the whole file where all is the same, else each
//! tensor whose expression is.

use std::collections::HashMap;
use std::io::{BufWriter, Write};
use std::sync::Arc;

use super::emit::{Progress, Reuse, emit_gguf};
use super::key::{Key, layout, module_key, tensor_key};
use super::shared::{self, Shares};
use super::sources::{Sources, changed, read_all};
use super::{adapters, emit};
use crate::diagnostic::{Diagnostic, Result};
use crate::ir::{Module, SourceFile, Tensor};
use crate::store::{Digest, Layer, Store, Writer, media};
use crate::world::{File, SystemWorld, World};

/// The weights of `module` as a layer: found where an earlier build or the store has them, else written.
///
/// # Errors
/// A source cannot be read or changed meanwhile, a value cannot be encoded, an adapter changes nothing,
/// or the store cannot be written. Nothing is left then.
pub fn weights_layer(
    module: &Module,
    world: &dyn World,
    writer: &Writer,
    shares: Shares<'_>,
    progress: &dyn Progress,
) -> Result<Layer> {
    let store = writer.store();
    if let Some(layer) = stored_already(module, store)? {
        return Ok(layer);
    }
    let sources = Sources::identify(module, world, store, progress)?;
    if let Some(file) = module.verbatim {
        let digest = Digest::from_bytes(sources.digests[file.0]);
        let blob = match store.find_whole_blob(&digest)? {
            Some(blob) => blob,
            None => {
                let blob = copy(module, &module.files[file.0], writer, progress)?;
                sources.still_the_same(world)?;
                if blob.digest != digest {
                    return Err(changed(&module.files[file.0].path).into());
                }
                writer.remember_whole(&blob);
                blob
            }
        };
        return Ok(Layer::new(media::MODEL, blob.digest, blob.size));
    }

    let keys: Vec<Key> = module.tensors.iter().map(|t| tensor_key(t, &sources.digests)).collect();
    let whole = module_key(module, &keys)?;
    let cache = store.cache();
    if let Some(found) = cache.find(&whole.0).filter(|f| f.offset == 0)
        && let Some(blob) = store.find_whole_blob(&found.blob)?
    {
        tell(module, &[], module.tensors.len(), progress);
        if shares.to.is_some() {
            let ranges =
                layout(module)?.tensors().iter().map(|t| t.offset..t.offset + t.len).collect::<Vec<_>>();
            shared::offer(module, &keys, &[], &ranges, &blob.path, shares, progress)?;
        }
        return Ok(Layer::new(media::MODEL, found.blob, found.len));
    }
    adapters::refuse_unchanging(module)?;
    let mut reuse = earlier(store, &keys)?;
    let fetched = shared::fetch(module, &keys, &mut reuse, shares, writer, progress)?;
    tell(module, &reuse, 0, progress);
    let mut out = BufWriter::with_capacity(emit::BUFFER, writer.blob(None)?);
    let emitted = emit_gguf(module, &reuse, &mut out, store.root(), progress)?;
    let out = out.into_inner().map_err(|e| emit::write_failed(e.error(), store.root()))?;
    sources.still_the_same(world)?;
    let blob = out.finish()?;
    writer.remember_whole(&blob);
    let tensors = keys.iter().zip(&emitted.tensors);
    let mut values: Vec<_> =
        tensors.map(|(key, range)| (key.0, range.start, range.end - range.start)).collect();
    values.push((whole.0, 0, blob.size));
    cache.remember(&blob.digest, blob.size, &values);
    shared::offer(module, &keys, &fetched.refused, &emitted.tensors, &blob.path, shares, progress)?;
    Ok(Layer::new(media::MODEL, blob.digest, blob.size))
}

/// The layers of the adapters that are kept beside `module`, each given as the module of its file.
///
/// # Errors
/// As [`weights_layer`].
pub fn adapter_layers(
    module: &Module,
    files: &[Module],
    world: &dyn World,
    writer: &Writer,
    shares: Shares<'_>,
    progress: &dyn Progress,
) -> Result<Vec<Layer>> {
    if !files.is_empty() {
        adapters::refuse_unchanging(module)?;
    }
    let layer = |file: &Module| {
        let layer = weights_layer(file, world, writer, shares, progress)?;
        Ok(Layer::new(media::ADAPTER, layer.digest, layer.size))
    };
    files.iter().map(layer).collect()
}

/// Says how many tensors are computed; the others are in a source or in a cache as they are.
fn tell(module: &Module, reuse: &[Option<Reuse>], found: usize, progress: &dyn Progress) {
    let made = |(at, tensor): (usize, &Tensor)| {
        at >= found && shared::is_computed(&tensor.expr) && reuse.get(at).is_none_or(Option::is_none)
    };
    let count = module.tensors.iter().enumerate().filter(|t| made((t.0, t.1))).count();
    progress.pass(&format!("computing {count} of {} tensors", module.tensors.len()));
}

/// The layer of a module that is exactly a blob of this store.
fn stored_already(module: &Module, store: &Store) -> Result<Option<Layer>> {
    let Some(file) = module.verbatim else { return Ok(None) };
    let path = &module.files[file.0].path;
    let Some(digest) = path.file_name().and_then(|n| n.to_str()).and_then(|n| n.parse::<Digest>().ok())
    else {
        return Ok(None);
    };
    if *path != store.blob_path(&digest) {
        return Ok(None);
    }
    if store.find_blob(&digest)?.is_none() {
        return Ok(None);
    }
    match store.find_whole_blob(&digest)? {
        Some(blob) => Ok(Some(Layer::new(media::MODEL, digest, blob.size))),
        None => Err(damaged(&digest).into()),
    }
}

pub(super) fn damaged(digest: &Digest) -> Diagnostic {
    Diagnostic::error(format!("the source is damaged: the blob {digest} has other bytes"))
        .code("damaged-blob")
        .help("build or pull the model that it belongs to again")
}

/// What earlier builds made of the same expressions, in blobs that are still what they were.
fn earlier(store: &Store, keys: &[Key]) -> Result<Vec<Option<Reuse>>> {
    let cache = store.cache();
    let mut open: HashMap<[u8; 32], Option<Arc<dyn File>>> = HashMap::new();
    let mut reuse = Vec::with_capacity(keys.len());
    for key in keys {
        let found = cache.find(&key.0).and_then(|cached| {
            let file = open.entry(*cached.blob.as_bytes()).or_insert_with(|| {
                let blob = store.find_whole_blob(&cached.blob).ok()??;
                SystemWorld.open(&blob.path).ok()
            });
            Some(Reuse { file: file.clone()?, offset: cached.offset })
        });
        reuse.push(found);
    }
    Ok(reuse)
}

/// Copies an unchanged GGUF file into the store, after a look at each of its blocks.
fn copy(
    module: &Module,
    source: &SourceFile,
    writer: &Writer,
    progress: &dyn Progress,
) -> Result<crate::store::Blob> {
    emit::check_tensors(module, progress)?;
    let root = writer.store().root();
    let mut out = writer.blob(Some(source.file.len()))?;
    progress.begin("copying", source.file.len());
    read_all(source, |bytes| {
        out.write_all(bytes).map_err(|e| emit::write_failed(&e, root))?;
        progress.advance(bytes.len() as u64);
        Ok(())
    })?;
    progress.end();
    out.finish()
}
