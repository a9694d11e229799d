//! A text as llama-perplexity and llama-imatrix read it.
//!
//! The tokens of the text, the beginning-of-sequence token first, are cut into chunks of one context
//! that do not overlap; a shorter rest is dropped. The first token of each chunk is replaced by BOS
//! where the tokenizer adds one. Each chunk is read from an empty context; of its predictions those
//! from its middle on are scored: `context - 1 - context / 2`.

use super::engine::{Model, Session, SessionOptions};
use super::loaded::Loaded;
use crate::diagnostic::{Diagnostic, Result};
use crate::tokenizer::EncodeOptions;

/// Tokens of a chunk where nobody says.
pub const CONTEXT: usize = 512;

/// Logits that are held at a time.
const OUTPUTS: usize = 64;

/// The chunks of a text.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Chunks {
    tokens: Vec<u32>,
    bos: Option<u32>,
    context: usize,
}

impl Chunks {
    /// The first `limit` chunks of `tokens`, `context` tokens each; `bos` takes the place of each
    /// chunk's first token.
    ///
    /// # Errors
    /// There is not one whole chunk, or a chunk has no room for a prediction to score.
    pub fn new(
        mut tokens: Vec<u32>,
        bos: Option<u32>,
        context: usize,
        limit: Option<usize>,
    ) -> Result<Chunks> {
        if context < 4 {
            return Err(
                Diagnostic::usage(format!("chunks of {context} tokens; at least 4 are needed")).into()
            );
        }
        let count = (tokens.len() / context).min(limit.unwrap_or(usize::MAX));
        if count == 0 {
            let have = tokens.len();
            return Err(Diagnostic::error(format!(
                "the text has {have} tokens; at least one chunk of {context} is needed"
            ))
            .code("short-text")
            .help("give a longer text, or a smaller context")
            .into());
        }
        tokens.truncate(count * context);
        Ok(Chunks { tokens, bos, context })
    }

    /// The chunks that a model reads a text in.
    ///
    /// # Errors
    /// As [`Chunks::new`].
    pub fn of_text(loaded: &Loaded, text: &str, context: usize, limit: Option<usize>) -> Result<Chunks> {
        let tokenizer = &loaded.tokenizer;
        let tokens = tokenizer.encode(text, EncodeOptions { add_special: true, parse_special: false });
        let bos = tokenizer.adds_bos().then(|| tokenizer.bos()).flatten();
        Chunks::new(tokens, bos, context, limit)
    }

    /// The number of chunks; at least 1.
    #[allow(clippy::len_without_is_empty)]
    pub fn len(&self) -> usize {
        self.tokens.len() / self.context
    }

    /// Tokens of a chunk.
    pub fn context(&self) -> usize {
        self.context
    }

    /// Predictions that are scored in each chunk.
    pub fn scored_per_chunk(&self) -> usize {
        self.context - 1 - self.first_scored()
    }

    /// The position of the first token whose prediction of the next is scored.
    fn first_scored(&self) -> usize {
        self.context / 2
    }

    /// The chunks, in order.
    pub fn iter(&self) -> impl Iterator<Item = Vec<u32>> {
        self.tokens.chunks_exact(self.context).map(|chunk| {
            let mut chunk = chunk.to_vec();
            if let (Some(bos), Some(token)) = (self.bos, chunk.first_mut()) {
                *token = bos;
            }
            chunk
        })
    }

    /// The parts of a chunk: what is read first, and runs of tokens, each with the tokens that
    /// follow them, whose predictions are scored.
    pub(super) fn parts<'a>(
        &self,
        chunk: &'a [u32],
        outputs: usize,
    ) -> (&'a [u32], impl Iterator<Item = (&'a [u32], &'a [u32])>) {
        let first = self.first_scored();
        let (read, next) = (&chunk[first..self.context - 1], &chunk[first + 1..]);
        (&chunk[..first], read.chunks(outputs).zip(next.chunks(outputs)))
    }

    /// A session that has room for a chunk and for the logits of `outputs` tokens at a time.
    ///
    /// # Errors
    /// There is no memory for it.
    pub fn session(&self, model: &Model) -> Result<Session> {
        let (context, columns) = (self.context, self.context.min(512));
        let outputs = OUTPUTS.min(self.scored_per_chunk());
        model.session(&SessionOptions { context, columns, outputs, ..SessionOptions::default() })
    }
}
