//! `mdl build`.

use std::path::{Path, PathBuf};

use clap::{Args, ValueEnum};

use super::adapters;
use super::caches::CacheArgs;
use super::origin::{builder, source_date};
use super::progress::{Chunked, Shown};
use super::transfer::Registry;
use super::{Global, table, usage, write_out};
use crate::diagnostic::{Diagnostic, Result};
use crate::formats::imatrix;
use crate::ir::Module;
use crate::modelfile::Recipe;
use crate::passes::quantize::{TensorTypeRule, mixture};
use crate::passes::{Context, Options, package, plan};
use crate::pipeline::limit::{self, Limit};
use crate::pipeline::{self, Held, Input, measure, models};
use crate::prompt::Renderer;
use crate::prompt::isolated::ChildCommand;
use crate::provenance::{self, Build as Built, Lock, Recording};
use crate::store::{Name, Published, Store};
use crate::world::{SystemWorld, World};

/// Compiles a Modelfile: resolves FROM and ADAPTER, imports, fuses, quantizes, and gives the result a
/// name in the store.
#[derive(Args)]
#[command(after_help = "\
Examples:
  mdl build -q q4_K_M -t story testdata/storyteller/Modelfile
  mdl build -q q4_K_M --tensor-type 'attn_v=q6_K' -t mine:careful .
  mdl build -q q4_K_M --imatrix imatrix.gguf --max-kld 0.05 -t story .      or fail
  mdl build -q q5_K_M --dry-run Modelfile            what would be built; reads no weight
  mdl build -q q8_0 --emit gguf -o model.gguf .      a GGUF file instead of a named model
  mdl build --emit plan Modelfile                    the module after each pass
  mdl build --provenance out/ -q q4_K_M -t story .   and say how, and what of, for others to check
  mdl build --cache-from s3://ci/mdl --cache-to s3://ci/mdl -q q4_K_M -t story .
  mdl build --lock -q q4_K_M -t story .              and write down what it was made of, in Modelfile.lock
  mdl build --locked -q q4_K_M -t story .            the same again, or fail and say what differs")]
pub(super) struct Build {
    /// A Modelfile, or a directory with one or with weights
    #[arg(default_value = "Modelfile", value_name = "PATH")]
    path: PathBuf,

    /// The name of the model [default: the name of the Modelfile's directory]
    #[arg(short = 't', long = "tag", value_name = "NAME[:TAG]")]
    tag: Option<String>,

    /// A quantization: f32 f16 bf16 q8_0 q6_K q5_K_M q5_K_S q5_1 q5_0 q4_K_M q4_K_S q4_1 q4_0 iq4_nl iq4_xs
    /// q3_K_L q3_K_M q3_K_S q2_K [default: the types of the source]
    #[arg(short, long, value_name = "PRESET")]
    quantize: Option<String>,

    /// The type of the tensors whose names match; may be repeated, the first that matches decides
    #[arg(long, value_name = "REGEX=TYPE")]
    tensor_type: Vec<String>,

    /// An importance matrix, as `mdl imatrix` and llama.cpp's llama-imatrix write it
    #[arg(long, value_name = "FILE")]
    imatrix: Option<PathBuf>,

    /// Keep adapters beside the model, to act when it runs, instead of fusing them
    #[arg(long)]
    no_fuse: bool,

    /// Say how much each adapter moves each tensor
    #[arg(short, long)]
    verbose: bool,

    /// Quantize weights that are quantized already
    #[arg(long)]
    allow_requantize: bool,

    /// Give the model its name only if its mean KL divergence from the unquantized model is at most this
    #[arg(long, value_name = "NATS", value_parser = nats, conflicts_with_all = ["emit", "dry_run"])]
    max_kld: Option<f64>,

    /// The text that `--max-kld` measures on [default: a sample of prose, dialogue and code that mdl brings]
    #[arg(long, value_name = "TEXT", requires = "max_kld")]
    eval_text: Option<PathBuf>,

    /// Write beside the Modelfile, as NAME.lock, what the model was made of and what came out
    #[arg(long, conflicts_with_all = ["locked", "emit", "dry_run"])]
    lock: bool,

    /// Build only what the lock beside the Modelfile says: the same sources, options and result
    #[arg(long, conflicts_with = "emit")]
    locked: bool,

    /// Write how the model was built (in-toto, SLSA provenance) and what of (CycloneDX): to provenance.json and
    /// bom.json in a directory that is there, or to FILE and, beside it, FILE.bom.json
    #[arg(long, value_name = "DIR|FILE", conflicts_with_all = ["emit", "dry_run"])]
    provenance: Option<PathBuf>,

    /// Who builds, as the provenance says it
    #[arg(long, value_name = "URI", requires = "provenance", value_parser = builder, default_value = provenance::LOCAL)]
    builder_id: String,

    #[command(flatten)]
    caches: CacheArgs,

    /// Fail on warnings
    #[arg(long)]
    deny_warnings: bool,

    /// Say what would be built, and build nothing
    #[arg(long, conflicts_with = "emit")]
    dry_run: bool,

    /// Write this instead of a named model
    #[arg(long, value_enum, value_name = "KIND")]
    emit: Option<Emit>,

    /// Where `--emit` writes [default: standard output]
    #[arg(short, long, value_name = "FILE", requires = "emit")]
    output: Option<PathBuf>,

    #[command(flatten)]
    registry: Registry,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Emit {
    /// The Modelfile as parsed
    Ast,
    /// The Modelfile as understood
    Recipe,
    /// The module after each pass
    Plan,
    /// The model as a GGUF file
    Gguf,
}

impl Build {
    pub(super) fn run(self, global: &Global) -> Result<()> {
        if self.emit == Some(Emit::Gguf) && self.output.is_none() {
            return Err(usage("`--emit gguf` needs `-o FILE`"));
        }
        if self.emit == Some(Emit::Gguf) && self.no_fuse {
            return Err(usage(
                "`--emit gguf` writes one file, in which there is no place for adapters that are kept",
            ));
        }
        let world = SystemWorld;
        let recording = Recording::new(&world);
        let options = self.options(&recording)?;
        let input = pipeline::read(&world, &self.path)?;
        if self.emit == Some(Emit::Ast) && !input.checked.ast.has_errors() {
            return self.write_text(&input.checked.ast.to_string());
        }
        let name = match self.emit {
            None => Some(self.name(&input)?),
            Some(_) => None,
        };
        let Input { path, directory, checked } = input;
        let lock_path = Lock::path_of(&path);
        let lock = if self.locked { Some(Lock::read(&world, &lock_path)?) } else { None };
        let (recipe, warnings) = checked.into_recipe()?;
        global.warn(&warnings, self.deny_warnings)?;
        if self.emit == Some(Emit::Recipe) {
            return self.write_text(&recipe.to_string());
        }
        let store = global.open_store()?;
        let missing = models::missing_sources(&world, &store, &directory, &recipe)?;
        self.registry.bring(global, &store, &missing)?;
        let context = Context::new(&recording, Some(&store), directory.clone(), options);
        let mut text = String::new();
        let module = self.compile(&recipe, &context, &mut text, global)?;
        if self.verbose && self.emit.is_none_or(|emit| emit == Emit::Gguf) {
            eprint!("{}", adapters::movement(&module)?);
        }
        let progress = Shown::new(global.progress);
        let time = self.provenance.as_ref().map(|_| source_date()).transpose()?.flatten();
        let mut sources = Vec::new();
        if self.lock || self.locked || self.provenance.is_some() {
            let imatrix = self.imatrix.as_deref();
            sources = provenance::identify(&recipe, &directory, imatrix, &recording, &store, &progress)?;
        }
        if let Some(lock) = &lock {
            lock.require(&lock_path, &recipe.prompt, &context.options, &sources)?;
        }
        let caches = self.caches.open(global)?;
        let shares = caches.shares();
        let held = Held { expected: lock.as_ref().map(|lock| &lock.artifact), shares };
        match (self.emit, name) {
            (Some(Emit::Gguf), _) => {
                let path = self.output.as_deref().ok_or_else(|| usage("`--emit gguf` needs `-o FILE`"))?;
                let written = pipeline::write_gguf(&module, path, &progress)?;
                eprintln!("wrote {} ({})", path.display(), table::size(written));
                Ok(())
            }
            (Some(_), _) | (_, None) => self.write_text(&text),
            (None, Some(name)) if self.dry_run => {
                write_out(&format!("{}\n", summary(&name, &module)))?;
                Ok(())
            }
            (None, Some(name)) => {
                let published = match self.max_kld {
                    None => pipeline::publish_held(&module, &world, &store, &name, held, &progress)?,
                    Some(most) => {
                        let options = Options { no_fuse: self.no_fuse, ..Options::default() };
                        let unquantized = Context::new(&world, Some(&store), directory, options);
                        let renderer = Renderer::in_children(ChildCommand::current()?);
                        let source = pipeline::compile(&recipe, &unquantized, &renderer, &mut |_, _| ())?;
                        let limit = Asked { most, source: &source, held };
                        self.publish_within(&limit, &module, &store, &name, &progress, global)?
                    }
                };
                global.warn(&caches.take_notes(), self.deny_warnings)?;
                if self.lock {
                    let lock = Lock::new(published.id, &recipe.prompt, &context.options, &sources);
                    let bytes = lock.to_bytes()?;
                    pipeline::write_file(&lock_path, |out| {
                        out.write_all(&bytes).map_err(|e| Diagnostic::io("write", &lock_path, &e).into())
                    })?;
                }
                if let Some(to) = &self.provenance {
                    let build = Built {
                        name: &published.name,
                        id: &published.id,
                        module: &module,
                        prompt: &recipe.prompt,
                        options: &context.options,
                        sources: &sources,
                        builder: &self.builder_id,
                        time,
                    };
                    pipeline::write_provenance(&build, &store, to)?;
                }
                write_out(&format!("{}\n", summary(&name, &module)))?;
                write_out(&format!("{}\n", published.id))?;
                Ok(())
            }
        }
    }

    fn compile(
        &self,
        recipe: &Recipe,
        context: &Context<'_>,
        text: &mut String,
        global: &Global,
    ) -> Result<Module> {
        let mut observe = |pass: &'static str, module: &Module| {
            if self.emit == Some(Emit::Plan) {
                text.push_str(&plan::print(pass, module));
            }
        };
        let renderer = Renderer::in_children(ChildCommand::current()?);
        let result = pipeline::compile(recipe, context, &renderer, &mut observe);
        let notes = context.take_notes();
        match result {
            Ok(module) => global.warn(&notes, self.deny_warnings).map(|()| module),
            Err(errors) => {
                global.print(&notes);
                Err(errors)
            }
        }
    }

    /// Publishes under `--max-kld`, and says what was measured.
    fn publish_within(
        &self,
        asked: &Asked<'_>,
        module: &Module,
        store: &Store,
        name: &Name,
        progress: &Shown,
        global: &Global,
    ) -> Result<Published> {
        let text = match &self.eval_text {
            Some(path) => measure::read_text(&SystemWorld, path)?,
            None => measure::TEXT.to_owned(),
        };
        let compute = global.compute();
        let Asked { most, source, held: Held { expected, shares } } = *asked;
        let limit = Limit { source, text: &text, most, compute, shares, expected };
        let mut chunks = Chunked::new(global.progress, "KL divergence");
        let mut tell = |s: measure::Step| chunks.tell(s.done, s.total, Some(s.figure));
        let (published, measured) =
            limit::publish_within(module, &limit, &SystemWorld, store, name, progress, &mut tell)?;
        if let Some(d) = &measured.divergence {
            let (mean, p, q) = (d.mean.value, d.perplexity.value, d.source_perplexity.value);
            eprintln!(
                "mean KL divergence {mean:.6} nats, at most {most}; perplexity {p:.4}, of the source {q:.4}"
            );
        }
        Ok(published)
    }

    fn options(&self, world: &dyn World) -> Result<Options> {
        let preset = match &self.quantize {
            None => None,
            Some(name) => Some(mixture::find(name).ok_or_else(|| unknown_preset(name))?),
        };
        let tensor_types =
            self.tensor_type.iter().map(|t| TensorTypeRule::parse(t)).collect::<Result<Vec<_>>>()?;
        let imatrix = match &self.imatrix {
            None => None,
            Some(path) => {
                let file = world.open(path).map_err(|e| Diagnostic::io("read", path, &e))?;
                Some(imatrix::read(path, &*file)?)
            }
        };
        Ok(Options {
            preset,
            tensor_types,
            imatrix,
            allow_requantize: self.allow_requantize,
            no_fuse: self.no_fuse,
        })
    }

    fn name(&self, input: &Input) -> Result<Name> {
        if let Some(tag) = &self.tag {
            return Name::parse(tag).map_err(|mut e| {
                e.0.iter_mut().for_each(|d| d.kind = crate::diagnostic::Kind::Usage);
                e
            });
        }
        let directory = std::path::absolute(&input.directory).unwrap_or_else(|_| input.directory.clone());
        let base = directory.file_name().map(|n| n.to_string_lossy().into_owned()).unwrap_or_default();
        Name::parse(&base).map_err(|_| {
            let d = Diagnostic::usage(format!("`{base}`, the directory's name, cannot name a model"));
            d.help("give a name with `-t NAME`").into()
        })
    }

    fn write_text(&self, text: &str) -> Result<()> {
        match &self.output {
            Some(path) => write_file(path, text),
            None => write_out(text),
        }
    }
}

/// What the result of a build is held to.
struct Asked<'a> {
    most: f64,
    source: &'a Module,
    held: Held<'a>,
}

/// A divergence: a finite number of 0 or more.
pub(super) fn nats(text: &str) -> Result<f64, String> {
    match text.parse::<f64>() {
        Ok(v) if v.is_finite() && v >= 0.0 => Ok(v),
        _ => Err("a number of 0 or more is expected".to_owned()),
    }
}

fn write_file(path: &Path, text: &str) -> Result<()> {
    std::fs::write(path, text).map_err(|e| Diagnostic::io("write", path, &e).into())
}

fn unknown_preset(name: &str) -> Diagnostic {
    let names = mixture::PRESETS.iter().map(|p| p.name);
    let near = names.clone().max_by(|a, b| {
        let like = |n: &str| strsim::jaro_winkler(&n.to_lowercase(), &name.to_lowercase());
        like(a).total_cmp(&like(b))
    });
    Diagnostic::usage(format!("`{name}` is no quantization"))
        .code("unknown-preset")
        .help(format!("did you mean `{}`?", near.unwrap_or("q4_K_M")))
        .help(format!("there are: {}", names.collect::<Vec<_>>().join(" ")))
}

/// One line: name, architecture, parameters, type, size.
fn summary(name: &Name, module: &Module) -> String {
    let bytes = module.tensors.iter().map(|t| plan::bytes(&t.expr).1).fold(0, u64::saturating_add);
    format!(
        "{name}  {} {} {}  {}",
        module.architecture().unwrap_or("?"),
        package::human_number(module.parameter_count()),
        package::file_type(&module.metadata),
        table::size(bytes)
    )
}
