//! How answers reach a client: whole, or as server-sent events while they are made.

use std::time::Duration;

use axum::body::{Body, Bytes};
use axum::http::{HeaderValue, header};
use axum::response::{IntoResponse, Response};
use futures_util::stream::{self, BoxStream, SelectAll, Stream, StreamExt as _};
use serde::Serialize;
use utoipa::ToSchema;

use super::answer::{Answer, End, Part};
use super::error::ApiError;
use super::observe::random_hex;
use crate::prompt::output::Piece;
pub use crate::prompt::output::append;
use crate::runtime::batch::TokenLogprob;

/// While nothing comes, a client hears this often that the server is there.
const HEARTBEAT: Duration = Duration::from_secs(10);

/// An answer that is over.
#[derive(Clone, Debug)]
pub struct Whole {
    /// Its pieces; no two neighbours are both text or both thinking.
    pub pieces: Vec<Piece>,
    /// One for each token, if asked for.
    pub logprobs: Vec<TokenLogprob>,
    /// How it ended.
    pub end: End,
}

impl Whole {
    /// All of the text.
    pub fn text(&self) -> String {
        let text = |piece: &Piece| match piece {
            Piece::Text(text) => Some(text.clone()),
            _ => None,
        };
        self.pieces.iter().filter_map(text).collect()
    }

    /// All of the thinking.
    pub fn thinking(&self) -> String {
        let thinking = |piece: &Piece| match piece {
            Piece::Thinking(text) => Some(text.clone()),
            _ => None,
        };
        self.pieces.iter().filter_map(thinking).collect()
    }
}

/// The pieces of one part, joined.
pub fn joined(pieces: Vec<Piece>) -> Vec<Piece> {
    let mut all = Vec::new();
    append(&mut all, pieces);
    all
}

/// The parts of several answers as they come, each with the number of its answer.
type Parts = SelectAll<BoxStream<'static, (usize, Result<Part, ApiError>)>>;

fn parts(answers: Vec<Answer>) -> Parts {
    let each = answers.into_iter().enumerate().map(|(index, answer)| {
        let parts = stream::unfold(answer, |mut answer| async move {
            let part = answer.next().await?;
            Some((part, answer))
        });
        parts.map(move |part| (index, part)).boxed()
    });
    stream::select_all(each)
}

/// Waits for the ends of all answers.
///
/// # Errors
/// One of them failed; the others are given up.
pub async fn collect(answers: Vec<Answer>) -> Result<Vec<Whole>, ApiError> {
    let mut open: Vec<(Vec<Piece>, Vec<TokenLogprob>, Option<End>)> = Vec::with_capacity(answers.len());
    open.resize_with(answers.len(), Default::default);
    let mut parts = parts(answers);
    while let Some((index, part)) = parts.next().await {
        let (pieces, logprobs, end) = &mut open[index];
        match part? {
            Part::Pieces { pieces: more, logprobs: more_logprobs } => {
                append(pieces, more);
                logprobs.extend(more_logprobs);
            }
            Part::End(how) => *end = Some(how),
        }
    }
    let whole = |(pieces, logprobs, end): (_, _, Option<End>)| {
        let end = end.ok_or_else(|| ApiError::internal("an answer has no end"))?;
        Ok(Whole { pieces, logprobs, end })
    };
    open.into_iter().map(whole).collect()
}

/// Turns the parts of answers into the events of a dialect. Each method gives the bytes to send now.
pub trait Assembly: Send + 'static {
    /// Before the first part.
    fn begin(&mut self) -> String;
    /// A part of the answer with this number.
    fn part(&mut self, index: usize, part: Part) -> String;
    /// After the last answer has ended.
    fn end(&mut self) -> String;
    /// An answer failed: the last thing that is sent.
    fn error(&mut self, error: &ApiError) -> String;
    /// Nothing came for a while.
    fn heartbeat(&self) -> &'static str {
        ": the answer is not there yet\n\n"
    }
}

/// In the API's description: a body of server-sent events. Each event's data is JSON, or `[DONE]` at the end of
/// OpenAI's streams, which one schema of the whole body cannot say.
#[derive(ToSchema)]
#[schema(value_type = serde_json::Value)]
#[allow(dead_code, reason = "it describes what `stream` sends")]
pub struct Events(serde_json::Value);

/// A response of server-sent events. What fails before anything came is an error with its own status. When
/// the client goes, the body is dropped, and the answers with it.
///
/// # Errors
/// The first thing that came was an error.
pub async fn stream<A: Assembly>(answers: Vec<Answer>, assembly: A) -> Result<Response, ApiError> {
    respond(parts(answers), assembly).await
}

async fn respond<P, A>(mut parts: P, assembly: A) -> Result<Response, ApiError>
where
    P: Stream<Item = (usize, Result<Part, ApiError>)> + Send + Unpin + 'static,
    A: Assembly,
{
    // A prompt may take long to read: the client need not wait for its headers all that time.
    let first = match tokio::time::timeout(HEARTBEAT, parts.next()).await {
        Ok(Some((_, Err(error)))) => return Err(error),
        Ok(first) => first,
        Err(_) => None,
    };
    let first = first.map(|first| stream::iter([first]));
    let parts = stream::iter(first).flatten().chain(parts);
    let mut response = Body::from_stream(events(parts, assembly)).into_response();
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("text/event-stream"));
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-cache"));
    // What nginx needs to hear so as not to gather the events.
    headers.insert("x-accel-buffering", HeaderValue::from_static("no"));
    Ok(response)
}

/// The bytes of a stream of events.
fn events<P, A>(parts: P, mut assembly: A) -> impl Stream<Item = Result<Bytes, std::convert::Infallible>>
where
    P: Stream<Item = (usize, Result<Part, ApiError>)> + Send,
    A: Assembly,
{
    let begin = assembly.begin();
    let rest = stream::unfold(Some((Box::pin(parts), assembly)), |state| async move {
        let (mut parts, mut assembly) = state?;
        let next = match tokio::time::timeout(HEARTBEAT, parts.next()).await {
            Err(_) => (assembly.heartbeat().to_owned(), Some((parts, assembly))),
            Ok(Some((index, Ok(part)))) => (assembly.part(index, part), Some((parts, assembly))),
            Ok(Some((_, Err(error)))) => (assembly.error(&error), None),
            Ok(None) => (assembly.end(), None),
        };
        Some(next)
    });
    let all = stream::iter([begin]).chain(rest);
    all.filter_map(|text| async move { (!text.is_empty()).then(|| Ok(Bytes::from(text))) })
}

/// An event without a name.
pub fn data(value: &impl Serialize) -> String {
    format!("data: {}\n\n", json(value))
}

/// An event with a name.
pub fn event(name: &str, value: &impl Serialize) -> String {
    format!("event: {name}\ndata: {}\n\n", json(value))
}

/// JSON on one line.
fn json(value: &impl Serialize) -> String {
    // Only maps with keys that are no strings fail, and there are none.
    serde_json::to_string(value).unwrap_or_default()
}

/// A new id: the prefix, then 24 hexadecimal digits.
pub fn new_id(prefix: &str) -> String {
    format!("{prefix}{}", random_hex(12))
}

/// Where ids come from: [`new_id`], or something that a test can foretell.
pub type Ids = fn(&str) -> String;

/// The ids of tests.
#[cfg(test)]
pub fn test_id(prefix: &str) -> String {
    format!("{prefix}0")
}

/// Seconds since 1970.
pub fn now() -> u64 {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    since.map_or(0, |d| d.as_secs())
}

/// Parts for tests.
#[cfg(test)]
pub mod testing {
    use super::*;
    use crate::runtime::generate::{Done, Stats};

    /// A part of pieces.
    pub fn pieces(pieces: Vec<Piece>) -> Part {
        Part::Pieces { pieces, logprobs: Vec::new() }
    }

    /// A part of text.
    pub fn text(text: &str) -> Part {
        pieces(vec![Piece::Text(text.to_owned())])
    }

    /// A part of thinking.
    pub fn thinking(text: &str) -> Part {
        pieces(vec![Piece::Thinking(text.to_owned())])
    }

    /// A call.
    pub fn call(name: &str, arguments: serde_json::Value) -> Part {
        pieces(vec![Piece::ToolCall { name: name.to_owned(), arguments }])
    }

    /// An end after 7 tokens of a prompt, 4 of them cached, and 3 of the answer.
    pub fn end(done: Done, stop: Option<&str>) -> End {
        let stats = Stats { prompt_eval_count: 3, prompt_cached_count: 4, eval_count: 3, ..Stats::default() };
        End {
            done,
            stop: stop.map(str::to_owned),
            stats,
            prompt_tokens: 7,
            tokens: vec![1, 2, 3],
            total_duration: Duration::ZERO,
            load_duration: Duration::ZERO,
            truncation: None,
        }
    }

    /// A whole answer of these parts.
    pub fn whole(parts: Vec<Part>, done: Done) -> Whole {
        let mut whole = Whole { pieces: Vec::new(), logprobs: Vec::new(), end: end(done, None) };
        for part in parts {
            if let Part::Pieces { pieces, logprobs } = part {
                append(&mut whole.pieces, pieces);
                whole.logprobs.extend(logprobs);
            }
        }
        whole
    }

    /// The bytes of a stream of these parts.
    pub async fn bytes<A: Assembly>(parts: Vec<(usize, Result<Part, ApiError>)>, assembly: A) -> String {
        let all: Vec<_> = events(stream::iter(parts), assembly).collect().await;
        all.into_iter().map(|b| String::from_utf8(b.unwrap().to_vec()).unwrap()).collect()
    }

    /// Any parts of an answer.
    pub fn any_parts() -> impl proptest::strategy::Strategy<Value = Vec<Vec<Piece>>> {
        use proptest::prelude::*;
        let piece = prop_oneof![
            ".{0,3}".prop_map(Piece::Text),
            ".{0,3}".prop_map(Piece::Thinking),
            any::<i32>().prop_map(|n| Piece::ToolCall {
                name: "f".to_owned(),
                arguments: serde_json::json!({"n": n}),
            }),
        ];
        prop::collection::vec(prop::collection::vec(piece, 0..4), 0..6)
    }

    /// The data of each event of a stream of these parts.
    pub fn events_of(parts: &[Vec<Piece>], done: Done, assembly: impl Assembly) -> Vec<serde_json::Value> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
        let parts = parts.iter().cloned().map(pieces).collect();
        let text = runtime.block_on(bytes(one(parts, done), assembly));
        let data = text.lines().filter_map(|line| line.strip_prefix("data: "));
        data.map(|json| serde_json::from_str(json).unwrap()).collect()
    }

    /// The parts of one answer and its end.
    pub fn one(parts: Vec<Part>, done: Done) -> Vec<(usize, Result<Part, ApiError>)> {
        parts.into_iter().chain([Part::End(end(done, None))]).map(|p| (0, Ok(p))).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::testing::{bytes, end, text, thinking};
    use super::*;
    use crate::runtime::generate::Done;
    use http_body_util::BodyExt as _;
    use std::sync::Arc;

    /// Writes what it is told.
    struct Plain;

    impl Assembly for Plain {
        fn begin(&mut self) -> String {
            "begin ".to_owned()
        }
        fn part(&mut self, index: usize, part: Part) -> String {
            match part {
                Part::Pieces { pieces, .. } if pieces.is_empty() => String::new(),
                Part::Pieces { .. } => format!("part{index} "),
                Part::End(_) => format!("end{index} "),
            }
        }
        fn end(&mut self) -> String {
            "over".to_owned()
        }
        fn error(&mut self, error: &ApiError) -> String {
            error.message.clone()
        }
    }

    #[tokio::test]
    async fn what_fails_first_has_its_own_status() {
        let parts = stream::iter([(0, Err(ApiError::busy()))]);
        assert_eq!(respond(parts, Plain).await.unwrap_err(), ApiError::busy());
        let parts = stream::iter([(0, Ok(text("a"))), (1, Err(ApiError::stopping())), (0, Ok(text("b")))]);
        let response = respond(parts, Plain).await.unwrap();
        assert_eq!(response.headers()[header::CONTENT_TYPE], "text/event-stream");
        let body = response.into_body().collect().await.unwrap().to_bytes();
        assert_eq!(body, "begin part0 the server is shutting down");
    }

    #[tokio::test]
    async fn an_empty_write_is_none() {
        let parts = [Part::Pieces { pieces: vec![], logprobs: vec![] }, Part::End(end(Done::Stop, None))];
        let parts = parts.into_iter().map(|p| (0, Ok(p))).collect();
        assert_eq!(bytes(parts, Plain).await, "begin end0 over");
    }

    #[tokio::test]
    async fn a_client_that_goes_takes_its_answers_with_it() {
        let held = Arc::new(());
        let inside = held.clone();
        let parts = stream::unfold((), move |()| {
            let _held = inside.clone();
            async { Some(((0, Ok(text("a"))), ())) }
        });
        let response = respond(Box::pin(parts), Plain).await.unwrap();
        let mut body = response.into_body();
        assert!(body.frame().await.is_some());
        assert_eq!(Arc::strong_count(&held), 2);
        drop(body);
        assert_eq!(Arc::strong_count(&held), 1);
    }

    #[test]
    fn pieces_are_joined() {
        let all = [text("a"), text(""), text("b"), thinking(""), thinking("c"), text("d")];
        let pieces = all.into_iter().flat_map(|part| match part {
            Part::Pieces { pieces, .. } => pieces,
            Part::End(_) => Vec::new(),
        });
        let (text, thinking) = (|t: &str| Piece::Text(t.to_owned()), Piece::Thinking("c".to_owned()));
        assert_eq!(joined(pieces.collect()), [text("ab"), thinking, text("d")]);
    }
}
