//! A job made ready for a model: rendered, cut into tokens, fitted into the context.

use serde_json::Value as Json;

use super::{Input, Job, ToolChoice};
use crate::diagnostic::{Diagnostic, Errors};
use crate::prompt::output::{self, OutputSyntax, ReaderOptions, ToolSyntax};
use crate::prompt::{ChatMessage, ChatRequest, Think, conversation};
use crate::runtime::constrain::{After, Constraint, Grammar, Grammars};
use crate::runtime::loaded::Loaded;
use crate::runtime::options::GenerateOptions;

/// Contexts' worth of tokens that an answer may have.
const TURNS_OF_CONTEXT: usize = 10;

/// What was left out so that a conversation fits its context.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Truncation {
    /// Messages that were dropped.
    pub messages: usize,
    /// Tokens that were cut out of what was left.
    pub tokens: usize,
    /// The context.
    pub context: usize,
}

/// Why a job is not done.
#[derive(Clone, Debug, PartialEq)]
pub enum Refusal {
    /// It asks for what is not there, or is too large.
    Request {
        /// What happened.
        message: String,
        /// The field that is wrong.
        param: Option<&'static str>,
        /// A stable name, such as `context_length_exceeded`.
        code: Option<&'static str>,
    },
    /// Something failed on the way.
    Failed(Errors),
}

impl Refusal {
    fn of(message: impl Into<String>) -> Refusal {
        Refusal::Request { message: message.into(), param: None, code: None }
    }

    fn param(self, field: &'static str) -> Refusal {
        match self {
            Refusal::Request { message, code, .. } => Refusal::Request { message, param: Some(field), code },
            failed @ Refusal::Failed(_) => failed,
        }
    }

    fn code(self, name: &'static str) -> Refusal {
        match self {
            Refusal::Request { message, param, .. } => Refusal::Request { message, param, code: Some(name) },
            failed @ Refusal::Failed(_) => failed,
        }
    }
}

impl From<Errors> for Refusal {
    fn from(errors: Errors) -> Refusal {
        Refusal::Failed(errors)
    }
}

impl From<Refusal> for Errors {
    fn from(refusal: Refusal) -> Errors {
        match refusal {
            Refusal::Request { message, code, .. } => {
                Diagnostic::error(message).code(code.unwrap_or_default()).into()
            }
            Refusal::Failed(errors) => errors,
        }
    }
}

/// What a job may take.
#[derive(Clone, Copy, Debug)]
pub struct Bounds {
    /// Positions of a sequence.
    pub context: usize,
    /// Stop texts.
    pub stops: usize,
}

/// A job that can be given to an engine.
pub struct Ready {
    /// What the model reads.
    pub tokens: Vec<u32>,
    /// What it was made of, as text.
    pub text: String,
    /// What was left out.
    pub truncation: Option<Truncation>,
    /// How to generate: the model's parameters, then the job's.
    pub options: GenerateOptions,
    /// How the model writes what is not plain text.
    pub syntax: OutputSyntax,
    /// What to look for in it.
    pub reader: ReaderOptions,
    /// What the text must be.
    pub grammar: Option<Grammar>,
}

/// Makes a job ready for a model, which messages call `name`.
///
/// # Errors
/// The model does not support what is asked, an option is out of its range, or the prompt does not fit and may not be
/// truncated.
pub fn ready(loaded: &Loaded, name: &str, bounds: &Bounds, job: &Job) -> Result<Ready, Refusal> {
    let mut parameters = loaded.prompt().parameters.clone();
    parameters.extend(job.parameters.iter().cloned());
    let mut options = GenerateOptions::from_parameters(&parameters)?;
    // A model that never ends, in a context that is shifted, would go on for ever.
    let most = bounds.context.saturating_mul(TURNS_OF_CONTEXT);
    options.num_predict = Some(options.num_predict.unwrap_or(most).min(most));
    if options.stop.len() > bounds.stops {
        return Err(Refusal::of(format!("more than {} stop texts", bounds.stops)).param("stop"));
    }
    let syntax = loaded.template().output_syntax().clone();
    let tools = match job.tool_choice {
        ToolChoice::None => Vec::new(),
        _ => job.tools.clone(),
    };
    check_support(loaded, name, job, &syntax, &tools)?;
    let think = job.think.clone().or_else(|| syntax.thinking.as_ref().map(|_| Think::On));
    let think = think.filter(|_| syntax.thinking.is_some());
    let fitted = fit(loaded, job, &tools, think.as_ref(), &options, bounds.context)?;
    let thinks = !matches!(think, None | Some(Think::Off));
    let begins = |s| output::begins_in_thinking(&fitted.text, s);
    let chat = is_chat(&job.input);
    let reader = ReaderOptions {
        tools: if chat { tools.iter().filter_map(function_name).collect() } else { Vec::new() },
        parameters: tools.iter().filter_map(|t| Some((function_name(t)?, argument_schema(t)?))).collect(),
        thinking: thinks && chat,
        begins_in_thinking: thinks && syntax.thinking.as_ref().is_some_and(begins),
    };
    let grammar = grammar(job, &syntax, tools)?;
    let Fitted { text, tokens, truncation } = fitted;
    Ok(Ready { tokens, text, truncation, options, syntax, reader, grammar })
}

impl Ready {
    /// Fresh constraints for the text, one for each of `n` answers; none where it may be any text.
    ///
    /// # Errors
    /// The grammar is not supported, or the vocabulary is not fit for grammars.
    pub fn constraints<'g>(
        &self,
        n: u32,
        grammars: impl FnOnce() -> Result<&'g Grammars, Errors>,
    ) -> Result<Vec<Constraint>, Errors> {
        let Some(grammar) = &self.grammar else { return Ok(Vec::new()) };
        let thinking = self.syntax.thinking.as_ref().filter(|_| self.reader.thinking);
        let begun = self.reader.begins_in_thinking;
        let after = thinking.map(|t| After { open: &t.open, close: &t.close, begun });
        let grammars = grammars()?;
        (0..n).map(|_| grammars.constraint(grammar, after)).collect()
    }
}

fn is_chat(input: &Input) -> bool {
    matches!(input, Input::Chat(_) | Input::Continue { .. })
}

fn argument_schema(tool: &Json) -> Option<Json> {
    tool.get("function")?.get("parameters").cloned()
}

fn function_name(tool: &Json) -> Option<String> {
    tool.get("function")?.get("name")?.as_str().map(str::to_owned)
}

/// In Ollama's words.
fn check_support(
    loaded: &Loaded,
    name: &str,
    job: &Job,
    syntax: &OutputSyntax,
    tools: &[Json],
) -> Result<(), Refusal> {
    let template = loaded.template();
    let lacks = |what: &str| Refusal::of(format!("{name} does not support {what}"));
    if loaded.makes_embeddings() {
        let what = if is_chat(&job.input) { "chat" } else { "generate" };
        return Err(Refusal::of(format!("\"{name}\" does not support {what}")).param("model"));
    }
    if !tools.is_empty() && !template.supports_tools() {
        return Err(lacks("tools").param("tools"));
    }
    if matches!(job.input, Input::Infill { .. }) && !template.supports_infill() {
        return Err(lacks("insert").param("suffix"));
    }
    let thinks = !matches!(job.think, None | Some(Think::Off));
    if thinks && syntax.thinking.is_none() {
        return Err(Refusal::of(format!("\"{name}\" does not support thinking")).param("think"));
    }
    let images = |messages: &[ChatMessage]| messages.iter().any(|m| !m.images.is_empty());
    match &job.input {
        Input::Chat(messages) | Input::Continue { messages, .. } if images(messages) => Err(lacks("vision")),
        _ => Ok(()),
    }
}

/// What the text of the answer must be.
fn grammar(job: &Job, syntax: &OutputSyntax, tools: Vec<Json>) -> Result<Option<Grammar>, Refusal> {
    let wanted: Vec<Json> = match &job.tool_choice {
        ToolChoice::Auto | ToolChoice::None => return Ok(job.format.clone()),
        ToolChoice::Required => tools,
        ToolChoice::Function(name) => {
            tools.into_iter().filter(|t| function_name(t).as_deref() == Some(name)).collect()
        }
    };
    if wanted.is_empty() {
        return Err(Refusal::of("tool_choice names no tool of the request").param("tool_choice"));
    }
    // A template with a place for tools but without a way to call them: bare JSON.
    let syntax = syntax.tools.clone().unwrap_or_else(ToolSyntax::bare);
    Ok(Some(Grammar::Tools { syntax, tools: wanted, parallel: job.parallel_tool_calls }))
}

struct Fitted {
    text: String,
    tokens: Vec<u32>,
    truncation: Option<Truncation>,
}

/// Renders what the model reads, without the oldest messages that leave no room.
fn fit(
    loaded: &Loaded,
    job: &Job,
    tools: &[Json],
    think: Option<&Think>,
    options: &GenerateOptions,
    context: usize,
) -> Result<Fitted, Refusal> {
    let now = jiff::ZonedDateTime::now().datetime();
    let (mut messages, before, template) = match &job.input {
        Input::Raw(text) => return cut(job, loaded.tokens(text), text.clone(), 0, options, context),
        Input::Infill { prompt, suffix } => {
            let text = loaded.template().render_infill(prompt, suffix, think, now)?;
            let tokens = loaded.tokens(&text);
            return cut(job, tokens, text, 0, options, context);
        }
        Input::Chat(messages) => (conversation(loaded.prompt(), messages), &[][..], None),
        Input::Continue { context, messages, template } => {
            let all = match context.is_empty() {
                true => conversation(loaded.prompt(), messages),
                // An earlier turn said the model's own messages.
                false => messages.clone(),
            };
            (all, context.as_slice(), template.as_deref())
        }
    };
    if let Some(thinking) = &loaded.template().output_syntax().thinking {
        output::strip_thinking(&mut messages, thinking);
    }
    let earlier = match before {
        [] => String::new(),
        ids => {
            let known = |id: &&u32| (**id as usize) < loaded.tokenizer.vocab_size();
            if let Some(id) = ids.iter().find(|id| !known(id)) {
                return Err(Refusal::of(format!("context: {id} is no token")).param("context"));
            }
            // What is beyond the context would be cut off again.
            loaded.tokenizer.decode(&ids[ids.len().saturating_sub(context)..])
        }
    };
    // The oldest that are no system message and not the last go first.
    let last = messages.len().saturating_sub(1);
    let droppable: Vec<usize> = (0..last).filter(|i| messages[*i].role != "system").collect();
    let without = |count: usize| -> Result<(String, Vec<u32>), Refusal> {
        let dropped = &droppable[..count];
        let left = messages.iter().enumerate().filter(|(i, _)| dropped.binary_search(i).is_err());
        let left: Vec<ChatMessage> = left.map(|(_, m)| m.clone()).collect();
        let think = think.cloned();
        let request = ChatRequest { messages: &left, tools, think, add_generation_prompt: true, now };
        let text = format!("{earlier}{}", loaded.render_request(&request, template)?);
        let tokens = loaded.tokens(&text);
        Ok((text, tokens))
    };
    let mut best = without(0)?;
    let mut dropped = 0;
    if job.truncate && best.1.len() > context && !droppable.is_empty() {
        // The fewest that are enough, or all: a prompt is no longer for a message less.
        let (mut too_few, mut enough) = (0, droppable.len());
        best = without(enough)?;
        dropped = enough;
        while best.1.len() <= context && enough - too_few > 1 {
            let middle = too_few + (enough - too_few) / 2;
            let tried = without(middle)?;
            if tried.1.len() <= context {
                (enough, dropped, best) = (middle, middle, tried);
            } else {
                too_few = middle;
            }
        }
    }
    cut(job, best.1, best.0, dropped, options, context)
}

/// Refuses a prompt that is too long, or cuts out the tokens after the first `num_keep`.
fn cut(
    job: &Job,
    mut tokens: Vec<u32>,
    text: String,
    messages: usize,
    options: &GenerateOptions,
    context: usize,
) -> Result<Fitted, Refusal> {
    let len = tokens.len();
    if len == 0 {
        return Err(Refusal::of("the prompt has no tokens"));
    }
    if len <= context {
        let truncation = (messages > 0).then_some(Truncation { messages, tokens: 0, context });
        return Ok(Fitted { text, tokens, truncation });
    }
    if !job.truncate {
        let message = format!("the prompt has {len} tokens, but the context of the model holds {context}");
        return Err(Refusal::of(message).code("context_length_exceeded").param("messages"));
    }
    // Half of the room beyond what is kept stays for the newest part, so that there is room to answer.
    let keep = options.num_keep.min(context / 2);
    let newest = (context - keep).div_ceil(2);
    tokens.drain(keep..len - newest);
    let truncation = Truncation { messages, tokens: len - tokens.len(), context };
    Ok(Fitted { text, tokens, truncation: Some(truncation) })
}
