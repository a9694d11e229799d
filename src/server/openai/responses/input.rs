//! From the items of a request to a job.

use std::collections::HashMap;

use serde_json::Value as Json;

use super::types::*;
use crate::prompt::{ChatMessage, ToolCall};
use crate::server::answer::{self, Job};
use crate::server::error::ApiError;
use crate::server::fields::{image_url, invalid, missing, shown, tool_name, unsupported_parameter};
use crate::server::limits::Limits;
use crate::server::openai::messages::{arguments, role};
use crate::server::openai::sampling::Sampling;
use crate::server::openai::{format, tools};

impl ResponseRequest {
    /// What to do.
    ///
    /// # Errors
    /// 400: a field has a value that it cannot have.
    pub fn job(&self, limits: &Limits) -> Result<Job, ApiError> {
        let sampling = Sampling {
            temperature: self.temperature,
            top_p: self.top_p,
            most: self.max_output_tokens.map(|n| ("max_output_tokens", n)),
            stops: limits.stops,
            ..Sampling::default()
        };
        if self.background == Some(true) {
            return Err(unsupported_parameter("background"));
        }
        let unknown = |text: &&String| *text != "reasoning.encrypted_content";
        if let Some(text) = self.include.iter().flatten().find(unknown) {
            return Err(invalid("include", &format!("`{}` is not supported", shown(text))));
        }
        let truncate = match self.truncation.as_deref() {
            None | Some("disabled") => false,
            Some("auto") => true,
            Some(other) => {
                let why = format!("`{}` is neither `auto` nor `disabled`", shown(other));
                return Err(invalid("truncation", &why));
            }
        };
        let format = match self.text.as_ref().and_then(|t| t.format.as_ref()) {
            None => None,
            Some(format) => {
                let schema = Some(("text.format.schema", format.schema.as_ref()));
                format::grammar("text.format", &format.r#type, schema)?
            }
        };
        let effort = self.reasoning.as_ref().and_then(|r| r.effort.as_deref());
        let offered = self.offered()?;
        Ok(Job {
            parameters: sampling.parameters()?,
            format,
            tool_choice: tools::choice(self.tool_choice.as_ref(), &offered)?,
            tools: offered,
            parallel_tool_calls: self.parallel_tool_calls.unwrap_or(true),
            think: format::think("reasoning.effort", effort)?,
            truncate,
            shift: false,
            ..Job::new(answer::Input::Chat(self.conversation()?))
        })
    }

    fn offered(&self) -> Result<Vec<Json>, ApiError> {
        let one = |(i, tool): (usize, &Tool)| {
            let field = format!("tools[{i}]");
            if tool.r#type != "function" {
                let why = format!("`{}` is not supported, only `function` is", shown(&tool.r#type));
                return Err(invalid(&format!("{field}.type"), &why));
            }
            let name = tool.name.as_deref().ok_or_else(|| missing(&format!("{field}.name")))?;
            tools::function(&field, name, tool.description.as_deref(), tool.parameters.as_ref())
        };
        self.tools.iter().flatten().enumerate().map(one).collect()
    }

    fn conversation(&self) -> Result<Vec<ChatMessage>, ApiError> {
        let instructions = self.instructions.as_deref().filter(|text| !text.is_empty());
        let mut all: Vec<_> = instructions.map(|text| ChatMessage::new("system", text)).into_iter().collect();
        match &self.input {
            Input::Text(text) => all.push(ChatMessage::new("user", text.as_str())),
            Input::Items(items) if items.is_empty() => {
                return Err(ApiError::bad_request("[] is too short - 'input'").param("input"));
            }
            Input::Items(items) => read_items(items, &mut all)?,
        }
        Ok(all)
    }
}

/// Items of one turn of the assistant become one message, as templates know it: reasoning, text, calls.
fn read_items(items: &[Item], all: &mut Vec<ChatMessage>) -> Result<(), ApiError> {
    let mut called: HashMap<&str, &str> = HashMap::new();
    for (i, item) in items.iter().enumerate() {
        let at = |field: &str| format!("input[{i}].{field}");
        match item.r#type.as_deref().unwrap_or("message") {
            "message" => {
                let role = item.role.as_deref().ok_or_else(|| missing(&at("role")))?;
                let role = self::role(&at("role"), role)?;
                let content = item.content.as_ref().ok_or_else(|| missing(&at("content")))?;
                let (text, images) = read_content(&at("content"), content)?;
                match assistant(all).filter(|m| role == "assistant" && m.content.is_empty()) {
                    Some(message) if message.tool_calls.is_empty() => message.content = text,
                    _ => all.push(ChatMessage { images, ..ChatMessage::new(role, text) }),
                }
            }
            "reasoning" => {
                let parts = item.summary.iter().flatten();
                let text: Vec<_> = parts.filter_map(|p| p.text.as_deref()).collect();
                let thinking = text.join("\n\n");
                // Reasoning begins a turn.
                all.push(ChatMessage { thinking, ..ChatMessage::new("assistant", "") });
            }
            "function_call" => {
                let name = item.name.as_deref().ok_or_else(|| missing(&at("name")))?;
                let id = item.call_id.as_deref().ok_or_else(|| missing(&at("call_id")))?;
                tool_name(&at("name"), name)?;
                called.insert(id, name);
                let arguments = arguments(&at("arguments"), item.arguments.as_deref().unwrap_or_default())?;
                let call = ToolCall { id: id.to_owned(), name: name.to_owned(), arguments };
                match assistant(all) {
                    Some(message) => message.tool_calls.push(call),
                    None => {
                        let message = ChatMessage::new("assistant", "");
                        all.push(ChatMessage { tool_calls: vec![call], ..message });
                    }
                }
            }
            "function_call_output" => {
                let id = item.call_id.as_deref().ok_or_else(|| missing(&at("call_id")))?;
                let output = item.output.as_ref().ok_or_else(|| missing(&at("output")))?;
                let (text, images) = read_content(&at("output"), output)?;
                let tool_name = called.get(id).copied().unwrap_or_default().to_owned();
                let message = ChatMessage::new("tool", text);
                all.push(ChatMessage { images, tool_name, tool_call_id: id.to_owned(), ..message });
            }
            other => {
                let why = format!("an item of type `{}` is not supported", shown(other));
                return Err(invalid(&at("type"), &why));
            }
        }
    }
    Ok(())
}

/// The assistant's turn, if it is not over.
fn assistant(all: &mut [ChatMessage]) -> Option<&mut ChatMessage> {
    all.last_mut().filter(|m| m.role == "assistant")
}

fn read_content(field: &str, content: &Content) -> Result<(String, Vec<String>), ApiError> {
    let parts = match content {
        Content::Text(text) => return Ok((text.clone(), Vec::new())),
        Content::Parts(parts) => parts,
    };
    let (mut texts, mut images) = (Vec::new(), Vec::new());
    for (i, part) in parts.iter().enumerate() {
        let at = |name: &str| format!("{field}[{i}].{name}");
        match part.r#type.as_str() {
            "input_text" | "output_text" | "text" | "summary_text" | "reasoning_text" => {
                texts.push(part.text.as_deref().ok_or_else(|| missing(&at("text")))?);
            }
            "refusal" => texts.push(part.refusal.as_deref().ok_or_else(|| missing(&at("refusal")))?),
            "input_image" => {
                let url = part.image_url.as_deref().ok_or_else(|| missing(&at("image_url")))?;
                images.push(image_url(&at("image_url"), url)?);
            }
            other => {
                let why = format!("a part of type `{}` is not supported", shown(other));
                return Err(invalid(&at("type"), &why));
            }
        }
    }
    Ok((texts.join("\n\n"), images))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::prompt::Think;
    use crate::runtime::constrain::Grammar;
    use crate::server::fields;
    use serde_json::json;

    fn job(more: Json) -> Result<Job, ApiError> {
        let mut body = json!({"model": "m", "input": "hi"});
        if let (Json::Object(body), Json::Object(more)) = (&mut body, more) {
            body.extend(more);
        }
        fields::read::<ResponseRequest>(body, super::super::UNSUPPORTED)?.job(&Limits::default())
    }

    fn messages(more: Json) -> Vec<ChatMessage> {
        match job(more).unwrap().input {
            answer::Input::Chat(messages) => messages,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn a_turn_of_the_assistant_is_one_message() {
        let all = messages(json!({"instructions": "Be brief.", "input": [
            {"role": "user", "content": [{"type": "input_text", "text": "a"}]},
            {"type": "reasoning", "id": "rs_1", "summary": [{"type": "summary_text", "text": "hm"}], "encrypted_content": ""},
            {"type": "message", "id": "msg_1", "status": "completed", "role": "assistant",
                "content": [{"type": "output_text", "text": "So:", "annotations": []}]},
            {"type": "function_call", "id": "fc_1", "call_id": "c1", "name": "f", "arguments": "{\"x\":1}"},
            {"type": "function_call", "call_id": "c2", "name": "g", "arguments": ""},
            {"type": "function_call_output", "call_id": "c2", "output": "7"},
            {"role": "developer", "content": "now"},
        ]}));
        let roles: Vec<_> = all.iter().map(|m| m.role.as_str()).collect();
        assert_eq!(roles, ["system", "user", "assistant", "tool", "system"]);
        assert_eq!((all[2].thinking.as_str(), all[2].content.as_str()), ("hm", "So:"));
        assert_eq!(all[2].tool_calls.iter().map(|c| c.name.as_str()).collect::<Vec<_>>(), ["f", "g"]);
        assert_eq!((all[3].tool_name.as_str(), all[3].content.as_str()), ("g", "7"));
    }

    #[test]
    fn a_request_is_read() {
        let job = job(json!({
            "max_output_tokens": 5, "text": {"format": {"type": "json_schema", "name": "n", "schema": {"type": "object"}, "strict": true}},
            "reasoning": {"effort": "high", "summary": "auto"}, "truncation": "auto", "store": true, "background": false,
            "include": ["reasoning.encrypted_content"], "tools": [{"type": "function", "name": "f", "strict": false}],
            "tool_choice": {"type": "function", "name": "f"}, "parallel_tool_calls": false, "stream": true,
        }))
        .unwrap();
        assert_eq!(job.format, Some(Grammar::Schema(json!({"type": "object"}))));
        assert_eq!(job.think, Some(Think::Level("high".into())));
        assert_eq!(job.tool_choice, answer::ToolChoice::Function("f".into()));
        assert!(job.truncate && !job.parallel_tool_calls);
    }

    #[test]
    fn mistakes_name_their_field() {
        for (more, param) in [
            (json!({"input": null}), "input"),
            (json!({"input": 1}), "input"),
            (json!({"input": []}), "input"),
            (json!({"input": [{"content": "x"}]}), "input[0].role"),
            (json!({"input": [{"role": "user"}]}), "input[0].content"),
            (json!({"input": [{"type": "web_search_call"}]}), "input[0].type"),
            (json!({"input": [{"type": "function_call", "name": "f"}]}), "input[0].call_id"),
            (
                json!({"input": [{"type": "function_call", "name": "f", "call_id": "c", "arguments": "1"}]}),
                "input[0].arguments",
            ),
            (
                json!({"input": [{"role": "user", "content": [{"type": "input_image", "image_url": "http://x"}]}]}),
                "input[0].content[0].image_url",
            ),
            (
                json!({"input": [{"role": "user", "content": [{"type": "input_file"}]}]}),
                "input[0].content[0].type",
            ),
            (json!({"previous_response_id": "resp_1"}), "previous_response_id"),
            (json!({"background": true}), "background"),
            (json!({"include": ["file_search_call.results"]}), "include"),
            (json!({"truncation": "some"}), "truncation"),
            (json!({"tools": [{"type": "web_search"}]}), "tools[0].type"),
            (json!({"tools": [{"type": "function"}]}), "tools[0].name"),
            (json!({"text": {"format": {"type": "json_schema"}}}), "text.format.schema"),
            (json!({"text": {"verbosity": "low"}}), "text.verbosity"),
            (json!({"reasoning": {"effort": 1}}), "reasoning.effort"),
            (json!({"max_output_tokens": 9_223_372_036_854_775_808_u64}), "max_output_tokens"),
            (json!({"top_p": 1e308}), "top_p"),
            (json!({"messages": []}), "messages"),
        ] {
            let error = job(more.clone()).unwrap_err();
            assert_eq!(error.param.as_deref(), Some(param), "{more}: {}", error.message);
        }
    }
}
