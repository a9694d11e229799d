//! WordPiece, the tokenizer of BERT: text becomes words, and a word the longest tokens that it consists of.
//!
//! GGUF writes tokens that begin a word with [`SPACE`] before them, and those that go on without BERT's `##`.

use std::borrow::Cow;

use unicode_general_category::{GeneralCategory, get_general_category};
use unicode_normalization::UnicodeNormalization;

use super::trie::Trie;
use super::vocabulary::{SPACE, TokenType, Vocabulary};
use super::words::Words;

/// A word of more characters is the unknown token, as BERT's makers had it.
const MAX_WORD: usize = 100;

/// A vocabulary of words and what they go on with.
#[derive(Debug)]
pub(super) struct WordPiece {
    tokens: Trie,
    unknown: u32,
    /// Upper case becomes lower case.
    lowercase: bool,
    /// Marks above and below letters are dropped.
    strip_accents: bool,
}

impl WordPiece {
    pub(super) fn new(
        vocabulary: &Vocabulary,
        unknown: u32,
        lowercase: bool,
        strip_accents: bool,
    ) -> WordPiece {
        let tokens = vocabulary.types().filter_map(|(id, kind)| {
            let text = vocabulary.text(id)?;
            (kind == TokenType::Normal).then_some((text.as_bytes(), id))
        });
        WordPiece { tokens: Trie::new(tokens), unknown, lowercase, strip_accents }
    }

    /// Appends the tokens of a text.
    pub(super) fn encode(&self, text: &str, words: &mut Words, ids: &mut Vec<u32>) {
        let text = self.normalize(text);
        for run in text.split(char::is_whitespace) {
            let mut left = run;
            while let Some(c) = left.chars().next() {
                let len = match stands_alone(c) {
                    true => c.len_utf8(),
                    false => left.find(stands_alone).unwrap_or(left.len()),
                };
                let (word, rest) = left.split_at(len);
                words.encode(word, ids, |ids| self.word(word, ids));
                left = rest;
            }
        }
    }

    fn word(&self, word: &str, ids: &mut Vec<u32>) {
        let start = ids.len();
        if word.chars().nth(MAX_WORD).is_some() {
            ids.push(self.unknown);
            return;
        }
        let word = format!("{SPACE}{word}");
        let mut left = word.as_bytes();
        while !left.is_empty() {
            // Tokens are UTF-8, and so is what is left: a match ends between characters.
            let Some((len, id)) = self.tokens.prefixes(left).last() else {
                ids.truncate(start);
                ids.push(self.unknown);
                return;
            };
            ids.push(id);
            left = &left[len..];
        }
    }

    fn normalize<'t>(&self, text: &'t str) -> Cow<'t, str> {
        if text
            .bytes()
            .all(|b| matches!(b, b' '..=b'~' | b'\n') && !(self.lowercase && b.is_ascii_uppercase()))
        {
            return Cow::Borrowed(text);
        }
        let clean = text.chars().filter(|&c| !is_dropped(c)).map(|c| if is_blank(c) { ' ' } else { c });
        let mut text: String = match self.strip_accents {
            true => {
                clean.nfd().filter(|&c| get_general_category(c) != GeneralCategory::NonspacingMark).collect()
            }
            false => clean.collect(),
        };
        if self.lowercase {
            // Character by character: no letter's lower case depends on those around it.
            text = text.chars().flat_map(char::to_lowercase).collect();
        }
        Cow::Owned(text)
    }
}

fn is_blank(c: char) -> bool {
    matches!(c, '\t' | '\n' | '\r') || c.is_whitespace()
}

/// True for characters that are no text.
fn is_dropped(c: char) -> bool {
    use GeneralCategory::*;
    match c {
        '\t' | '\n' | '\r' => false,
        '\0' | char::REPLACEMENT_CHARACTER => true,
        _ => matches!(get_general_category(c), Control | Format | PrivateUse),
    }
}

/// True for characters that are words of their own: punctuation and Chinese characters.
fn stands_alone(c: char) -> bool {
    use GeneralCategory::*;
    if c.is_ascii() {
        return c.is_ascii_punctuation();
    }
    // The sixth range begins where BERT's second makers had it.
    let chinese = matches!(c,
        '\u{4E00}'..='\u{9FFF}' | '\u{3400}'..='\u{4DBF}' | '\u{20000}'..='\u{2A6DF}'
        | '\u{2A700}'..='\u{2B73F}' | '\u{2B740}'..='\u{2B81F}' | '\u{2B920}'..='\u{2CEAF}'
        | '\u{F900}'..='\u{FAFF}' | '\u{2F800}'..='\u{2FA1F}');
    chinese
        || matches!(
            get_general_category(c),
            ConnectorPunctuation
                | DashPunctuation
                | OpenPunctuation
                | ClosePunctuation
                | InitialPunctuation
                | FinalPunctuation
                | OtherPunctuation
        )
}
