//! Completions, whole and while they are made.

use super::types::*;
use crate::prompt::output::Piece;
use crate::runtime::batch::TokenLogprob;
use crate::server::answer::Part;
use crate::server::delivery::{Assembly, Whole, data};
use crate::server::error::{ApiError, Dialect};
use crate::server::openai::logprobs::LegacyLogprobs;

fn response(head: &Head, choices: Vec<Choice>, usage: Option<Option<Usage>>) -> Completion {
    Completion {
        id: head.id.clone(),
        object: "text_completion",
        created: head.created,
        model: head.model.clone(),
        system_fingerprint: FINGERPRINT,
        choices,
        usage,
    }
}

/// The response; there are `n` answers to each prompt.
pub fn completion(head: Head, answers: Vec<Whole>, n: usize) -> Completion {
    let mut usage = Usage::default();
    let choice = |(index, answer): (usize, Whole)| {
        usage.add(&answer.end, index.is_multiple_of(n));
        Choice {
            text: answer.text(),
            index,
            logprobs: LegacyLogprobs::of(&answer.logprobs, &mut 0),
            finish_reason: Some(finish_reason(answer.end.done, false)),
        }
    };
    let choices = answers.into_iter().enumerate().map(choice).collect();
    response(&head, choices, Some(Some(usage)))
}

/// Makes chunks of parts.
pub struct CompletionStream {
    head: Head,
    /// Answers to each prompt.
    n: usize,
    /// `None` where it is not asked for.
    usage: Option<Usage>,
    choices: Vec<Progress>,
}

/// How far a completion has come.
#[derive(Clone, Default)]
struct Progress {
    /// Characters of the tokens so far.
    offset: usize,
    /// Of tokens whose text is still to come.
    logprobs: Vec<TokenLogprob>,
}

impl CompletionStream {
    /// For so many answers in all, `n` to each prompt.
    pub fn new(head: Head, answers: usize, n: usize, usage: bool) -> CompletionStream {
        CompletionStream {
            head,
            n,
            usage: usage.then(Usage::default),
            choices: vec![Progress::default(); answers],
        }
    }

    fn chunk(&mut self, index: usize, text: String, finish_reason: Option<&'static str>) -> String {
        let progress = &mut self.choices[index];
        let waiting = std::mem::take(&mut progress.logprobs);
        let logprobs = LegacyLogprobs::of(&waiting, &mut progress.offset);
        let choice = Choice { text, index, logprobs, finish_reason };
        data(&response(&self.head, vec![choice], self.usage.map(|_| None)))
    }
}

impl Assembly for CompletionStream {
    fn begin(&mut self) -> String {
        String::new()
    }

    fn part(&mut self, index: usize, part: Part) -> String {
        match part {
            Part::Pieces { pieces, logprobs } => {
                self.choices[index].logprobs.extend(logprobs);
                let text = |piece| if let Piece::Text(text) = piece { Some(text) } else { None };
                let text: String = pieces.into_iter().filter_map(text).collect();
                if text.is_empty() { text } else { self.chunk(index, text, None) }
            }
            Part::End(end) => {
                if let Some(usage) = &mut self.usage {
                    usage.add(&end, index.is_multiple_of(self.n));
                }
                self.chunk(index, String::new(), Some(finish_reason(end.done, false)))
            }
        }
    }

    fn end(&mut self) -> String {
        let usage = self.usage.map(|usage| data(&response(&self.head, Vec::new(), Some(Some(usage)))));
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
    use crate::server::delivery::testing::{bytes, end, one, text, whole};
    use crate::server::openai::logprobs::token;

    fn head() -> Head {
        Head { id: "cmpl-0".into(), created: 1, model: "m".into() }
    }

    fn snapshot(name: &str, text: String) {
        insta::with_settings!({snapshot_path => concat!(env!("CARGO_MANIFEST_DIR"), "/snapshots"), prepend_module_to_snapshot => false}, {
            insta::assert_snapshot!(name, text);
        });
    }

    fn parts() -> Vec<Part> {
        let late = Part::Pieces { pieces: vec![], logprobs: vec![token("Hé", -0.5)] };
        let next =
            Part::Pieces { pieces: vec![Piece::Text("Hél".into())], logprobs: vec![token("l", -1.0)] };
        vec![late, next, Part::Pieces { pieces: vec![], logprobs: vec![token("!", -2.0)] }]
    }

    #[test]
    fn responses() {
        let answers = vec![
            whole(parts(), Done::Stop),
            whole(vec![text("b")], Done::Length),
            whole(vec![text("c")], Done::Stop),
            whole(vec![], Done::Stop),
        ];
        let response = completion(head(), answers, 2);
        // Two prompts of 7 tokens.
        assert_eq!(response.usage.unwrap().unwrap().prompt_tokens, 14);
        snapshot("openai_completion_four", serde_json::to_string_pretty(&response).unwrap());
    }

    #[tokio::test]
    async fn streams() {
        let stream = |answers, usage| CompletionStream::new(head(), answers, 1, usage);
        snapshot("openai_completion_stream", bytes(one(parts(), Done::Stop), stream(1, true)).await);
        let two = vec![
            (1, Ok(text("b"))),
            (0, Ok(Part::End(end(Done::Stop, None)))),
            (1, Ok(Part::End(end(Done::Length, None)))),
        ];
        snapshot("openai_completion_stream_two", bytes(two, stream(2, false)).await);
        let failed = vec![(0, Err(ApiError::stopping()))];
        snapshot("openai_completion_stream_error", bytes(failed, stream(1, false)).await);
    }
}
