//! Messages and tools as a TEMPLATE sees them: the field names that templates for Ollama use.

use serde_json::Value as Json;

use crate::diagnostic::{Diagnostic, Result};

use super::chat::{ChatMessage, ToolCall};
use super::gotemplate::value::{Display, FieldType, StructType, Value};

const fn field(name: &'static str, json: &'static str) -> FieldType {
    FieldType { name, json, omit_empty: false }
}

const fn optional(name: &'static str, json: &'static str) -> FieldType {
    FieldType { name, json, omit_empty: true }
}

static MESSAGE: StructType = StructType {
    name: "Message",
    fields: &[
        field("Role", "role"),
        field("Content", "content"),
        field("Thinking", "thinking"),
        field("Images", "images"),
        field("ToolCalls", "tool_calls"),
        field("ToolName", "tool_name"),
        field("ToolCallID", "tool_call_id"),
    ],
    display: Display::Go,
};

static TOOL_CALL: StructType = StructType {
    name: "ToolCall",
    fields: &[field("ID", "id"), field("Function", "function")],
    display: Display::Json,
};

static CALLED_FUNCTION: StructType = StructType {
    name: "ToolCallFunction",
    fields: &[field("Index", "index"), field("Name", "name"), field("Arguments", "arguments")],
    display: Display::Json,
};

static TOOL: StructType = StructType {
    name: "Tool",
    fields: &[field("Type", "type"), optional("Items", "items"), field("Function", "function")],
    display: Display::Json,
};

static TOOL_FUNCTION: StructType = StructType {
    name: "ToolFunction",
    fields: &[field("Name", "name"), field("Description", "description"), field("Parameters", "parameters")],
    display: Display::Json,
};

static PARAMETERS: StructType = StructType {
    name: "ToolFunctionParameters",
    fields: &[
        field("Type", "type"),
        optional("Defs", "$defs"),
        optional("Items", "items"),
        optional("Required", "required"),
        field("Properties", "properties"),
    ],
    display: Display::Json,
};

static PROPERTY: StructType = StructType {
    name: "ToolProperty",
    fields: &[
        optional("AnyOf", "anyOf"),
        optional("Type", "type"),
        optional("Items", "items"),
        optional("Description", "description"),
        optional("Enum", "enum"),
        optional("Properties", "properties"),
        optional("Required", "required"),
    ],
    display: Display::Json,
};

/// A message.
///
/// # Errors
/// A call's arguments are no object, or nested deeper than `nesting`.
pub fn message(message: &ChatMessage, content: &str, nesting: usize) -> Result<Value> {
    let calls = message.tool_calls.iter().enumerate().map(|(i, call)| tool_call(i, call, nesting));
    let images = message.images.iter().map(|image| Value::from(image.as_str()));
    Ok(Value::structure(
        &MESSAGE,
        vec![
            Value::from(message.role.as_str()),
            Value::from(content),
            Value::from(message.thinking.as_str()),
            Value::list(images.collect()),
            Value::list(calls.collect::<Result<_>>()?),
            Value::from(message.tool_name.as_str()),
            Value::from(message.tool_call_id.as_str()),
        ],
    ))
}

fn tool_call(index: usize, call: &ToolCall, nesting: usize) -> Result<Value> {
    let arguments = match &call.arguments {
        Json::Object(_) | Json::Null => object(&call.arguments, nesting)?,
        _ => {
            let message = format!("the arguments of the call of {:?} are not an object", call.name);
            return Err(Diagnostic::error(message).code("tool-arguments").into());
        }
    };
    let function = Value::structure(
        &CALLED_FUNCTION,
        vec![Value::Int(index as i64), Value::from(call.name.as_str()), arguments],
    );
    Ok(Value::structure(&TOOL_CALL, vec![Value::from(call.id.as_str()), function]))
}

/// An object that prints as JSON, keys sorted; anything else is an empty one.
fn object(json: &Json, nesting: usize) -> Result<Value> {
    let members = json.as_object().into_iter().flatten();
    let members = members.map(|(k, v)| Ok((k.clone(), Value::from_json(v, nesting)?)));
    Ok(Value::map_as(members.collect::<Result<Vec<_>>>()?, Display::Json))
}

/// The tools on offer.
///
/// # Errors
/// One is not a tool, or is nested deeper than `nesting`.
pub fn tools(tools: &[Json], nesting: usize) -> Result<Value> {
    let items = tools.iter().map(|t| tool(t, nesting)).collect::<Result<_>>()?;
    Ok(Value::list_as(items, Display::Json))
}

fn tool(json: &Json, nesting: usize) -> Result<Value> {
    let function = &json["function"];
    if !function.is_object() {
        return Err(Diagnostic::error("a tool has no `function`")
            .code("tool-shape")
            .help(r#"a tool is {"type": "function", "function": {"name": ..., "parameters": {...}}}"#)
            .into());
    }
    let parameters = &function["parameters"];
    let parameters = Value::structure(
        &PARAMETERS,
        vec![
            text(&parameters["type"]),
            Value::from_json(&parameters["$defs"], nesting)?,
            Value::from_json(&parameters["items"], nesting)?,
            strings(&parameters["required"]),
            properties(&parameters["properties"], nesting)?,
        ],
    );
    let function = Value::structure(
        &TOOL_FUNCTION,
        vec![text(&function["name"]), text(&function["description"]), parameters],
    );
    Ok(Value::structure(
        &TOOL,
        vec![text(&json["type"]), Value::from_json(&json["items"], nesting)?, function],
    ))
}

fn properties(json: &Json, nesting: usize) -> Result<Value> {
    let members = json.as_object().into_iter().flatten();
    let members = members.map(|(name, schema)| Ok((name.clone(), property(schema, nesting)?)));
    Ok(Value::map_as(members.collect::<Result<Vec<_>>>()?, Display::Json))
}

fn property(schema: &Json, nesting: usize) -> Result<Value> {
    let Some(below) = nesting.checked_sub(1) else {
        return Err(Diagnostic::error("a tool's schema is nested too deeply").code("template-budget").into());
    };
    let alternatives = schema["anyOf"].as_array().into_iter().flatten().map(|s| property(s, below));
    let values = schema["enum"].as_array().into_iter().flatten().map(|v| Value::from_json(v, below));
    let nested = match &schema["properties"] {
        Json::Null => Value::Null,
        object => properties(object, below)?,
    };
    Ok(Value::structure(
        &PROPERTY,
        vec![
            Value::list(alternatives.collect::<Result<_>>()?),
            Value::list_as(types(&schema["type"]), Display::OneOrMany),
            Value::from_json(&schema["items"], below)?,
            text(&schema["description"]),
            Value::list(values.collect::<Result<_>>()?),
            nested,
            strings(&schema["required"]),
        ],
    ))
}

fn types(json: &Json) -> Vec<Value> {
    match json {
        Json::String(name) => vec![Value::from(name.as_str())],
        Json::Array(names) => names.iter().filter_map(Json::as_str).map(Value::from).collect(),
        _ => Vec::new(),
    }
}

fn text(json: &Json) -> Value {
    Value::from(json.as_str().unwrap_or_default())
}

fn strings(json: &Json) -> Value {
    let items = json.as_array().into_iter().flatten().filter_map(Json::as_str).map(Value::from);
    Value::list(items.collect())
}
