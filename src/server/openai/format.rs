//! What the text of an answer must be, and how much the model thinks.

use serde_json::Value as Json;

use crate::prompt::Think;
use crate::runtime::constrain::Grammar;
use crate::server::error::ApiError;
use crate::server::fields::{invalid, missing, shown};

/// Reads a format's type and its schema; `field` is where it stands.
///
/// # Errors
/// 400: the type is not known, or the schema is missing or none.
pub fn grammar(
    field: &str,
    kind: &str,
    schema: Option<(&str, Option<&Json>)>,
) -> Result<Option<Grammar>, ApiError> {
    match kind {
        "text" => Ok(None),
        "json_object" => Ok(Some(Grammar::Json)),
        "json_schema" => {
            let (place, schema) = schema.ok_or_else(|| missing(&format!("{field}.json_schema")))?;
            let schema = schema.ok_or_else(|| missing(place))?;
            match schema.is_object() || schema.is_boolean() {
                true => Ok(Some(Grammar::Schema(schema.clone()))),
                false => Err(invalid(place, "it is not a JSON schema")),
            }
        }
        other => {
            let why = format!("`{}` is neither `text`, `json_object` nor `json_schema`", shown(other));
            Err(invalid(&format!("{field}.type"), &why))
        }
    }
}

/// Words for how much to think, and what each means.
const EFFORTS: &[(&str, Option<&str>)] = &[
    ("none", None),
    ("minimal", Some("low")),
    ("low", Some("low")),
    ("medium", Some("medium")),
    ("high", Some("high")),
    ("max", Some("max")),
    ("xhigh", Some("max")),
    ("ultra", Some("max")),
];

/// How much to think.
///
/// # Errors
/// 400: the word is not known.
pub fn think(field: &str, effort: Option<&str>) -> Result<Option<Think>, ApiError> {
    let Some(effort) = effort else { return Ok(None) };
    let known = EFFORTS.iter().find(|(word, _)| *word == effort);
    match known {
        Some((_, None)) => Ok(Some(Think::Off)),
        Some((_, Some(level))) => Ok(Some(Think::Level((*level).to_owned()))),
        None => {
            let words: Vec<_> = EFFORTS.iter().map(|(word, _)| format!("`{word}`")).collect();
            Err(invalid(field, &format!("`{}` is none of {}", shown(effort), words.join(", "))))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn formats_are_read() {
        let (schema, none) = (json!({"type": "object"}), json!("x"));
        let read = |kind, schema| grammar("response_format", kind, schema).map_err(|e| e.message);
        assert_eq!(read("text", None), Ok(None));
        assert_eq!(read("json_object", None), Ok(Some(Grammar::Json)));
        assert_eq!(
            read("json_schema", Some(("s", Some(&schema)))),
            Ok(Some(Grammar::Schema(schema.clone())))
        );
        assert!(read("json_schema", None).unwrap_err().contains("response_format.json_schema"));
        assert!(read("json_schema", Some(("s", None))).is_err());
        assert!(read("json_schema", Some(("s", Some(&none)))).is_err());
        assert!(read("grammar", None).unwrap_err().contains("response_format.type"));
    }

    #[test]
    fn efforts_are_read() {
        assert_eq!(think("e", None), Ok(None));
        assert_eq!(think("e", Some("none")), Ok(Some(Think::Off)));
        assert_eq!(think("e", Some("xhigh")), Ok(Some(Think::Level("max".into()))));
        assert!(think("reasoning_effort", Some("LOW")).unwrap_err().message.contains("reasoning_effort"));
    }
}
