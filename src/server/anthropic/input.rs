//! From a request to a job.

use std::collections::HashMap;

use serde_json::{Value as Json, json};

use super::types::*;
use crate::ir::ParameterValue;
use crate::prompt::{ChatMessage, Think, ToolCall};
use crate::runtime::constrain::Grammar;
use crate::server::answer::{self, Input, Job};
use crate::server::error::ApiError;
use crate::server::fields::{self, image, image_url, integer, invalid, missing, number, shown, tool_name};
use crate::server::limits::Limits;

/// Fields that Anthropic defines and a local model cannot honour.
pub const UNSUPPORTED: &[&str] =
    &["container", "context_management", "inference_geo", "mcp_servers", "output_format", "speed"];

impl MessagesRequest {
    /// What to do.
    ///
    /// # Errors
    /// 400: a field has a value that it cannot have.
    pub fn job(&self, limits: &Limits) -> Result<Job, ApiError> {
        let tools = self.offered()?;
        let (tool_choice, parallel_tool_calls) = self.choice(&tools)?;
        Ok(Job {
            parameters: self.parameters(limits)?,
            format: self.format()?,
            tools,
            tool_choice,
            parallel_tool_calls,
            think: Some(self.think()?),
            truncate: false,
            shift: false,
            ..Job::new(Input::Chat(self.conversation()?))
        })
    }

    fn parameters(&self, limits: &Limits) -> Result<Vec<(String, ParameterValue)>, ApiError> {
        let mut all = Vec::new();
        let mut set = |name: &str, value| all.push((name.to_owned(), value));
        let most = integer("max_tokens", self.max_tokens, 1, i64::MAX)?;
        set("num_predict", ParameterValue::Int(most));
        if let Some(value) = self.temperature {
            set("temperature", ParameterValue::Float(number("temperature", value, 0.0, 2.0)?));
        }
        if let Some(value) = self.top_p {
            set("top_p", ParameterValue::Float(number("top_p", value, 0.0, 1.0)?));
        }
        if let Some(value) = self.top_k {
            set("top_k", ParameterValue::Int(integer("top_k", value, 0, i64::from(i32::MAX))?));
        }
        let stop = self.stop_sequences.as_deref().unwrap_or_default();
        if stop.len() > limits.stops {
            return Err(invalid("stop_sequences", &format!("there are more than {} of them", limits.stops)));
        }
        if stop.iter().any(String::is_empty) {
            return Err(invalid("stop_sequences", "one of them is empty"));
        }
        if !stop.is_empty() {
            set("stop", ParameterValue::Strings(stop.to_vec()));
        }
        Ok(all)
    }

    fn format(&self) -> Result<Option<Grammar>, ApiError> {
        let Some(format) = self.output_config.as_ref().and_then(|c| c.format.as_ref()) else {
            return Ok(None);
        };
        match (format.r#type.as_str(), format.schema.is_object()) {
            ("json_schema", true) => Ok(Some(Grammar::Schema(format.schema.clone()))),
            ("json_schema", false) => Err(invalid("output_config.format.schema", "it is not a JSON schema")),
            _ => Err(invalid("output_config.format.type", "only `json_schema` is supported")),
        }
    }

    /// Off where nothing is said, as Anthropic has it.
    fn think(&self) -> Result<Think, ApiError> {
        let effort = self.output_config.as_ref().and_then(|c| c.effort.as_deref());
        let level = match effort {
            None => None,
            Some("low" | "medium" | "high" | "max") => effort,
            Some("xhigh") => Some("max"),
            Some(other) => {
                let why = format!("`{}` is none of `low`, `medium`, `high`, `xhigh`, `max`", shown(other));
                return Err(invalid("output_config.effort", &why));
            }
        };
        match self.thinking.as_ref().map(|t| t.r#type.as_str()) {
            None | Some("disabled") => Ok(Think::Off),
            Some("enabled" | "adaptive") => Ok(level.map_or(Think::On, |l| Think::Level(l.to_owned()))),
            Some(other) => {
                let why = format!("`{}` is none of `enabled`, `disabled`, `adaptive`", shown(other));
                Err(invalid("thinking.type", &why))
            }
        }
    }

    fn offered(&self) -> Result<Vec<Json>, ApiError> {
        let one = |(i, tool): (usize, &Tool)| {
            if let Some(other) = tool.r#type.as_deref().filter(|t| *t != "custom") {
                let why = format!(
                    "`{}` is a tool of Anthropic's servers; only `custom` is supported",
                    shown(other)
                );
                return Err(invalid(&format!("tools[{i}].type"), &why));
            }
            tool_name(&format!("tools[{i}].name"), &tool.name)?;
            let schema =
                tool.input_schema.as_ref().ok_or_else(|| missing(&format!("tools[{i}].input_schema")))?;
            if !schema.is_object() {
                return Err(invalid(
                    &format!("tools[{i}].input_schema"),
                    "it is not a JSON schema of an object",
                ));
            }
            let mut function = serde_json::Map::new();
            function.insert("name".to_owned(), tool.name.as_str().into());
            if let Some(description) = &tool.description {
                function.insert("description".to_owned(), description.as_str().into());
            }
            function.insert("parameters".to_owned(), schema.clone());
            Ok(json!({"type": "function", "function": function}))
        };
        self.tools.iter().flatten().enumerate().map(one).collect()
    }

    /// Whether a tool must be called, and whether more than one may be.
    fn choice(&self, tools: &[Json]) -> Result<(answer::ToolChoice, bool), ApiError> {
        let Some(choice) = &self.tool_choice else { return Ok((answer::ToolChoice::Auto, true)) };
        let chosen = match (choice.r#type.as_str(), &choice.name) {
            ("auto", None) => answer::ToolChoice::Auto,
            ("none", None) => answer::ToolChoice::None,
            ("any", None) => answer::ToolChoice::Required,
            ("tool", Some(name)) => answer::ToolChoice::Function(name.clone()),
            ("tool", None) => return Err(missing("tool_choice.name")),
            ("auto" | "none" | "any", Some(_)) => {
                return Err(invalid("tool_choice.name", "only the type `tool` has a name"));
            }
            _ => return Err(invalid("tool_choice.type", "it is none of `auto`, `any`, `tool`, `none`")),
        };
        let forced = matches!(chosen, answer::ToolChoice::Required | answer::ToolChoice::Function(_));
        if forced && tools.is_empty() {
            return Err(invalid("tool_choice", "it is only allowed when `tools` are specified"));
        }
        let named = |name: &str| tools.iter().any(|t| t["function"]["name"] == name);
        if matches!(&chosen, answer::ToolChoice::Function(name) if !named(name)) {
            return Err(invalid("tool_choice.name", "it names no tool of the request"));
        }
        Ok((chosen, choice.disable_parallel_tool_use != Some(true)))
    }

    fn conversation(&self) -> Result<Vec<ChatMessage>, ApiError> {
        if self.messages.is_empty() {
            return Err(invalid("messages", "at least one message is required"));
        }
        let mut all = Vec::with_capacity(self.messages.len() + 1);
        if let Some(system) = &self.system {
            let (text, images) = flat("system", system)?;
            if !images.is_empty() {
                return Err(invalid("system", "the system's message has no images"));
            }
            all.push(ChatMessage::new("system", text));
        }
        // The tools of calls, by the calls' ids: templates want the tool's name of a result.
        let mut called = HashMap::new();
        for (i, message) in self.messages.iter().enumerate() {
            let field = format!("messages[{i}]");
            match message.role.as_str() {
                "user" => user(&field, &message.content, &called, &mut all)?,
                "assistant" => all.push(assistant(&field, &message.content, &mut called)?),
                other => {
                    let why = format!("`{}` is neither `user` nor `assistant`", shown(other));
                    return Err(invalid(&format!("{field}.role"), &why));
                }
            }
        }
        Ok(all)
    }
}

/// Blocks of content, and the field of each.
fn blocks<'a>(field: &str, content: &'a Content) -> impl Iterator<Item = (String, &'a Block)> {
    let blocks = match content {
        Content::Text(_) => &[],
        Content::Blocks(blocks) => blocks.as_slice(),
    };
    blocks.iter().enumerate().map(move |(i, block)| (format!("{field}[{i}]"), block))
}

fn wrong_block(field: &str, block: &Block) -> ApiError {
    let why = format!("a block of type `{}` is not supported here", shown(&block.r#type));
    invalid(&format!("{field}.type"), &why)
}

fn block_text<'a>(field: &str, block: &'a Block) -> Result<&'a str, ApiError> {
    block.text.as_deref().ok_or_else(|| missing(&format!("{field}.text")))
}

fn block_image(field: &str, block: &Block) -> Result<String, ApiError> {
    let source = block.source.as_ref().ok_or_else(|| missing(&format!("{field}.source")))?;
    let part = |name: &str, value: &Option<String>| {
        value.clone().ok_or_else(|| missing(&format!("{field}.source.{name}")))
    };
    match source.r#type.as_str() {
        "base64" => {
            let media_type = part("media_type", &source.media_type)?;
            image(&format!("{field}.source"), Some(&media_type), &part("data", &source.data)?)
        }
        "url" => image_url(&format!("{field}.source.url"), &part("url", &source.url)?),
        _ => Err(invalid(&format!("{field}.source.type"), "it is neither `base64` nor `url`")),
    }
}

/// Text and images alone.
fn flat(field: &str, content: &Content) -> Result<(String, Vec<String>), ApiError> {
    if let Content::Text(text) = content {
        return Ok((text.clone(), Vec::new()));
    }
    let (mut texts, mut images) = (Vec::new(), Vec::new());
    for (at, block) in blocks(field, content) {
        match block.r#type.as_str() {
            "text" => texts.push(block_text(&at, block)?),
            "image" => images.push(block_image(&at, block)?),
            _ => return Err(wrong_block(&at, block)),
        }
    }
    Ok((texts.join("\n\n"), images))
}

/// What the user says: results of tools are messages of their own, and come first.
fn user(
    field: &str,
    content: &Content,
    called: &HashMap<String, String>,
    all: &mut Vec<ChatMessage>,
) -> Result<(), ApiError> {
    let field = format!("{field}.content");
    if let Content::Text(text) = content {
        all.push(ChatMessage::new("user", text.as_str()));
        return Ok(());
    }
    let (mut texts, mut images, mut results) = (Vec::new(), Vec::new(), 0);
    for (at, block) in blocks(&field, content) {
        match block.r#type.as_str() {
            "text" => texts.push(block_text(&at, block)?),
            "image" => images.push(block_image(&at, block)?),
            "tool_result" => {
                let id = block.tool_use_id.clone().ok_or_else(|| missing(&format!("{at}.tool_use_id")))?;
                let result = block.content.as_ref().map(|c| flat(&format!("{at}.content"), c)).transpose()?;
                let (text, images) = result.unwrap_or_default();
                // Templates have no place for it but the text.
                let text = if block.is_error == Some(true) { format!("Error: {text}") } else { text };
                let tool_name = called.get(&id).cloned().unwrap_or_default();
                let message = ChatMessage::new("tool", text);
                all.push(ChatMessage { images, tool_name, tool_call_id: id, ..message });
                results += 1;
            }
            _ => return Err(wrong_block(&at, block)),
        }
    }
    if results == 0 || !texts.is_empty() || !images.is_empty() {
        all.push(ChatMessage { images, ..ChatMessage::new("user", texts.join("\n\n")) });
    }
    Ok(())
}

/// What the assistant said.
fn assistant(
    field: &str,
    content: &Content,
    called: &mut HashMap<String, String>,
) -> Result<ChatMessage, ApiError> {
    let field = format!("{field}.content");
    if let Content::Text(text) = content {
        return Ok(ChatMessage::new("assistant", text.as_str()));
    }
    let mut message = ChatMessage::new("assistant", "");
    let mut texts = Vec::new();
    for (at, block) in blocks(&field, content) {
        match block.r#type.as_str() {
            "text" => texts.push(block_text(&at, block)?),
            "thinking" => {
                let thinking = block.thinking.as_deref();
                message.thinking += thinking.ok_or_else(|| missing(&format!("{at}.thinking")))?;
            }
            // Only who wrote it can read it.
            "redacted_thinking" => {}
            "tool_use" => {
                let id = block.id.clone().ok_or_else(|| missing(&format!("{at}.id")))?;
                let name = block.name.clone().ok_or_else(|| missing(&format!("{at}.name")))?;
                tool_name(&format!("{at}.name"), &name)?;
                let arguments = block.input.clone().unwrap_or_else(|| json!({}));
                if !arguments.is_object() {
                    return Err(invalid(&format!("{at}.input"), "it is not an object"));
                }
                called.insert(id.clone(), name.clone());
                message.tool_calls.push(ToolCall { id, name, arguments });
            }
            _ => return Err(wrong_block(&at, block)),
        }
    }
    message.content = texts.join("\n\n");
    Ok(message)
}

/// Reads a request.
///
/// # Errors
/// 400.
pub fn read<T: serde::de::DeserializeOwned>(body: Json) -> Result<T, ApiError> {
    fields::read(body, UNSUPPORTED)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn job(more: Json) -> Result<Job, ApiError> {
        let mut body =
            json!({"model": "m", "max_tokens": 5, "messages": [{"role": "user", "content": "hi"}]});
        if let (Json::Object(body), Json::Object(more)) = (&mut body, more) {
            body.extend(more);
        }
        read::<MessagesRequest>(body)?.job(&Limits::default())
    }

    fn messages(more: Json) -> Vec<ChatMessage> {
        match job(more).unwrap().input {
            Input::Chat(messages) => messages,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn a_conversation_with_tools_is_read() {
        let all = messages(json!({
            "system": [{"type": "text", "text": "Be", "cache_control": {"type": "ephemeral"}}, {"type": "text", "text": "brief."}],
            "messages": [
                {"role": "user", "content": [{"type": "text", "text": "a"},
                    {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": "aGk="}}]},
                {"role": "assistant", "content": [{"type": "thinking", "thinking": "hm", "signature": ""},
                    {"type": "redacted_thinking", "data": "x"}, {"type": "text", "text": "So:"},
                    {"type": "tool_use", "id": "toolu_1", "name": "f", "input": {"z": 1, "a": 2}}]},
                {"role": "user", "content": [
                    {"type": "tool_result", "tool_use_id": "toolu_1", "is_error": true, "content": [{"type": "text", "text": "no"}]},
                    {"type": "text", "text": "Well?"}]},
                {"role": "user", "content": [{"type": "tool_result", "tool_use_id": "toolu_1"}]},
            ],
        }));
        let seen: Vec<_> = all.iter().map(|m| (m.role.as_str(), m.content.as_str())).collect();
        assert_eq!(
            seen,
            [
                ("system", "Be\n\nbrief."),
                ("user", "a"),
                ("assistant", "So:"),
                ("tool", "Error: no"),
                ("user", "Well?"),
                ("tool", ""),
            ]
        );
        assert_eq!(all[1].images, ["aGk="]);
        assert_eq!(all[2].thinking, "hm");
        assert_eq!(all[2].tool_calls[0].arguments.to_string(), r#"{"z":1,"a":2}"#);
        assert_eq!((all[3].tool_name.as_str(), all[3].tool_call_id.as_str()), ("f", "toolu_1"));
    }

    #[test]
    fn a_request_is_read() {
        let tool =
            json!({"name": "f", "description": "d", "input_schema": {"type": "object"}, "type": "custom"});
        let all = job(json!({
            "temperature": 1, "top_p": 0.5, "top_k": 3, "stop_sequences": ["x"], "tools": [tool],
            "tool_choice": {"type": "any", "disable_parallel_tool_use": true}, "metadata": {"user_id": "u"},
            "thinking": {"type": "enabled", "budget_tokens": 2000}, "output_config": {"effort": "high"},
        }))
        .unwrap();
        let parameters = [
            ("num_predict", ParameterValue::Int(5)),
            ("temperature", ParameterValue::Float(1.0)),
            ("top_p", ParameterValue::Float(0.5)),
            ("top_k", ParameterValue::Int(3)),
            ("stop", ParameterValue::Strings(vec!["x".into()])),
        ];
        assert_eq!(all.parameters, parameters.map(|(name, value)| (name.to_owned(), value)));
        assert_eq!(all.tool_choice, answer::ToolChoice::Required);
        assert_eq!(all.think, Some(Think::Level("high".into())));
        assert!(!all.parallel_tool_calls && !all.truncate && !all.shift);
        assert_eq!(
            all.tools,
            [
                json!({"type": "function", "function": {"name": "f", "description": "d", "parameters": {"type": "object"}}})
            ]
        );
        assert_eq!(job(json!({})).unwrap().think, Some(Think::Off));
        assert_eq!(job(json!({"thinking": {"type": "adaptive"}})).unwrap().think, Some(Think::On));
        let format =
            json!({"output_config": {"format": {"type": "json_schema", "schema": {"type": "object"}}}});
        assert_eq!(job(format).unwrap().format, Some(Grammar::Schema(json!({"type": "object"}))));
    }

    #[test]
    fn mistakes_name_their_field() {
        let tools = json!([{"name": "f", "input_schema": {"type": "object"}}]);
        let block = |block: Json| json!({"messages": [{"role": "user", "content": [block]}]});
        let said = |block: Json| json!({"messages": [{"role": "assistant", "content": [block]}]});
        for (more, param) in [
            (json!({"max_tokens": null}), "max_tokens"),
            (json!({"max_tokens": 0}), "max_tokens"),
            (json!({"max_tokens": -1}), "max_tokens"),
            (json!({"max_tokens": 9_223_372_036_854_775_808_u64}), "max_tokens"),
            (json!({"max_tokens": 1.5}), "max_tokens"),
            (json!({"messages": null}), "messages"),
            (json!({"messages": []}), "messages"),
            (json!({"messages": [{"role": "system", "content": "x"}]}), "messages[0].role"),
            (json!({"messages": [{"role": "user"}]}), "messages[0].content"),
            (json!({"messages": [{"role": "user", "content": 1}]}), "messages[0].content"),
            (block(json!({"type": "text"})), "messages[0].content[0].text"),
            (block(json!({"type": "document"})), "messages[0].content[0].type"),
            (block(json!({"type": "tool_result"})), "messages[0].content[0].tool_use_id"),
            (block(json!({"type": "image"})), "messages[0].content[0].source"),
            (
                block(json!({"type": "image", "source": {"type": "url", "url": "https://x/y.png"}})),
                "messages[0].content[0].source.url",
            ),
            (
                block(
                    json!({"type": "tool_result", "tool_use_id": "t", "content": [{"type": "tool_result"}]}),
                ),
                "messages[0].content[0].content[0].type",
            ),
            (
                said(json!({"type": "tool_use", "id": "t", "name": "f", "input": [1]})),
                "messages[0].content[0].input",
            ),
            (said(json!({"type": "image"})), "messages[0].content[0].type"),
            (json!({"system": 1}), "system"),
            (json!({"temperature": 1e308}), "temperature"),
            (json!({"temperature": "hot"}), "temperature"),
            (json!({"top_p": -0.1}), "top_p"),
            (json!({"top_k": -1}), "top_k"),
            (json!({"stop_sequences": "x"}), "stop_sequences"),
            (json!({"stop_sequences": [""]}), "stop_sequences"),
            (json!({"tools": [{"name": "f"}]}), "tools[0].input_schema"),
            (json!({"tools": [{"type": "web_search_20250305", "name": "web_search"}]}), "tools[0].type"),
            (json!({"tool_choice": {"type": "any"}}), "tool_choice"),
            (json!({"tool_choice": {"type": "tool"}, "tools": tools}), "tool_choice.name"),
            (json!({"tool_choice": {"type": "tool", "name": "g"}, "tools": tools}), "tool_choice.name"),
            (json!({"tool_choice": {"type": "some"}}), "tool_choice.type"),
            (json!({"thinking": {"type": "some"}}), "thinking.type"),
            (json!({"thinking": {"type": "enabled", "budget_tokens": -1}}), "thinking.budget_tokens"),
            (json!({"output_config": {"effort": "lots"}}), "output_config.effort"),
            (json!({"output_config": {"format": {"type": "json_schema"}}}), "output_config.format.schema"),
            (json!({"mcp_servers": []}), "mcp_servers"),
            (json!({"n": 2}), "n"),
        ] {
            let error = job(more.clone()).unwrap_err();
            assert_eq!(error.param.as_deref(), Some(param), "{more}: {}", error.message);
        }
    }
}
