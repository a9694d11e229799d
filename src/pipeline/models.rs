//! What a command calls MODEL, opened.

use std::path::Path;

use crate::diagnostic::{Diagnostic, Result};
use crate::ir::Module;
use crate::passes::{package, resolve, verify};
use crate::runtime::stored;
use crate::store::{Name, Store, Stored, media};
use crate::world::{EntryKind, World};

/// Opens a model to be run: the path of a GGUF file, or of the first of its shards; else the name of a
/// model of the store, whose weights are what their digest says.
///
/// # Errors
/// There is neither, or it is damaged, incomplete, or of a family that is not known.
pub fn open_to_run(world: &dyn World, store: &Store, model: &str) -> Result<Module> {
    match path_of(world, model)? {
        Some(path) => {
            let module = resolve::open_gguf(world, path)?;
            verify::structure(&module)?;
            verify::family(&module)?;
            Ok(module)
        }
        None => stored::open(store, &store.read(&Name::parse(model)?)?),
    }
}

/// A model to be looked at.
pub struct Opened {
    /// Its weights, metadata and texts.
    pub module: Module,
    /// What else it has, such as a projector: media type and digest of each layer.
    pub other_layers: Vec<String>,
}

/// Opens a model to be looked at, found as [`open_to_run`] does: any GGUF file, or a model of the store.
///
/// # Errors
/// There is neither, or it is malformed.
pub fn open_to_read(world: &dyn World, store: &Store, model: &str) -> Result<Opened> {
    let opened = match path_of(world, model)? {
        Some(path) => Opened { module: resolve::open_gguf(world, path)?, other_layers: Vec::new() },
        None => {
            let stored = store.read(&Name::parse(model)?)?;
            let module = resolve::open_stored(world, store, &stored)?;
            Opened { module, other_layers: other_layers(&stored) }
        }
    };
    verify::structure(&opened.module)?;
    Ok(opened)
}

/// The layers that are no part of a module.
fn other_layers(model: &Stored) -> Vec<String> {
    let mut weights = 0;
    let others = model.manifest.layers.iter().filter(|layer| {
        weights += usize::from(layer.media_type == media::MODEL);
        !package::is_text(&layer.media_type) && (layer.media_type != media::MODEL || weights > 1)
    });
    others.map(|layer| format!("{} {}\n", layer.media_type, layer.digest)).collect()
}

/// The path of a file; `None` for what may be a name.
fn path_of<'a>(world: &dyn World, model: &'a str) -> Result<Option<&'a Path>> {
    let path = Path::new(model);
    match world.kind(path) {
        Some(EntryKind::File) => Ok(Some(path)),
        Some(EntryKind::Directory) if Name::parse(model).is_err() => {
            let message = format!("`{model}` is a directory; a GGUF file or a model's name is needed");
            Err(Diagnostic::error(message).help("`mdl build` makes a model of a checkpoint").into())
        }
        _ => Ok(None),
    }
}
