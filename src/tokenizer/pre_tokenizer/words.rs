//! The expression that GPT-2 began and its successors vary.
//!
//! It has alternatives, tried in the order of the methods here: contractions, words, numbers, other
//! characters, white space. One pass finds what the expression would.

use super::class::{Class, Set};

/// One variant of the expression.
#[derive(Debug)]
pub(super) struct Words {
    pub(super) contractions: Contractions,
    /// `[!-/:-@\[-`{-~][A-Za-z]+` comes before other words.
    pub(super) ascii_after_punctuation: bool,
    /// The one character that may stand before a word.
    pub(super) prefix: Prefix,
    pub(super) letters: Letters,
    pub(super) numbers: Numbers,
    /// What ` ?[...]+` takes that is neither a word nor a number.
    pub(super) others: Set,
    /// What belongs to the end of such a run.
    pub(super) tail: Tail,
    /// `\s*[\r\n]+` comes before other white space.
    pub(super) newlines: bool,
}

/// `'s|'t|'re|'ve|'m|'ll|'d`
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Contractions {
    No,
    /// First of all, in lower case.
    Lower,
    /// First of all, in any case.
    AnyCase,
    /// In any case, at the end of a word.
    Suffix,
}

/// Before a word.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Prefix {
    /// ` ?`
    Space,
    /// Any one of the set, or none.
    OneOf(Set),
}

/// What a word consists of.
#[derive(Debug)]
pub(super) enum Letters {
    /// Any of the set.
    Of(Set),
    /// Capitals, then small letters: `[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+`, or with the `+`
    /// and the `*` exchanged.
    Cased,
}

/// What a number is.
#[derive(Debug)]
pub(super) enum Numbers {
    /// ` ?\p{N}+`
    RunAfterSpace,
    /// `\p{N}{1,n}`
    AtMost(usize),
    /// An earlier step cut them.
    No,
}

/// After a run of other characters.
#[derive(Clone, Copy, Debug)]
pub(super) enum Tail {
    /// Nothing.
    No,
    /// `[\r\n]*`
    Newlines,
    /// `[\r\n/]*`
    NewlinesAndSlashes,
}

const CAPITALS: Set = Set::of(&[Class::Upper, Class::Letter, Class::Mark]);
const SMALL: Set = Set::of(&[Class::Lower, Class::Letter, Class::Mark]);
const NUMBERS: Set = Set::of(&[Class::Number]);

impl Words {
    /// Bytes of the first piece of `text`, which is not empty; at least one character.
    pub(super) fn piece_len(&self, text: &str) -> usize {
        if let Some(len) = self.matched_len(text) {
            return len;
        }
        // Nothing matches here: a piece up to where something does.
        let mut starts = text.char_indices().skip(1).map(|(at, _)| at);
        starts.find(|&at| self.matched_len(&text[at..]).is_some()).unwrap_or(text.len())
    }

    fn matched_len(&self, text: &str) -> Option<usize> {
        self.contraction_first(text)
            .or_else(|| self.ascii_len(text))
            .or_else(|| self.word_len(text))
            .or_else(|| self.numbers_len(text))
            .or_else(|| self.others_len(text))
            .or_else(|| self.spaces_len(text))
    }

    fn contraction_first(&self, text: &str) -> Option<usize> {
        match self.contractions {
            Contractions::Lower => contraction_len(text, false),
            Contractions::AnyCase => contraction_len(text, true),
            Contractions::No | Contractions::Suffix => None,
        }
    }

    fn ascii_len(&self, text: &str) -> Option<usize> {
        let after = text.strip_prefix(|c: char| c.is_ascii_punctuation());
        let letters = after.filter(|_| self.ascii_after_punctuation)?;
        let run = letters.bytes().take_while(u8::is_ascii_alphabetic).count();
        (run > 0).then_some(text.len() - letters.len() + run)
    }

    fn word_len(&self, text: &str) -> Option<usize> {
        let after = match self.prefix {
            Prefix::Space => text.strip_prefix(' '),
            Prefix::OneOf(set) => text.strip_prefix(|c| set.has(c)),
        };
        match self.letters {
            Letters::Of(set) => {
                let with = |rest: &str| match set.run_len(rest) {
                    0 => None,
                    n => Some(text.len() - rest.len() + n),
                };
                after.and_then(with).or_else(|| with(text))
            }
            Letters::Cased => {
                let with = |cut: fn(&str) -> Option<usize>| {
                    let after = after.and_then(|rest| Some(text.len() - rest.len() + cut(rest)?));
                    after.or_else(|| cut(text))
                };
                let len = with(small_end).or_else(|| with(capitals_end))?;
                let suffix = contraction_len(&text[len..], true);
                Some(len + suffix.filter(|_| self.contractions == Contractions::Suffix).unwrap_or(0))
            }
        }
    }

    fn numbers_len(&self, text: &str) -> Option<usize> {
        let (numbers, most) = match self.numbers {
            Numbers::RunAfterSpace => (text.strip_prefix(' ').unwrap_or(text), usize::MAX),
            Numbers::AtMost(most) => (text, most),
            Numbers::No => return None,
        };
        let run = numbers.chars().take(most).take_while(|&c| NUMBERS.has(c));
        match run.map(char::len_utf8).sum() {
            0 => None,
            n => Some(text.len() - numbers.len() + n),
        }
    }

    fn others_len(&self, text: &str) -> Option<usize> {
        let others = text.strip_prefix(' ').unwrap_or(text);
        let run = match self.others.run_len(others) {
            0 => return None,
            run => run,
        };
        let rest = &others[run..];
        let tail = rest.find(|c| match self.tail {
            Tail::No => true,
            Tail::Newlines => !matches!(c, '\r' | '\n'),
            Tail::NewlinesAndSlashes => !matches!(c, '\r' | '\n' | '/'),
        });
        Some(text.len() - rest.len() + tail.unwrap_or(rest.len()))
    }

    fn spaces_len(&self, text: &str) -> Option<usize> {
        let run = match Set::SPACES.run_len(text) {
            0 => return None,
            run => run,
        };
        if self.newlines
            && let Some(last) = text[..run].rfind(['\r', '\n'])
        {
            return Some(last + 1);
        }
        if run == text.len() {
            return Some(run);
        }
        // What follows the run is no space, so `\s+(?!\S)` leaves the last one for the next piece.
        match text[..run].char_indices().next_back() {
            Some((last, _)) if last > 0 => Some(last),
            _ => Some(run),
        }
    }
}

fn contraction_len(text: &str, any_case: bool) -> Option<usize> {
    let mut chars = text.strip_prefix('\'')?.chars();
    let mut next = || {
        let c = chars.next()?;
        Some(match any_case {
            // The long s is the one character outside ASCII that folds to one of these letters.
            true if c == 'ſ' => ('s', c.len_utf8()),
            true => (c.to_ascii_lowercase(), c.len_utf8()),
            false => (c, c.len_utf8()),
        })
    };
    let (first, first_len) = next()?;
    match first {
        's' | 't' | 'm' | 'd' => Some(1 + first_len),
        'r' | 'v' | 'l' => {
            let (second, second_len) = next()?;
            matches!((first, second), ('r' | 'v', 'e') | ('l', 'l')).then_some(1 + first_len + second_len)
        }
        _ => None,
    }
}

/// Where `CAPITALS*SMALL+` ends. If no small letter follows the capitals, they give back what comes after the
/// last that is both.
fn small_end(text: &str) -> Option<usize> {
    let capitals = CAPITALS.run_len(text);
    match SMALL.run_len(&text[capitals..]) {
        0 => {
            let mut both = text[..capitals].char_indices().rev();
            both.find(|&(_, c)| SMALL.has(c)).map(|(at, c)| at + c.len_utf8())
        }
        small => Some(capitals + small),
    }
}

/// Where `CAPITALS+SMALL*` ends.
fn capitals_end(text: &str) -> Option<usize> {
    match CAPITALS.run_len(text) {
        0 => None,
        capitals => Some(capitals + SMALL.run_len(&text[capitals..])),
    }
}
