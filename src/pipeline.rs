//! Every pass in order, with the verifier between them, on one screen; and what is done with whole
//! models beside compiling them.

pub mod bench;
pub mod diff;
pub mod importance;
pub mod limit;
pub mod measure;
pub mod models;
mod rebuild;
mod templates;

use std::io::Write;
use std::path::{Path, PathBuf};

use crate::codegen::{self, Progress, Shares};
use crate::diagnostic::{Diagnostic, Location, Result};
use crate::ir::Module;
use crate::modelfile::{self, Checked, Recipe};
use crate::passes::{Context, fuse, import, package, quantize, resolve, unfused, verify};
use crate::prompt::{self, Limits, Renderer};
use crate::provenance;
use crate::store::{Digest, Document, Layer, Manifest, Name, Published, Store, WriteBehind};
use crate::world::{self, EntryKind, World};

pub use rebuild::rebuild;
pub use templates::{is_template, read_template, template};

/// A Modelfile that was read and checked, and the directory its paths start from.
pub struct Input {
    /// The file, as it was named.
    pub path: PathBuf,
    /// Its directory.
    pub directory: PathBuf,
    /// The tree, the recipe, and what is wrong with them.
    pub checked: Checked,
}

/// Reads `path`: a Modelfile, or a directory that has one. A directory with weights but no Modelfile is
/// read as if it had one that says `FROM .`.
///
/// # Errors
/// There is no such file, or it is no text.
pub fn read(world: &dyn World, path: &Path) -> Result<Input> {
    let is_directory = world.kind(path) == Some(EntryKind::Directory);
    let file = if is_directory { path.join("Modelfile") } else { path.to_owned() };
    let directory = match file.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent.to_owned(),
        _ => PathBuf::from("."),
    };
    let bytes = if is_directory && world.kind(&file).is_none() {
        b"FROM .\n".to_vec()
    } else {
        world::read_file(world, &file, modelfile::MAX_BYTES as u64)?
    };
    let checked = check(world, &directory, &file.display().to_string(), &bytes);
    Ok(Input { path: file, directory, checked })
}

/// Checks the text of a Modelfile that stands, or will stand, in `directory`: all that `mdl check` says of it.
/// `name` is what diagnostics call it.
pub fn check(world: &dyn World, directory: &Path, name: &str, bytes: &[u8]) -> Checked {
    let mut checked = modelfile::check(world, directory, name, bytes);
    let place = checked.recipe.spans.template.as_ref();
    if let Some(text) = checked.recipe.prompt.template.as_deref().filter(|t| !t.is_empty()) {
        checked.diagnostics.extend(prompt::check::check(text, place, Limits::DEFAULT));
        checked.diagnostics.sort_by_key(|d| match &d.location {
            Some(Location::Text(span)) => span.range.start,
            _ => usize::MAX,
        });
    }
    checked
}

/// Plans a build: no weight is read. `renderer` tries the templates; `observe` sees the module after each pass.
///
/// # Errors
/// What the passes and the verifier report.
pub fn compile(
    recipe: &Recipe,
    context: &Context<'_>,
    renderer: &Renderer,
    observe: &mut dyn FnMut(&'static str, &Module),
) -> Result<Module> {
    let module = resolve::run(recipe, context)?;
    verify::structure(&module)?;
    observe("resolve", &module);

    let mut module = import::run(module, context)?;
    templates::try_templates(&mut module, recipe, context, renderer)?;
    verify::structure(&module)?;
    verify::family(&module)?;
    observe("import", &module);

    let module = fuse::run(module, context)?;
    verify::structure(&module)?;
    observe("fuse", &module);

    let module = quantize::run(module, context)?;
    verify::structure(&module)?;
    verify::family(&module)?;
    observe("quantize", &module);
    Ok(module)
}

/// Makes the artifacts of a planned module and gives them a name in the store.
///
/// # Errors
/// The weights cannot be read or encoded, or the store cannot be written. The store is as it was then.
pub fn publish(
    module: &Module,
    world: &dyn World,
    store: &Store,
    name: &Name,
    progress: &dyn Progress,
) -> Result<Published> {
    publish_held(module, world, store, name, Held::default(), progress)
}

/// What a build is held to, and what helps it.
#[derive(Clone, Copy, Default)]
pub struct Held<'a> {
    /// The digest that the model's manifest must have.
    pub expected: Option<&'a Digest>,
    /// Caches that are shared with other builds.
    pub shares: Shares<'a>,
}

/// As [`publish()`], if the model is what it must be.
///
/// # Errors
/// As [`publish()`]; or the manifest has another digest.
pub fn publish_held(
    module: &Module,
    world: &dyn World,
    store: &Store,
    name: &Name,
    held: Held<'_>,
    progress: &dyn Progress,
) -> Result<Published> {
    let package = package::pack(module)?;
    let writer = store.writer()?;
    let Held { expected, shares } = held;
    let mut layers = vec![codegen::weights_layer(module, world, &writer, shares, progress)?];
    let adapters = unfused::files(module);
    layers.extend(codegen::adapter_layers(module, &adapters, world, &writer, shares, progress)?);
    progress.pass("publishing");
    for layer in &package.layers {
        let blob = writer.put(&layer.bytes)?;
        layers.push(Layer::new(layer.media_type, blob.digest, blob.size));
    }
    let manifest = writer.manifest(&package.config.to_bytes()?, layers)?;
    if let Some(expected) = expected.filter(|e| **e != Digest::of(&manifest)) {
        let made: Vec<Digest> = Manifest::parse(&manifest)?.blobs().map(|l| l.digest).collect();
        drop(writer);
        // Of what was made, what no model needs goes. Where that fails, `mdl gc` will do it.
        let _ = store.prune(&made);
        return Err(Diagnostic::error(format!("the model is {}, not {expected}", Digest::of(&manifest)))
            .code("another-artifact")
            .label("what it is made of is the same, so another version of mdl makes other bytes of it")
            .help("`mdl build --lock` accepts them")
            .into());
    }
    let published = writer.publish_manifest(name, &manifest)?;
    drop(writer);
    // What the name meant before goes, as far as nothing else needs it.
    store.prune(&published.replaced)?;
    Ok(published)
}

/// Writes how a model was built, and what of, and keeps both beside it. `to` is a directory, or the file of the
/// statement, beside which the bill of materials is put.
///
/// # Errors
/// A file cannot be written.
pub fn write_provenance(build: &provenance::Build<'_>, store: &Store, to: &Path) -> Result<()> {
    let (statement, bom) = match to.is_dir() {
        true => (to.join(Document::Statement.file_name()), to.join(Document::Bom.file_name())),
        false => (to.to_owned(), to.with_extension("bom.json")),
    };
    for (document, path, value) in [
        (Document::Statement, statement, provenance::statement(build)),
        (Document::Bom, bom, provenance::bom(build)),
    ] {
        let text = format!("{value:#}\n");
        store.keep_document(build.id, document, text.as_bytes())?;
        write_file(&path, |out| {
            out.write_all(text.as_bytes()).map_err(|e| Diagnostic::io("write", &path, &e).into())
        })?;
    }
    Ok(())
}

/// Writes the GGUF file of a planned module to `path`, outside of any store. A failure leaves nothing
/// there. Returns the bytes written.
///
/// # Errors
/// The weights cannot be read or encoded, or the file cannot be written.
pub fn write_gguf(module: &Module, path: &Path, progress: &dyn Progress) -> Result<u64> {
    write_file(path, |out| codegen::write_weights(module, out, path, progress))
}

/// Writes a file that is there whole or not at all: what it was before stays until `write` is done.
///
/// # Errors
/// The file cannot be written, or those of `write`.
pub fn write_file<T>(path: &Path, write: impl FnOnce(&mut dyn Write) -> Result<T>) -> Result<T> {
    let directory = match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    };
    let failed = |e: &std::io::Error| Diagnostic::io("write", path, e);
    // A device or a pipe is written to; to put a file in its place would be the end of it.
    if std::fs::metadata(path).is_ok_and(|m| !m.is_file() && !m.is_dir()) {
        let file = std::fs::OpenOptions::new().write(true).open(path).map_err(|e| failed(&e))?;
        let mut out = std::io::BufWriter::with_capacity(codegen::BUFFER, file);
        let written = write(&mut out)?;
        out.flush().map_err(|e| failed(&e))?;
        return Ok(written);
    }
    let mut builder = tempfile::Builder::new();
    // What a file has that any other program makes: the umask takes its part of it.
    #[cfg(unix)]
    builder.permissions(std::os::unix::fs::PermissionsExt::from_mode(0o666));
    let file = builder.tempfile_in(directory).map_err(|e| failed(&e))?;
    let mut out = std::io::BufWriter::with_capacity(codegen::BUFFER, Behind::new(file));
    let written = write(&mut out)?;
    let Behind { mut behind, file } = out.into_inner().map_err(|e| failed(e.error()))?;
    behind.sync(file.as_file()).map_err(|e| failed(&e))?;
    file.persist(path).map_err(|e| failed(&e.error))?;
    Ok(written)
}

/// A temporary file that goes to the disk while it is written.
struct Behind {
    behind: WriteBehind,
    file: tempfile::NamedTempFile,
}

impl Behind {
    fn new(file: tempfile::NamedTempFile) -> Behind {
        Behind { behind: WriteBehind::default(), file }
    }
}

impl Write for Behind {
    fn write(&mut self, buf: &[u8]) -> std::io::Result<usize> {
        let written = self.file.as_file_mut().write(buf)?;
        self.behind.wrote(self.file.as_file(), written);
        Ok(written)
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}
