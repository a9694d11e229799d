//! From the pieces of an answer to the items of a response, and the events that tell of them.

use serde_json::{Value as Json, json};

use super::types::{InputTokensDetails, OutputTokensDetails, Response, Usage};
use crate::prompt::output::Piece;
use crate::runtime::generate::Done;
use crate::server::answer::{End, Part};
use crate::server::delivery::{Assembly, Ids, Whole, event, joined};
use crate::server::error::{ApiError, Dialect};

/// Makes a response of pieces. Each method gives the events to tell; a response that is not streamed takes
/// the same way and tells none.
pub struct Builder {
    response: Response,
    open: Option<Open>,
    /// Calls but the first are left out.
    single: bool,
    calls: usize,
    sequence: u64,
    ids: Ids,
    call_id: fn() -> String,
}

/// An item that is not complete.
struct Open {
    id: String,
    text: String,
    thinking: bool,
}

impl Open {
    /// The item, its text as it is now.
    fn item(&self, status: &str) -> Json {
        let text = self.text.as_str();
        match self.thinking {
            true => {
                let summary = if text.is_empty() { json!([]) } else { json!([summary_text(text)]) };
                json!({"id": self.id, "type": "reasoning", "status": status, "summary": summary})
            }
            false => {
                let content = if text.is_empty() { json!([]) } else { json!([output_text(text)]) };
                json!({"id": self.id, "type": "message", "status": status, "role": "assistant", "content": content})
            }
        }
    }
}

fn summary_text(text: &str) -> Json {
    json!({"type": "summary_text", "text": text})
}

fn output_text(text: &str) -> Json {
    json!({"type": "output_text", "text": text, "annotations": [], "logprobs": []})
}

impl Builder {
    /// With a response that has nothing yet.
    pub fn new(response: Response, single: bool, ids: Ids, call_id: fn() -> String) -> Builder {
        Builder { response, open: None, single, calls: 0, sequence: 0, ids, call_id }
    }

    /// The response to a whole answer.
    pub fn whole(mut self, answer: Whole) -> Response {
        for piece in answer.pieces {
            self.piece(piece);
        }
        self.finish(&answer.end);
        self.response
    }

    /// An event of this type with these fields.
    fn event(&mut self, kind: &str, fields: Json) -> String {
        let mut all = serde_json::Map::new();
        all.insert("type".to_owned(), kind.into());
        all.insert("sequence_number".to_owned(), self.sequence.into());
        self.sequence += 1;
        if let Json::Object(fields) = fields {
            all.extend(fields);
        }
        event(kind, &all)
    }

    /// An event about the whole response.
    fn about_all(&mut self, kind: &str) -> String {
        let response = json!({"response": self.response});
        self.event(kind, response)
    }

    /// The number of the item that is open, or comes next.
    fn index(&self) -> usize {
        self.response.output.len()
    }

    fn piece(&mut self, piece: Piece) -> String {
        match piece {
            Piece::Text(text) => self.text(text, false),
            Piece::Thinking(text) => self.text(text, true),
            Piece::ToolCall { name, arguments } => {
                let closed = self.close("completed");
                self.calls += 1;
                if self.single && self.calls > 1 {
                    return closed;
                }
                closed + &self.call(&name, &arguments.to_string())
            }
        }
    }

    fn text(&mut self, text: String, thinking: bool) -> String {
        let mut told = String::new();
        if self.open.as_ref().is_none_or(|open| open.thinking != thinking) {
            told = self.close("completed");
            let id = (self.ids)(if thinking { "rs_" } else { "msg_" });
            told += &self.begin(Open { id, text: String::new(), thinking });
        }
        let Some(open) = &mut self.open else { return told };
        open.text.push_str(&text);
        let id = open.id.clone();
        let output_index = self.index();
        told + &match thinking {
            true => self.event(
                "response.reasoning_summary_text.delta",
                json!({"item_id": id, "output_index": output_index, "summary_index": 0, "delta": text}),
            ),
            false => self.event(
                "response.output_text.delta",
                json!({"item_id": id, "output_index": output_index, "content_index": 0, "delta": text, "logprobs": []}),
            ),
        }
    }

    fn begin(&mut self, open: Open) -> String {
        let (item, id, thinking) = (open.item("in_progress"), open.id.clone(), open.thinking);
        self.open = Some(open);
        let index = self.index();
        let added = self.event("response.output_item.added", json!({"output_index": index, "item": item}));
        added + &match thinking {
            true => self.event(
                "response.reasoning_summary_part.added",
                json!({"item_id": id, "output_index": index, "summary_index": 0, "part": summary_text("")}),
            ),
            false => self.event(
                "response.content_part.added",
                json!({"item_id": id, "output_index": index, "content_index": 0, "part": output_text("")}),
            ),
        }
    }

    /// Completes the item that is open.
    fn close(&mut self, status: &str) -> String {
        let Some(open) = self.open.take() else { return String::new() };
        let (id, text, index) = (&open.id, &open.text, self.index());
        let mut told = match open.thinking {
            true => {
                let fields = json!({"item_id": id, "output_index": index, "summary_index": 0, "text": text});
                self.event("response.reasoning_summary_text.done", fields)
            }
            false => {
                let fields = json!({"item_id": id, "output_index": index, "content_index": 0, "text": text, "logprobs": []});
                self.event("response.output_text.done", fields)
            }
        };
        told += &match open.thinking {
            true => self.event(
                "response.reasoning_summary_part.done",
                json!({"item_id": id, "output_index": index, "summary_index": 0, "part": summary_text(text)}),
            ),
            false => self.event(
                "response.content_part.done",
                json!({"item_id": id, "output_index": index, "content_index": 0, "part": output_text(text)}),
            ),
        };
        told + &self.done(open.item(status))
    }

    /// A call, from its beginning to its end.
    fn call(&mut self, name: &str, arguments: &str) -> String {
        let (id, call_id, index) = ((self.ids)("fc_"), (self.call_id)(), self.index());
        let item = |status: &str, arguments: &str| json!({"id": id, "type": "function_call", "status": status, "call_id": call_id, "name": name, "arguments": arguments});
        let mut told = self.event(
            "response.output_item.added",
            json!({"output_index": index, "item": item("in_progress", "")}),
        );
        told += &self.event(
            "response.function_call_arguments.delta",
            json!({"item_id": id, "output_index": index, "delta": arguments}),
        );
        told += &self.event(
            "response.function_call_arguments.done",
            json!({"item_id": id, "output_index": index, "name": name, "arguments": arguments}),
        );
        told + &self.done(item("completed", arguments))
    }

    fn done(&mut self, item: Json) -> String {
        let fields = json!({"output_index": self.index(), "item": item});
        self.response.output.push(item);
        self.event("response.output_item.done", fields)
    }

    /// The end of the answer.
    fn finish(&mut self, end: &End) -> String {
        let cut = end.done == Done::Length;
        let mut told = String::new();
        if self.open.is_none() && self.response.output.is_empty() {
            // Clients look for a message.
            told = self.begin(Open { id: (self.ids)("msg_"), text: String::new(), thinking: false });
        }
        told += &self.close(if cut { "incomplete" } else { "completed" });
        self.response.usage = Some(Usage {
            input_tokens: end.prompt_tokens,
            input_tokens_details: InputTokensDetails { cached_tokens: end.stats.prompt_cached_count },
            output_tokens: end.stats.eval_count,
            output_tokens_details: OutputTokensDetails { reasoning_tokens: 0 },
            total_tokens: end.prompt_tokens + end.stats.eval_count,
        });
        if cut {
            self.response.status = "incomplete";
            self.response.incomplete_details = json!({"reason": "max_output_tokens"});
            return told + &self.about_all("response.incomplete");
        }
        self.response.status = "completed";
        told + &self.about_all("response.completed")
    }
}

impl Assembly for Builder {
    fn begin(&mut self) -> String {
        self.about_all("response.created") + &self.about_all("response.in_progress")
    }

    fn part(&mut self, _index: usize, part: Part) -> String {
        match part {
            Part::Pieces { pieces, .. } => {
                joined(pieces).into_iter().map(|piece| self.piece(piece)).collect()
            }
            Part::End(end) => self.finish(&end),
        }
    }

    fn end(&mut self) -> String {
        String::new()
    }

    fn error(&mut self, error: &ApiError) -> String {
        let body = Dialect::OpenAi.error(error);
        self.response.status = "failed";
        self.response.error =
            json!({"code": error.code.unwrap_or("server_error"), "message": body["error"]["message"]});
        self.about_all("response.failed")
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::request;
    use super::*;
    use crate::server::delivery::test_id;
    use crate::server::delivery::testing::{
        any_parts, bytes, call, events_of, one, pieces, text, thinking, whole,
    };

    fn builder(single: bool) -> Builder {
        let request = request(json!({"instructions": "Be brief.", "max_output_tokens": 9}));
        Builder::new(request.response("resp_0".into(), 1), single, test_id, || "call_0".into())
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
        let pretty = |response: Response| serde_json::to_string_pretty(&response).unwrap();
        snapshot("openai_response", pretty(builder(false).whole(whole(parts(), Done::Stop))));
        snapshot("openai_response_cut", pretty(builder(true).whole(whole(vec![text("a")], Done::Length))));
    }

    #[tokio::test]
    async fn streams() {
        snapshot("openai_response_stream", bytes(one(parts(), Done::Stop), builder(true)).await);
        snapshot("openai_response_stream_empty", bytes(one(vec![], Done::Stop), builder(true)).await);
        let failed = vec![(0, Ok(text("a"))), (0, Err(ApiError::stopping()))];
        snapshot("openai_response_stream_error", bytes(failed, builder(true)).await);
    }

    #[tokio::test]
    async fn sequence_numbers_have_no_gap_and_items_come_as_they_end() {
        let all = bytes(one(parts(), Done::Stop), builder(false)).await;
        let data = all.lines().filter_map(|line| line.strip_prefix("data: "));
        let events: Vec<Json> = data.map(|text| serde_json::from_str(text).unwrap()).collect();
        for (i, event) in events.iter().enumerate() {
            assert_eq!(event["sequence_number"], i);
        }
        let done = events.iter().filter(|e| e["type"] == "response.output_item.done");
        let items: Vec<_> = done.map(|e| e["item"].clone()).collect();
        assert_eq!(events.last().unwrap()["response"]["output"], Json::Array(items));
    }

    proptest::proptest! {
        #[test]
        fn a_stream_ends_with_the_whole_response(parts in any_parts(), single: bool, cut: bool) {
            let done = if cut { Done::Length } else { Done::Stop };
            let events = events_of(&parts, done, builder(single));
            let parts = parts.into_iter().map(pieces).collect();
            let response = builder(single).whole(whole(parts, done));
            let last = events.last().unwrap();
            proptest::prop_assert_eq!(&last["response"], &serde_json::to_value(response).unwrap());
            let items = events.iter().filter(|e| e["type"] == "response.output_item.done");
            let items: Vec<_> = items.map(|e| e["item"].clone()).collect();
            proptest::prop_assert_eq!(&last["response"]["output"], &Json::Array(items));
        }
    }
}
