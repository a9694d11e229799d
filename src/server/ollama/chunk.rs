//! What becomes a line of an answer, before it is chat or completion.

use std::pin::pin;

use futures_util::{Stream, StreamExt as _, stream};
use serde_json::Value as Json;

use super::types::Logprob;
use crate::prompt::output::Piece;
use crate::server::answer::{Answer, End, Part};
use crate::server::error::ApiError;

/// A part of an answer, or several put together.
#[derive(Debug, Default)]
pub struct Chunk {
    /// Text for the reader.
    pub text: String,
    /// What the model thinks.
    pub thinking: String,
    /// Calls: the function and its arguments.
    pub calls: Vec<(String, Json)>,
    /// One for each token, if asked for.
    pub logprobs: Vec<Logprob>,
    /// The end.
    pub end: Option<End>,
}

impl Chunk {
    fn push(&mut self, part: Part) {
        match part {
            Part::Pieces { pieces, logprobs } => {
                self.logprobs.extend(logprobs.into_iter().map(Logprob::from));
                for piece in pieces {
                    match piece {
                        Piece::Text(text) => self.text.push_str(&text),
                        Piece::Thinking(text) => self.thinking.push_str(&text),
                        Piece::ToolCall { name, arguments } => self.calls.push((name, arguments)),
                    }
                }
            }
            Part::End(end) => self.end = Some(end),
        }
    }

    /// False while there is nothing to show: tokens whose text is not certain yet wait for the next.
    fn is_worth_a_line(&self) -> bool {
        self.end.is_some() || !self.text.is_empty() || !self.thinking.is_empty() || !self.calls.is_empty()
    }

    fn merge(&mut self, next: Chunk) {
        self.text.push_str(&next.text);
        self.thinking.push_str(&next.thinking);
        self.calls.extend(next.calls);
        self.logprobs.extend(next.logprobs);
        self.end = next.end.or(self.end.take());
    }
}

/// Gives the parts of an answer.
pub trait Parts: Send {
    /// The next one.
    fn next(&mut self) -> impl Future<Output = Option<Result<Part, ApiError>>> + Send;
}

impl Parts for Answer {
    async fn next(&mut self) -> Option<Result<Part, ApiError>> {
        Answer::next(self).await
    }
}

/// The chunks of an answer; the last one has its end, unless an error is the last.
pub fn chunks(answer: impl Parts) -> impl Stream<Item = Result<Chunk, ApiError>> + Send {
    stream::unfold(answer, |mut answer| async move {
        let mut chunk = Chunk::default();
        loop {
            match answer.next().await? {
                Err(error) => return Some((Err(error), answer)),
                Ok(part) => chunk.push(part),
            }
            if chunk.is_worth_a_line() {
                return Some((Ok(chunk), answer));
            }
        }
    })
}

/// All of an answer.
///
/// # Errors
/// The answer has one.
pub async fn whole(chunks: impl Stream<Item = Result<Chunk, ApiError>>) -> Result<Chunk, ApiError> {
    let mut chunks = pin!(chunks);
    let mut all = Chunk::default();
    while let Some(chunk) = chunks.next().await {
        all.merge(chunk?);
    }
    Ok(all)
}

#[cfg(test)]
pub mod tests {
    use super::*;
    use crate::runtime::batch::TokenLogprob;
    use crate::runtime::generate::{Done, Stats};
    use crate::server::answer::Truncation;
    use std::time::Duration;

    /// An answer that was written before.
    pub struct Written(pub std::vec::IntoIter<Result<Part, ApiError>>);

    impl Parts for Written {
        async fn next(&mut self) -> Option<Result<Part, ApiError>> {
            self.0.next()
        }
    }

    fn token(text: &str, logprob: f32) -> TokenLogprob {
        let likely = TokenLogprob { token: 8, bytes: b" a".to_vec(), logprob: -0.25, top: Vec::new() };
        TokenLogprob { token: 7, bytes: text.as_bytes().to_vec(), logprob, top: vec![likely] }
    }

    /// One with everything in it, always the same.
    pub fn example() -> Written {
        let pieces = |pieces, logprobs| Ok(Part::Pieces { pieces, logprobs });
        Written(
            vec![
                pieces(vec![Piece::Thinking("Hm. ".to_owned())], vec![]),
                pieces(vec![], vec![token("Ye", -0.5)]),
                pieces(
                    vec![Piece::Thinking("So".to_owned()), Piece::Text("Yes <é>".to_owned())],
                    vec![token("s", -1.5)],
                ),
                pieces(
                    vec![
                        Piece::ToolCall { name: "f".to_owned(), arguments: serde_json::json!({"z": 1, "a": [2]}) },
                        Piece::ToolCall { name: "g".to_owned(), arguments: serde_json::json!({}) },
                    ],
                    vec![],
                ),
                Ok(Part::End(End {
                    done: Done::Length,
                    stop: None,
                    stats: Stats {
                        prompt_eval_count: 11,
                        prompt_cached_count: 4,
                        prompt_eval_duration: Duration::from_millis(3),
                        eval_count: 2,
                        eval_duration: Duration::from_millis(5),
                    },
                    prompt_tokens: 15,
                    tokens: vec![5, 6],
                    total_duration: Duration::from_millis(9),
                    load_duration: Duration::ZERO,
                    truncation: Some(Truncation { messages: 2, tokens: 0, context: 128 }),
                })),
            ]
            .into_iter(),
        )
    }

    /// A stream's lines as pretty JSON, with a fixed time.
    pub fn lines<T: serde::Serialize>(all: impl Stream<Item = Result<T, ApiError>>) -> String {
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        let all: Vec<_> = runtime.block_on(all.collect());
        all.into_iter().map(|line| fixed(&line.unwrap()) + "\n").collect()
    }

    /// JSON without what is different each time.
    pub fn fixed<T: serde::Serialize>(value: &T) -> String {
        let text = serde_json::to_string(value).unwrap();
        let text = regex::Regex::new(r"\d{4}-\d\d-\d\dT[0-9:.]+Z").unwrap().replace_all(&text, "TIME").into_owned();
        regex::Regex::new("call_[a-z0-9]{8}").unwrap().replace_all(&text, "call_ID").into_owned()
    }

    #[test]
    fn tokens_without_text_wait_and_an_error_is_the_last() {
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        let chunks: Vec<_> = runtime.block_on(chunks(example()).collect());
        assert_eq!(chunks.len(), 4);
        assert_eq!(chunks[1].as_ref().unwrap().logprobs.len(), 2);
        let broken = Written(vec![Err(ApiError::busy())].into_iter());
        assert_eq!(runtime.block_on(whole(super::chunks(broken))).unwrap_err().status, 503);
    }
}
