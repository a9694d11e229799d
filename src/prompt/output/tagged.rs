//! Calls whose arguments stand between tags: `<function=weather><parameter=city>Rome</parameter></function>`.

use serde_json::{Map, Value as Json};

use super::{CallSyntax, ToolSyntax};

/// The tags of such a call. White space at their ends is how the model writes them, and not needed to read one.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TaggedCall {
    /// Before and after the function's name; the second may be white space.
    pub name: (String, String),
    /// Before and after the name of an argument.
    pub key: (String, String),
    /// Before and after its value; the first may be empty.
    pub value: (String, String),
    /// After the last argument.
    pub end: String,
}

/// The tags around the function's name, and the end of the call.
pub(super) fn within(open: &str, close: &str, end: &str) -> TaggedCall {
    TaggedCall { name: (open.to_owned(), close.to_owned()), end: end.to_owned(), ..TaggedCall::default() }
}

impl TaggedCall {
    pub(super) fn keys(self, open: &str, close: &str) -> TaggedCall {
        TaggedCall { key: (open.to_owned(), close.to_owned()), ..self }
    }

    pub(super) fn values(self, open: &str, close: &str) -> TaggedCall {
        TaggedCall { value: (open.to_owned(), close.to_owned()), ..self }
    }

    /// The syntax of calls that each begin with `open`.
    pub(super) fn after(self, open: &str) -> ToolSyntax {
        ToolSyntax { call: CallSyntax::Tagged(Box::new(self)), ..ToolSyntax::object("", open, "", "") }
    }

    /// The name and the arguments of a call: `text` is what stands before its end. None where it is no call.
    /// Arguments are of the types that `schema` of that function gives them.
    pub(super) fn read<'j>(
        &self,
        text: &str,
        schema: impl Fn(&str) -> Option<&'j Json>,
    ) -> Option<(String, Json)> {
        let text = text.trim_start();
        let text = text.strip_prefix(self.name.0.trim()).unwrap_or(text);
        let (key_open, key_close) = (self.key.0.trim(), self.key.1.trim());
        let after_name = self.name.1.trim();
        let (name, mut rest) = match after_name.is_empty() {
            true => text.split_at(text.find(key_open).unwrap_or(text.len())),
            false => text.split_once(after_name)?,
        };
        let name = name.trim();
        let properties = schema(name).and_then(|s| s.get("properties"));
        let mut arguments = Map::new();
        while let Some((_, after)) = rest.split_once(key_open) {
            let (key, after) = after.split_once(key_close)?;
            let after = match self.value.0.trim() {
                "" => after,
                open => after.trim_start().strip_prefix(open)?,
            };
            let (value, after) = after.split_once(self.value.1.trim())?;
            let property = properties.and_then(|p| p.get(key.trim()));
            arguments.insert(key.trim().to_owned(), typed(value, property));
            rest = after;
        }
        Some((name.to_owned(), Json::Object(arguments)))
    }
}

/// A value as its schema has it: text where that may be text and nothing else fits, JSON otherwise.
fn typed(value: &str, schema: Option<&Json>) -> Json {
    // A line of its own is how some write a value.
    let text = value.strip_prefix('\n').map_or(value, |v| v.strip_suffix('\n').unwrap_or(v));
    let types: Vec<&str> = match schema.and_then(|s| s.get("type")) {
        Some(Json::String(one)) => vec![one],
        Some(Json::Array(many)) => many.iter().filter_map(Json::as_str).collect(),
        _ => Vec::new(),
    };
    let fits = |json: &Json| {
        types.iter().any(|ty| match json {
            Json::Null => *ty == "null",
            Json::Bool(_) => *ty == "boolean",
            Json::Number(n) => {
                *ty == "number" || (*ty == "integer" && n.as_f64().is_some_and(|f| f.fract() == 0.0))
            }
            Json::String(_) => false,
            Json::Array(_) => *ty == "array",
            Json::Object(_) => *ty == "object",
        })
    };
    // Python's spelling of some models.
    let spelled = match text.trim() {
        "True" => "true",
        "False" => "false",
        "None" => "null",
        other => other,
    };
    match serde_json::from_str::<Json>(spelled) {
        Ok(json) if fits(&json) || (types.is_empty() && !json.is_string()) => json,
        _ => Json::String(text.to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn values_have_the_types_of_their_schema() {
        let ty = |ty: Json| json!({"type": ty});
        for (value, schema, expected) in [
            ("\n3\n", Some(ty(json!("integer"))), json!(3)),
            ("3", Some(ty(json!("string"))), json!("3")),
            ("3.5", Some(ty(json!("integer"))), json!("3.5")),
            ("3.5", Some(ty(json!("number"))), json!(3.5)),
            ("True", Some(ty(json!("boolean"))), json!(true)),
            ("True", Some(ty(json!("string"))), json!("True")),
            ("null", Some(ty(json!(["string", "null"]))), json!(null)),
            ("[1, 2]", Some(ty(json!("array"))), json!([1, 2])),
            ("[1, 2", Some(ty(json!("array"))), json!("[1, 2")),
            ("{\"a\": 1}", None, json!({"a": 1})),
            ("\"a\"", None, json!("\"a\"")),
            ("\n two\n\nlines\n", None, json!(" two\n\nlines")),
        ] {
            assert_eq!(typed(value, schema.as_ref()), expected, "{value:?} {schema:?}");
        }
    }
}
