//! `resolve`: FROM and ADAPTER become open files and a module of loads.
//!
//! FROM names, in this order: a path that exists (a GGUF file, one of its shards, or a directory
//! with a checkpoint or one GGUF model), or a model of the store.

use std::path::{Path, PathBuf};

use crate::diagnostic::{Diagnostic, Errors, Location, Result, Span};
use crate::formats::adapter::{Adapter as AdapterFiles, Factor, TensorRef};
use crate::formats::checkpoint::{self, Checkpoint, Weights};
use crate::formats::gguf;
use crate::ir::{Adapter, AdapterChange, Change, Expr, FileId, Module, Shape, SourceText, Tensor};
use crate::modelfile::{AdapterLine, Recipe, Spanned, path};
use crate::store::{Name, Store, Stored, media};
use crate::world::{EntryKind, World};

use super::{Context, package};

/// Texts of a checkpoint that import reads, with the most bytes each may have.
const TEXTS: &[(&str, u64)] = &[
    ("config.json", 1 << 20),
    ("params.json", 1 << 20),
    ("generation_config.json", 1 << 20),
    ("tokenizer.json", 256 << 20),
    ("tokenizer_config.json", 32 << 20),
    ("special_tokens_map.json", 1 << 20),
    ("added_tokens.json", 32 << 20),
    ("tekken.json", 64 << 20),
    ("tokenizer.model", 64 << 20),
    ("sentencepiece.bpe.model", 64 << 20),
    ("spiece.model", 64 << 20),
    ("vocab.json", 64 << 20),
    ("merges.txt", 64 << 20),
    ("vocab.txt", 64 << 20),
    ("chat_template.jinja", 1 << 20),
    ("modules.json", 1 << 20),
    ("1_Pooling/config.json", 1 << 20),
];

/// Runs the pass.
///
/// # Errors
/// Nothing is where FROM or ADAPTER points, or what is there cannot be read.
pub fn run(recipe: &Recipe, context: &Context<'_>) -> Result<Module> {
    let mut module = Module::default();
    match recipe.from.as_slice() {
        [] => return Err(Diagnostic::error("no FROM line").into()),
        [from] => resolve_from(&mut module, from, context).map_err(|e| at(e, from))?,
        [_, second, ..] => {
            return Err(Diagnostic::error("a model is made from one FROM")
                .at(&second.span)
                .label("a second source, such as a projector, is not supported yet")
                .into());
        }
    }
    if let Some(draft) = &recipe.draft {
        return Err(refuse_draft(recipe, draft, context));
    }
    for adapter in &recipe.adapters {
        resolve_adapter(&mut module, adapter, context).map_err(|e| at(e, &adapter.path))?;
    }
    let base = std::mem::take(&mut module.prompt);
    module.prompt = package::overlay(base, recipe.prompt.clone());
    Ok(module)
}

fn refuse_draft(recipe: &Recipe, draft: &Spanned<String>, context: &Context<'_>) -> Errors {
    let canonical = |line: &Spanned<String>| {
        let path = path::expand(context.world, &context.directory, &line.value).ok()?;
        context.world.canonical(&path).ok()
    };
    let there = canonical(draft);
    let same = there.is_some() && recipe.from.iter().any(|from| canonical(from) == there);
    let message = match same {
        true => format!("DRAFT must not reference the same local path as FROM: {}", draft.value),
        false => "DRAFT is not supported yet".to_owned(),
    };
    Diagnostic::error(message).at(&draft.span).into()
}

/// Points an error that has no place of its own at the line that led to it; one inside a file keeps its
/// place and names the line as well.
fn at(mut errors: Errors, line: &Spanned<String>) -> Errors {
    for d in &mut errors.0 {
        match &d.location {
            None => d.location = Some(Location::Text(line.span.clone())),
            Some(Location::File { .. }) => {
                let (row, _) = line.span.line_column();
                d.help.push(format!("named at {}:{row}", line.span.source.name));
            }
            Some(Location::Text(_)) => {}
        }
    }
    errors
}

fn resolve_from(module: &mut Module, from: &Spanned<String>, context: &Context<'_>) -> Result<()> {
    let path = path::expand(context.world, &context.directory, &from.value)?;
    match context.world.kind(&path) {
        Some(EntryKind::Directory) => match Weights::find(context.world, &path)? {
            Weights::Safetensors(_) | Weights::Torch(_) => load_checkpoint(module, &path, context),
            Weights::Gguf(files) => load_gguf(module, &only_model(&path, files)?, context.world),
        },
        Some(EntryKind::File) if path.extension().is_some_and(|e| e == "safetensors") => {
            Err(Diagnostic::error("a Safetensors file alone does not say what its weights are")
                .help("name its directory, with config.json and tokenizer.json beside it")
                .into())
        }
        Some(EntryKind::File) => load_gguf(module, &path, context.world),
        None => load_stored(module, from, &path, context),
    }
}

/// A GGUF file, or all shards of one, as a module: its metadata and its tensors as they are.
///
/// # Errors
/// A file is missing or malformed.
pub fn open_gguf(world: &dyn World, path: &Path) -> Result<Module> {
    let mut module = Module::default();
    load_gguf(&mut module, path, world)?;
    Ok(module)
}

/// The GGUF model of a directory: its only file, or the first shard of its only model.
fn only_model(directory: &Path, files: Vec<String>) -> Result<PathBuf> {
    let mut firsts = files.iter().filter(|name| {
        let shard = name
            .strip_suffix(".gguf")
            .and_then(|n| n.rsplit_once("-of-"))
            .and_then(|(n, _)| n.rsplit_once('-'));
        shard.is_none_or(|(_, number)| number == "00001")
    });
    match (firsts.next(), firsts.next()) {
        (Some(one), None) => Ok(directory.join(one)),
        (None, _) => {
            let message = format!("the first shard of the model in {} is missing", directory.display());
            Err(Diagnostic::error(message).code("missing-shard").into())
        }
        _ => Err(Diagnostic::error(format!("{} GGUF models are in {}", files.len(), directory.display()))
            .help("name one of the files")
            .into()),
    }
}

fn load_checkpoint(module: &mut Module, directory: &Path, context: &Context<'_>) -> Result<()> {
    let checkpoint = Checkpoint::open(context.world, directory)?;
    let files: Vec<FileId> =
        checkpoint.files.iter().map(|f| module.add_file(&f.path, f.file.clone())).collect();
    module.tensors = checkpoint
        .tensors()
        .map(|(file, info)| Tensor { name: info.name.clone(), expr: info.load(files[file]) })
        .collect();
    for (name, limit) in TEXTS {
        if let Some(bytes) = checkpoint::read_optional(context.world, directory, name, *limit)? {
            module.texts.push(SourceText {
                name: (*name).to_owned(),
                path: directory.join(name),
                bytes: bytes.into(),
            });
        }
    }
    if module.text("config.json").is_none() && module.text("params.json").is_none() {
        return Err(Diagnostic::error("the checkpoint has no config.json")
            .in_file(directory, "")
            .help("download the whole repository, not the weights alone")
            .into());
    }
    Ok(())
}

fn load_gguf(module: &mut Module, path: &Path, world: &dyn World) -> Result<()> {
    let mut shards = gguf::read_shards(world, path)?;
    module.metadata = gguf::take_metadata(&mut shards);
    let single = shards.len() == 1;
    for shard in shards {
        let file = module.add_file(&shard.path, shard.file);
        let tensors = shard.gguf.tensors.into_iter();
        module.tensors.extend(tensors.map(|info| Tensor { expr: info.load(file), name: info.name }));
        module.verbatim = single.then_some(file);
    }
    Ok(())
}

fn load_stored(
    module: &mut Module,
    from: &Spanned<String>,
    path: &Path,
    context: &Context<'_>,
) -> Result<()> {
    let Some(store) = context.store else { return Err(nowhere(from, path, None)) };
    let Ok(name) = Name::parse(&from.value) else { return Err(nowhere(from, path, None)) };
    let Some(stored) = store.find(&name)? else { return Err(nowhere(from, path, Some(store))) };
    refuse_unsupported(&stored)?;
    for (media_type, what) in [(media::PROJECTOR, "projector"), (media::DRAFT, "draft model")] {
        if stored.manifest.layer(media_type).is_some() {
            let message = format!("the {what} of `{}` is left out: it is not supported yet", stored.name);
            context.note(Diagnostic::warning(message).at(&from.span).code("left-out"));
        }
    }
    *module = open_stored(context.world, store, &stored)?;
    Ok(())
}

/// Refuses a model with parts that would be left out without a word.
///
/// # Errors
/// It has a second file of weights.
pub fn refuse_unsupported(model: &Stored) -> Result<()> {
    if model.manifest.layers_of(media::MODEL).nth(1).is_none() {
        return Ok(());
    }
    let message = format!("`{}` has a second model, which is not supported yet", model.name);
    Err(Diagnostic::error(message)
        .code("unsupported")
        .help("without it the model would answer otherwise than it should")
        .into())
}

/// A model of the store as a module: its prompt, its metadata, its tensors as they are, and its adapters.
///
/// # Errors
/// It has no weights of its own, or a layer is missing or damaged.
pub fn open_stored(world: &dyn World, store: &Store, model: &Stored) -> Result<Module> {
    let mut weights = model.manifest.layers_of(media::MODEL);
    let layer = weights.next().ok_or_else(|| {
        Diagnostic::error(format!("`{}` has no weights of its own", model.name)).code("no-weights")
    })?;
    store.open_layer(&model.name, layer)?;
    let mut module = Module { prompt: package::read(store, model)?, ..Module::default() };
    load_gguf(&mut module, &store.blob_path(&layer.digest), world)?;
    for layer in model.manifest.layers_of(media::ADAPTER) {
        store.open_layer(&model.name, layer)?;
        let path = store.blob_path(&layer.digest);
        let adapter = AdapterFiles::open(world, &path)?;
        add_adapter(&mut module, path, adapter, 1.0);
        module.unfused = true;
    }
    Ok(module)
}

/// Nothing is there, neither a file nor a model.
fn nowhere(from: &Spanned<String>, path: &Path, store: Option<&Store>) -> Errors {
    let mut d = Diagnostic::error(format!("`{}` is neither a file nor a model of the store", from.value))
        .code("from-not-found")
        .label(format!("looked for {}", path.display()));
    let names: Vec<String> = store
        .and_then(|s| s.list().ok())
        .map(|entries| entries.iter().map(|e| e.name.to_string()).collect())
        .unwrap_or_default();
    let near = names.iter().min_by_key(|n| strsim::levenshtein(n, &from.value));
    if let Some(near) = near.filter(|n| strsim::normalized_levenshtein(n, &from.value) > 0.5) {
        d = d.help(format!("the store has `{near}`"));
    }
    d.into()
}

fn resolve_adapter(module: &mut Module, line: &AdapterLine, context: &Context<'_>) -> Result<()> {
    let path = path::expand(context.world, &context.directory, &line.path.value)?;
    if context.world.kind(&path).is_none() {
        return Err(Diagnostic::error(format!("there is no adapter at {}", path.display()))
            .code("adapter-not-found")
            .into());
    }
    let adapter = AdapterFiles::open(context.world, &path)?;
    let scale = line.scale.as_ref().map_or(1.0, |scale| scale.value);
    if let Some(scale) = line.scale.as_ref().filter(|scale| scale.value != 1.0) {
        refuse_scale(&adapter, &scale.span)?;
    }
    add_adapter(module, path, adapter, scale);
    module.unfused = false;
    Ok(())
}

/// The changes of an adapter, as loads of its files.
fn add_adapter(module: &mut Module, path: PathBuf, adapter: AdapterFiles, scale: f32) {
    let files: Vec<FileId> = adapter.files.iter().map(|f| module.add_file(&f.path, f.file.clone())).collect();
    let load = |of: &TensorRef| of.tensor.load(files[of.file]);
    let oriented = |factor: &Factor| match factor.transposed {
        true => Expr::Transpose(Box::new(load(&factor.tensor))),
        false => load(&factor.tensor),
    };
    let whole = adapter.whole.iter().map(|whole| AdapterChange {
        target: whole.name.clone(),
        change: Change::Replace(load(&whole.tensor)),
        base: None,
    });
    let pairs = adapter.pairs.iter().map(|pair| AdapterChange {
        target: format!("{}.weight", pair.target),
        change: Change::LowRank {
            a: oriented(&pair.a),
            b: oriented(&pair.b),
            scale: pair.scale * scale,
            magnitude: pair.magnitude.as_ref().map(|m| vector(load(m))),
        },
        base: None,
    });
    let changes = whole.chain(pairs).collect();
    module.adapters.push(Adapter {
        path,
        architecture: adapter.architecture,
        base_model: adapter.base_model,
        keeps_tied: adapter.keeps_tied,
        changes,
    });
}

/// Refuses a scale of what is no product: there is no half of a tensor that takes another's place.
fn refuse_scale(adapter: &AdapterFiles, scale: &Span) -> Result<()> {
    let what = if !adapter.whole.is_empty() {
        "brings whole tensors"
    } else if adapter.pairs.iter().any(|pair| pair.magnitude.is_some()) {
        "is a DoRA, which sets the lengths of rows"
    } else {
        return Ok(());
    };
    Err(Diagnostic::error(format!("an adapter that {what} cannot be scaled"))
        .at(scale)
        .code("adapter-scale")
        .help("only what a low-rank product adds has a scale")
        .into())
}

/// A load of `[1, n]` as one of `[n]`.
fn vector(mut load: Expr) -> Expr {
    if let Expr::Load { shape, .. } = &mut load {
        *shape = Shape(vec![shape.len()]);
    }
    load
}
