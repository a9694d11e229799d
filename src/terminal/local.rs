//! A model in this process.

use std::cell::OnceCell;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, mpsc};
use std::time::{Duration, Instant};

use super::answers::{Answered, Answers, Embedded, Names, Report};
use super::description::Description;
use super::figures::Figures;
use super::listing::Listed;
use crate::diagnostic::{Diagnostic, Result};
use crate::ir::Prompt;
use crate::pipeline::models::{self, Runnable};
use crate::prompt::Renderer;
use crate::prompt::output::{OutputReader, Piece};
use crate::runtime::answer::{Bounds, Job, ready};
use crate::runtime::batch::{Engine, EngineOptions, Event, Request, normalize};
use crate::runtime::constrain::Grammars;
use crate::runtime::device::Compute;
use crate::runtime::loaded::Loaded;
use crate::runtime::options::GenerateOptions;
use crate::store::{Name, Store};
use crate::tokenizer::EncodeOptions;
use crate::world::SystemWorld;

/// Stop texts that a conversation may have.
const STOPS: usize = 64;

/// A model in this process.
pub struct Local {
    setup: Setup,
    open: Open,
}

/// What models are loaded with.
pub struct Setup {
    /// Where they are.
    pub store: Store,
    /// What they compute with.
    pub compute: Compute,
    /// Renders their templates.
    pub renderer: Renderer,
    /// Templates will be rendered.
    pub renders: bool,
    /// Hears of what is odd about a model.
    pub warn: Box<Report<'static>>,
}

/// A model that is loaded.
struct Open {
    name: String,
    runnable: Runnable,
    compute: Compute,
    loaded: Arc<Loaded>,
    engine: Option<(EngineOptions, Engine)>,
    grammars: OnceCell<Grammars>,
    /// The time it took to load; told once.
    load: Duration,
}

impl Local {
    /// Loads a model: a name of the store, or the path of a GGUF file or a checkpoint's directory.
    ///
    /// # Errors
    /// There is none, or it cannot be loaded.
    pub fn new(setup: Setup, model: &str) -> Result<Local> {
        let open = Open::new(&setup, model)?;
        Ok(Local { setup, open })
    }

    /// The engine for these options: it is made again when its context changes.
    fn engine(&mut self, options: &GenerateOptions) -> Result<(Engine, usize)> {
        let open = &mut self.open;
        let compute = self.setup.compute.asked(options.num_thread, options.num_gpu);
        if compute != open.compute {
            open.engine = None;
            open.load(&self.setup, compute)?;
        }
        let context = options.context(open.loaded.model.spec().context_length as u64) as usize;
        let wanted =
            EngineOptions { parallel: 1, context, columns: options.num_batch.min(context), kv: None };
        let engine = match open.engine.take().filter(|(made, _)| *made == wanted) {
            Some((_, engine)) => engine,
            None => Engine::start(open.loaded.clone(), wanted)?,
        };
        open.engine = Some((wanted, engine.clone()));
        Ok((engine, context))
    }
}

impl Open {
    fn new(setup: &Setup, model: &str) -> Result<Open> {
        let started = Instant::now();
        let runnable = models::open_in_place(&SystemWorld, &setup.store, &setup.renderer, model)?;
        let options = GenerateOptions::from_parameters(&runnable.module.prompt.parameters)?;
        let compute = setup.compute.asked(options.num_thread, options.num_gpu);
        let loaded = load(setup, &runnable, compute)?;
        (setup.warn)(loaded.tokenizer.warnings());
        if let Some(note) = loaded.model.note() {
            (setup.warn)(std::slice::from_ref(note));
        }
        Ok(Open {
            name: model.to_owned(),
            runnable,
            compute,
            loaded: Arc::new(loaded),
            engine: None,
            grammars: OnceCell::new(),
            load: started.elapsed(),
        })
    }

    fn load(&mut self, setup: &Setup, compute: Compute) -> Result<()> {
        self.loaded = Arc::new(load(setup, &self.runnable, compute)?);
        self.compute = compute;
        Ok(())
    }

    fn grammars(&self) -> Result<&Grammars> {
        if let Some(made) = self.grammars.get() {
            return Ok(made);
        }
        let made = Grammars::new(&self.loaded.tokenizer)?;
        Ok(self.grammars.get_or_init(|| made))
    }
}

fn load(setup: &Setup, runnable: &Runnable, compute: Compute) -> Result<Loaded> {
    match setup.renders {
        true => Loaded::open_to_render(&runnable.module, compute, setup.renderer.clone()),
        false => Ok(Loaded::open(&runnable.module, compute)?.with_renderer(setup.renderer.clone())),
    }
}

fn ended() -> Diagnostic {
    Diagnostic::environment("the engine ended without an answer")
}

impl Answers for Local {
    fn model(&self) -> &str {
        &self.open.name
    }

    fn open(&mut self, model: &str) -> Result<()> {
        self.open = Open::new(&self.setup, model)?;
        Ok(())
    }

    fn description(&mut self) -> Result<Description> {
        let module = &self.open.runnable.module;
        let modelfile = models::modelfile(&SystemWorld, &self.setup.store, &self.open.name, module)?;
        Ok(Description::of(module, modelfile.0))
    }

    fn answer(
        &mut self,
        job: &Job,
        cancelled: &Arc<AtomicBool>,
        tell: &mut dyn FnMut(Piece) -> Result<()>,
    ) -> Result<Answered> {
        let started = Instant::now();
        let mut parameters = self.open.runnable.module.prompt.parameters.clone();
        parameters.extend(job.parameters.iter().cloned());
        let options = GenerateOptions::from_parameters(&parameters)?;
        let (engine, context) = self.engine(&options)?;
        let open = &self.open;
        let ready = ready(&open.loaded, &open.name, &Bounds { context, stops: STOPS }, job)?;
        let constraint = ready.constraints(1, || open.grammars())?.pop();
        let mut reader = OutputReader::new(&ready.syntax, ready.reader);
        let (sender, events) = mpsc::channel();
        let request = Request {
            prompt: ready.tokens,
            options: ready.options,
            shift: job.shift,
            logprobs: None,
            logit_bias: Vec::new(),
            constraint,
            cancelled: cancelled.clone(),
        };
        engine.submit(request, Box::new(move |event| drop(sender.send(event))));
        let mut failed = Ok(());
        let mut tell = |pieces: Vec<Piece>| {
            for piece in pieces {
                if failed.is_ok() {
                    failed = tell(piece);
                }
            }
            // Nobody hears it any more.
            if failed.is_err() {
                cancelled.store(true, Ordering::Relaxed);
            }
        };
        let (done, stats) = loop {
            match events.recv().map_err(|_| ended())? {
                Event::Began { .. } => {}
                Event::Text { text, .. } => tell(reader.push(&text)),
                Event::Ended { done, stats, .. } => {
                    tell(reader.finish());
                    break (done, stats);
                }
                Event::Failed(errors) => return Err(errors),
            }
        };
        failed?;
        let load = std::mem::take(&mut self.open.load);
        let figures = Figures {
            total: started.elapsed() + load,
            load,
            prompt_count: stats.prompt_eval_count as u64,
            prompt: stats.prompt_eval_duration,
            count: stats.eval_count as u64,
            answer: stats.eval_duration,
        };
        Ok(Answered { done, figures })
    }

    fn embed(&mut self, text: &str, how: Embedded) -> Result<Vec<f32>> {
        let options = GenerateOptions::from_parameters(&self.open.runnable.module.prompt.parameters)?;
        let (engine, context) = self.engine(&options)?;
        // What a user wrote: no text of it means a control token.
        let encode = EncodeOptions { add_special: true, parse_special: false };
        let mut tokens = self.open.loaded.tokenizer.encode(text, encode);
        if tokens.len() > context {
            if !how.truncate {
                return Err(Diagnostic::error("the input length exceeds the context length").into());
            }
            tokens.truncate(context);
        }
        let (sender, receiver) = mpsc::channel();
        engine.embed(tokens, Arc::default(), Box::new(move |result| drop(sender.send(result))));
        let mut values = receiver.recv().map_err(|_| ended())??.values;
        if let Some(n) = how.dimensions {
            if n > values.len() {
                let message = format!("dimensions must not be more than {}, the embedding's", values.len());
                return Err(Diagnostic::error(message).into());
            }
            values.truncate(n);
        }
        normalize(&mut values);
        Ok(values)
    }

    fn models(&mut self) -> Result<Vec<Listed>> {
        Ok(self.setup.store.list()?.iter().map(Listed::from).collect())
    }

    fn names(&self) -> Names {
        let store = self.setup.store.clone();
        Box::new(move || store.list().unwrap_or_default().iter().map(|e| e.name.to_string()).collect())
    }

    fn save(&mut self, name: &str, over: Prompt) -> Result<()> {
        let name = Name::parse(name)?;
        let Setup { store, renderer, .. } = &self.setup;
        models::save(&SystemWorld, store, renderer, &self.open.name, &name, over)
    }
}
