//! The messages of a chat.

use std::collections::HashMap;

use serde::Deserialize;
use serde_json::Value as Json;
use utoipa::ToSchema;

use crate::prompt::{ChatMessage, ToolCall};
use crate::server::error::ApiError;
use crate::server::fields::{image_url, invalid, missing, shown, tool_name};

/// A message.
#[derive(Clone, Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = openai::Message)]
pub struct Message {
    /// `system`, `developer`, `user`, `assistant` or `tool`.
    pub role: String,
    /// What it says.
    pub content: Option<Content>,
    /// Of a tool's message: the function. Of others it says nothing.
    pub name: Option<String>,
    /// Of an assistant's message: its calls.
    pub tool_calls: Option<Vec<Call>>,
    /// Of a tool's message: the call that it answers.
    pub tool_call_id: Option<String>,
    /// Of an assistant's message: what it thought.
    pub reasoning: Option<String>,
    /// Another name of `reasoning`.
    pub reasoning_content: Option<String>,
    /// Of an assistant's message: why it said nothing.
    pub refusal: Option<String>,
    /// Accepted, as responses have them; they say nothing to a model.
    #[allow(dead_code)]
    #[schema(value_type = Option<Object>)]
    pub annotations: Option<Json>,
    /// Accepted where it is null.
    #[schema(value_type = Option<Object>)]
    pub audio: Option<Json>,
    /// Accepted where it is null.
    #[schema(value_type = Option<Object>)]
    pub function_call: Option<Json>,
}

/// A text, or parts.
#[derive(Clone, Debug, Deserialize, ToSchema)]
#[serde(untagged, expecting = "it is neither a string nor a list of parts, each with its `type`")]
#[schema(as = openai::Content)]
pub enum Content {
    /// A text.
    Text(String),
    /// Parts.
    Parts(Vec<ContentPart>),
}

/// A part of a message.
#[derive(Clone, Debug, Deserialize, ToSchema)]
#[schema(as = openai::ContentPart)]
pub struct ContentPart {
    /// `text`, `image_url` or `refusal`.
    pub r#type: String,
    /// Of a text.
    pub text: Option<String>,
    /// Of an image: a `data:` URL.
    pub image_url: Option<ImageUrl>,
    /// Of a refusal.
    pub refusal: Option<String>,
}

/// The URL of an image.
#[derive(Clone, Debug, Deserialize, ToSchema)]
#[serde(untagged, expecting = "it is neither a URL nor an object with a `url`")]
#[schema(as = openai::ImageUrl)]
pub enum ImageUrl {
    /// The URL alone.
    Url(String),
    /// The URL in an object.
    Object {
        /// It.
        url: String,
        /// Accepted: an image is read as it is.
        #[allow(dead_code)]
        detail: Option<String>,
    },
}

/// A call that an assistant made.
#[derive(Clone, Debug, Deserialize, ToSchema)]
#[schema(as = openai::MessageToolCall)]
pub struct Call {
    /// Its name.
    pub id: Option<String>,
    /// `function`.
    pub r#type: Option<String>,
    /// What was called.
    pub function: CalledFunction,
}

/// The function that was called.
#[derive(Clone, Debug, Deserialize, ToSchema)]
#[schema(as = openai::CalledFunction)]
pub struct CalledFunction {
    /// Its name.
    pub name: String,
    /// The arguments: a JSON object as text.
    #[serde(default)]
    pub arguments: String,
}

/// The conversation.
///
/// # Errors
/// 400: there is no message, a role is not known, a part is not supported, or arguments are no JSON object.
pub fn conversation(messages: &[Message]) -> Result<Vec<ChatMessage>, ApiError> {
    if messages.is_empty() {
        return Err(ApiError::bad_request("[] is too short - 'messages'").param("messages"));
    }
    // The functions of calls, by the calls' ids: templates want the function's name of a tool's message.
    let mut called: HashMap<&str, &str> = HashMap::new();
    let mut all = Vec::with_capacity(messages.len());
    for (i, message) in messages.iter().enumerate() {
        let at = |field: &str| format!("messages[{i}].{field}");
        let role = role(&at("role"), &message.role)?;
        let (content, images) = content(&at("content"), message.content.as_ref())?;
        let thinking = message.reasoning.as_ref().or(message.reasoning_content.as_ref());
        let mut chat = ChatMessage { images, ..ChatMessage::new(role, content) };
        match role {
            "assistant" => {
                chat.thinking = thinking.cloned().unwrap_or_default();
                if let Some(refusal) = message.refusal.as_ref().filter(|_| chat.content.is_empty()) {
                    chat.content.clone_from(refusal);
                }
                for (c, call) in message.tool_calls.iter().flatten().enumerate() {
                    chat.tool_calls.push(tool_call(&at(&format!("tool_calls[{c}]")), call)?);
                    if let Some(id) = &call.id {
                        called.insert(id, &call.function.name);
                    }
                }
            }
            "tool" => {
                let id = message.tool_call_id.as_deref().unwrap_or_default();
                let name = message.name.as_deref().or_else(|| called.get(id).copied());
                chat.tool_call_id = id.to_owned();
                chat.tool_name = name.unwrap_or_default().to_owned();
            }
            _ => {}
        }
        if role != "assistant" && message.tool_calls.as_ref().is_some_and(|c| !c.is_empty()) {
            return Err(invalid(&at("tool_calls"), "only an assistant calls tools"));
        }
        for (field, value) in [("audio", &message.audio), ("function_call", &message.function_call)] {
            if value.is_some() {
                return Err(crate::server::fields::unsupported_parameter(&at(field)));
            }
        }
        all.push(chat);
    }
    Ok(all)
}

/// The role as templates know it.
///
/// # Errors
/// 400: it is not known.
pub fn role(field: &str, role: &str) -> Result<&'static str, ApiError> {
    match role.to_ascii_lowercase().as_str() {
        "system" | "developer" => Ok("system"),
        "user" => Ok("user"),
        "assistant" => Ok("assistant"),
        "tool" => Ok("tool"),
        _ => {
            let why =
                format!("`{}` is none of `system`, `developer`, `user`, `assistant`, `tool`", shown(role));
            Err(invalid(field, &why))
        }
    }
}

/// The text and the images of a message. Texts of several parts are joined with a blank line, as Ollama's
/// templates join messages of one role.
fn content(field: &str, content: Option<&Content>) -> Result<(String, Vec<String>), ApiError> {
    let parts = match content {
        None => return Ok(Default::default()),
        Some(Content::Text(text)) => return Ok((text.clone(), Vec::new())),
        Some(Content::Parts(parts)) => parts,
    };
    let (mut texts, mut images) = (Vec::new(), Vec::new());
    for (i, part) in parts.iter().enumerate() {
        let at = |name: &str| format!("{field}[{i}].{name}");
        match part.r#type.as_str() {
            "text" => texts.push(part.text.as_deref().ok_or_else(|| missing(&at("text")))?),
            "refusal" => texts.push(part.refusal.as_deref().ok_or_else(|| missing(&at("refusal")))?),
            "image_url" => match part.image_url.as_ref().ok_or_else(|| missing(&at("image_url")))? {
                ImageUrl::Url(url) | ImageUrl::Object { url, .. } => {
                    images.push(image_url(&at("image_url"), url)?);
                }
            },
            other => {
                let why = format!("a part of type `{}` is not supported", shown(other));
                return Err(invalid(&at("type"), &why));
            }
        }
    }
    Ok((texts.join("\n\n"), images))
}

fn tool_call(field: &str, call: &Call) -> Result<ToolCall, ApiError> {
    if call.r#type.as_deref().is_some_and(|t| t != "function") {
        return Err(invalid(&format!("{field}.type"), "only `function` is supported"));
    }
    tool_name(&format!("{field}.function.name"), &call.function.name)?;
    Ok(ToolCall {
        id: call.id.clone().unwrap_or_default(),
        name: call.function.name.clone(),
        arguments: arguments(&format!("{field}.function.arguments"), &call.function.arguments)?,
    })
}

/// The arguments of a call out of their text; nothing is no arguments.
///
/// # Errors
/// 400: the text is no JSON object.
pub fn arguments(field: &str, text: &str) -> Result<Json, ApiError> {
    if text.trim().is_empty() {
        return Ok(Json::Object(Default::default()));
    }
    match serde_json::from_str(text) {
        Ok(arguments @ Json::Object(_)) => Ok(arguments),
        _ => Err(ApiError::bad_request("invalid tool call arguments").param(field)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn read(messages: Json) -> Result<Vec<ChatMessage>, ApiError> {
        conversation(&serde_json::from_value::<Vec<Message>>(messages).unwrap())
    }

    #[test]
    fn a_conversation_with_tools_is_read() {
        let all = read(json!([
            {"role": "developer", "content": "Be brief."},
            {"role": "user", "content": [{"type": "text", "text": "a"}, {"type": "text", "text": "b"},
                {"type": "image_url", "image_url": {"url": "data:image/png;base64,aGk=", "detail": "low"}}]},
            {"role": "assistant", "content": null, "reasoning": "hm", "refusal": null, "annotations": [],
                "tool_calls": [{"id": "call_1", "type": "function", "function": {"name": "f", "arguments": "{\"z\":1,\"a\":2}"}}]},
            {"role": "tool", "tool_call_id": "call_1", "content": "7"},
        ]))
        .unwrap();
        assert_eq!(all[0], ChatMessage::new("system", "Be brief."));
        assert_eq!((all[1].content.as_str(), &all[1].images[..]), ("a\n\nb", &["aGk=".to_owned()][..]));
        assert_eq!(all[2].thinking, "hm");
        assert_eq!(all[2].tool_calls[0].arguments.to_string(), r#"{"z":1,"a":2}"#);
        assert_eq!((all[3].tool_name.as_str(), all[3].tool_call_id.as_str()), ("f", "call_1"));
    }

    #[test]
    fn mistakes_are_named() {
        let call = |arguments: &str| json!([{"role": "assistant", "tool_calls": [{"function": {"name": "f", "arguments": arguments}}]}]);
        for (messages, param) in [
            (json!([]), "messages"),
            (json!([{"role": "wizard", "content": "x"}]), "messages[0].role"),
            (json!([{"role": "user", "content": [{"type": "text"}]}]), "messages[0].content[0].text"),
            (json!([{"role": "user", "content": [{"type": "input_audio"}]}]), "messages[0].content[0].type"),
            (
                json!([{"role": "user", "content": [{"type": "image_url", "image_url": "https://x/y.png"}]}]),
                "messages[0].content[0].image_url",
            ),
            (call("[1]"), "messages[0].tool_calls[0].function.arguments"),
            (call("{"), "messages[0].tool_calls[0].function.arguments"),
            (
                json!([{"role": "user", "content": "x", "tool_calls": [{"function": {"name": "f"}}]}]),
                "messages[0].tool_calls",
            ),
            (json!([{"role": "assistant", "audio": {"id": "x"}}]), "messages[0].audio"),
        ] {
            assert_eq!(read(messages).unwrap_err().param.as_deref(), Some(param));
        }
    }
}
