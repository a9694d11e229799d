//! `mdl run`.

use std::io::{IsTerminal as _, Read as _};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use clap::Args;

use super::transfer::Registry;
use super::{Global, Interrupted, usage, write_out};
use crate::client::{Client, Place};
use crate::diagnostic::{Diagnostic, Result};
use crate::ir::ParameterValue;
use crate::modelfile::parameters;
use crate::pipeline::models;
use crate::prompt::isolated::ChildCommand;
use crate::prompt::{Renderer, Think};
use crate::runtime::constrain::Grammar;
use crate::runtime::generate::Done;
use crate::server::KeepAlive;
use crate::store;
use crate::terminal::answers::{Answers, Embedded};
use crate::terminal::conversation::{Conversation, needs_a_text};
use crate::terminal::local::{Local, Setup};
use crate::terminal::remote::{self, Remote};
use crate::terminal::view::Look;
use crate::world::{self, SystemWorld};

/// Runs a model: one prompt from the arguments or standard input, or a conversation on a terminal.
///
/// Where a server of this machine answers at $MDL_HOST or $OLLAMA_HOST and serves the same store, it computes; else this
/// process does. The text is the same.
#[derive(Args)]
#[command(after_help = "\
Examples:
  mdl run story                            a conversation; /? there says how
  mdl run story \"Once upon a time\"
  cat question.txt | mdl run smollm2 \"Answer in one sentence.\"
  mdl run smollm2 --set temperature=0 --verbose \"Why is the sky blue?\"
  mdl run qwen3 --think=high --hidethinking \"How many primes are below 100?\"
  mdl run smollm2 --format answer.schema.json \"Name a colour.\"
  mdl run ./model.gguf \"Why is the sky blue?\"
  mdl run ./checkpoint                     a directory with Safetensors, in place
  mdl run story --raw \"Emma was\"          no template: the model goes on with the text
  mdl run minilm \"a text\"                  a model that makes embeddings prints a vector, as JSON")]
pub(super) struct Run {
    /// The model: a name of the store, or the path of a GGUF file or a checkpoint's directory
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

    /// What the answer must be: json, or the file of a JSON schema
    #[arg(long, value_name = "json|FILE")]
    format: Option<String>,

    /// Think before answering: true, false, low, medium, high or max [default: as the model does]
    #[arg(long, value_name = "LEVEL", num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    think: Option<String>,

    /// Do not show what the model thinks
    #[arg(long, visible_alias = "hide-thinking")]
    hidethinking: bool,

    /// How long a server keeps the model loaded: seconds, or a duration such as 5m
    #[arg(long, value_name = "DURATION", allow_hyphen_values = true)]
    keepalive: Option<String>,

    /// Do not wrap words at the width of the terminal
    #[arg(long)]
    nowordwrap: bool,

    /// Print counts, times and rates
    #[arg(long, short)]
    verbose: bool,

    /// Cut what is longer than the context; with =false it is refused [default: true]
    #[arg(long, value_name = "BOOL", num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    truncate: Option<bool>,

    /// Of an embedding, only so many values
    #[arg(long, value_name = "N")]
    dimensions: Option<usize>,

    /// Compute in this process, whoever serves
    #[arg(long, conflicts_with = "host")]
    local: bool,

    /// Have the server at this address compute: HOST, HOST:PORT, http://HOST:PORT or unix:PATH
    #[arg(long, value_name = "ADDRESS")]
    host: Option<String>,

    #[command(flatten)]
    registry: Registry,
}

impl Run {
    pub(super) fn run(self, global: &Global) -> Result<()> {
        let prompt = self.prompt_text()?;
        let format = self.format.as_deref().map(format).transpose()?;
        let think = self.think.as_deref().map(think).transpose()?;
        let parameters = self.set.iter().map(|text| parameter(text)).collect::<Result<Vec<_>>>()?;
        if let Some(text) = &self.keepalive {
            KeepAlive::parse(text).map_err(|why| usage(format!("--keepalive: {why}")))?;
        }
        if self.host.is_none() {
            let store = global.open_store()?;
            let missing = models::missing_to_run(&SystemWorld, &store, &self.name)?;
            self.registry.bring(global, &store, missing.as_slice())?;
        }
        let mut answers: Box<dyn Answers> = match self.server(global)? {
            Some(client) => Box::new(Remote::new(client, &self.name, self.keepalive.as_deref())?),
            None => Box::new(self.local(global)?),
        };
        if answers.description()?.can("embedding") {
            let text = prompt.ok_or_else(|| needs_a_text(&self.name))?;
            let truncate = self.truncate.unwrap_or(true);
            let values = answers.embed(&text, Embedded { truncate, dimensions: self.dimensions })?;
            let texts: Vec<String> = values.iter().map(f32::to_string).collect();
            return write_out(&format!("[{}]\n", texts.join(",")));
        }
        let look = Look { screen: global.screen(), wrap: !self.nowordwrap, hide_thinking: self.hidethinking };
        let private = ["MDL_NOHISTORY", "OLLAMA_NOHISTORY"].iter().any(|name| is_set(name));
        let history = store::data_directory(&|name| std::env::var_os(name)).map(|dir| dir.join("history"));
        let mut conversation = Conversation {
            answers: &mut *answers,
            look,
            verbose: self.verbose,
            format,
            think,
            truncate: self.truncate.unwrap_or(true),
            parameters,
            system: None,
            messages: Vec::new(),
            history: history.filter(|_| !private),
            records: !private,
            cancelled: on_interrupt()?,
            report: &|diagnostics| global.print(diagnostics),
        };
        match prompt {
            None => conversation.converse(),
            Some(text) => match conversation.answer_once(&text, self.raw)?.done {
                Done::Cancelled => Err(Interrupted::error()),
                Done::Stop | Done::Length => Ok(()),
            },
        }
    }

    /// The server that is to compute.
    fn server(&self, global: &Global) -> Result<Option<Client>> {
        let env = |name: &str| std::env::var(name).ok();
        match &self.host {
            Some(host) => Client::new(Place::find(Some(host), &env)?, &env).map(Some),
            None if self.local || Path::new(&self.name).exists() => Ok(None),
            None => remote::server_of(&global.open_store()?, &env),
        }
    }

    /// The model in this process.
    fn local(&self, global: &Global) -> Result<Local> {
        let printed = global.clone();
        let setup = Setup {
            store: global.open_store()?,
            compute: global.compute(),
            renderer: Renderer::in_children(ChildCommand::current()?),
            renders: !self.raw,
            warn: Box::new(move |warnings| printed.print(warnings)),
        };
        Local::new(setup, &self.name)
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

/// True of a variable that says yes.
fn is_set(name: &str) -> bool {
    std::env::var(name).is_ok_and(|v| !matches!(v.trim(), "" | "0" | "false" | "False" | "FALSE" | "f" | "F"))
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

/// Reads `--format`: `json`, a schema, or the file of one.
fn format(text: &str) -> Result<Grammar> {
    if text == "json" {
        return Ok(Grammar::Json);
    }
    let (bytes, path) = match text.trim_start().starts_with('{') {
        true => (text.as_bytes().to_vec(), None),
        false => (world::read_file(&SystemWorld, Path::new(text), 1 << 20)?, Some(text)),
    };
    let wrong = |why: String| {
        let d = Diagnostic::error(format!("--format is neither `json` nor a JSON schema: {why}"));
        if let Some(path) = path { d.in_file(path, "") } else { d }
    };
    match serde_json::from_slice(&bytes).map_err(|e| wrong(e.to_string()))? {
        schema @ serde_json::Value::Object(_) => Ok(Grammar::Schema(schema)),
        _ => Err(wrong("an object is expected".to_owned()).into()),
    }
}

/// Reads `--think`.
fn think(text: &str) -> Result<Think> {
    match text {
        "true" => Ok(Think::On),
        "false" => Ok(Think::Off),
        "low" | "medium" | "high" | "max" => Ok(Think::Level(text.to_owned())),
        _ => Err(usage(format!("--think: `{text}` is none of true, false, low, medium, high, max"))),
    }
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
