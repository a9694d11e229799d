//! Places in a text: our byte offsets, and the protocol's lines and columns.

use std::ops::Range;

use lsp_types::{Position, PositionEncodingKind};

/// What the protocol's columns count, as editor and server have agreed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Encoding {
    /// Bytes of UTF-8.
    Utf8,
    /// Code units of UTF-16: what every editor knows.
    Utf16,
}

impl Encoding {
    /// Bytes, where the editor offers them.
    pub(super) fn choose(offered: Option<&[PositionEncodingKind]>) -> Encoding {
        match offered.is_some_and(|kinds| kinds.contains(&PositionEncodingKind::UTF8)) {
            true => Encoding::Utf8,
            false => Encoding::Utf16,
        }
    }

    pub(super) fn name(self) -> PositionEncodingKind {
        match self {
            Encoding::Utf8 => PositionEncodingKind::UTF8,
            Encoding::Utf16 => PositionEncodingKind::UTF16,
        }
    }

    fn len(self, c: char) -> usize {
        match self {
            Encoding::Utf8 => c.len_utf8(),
            Encoding::Utf16 => c.len_utf16(),
        }
    }

    /// The protocol's place of a byte; of one inside a character, or behind the end, the next before.
    pub(super) fn position(self, text: &str, offset: usize) -> Position {
        let end = (0..=offset.min(text.len())).rev().find(|at| text.is_char_boundary(*at)).unwrap_or(0);
        let (mut line, mut start) = (0, 0);
        for next in line_starts(text).take_while(|next| *next <= end) {
            (line, start) = (line + 1, next);
        }
        let column: usize = text[start..end].chars().map(|c| self.len(c)).sum();
        Position { line, character: u32::try_from(column).unwrap_or(u32::MAX) }
    }

    /// The protocol's range of bytes.
    pub(super) fn range(self, text: &str, range: &Range<usize>) -> lsp_types::Range {
        lsp_types::Range { start: self.position(text, range.start), end: self.position(text, range.end) }
    }

    /// The byte at the protocol's place. A column behind the end of a line is its end, as the protocol has it, and a
    /// line behind the last one is the end of the text.
    pub(super) fn offset(self, text: &str, position: Position) -> usize {
        let start = match position.line {
            0 => Some(0),
            line => line_starts(text).nth(line as usize - 1),
        };
        let Some(start) = start else { return text.len() };
        let line = text[start..].split(['\r', '\n']).next().unwrap_or("");
        let mut left = position.character as usize;
        let mut at = start;
        for c in line.chars() {
            match left.checked_sub(self.len(c)) {
                Some(rest) if left > 0 => left = rest,
                _ => break,
            }
            at += c.len_utf8();
        }
        at
    }
}

/// Where the lines after the first begin. The protocol ends a line with CR LF, LF or CR.
fn line_starts(text: &str) -> impl Iterator<Item = usize> {
    let ends = text.match_indices(['\r', '\n']);
    ends.map(|(at, _)| at + 1).filter(|at| !text[at - 1..].starts_with("\r\n"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_character_is_found_again() {
        let text = "FROM x\r\n\u{1F600}é SYSTEM\n\n\rx\r";
        for encoding in [Encoding::Utf8, Encoding::Utf16] {
            for (at, c) in text.char_indices() {
                let position = encoding.position(text, at);
                // Between CR and LF there is no place.
                if c != '\n' || !text[..at].ends_with('\r') {
                    assert_eq!(encoding.offset(text, position), at, "{encoding:?} {at}");
                }
            }
        }
        assert_eq!(Encoding::Utf16.position(text, 14), Position { line: 1, character: 3 });
        assert_eq!(Encoding::Utf8.position(text, 14), Position { line: 1, character: 6 });
    }

    #[test]
    fn places_beyond_the_text_are_its_end() {
        let far = Position { line: u32::MAX, character: u32::MAX };
        assert_eq!(Encoding::Utf16.offset("a\nb", far), 3);
        assert_eq!(Encoding::Utf16.offset("a\r\nb", Position { line: 0, character: 9 }), 1);
        assert_eq!(Encoding::Utf16.offset("\u{1F600}b", Position { line: 0, character: 1 }), 0);
        assert_eq!(Encoding::Utf8.position("é", 1), Position { line: 0, character: 0 });
        assert_eq!(Encoding::Utf8.position("a", 99), Position { line: 0, character: 1 });
    }
}
