//! Conversations on which templates are tried: what most models take, and where templates differ.

use jiff::civil::{DateTime, datetime};
use serde_json::{Value as Json, json};

use crate::diagnostic::Result;

use super::chat::{ChatMessage, ChatRequest, SpecialTokens, Template, ToolCall};
use super::isolated::Renderer;

/// One of them.
#[derive(Clone, Debug)]
pub struct Conversation {
    /// What is in it, for a person.
    pub name: &'static str,
    /// The messages; the assistant is to answer the last one.
    pub messages: Vec<ChatMessage>,
    /// The tools on offer.
    pub tools: Vec<Json>,
}

/// When they take place: what is said of a template does not depend on the day.
pub const NOW: DateTime = datetime(2026, 1, 1, 12, 0, 0, 0);

/// The question that turns begin with.
pub const QUESTION: &str = "Which is the largest planet?";
/// Its answer.
pub const ANSWER: &str = "Jupiter is the largest.";
/// The question after it.
pub const NEXT_QUESTION: &str = "And the smallest?";

const SYSTEM: &str = "You are a helpful assistant.";

/// All of them, the plain ones first.
pub fn conversations() -> Vec<Conversation> {
    let system = || ChatMessage::new("system", SYSTEM);
    let plain = |name, messages| Conversation { name, messages, tools: Vec::new() };
    vec![
        plain("a question", vec![ChatMessage::new("user", QUESTION)]),
        plain("a system prompt and a question", vec![system(), ChatMessage::new("user", QUESTION)]),
        plain("two turns", turns()),
        plain("a system prompt and two turns", [vec![system()], turns()].concat()),
        Conversation {
            name: "a question and a tool",
            messages: vec![system(), ChatMessage::new("user", "How warm is it in Rome?")],
            tools: vec![weather()],
        },
        Conversation { name: "a call and its result", messages: called(), tools: vec![weather()] },
    ]
}

/// What a template makes of a few of them, for a person: each under a line with its name. What the template
/// refuses is said in its place.
///
/// # Errors
/// The template is malformed, or cannot be rendered within its limits.
pub fn preview(renderer: &Renderer, template: &Template, tokens: &SpecialTokens) -> Result<String> {
    renderer.check(template)?;
    let mut out = String::new();
    let shown = |c: &Conversation| match c.tools.is_empty() {
        true => c.messages.len() > 3,
        false => template.supports_tools(),
    };
    for conversation in conversations().iter().filter(|c| shown(c)) {
        let mut request = ChatRequest::new(&conversation.messages);
        request.tools = &conversation.tools;
        let text = match renderer.render(template, &request, tokens) {
            Ok(text) => text,
            Err(errors) if errors.0.iter().all(|d| REFUSES.contains(&d.code)) => format!("[{errors}]"),
            Err(errors) => return Err(errors),
        };
        out.push_str(&format!("--- {}\n{text}\n", conversation.name));
    }
    Ok(out)
}

/// Codes of errors with which a chat template refuses a conversation, or fails on it.
pub(super) const REFUSES: [&str; 2] = ["template-raised", "template-execution"];

/// A question, its answer, and the next question.
pub fn turns() -> Vec<ChatMessage> {
    vec![
        ChatMessage::new("user", QUESTION),
        ChatMessage::new("assistant", ANSWER),
        ChatMessage::new("user", NEXT_QUESTION),
    ]
}

fn called() -> Vec<ChatMessage> {
    // Mistral's templates take ids of nine letters and digits.
    let id = "call00001".to_owned();
    let call = ToolCall { id: id.clone(), name: "weather".to_owned(), arguments: json!({"city": "Rome"}) };
    vec![
        ChatMessage::new("system", SYSTEM),
        ChatMessage::new("user", "How warm is it in Rome?"),
        ChatMessage { tool_calls: vec![call], ..ChatMessage::new("assistant", "") },
        ChatMessage {
            tool_name: "weather".to_owned(),
            tool_call_id: id,
            ..ChatMessage::new("tool", "21 degrees")
        },
    ]
}

fn weather() -> Json {
    json!({"type": "function", "function": {
        "name": "weather",
        "description": "The weather of a city",
        "parameters": {
            "type": "object",
            "properties": {"city": {"type": "string", "description": "The city's name"}},
            "required": ["city"],
        },
    }})
}
