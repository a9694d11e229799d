//! Cuts text into the pieces that merges never cross.
//!
//! The field describes these cuts with regular expressions; here they are data for one splitter
//! that looks at each character a bounded number of times. The tests hold it to the expressions.

use unicode_general_category::{GeneralCategory, get_general_category};

/// How the models of one `tokenizer.ggml.pre` treat plain text.
#[derive(Debug)]
pub(super) struct PreTokenizer {
    /// The values of `tokenizer.ggml.pre` that mean this.
    names: &'static [&'static str],
    /// Each step cuts the pieces that the one before it left.
    steps: &'static [Step],
    /// A piece that is a token is that token, whatever the merges would make of it.
    pub(super) ignore_merges: bool,
    /// BOS comes first unless `tokenizer.ggml.add_bos_token` says otherwise.
    pub(super) add_bos: bool,
    /// Text is brought to Unicode's normal form C before it is cut.
    pub(super) nfc: bool,
}

/// One way of cutting. Every step gives back all of the text: what it does not match is a piece too.
#[derive(Debug)]
enum Step {
    /// `\p{N}`
    Number,
    /// `\p{N}+`
    NumberRun,
    /// `[0-9][0-9][0-9]`
    ThreeDigits,
    /// `[\p{P}\$\+<=>\^~\|]+`
    PunctuationRun,
    /// Words, numbers, punctuation and white space.
    Words(Words),
}

/// The expression that GPT-2 began and its successors vary: alternatives, tried in this order.
#[derive(Debug)]
struct Words {
    /// `'s|'t|'re|'ve|'m|'ll|'d`, in lower case only or in any.
    contractions_in_any_case: bool,
    /// Before `\p{L}+`: ` ?`, or any one character of `[^\r\n\p{L}\p{N}]?`.
    letters_after_any: bool,
    /// ` ?\p{N}+`, or `\p{N}{1,n}`.
    numbers: Numbers,
    /// `[\r\n]*` after ` ?[^\s\p{L}\p{N}]+`, and `\s*[\r\n]+` before `\s+(?!\S)|\s+`.
    newlines_end_pieces: bool,
}

#[derive(Debug)]
enum Numbers {
    RunAfterSpace,
    AtMost(usize),
}

const GPT2: Step = Step::Words(Words {
    contractions_in_any_case: false,
    letters_after_any: false,
    numbers: Numbers::RunAfterSpace,
    newlines_end_pieces: false,
});
const LLAMA3: Step = Step::Words(Words {
    contractions_in_any_case: true,
    letters_after_any: true,
    numbers: Numbers::AtMost(3),
    newlines_end_pieces: true,
});
const QWEN2: Step = Step::Words(Words {
    contractions_in_any_case: true,
    letters_after_any: true,
    numbers: Numbers::AtMost(1),
    newlines_end_pieces: true,
});

/// Every known one. To support another is to add it here, and its expressions to the tests.
const PRE_TOKENIZERS: &[PreTokenizer] = &[
    PreTokenizer {
        names: &["llama-bpe", "llama3", "llama-v3"],
        steps: &[LLAMA3],
        ignore_merges: true,
        add_bos: true,
        nfc: false,
    },
    PreTokenizer {
        names: &["dbrx", "smaug-bpe"],
        steps: &[LLAMA3],
        ignore_merges: false,
        add_bos: false,
        nfc: false,
    },
    PreTokenizer { names: &["qwen2"], steps: &[QWEN2], ignore_merges: false, add_bos: false, nfc: true },
    PreTokenizer {
        names: &["deepseek-r1-qwen"],
        steps: &[QWEN2],
        ignore_merges: false,
        add_bos: false,
        nfc: false,
    },
    PreTokenizer {
        names: &["gpt-2", "phi-2"],
        steps: &[GPT2],
        ignore_merges: false,
        add_bos: false,
        nfc: false,
    },
    PreTokenizer {
        names: &["smollm", "starcoder"],
        steps: &[Step::Number, GPT2],
        ignore_merges: false,
        add_bos: false,
        nfc: false,
    },
    PreTokenizer {
        names: &["default"],
        steps: &[Step::PunctuationRun, GPT2, Step::NumberRun, Step::ThreeDigits],
        ignore_merges: false,
        add_bos: false,
        nfc: false,
    },
];

impl PreTokenizer {
    /// The one that a value of `tokenizer.ggml.pre` means.
    pub(super) fn from_name(name: &str) -> Option<&'static PreTokenizer> {
        PRE_TOKENIZERS.iter().find(|p| p.names.contains(&name))
    }

    /// Every value of `tokenizer.ggml.pre` that is known.
    pub(super) fn names() -> impl Iterator<Item = &'static str> {
        PRE_TOKENIZERS.iter().flat_map(|p| p.names).copied()
    }

    /// Calls `piece` with each piece of `text`, in order. Together they are `text`; none is empty.
    pub(super) fn split<'a>(&self, text: &'a str, piece: &mut dyn FnMut(&'a str)) {
        split(self.steps, text, piece);
    }
}

fn split<'a>(steps: &[Step], text: &'a str, piece: &mut dyn FnMut(&'a str)) {
    let Some((step, rest)) = steps.split_first() else { return piece(text) };
    let mut left = text;
    while !left.is_empty() {
        let (head, tail) = left.split_at(step.piece_len(left));
        split(rest, head, piece);
        left = tail;
    }
}

/// What the expressions tell apart. No character is in two of these.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Class {
    /// `\p{L}`
    Letter,
    /// `\p{N}`
    Number,
    /// `\s`
    Space,
    Other,
}

fn class(c: char) -> Class {
    use GeneralCategory::*;
    if c.is_ascii() {
        return match c {
            'a'..='z' | 'A'..='Z' => Class::Letter,
            '0'..='9' => Class::Number,
            '\t'..='\r' | ' ' => Class::Space,
            _ => Class::Other,
        };
    }
    match get_general_category(c) {
        UppercaseLetter | LowercaseLetter | TitlecaseLetter | ModifierLetter | OtherLetter => Class::Letter,
        DecimalNumber | LetterNumber | OtherNumber => Class::Number,
        _ if c.is_whitespace() => Class::Space,
        _ => Class::Other,
    }
}

fn is_punctuation(c: char) -> bool {
    use GeneralCategory::*;
    match get_general_category(c) {
        ConnectorPunctuation | DashPunctuation | OpenPunctuation | ClosePunctuation | InitialPunctuation
        | FinalPunctuation | OtherPunctuation => true,
        _ => matches!(c, '$' | '+' | '<' | '=' | '>' | '^' | '~' | '|'),
    }
}

fn is_newline(c: char) -> bool {
    matches!(c, '\r' | '\n')
}

/// Bytes at the start of `text` whose characters all pass.
fn run_len(text: &str, pass: impl Fn(char) -> bool) -> usize {
    text.find(|c| !pass(c)).unwrap_or(text.len())
}

/// Bytes at the start of `text` whose characters are all of the class.
fn class_len(text: &str, of: Class) -> usize {
    run_len(text, |c| class(c) == of)
}

/// The rest of `text` after one character that passes; `text` itself if the first does not.
fn after_one(text: &str, pass: impl Fn(char) -> bool) -> &str {
    text.strip_prefix(pass).unwrap_or(text)
}

impl Step {
    /// Bytes of the first piece of `text`, which is not empty; at least one character.
    fn piece_len(&self, text: &str) -> usize {
        // A run of characters that pass, else the run up to the first that does.
        let run_or_gap = |pass: fn(char) -> bool| match run_len(text, pass) {
            0 => run_len(text, |c| !pass(c)),
            n => n,
        };
        let is_number = |c| class(c) == Class::Number;
        match self {
            Step::Number => match text.chars().next() {
                Some(c) if is_number(c) => c.len_utf8(),
                _ => run_len(text, |c| !is_number(c)),
            },
            Step::NumberRun => run_or_gap(is_number),
            Step::PunctuationRun => run_or_gap(is_punctuation),
            Step::ThreeDigits => {
                let triple = text.as_bytes().windows(3).position(|w| w.iter().all(u8::is_ascii_digit));
                match triple {
                    Some(0) => 3,
                    Some(at) => at,
                    None => text.len(),
                }
            }
            Step::Words(words) => words.piece_len(text),
        }
    }
}

impl Words {
    fn piece_len(&self, text: &str) -> usize {
        self.contraction_len(text)
            .or_else(|| self.letters_len(text))
            .or_else(|| self.numbers_len(text))
            .or_else(|| self.others_len(text))
            .unwrap_or_else(|| self.spaces_len(text))
    }

    fn contraction_len(&self, text: &str) -> Option<usize> {
        let mut chars = text.strip_prefix('\'')?.chars();
        let mut next = || {
            let c = chars.next()?;
            Some(match self.contractions_in_any_case {
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

    fn letters_len(&self, text: &str) -> Option<usize> {
        let letters = match self.letters_after_any {
            true => after_one(text, |c| !is_newline(c) && !matches!(class(c), Class::Letter | Class::Number)),
            false => after_one(text, |c| c == ' '),
        };
        match class_len(letters, Class::Letter) {
            0 => None,
            n => Some(text.len() - letters.len() + n),
        }
    }

    fn numbers_len(&self, text: &str) -> Option<usize> {
        let (numbers, most) = match self.numbers {
            Numbers::RunAfterSpace => (after_one(text, |c| c == ' '), usize::MAX),
            Numbers::AtMost(most) => (text, most),
        };
        let run = numbers.chars().take(most).take_while(|&c| class(c) == Class::Number);
        match run.map(char::len_utf8).sum() {
            0 => None,
            n => Some(text.len() - numbers.len() + n),
        }
    }

    fn others_len(&self, text: &str) -> Option<usize> {
        let others = after_one(text, |c| c == ' ');
        let run = class_len(others, Class::Other);
        if run == 0 {
            return None;
        }
        let newlines = match self.newlines_end_pieces {
            true => run_len(&others[run..], is_newline),
            false => 0,
        };
        Some(text.len() - others.len() + run + newlines)
    }

    /// White space is what is left once no other alternative matches.
    fn spaces_len(&self, text: &str) -> usize {
        let run = class_len(text, Class::Space);
        if self.newlines_end_pieces
            && let Some(last) = text[..run].rfind(is_newline)
        {
            return last + 1;
        }
        if run == text.len() {
            return run;
        }
        // What follows the run is no space, so `\s+(?!\S)` leaves the last one for the next piece.
        match text[..run].char_indices().next_back() {
            Some((last, _)) if last > 0 => last,
            _ => run,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use fancy_regex::Regex;
    use proptest::prelude::*;

    const GPT2_RE: &str = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+";
    const LLAMA3_RE: &str = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";
    const QWEN2_RE: &str = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";

    const EXPRESSIONS: &[(&str, &[&str])] = &[
        ("llama-bpe", &[LLAMA3_RE]),
        ("dbrx", &[LLAMA3_RE]),
        ("qwen2", &[QWEN2_RE]),
        ("deepseek-r1-qwen", &[QWEN2_RE]),
        ("gpt-2", &[GPT2_RE]),
        ("smollm", &[r"\p{N}", GPT2_RE]),
        ("default", &[r"[\p{P}\$\+<=>\^~\|]+", GPT2_RE, r"\p{N}+", r"[0-9][0-9][0-9]"]),
    ];

    fn ours<'a>(name: &str, text: &'a str) -> Vec<&'a str> {
        let mut pieces = Vec::new();
        PreTokenizer::from_name(name).unwrap().split(text, &mut |p| pieces.push(p));
        pieces
    }

    /// The pieces of the expressions, each applied to the pieces of the one before.
    fn expected<'a>(expressions: &[Regex], text: &'a str) -> Vec<&'a str> {
        let mut pieces = vec![text];
        for expression in expressions {
            let mut next = Vec::new();
            for piece in pieces {
                let mut at = 0;
                for found in expression.find_iter(piece) {
                    let found = found.expect("the expression fails");
                    next.extend([&piece[at..found.start()], found.as_str()]);
                    at = found.end();
                }
                next.push(&piece[at..]);
            }
            next.retain(|p| !p.is_empty());
            pieces = next;
        }
        pieces
    }

    fn compiled() -> Vec<(&'static str, Vec<Regex>)> {
        let compile = |e: &&str| Regex::new(e).unwrap();
        EXPRESSIONS.iter().map(|(n, e)| (*n, e.iter().map(compile).collect())).collect()
    }

    #[test]
    fn every_pre_tokenizer_is_held_to_its_expressions() {
        let tested: Vec<_> = EXPRESSIONS.iter().map(|(n, _)| *n).collect();
        for p in PRE_TOKENIZERS {
            assert!(tested.contains(&p.names[0]), "{} is not tested", p.names[0]);
        }
    }

    #[test]
    fn every_character_has_the_class_that_expressions_see() {
        let classes = [
            (Class::Letter, Regex::new(r"\A\p{L}\z").unwrap()),
            (Class::Number, Regex::new(r"\A\p{N}\z").unwrap()),
            (Class::Space, Regex::new(r"\A\s\z").unwrap()),
        ];
        let punctuation = Regex::new(r"\A[\p{P}\$\+<=>\^~\|]\z").unwrap();
        let mut buffer = [0; 4];
        // The planes that have characters: 0 to 3 and the first of 14.
        for c in (0..0x40000).chain(0xE0000..0xE1000).filter_map(char::from_u32) {
            let text = &*c.encode_utf8(&mut buffer);
            let theirs =
                classes.iter().find(|(_, e)| e.is_match(text).unwrap()).map_or(Class::Other, |p| p.0);
            assert!(class(c) == theirs, "{:?} is of another class", c);
            assert_eq!(is_punctuation(c), punctuation.is_match(text).unwrap(), "{c:?}");
        }
    }

    #[test]
    fn pieces_are_those_of_the_expressions() {
        let texts = [
            "",
            " ",
            "  ",
            "a",
            "  a",
            "\n\n \n  x",
            " \r\n\r\n\t y \r",
            "I'll don't WE'VE 'S 'ſ x'REx 'r 'l 'lL",
            "1 12 123 1234 12345678 ½ ²³ 1²34567 ١٢٣٤ Ⅷ 12 34",
            "naïve e\u{301}te\u{301} 日本語 한국어 ไทย हिन्दी \u{200D}👩‍👩‍👧 🏳️‍🌈",
            "fn main() { println!(\"{}\", x+=1); }\n\n\n//--$$ ``^~|<=>",
            "\u{A0}\u{A0}a\u{2003}\u{3000}b\u{85}c\u{2028}",
            "!!!\r\n\n  ?",
            " '' 's's'st'",
        ];
        for (name, expressions) in compiled() {
            for text in texts {
                assert_eq!(ours(name, text), expected(&expressions, text), "{name}: {text:?}");
            }
        }
    }

    #[test]
    fn long_runs_are_one_pass() {
        // Quadratic time would be 10^9 steps for each.
        let n = 1 << 15;
        for unit in ["a", " ", "\n", "1", "'", "!", "🙂", "\u{301}", " \n", "12a"] {
            let text = unit.repeat(n / unit.len());
            for p in PRE_TOKENIZERS {
                let mut bytes = 0;
                p.split(&text, &mut |piece| bytes += piece.len());
                assert_eq!(bytes, text.len());
            }
        }
    }

    fn hostile_text() -> impl Strategy<Value = String> {
        let bit = prop_oneof![
            4 => "[ \t\r\n\u{A0}\u{3000}\u{2028}]{1,6}",
            4 => "[a-zA-Zéßſ日ǅʰ]{1,5}",
            4 => "[0-9²½٣Ⅷ]{1,7}",
            3 => "'(s|t|re|ve|m|ll|d|S|RE|Ve|lL|ſ|x|r|v|l|)",
            3 => "[!-/:-@\\[-`{-~£€—«»\u{301}\u{200D}]{1,4}",
            2 => any::<char>().prop_map(String::from),
            1 => "🙂|👩‍👩‍👧|\u{FE0F}",
        ];
        prop::collection::vec(bit, 0..24).prop_map(|bits| bits.concat())
    }

    thread_local! {
        static COMPILED: Vec<(&'static str, Vec<Regex>)> = compiled();
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(1000))]
        #[test]
        fn random_pieces_are_those_of_the_expressions(text in hostile_text()) {
            COMPILED.with(|compiled| {
                for (name, expressions) in compiled {
                    prop_assert_eq!(ours(name, &text), expected(expressions, &text), "{}", name);
                }
                Ok(())
            })?;
        }
    }
}
