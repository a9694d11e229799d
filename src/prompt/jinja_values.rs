//! A conversation as Hugging Face chat templates see it.

use minijinja::Value;
use minijinja::value::Serde;
use serde_json::{Map, Value as Json, json};

use crate::diagnostic::{Diagnostic, Result};

use super::chat::{ChatMessage, ChatRequest, SpecialTokens, Think};

/// Variables by name.
pub type Variables = Vec<(String, Json)>;

/// The variables as the engine has them.
pub fn values(variables: Variables) -> Vec<(String, Value)> {
    variables.into_iter().map(|(name, json)| (name, Value::from(Serde(json)))).collect()
}

/// The variables a chat template is given, except for functions.
///
/// # Errors
/// A tool or a call's arguments are nested deeper than `nesting`.
pub fn context(request: &ChatRequest<'_>, tokens: &SpecialTokens, nesting: usize) -> Result<Variables> {
    for json in request.tools.iter().chain(calls(request.messages)) {
        if !is_shallow(json, nesting) {
            return Err(Diagnostic::error("a value given to the template is nested too deeply")
                .code("template-budget")
                .into());
        }
    }
    let messages = request.messages.iter().map(message).collect();
    // Absent tools are `none`, as in transformers.
    let tools = if request.tools.is_empty() { Json::Null } else { Json::Array(request.tools.to_vec()) };
    let mut variables = vec![
        ("messages".to_owned(), messages),
        ("tools".to_owned(), tools),
        ("documents".to_owned(), Json::Null),
        ("add_generation_prompt".to_owned(), json!(request.add_generation_prompt)),
    ];
    let token = |name: &str, token: &Option<String>| token.as_ref().map(|t| (name.to_owned(), json!(t)));
    variables.extend(token("bos_token", &tokens.bos));
    variables.extend(token("eos_token", &tokens.eos));
    if let Some(think) = &request.think {
        variables.push(("enable_thinking".to_owned(), json!(*think != Think::Off)));
        if let Think::Level(level) = think {
            variables.push(("reasoning_effort".to_owned(), json!(level)));
        }
    }
    Ok(variables)
}

fn calls(messages: &[ChatMessage]) -> impl Iterator<Item = &Json> {
    messages.iter().flat_map(|m| &m.tool_calls).map(|call| &call.arguments)
}

/// A message; keys without a value are left out, so that templates can ask whether they are there.
fn message(message: &ChatMessage) -> Json {
    let mut keys = Map::new();
    keys.insert("role".to_owned(), json!(message.role));
    keys.insert("content".to_owned(), json!(message.content));
    if !message.thinking.is_empty() {
        // Qwen and DeepSeek know the first name, gpt-oss the second.
        keys.insert("reasoning_content".to_owned(), json!(message.thinking));
        keys.insert("thinking".to_owned(), json!(message.thinking));
    }
    if !message.tool_calls.is_empty() {
        let calls = message.tool_calls.iter().map(|call| {
            let mut keys = Map::new();
            if !call.id.is_empty() {
                keys.insert("id".to_owned(), json!(call.id));
            }
            keys.insert("type".to_owned(), json!("function"));
            keys.insert("function".to_owned(), json!({"name": call.name, "arguments": call.arguments}));
            Json::Object(keys)
        });
        keys.insert("tool_calls".to_owned(), calls.collect());
    }
    if !message.tool_name.is_empty() {
        keys.insert("name".to_owned(), json!(message.tool_name));
    }
    if !message.tool_call_id.is_empty() {
        keys.insert("tool_call_id".to_owned(), json!(message.tool_call_id));
    }
    Json::Object(keys)
}

fn is_shallow(json: &Json, nesting: usize) -> bool {
    match json {
        Json::Array(items) => nesting > 0 && items.iter().all(|v| is_shallow(v, nesting - 1)),
        Json::Object(members) => nesting > 0 && members.values().all(|v| is_shallow(v, nesting - 1)),
        _ => true,
    }
}
