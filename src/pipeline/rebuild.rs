//! Builds a model again, with nothing that an earlier build made, to see that it is the same.

use std::path::Path;

use super::{Held, Input, compile, publish_held, read};
use crate::codegen::Progress;
use crate::diagnostic::{Diagnostic, Result};
use crate::passes::Context;
use crate::prompt::Renderer;
use crate::provenance::{self, Lock, Recording};
use crate::store::{Digest, Name, Store};
use crate::world::World;

/// Builds what the lock beside the Modelfile at `path` says, in a store of its own that goes again; the digest of the
/// manifest. `store` has the models that FROM names.
///
/// # Errors
/// There is no lock; a source, an option or the result is another than the lock says.
pub fn rebuild(
    world: &dyn World,
    path: &Path,
    store: &Store,
    renderer: &Renderer,
    progress: &dyn Progress,
) -> Result<Digest> {
    let Input { path, directory, checked } = read(world, path)?;
    let (recipe, _) = checked.into_recipe()?;
    let lock_path = Lock::path_of(&path);
    let lock = Lock::read(world, &lock_path)?;
    let recording = Recording::new(world);
    let options = lock.options(&recording, &directory).map_err(|mut errors| {
        errors.0.iter_mut().for_each(|d| d.help.push(format!("read from {}", lock_path.display())));
        errors
    })?;
    let context = Context::new(&recording, Some(store), directory.clone(), options);
    let module = compile(&recipe, &context, renderer, &mut |_, _| ())?;
    let imatrix = lock.imatrix(&directory);
    let sources = provenance::identify(&recipe, &directory, imatrix.as_deref(), &recording, store, progress)?;
    lock.require(&lock_path, &recipe.prompt, &context.options, &sources)?;
    let place = tempfile::tempdir()
        .map_err(|e| Diagnostic::environment(format!("cannot make a directory to build in: {e}")))?;
    let held = Held { expected: Some(&lock.artifact), ..Held::default() };
    publish_held(&module, world, &Store::open(place.path())?, &Name::parse("rebuilt")?, held, progress)?;
    Ok(lock.artifact)
}
