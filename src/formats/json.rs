//! JSON from outside: bounded in size and depth, and with no key twice.
//!
//! A key that is there twice means one thing to one reader and another thing to the next, so it is
//! an error. Depth is bounded by serde_json (128).

use std::collections::HashSet;
use std::fmt;
use std::marker::PhantomData;
use std::path::Path;

use serde::de::{Deserialize, Deserializer, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Value};

use super::quote::{clipped, quoted};
use super::{limits, signature};
use crate::diagnostic::{Diagnostic, Result};

/// Characters of a parser's message that are shown: it may quote the text.
const MESSAGE: usize = 300;

/// Parses a whole JSON text; `place` is where it stands in the file at `path`, empty for a file
/// that is nothing else.
pub(crate) fn parse<'a, T: Deserialize<'a>>(path: &Path, place: &str, text: &'a [u8]) -> Result<T> {
    serde_json::from_slice(text).map_err(|e| {
        let message = clipped(&e.to_string(), MESSAGE);
        let message = if e.is_data() { message } else { format!("not valid JSON: {message}") };
        let mut error = Diagnostic::error(message).code("bad-json").in_file(path, place);
        if e.is_syntax() && place.is_empty() {
            if let Some((what, help)) = signature::sniff(text).filter(|(what, _)| *what != "a JSON text") {
                error = error.label(format!("this is {what}")).help(help);
            } else if ["NaN", "Infinity"].iter().any(|word| mentions(text, word)) {
                error = error.help("Python writes NaN and Infinity, which JSON does not have");
            }
        }
        error.into()
    })
}

/// Parses a file that must be one JSON object.
pub(crate) fn parse_object(path: &Path, text: &[u8]) -> Result<Map<String, Value>> {
    match parse::<Unique>(path, "", text)?.0 {
        Value::Object(object) => Ok(object),
        _ => Err(Diagnostic::error("the file must hold one JSON object")
            .code("bad-json")
            .in_file(path, "")
            .into()),
    }
}

fn mentions(text: &[u8], word: &str) -> bool {
    text.windows(word.len()).any(|window| window == word.as_bytes())
}

/// The members of an object in their order, each key once; at most [`limits::TENSORS`] of them.
pub(crate) struct Members<T>(pub Vec<(String, T)>);

impl<'de, T: Deserialize<'de>> Deserialize<'de> for Members<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct MembersVisitor<T>(PhantomData<T>);
        impl<'de, T: Deserialize<'de>> Visitor<'de> for MembersVisitor<T> {
            type Value = Members<T>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Members<T>, A::Error> {
                let mut members = Vec::new();
                let mut seen = HashSet::new();
                while let Some(key) = map.next_key::<String>()? {
                    if !seen.insert(key.clone()) {
                        return Err(twice(&key));
                    }
                    if members.len() as u64 == limits::TENSORS {
                        return Err(serde::de::Error::custom(format_args!(
                            "more than {} keys",
                            limits::TENSORS
                        )));
                    }
                    let value = map.next_value()?;
                    members.push((key, value));
                }
                Ok(Members(members))
            }
        }
        deserializer.deserialize_map(MembersVisitor(PhantomData))
    }
}

/// The error for a key that is there twice.
pub(crate) fn twice<E: serde::de::Error>(key: &str) -> E {
    E::custom(format_args!("the key {} is there twice", quoted(key)))
}

/// Any JSON value whose objects have each key once.
struct Unique(Value);

impl<'de> Deserialize<'de> for Unique {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(UniqueVisitor).map(Unique)
    }
}

struct UniqueVisitor;

impl<'de> Visitor<'de> for UniqueVisitor {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a JSON value")
    }

    fn visit_unit<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_bool<E>(self, v: bool) -> Result<Value, E> {
        Ok(v.into())
    }

    fn visit_i64<E>(self, v: i64) -> Result<Value, E> {
        Ok(v.into())
    }

    fn visit_u64<E>(self, v: u64) -> Result<Value, E> {
        Ok(v.into())
    }

    fn visit_f64<E>(self, v: f64) -> Result<Value, E> {
        Ok(v.into())
    }

    fn visit_str<E>(self, v: &str) -> Result<Value, E> {
        Ok(v.into())
    }

    fn visit_string<E>(self, v: String) -> Result<Value, E> {
        Ok(v.into())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Value, A::Error> {
        let mut values = Vec::new();
        while let Some(Unique(value)) = seq.next_element()? {
            values.push(value);
        }
        Ok(Value::Array(values))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Value, A::Error> {
        let mut object = Map::new();
        while let Some(key) = map.next_key::<String>()? {
            if object.contains_key(&key) {
                return Err(twice(&key));
            }
            let Unique(value) = map.next_value()?;
            object.insert(key, value);
        }
        Ok(Value::Object(object))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(text: &str) -> String {
        parse_object(Path::new("c.json"), text.as_bytes()).unwrap_err().to_string()
    }

    #[test]
    fn a_key_twice_is_an_error_at_any_depth() {
        assert!(message(r#"{"a": [{"b": 1, "b": 1}]}"#).contains("`b` is there twice"));
        assert!(parse_object(Path::new("c.json"), br#"{"a": {"b": 1}, "b": null}"#).is_ok());
    }

    #[test]
    fn depth_is_bounded() {
        let deep = format!("{{\"a\": {}", "[".repeat(1_000_000));
        assert!(message(&deep).contains("recursion limit"));
        assert!(message("[]").contains("one JSON object"));
    }
}
