//! Text of bounded length.

use std::fmt;

/// A string under construction that refuses to grow over a budget.
///
/// Writing through [`fmt::Write`] fails only for the budget.
#[derive(Debug)]
pub struct Text {
    text: String,
    budget: usize,
}

impl Text {
    /// An empty text of at most `budget` bytes.
    pub fn new(budget: usize) -> Text {
        Text { text: String::new(), budget }
    }

    /// Bytes that still fit.
    pub fn room(&self) -> usize {
        self.budget - self.text.len()
    }

    /// Takes bytes from the budget that were made on the way and are not in the text.
    ///
    /// # Errors
    /// They do not fit.
    pub fn charge(&mut self, bytes: usize) -> fmt::Result {
        if bytes > self.room() {
            return Err(fmt::Error);
        }
        self.budget -= bytes;
        Ok(())
    }

    /// What was written.
    pub fn into_string(self) -> String {
        self.text
    }
}

impl fmt::Write for Text {
    fn write_str(&mut self, s: &str) -> fmt::Result {
        if s.len() > self.room() {
            return Err(fmt::Error);
        }
        self.text.push_str(s);
        Ok(())
    }
}
