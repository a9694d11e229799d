//! Whole answers to a conversation.

use super::types::*;
use crate::prompt::output::Piece;
use crate::server::delivery::Whole;
use crate::server::openai::logprobs::Logprobs;

/// The response. `single` leaves out every call but the first of an answer.
pub fn completion(head: Head, answers: Vec<Whole>, single: bool, call_id: fn() -> String) -> ChatCompletion {
    let mut usage = Usage::default();
    for (i, answer) in answers.iter().enumerate() {
        usage.add(&answer.end, i == 0);
    }
    let choices =
        answers.into_iter().enumerate().map(|(i, answer)| choice(i, answer, single, call_id)).collect();
    ChatCompletion {
        id: head.id,
        object: "chat.completion",
        created: head.created,
        model: head.model,
        system_fingerprint: FINGERPRINT,
        choices,
        usage,
    }
}

fn choice(index: usize, answer: Whole, single: bool, call_id: fn() -> String) -> Choice {
    let logprobs = Logprobs::of(&answer.logprobs);
    let (text, thinking, done) = (answer.text(), answer.thinking(), answer.end.done);
    let calls = answer.pieces.into_iter().filter_map(|piece| match piece {
        Piece::ToolCall { name, arguments } => Some((name, arguments)),
        _ => None,
    });
    let most = if single { 1 } else { usize::MAX };
    let tool_calls: Vec<_> = calls
        .take(most)
        .enumerate()
        .map(|(i, (name, arguments))| ToolCall::new(i, call_id(), name, &arguments))
        .collect();
    let finish_reason = finish_reason(done, !tool_calls.is_empty());
    let content = (!text.is_empty() || tool_calls.is_empty()).then_some(text);
    let reasoning = (!thinking.is_empty()).then_some(thinking);
    let message = AnswerMessage { role: "assistant", content, reasoning, tool_calls };
    Choice { index, message, finish_reason, logprobs }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::runtime::generate::Done;
    use crate::server::delivery::testing::{call, text, thinking, whole};
    use serde_json::json;

    fn snapshot(name: &str, answers: Vec<Whole>, single: bool) {
        let head = Head { id: "chatcmpl-0".into(), created: 1, model: "m".into() };
        let response = completion(head, answers, single, || "call_0".into());
        let json = serde_json::to_string_pretty(&response).unwrap();
        insta::with_settings!({snapshot_path => concat!(env!("CARGO_MANIFEST_DIR"), "/snapshots"), prepend_module_to_snapshot => false}, {
            insta::assert_snapshot!(name, json);
        });
    }

    #[test]
    fn responses() {
        let f = || call("f", json!({"b": 1, "a": [2]}));
        let first = whole(vec![thinking("h"), thinking("m"), text("Hel"), text("lo")], Done::Stop);
        snapshot("openai_chat_two_answers", vec![first, whole(vec![text("Hi")], Done::Length)], false);
        snapshot("openai_chat_calls", vec![whole(vec![f(), f()], Done::Stop)], false);
        snapshot("openai_chat_single_call", vec![whole(vec![text("So:"), f(), f()], Done::Stop)], true);
    }

    #[test]
    fn ids_of_calls() {
        let id = call_id();
        let rest = id.strip_prefix("call_").unwrap();
        assert!(
            rest.len() == 8 && rest.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit()),
            "{id}"
        );
        assert_ne!(id, call_id());
    }
}
