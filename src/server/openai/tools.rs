//! Tools on offer, and whether one must be called.

use serde::{Deserialize, Serialize};
use serde_json::{Value as Json, json};
use utoipa::ToSchema;

use crate::server::answer::ToolChoice;
use crate::server::error::ApiError;
use crate::server::fields::{invalid, tool_name};

/// A tool on offer.
#[derive(Clone, Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = openai::Tool)]
pub struct Tool {
    /// `function`.
    pub r#type: String,
    /// What it is.
    pub function: Function,
}

/// A function that a model may call.
#[derive(Clone, Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = openai::Function)]
pub struct Function {
    /// Its name.
    pub name: String,
    /// What it does.
    pub description: Option<String>,
    /// A JSON schema of its arguments.
    #[schema(value_type = Option<Object>)]
    pub parameters: Option<Json>,
    /// Accepted: arguments of a call that is enforced always follow the schema.
    #[allow(dead_code)]
    pub strict: Option<bool>,
}

/// A function as templates and grammars take it.
///
/// # Errors
/// 400: it has no proper name, or its parameters are no schema.
pub fn function(
    field: &str,
    name: &str,
    description: Option<&str>,
    parameters: Option<&Json>,
) -> Result<Json, ApiError> {
    tool_name(&format!("{field}.name"), name)?;
    let parameters = parameters.cloned().unwrap_or_else(|| json!({"type": "object", "properties": {}}));
    if !parameters.is_object() {
        return Err(invalid(&format!("{field}.parameters"), "it is not a JSON schema of an object"));
    }
    let mut function = serde_json::Map::new();
    function.insert("name".to_owned(), name.into());
    if let Some(description) = description {
        function.insert("description".to_owned(), description.into());
    }
    function.insert("parameters".to_owned(), parameters);
    Ok(json!({"type": "function", "function": function}))
}

/// The tools of a chat.
///
/// # Errors
/// 400: a tool is no function.
pub fn tools(tools: &[Tool]) -> Result<Vec<Json>, ApiError> {
    let one = |(i, tool): (usize, &Tool)| {
        if tool.r#type != "function" {
            return Err(invalid(&format!("tools[{i}].type"), "only `function` is supported"));
        }
        let f = &tool.function;
        function(&format!("tools[{i}].function"), &f.name, f.description.as_deref(), f.parameters.as_ref())
    };
    tools.iter().enumerate().map(one).collect()
}

/// `none`, `auto`, `required`, or a function: `{"type": "function", "function": {"name": ...}}` in a chat,
/// `{"type": "function", "name": ...}` in a response.
#[derive(Clone, Debug, Deserialize, Serialize, ToSchema)]
#[serde(untagged, expecting = "it is neither `none`, `auto` or `required` nor a function")]
#[schema(as = openai::ToolChoice)]
pub enum Choice {
    /// A word.
    Word(String),
    /// A function.
    Named(NamedChoice),
}

/// A function that must be called.
#[derive(Clone, Debug, Deserialize, Serialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = openai::NamedToolChoice)]
pub struct NamedChoice {
    /// `function`.
    pub r#type: String,
    /// In a chat.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub function: Option<ChosenFunction>,
    /// In a response.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
}

/// The function's name.
#[derive(Clone, Debug, Deserialize, Serialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = openai::ChosenFunction)]
pub struct ChosenFunction {
    /// It.
    pub name: String,
}

/// Whether a tool must be called.
///
/// # Errors
/// 400: it is no choice, or chooses among no tools.
pub fn choice(choice: Option<&Choice>, tools: &[Json]) -> Result<ToolChoice, ApiError> {
    let wrong = |why: &str| Err(invalid("tool_choice", why));
    let chosen = match choice {
        None => return Ok(ToolChoice::Auto),
        Some(Choice::Word(word)) => match word.as_str() {
            "auto" => return Ok(ToolChoice::Auto),
            "none" => return Ok(ToolChoice::None),
            "required" => ToolChoice::Required,
            _ => return wrong("it is neither `none`, `auto` nor `required`"),
        },
        Some(Choice::Named(named)) => match (named.r#type.as_str(), &named.function, &named.name) {
            ("function", Some(function), None) => ToolChoice::Function(function.name.clone()),
            ("function", None, Some(name)) => ToolChoice::Function(name.clone()),
            ("function", ..) => return wrong("it does not name one function"),
            _ => return wrong("only the type `function` is supported"),
        },
    };
    if tools.is_empty() {
        return wrong("it is only allowed when `tools` are specified");
    }
    let name = |tool: &Json| tool["function"]["name"].as_str().map(str::to_owned);
    if let ToolChoice::Function(wanted) = &chosen
        && !tools.iter().any(|t| name(t).as_deref() == Some(wanted))
    {
        return wrong("it names no tool of the request");
    }
    Ok(chosen)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn choices_are_read() {
        let all =
            tools(&[serde_json::from_value(json!({"type": "function", "function": {"name": "f"}})).unwrap()]);
        let all = all.unwrap();
        let read = |value: Json, tools: &[Json]| {
            choice(Some(&serde_json::from_value::<Choice>(value).unwrap()), tools).map_err(|e| e.message)
        };
        assert_eq!(read(json!("auto"), &[]), Ok(ToolChoice::Auto));
        assert_eq!(read(json!("none"), &all), Ok(ToolChoice::None));
        assert_eq!(read(json!("required"), &all), Ok(ToolChoice::Required));
        let f = Ok(ToolChoice::Function("f".to_owned()));
        assert_eq!(read(json!({"type": "function", "function": {"name": "f"}}), &all), f);
        assert_eq!(read(json!({"type": "function", "name": "f"}), &all), f);
        for (value, tools) in [
            (json!("required"), &[][..]),
            (json!("any"), &all[..]),
            (json!({"type": "function", "name": "g"}), &all),
            (json!({"type": "function"}), &all),
            (json!({"type": "custom", "name": "f"}), &all),
        ] {
            assert!(read(value.clone(), tools).unwrap_err().contains("'tool_choice'"), "{value}");
        }
        assert!(serde_json::from_value::<Choice>(json!(1)).is_err());
    }

    #[test]
    fn tools_are_functions() {
        let read = |value: Json| tools(&[serde_json::from_value(value).unwrap()]).map_err(|e| e.message);
        let f = json!({"type": "function", "function": {"name": "f", "description": "d", "parameters": {"type": "object"}}});
        assert_eq!(read(f.clone()).unwrap(), [f]);
        for (bad, field) in [
            (json!({"type": "web_search", "function": {"name": "f"}}), "tools[0].type"),
            (json!({"type": "function", "function": {"name": "f g"}}), "tools[0].function.name"),
            (
                json!({"type": "function", "function": {"name": "f", "parameters": [1]}}),
                "tools[0].function.parameters",
            ),
        ] {
            assert!(read(bad).unwrap_err().contains(field), "{field}");
        }
    }
}
