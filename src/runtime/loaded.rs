//! A model of the store, ready to answer: weights, tokenizer, template and parameters together.

use std::ops::ControlFlow;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use mdl_kernels::map::Map;

use super::backend::cpu::CpuOptions;
use super::device::Compute;
use super::engine::{Model, Session, SessionOptions};
use super::generate::{Done, Limits, Outcome, Receiver, generate};
use super::low_rank;
use super::options::GenerateOptions;
use super::sampler::{Sampler, StopMatcher};
use super::weights::{Bytes, Tensor};
use crate::diagnostic::{Diagnostic, Result};
use crate::families;
use crate::families::spec::{DecoderSpec, Output};
use crate::ir::{Expr, Module, Prompt};
use crate::prompt::{self, ChatMessage, ChatRequest, Renderer, SpecialTokens, Template};
use crate::tokenizer::{EncodeOptions, Tokenizer, Utf8Stream};

/// A model that can answer.
pub struct Loaded {
    /// The weights.
    pub model: Model,
    /// Text to tokens and back.
    pub tokenizer: Tokenizer,
    template: Template,
    renderer: Renderer,
    special: SpecialTokens,
    prompt: Prompt,
    pooling_type: Option<u64>,
}

impl Loaded {
    /// Maps the files of a module whose tensors are all as they are in their files.
    ///
    /// # Errors
    /// A file cannot be mapped, the family is not known, or the model is not complete.
    pub fn open(module: &Module, compute: Compute) -> Result<Loaded> {
        Loaded::open_as(module, compute, false)
    }

    /// As [`Loaded::open`], for sessions that are observed, on the CPU.
    ///
    /// # Errors
    /// As [`Loaded::open`].
    pub fn open_observable(module: &Module, threads: Option<usize>) -> Result<Loaded> {
        Loaded::open_as(module, Compute::cpu(threads), true)
    }

    /// As [`Loaded::open`], for a model whose templates `renderer` renders: it makes itself ready for the first
    /// while the weights are loaded.
    ///
    /// # Errors
    /// As [`Loaded::open`]. What is wrong with a template is said when it is rendered.
    pub fn open_to_render(module: &Module, compute: Compute, renderer: Renderer) -> Result<Loaded> {
        let template = template(module)?;
        let loaded = std::thread::scope(|scope| {
            let ready = || drop(renderer.check(&template));
            // Without a thread, the first rendering takes longer.
            let _ = std::thread::Builder::new().spawn_scoped(scope, ready);
            Loaded::open(module, compute)
        });
        Ok(loaded?.with_renderer(renderer))
    }

    fn open_as(module: &Module, compute: Compute, observable: bool) -> Result<Loaded> {
        let family = families::by_architecture(module.architecture().unwrap_or(""))?;
        let spec = (family.spec)(&module.metadata, &|name| module.tensor(name).is_some())?;
        // Neither needs the other, and each takes a good part of the time to the first token.
        let (tokenizer, model) = rayon::join(
            || Tokenizer::from_metadata(&module.metadata),
            || load(spec, module, &compute, observable),
        );
        let tokenizer = tokenizer?;
        let text = |id: Option<u32>| id.and_then(|id| tokenizer.token_text(id)).map(str::to_owned);
        let special = SpecialTokens { bos: text(tokenizer.bos()), eos: text(tokenizer.eos()) };
        let template = template(module)?;
        let model = model?;
        let (renderer, prompt) = (Renderer::in_process(), module.prompt.clone());
        let architecture = module.architecture().unwrap_or("");
        let pooling_type = module.metadata.u64(&format!("{architecture}.pooling_type"));
        Ok(Loaded { model, tokenizer, template, renderer, special, prompt, pooling_type })
    }

    /// The same model, whose templates are rendered by `renderer`; without, they are rendered in this
    /// process.
    pub fn with_renderer(self, renderer: Renderer) -> Loaded {
        Loaded { renderer, ..self }
    }

    /// The text that the model reads for a conversation: its own SYSTEM and MESSAGEs first.
    ///
    /// # Errors
    /// The template fails.
    pub fn render(&self, messages: &[ChatMessage]) -> Result<String> {
        let messages = prompt::conversation(&self.prompt, messages);
        self.renderer.render(&self.template, &ChatRequest::new(&messages), &self.special)
    }

    /// The model's template.
    pub fn template(&self) -> &Template {
        &self.template
    }

    /// How hidden states become an embedding, as GGUF numbers it: 1 mean, 2 first token, 3 last token.
    pub fn pooling_type(&self) -> Option<u64> {
        self.pooling_type
    }

    /// True for a model that is there to make embeddings, and not to write.
    pub fn makes_embeddings(&self) -> bool {
        self.pooling_type.is_some() || self.model.spec().output == Output::Hidden
    }

    /// What the Modelfile says: SYSTEM, MESSAGEs, parameters.
    pub fn prompt(&self) -> &Prompt {
        &self.prompt
    }

    /// The text that the model reads for a request, whose messages are all there are. A Go template may
    /// stand in for the model's.
    ///
    /// # Errors
    /// The template is malformed or fails.
    pub fn render_request(&self, request: &ChatRequest<'_>, template: Option<&str>) -> Result<String> {
        match template {
            None => self.renderer.render(&self.template, request, &self.special),
            Some(text) => {
                let template = Template::choose(Some(text), None, prompt::Limits::default())?;
                template.render(request, &self.special)
            }
        }
    }

    /// The tokens of a rendered conversation; BOS is there once.
    pub fn tokens(&self, text: &str) -> Vec<u32> {
        let options = EncodeOptions { add_special: !self.special.begin(text), parse_special: true };
        self.tokenizer.encode(text, options)
    }

    /// A session with an empty context.
    ///
    /// # Errors
    /// There is no memory for it.
    pub fn session(&self, options: &GenerateOptions) -> Result<Session> {
        let context = options.context(self.model.spec().context_length as u64) as usize;
        let columns = options.num_batch.min(context);
        self.model.session(&SessionOptions { context, columns, ..SessionOptions::default() })
    }

    /// Reads `prompt` and gives each piece of the answer to `write` as soon as it is whole characters and
    /// no part of a stop text. Ends early once `cancelled` is set.
    ///
    /// # Errors
    /// The prompt does not fit, the model computes what is no number, or `write` fails.
    pub fn generate(
        &self,
        session: &mut Session,
        prompt: &[u32],
        options: &GenerateOptions,
        cancelled: &AtomicBool,
        write: &mut dyn FnMut(&str) -> Result<()>,
    ) -> Result<Outcome> {
        let mut sampler = Sampler::new(&options.sampler)?;
        let limits = Limits { num_predict: options.num_predict, num_keep: options.num_keep, shift: true };
        let mut receiver = Text {
            tokenizer: &self.tokenizer,
            characters: Utf8Stream::new(),
            stop: StopMatcher::new(&options.stop),
            stopped: false,
            cancelled,
            write,
        };
        let outcome = generate(session, prompt, &mut sampler, &limits, &mut receiver)?;
        receiver.finish()?;
        Ok(outcome)
    }
}

/// Turns tokens into text for a person.
struct Text<'a> {
    tokenizer: &'a Tokenizer,
    characters: Utf8Stream,
    stop: StopMatcher,
    stopped: bool,
    cancelled: &'a AtomicBool,
    write: &'a mut dyn FnMut(&str) -> Result<()>,
}

impl Text<'_> {
    fn push(&mut self, text: &str) -> Result<()> {
        let found = self.stop.push(text);
        self.stopped |= found.stop.is_some();
        if found.text.is_empty() { Ok(()) } else { (self.write)(&found.text) }
    }

    /// Writes what was held back.
    fn finish(&mut self) -> Result<()> {
        if self.stopped {
            return Ok(());
        }
        let rest = self.characters.finish();
        self.push(&rest)?;
        if self.stopped {
            return Ok(());
        }
        let held = self.stop.finish();
        if held.is_empty() { Ok(()) } else { (self.write)(&held) }
    }
}

impl Receiver for Text<'_> {
    fn is_end(&self, token: u32) -> bool {
        self.tokenizer.is_end_of_generation(token)
    }

    fn token(&mut self, token: u32) -> Result<ControlFlow<Done>> {
        let text = self.characters.push(self.tokenizer.decode_bytes(token));
        self.push(&text)?;
        Ok(match (self.stopped, self.is_cancelled()) {
            (true, _) => ControlFlow::Break(Done::Stop),
            (_, true) => ControlFlow::Break(Done::Cancelled),
            _ => ControlFlow::Continue(()),
        })
    }

    fn is_cancelled(&self) -> bool {
        self.cancelled.load(Ordering::Relaxed)
    }
}

/// The template of a module.
fn template(module: &Module) -> Result<Template> {
    let chat_template = module.metadata.str("tokenizer.chat_template");
    Template::choose(module.prompt.template.as_deref(), chat_template, prompt::Limits::default())
}

/// The weights of a module.
fn load(spec: DecoderSpec, module: &Module, compute: &Compute, observable: bool) -> Result<Model> {
    let mut tensors = tensors(module)?;
    tensors.extend(low_rank::tensors(module)?);
    match observable {
        true => {
            let options = CpuOptions { threads: compute.threads, level: None };
            Model::load_observable(spec, tensors, &options)
        }
        false => Model::place(spec, tensors, compute),
    }
}

/// The tensors of a module as ranges of its files.
fn tensors(module: &Module) -> Result<Vec<Tensor>> {
    let mut maps = Vec::with_capacity(module.files.len());
    for source in &module.files {
        maps.push(Arc::new(map(&source.path)?));
    }
    let mut tensors = Vec::with_capacity(module.tensors.len());
    for tensor in &module.tensors {
        let Expr::Load { file, offset, len, dtype, shape } = &tensor.expr else {
            let message = format!("tensor `{}` is not built yet", tensor.name);
            return Err(Diagnostic::error(message).help("run `mdl build` first").into());
        };
        let range = usize::try_from(*offset).ok().zip(usize::try_from(offset.saturating_add(*len)).ok());
        let bytes =
            maps.get(file.0).zip(range).and_then(|(map, (start, end))| Bytes::mapped(map, start..end));
        let bytes = bytes.ok_or_else(|| {
            Diagnostic::error(format!("tensor `{}` is not within its file", tensor.name)).code("tensor-range")
        })?;
        tensors.push(Tensor { name: tensor.name.clone(), shape: shape.clone(), ty: *dtype, bytes });
    }
    Ok(tensors)
}

fn map(path: &Path) -> Result<Map> {
    Map::open(path).map_err(|e| Diagnostic::io("map", path, &e).into())
}
