//! Words that come piece by piece, wrapped at a width.
//!
//! A word is held back until it is whole, so nothing that was written has to be taken back: it works on a terminal
//! without control sequences, and when the width changes on the way.

use unicode_width::{UnicodeWidthChar as _, UnicodeWidthStr as _};

/// Columns below which nothing is wrapped: the terminal does as well.
const NARROW: usize = 10;

/// Columns between the stops of a tab.
const TAB: usize = 8;

/// What has been written of a line, and what waits.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Wrap {
    /// Columns that are taken.
    column: usize,
    /// Blanks after the last word.
    blanks: String,
    /// The word that comes next, as far as it is there.
    word: String,
    /// It goes on from what was written: together they are longer than a line.
    goes_on: bool,
}

impl Wrap {
    /// Takes more text; gives what can be written now, on a terminal of so many columns.
    pub fn push(&mut self, text: &str, width: usize) -> String {
        let mut out = String::with_capacity(text.len() + 8);
        for c in text.chars() {
            match c {
                '\n' => {
                    self.place(&mut out, width);
                    self.blanks.clear();
                    (self.column, self.goes_on) = (0, false);
                    out.push('\n');
                }
                ' ' | '\t' => {
                    self.place(&mut out, width);
                    self.goes_on = false;
                    self.blanks.push(c);
                }
                c => {
                    if self.may_break_before(c) {
                        self.place(&mut out, width);
                    }
                    self.word.push(c);
                }
            }
        }
        // A word as long as a line is no word to wait for.
        if self.word.len() >= width && self.word.width() >= width {
            self.place(&mut out, width);
            self.goes_on = true;
        }
        out
    }

    /// Gives what was held back.
    pub fn finish(&mut self, width: usize) -> String {
        let mut out = String::new();
        self.place(&mut out, width);
        out.push_str(&std::mem::take(&mut self.blanks));
        out
    }

    /// True at the start of a line.
    pub fn is_at_start(&self) -> bool {
        self.column == 0 && self.word.is_empty() && self.blanks.is_empty()
    }

    /// Lines break between the characters of Chinese and Japanese, which know no blanks; not inside of what is
    /// shown as one character, nor before a mark that ends a phrase.
    fn may_break_before(&self, c: char) -> bool {
        const CLOSING: &str = "、。，．：；！？」』）】》〉〕］｝ー…";
        let Some(last) = self.word.chars().next_back() else { return false };
        let wide = |c: char| c.width() == Some(2);
        let joins = |c: char| c.width() == Some(0) || matches!(c, '\u{1f3fb}'..='\u{1f3ff}');
        (wide(last) || wide(c)) && !joins(c) && last != '\u{200d}' && !CLOSING.contains(c)
    }

    /// Writes the word, on the next line where it does not fit on this one.
    fn place(&mut self, out: &mut String, width: usize) {
        if self.word.is_empty() {
            return;
        }
        let (word, blanks) = (std::mem::take(&mut self.word), std::mem::take(&mut self.blanks));
        let goes_on = std::mem::take(&mut self.goes_on);
        let mut start = self.column;
        for blank in blanks.chars() {
            start = if blank == '\t' { (start / TAB + 1) * TAB } else { start + 1 };
        }
        let end = start + word.width();
        if width >= NARROW && self.column > 0 && end > width && !goes_on {
            out.push('\n');
            self.column = word.width();
        } else {
            out.push_str(&blanks);
            self.column = end;
        }
        out.push_str(&word);
        // What is longer than a line, the terminal has broken.
        if width > 0 && self.column > width {
            self.column %= width;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// Wrapped in pieces of so many characters.
    fn wrapped(text: &str, width: usize, piece: usize) -> String {
        let mut wrap = Wrap::default();
        let chars: Vec<char> = text.chars().collect();
        let mut out = String::new();
        for part in chars.chunks(piece) {
            out.push_str(&wrap.push(&part.iter().collect::<String>(), width));
        }
        out.push_str(&wrap.finish(width));
        out
    }

    #[test]
    fn words_go_to_the_next_line() {
        let text =
            "It was a dark and stormy night; the rain fell in torrents.\n\n    indented code\tand a tab";
        insta::with_settings!({
            snapshot_path => concat!(env!("CARGO_MANIFEST_DIR"), "/snapshots"),
            prepend_module_to_snapshot => false,
        }, {
            insta::assert_snapshot!("terminal_wrapped", wrapped(text, 20, 3));
        });
    }

    #[test]
    fn wide_and_combining_characters_count_as_they_are_shown() {
        assert_eq!(
            wrapped("吾輩は猫である。名前はまだ無い。", 10, 1),
            "吾輩は猫で\nある。名前\nはまだ無\nい。"
        );
        // Ten letters with accents of their own take ten columns.
        let accents = "e\u{301}".repeat(10);
        assert_eq!(wrapped(&format!("{accents} x"), 12, 1), format!("{accents} x"));
        assert_eq!(wrapped(&format!("{accents} xyz"), 12, 1), format!("{accents}\nxyz"));
        // A family is one character, however its parts come.
        let family = "👨\u{200d}👩\u{200d}👧";
        assert_eq!(wrapped(&format!("12345678 {family}"), 10, 1), format!("12345678\n{family}"));
        assert_eq!(wrapped(&format!("1234567 {family}"), 10, 1), format!("1234567 {family}"));
    }

    #[test]
    fn a_word_longer_than_a_line_is_left_to_the_terminal() {
        assert_eq!(wrapped("a 0123456789012345 b", 12, 4), "a\n0123456789012345 b");
        assert_eq!(wrapped("much too narrow", 4, 1), "much too narrow");
    }

    proptest! {
        /// Nothing but blanks at breaks is lost, no line of short words is longer than the width, and how the text
        /// was cut does not matter.
        #[test]
        fn words_stay_and_lines_fit(text in "([a-z]{1,9}[ \n]{1,2}){0,40}", width in 10usize..40, piece in 1usize..9) {
            let out = wrapped(&text, width, piece);
            prop_assert_eq!(out.split_whitespace().collect::<Vec<_>>(), text.split_whitespace().collect::<Vec<_>>());
            prop_assert!(out.lines().all(|l| l.trim_end().width() <= width));
            prop_assert_eq!(&out, &wrapped(&text, width, 1));
        }
    }
}
