//! Reads an answer as it comes.

use std::collections::BTreeMap;

use serde_json::{Map, Value as Json};

use super::json_scan::{JsonScan, Scanned};
use super::{CallSyntax, OutputSyntax, Piece, ReaderOptions, TaggedCall, ThinkingSyntax, ToolSyntax, append};

/// Takes text as it comes and gives parts as soon as they are certain. No part of a tag is ever given as
/// text; what turns out to be no call is text again.
pub struct OutputReader {
    thinking: Option<ThinkingSyntax>,
    tools: Option<ToolSyntax>,
    names: Vec<String>,
    /// The schemas of their arguments.
    parameters: BTreeMap<String, Json>,
    /// What has come and is not certain yet.
    held: String,
    state: State,
}

#[derive(Clone, Debug)]
enum State {
    /// Nothing but white space has come.
    Start,
    /// The model thinks; nothing but white space has come of it where true.
    Thinking(bool),
    /// Thinking is over; white space is swallowed.
    AfterThinking,
    Text,
    /// A tag has come, and perhaps a part of a call. The whole of it is held.
    Call(CallScan),
    /// A call has ended: white space, separators and ends are swallowed.
    AfterCall,
}

#[derive(Clone, Debug, Default)]
struct CallScan {
    /// Bytes of the tags before the call.
    tags: usize,
    /// Where the JSON value begins, once it is there; of a call between tags, where its end is looked for.
    json: Option<usize>,
    scan: JsonScan,
}

enum Progress {
    /// More text is needed.
    Wait,
    /// Something was taken; look again.
    Again,
}

impl OutputReader {
    /// At the beginning of an answer.
    pub fn new(syntax: &OutputSyntax, options: ReaderOptions) -> OutputReader {
        let thinking = syntax.thinking.clone().filter(|_| options.thinking);
        OutputReader {
            state: match &thinking {
                Some(_) if options.begins_in_thinking => State::Thinking(true),
                _ => State::Start,
            },
            thinking,
            tools: match options.tools.is_empty() {
                true => None,
                false => Some(syntax.tools.clone().unwrap_or_else(ToolSyntax::bare)),
            },
            names: options.tools,
            parameters: options.parameters,
            held: String::new(),
        }
    }

    /// Takes more text.
    pub fn push(&mut self, text: &str) -> Vec<Piece> {
        self.held.push_str(text);
        let mut pieces = Vec::new();
        while let Progress::Again = self.step(&mut pieces) {}
        join(pieces)
    }

    /// The answer is over: gives what was held back.
    pub fn finish(&mut self) -> Vec<Piece> {
        let mut pieces = Vec::new();
        let held = std::mem::take(&mut self.held);
        match std::mem::replace(&mut self.state, State::Text) {
            State::Thinking(_) => {
                let text = held.trim_end();
                if !text.is_empty() {
                    pieces.push(Piece::Thinking(text.to_owned()));
                }
            }
            State::AfterThinking | State::AfterCall if held.trim().is_empty() => {}
            _ if held.is_empty() => {}
            _ => pieces.push(Piece::Text(held)),
        }
        pieces
    }

    fn step(&mut self, pieces: &mut Vec<Piece>) -> Progress {
        match self.state.clone() {
            State::Start => self.start(),
            State::Thinking(fresh) => self.think(fresh, pieces),
            State::AfterThinking => {
                let kept = self.held.trim_start().len();
                self.held.drain(..self.held.len() - kept);
                if self.held.is_empty() {
                    return Progress::Wait;
                }
                self.text_or_bare_call()
            }
            State::Text => self.text(pieces),
            State::Call(scan) => self.call(scan, pieces),
            State::AfterCall => self.after_call(),
        }
    }

    fn start(&mut self) -> Progress {
        let text = self.held.trim_start();
        if text.is_empty() {
            return Progress::Wait;
        }
        if let Some(thinking) = &self.thinking {
            if let Some(rest) = text.strip_prefix(&thinking.open) {
                self.held = rest.to_owned();
                self.state = State::Thinking(true);
                return Progress::Again;
            }
            if thinking.open.starts_with(text) {
                return Progress::Wait;
            }
        }
        self.text_or_bare_call()
    }

    /// Where an answer's text begins: a call without a tag can only be here.
    fn text_or_bare_call(&mut self) -> Progress {
        self.state = State::Text;
        let Some(tools) = &self.tools else { return Progress::Again };
        let text = self.held.trim_start();
        // A tag may begin with a bracket, too.
        let is_tag = tools.tags().any(|tag| text.starts_with(tag));
        if !is_tag && tools.tags().any(|tag| tag.starts_with(text)) {
            self.state = State::Start;
            return Progress::Wait;
        }
        if !is_tag && text.starts_with(['{', '[']) && matches!(tools.call, CallSyntax::Object { .. }) {
            let white = self.held.len() - text.len();
            self.state = State::Call(CallScan { tags: white, ..CallScan::default() });
        }
        Progress::Again
    }

    fn think(&mut self, fresh: bool, pieces: &mut Vec<Piece>) -> Progress {
        let Some(close) = self.thinking.as_ref().map(|t| t.close.clone()) else {
            self.state = State::Text;
            return Progress::Again;
        };
        if fresh {
            let kept = self.held.trim_start().len();
            self.held.drain(..self.held.len() - kept);
            if self.held.is_empty() {
                return Progress::Wait;
            }
        }
        if let Some(at) = self.held.find(&close) {
            let thought = self.held[..at].trim_end().to_owned();
            self.held.drain(..at + close.len());
            if !thought.is_empty() {
                pieces.push(Piece::Thinking(thought));
            }
            self.state = State::AfterThinking;
            return Progress::Again;
        }
        // White space at the end may be that before the tag.
        let certain = self.held[..self.held.len() - beginning_of(&self.held, &close)].trim_end().len();
        if certain > 0 {
            pieces.push(Piece::Thinking(self.held.drain(..certain).collect()));
            self.state = State::Thinking(false);
        }
        Progress::Wait
    }

    fn text(&mut self, pieces: &mut Vec<Piece>) -> Progress {
        let Some(tools) = &self.tools else {
            if !self.held.is_empty() {
                pieces.push(Piece::Text(std::mem::take(&mut self.held)));
            }
            return Progress::Wait;
        };
        let first = tools.tags().filter_map(|tag| Some((self.held.find(tag)?, tag.len()))).min();
        if let Some((at, len)) = first {
            if at > 0 {
                pieces.push(Piece::Text(self.held.drain(..at).collect()));
            }
            self.state = State::Call(CallScan { tags: len, ..CallScan::default() });
            return Progress::Again;
        }
        let held = tools.tags().map(|tag| beginning_of(&self.held, tag)).max().unwrap_or(0);
        let certain = self.held.len() - held;
        if certain > 0 {
            pieces.push(Piece::Text(self.held.drain(..certain).collect()));
        }
        Progress::Wait
    }

    fn call(&mut self, mut scan: CallScan, pieces: &mut Vec<Piece>) -> Progress {
        let Some(tools) = self.tools.clone() else {
            self.state = State::Text;
            return Progress::Again;
        };
        if let CallSyntax::Tagged(call) = &tools.call {
            return self.tagged(call, &scan, pieces);
        }
        let Some(json) = scan.json else {
            match find_json(&tools, &self.held, scan.tags) {
                Found::At(at) => {
                    scan.json = Some(at);
                    self.state = State::Call(scan);
                    return Progress::Again;
                }
                Found::Later => return Progress::Wait,
                Found::No => return self.no_call(scan.tags, pieces),
            }
        };
        match scan.scan.push(&self.held[json..]) {
            Scanned::More => {
                self.state = State::Call(scan);
                Progress::Wait
            }
            Scanned::Not => self.no_call(scan.tags, pieces),
            Scanned::End(len) => {
                let calls =
                    calls(&tools, &self.held[scan.tags..json], &self.held[json..json + len], &self.names);
                let Some(calls) = calls else { return self.no_call(json + len, pieces) };
                pieces.extend(calls);
                self.held.drain(..json + len);
                self.state = State::AfterCall;
                Progress::Again
            }
        }
    }

    /// A call between tags: it is read once its end is there.
    fn tagged(&mut self, call: &TaggedCall, scan: &CallScan, pieces: &mut Vec<Piece>) -> Progress {
        let open = self.tools.as_ref().map_or("", |t| t.open.trim());
        let inside = self.held[scan.tags..].trim_start();
        let (begin, inside) = match inside.strip_prefix(open) {
            Some(rest) => (rest.trim_start(), rest),
            None => (inside, inside),
        };
        let name = call.name.0.trim();
        if !begin.starts_with(name) && !name.starts_with(begin) && !open.starts_with(begin) {
            return self.no_call(scan.tags, pieces);
        }
        let start = self.held.len() - inside.len();
        let end = call.end.trim();
        // The end may also stand inside of a value: then what follows it belongs to the call.
        let mut from = scan.json.unwrap_or(start).max(start);
        while let Some(at) = self.held.get(from..).and_then(|rest| rest.find(end)).map(|at| from + at) {
            from = at + end.len();
            let Some((name, arguments)) = call.read(&self.held[start..at], |n| self.parameters.get(n)) else {
                continue;
            };
            let Some(piece) = piece(name, Some(arguments), &self.names) else {
                return self.no_call(from, pieces);
            };
            pieces.push(piece);
            self.held.drain(..from);
            self.state = State::AfterCall;
            return Progress::Again;
        }
        // A part of the end may be there.
        let kept = self.held.len() - beginning_of(&self.held, end);
        self.state = State::Call(CallScan { json: Some(from.max(kept)), ..scan.clone() });
        Progress::Wait
    }

    /// What was held is text after all, as far as byte `len` at least.
    fn no_call(&mut self, len: usize, pieces: &mut Vec<Piece>) -> Progress {
        if len > 0 {
            pieces.push(Piece::Text(self.held.drain(..len).collect()));
        }
        self.state = State::Text;
        Progress::Again
    }

    fn after_call(&mut self) -> Progress {
        let Some(tools) = &self.tools else {
            self.state = State::Text;
            return Progress::Again;
        };
        let text = self.held.trim_start();
        if text.is_empty() {
            self.held.clear();
            return Progress::Wait;
        }
        let after = match &tools.call {
            CallSyntax::Named { after, .. } => after.trim(),
            CallSyntax::Object { .. } | CallSyntax::Tagged(_) => "",
        };
        let swallowed = [after, tools.close.trim(), tools.separator.trim(), tools.end.trim()];
        let mut swallowed = swallowed.into_iter().filter(|t| !t.is_empty());
        if let Some(rest) = swallowed.clone().find_map(|t| text.strip_prefix(t)) {
            self.held = rest.to_owned();
            return Progress::Again;
        }
        let tags = tools.tags().collect::<Vec<_>>();
        if let Some(tag) = tags.iter().find(|t| text.starts_with(**t)) {
            let tags = self.held.len() - text.len() + tag.len();
            self.state = State::Call(CallScan { tags, ..CallScan::default() });
            return Progress::Again;
        }
        if swallowed.any(|t| t.starts_with(text)) || tags.iter().any(|t| t.starts_with(text)) {
            return Progress::Wait;
        }
        // Where calls have no tag of their own, another may follow.
        let bare = tools.open.trim().is_empty();
        self.state = if bare { State::AfterThinking } else { State::Text };
        self.held = text.to_owned();
        Progress::Again
    }
}

enum Found {
    At(usize),
    Later,
    No,
}

/// Where the JSON of a call begins after the tags.
fn find_json(tools: &ToolSyntax, held: &str, tags: usize) -> Found {
    let mut at = tags;
    // `begin` may be followed by `open`.
    let rest = held[at..].trim_start();
    let open = tools.open.trim();
    if !open.is_empty() && !held[..tags].ends_with(open) {
        if rest.starts_with(open) {
            at = held.len() - rest.len() + open.len();
        } else if open.starts_with(rest) {
            return Found::Later;
        }
    }
    let rest = held[at..].trim_start();
    let start = held.len() - rest.len();
    match &tools.call {
        CallSyntax::Object { .. } => match rest.chars().next() {
            None => Found::Later,
            Some('{' | '[') => Found::At(start),
            Some(_) => Found::No,
        },
        CallSyntax::Named { .. } => match rest.find('{') {
            Some(brace) => Found::At(start + brace),
            // A name and what is around it.
            None if rest.len() < 512 => Found::Later,
            None => Found::No,
        },
        CallSyntax::Tagged(_) => Found::No,
    }
}

/// The calls in a JSON value; `None` when one is none, or is of no tool on offer.
fn calls(tools: &ToolSyntax, before: &str, json: &str, names: &[String]) -> Option<Vec<Piece>> {
    let value: Json = serde_json::from_str(json).ok()?;
    match &tools.call {
        CallSyntax::Object { name, arguments, .. } => {
            let objects = match value {
                Json::Array(all) => all,
                one => vec![one],
            };
            let calls = objects.into_iter().map(|object| {
                let Json::Object(mut object) = object else { return None };
                // Some write `{"function": {"name": ...}}`.
                if let Some(Json::Object(inner)) = object.get("function").cloned() {
                    object = inner;
                }
                let called = match object.get(name)? {
                    Json::String(called) => called.clone(),
                    _ => return None,
                };
                let given =
                    [arguments.as_str(), "arguments", "parameters"].into_iter().find_map(|k| object.get(k));
                piece(called, given.cloned(), names)
            });
            calls.collect::<Option<Vec<_>>>().filter(|c| !c.is_empty())
        }
        CallSyntax::Named { between, before: prefix, .. } => {
            let text = before.trim_start();
            let text = text.strip_prefix(tools.open.trim()).unwrap_or(text).trim_start();
            // An id may stand before it.
            let text = text.split_once(prefix.trim()).map_or(text, |(_, after)| after);
            let (called, _) = text
                .split_once(between.trim())
                .filter(|_| !between.trim().is_empty())
                .or_else(|| text.split_once('\n'))?;
            // Some write an id after the name: `weather[CALL_ID]a1b2c3d4e`, `weather:0`.
            let called = called.split(['[', ':']).next().unwrap_or(called);
            Some(vec![piece(called.trim().to_owned(), Some(value), names)?])
        }
        CallSyntax::Tagged(_) => None,
    }
}

fn piece(name: String, arguments: Option<Json>, names: &[String]) -> Option<Piece> {
    if !names.contains(&name) {
        return None;
    }
    let arguments = match arguments {
        None | Some(Json::Null) => Json::Object(Map::new()),
        // An object in a string.
        Some(Json::String(text)) => serde_json::from_str(&text).ok().filter(Json::is_object)?,
        Some(object @ Json::Object(_)) => object,
        Some(_) => return None,
    };
    Some(Piece::ToolCall { name, arguments })
}

/// The bytes at the end of `text` that may become `tag`.
fn beginning_of(text: &str, tag: &str) -> usize {
    let most = tag.len().saturating_sub(1).min(text.len());
    (1..=most)
        .rev()
        .find(|n| tag.is_char_boundary(*n) && text.as_bytes().ends_with(&tag.as_bytes()[..*n]))
        .unwrap_or(0)
}

/// Neighbours of one kind as one.
fn join(pieces: Vec<Piece>) -> Vec<Piece> {
    let mut joined = Vec::with_capacity(pieces.len());
    append(&mut joined, pieces);
    joined
}

#[cfg(test)]
#[path = "reader_tests.rs"]
mod tests;
