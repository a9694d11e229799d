//! Opens a model of the store to be run: what is mapped is what its digest says.

use crate::diagnostic::{Diagnostic, Result};
use crate::ir::Module;
use crate::passes::{fuse, resolve, verify};
use crate::store::{Digest, Store, Stored, media};
use crate::world::SystemWorld;

/// A model as a module, after a look at its blobs. A blob is hashed the first time, and again when its
/// file's size, time or identity has changed.
///
/// # Errors
/// A blob is damaged or missing, or the model is not complete.
pub fn open(store: &Store, model: &Stored) -> Result<Module> {
    resolve::refuse_unsupported(model)?;
    for layer in [media::MODEL, media::ADAPTER].into_iter().flat_map(|ty| model.manifest.layers_of(ty)) {
        check_blob(store, model, &layer.digest)?;
    }
    let mut module = resolve::open_stored(&SystemWorld, store, model)?;
    if !module.adapters.is_empty() {
        module = fuse::keep(module)?;
    }
    verify::structure(&module)?;
    verify::family(&module)?;
    Ok(module)
}

fn check_blob(store: &Store, model: &Stored, digest: &Digest) -> Result<()> {
    if store.find_blob(digest)?.is_some() && store.find_whole_blob(digest)?.is_none() {
        return Err(Diagnostic::error(format!(
            "the weights of `{}` are damaged: the blob {digest} has other bytes",
            model.name
        ))
        .code("damaged-blob")
        .help("build or pull the model again")
        .into());
    }
    Ok(())
}
