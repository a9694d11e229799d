//! A job made ready for a model: rendered, cut into tokens, fitted into the context, its grammar compiled.

use std::sync::Arc;
use std::time::Duration;

use serde_json::Value as Json;

use super::{Answer, Input, Job, ToolChoice};
use crate::diagnostic::Errors;
use crate::prompt::output::{self, OutputSyntax, ReaderOptions, ToolSyntax};
use crate::prompt::{ChatMessage, ChatRequest, Think, conversation};
use crate::runtime::constrain::{After, Grammar};
use crate::runtime::loaded::Loaded;
use crate::runtime::options::GenerateOptions;
use crate::server::app::App;
use crate::server::error::ApiError;
use crate::server::scheduler::{Lease, Served};

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

/// A job that can start.
pub struct Prepared {
    /// The model.
    pub lease: Lease,
    /// What the model reads.
    pub tokens: Vec<u32>,
    /// What it was made of, as text.
    pub text: String,
    /// What was left out.
    pub truncation: Option<Truncation>,
    pub(super) options: GenerateOptions,
    pub(super) syntax: OutputSyntax,
    pub(super) reader: ReaderOptions,
    pub(super) grammar: Option<Grammar>,
    pub(super) job: Job,
}

/// Makes a job ready for the leased model.
///
/// # Errors
/// 400: the model does not support what is asked, an option is out of its range, the prompt does not fit
/// and may not be truncated, or a schema is not supported.
pub async fn prepare(app: &Arc<App>, lease: Lease, job: Job) -> Result<Prepared, ApiError> {
    app.blocking(move |app| {
        let model = lease.model.clone();
        let mut parameters = model.loaded.prompt().parameters.clone();
        parameters.extend(job.parameters.iter().cloned());
        let mut options = GenerateOptions::from_parameters(&parameters)?;
        // A model that never ends, in a context that is shifted, would go on for ever.
        let most = model.context.saturating_mul(TURNS_OF_CONTEXT);
        options.num_predict = Some(options.num_predict.unwrap_or(most).min(most));
        if options.stop.len() > app.config.limits.stops {
            let most = app.config.limits.stops;
            return Err(ApiError::bad_request(format!("more than {most} stop texts")).param("stop"));
        }
        let syntax = model.loaded.template().output_syntax().clone();
        let tools = match job.tool_choice {
            ToolChoice::None => Vec::new(),
            _ => job.tools.clone(),
        };
        check_support(&model, &job, &syntax, &tools)?;
        let think = job.think.clone().or_else(|| syntax.thinking.as_ref().map(|_| Think::On));
        let think = think.filter(|_| syntax.thinking.is_some());
        let fitted = fit(&model.loaded, &job, &tools, think.as_ref(), &options, model.context)?;
        let thinks = !matches!(think, None | Some(Think::Off));
        let begins = |s| output::begins_in_thinking(&fitted.text, s);
        let reader = ReaderOptions {
            tools: if is_chat(&job.input) {
                tools.iter().filter_map(function_name).collect()
            } else {
                Vec::new()
            },
            parameters: tools.iter().filter_map(|t| Some((function_name(t)?, argument_schema(t)?))).collect(),
            thinking: thinks && is_chat(&job.input),
            begins_in_thinking: thinks && syntax.thinking.as_ref().is_some_and(begins),
        };
        let grammar = grammar(&job, &syntax, tools)?;
        if let Some(truncation) = &fitted.truncation {
            tracing::warn!(
                model = %model.name, messages = truncation.messages, tokens = truncation.tokens,
                context = truncation.context, "the prompt was truncated"
            );
        }
        Ok(Prepared {
            tokens: fitted.tokens,
            text: fitted.text,
            truncation: fitted.truncation,
            lease,
            options,
            syntax,
            reader,
            grammar,
            job,
        })
    })
    .await
}

impl Prepared {
    /// The number of tokens of the prompt.
    pub fn prompt_tokens(&self) -> usize {
        self.tokens.len()
    }

    /// Starts the only answer.
    ///
    /// # Errors
    /// 400: the grammar is not supported.
    pub async fn start(self, app: &Arc<App>) -> Result<Answer, ApiError> {
        let mut all = self.start_all(app, 1).await?;
        all.pop().ok_or_else(|| ApiError::internal("no answer was started"))
    }

    /// Starts `n` answers; where there is a seed, each has its own: the first that of the request, the next
    /// one more.
    ///
    /// # Errors
    /// As [`Prepared::start`].
    pub async fn start_all(mut self, app: &Arc<App>, n: u32) -> Result<Vec<Answer>, ApiError> {
        // From here on each answer waits for itself.
        self.lease.started();
        let places = (0..n).map(|_| app.scheduler.wait()).collect::<Result<Vec<_>, _>>()?;
        let (model, grammar) = (self.lease.model.clone(), self.grammar.take());
        let thinking = self.syntax.thinking.clone().filter(|_| self.reader.thinking);
        let begun = self.reader.begins_in_thinking;
        let mut constraints = Vec::new();
        if let Some(grammar) = grammar {
            constraints = app
                .blocking(move |_| {
                    let grammars = model.grammars()?;
                    let after = thinking.as_ref().map(|t| After { open: &t.open, close: &t.close, begun });
                    let one = || grammars.constraint(&grammar, after);
                    Ok((0..n).map(|_| one()).collect::<Result<Vec<_>, Errors>>()?)
                })
                .await?;
        }
        let leases: Vec<Lease> = places.iter().map(|_| self.lease.again()).collect();
        let started = Arc::new(Started {
            load_duration: self.lease.load_duration,
            tokens: self.tokens,
            truncation: self.truncation,
            options: self.options,
            syntax: self.syntax,
            reader: self.reader,
            job: self.job,
        });
        let mut constraints = constraints.into_iter();
        let answers = (0..n).zip(places).zip(leases).map(|((i, place), lease)| {
            Answer::start(app, started.clone(), i, constraints.next(), lease, place)
        });
        Ok(answers.collect())
    }
}

/// What the answers to one job share.
pub(super) struct Started {
    pub load_duration: Duration,
    pub tokens: Vec<u32>,
    pub truncation: Option<Truncation>,
    pub options: GenerateOptions,
    pub syntax: OutputSyntax,
    pub reader: ReaderOptions,
    pub job: Job,
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
fn check_support(model: &Served, job: &Job, syntax: &OutputSyntax, tools: &[Json]) -> Result<(), ApiError> {
    let name = &model.name;
    let template = model.loaded.template();
    let lacks = |what: &str| ApiError::bad_request(format!("{name} does not support {what}"));
    if model.loaded.makes_embeddings() {
        let what = if is_chat(&job.input) { "chat" } else { "generate" };
        return Err(ApiError::bad_request(format!("\"{name}\" does not support {what}")).param("model"));
    }
    if !tools.is_empty() && !template.supports_tools() {
        return Err(lacks("tools").param("tools"));
    }
    if matches!(job.input, Input::Infill { .. }) && !template.supports_infill() {
        return Err(lacks("insert").param("suffix"));
    }
    let thinks = !matches!(job.think, None | Some(Think::Off));
    if thinks && syntax.thinking.is_none() {
        return Err(ApiError::bad_request(format!("\"{name}\" does not support thinking")).param("think"));
    }
    let images = |messages: &[ChatMessage]| messages.iter().any(|m| !m.images.is_empty());
    match &job.input {
        Input::Chat(messages) | Input::Continue { messages, .. } if images(messages) => Err(lacks("vision")),
        _ => Ok(()),
    }
}

/// What the text of the answer must be.
fn grammar(job: &Job, syntax: &OutputSyntax, tools: Vec<Json>) -> Result<Option<Grammar>, ApiError> {
    let wanted: Vec<Json> = match &job.tool_choice {
        ToolChoice::Auto | ToolChoice::None => return Ok(job.format.clone()),
        ToolChoice::Required => tools,
        ToolChoice::Function(name) => {
            tools.into_iter().filter(|t| function_name(t).as_deref() == Some(name)).collect()
        }
    };
    if wanted.is_empty() {
        return Err(ApiError::bad_request("tool_choice names no tool of the request").param("tool_choice"));
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
) -> Result<Fitted, ApiError> {
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
                return Err(ApiError::bad_request(format!("context: {id} is no token")).param("context"));
            }
            // What is beyond the context would be cut off again.
            loaded.tokenizer.decode(&ids[ids.len().saturating_sub(context)..])
        }
    };
    // The oldest that are no system message and not the last go first.
    let last = messages.len().saturating_sub(1);
    let droppable: Vec<usize> = (0..last).filter(|i| messages[*i].role != "system").collect();
    let without = |count: usize| -> Result<(String, Vec<u32>), ApiError> {
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
) -> Result<Fitted, ApiError> {
    let len = tokens.len();
    if len == 0 {
        return Err(ApiError::bad_request("the prompt has no tokens"));
    }
    if len <= context {
        let truncation = (messages > 0).then_some(Truncation { messages, tokens: 0, context });
        return Ok(Fitted { text, tokens, truncation });
    }
    if !job.truncate {
        let message = format!("the prompt has {len} tokens, but the context of the model holds {context}");
        return Err(ApiError::bad_request(message).code("context_length_exceeded").param("messages"));
    }
    // Half of the room beyond what is kept stays for the newest part, so that there is room to answer.
    let keep = options.num_keep.min(context / 2);
    let newest = (context - keep).div_ceil(2);
    tokens.drain(keep..len - newest);
    let truncation = Truncation { messages, tokens: len - tokens.len(), context };
    Ok(Fitted { text, tokens, truncation: Some(truncation) })
}
