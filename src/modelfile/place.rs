//! Lines and columns of many places in one text, counted in one go.

/// Walks through a text. [`Span::line_column`](crate::diagnostic::Span::line_column) starts anew
/// each time; this goes on from the place before, if the next one is behind it.
pub(super) struct Places<'a> {
    text: &'a str,
    at: usize,
    line: usize,
    column: usize,
}

impl<'a> Places<'a> {
    pub fn new(text: &'a str) -> Self {
        Places { text, at: 0, line: 1, column: 1 }
    }

    /// One-based line and column (in characters) of a byte offset.
    pub fn line_column(&mut self, offset: usize) -> (usize, usize) {
        if offset < self.at {
            *self = Places::new(self.text);
        }
        let between = self.text.get(self.at..offset).unwrap_or("");
        match between.rfind('\n') {
            Some(newline) => {
                self.line += between.matches('\n').count();
                self.column = between.get(newline..).unwrap_or("").chars().count();
            }
            None => self.column += between.chars().count(),
        }
        self.at = offset;
        (self.line, self.column)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::diagnostic::{Source, Span};

    #[test]
    fn places_are_those_of_spans() {
        let text = "ab\n\né\u{1F600}x\r\n\ty";
        let source = Arc::new(Source { name: "m".to_owned(), text: text.to_owned() });
        let offsets: Vec<usize> = (0..=text.len()).filter(|at| text.is_char_boundary(*at)).collect();
        let mut places = Places::new(text);
        for &at in offsets.iter().chain(offsets.iter().rev()) {
            let span = Span { source: source.clone(), range: at..at };
            assert_eq!(places.line_column(at), span.line_column(), "{at}");
        }
    }
}
