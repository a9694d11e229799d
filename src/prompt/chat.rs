//! A conversation, and the template that turns it into the text a model reads.

use jiff::civil::DateTime;
use serde_json::Value as Json;

use crate::diagnostic::{Diagnostic, Result};
use crate::ir;

use super::go::GoTemplate;
use super::jinja::JinjaTemplate;
use super::limits::Limits;
use super::output::OutputSyntax;

/// One message.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct ChatMessage {
    /// `system`, `user`, `assistant`, `tool`, or what else a template knows.
    pub role: String,
    /// What it says.
    pub content: String,
    /// What the model thought before it said so.
    pub thinking: String,
    /// Images, each in the form the caller gives templates: they can only be counted or printed.
    pub images: Vec<String>,
    /// Functions the model called.
    pub tool_calls: Vec<ToolCall>,
    /// Of a tool's message: the function that was called.
    pub tool_name: String,
    /// Of a tool's message: the call it answers.
    pub tool_call_id: String,
}

impl ChatMessage {
    /// A message of text.
    pub fn new(role: impl Into<String>, content: impl Into<String>) -> ChatMessage {
        ChatMessage { role: role.into(), content: content.into(), ..ChatMessage::default() }
    }
}

/// A call of a function.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct ToolCall {
    /// The call's own name.
    pub id: String,
    /// The function's name.
    pub name: String,
    /// An object: the arguments by name.
    pub arguments: Json,
}

/// What the user asked about thinking.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Think {
    /// No.
    Off,
    /// Yes.
    On,
    /// Yes, and how much: `low`, `medium`, `high`.
    Level(String),
}

/// What a template is executed on.
#[derive(Clone, Debug)]
pub struct ChatRequest<'a> {
    /// The conversation, the model's own messages included (see [`conversation`]).
    pub messages: &'a [ChatMessage],
    /// The tools on offer, each `{"type": "function", "function": {...}}`.
    pub tools: &'a [Json],
    /// Nothing where the user did not say.
    pub think: Option<Think>,
    /// Whether the text ends where the assistant's answer begins. Go templates decide themselves.
    pub add_generation_prompt: bool,
    /// The time that date functions tell.
    pub now: DateTime,
}

impl<'a> ChatRequest<'a> {
    /// A conversation that the assistant is to answer now.
    pub fn new(messages: &'a [ChatMessage]) -> ChatRequest<'a> {
        let now = jiff::ZonedDateTime::now().datetime();
        ChatRequest { messages, tools: &[], think: None, add_generation_prompt: true, now }
    }
}

/// Tokens that templates may write by name.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SpecialTokens {
    /// The text of the token that begins a sequence.
    pub bos: Option<String>,
    /// The text of the token that ends a sequence.
    pub eos: Option<String>,
}

impl SpecialTokens {
    /// Those of a model's metadata, as far as it names them.
    pub fn of(metadata: &ir::Metadata) -> SpecialTokens {
        let tokens = metadata.array("tokenizer.ggml.tokens").and_then(ir::Array::as_strings);
        let text = |key: &str| {
            let id = usize::try_from(metadata.u64(key)?).ok()?;
            tokens?.get(id).map(str::to_owned)
        };
        SpecialTokens { bos: text("tokenizer.ggml.bos_token_id"), eos: text("tokenizer.ggml.eos_token_id") }
    }

    /// True when a rendered text begins with the BOS token itself: the tokenizer must not add
    /// another.
    pub fn begin(&self, text: &str) -> bool {
        self.bos.as_deref().is_some_and(|bos| !bos.is_empty() && text.starts_with(bos))
    }
}

/// The conversation a template sees: the model's SYSTEM unless the request begins with a system
/// message, the model's MESSAGEs, then the request's. Roles become lower case.
pub fn conversation(prompt: &ir::Prompt, request: &[ChatMessage]) -> Vec<ChatMessage> {
    let mut messages = Vec::with_capacity(request.len() + prompt.messages.len() + 1);
    let has_system = request.first().is_some_and(|m| m.role.eq_ignore_ascii_case("system"));
    if let Some(system) = prompt.system.as_deref().filter(|s| !s.is_empty() && !has_system) {
        messages.push(ChatMessage::new("system", system));
    }
    messages.extend(prompt.messages.iter().map(|m| ChatMessage::new(m.role.name(), m.content.as_str())));
    messages.extend(request.iter().map(|m| ChatMessage { role: m.role.to_lowercase(), ..m.clone() }));
    messages
}

/// The template of a model.
#[derive(Debug)]
#[expect(clippy::large_enum_variant, reason = "a loaded model has one")]
pub enum Template {
    /// A Modelfile's TEMPLATE.
    Go(GoTemplate),
    /// The `tokenizer.chat_template` of a GGUF file.
    Jinja(JinjaTemplate),
}

impl Template {
    /// The template in force: the Modelfile's TEMPLATE, else the file's chat template, else one
    /// that is the user's words and nothing else.
    ///
    /// A chat template is compiled when it is first rendered or checked, so that a `Renderer` can do
    /// so in another process.
    ///
    /// # Errors
    /// The TEMPLATE that counts is malformed, or the chat template is too large.
    pub fn choose(
        modelfile_template: Option<&str>,
        chat_template: Option<&str>,
        limits: Limits,
    ) -> Result<Template> {
        Ok(match (modelfile_template, chat_template) {
            (Some(text), _) => Template::Go(GoTemplate::parse("TEMPLATE", text, limits)?),
            (None, Some(text)) => {
                Template::Jinja(JinjaTemplate::unread("tokenizer.chat_template", text, limits)?)
            }
            (None, None) => Template::Go(GoTemplate::parse("TEMPLATE", "{{ .Prompt }}", limits)?),
        })
    }

    /// The text of a conversation.
    ///
    /// # Errors
    /// The template fails on it, says itself that it does not take it, or exceeds a budget.
    pub fn render(&self, request: &ChatRequest<'_>, tokens: &SpecialTokens) -> Result<String> {
        match self {
            Template::Go(template) => template.render(request),
            Template::Jinja(template) => template.render(request, tokens),
        }
    }

    /// The text for a completion between `prompt` and `suffix`.
    ///
    /// # Errors
    /// The template has no place for a suffix, or fails.
    pub fn render_infill(
        &self,
        prompt: &str,
        suffix: &str,
        think: Option<&Think>,
        now: DateTime,
    ) -> Result<String> {
        match self {
            Template::Go(template) if template.supports_infill() => {
                template.render_infill(prompt, suffix, think, now)
            }
            Template::Go(_) | Template::Jinja(_) => Err(Diagnostic::error(
                "the model's template does not support insert: it has no place for a suffix",
            )
            .code("template-suffix")
            .into()),
        }
    }

    /// How the model writes thinking and calls.
    pub fn output_syntax(&self) -> &OutputSyntax {
        match self {
            Template::Go(template) => template.output_syntax(),
            Template::Jinja(template) => template.output_syntax(),
        }
    }

    /// True when the template has a place for tools.
    pub fn supports_tools(&self) -> bool {
        match self {
            Template::Go(template) => template.mentions("tools"),
            Template::Jinja(template) => template.mentions_tools(),
        }
    }

    /// True when the template has a place for a suffix.
    pub fn supports_infill(&self) -> bool {
        matches!(self, Template::Go(template) if template.supports_infill())
    }
}
