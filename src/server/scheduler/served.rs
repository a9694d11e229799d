//! A loaded model and its engine.

use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use mdl_kernels::ops::matmul::Packed;

use super::memory;
use crate::diagnostic::{Diagnostic, Errors, Result};
use crate::ir::{Module, Tensor};
use crate::runtime::batch::{Engine, EngineOptions};
use crate::runtime::constrain::Grammars;
use crate::runtime::loaded::Loaded;
use crate::runtime::options::GenerateOptions;
use crate::runtime::stored;
use crate::server::app::App;
use crate::signing;
use crate::store::{Digest, Name, Stored};

/// What a request wants of the way its model is loaded; `None` takes what there is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Wish {
    /// `num_ctx`.
    pub context: Option<u64>,
    /// `num_batch`.
    pub batch: Option<usize>,
    /// `num_thread`.
    pub threads: Option<usize>,
    /// `num_gpu`: 0 for the CPU.
    pub gpu: Option<i64>,
}

/// A loaded model.
pub struct Served {
    /// A name of it.
    pub name: Name,
    /// The digest of its manifest.
    pub id: Digest,
    /// Weights, tokenizer, template, parameters.
    pub loaded: Arc<Loaded>,
    /// What computes.
    pub engine: Engine,
    /// Positions of a sequence.
    pub context: usize,
    /// Bytes it takes: weights, cache and buffers.
    pub size: u64,
    /// Bytes of them that are on an accelerator.
    pub on_accelerator: u64,
    /// The time it took to load.
    pub load_duration: Duration,
    wish: Wish,
    grammars: OnceLock<Result<Grammars>>,
}

/// The code of the error when a model is not signed as the server requires.
pub const SIGNATURE_REQUIRED: &str = "signature-required";

/// Columns of a step at most, where nothing else is said.
const BATCH: usize = 512;

impl Served {
    /// Loads a model.
    ///
    /// # Errors
    /// It is damaged or not complete, or there is no memory for it: code `out-of-memory`.
    pub fn load(app: &App, stored: &Stored, wish: Wish) -> Result<Served> {
        let started = Instant::now();
        let config = &app.config;
        require_signature(app, stored)?;
        let module = stored::open(&app.store, stored)?;
        let options = GenerateOptions::from_parameters(&module.prompt.parameters)?;
        // Known before anything is packed.
        let available = memory::available();
        let packed = packed_bytes(&module);
        let compute = config.compute.asked(options.num_thread, options.num_gpu).asked(wish.threads, wish.gpu);
        if let Some(available) = available.filter(|available| packed > *available && compute.is_cpu()) {
            return Err(too_large(packed, available, None));
        }
        let loaded = Loaded::open(&module, compute)?.with_renderer(app.renderer.clone());
        for warning in loaded.tokenizer.warnings() {
            tracing::warn!(model = %stored.name, "{warning}");
        }
        if let Some(note) = loaded.model.note() {
            tracing::warn!(model = %stored.name, "{}", note.message);
        }
        let trained = loaded.model.spec().context_length as u64;
        let asked = wish.context.or(options.num_ctx).or(config.context_length);
        let context = GenerateOptions { num_ctx: asked, ..options.clone() }.context(trained) as usize;
        let mut engine = EngineOptions {
            parallel: config.parallel.max(1),
            context,
            columns: wish.batch.unwrap_or(options.num_batch).clamp(1, BATCH.max(options.num_batch)),
            kv: config.kv_cache_type,
        };
        // What a backend packs is memory of its own; the file behind it is only mapped.
        let accelerator = loaded.model.accelerator();
        let weights = match accelerator {
            None => loaded.model.program().packed_bytes(),
            // They are there already.
            Some(_) => 0,
        };
        let available = match &accelerator {
            None => available,
            Some(accelerator) => Some(accelerator.free),
        };
        let needed = |engine: &EngineOptions| {
            weights.saturating_add(loaded.model.memory_of(&engine.room(&loaded.model)).total())
        };
        if let Some(available) = available {
            // Fewer sequences at once are better than none.
            while engine.parallel > 1 && needed(&engine) > available {
                engine.parallel /= 2;
            }
            if needed(&engine) > available {
                return Err(too_large(needed(&engine), available, Some(context)));
            }
        }
        let size = match accelerator {
            None => needed(&engine),
            Some(_) => needed(&engine).saturating_add(loaded.model.program().weight_bytes()),
        };
        let on_accelerator = if accelerator.is_some() { size } else { 0 };
        let loaded = Arc::new(loaded);
        let engine = Engine::start(loaded.clone(), engine)?;
        Ok(Served {
            name: stored.name.clone(),
            id: stored.id,
            loaded,
            engine,
            context,
            size,
            on_accelerator,
            load_duration: started.elapsed(),
            wish,
            grammars: OnceLock::new(),
        })
    }

    /// True when a request that wishes so need not load the model again.
    pub fn serves(&self, wish: &Wish) -> bool {
        let trained = self.loaded.model.spec().context_length as u64;
        let context = wish.context.map(|n| {
            GenerateOptions { num_ctx: Some(n), ..GenerateOptions::default() }.context(trained) as usize
        });
        context.is_none_or(|n| n == self.context)
            && wish.batch.is_none_or(|n| Some(n) == self.wish.batch)
            && wish.threads.is_none_or(|n| Some(n) == self.wish.threads)
            && wish.gpu.is_none_or(|n| Some(n) == self.wish.gpu)
    }

    /// What constrains the model's tokens; it is made when first needed, which takes a while.
    ///
    /// # Errors
    /// The vocabulary is not fit for it.
    pub fn grammars(&self) -> Result<&Grammars> {
        let made = self.grammars.get_or_init(|| Grammars::new(&self.loaded.tokenizer));
        made.as_ref().map_err(Clone::clone)
    }
}

/// Bytes of the panels of a module's matrices, at most: a table that is only looked up is counted, too.
fn packed_bytes(module: &Module) -> u64 {
    let bytes = |tensor: &Tensor| match tensor.shape().0.as_slice() {
        [rows, cols] => {
            let (rows, cols) = (usize::try_from(*rows).ok()?, usize::try_from(*cols).ok()?);
            Packed::bytes_of(tensor.expr.dtype(), rows, cols).map(|n| n as u64)
        }
        _ => None,
    };
    module.tensors.iter().filter_map(bytes).fold(0, u64::saturating_add)
}

/// Verifies the model's signature, where one is required: each time it is loaded, to the last byte.
fn require_signature(app: &App, stored: &Stored) -> Result<()> {
    let mut last = Ok(());
    for key in &app.config.require_signature {
        last = signing::stored::verify(&app.store, stored, key);
        if last.is_ok() {
            break;
        }
    }
    last.map_err(|errors| {
        let why: Vec<String> = errors.0.iter().map(|d| d.message.clone()).collect();
        let message = format!("this server loads signed models alone: {}", why.join("; "));
        Diagnostic::error(message).code(SIGNATURE_REQUIRED).into()
    })
}

fn too_large(needed: u64, available: u64, context: Option<usize>) -> Errors {
    let (needed, available) = (memory::human(needed), memory::human(available));
    let context = context.map_or(String::new(), |n| format!(", with a context of {n}"));
    Diagnostic::environment(format!(
        "model requires more system memory ({needed}{context}) than is available ({available})"
    ))
    .code("out-of-memory")
    .into()
}
