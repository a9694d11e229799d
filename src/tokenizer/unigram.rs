//! Unigram: of all ways to cut a text into tokens, the one whose scores, log-probabilities, add up to most
//! (Kudo 2018, <https://arxiv.org/abs/1804.10959>), found by Viterbi's algorithm.

use super::sentencepiece::{fall_back, has_words, word_len};
use super::trie::Trie;
use super::vocabulary::{BadToken, Vocabulary};
use super::words::Words;

/// How much less than the least of all tokens an unknown character scores.
const UNKNOWN_PENALTY: f64 = 10.0;

/// A vocabulary with scores.
#[derive(Debug)]
pub(super) struct Unigram {
    tokens: Trie,
    scores: Vec<f64>,
    unknown: u32,
    unknown_score: f64,
    byte_ids: [Option<u32>; 256],
    /// A text can be cut into words.
    words: bool,
}

/// The best way to a place.
#[derive(Clone, Copy)]
struct Best {
    score: f64,
    /// Where its last token begins.
    start: usize,
    id: u32,
}

impl Unigram {
    /// `scores` has one for each token; more is better.
    ///
    /// # Errors
    /// A score is not a finite number.
    pub(super) fn new(vocabulary: &Vocabulary, scores: &[f32], unknown: u32) -> Result<Unigram, BadToken> {
        if let Some(index) = scores.iter().position(|score| !score.is_finite()) {
            return Err(BadToken { index, reason: "the score is not finite".into() });
        }
        let least = vocabulary.plain().filter_map(|(id, _)| scores.get(id as usize)).copied();
        let least = f64::from(least.reduce(f32::min).unwrap_or_default());
        Ok(Unigram {
            tokens: Trie::new(vocabulary.plain().map(|(id, text)| (text.as_bytes(), id))),
            scores: scores.iter().copied().map(f64::from).collect(),
            unknown,
            unknown_score: least - UNKNOWN_PENALTY,
            byte_ids: vocabulary.byte_ids(),
            words: has_words(vocabulary),
        })
    }
    /// Appends the tokens of a text in which spaces are [`super::vocabulary::SPACE`].
    pub(super) fn encode(&self, text: &str, words: &mut Words, scratch: &mut Scratch, ids: &mut Vec<u32>) {
        let mut left = text;
        while !left.is_empty() {
            let (piece, rest) = left.split_at(if self.words { word_len(left) } else { left.len() });
            words.encode(piece, ids, |ids| self.viterbi(piece, scratch, ids));
            left = rest;
        }
    }

    fn viterbi(&self, piece: &str, scratch: &mut Scratch, ids: &mut Vec<u32>) {
        let nowhere = Best { score: f64::NEG_INFINITY, start: 0, id: self.unknown };
        let best = &mut scratch.best;
        best.clear();
        best.resize(piece.len() + 1, nowhere);
        best[0].score = 0.0;
        for (start, c) in piece.char_indices() {
            let score = best[start].score;
            let mut offer = |len: usize, id: u32, more: f64| {
                let there = &mut best[start + len];
                if score + more > there.score {
                    *there = Best { score: score + more, start, id };
                }
            };
            let mut alone = false;
            for (len, id) in self.tokens.prefixes(&piece.as_bytes()[start..]) {
                alone |= len == c.len_utf8();
                offer(len, id, self.scores.get(id as usize).copied().unwrap_or(self.unknown_score));
            }
            if !alone {
                offer(c.len_utf8(), self.unknown, self.unknown_score);
            }
        }
        let path = &mut scratch.path;
        path.clear();
        let mut end = piece.len();
        while end > 0 {
            let Best { start, id, .. } = best[end];
            path.push((start, id));
            end = start;
        }
        let first = ids.len();
        for &(start, id) in path.iter().rev() {
            match piece[start..].chars().next().filter(|_| id == self.unknown) {
                Some(c) => fall_back(c, &self.byte_ids, Some(self.unknown), first, ids),
                None => ids.push(id),
            }
        }
    }
}

/// Buffers that the pieces of a text share.
#[derive(Default)]
pub(super) struct Scratch {
    /// For each byte of a piece and its end, the best way there.
    best: Vec<Best>,
    path: Vec<(usize, u32)>,
}
