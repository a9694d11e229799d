//! Calls of tools as a grammar, in the library's Lark.

use llguidance::toktrie::TokTrie;
use serde_json::{Value as Json, json};

use super::{Limits, schema};
use crate::diagnostic::{Diagnostic, Result};
use crate::prompt::output::{CallSyntax, TaggedCall, ToolSyntax};

/// The grammar of one call or more.
///
/// # Errors
/// There are no tools, one has no name, or its parameters are no schema that is supported.
pub(super) fn lark(
    syntax: &ToolSyntax,
    tools: &[Json],
    parallel: bool,
    trie: &TokTrie,
    limits: &Limits,
) -> Result<String> {
    let wrong = |why: &str| Diagnostic::error(why).code("invalid-tools");
    if tools.is_empty() {
        return Err(wrong("there are no tools to call").into());
    }
    let mut rules = String::new();
    let mut calls = Vec::new();
    for (i, tool) in tools.iter().enumerate() {
        let function = tool.get("function").ok_or_else(|| wrong("a tool has no `function`"))?;
        let name = function.get("name").and_then(Json::as_str).ok_or_else(|| wrong("a tool has no name"))?;
        let parameters = match function.get("parameters") {
            None | Some(Json::Null) => json!({"type": "object"}),
            Some(parameters) => parameters.clone(),
        };
        let parameters = schema::prepare(&parameters, limits)?;
        match &syntax.call {
            CallSyntax::Object { arguments, name: key, .. } => {
                // The parameters keep their own definitions: `$ref` points from the root of a schema.
                let head = format!("{{{}: {}, {}: ", json!(key), json!(name), json!(arguments));
                rules.push_str(&format!("call{i}: {} arguments{i} \"}}\"\n", text(&head)));
            }
            CallSyntax::Named { between, before, after } => {
                let (before, after) = (piece(before, trie), piece(after, trie));
                rules.push_str(&format!(
                    "call{i}: {before} {} {} arguments{i} {after}\n",
                    text(name),
                    piece(between, trie)
                ));
            }
            CallSyntax::Tagged(_) => {}
        }
        if let CallSyntax::Tagged(call) = &syntax.call {
            rules.push_str(&tagged(call, i, name, &parameters, trie));
        } else {
            rules.push_str(&format!("arguments{i}: %json {parameters}\n"));
        }
        calls.push(format!("call{i}"));
    }
    let one = format!("{} ({}) {}", piece(&syntax.open, trie), calls.join(" | "), piece(&syntax.close, trie));
    let is_list = matches!(syntax.call, CallSyntax::Object { list: true, .. });
    let separator = match is_list {
        true => text(", "),
        false => piece(&syntax.separator, trie),
    };
    // Nothing tells where a bare call ends and another begins.
    let several = parallel && !separator.trim().is_empty();
    let more = if several { format!("({separator} call)*") } else { String::new() };
    let (left, right) = if is_list { ("\"[\"", "\"]\"") } else { ("", "") };
    let (begin, end) = (piece(&syntax.begin, trie), piece(&syntax.end, trie));
    Ok(format!("start: {begin} {left} call {more} {right} {end}\ncall: {one}\n{rules}"))
}

/// The rules of a call whose arguments stand between tags, in the order of the schema.
fn tagged(call: &TaggedCall, i: usize, name: &str, schema: &Json, trie: &TokTrie) -> String {
    let empty = serde_json::Map::new();
    let properties = schema.get("properties").and_then(Json::as_object).unwrap_or(&empty);
    let required: Vec<&str> = schema
        .get("required")
        .and_then(Json::as_array)
        .into_iter()
        .flatten()
        .filter_map(Json::as_str)
        .collect();
    let (mut arguments, mut rules) = (String::new(), String::new());
    for (j, (key, property)) in properties.iter().enumerate() {
        let optional = if required.contains(&key.as_str()) { "" } else { "?" };
        arguments.push_str(&format!(" argument{i}x{j}{optional}"));
        let (key_open, key_close) = (piece(&call.key.0, trie), piece(&call.key.1, trie));
        let open = piece(&call.value.0, trie);
        rules.push_str(&format!(
            "argument{i}x{j}: {key_open} {} {key_close} {open} value{i}x{j}\n",
            text(key)
        ));
        rules.push_str(&value(call, &format!("value{i}x{j}"), property, schema, trie));
    }
    let (open, close, end) = (piece(&call.name.0, trie), piece(&call.name.1, trie), piece(&call.end, trie));
    format!("call{i}: {open} {} {close}{arguments} {end}\n{rules}", text(name))
}

/// The rule of a value and the tag after it: a text stands as it is, anything else is JSON.
fn value(call: &TaggedCall, rule: &str, property: &Json, schema: &Json, trie: &TokTrie) -> String {
    let close = &call.value.1;
    let reference = property.get("$ref").and_then(Json::as_str).and_then(|r| r.strip_prefix("#/$defs/"));
    let property = reference.and_then(|name| schema.get("$defs")?.get(name)).unwrap_or(property);
    let is_text = property.get("type").is_some_and(|ty| ty == "string");
    let choices = property.get("enum").and_then(Json::as_array);
    if let Some(choices) = choices.filter(|c| c.iter().all(Json::is_string)) {
        let choices: Vec<String> = choices.iter().filter_map(Json::as_str).map(text).collect();
        return format!("{rule}: ({}) {}\n", choices.join(" | "), piece(close, trie));
    }
    if !is_text {
        let mut property = property.clone();
        if let (Some(object), Some(definitions)) = (property.as_object_mut(), schema.get("$defs")) {
            object.insert("$defs".to_owned(), definitions.clone());
        }
        return format!("{rule}: %json {property} {}\n", piece(close, trie));
    }
    if trie.get_special_token(close.trim()).is_some() {
        // A token of its own is no text.
        return format!("{rule}: /(?s:.*)/ {}\n", piece(close, trie));
    }
    let end = close.trim_end();
    format!(
        "{rule}: {rule}text {}\n{rule}text[suffix={}]: /(?s:.*)/\n",
        text(&close[end.len()..]),
        json!(end)
    )
}

/// A text as a Lark string; empty where it is.
fn text(text: &str) -> String {
    if text.is_empty() { String::new() } else { json!(text).to_string() }
}

/// A text that may hold special tokens: those are themselves, the rest is text.
fn piece(whole: &str, trie: &TokTrie) -> String {
    let tag = whole.trim();
    let special = (!tag.is_empty()).then(|| trie.get_special_token(tag)).flatten();
    match special {
        Some(id) => {
            let (before, after) = whole.split_once(tag).unwrap_or(("", ""));
            format!("{} <[{id}]> {}", text(before), text(after))
        }
        // Several tags in a row: `function<｜tool▁sep｜>`.
        None => match whole.find('<').zip(whole.rfind('>')) {
            Some((start, end)) if start < end && trie.get_special_token(&whole[start..=end]).is_some() => {
                let id = trie.get_special_token(&whole[start..=end]).unwrap_or_default();
                format!("{} <[{id}]> {}", text(&whole[..start]), text(&whole[end + 1..]))
            }
            _ => text(whole),
        },
    }
}
