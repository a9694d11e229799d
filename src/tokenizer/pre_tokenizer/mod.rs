//! Cuts text into the pieces that merges never cross.
//!
//! The field describes these cuts with regular expressions; here they are data for one splitter
//! that looks at each character a bounded number of times. The tests hold it to the expressions.

mod class;
mod expressions;
mod words;

use class::{Class, Set, class};
use expressions::Expression;
use unicode_general_category::{GeneralCategory, get_general_category};
use words::{Contractions, Letters, Numbers, Prefix, Tail, Words};

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
    /// `\p{N}{1,3}`
    NumbersByThree,
    /// `\p{N}+`
    NumberRun,
    /// `[0-9][0-9][0-9]`
    ThreeDigits,
    /// `\d{1,3}(?=(?:\d{3})*\b)`: by three, counted from the right.
    DigitsFromTheRight,
    /// `(?=(\d{3})+(?!\d))`: the same, whatever follows.
    ThousandsFromTheRight,
    /// `[\p{P}\$\+<=>\^~\|]+`; the first has a backtick too.
    PunctuationRun { backtick: bool },
    /// An expression of few models.
    Expression(&'static Expression),
    /// Words, numbers, punctuation and white space.
    Words(Words),
}

const NO_WORD: Set = Set::LETTERS.and(Set::of(&[Class::Number])).not();
const ANY_BUT_WORDS: Set = NO_WORD.and_not(Set::SPACES);
const ANY_BUT_NEWLINES: Set = NO_WORD.and_not(Set::of(&[Class::Newline]));
const SIGNS: Set = Set::of(&[Class::Punctuation, Class::Symbol]);

const GPT2: Words = Words {
    contractions: Contractions::Lower,
    ascii_after_punctuation: false,
    prefix: Prefix::Space,
    letters: Letters::Of(Set::LETTERS),
    numbers: Numbers::RunAfterSpace,
    others: ANY_BUT_WORDS,
    tail: Tail::No,
    newlines: false,
};
const LLAMA3: Words = Words {
    contractions: Contractions::AnyCase,
    ascii_after_punctuation: false,
    prefix: Prefix::OneOf(ANY_BUT_NEWLINES),
    letters: Letters::Of(Set::LETTERS),
    numbers: Numbers::AtMost(3),
    others: ANY_BUT_WORDS,
    tail: Tail::Newlines,
    newlines: true,
};
const QWEN2: Words = Words { numbers: Numbers::AtMost(1), ..LLAMA3 };
const QWEN35: Words = Words {
    letters: Letters::Of(Set::LETTERS.and(Set::of(&[Class::Mark]))),
    others: ANY_BUT_WORDS.and_not(Set::of(&[Class::Mark])),
    ..QWEN2
};
const O200K: Words = Words {
    contractions: Contractions::Suffix,
    letters: Letters::Cased,
    tail: Tail::NewlinesAndSlashes,
    ..LLAMA3
};
const TEKKEN: Words = Words { contractions: Contractions::No, numbers: Numbers::AtMost(1), ..O200K };
const DEEPSEEK3: Words = Words {
    contractions: Contractions::No,
    ascii_after_punctuation: true,
    prefix: Prefix::OneOf(Set::LETTERS.and(SIGNS).and(Set::of(&[Class::Newline])).not()),
    letters: Letters::Of(Set::LETTERS.and(Set::of(&[Class::Mark]))),
    numbers: Numbers::No,
    others: SIGNS,
    tail: Tail::Newlines,
    newlines: true,
};

const fn cut(names: &'static [&'static str], steps: &'static [Step]) -> PreTokenizer {
    PreTokenizer { names, steps, ignore_merges: false, add_bos: false, nfc: false }
}

impl PreTokenizer {
    const fn ignore_merges(self) -> PreTokenizer {
        PreTokenizer { ignore_merges: true, ..self }
    }

    const fn add_bos(self) -> PreTokenizer {
        PreTokenizer { add_bos: true, ..self }
    }

    const fn nfc(self) -> PreTokenizer {
        PreTokenizer { nfc: true, ..self }
    }
}

/// Every known one. To support another is to add it here, and its expressions to the tests.
static PRE_TOKENIZERS: &[PreTokenizer] = {
    use Step::*;
    use expressions as e;
    &[
        cut(
            &[
                "llama-bpe",
                "llama3",
                "llama-v3",
                "falcon3",
                "falcon-h1",
                "pixtral",
                "midm-2.0",
                "lfm2",
                "jina-v5-nano",
            ],
            &[Words(LLAMA3)],
        )
        .ignore_merges()
        .add_bos(),
        cut(&["dbrx", "smaug-bpe", "chatglm-bpe"], &[Words(LLAMA3)]),
        cut(&["glm4", "glm5"], &[Words(LLAMA3)]).ignore_merges(),
        cut(
            &["minicpm5"],
            &[NumbersByThree, Words(self::Words { numbers: Numbers::AtMost(usize::MAX), ..LLAMA3 })],
        )
        .ignore_merges(),
        cut(&["qwen2", "kormo", "f2llmv2", "megrez"], &[Words(QWEN2)]).nfc(),
        cut(
            &[
                "deepseek-r1-qwen",
                "stablelm2",
                "hunyuan",
                "solar-open",
                "grok-2",
                "bailingmoe",
                "bailingmoe2",
                "llada-moe",
            ],
            &[Words(QWEN2)],
        ),
        cut(&["qwen35"], &[Words(QWEN35)]).nfc(),
        cut(&["ufakzeka"], &[Words(self::Words { contractions: Contractions::No, ..QWEN2 })]),
        cut(&["seed-coder"], &[Words(self::Words { others: ANY_BUT_WORDS, tail: Tail::No, ..QWEN2 })]),
        cut(&["laguna"], &[Expression(&e::NEWLINE_RUNS), Words(QWEN2)]),
        cut(&["gpt-4o", "llama4", "kanana2", "talkie", "minimax-m2"], &[Words(O200K)]),
        cut(&["granite-embed-multi-97m"], &[Words(O200K)]).ignore_merges(),
        cut(&["tiny_aya", "cohere2moe"], &[DigitsFromTheRight, Words(O200K)]),
        cut(
            &["youtu"],
            &[Expression(&e::YOUTU_RUN), Words(self::Words { numbers: Numbers::AtMost(1), ..O200K })],
        )
        .ignore_merges(),
        cut(&["tekken"], &[Words(TEKKEN)]).ignore_merges().add_bos(),
        cut(
            &["deepseek-v3", "hunyuan-dense", "joyai-llm", "hy_v4"],
            &[NumbersByThree, Expression(&e::CJK_RUN), Words(DEEPSEEK3)],
        ),
        cut(&["afmoe"], &[ThousandsFromTheRight, Expression(&e::AFMOE_RUN), Words(DEEPSEEK3)]),
        cut(
            &["deepseek-llm"],
            &[
                Expression(&e::NEWLINE),
                Expression(&e::CASED_WORD),
                Expression(&e::PUNCTUATION_WORD),
                Expression(&e::SPACES_AT_THE_END),
                Expression(&e::ASIAN_RUN),
                NumberRun,
            ],
        ),
        cut(
            &["deepseek-coder"],
            &[
                Expression(&e::NEWLINE),
                Expression(&e::LETTERS_AFTER_SPACE),
                Expression(&e::PUNCTUATION_AFTER_SPACE),
                Expression(&e::ASIAN_RUN),
                Number,
            ],
        ),
        cut(
            &[
                "gpt-2",
                "phi-2",
                "jais",
                "trillion",
                "granite-docling",
                "exaone4",
                "gigachat",
                "a.x-4.0",
                "mellum",
                "roberta-bpe",
                "jina-es",
                "jina-de",
                "jina-v1-en",
                "jina-v2-es",
                "jina-v2-de",
                "jina-v2-code",
            ],
            &[Words(GPT2)],
        ),
        cut(
            &["smollm", "starcoder", "refact", "codeshell", "exaone", "minerva-7b", "mellum2"],
            &[Number, Words(GPT2)],
        ),
        cut(&["mpt", "olmo", "modern-bert"], &[Words(GPT2)]).nfc(),
        cut(&["command-r"], &[Number, Words(GPT2)]).nfc(),
        cut(&["falcon"], &[PunctuationRun { backtick: true }, Words(GPT2), ThreeDigits]),
        cut(&["bloom", "poro-chat", "gpt3-finnish"], &[Expression(&e::BLOOM_WORD)]),
        cut(&["viking"], &[Expression(&e::BLOOM_WORD), Number]),
        cut(&["superbpe"], &[NumberRun, ThousandsFromTheRight]),
        cut(
            &["chameleon"],
            &[
                Expression(&e::CHAMELEON_SENTINEL),
                Expression(&e::CHAMELEON_IMAGE),
                Expression(&e::CHAMELEON_INDENT),
                Number,
                Expression(&e::PUNCTUATION),
                Words(GPT2),
            ],
        )
        .add_bos(),
        cut(&["default"], &[PunctuationRun { backtick: false }, Words(GPT2), NumberRun, ThreeDigits]),
    ]
};

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
    match step {
        Step::DigitsFromTheRight => by_three(text, true, &mut |part| split(rest, part, piece)),
        Step::ThousandsFromTheRight => by_three(text, false, &mut |part| split(rest, part, piece)),
        _ => {
            let mut left = text;
            while !left.is_empty() {
                let (head, tail) = left.split_at(step.piece_len(left));
                split(rest, head, piece);
                left = tail;
            }
        }
    }
}

fn is_number(c: char) -> bool {
    class(c) == Class::Number
}

fn is_digit(c: char) -> bool {
    c.is_ascii_digit() || !c.is_ascii() && get_general_category(c) == GeneralCategory::DecimalNumber
}

/// Cuts runs of digits by three from the right. `at_word_ends`: those that a letter, or another character of
/// words, follows stay with the text around them.
fn by_three<'a>(text: &'a str, at_word_ends: bool, piece: &mut dyn FnMut(&'a str)) {
    // What `\w` takes, but for digits.
    let goes_on = |c: char| {
        let joins = matches!(c, '\u{200C}' | '\u{200D}');
        let connects = get_general_category(c) == GeneralCategory::ConnectorPunctuation;
        c.is_alphabetic() || class(c) == Class::Mark || joins || connects
    };
    let (mut start, mut at) = (0, 0);
    while let Some(from) = text[at..].find(is_digit).map(|found| at + found) {
        let run = run_len(&text[from..], is_digit);
        at = from + run;
        if at_word_ends && text[at..].starts_with(goes_on) {
            continue;
        }
        if start < from {
            piece(&text[start..from]);
        }
        let mut digits = text[from..at].char_indices().map(|(i, _)| from + i).collect::<Vec<_>>();
        digits.push(at);
        let count = digits.len() - 1;
        let mut first = 0;
        while first < count {
            let next = first + if (count - first).is_multiple_of(3) { 3 } else { (count - first) % 3 };
            piece(&text[digits[first]..digits[next]]);
            first = next;
        }
        start = at;
    }
    if start < text.len() {
        piece(&text[start..]);
    }
}

/// Bytes at the start of `text` whose characters all pass.
fn run_len(text: &str, pass: impl Fn(char) -> bool) -> usize {
    text.find(|c| !pass(c)).unwrap_or(text.len())
}

impl Step {
    /// Bytes of the first piece of `text`, which is not empty; at least one character.
    fn piece_len(&self, text: &str) -> usize {
        // A run of characters that pass, else the run up to the first that does.
        let run_or_gap = |pass: &dyn Fn(char) -> bool| match run_len(text, pass) {
            0 => run_len(text, |c| !pass(c)),
            n => n,
        };
        let numbers = |most: usize| {
            let run = text.chars().take(most).take_while(|&c| is_number(c)).map(char::len_utf8).sum();
            if run > 0 { run } else { run_len(text, |c| !is_number(c)) }
        };
        let found = |start: usize, end: usize| if start == 0 { end } else { start };
        match self {
            Step::Number => numbers(1),
            Step::NumbersByThree => numbers(3),
            Step::NumberRun => run_or_gap(&is_number),
            Step::PunctuationRun { backtick } => run_or_gap(&|c| match class(c) {
                Class::Punctuation => true,
                Class::Symbol => c.is_ascii() && (c != '`' || *backtick),
                _ => false,
            }),
            Step::ThreeDigits => {
                let triple = text.as_bytes().windows(3).position(|w| w.iter().all(u8::is_ascii_digit));
                triple.map_or(text.len(), |at| found(at, at + 3))
            }
            Step::Expression(expression) => match expression.find(text).filter(|m| !m.is_empty()) {
                Some(m) => found(m.start(), m.end()),
                None => text.len(),
            },
            Step::Words(words) => words.piece_len(text),
            // Cut as a whole.
            Step::DigitsFromTheRight | Step::ThousandsFromTheRight => text.len(),
        }
    }
}

#[cfg(test)]
mod tests;
