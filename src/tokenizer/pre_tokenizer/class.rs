//! What the expressions tell apart of characters.

use unicode_general_category::{GeneralCategory, get_general_category};

/// No character is in two of these; each is one bit, so that a [`Set`] is a sum.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u16)]
pub(super) enum Class {
    /// `[\p{Lu}\p{Lt}]`
    Upper = 1,
    /// `\p{Ll}`
    Lower = 1 << 1,
    /// `[\p{Lm}\p{Lo}]`
    Letter = 1 << 2,
    /// `\p{M}`
    Mark = 1 << 3,
    /// `\p{N}`
    Number = 1 << 4,
    /// `\p{P}`
    Punctuation = 1 << 5,
    /// `\p{S}`
    Symbol = 1 << 6,
    /// `[\r\n]`
    Newline = 1 << 7,
    /// `[\s--[\r\n]]`
    Blank = 1 << 8,
    /// Everything else.
    Other = 1 << 9,
}

/// Some of the classes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Set(u16);

impl Set {
    pub(super) const LETTERS: Set = Set::of(&[Class::Upper, Class::Lower, Class::Letter]);
    pub(super) const SPACES: Set = Set::of(&[Class::Newline, Class::Blank]);

    pub(super) const fn of(classes: &[Class]) -> Set {
        let mut bits = 0;
        let mut at = 0;
        while at < classes.len() {
            bits |= classes[at] as u16;
            at += 1;
        }
        Set(bits)
    }

    pub(super) const fn and(self, other: Set) -> Set {
        Set(self.0 | other.0)
    }

    pub(super) const fn and_not(self, other: Set) -> Set {
        Set(self.0 & !other.0)
    }

    pub(super) const fn not(self) -> Set {
        Set(!self.0)
    }

    pub(super) fn has(self, c: char) -> bool {
        self.0 & class(c) as u16 != 0
    }

    /// Bytes at the start of `text` whose characters are all in the set.
    pub(super) fn run_len(self, text: &str) -> usize {
        text.find(|c| !self.has(c)).unwrap_or(text.len())
    }
}

const ASCII: [Class; 128] = {
    let mut classes = [Class::Other; 128];
    let mut at = 0;
    while at < 128 {
        classes[at] = match at as u8 {
            b'A'..=b'Z' => Class::Upper,
            b'a'..=b'z' => Class::Lower,
            b'0'..=b'9' => Class::Number,
            b'\r' | b'\n' => Class::Newline,
            b'\t' | 0x0B | 0x0C | b' ' => Class::Blank,
            b'$' | b'+' | b'<' | b'=' | b'>' | b'^' | b'`' | b'|' | b'~' => Class::Symbol,
            b'!'..=b'~' => Class::Punctuation,
            _ => Class::Other,
        };
        at += 1;
    }
    classes
};

pub(super) fn class(c: char) -> Class {
    use GeneralCategory::*;
    if let Some(class) = ASCII.get(c as usize) {
        return *class;
    }
    match get_general_category(c) {
        UppercaseLetter | TitlecaseLetter => Class::Upper,
        LowercaseLetter => Class::Lower,
        ModifierLetter | OtherLetter => Class::Letter,
        NonspacingMark | SpacingMark | EnclosingMark => Class::Mark,
        DecimalNumber | LetterNumber | OtherNumber => Class::Number,
        ConnectorPunctuation | DashPunctuation | OpenPunctuation | ClosePunctuation | InitialPunctuation
        | FinalPunctuation | OtherPunctuation => Class::Punctuation,
        MathSymbol | CurrencySymbol | ModifierSymbol | OtherSymbol => Class::Symbol,
        _ if c.is_whitespace() => Class::Blank,
        _ => Class::Other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use fancy_regex::Regex;

    #[test]
    fn every_character_has_the_class_that_expressions_see() {
        use Class::*;
        let classes = [
            (Upper, r"[\p{Lu}\p{Lt}]"),
            (Lower, r"\p{Ll}"),
            (Letter, r"[\p{Lm}\p{Lo}]"),
            (Mark, r"\p{M}"),
            (Number, r"\p{N}"),
            (Punctuation, r"\p{P}"),
            (Symbol, r"\p{S}"),
            (Newline, r"[\r\n]"),
            (Blank, r"\s"),
        ]
        .map(|(class, expression)| (class, Regex::new(&format!(r"\A{expression}\z")).unwrap()));
        let mut buffer = [0; 4];
        // The planes that have characters: 0 to 3 and the first of 14.
        for c in (0..0x40000).chain(0xE0000..0xE1000).filter_map(char::from_u32) {
            let text = &*c.encode_utf8(&mut buffer);
            let theirs = classes.iter().find(|(_, e)| e.is_match(text).unwrap()).map_or(Other, |p| p.0);
            assert_eq!(class(c), theirs, "{c:?}");
        }
    }
}
