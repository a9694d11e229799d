//! The four ways to cut plain text into tokens, behind one.

use std::borrow::Cow;

use unicode_normalization::{IsNormalized, UnicodeNormalization, is_nfc_quick};

use super::bpe::Bpe;
use super::pre_tokenizer::PreTokenizer;
use super::sentencepiece::SentencePiece;
use super::spaces::Spaces;
use super::unigram::Unigram;
use super::vocabulary::Vocabulary;
use super::wordpiece::WordPiece;
use super::words::Words;
use super::{merge, unigram};

/// What `tokenizer.ggml.model` names.
#[derive(Debug)]
pub(super) enum Model {
    /// `gpt2`
    ByteLevel(&'static PreTokenizer, Bpe),
    /// `llama`
    SentencePiece(Spaces, SentencePiece),
    /// `t5`
    Unigram(Spaces, Unigram),
    /// `bert`
    WordPiece(WordPiece),
}

/// What the texts of one call share.
#[derive(Default)]
pub(super) struct Scratch {
    words: Words,
    merge: merge::Scratch,
    unigram: unigram::Scratch,
}

impl Model {
    /// Appends the tokens of `text`, in which no special token is looked for. `first`: it begins the whole
    /// or follows a special token.
    pub(super) fn encode(
        &self,
        vocabulary: &Vocabulary,
        text: &str,
        first: bool,
        scratch: &mut Scratch,
        ids: &mut Vec<u32>,
    ) {
        let Scratch { words, merge, unigram } = scratch;
        match self {
            Model::ByteLevel(pre_tokenizer, bpe) => {
                let text = match pre_tokenizer.nfc && is_nfc_quick(text.chars()) != IsNormalized::Yes {
                    true => Cow::Owned(text.nfc().collect()),
                    false => Cow::Borrowed(text),
                };
                pre_tokenizer.split(&text, &mut |piece| {
                    words.encode(piece, ids, |ids| bpe.encode(vocabulary, piece, merge, ids));
                });
            }
            Model::SentencePiece(spaces, model) => {
                model.encode(vocabulary, &spaces.write(text, first), words, merge, ids);
            }
            // What follows any other token is a text of its own to SentencePiece.
            Model::Unigram(spaces, model) => model.encode(&spaces.write(text, true), words, unigram, ids),
            Model::WordPiece(model) => model.encode(text, words, ids),
        }
    }

    /// True if the first token of a text has a space that the text had not.
    pub(super) fn adds_space(&self) -> bool {
        match self {
            Model::ByteLevel(..) => false,
            Model::SentencePiece(spaces, _) | Model::Unigram(spaces, _) => spaces.prefix,
            Model::WordPiece(_) => true,
        }
    }
}
