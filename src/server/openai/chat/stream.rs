//! Answers to a conversation while they are made.

use super::types::*;
use crate::prompt::output::Piece;
use crate::runtime::batch::TokenLogprob;
use crate::server::answer::Part;
use crate::server::delivery::{Assembly, data, joined};
use crate::server::error::{ApiError, Dialect};
use crate::server::openai::logprobs::Logprobs;

/// Makes chunks of parts.
pub struct ChatStream {
    head: Head,
    /// `None` where it is not asked for.
    usage: Option<Usage>,
    /// Every call but the first of an answer is left out.
    single: bool,
    choices: Vec<Progress>,
    call_id: fn() -> String,
}

/// How far an answer has come.
#[derive(Clone, Default)]
struct Progress {
    /// Its first delta, which has the role, was sent.
    begun: bool,
    calls: usize,
    /// Of tokens whose text is still to come.
    logprobs: Vec<TokenLogprob>,
}

impl ChatStream {
    /// For `n` answers.
    pub fn new(head: Head, n: u32, usage: bool, single: bool) -> ChatStream {
        let choices = vec![Progress::default(); n as usize];
        ChatStream { head, usage: usage.then(Usage::default), single, choices, call_id }
    }

    fn chunk(&self, choices: Vec<ChunkChoice>, usage: Option<Option<Usage>>) -> String {
        data(&Chunk {
            id: &self.head.id,
            object: "chat.completion.chunk",
            created: self.head.created,
            model: &self.head.model,
            system_fingerprint: FINGERPRINT,
            choices,
            usage,
        })
    }

    fn delta(&mut self, index: usize, mut delta: Delta, finish_reason: Option<&'static str>) -> String {
        let progress = &mut self.choices[index];
        if !progress.begun && finish_reason.is_none() {
            progress.begun = true;
            delta.role = Some("assistant");
        }
        let logprobs = Logprobs::of(&std::mem::take(&mut progress.logprobs));
        let choice = ChunkChoice { index, delta, finish_reason, logprobs };
        self.chunk(vec![choice], self.usage.map(|_| None))
    }

    fn piece(&mut self, index: usize, piece: Piece) -> String {
        let content = Some(String::new());
        let delta = match piece {
            Piece::Text(text) => Delta { content: Some(text), ..Delta::default() },
            Piece::Thinking(text) => Delta { content, reasoning: Some(text), ..Delta::default() },
            Piece::ToolCall { name, arguments } => {
                let calls = &mut self.choices[index].calls;
                *calls += 1;
                if self.single && *calls > 1 {
                    return String::new();
                }
                let call = ToolCall::new(*calls - 1, (self.call_id)(), name, &arguments);
                Delta { content, tool_calls: vec![call], ..Delta::default() }
            }
        };
        self.delta(index, delta, None)
    }
}

impl Assembly for ChatStream {
    fn begin(&mut self) -> String {
        String::new()
    }

    fn part(&mut self, index: usize, part: Part) -> String {
        match part {
            Part::Pieces { pieces, logprobs } => {
                self.choices[index].logprobs.extend(logprobs);
                joined(pieces).into_iter().map(|piece| self.piece(index, piece)).collect()
            }
            Part::End(end) => {
                let mut text = String::new();
                if !self.choices[index].begun {
                    let delta = Delta { content: Some(String::new()), ..Delta::default() };
                    text = self.delta(index, delta, None);
                }
                if let Some(usage) = &mut self.usage {
                    usage.add(&end, index == 0);
                }
                let reason = finish_reason(end.done, self.choices[index].calls > 0);
                text + &self.delta(index, Delta::default(), Some(reason))
            }
        }
    }

    fn end(&mut self) -> String {
        let usage = self.usage.map(|usage| self.chunk(Vec::new(), Some(Some(usage))));
        usage.unwrap_or_default() + "data: [DONE]\n\n"
    }

    fn error(&mut self, error: &ApiError) -> String {
        data(&Dialect::OpenAi.error(error))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::runtime::generate::Done;
    use crate::server::delivery::testing::{bytes, call, end, one, pieces, text, thinking};
    use crate::server::openai::logprobs::token;
    use serde_json::json;

    async fn snapshot(name: &str, n: u32, usage: bool, parts: Vec<(usize, Result<Part, ApiError>)>) {
        let head = Head { id: "chatcmpl-0".into(), created: 1, model: "m".into() };
        let assembly = ChatStream { call_id: || "call_0".into(), ..ChatStream::new(head, n, usage, true) };
        let bytes = bytes(parts, assembly).await;
        insta::with_settings!({snapshot_path => concat!(env!("CARGO_MANIFEST_DIR"), "/snapshots"), prepend_module_to_snapshot => false}, {
            insta::assert_snapshot!(name, bytes);
        });
    }

    #[tokio::test]
    async fn streams() {
        let f = || call("f", json!({"b": 1, "a": [2]}));
        let mixed =
            pieces(vec![Piece::Thinking("m".into()), Piece::Text("He".into()), Piece::Text("l".into())]);
        let parts = vec![thinking("h"), mixed, pieces(vec![]), text(""), text("lo"), f(), f()];
        snapshot("openai_chat_stream", 1, false, one(parts, Done::Stop)).await;
        snapshot("openai_chat_stream_empty", 1, true, one(vec![], Done::Length)).await;
        let interleaved = vec![
            (1, Ok(text("b"))),
            (0, Ok(text("a"))),
            (1, Ok(Part::End(end(Done::Length, None)))),
            (0, Ok(text("a"))),
            (0, Ok(Part::End(end(Done::Stop, Some("x"))))),
        ];
        snapshot("openai_chat_stream_two_answers", 2, true, interleaved).await;
        let failed = vec![(0, Ok(text("a"))), (0, Err(ApiError::stopping())), (0, Ok(text("never")))];
        snapshot("openai_chat_stream_error", 1, true, failed).await;
        let late = Part::Pieces { pieces: vec![], logprobs: vec![token("H", -0.5)] };
        let next = Part::Pieces { pieces: vec![Piece::Text("Hi".into())], logprobs: vec![token("i", -1.0)] };
        let last = Part::Pieces { pieces: vec![], logprobs: vec![token("!", -2.0)] };
        snapshot("openai_chat_stream_logprobs", 1, false, one(vec![late, next, last], Done::Stop)).await;
    }
}
