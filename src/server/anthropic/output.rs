//! Responses, whole and while they are made.

use serde::Serialize;
use serde_json::{Value as Json, json};
use utoipa::ToSchema;

use crate::prompt::output::Piece;
use crate::runtime::generate::Done;
use crate::server::answer::{End, Part};
use crate::server::delivery::{Assembly, Ids, Whole, append, event, joined};
use crate::server::error::{ApiError, Dialect};

/// What is known of a response before it begins.
#[derive(Clone, Debug)]
pub struct Head {
    /// `msg_...`.
    pub id: String,
    /// The model as the request names it.
    pub model: String,
    /// Tokens of the prompt.
    pub prompt_tokens: usize,
    /// The request's stop texts: another that was found is the model's own, and ends its turn.
    pub stops: Vec<String>,
    /// Calls but the first are left out.
    pub single: bool,
    /// The request's id, for an error on the way.
    pub request_id: String,
}

/// A response.
#[derive(Clone, Debug, Serialize, ToSchema)]
#[schema(as = anthropic::MessagesResponse)]
pub struct Response {
    /// `msg_...`.
    pub id: String,
    /// `message`.
    pub r#type: &'static str,
    /// `assistant`.
    pub role: &'static str,
    /// The model.
    pub model: String,
    /// Blocks of thinking, text and calls.
    #[schema(value_type = Vec<Object>)]
    pub content: Vec<Json>,
    /// `end_turn`, `max_tokens`, `stop_sequence` or `tool_use`; null at the beginning of a stream.
    pub stop_reason: Option<&'static str>,
    /// The stop text that was found.
    pub stop_sequence: Option<String>,
    /// Counts of tokens.
    pub usage: Usage,
}

/// Counts of tokens.
#[derive(Clone, Copy, Debug, Serialize, ToSchema)]
#[schema(as = anthropic::Usage)]
pub struct Usage {
    /// Of the prompt, without those that were read before.
    pub input_tokens: usize,
    /// 0: nothing is charged for what is kept.
    pub cache_creation_input_tokens: usize,
    /// Of the prompt, those that were read before.
    pub cache_read_input_tokens: usize,
    /// Of the answer.
    pub output_tokens: usize,
}

impl Usage {
    fn of(end: &End) -> Usage {
        let cached = end.stats.prompt_cached_count.min(end.prompt_tokens);
        Usage {
            input_tokens: end.prompt_tokens - cached,
            cache_creation_input_tokens: 0,
            cache_read_input_tokens: cached,
            output_tokens: end.stats.eval_count,
        }
    }
}

/// Why an answer ended, and the stop text that ended it.
fn stop_reason(end: &End, calls: bool, stops: &[String]) -> (&'static str, Option<String>) {
    match (end.done, &end.stop) {
        (Done::Length, _) => ("max_tokens", None),
        _ if calls => ("tool_use", None),
        (_, Some(stop)) if stops.contains(stop) => ("stop_sequence", Some(stop.clone())),
        _ => ("end_turn", None),
    }
}

impl Head {
    fn response(&self) -> Response {
        let usage = Usage {
            input_tokens: self.prompt_tokens,
            cache_creation_input_tokens: 0,
            cache_read_input_tokens: 0,
            output_tokens: 0,
        };
        Response {
            id: self.id.clone(),
            r#type: "message",
            role: "assistant",
            model: self.model.clone(),
            content: Vec::new(),
            stop_reason: None,
            stop_sequence: None,
            usage,
        }
    }
}

/// A block of text, thinking or a call.
fn block(piece: Piece, ids: Ids) -> Json {
    match piece {
        Piece::Text(text) => json!({"type": "text", "text": text}),
        Piece::Thinking(thinking) => json!({"type": "thinking", "thinking": thinking, "signature": ""}),
        Piece::ToolCall { name, arguments } => {
            json!({"type": "tool_use", "id": ids("toolu_"), "name": name, "input": arguments})
        }
    }
}

/// The response of a whole answer.
pub fn message(head: &Head, answer: Whole, ids: Ids) -> Response {
    let mut calls = 0;
    let mut pieces = Vec::new();
    for piece in answer.pieces {
        calls += usize::from(matches!(piece, Piece::ToolCall { .. }));
        if !(head.single && calls > 1 && matches!(piece, Piece::ToolCall { .. })) {
            append(&mut pieces, vec![piece]);
        }
    }
    let (reason, stop_sequence) = stop_reason(&answer.end, calls > 0, &head.stops);
    Response {
        content: pieces.into_iter().map(|piece| block(piece, ids)).collect(),
        stop_reason: Some(reason),
        stop_sequence,
        usage: Usage::of(&answer.end),
        ..head.response()
    }
}

/// Makes events of parts.
pub struct MessageStream {
    head: Head,
    ids: Ids,
    /// The number of the block that is open, or comes next.
    index: usize,
    open: Option<Open>,
    calls: usize,
}

/// A block that goes on.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Open {
    Text,
    Thinking,
}

impl MessageStream {
    /// At the beginning.
    pub fn new(head: Head, ids: Ids) -> MessageStream {
        MessageStream { head, ids, index: 0, open: None, calls: 0 }
    }

    fn start(&self, block: Json) -> String {
        let fields = json!({"type": "content_block_start", "index": self.index, "content_block": block});
        event("content_block_start", &fields)
    }

    fn delta(&self, delta: Json) -> String {
        event(
            "content_block_delta",
            &json!({"type": "content_block_delta", "index": self.index, "delta": delta}),
        )
    }

    fn stop(&mut self) -> String {
        let index = self.index;
        self.index += 1;
        event("content_block_stop", &json!({"type": "content_block_stop", "index": index}))
    }

    /// Ends the block that is open, unless it is such a one.
    fn close(&mut self, unless: Option<Open>) -> String {
        match self.open {
            Some(open) if Some(open) != unless => {
                self.open = None;
                self.stop()
            }
            _ => String::new(),
        }
    }

    /// Goes on with a block of this kind.
    fn go_on(&mut self, kind: Open, empty: Piece, delta: Json) -> String {
        let mut told = self.close(Some(kind));
        if self.open.is_none() {
            self.open = Some(kind);
            told += &self.start(block(empty, self.ids));
        }
        told + &self.delta(delta)
    }

    fn piece(&mut self, piece: Piece) -> String {
        match piece {
            Piece::Text(text) => {
                let delta = json!({"type": "text_delta", "text": text});
                self.go_on(Open::Text, Piece::Text(String::new()), delta)
            }
            Piece::Thinking(text) => {
                let delta = json!({"type": "thinking_delta", "thinking": text});
                self.go_on(Open::Thinking, Piece::Thinking(String::new()), delta)
            }
            Piece::ToolCall { name, arguments } => {
                self.calls += 1;
                if self.head.single && self.calls > 1 {
                    return String::new();
                }
                let mut told = self.close(None);
                told += &self.start(block(Piece::ToolCall { name, arguments: json!({}) }, self.ids));
                told +=
                    &self.delta(json!({"type": "input_json_delta", "partial_json": arguments.to_string()}));
                told + &self.stop()
            }
        }
    }
}

impl Assembly for MessageStream {
    fn begin(&mut self) -> String {
        let start = json!({"type": "message_start", "message": self.head.response()});
        event("message_start", &start) + self.heartbeat()
    }

    fn part(&mut self, _index: usize, part: Part) -> String {
        match part {
            Part::Pieces { pieces, .. } => {
                joined(pieces).into_iter().map(|piece| self.piece(piece)).collect()
            }
            Part::End(end) => {
                let told = self.close(None);
                let (reason, stop) = stop_reason(&end, self.calls > 0, &self.head.stops);
                let delta = json!({"stop_reason": reason, "stop_sequence": stop});
                let fields = json!({"type": "message_delta", "delta": delta, "usage": Usage::of(&end)});
                told + &event("message_delta", &fields)
            }
        }
    }

    fn end(&mut self) -> String {
        event("message_stop", &json!({"type": "message_stop"}))
    }

    fn error(&mut self, error: &ApiError) -> String {
        let mut body = Dialect::Anthropic.error(error);
        // The stream is written after the request's own task is done.
        body["request_id"] = self.head.request_id.as_str().into();
        event("error", &body)
    }

    fn heartbeat(&self) -> &'static str {
        "event: ping\ndata: {\"type\":\"ping\"}\n\n"
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::server::delivery::test_id;
    use crate::server::delivery::testing::{
        any_parts, bytes, call, end, events_of, one, pieces, text, thinking, whole,
    };

    fn head(single: bool) -> Head {
        Head {
            id: "msg_0".into(),
            model: "m".into(),
            prompt_tokens: 7,
            stops: vec!["x".into()],
            single,
            request_id: "req_0".into(),
        }
    }

    fn snapshot(name: &str, text: String) {
        insta::with_settings!({snapshot_path => concat!(env!("CARGO_MANIFEST_DIR"), "/snapshots"), prepend_module_to_snapshot => false}, {
            insta::assert_snapshot!(name, text);
        });
    }

    fn parts() -> Vec<Part> {
        let f = || call("f", json!({"b": 1, "a": [2]}));
        vec![thinking("h"), thinking("m"), text("Hel"), text(""), text("lo"), f(), f()]
    }

    #[test]
    fn responses() {
        let pretty = |head, whole| serde_json::to_string_pretty(&message(&head, whole, test_id)).unwrap();
        snapshot("anthropic_message", pretty(head(false), whole(parts(), Done::Stop)));
        snapshot("anthropic_message_single_call", pretty(head(true), whole(parts(), Done::Length)));
    }

    #[test]
    fn reasons() {
        let reason = |done, stop, calls| stop_reason(&end(done, stop), calls, &["x".to_owned()]).0;
        assert_eq!(reason(Done::Stop, None, false), "end_turn");
        assert_eq!(reason(Done::Stop, Some("x"), false), "stop_sequence");
        // A stop text of the model's own.
        assert_eq!(reason(Done::Stop, Some("<end>"), false), "end_turn");
        assert_eq!(reason(Done::Stop, None, true), "tool_use");
        assert_eq!(reason(Done::Length, None, true), "max_tokens");
    }

    #[tokio::test]
    async fn streams() {
        let stream = |single| MessageStream::new(head(single), test_id);
        snapshot("anthropic_stream", bytes(one(parts(), Done::Stop), stream(true)).await);
        snapshot("anthropic_stream_empty", bytes(one(vec![], Done::Length), stream(false)).await);
        let stopped = vec![(0, Ok(text("a"))), (0, Ok(Part::End(end(Done::Stop, Some("x")))))];
        snapshot("anthropic_stream_stop_sequence", bytes(stopped, stream(false)).await);
        let failed = vec![(0, Ok(text("a"))), (0, Err(ApiError::busy()))];
        snapshot("anthropic_stream_error", bytes(failed, stream(false)).await);
    }

    /// What a client makes of the events.
    fn reassemble(events: &[Json]) -> Vec<Json> {
        let mut content: Vec<Json> = Vec::new();
        let mut arguments = String::new();
        for event in events {
            if event["type"] == "content_block_start" {
                assert_eq!(event["index"], content.len());
                content.push(event["content_block"].clone());
                arguments.clear();
            }
            let Some(block) = content.last_mut() else { continue };
            let delta = &event["delta"];
            let kind = delta["type"].as_str().unwrap_or_default();
            if let Some(field) = kind.strip_suffix("_delta").filter(|f| *f != "input_json") {
                let text = block[field].as_str().unwrap().to_owned() + delta[field].as_str().unwrap();
                block[field] = text.into();
            } else if kind == "input_json_delta" {
                arguments += delta["partial_json"].as_str().unwrap();
                block["input"] = serde_json::from_str(&arguments).unwrap();
            }
        }
        content
    }

    proptest::proptest! {
        #[test]
        fn a_stream_says_what_a_whole_response_says(parts in any_parts(), single: bool) {
            let stream = MessageStream::new(head(single), test_id);
            let events = events_of(&parts, Done::Stop, stream);
            let parts = parts.into_iter().map(pieces).collect();
            let response = message(&head(single), whole(parts, Done::Stop), test_id);
            proptest::prop_assert_eq!(reassemble(&events), response.content);
            let last = &events[events.len() - 2];
            proptest::prop_assert_eq!(last["delta"]["stop_reason"].as_str(), response.stop_reason);
        }
    }
}
