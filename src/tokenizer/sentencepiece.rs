//! SentencePiece's BPE: a text starts as its characters, and of the neighbours that are a token together,
//! those of the best score are merged first. A character that is no token becomes its bytes.

use super::merge::{MAX_SYMBOLS, Merge, Merges, Scratch};
use super::vocabulary::{BadToken, SPACE, TokenType, Vocabulary};
use super::words::Words;

/// The longest plain token, in bytes: each way to cut one is a merge. Models have 48 or so.
const MAX_TOKEN: usize = 512;

/// Marks the symbol of a character that is no token; ids are below 2^31.
const CHARACTER: u32 = 1 << 31;

/// A vocabulary with scores.
#[derive(Debug)]
pub(super) struct SentencePiece {
    merges: Merges,
    byte_ids: [Option<u32>; 256],
    unknown: Option<u32>,
    /// A text can be cut into words.
    words: bool,
}

impl SentencePiece {
    /// `scores` has one for each token; more is better.
    ///
    /// # Errors
    /// A score is no number, or a plain token is longer than any model's.
    pub(super) fn new(
        vocabulary: &Vocabulary,
        scores: &[f32],
        unknown: Option<u32>,
    ) -> Result<SentencePiece, BadToken> {
        let plain = |id: &u32| vocabulary.token_type(*id) == Some(TokenType::Normal);
        if let Some(index) = scores.iter().position(|score| score.is_nan()) {
            return Err(BadToken { index, reason: "the score is no number".into() });
        }
        let mut ranks: Vec<f32> = scores.to_vec();
        ranks.sort_unstable_by(|a, b| b.total_cmp(a));
        ranks.dedup();
        let symbol = |text: &str| {
            let mut chars = text.chars();
            let only = chars.next().filter(|_| chars.next().is_none());
            vocabulary.id(text).filter(plain).or(only.map(character))
        };
        let mut pairs = Vec::new();
        for (id, text) in vocabulary.plain() {
            if text.len() > MAX_TOKEN {
                let reason = format!("the token has {} bytes, more than {MAX_TOKEN}", text.len());
                return Err(BadToken { index: id as usize, reason });
            }
            let score = scores.get(id as usize).copied().unwrap_or_default();
            // Adding 0 makes -0 and 0 the same.
            let rank = ranks.partition_point(|r| *r + 0.0 > score + 0.0) as u32;
            for (at, _) in text.char_indices().skip(1) {
                let (left, right) = text.split_at(at);
                if let (Some(left), Some(right)) = (symbol(left), symbol(right)) {
                    pairs.push((left, right, Merge { rank, made: id }));
                }
            }
        }
        let mut merges = Merges::new(pairs.len(), (0..=ranks.len() as u32).collect());
        for (left, right, merge) in pairs {
            merges.insert(left, right, merge);
        }
        let (byte_ids, words) = (vocabulary.byte_ids(), has_words(vocabulary));
        Ok(SentencePiece { merges, byte_ids, unknown, words })
    }

    /// Appends the tokens of a text in which spaces are [`SPACE`].
    pub(super) fn encode(
        &self,
        vocabulary: &Vocabulary,
        text: &str,
        words: &mut Words,
        scratch: &mut Scratch,
        ids: &mut Vec<u32>,
    ) {
        let mut left = text;
        while !left.is_empty() {
            let (piece, rest) = left.split_at(if self.words { word_len(left) } else { left.len() });
            words.encode(piece, ids, |ids| self.merge(vocabulary, piece, scratch, ids));
            left = rest;
        }
    }

    fn merge(&self, vocabulary: &Vocabulary, piece: &str, scratch: &mut Scratch, ids: &mut Vec<u32>) {
        let start = ids.len();
        let mut chars = piece.char_indices();
        while !chars.as_str().is_empty() {
            let symbols = chars.by_ref().take(MAX_SYMBOLS).map(|(at, c)| {
                let id = vocabulary.id(&piece[at..at + c.len_utf8()]);
                let plain = id.filter(|&id| vocabulary.token_type(id) == Some(TokenType::Normal));
                plain.unwrap_or_else(|| character(c))
            });
            self.merges.merge(symbols, scratch, |symbol| match char::from_u32(symbol ^ CHARACTER) {
                Some(c) => fall_back(c, &self.byte_ids, self.unknown, start, ids),
                None => ids.push(symbol),
            });
        }
    }
}

/// Appends what stands for a character that is no token: its bytes if all are tokens, else the unknown
/// token, which stands for any number of such characters. What is before `start` is of another piece.
pub(super) fn fall_back(
    c: char,
    byte_ids: &[Option<u32>; 256],
    unknown: Option<u32>,
    start: usize,
    ids: &mut Vec<u32>,
) {
    let mut buffer = [0; 4];
    let bytes = c.encode_utf8(&mut buffer).bytes();
    let of = |byte: u8| byte_ids[usize::from(byte)];
    match bytes.clone().all(|b| of(b).is_some()) {
        true => ids.extend(bytes.filter_map(of)),
        false if ids.get(start..).and_then(<[u32]>::last).copied() == unknown => {}
        false => ids.extend(unknown),
    }
}

fn character(c: char) -> u32 {
    CHARACTER | c as u32
}

/// True if no plain token goes from another character into a space, so that a text can be cut there.
pub(super) fn has_words(vocabulary: &Vocabulary) -> bool {
    vocabulary.plain().all(|(_, text)| word_len(text) == text.len())
}

/// Bytes up to where a space follows another character.
pub(super) fn word_len(text: &str) -> usize {
    let spaces = text.find(|c| c != SPACE).unwrap_or(text.len());
    text[spaces..].find(SPACE).map_or(text.len(), |at| spaces + at)
}
