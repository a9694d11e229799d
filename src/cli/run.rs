//! `mdl run`.

use std::io::{IsTerminal as _, Read as _, Write as _};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, mpsc};
use std::time::{Duration, Instant};

use clap::Args;

use super::{Global, Interrupted, usage};
use crate::diagnostic::{Diagnostic, Result};
use crate::ir::ParameterValue;
use crate::modelfile::parameters;
use crate::pipeline::models;
use crate::prompt::isolated::ChildCommand;
use crate::prompt::{ChatMessage, Renderer};
use crate::runtime::batch::{Engine, EngineOptions, normalize};
use crate::runtime::engine::Session;
use crate::runtime::generate::{Done, Outcome};
use crate::runtime::loaded::Loaded;
use crate::runtime::options::GenerateOptions;
use crate::tokenizer::EncodeOptions;
use crate::world::SystemWorld;

/// Runs a model: one prompt from the arguments or standard input, or a conversation on a terminal.
#[derive(Args)]
#[command(after_help = "\
Examples:
  mdl run story \"Once upon a time\"
  cat question.txt | mdl run smollm2
  mdl run smollm2 --set temperature=0 --verbose \"Why is the sky blue?\"
  mdl run ./model.gguf \"Why is the sky blue?\"
  mdl run story --raw \"Emma was\"          no template: the model goes on with the text
  mdl run minilm \"a text\"                  a model that makes embeddings prints a vector, as JSON")]
pub(super) struct Run {
    /// The model: a name of the store, or the path of a GGUF file
    name: String,

    /// What to say; what is piped in comes before it
    #[arg(value_name = "PROMPT")]
    prompt: Vec<String>,

    /// Change a parameter; may be repeated
    #[arg(long, value_name = "NAME=VALUE")]
    set: Vec<String>,

    /// Give the prompt to the model as it is, without a template
    #[arg(long)]
    raw: bool,

    /// Print counts, times and rates
    #[arg(long, short)]
    verbose: bool,
}

/// Prints the embedding of a text, of length 1, as a JSON array.
fn embed(loaded: Loaded, options: &GenerateOptions, text: &str) -> Result<()> {
    let context = options.context(loaded.model.spec().context_length as u64) as usize;
    let encode = EncodeOptions { add_special: true, parse_special: false };
    let tokens = loaded.tokenizer.encode(text, encode);
    let engine = EngineOptions { parallel: 1, context, columns: options.num_batch.min(context), kv: None };
    let engine = Engine::start(Arc::new(loaded), engine)?;
    let (sender, receiver) = mpsc::channel();
    engine.embed(tokens, Arc::default(), Box::new(move |result| drop(sender.send(result))));
    let ended = |_| Diagnostic::environment("the engine ended without an answer");
    let mut values = receiver.recv().map_err(ended)??.values;
    normalize(&mut values);
    let text: Vec<String> = values.iter().map(f32::to_string).collect();
    let written = writeln!(std::io::stdout(), "[{}]", text.join(","));
    written.map_err(|e| Diagnostic::environment(format!("cannot write the vector: {e}")).into())
}

impl Run {
    pub(super) fn run(self, global: &Global) -> Result<()> {
        let started = Instant::now();
        let prompt = self.prompt_text()?;
        let store = global.open_store()?;
        let module = models::open_to_run(&SystemWorld, &store, &self.name)?;
        let mut set = module.prompt.parameters.clone();
        for text in &self.set {
            set.push(parameter(text)?);
        }
        let options = GenerateOptions::from_parameters(&set)?;
        let threads = global.threads.filter(|n| *n > 0).or(options.num_thread);
        let renderer = Renderer::in_children(ChildCommand::current()?);
        let loaded = match self.raw {
            true => Loaded::open(&module, threads)?.with_renderer(renderer),
            false => Loaded::open_to_render(&module, threads, renderer)?,
        };
        global.print(loaded.tokenizer.warnings());
        if loaded.makes_embeddings() {
            let text = prompt.ok_or_else(|| {
                Diagnostic::error("the model makes embeddings: it needs a text")
                    .help(format!("mdl run {} \"a text\"", self.name))
            })?;
            return embed(loaded, &options, &text);
        }
        let mut session = loaded.session(&options)?;
        let chat =
            Chat { global, run: &self, loaded, options, load: started.elapsed(), cancelled: on_interrupt()? };
        match prompt {
            Some(text) => chat.once(&mut session, &text),
            None => chat.converse(&mut session),
        }
    }

    /// What the arguments and a pipe say; none when a person is to type it.
    fn prompt_text(&self) -> Result<Option<String>> {
        let words = self.prompt.join(" ");
        if std::io::stdin().is_terminal() {
            return Ok((!words.is_empty()).then_some(words));
        }
        let mut piped = Vec::new();
        let limit = 8 << 20;
        std::io::stdin()
            .take(limit + 1)
            .read_to_end(&mut piped)
            .map_err(|e| Diagnostic::environment(format!("cannot read standard input: {e}")))?;
        if piped.len() as u64 > limit {
            return Err(Diagnostic::error(format!("more than {limit} bytes on standard input")).into());
        }
        let piped = String::from_utf8(piped)
            .map_err(|e| Diagnostic::error(format!("standard input is no UTF-8: {e}")))?;
        let piped = piped.trim_end_matches(['\n', '\r']);
        match (piped.is_empty(), words.is_empty()) {
            (true, true) => Err(usage("there is no prompt: give it as an argument or on standard input")),
            (true, false) => Ok(Some(words)),
            (false, true) => Ok(Some(piped.to_owned())),
            (false, false) => Ok(Some(format!("{piped}\n{words}"))),
        }
    }
}

/// Reads `NAME=VALUE`.
fn parameter(text: &str) -> Result<(String, ParameterValue)> {
    let (name, value) = text.split_once('=').ok_or_else(|| usage(format!("`{text}` is not NAME=VALUE")))?;
    let known = parameters::find(name).ok_or_else(|| usage(format!("`{name}` is no parameter")))?;
    let value = known.parse(value).map_err(|e| usage(format!("parameter `{name}`: {e}")))?;
    if known.is_out_of_range(&value) {
        return Err(usage(format!("the parameter `{name}` must be {}", known.range_in_words())));
    }
    Ok((name.to_owned(), value))
}

/// Set by the first Ctrl-C; the second ends the process.
fn on_interrupt() -> Result<Arc<AtomicBool>> {
    let cancelled = Arc::new(AtomicBool::new(false));
    let set = cancelled.clone();
    let handler = move || {
        if set.swap(true, Ordering::Relaxed) {
            std::process::exit(Interrupted::EXIT_CODE.into());
        }
    };
    ctrlc::set_handler(handler)
        .map_err(|e| Diagnostic::environment(format!("cannot listen to Ctrl-C: {e}")))?;
    Ok(cancelled)
}

struct Chat<'a> {
    global: &'a Global,
    run: &'a Run,
    loaded: Loaded,
    options: GenerateOptions,
    load: Duration,
    cancelled: Arc<AtomicBool>,
}

impl Chat<'_> {
    /// One prompt, one answer.
    fn once(&self, session: &mut Session, text: &str) -> Result<()> {
        let prompt = if self.run.raw {
            self.loaded.tokens(text)
        } else {
            self.loaded.tokens(&self.loaded.render(&[ChatMessage::new("user", text)])?)
        };
        let mut answer = String::new();
        let outcome = self.answer(session, &prompt, &mut answer)?;
        if outcome.done == Done::Cancelled {
            return Err(Interrupted::error());
        }
        Ok(())
    }

    /// A conversation on a terminal, until its end of input.
    fn converse(&self, session: &mut Session) -> Result<()> {
        let mut messages = Vec::new();
        loop {
            super::write_out(">>> ")?;
            let mut line = String::new();
            match std::io::stdin().read_line(&mut line) {
                Ok(0) => return super::write_out("\n"),
                Ok(_) => {}
                Err(e) => return Err(Diagnostic::environment(format!("cannot read: {e}")).into()),
            }
            if line.trim().is_empty() {
                continue;
            }
            if matches!(line.trim(), "/bye" | "/exit") {
                return Ok(());
            }
            messages.push(ChatMessage::new("user", line.trim_end_matches(['\n', '\r'])));
            let mut answer = String::new();
            self.cancelled.store(false, Ordering::Relaxed);
            let prompt = self.fitting(&mut messages, session.context());
            match prompt.and_then(|prompt| self.answer(session, &prompt, &mut answer)) {
                Ok(_) => messages.push(ChatMessage::new("assistant", answer)),
                Err(errors) => {
                    self.global.print(&errors.0);
                    messages.pop();
                }
            }
        }
    }

    /// The tokens of a conversation without the oldest messages that leave no room for an answer.
    fn fitting(&self, messages: &mut Vec<ChatMessage>, context: usize) -> Result<Vec<u32>> {
        loop {
            let prompt = self.loaded.tokens(&self.loaded.render(messages)?);
            if prompt.len() < context || messages.len() == 1 {
                return Ok(prompt);
            }
            messages.remove(0);
        }
    }

    fn answer(&self, session: &mut Session, prompt: &[u32], answer: &mut String) -> Result<Outcome> {
        let outcome = self.loaded.generate(session, prompt, &self.options, &self.cancelled, &mut |text| {
            answer.push_str(text);
            super::write_out(text)
        });
        super::write_out("\n")?;
        let outcome = outcome?;
        if self.run.verbose {
            self.report(&outcome);
        }
        Ok(outcome)
    }

    /// Counts, times and rates, as Ollama prints them.
    fn report(&self, outcome: &Outcome) {
        let stats = &outcome.stats;
        let rate = |count: usize, time: Duration| count as f64 / time.as_secs_f64().max(1e-9);
        let total = self.load + stats.prompt_eval_duration + stats.eval_duration;
        let lines = [
            ("total duration:", format!("{total:.3?}")),
            ("load duration:", format!("{:.3?}", self.load)),
            ("prompt eval count:", format!("{} token(s)", stats.prompt_eval_count)),
            ("prompt eval duration:", format!("{:.3?}", stats.prompt_eval_duration)),
            (
                "prompt eval rate:",
                format!("{:.2} tokens/s", rate(stats.prompt_eval_count, stats.prompt_eval_duration)),
            ),
            ("eval count:", format!("{} token(s)", stats.eval_count)),
            ("eval duration:", format!("{:.3?}", stats.eval_duration)),
            ("eval rate:", format!("{:.2} tokens/s", rate(stats.eval_count, stats.eval_duration))),
        ];
        for (name, value) in lines {
            let _ = writeln!(std::io::stderr(), "{name:<22}{value}");
        }
    }
}
