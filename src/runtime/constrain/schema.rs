//! JSON Schemas of clients: what is taken, and what is refused by name.

use serde_json::{Map, Value as Json, json};

use super::Limits;
use crate::diagnostic::{Diagnostic, Errors, Result};

/// Keywords that the library knows nothing of and would pass over, or would not enforce.
const REFUSED: &[&str] = &[
    "not",
    "if",
    "then",
    "else",
    "dependencies",
    "dependentRequired",
    "dependentSchemas",
    "propertyNames",
    "contains",
    "minContains",
    "maxContains",
    "uniqueItems",
    "unevaluatedItems",
    "unevaluatedProperties",
    "$dynamicRef",
    "$recursiveRef",
    "x-guidance",
];

/// Keywords whose values are schemas by name.
const MAPS: &[&str] = &["properties", "patternProperties", "$defs", "definitions"];

/// Keywords whose values are lists of schemas.
const LISTS: &[&str] = &["anyOf", "oneOf", "allOf", "prefixItems"];

/// Keywords whose value is a schema.
const SCHEMAS: &[&str] = &["items", "additionalProperties", "additionalItems"];

/// How the library writes JSON: on one line, a blank after a comma or colon or none, so that white space
/// cannot go on for ever. Characters are not written by their numbers: `"\u0061"` would be another name for a
/// property `a` that is there already.
fn style() -> Json {
    json!({"json_allowed_escapes": "nrbtf\\\"", "item_separator": ", ?", "key_separator": ": ?", "whitespace_flexible": false, "coerce_one_of": false, "lenient": false})
}

/// The schema of any object.
pub(super) fn any_object() -> Json {
    json!({"type": "object", "x-guidance": style()})
}

/// Checks a schema and adds how its JSON is written.
///
/// # Errors
/// It is too large or too deep, or has a keyword that is not supported: the error names keyword and place.
pub(super) fn prepare(schema: &Json, limits: &Limits) -> Result<Json> {
    check(schema, limits)?;
    let mut schema = match schema {
        Json::Object(map) => map.clone(),
        Json::Bool(true) => Map::new(),
        _ => return Err(wrong("a schema must be an object".to_owned())),
    };
    schema.insert("x-guidance".to_owned(), style());
    let mut schema = Json::Object(schema);
    unions(&mut schema, limits.depth + 1);
    Ok(schema)
}

/// A union whose members a property tells apart (`discriminator`, as pydantic writes them) cannot match two of
/// them: `anyOf` says the same, and the library can follow it.
fn unions(schema: &mut Json, depth: usize) {
    let Some(depth) = depth.checked_sub(1) else { return };
    match schema {
        Json::Array(all) => all.iter_mut().for_each(|s| unions(s, depth)),
        Json::Object(map) => {
            if map.get("discriminator").is_some_and(Json::is_object)
                && let Some(members) = map.remove("oneOf")
            {
                map.remove("discriminator");
                map.insert("anyOf".to_owned(), members);
            }
            map.values_mut().for_each(|s| unions(s, depth));
        }
        _ => {}
    }
}

fn wrong(message: String) -> Errors {
    Diagnostic::error(message).code("unsupported-schema").into()
}

/// Walks a schema without recursion.
pub(super) fn check(root: &Json, limits: &Limits) -> Result<()> {
    let mut bytes = 0usize;
    let mut pending = vec![(root, String::from("#"), 0usize, true)];
    while let Some((value, place, depth, is_schema)) = pending.pop() {
        if depth > limits.depth {
            return Err(wrong(format!("the schema is nested deeper than {} at {place}", limits.depth)));
        }
        bytes += 8 + value.as_str().map_or(0, str::len);
        if bytes > limits.bytes {
            return Err(wrong(format!("the schema is larger than {} bytes", limits.bytes)));
        }
        match value {
            Json::Array(all) => pending.extend(all.iter().map(|v| (v, place.clone(), depth + 1, is_schema))),
            Json::Object(map) => {
                for (key, value) in map {
                    bytes += key.len();
                    if is_schema {
                        check_keyword(key, value, &place)?;
                    }
                    let below = || format!("{place}/{}", key.chars().take(40).collect::<String>());
                    match key.as_str() {
                        k if is_schema && MAPS.contains(&k) => {
                            let Json::Object(schemas) = value else {
                                return Err(wrong(format!("`{k}` at {place} must be an object")));
                            };
                            bytes += schemas.keys().map(|k| k.len() + 8).sum::<usize>();
                            let named =
                                |(name, schema)| (schema, format!("{}/{name:.40}", below()), depth + 2, true);
                            pending.extend(schemas.iter().map(named));
                        }
                        k if is_schema && (LISTS.contains(&k) || SCHEMAS.contains(&k)) => {
                            pending.push((value, below(), depth + 1, true));
                        }
                        // A constant, a default, a list of types: data.
                        _ => pending.push((value, below(), depth + 1, false)),
                    }
                }
            }
            _ => {}
        }
    }
    Ok(())
}

fn check_keyword(key: &str, value: &Json, place: &str) -> Result<()> {
    let is_off = matches!(value, Json::Bool(false));
    if REFUSED.contains(&key) && !(key == "uniqueItems" && is_off) {
        return Err(wrong(format!("the keyword `{key}` of the schema is not supported, at {place}")));
    }
    if key == "nullable" && *value == Json::Bool(true) {
        let message = format!(
            "the keyword `nullable` of the schema is not supported, at {place}; say `\"type\": [..., \"null\"]`"
        );
        return Err(wrong(message));
    }
    match (key, value) {
        // Names may come twice among those that are not listed, so that counting them proves nothing.
        ("minProperties", Json::Number(n)) if n.as_u64().is_none_or(|n| n > 1) => {
            Err(wrong(format!("`minProperties` above 1 is not supported, at {place}")))
        }
        ("$ref", Json::String(target)) if !target.starts_with('#') => {
            Err(wrong(format!("`$ref` at {place} points out of the schema")))
        }
        ("pattern", Json::String(pattern)) if pattern.len() > 4096 => {
            Err(wrong(format!("the `pattern` at {place} is longer than 4096 bytes")))
        }
        ("enum", Json::Array(all)) if all.len() > 10_000 => {
            Err(wrong(format!("the `enum` at {place} has more than 10000 values")))
        }
        _ => Ok(()),
    }
}
