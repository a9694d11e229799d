//! An answer as it comes: text, and thinking that is told apart.

use super::screen::{self, Screen};
use super::wrap::Wrap;
use crate::diagnostic::Result;
use crate::prompt::output::Piece;

/// How an answer is shown.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Look {
    /// What the terminal can do.
    pub screen: Screen,
    /// Words are wrapped at the terminal's width.
    pub wrap: bool,
    /// Thinking is not shown.
    pub hide_thinking: bool,
}

/// Shows one answer.
pub struct View<'a> {
    look: Look,
    wrap: Wrap,
    part: Part,
    /// The last character of the part is a line break.
    at_start: bool,
    write: &'a mut dyn FnMut(&str) -> Result<()>,
    width: &'a dyn Fn() -> Option<usize>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Part {
    Nothing,
    Thinking,
    Text,
}

const BEGIN_THINKING: &str = "Thinking...\n";
const END_THINKING: &str = "...done thinking.\n\n";

impl<'a> View<'a> {
    /// Nothing yet. `write` takes what is to be shown; `width` tells the terminal's columns.
    pub fn new(
        look: Look,
        write: &'a mut dyn FnMut(&str) -> Result<()>,
        width: &'a dyn Fn() -> Option<usize>,
    ) -> View<'a> {
        View { look, wrap: Wrap::default(), part: Part::Nothing, at_start: true, write, width }
    }

    /// Shows more.
    ///
    /// # Errors
    /// It cannot be written.
    pub fn piece(&mut self, piece: &Piece) -> Result<()> {
        match piece {
            Piece::Thinking(_) if self.look.hide_thinking => Ok(()),
            Piece::Thinking(text) => {
                if self.part != Part::Thinking {
                    self.end_line()?;
                    self.part = Part::Thinking;
                    self.emit(BEGIN_THINKING)?;
                }
                self.emit(text)
            }
            Piece::Text(text) => {
                self.end_thinking()?;
                self.part = Part::Text;
                self.emit(text)
            }
            Piece::ToolCall { name, arguments } => {
                self.end_thinking()?;
                self.part = Part::Text;
                self.emit(&format!("{name}({arguments})\n"))
            }
        }
    }

    /// Shows what was held back, and ends the line.
    ///
    /// # Errors
    /// It cannot be written.
    pub fn end(mut self) -> Result<()> {
        match self.part {
            Part::Thinking => self.end_thinking(),
            Part::Nothing | Part::Text => {
                self.flush()?;
                (self.write)("\n")
            }
        }
    }

    fn end_thinking(&mut self) -> Result<()> {
        if self.part == Part::Thinking {
            self.end_line()?;
            self.emit(END_THINKING)?;
        }
        Ok(())
    }

    /// Begins a line, unless one has been begun.
    fn end_line(&mut self) -> Result<()> {
        match self.at_start {
            true => Ok(()),
            false => self.emit("\n"),
        }
    }

    fn emit(&mut self, text: &str) -> Result<()> {
        if let Some(last) = text.chars().next_back() {
            self.at_start = last == '\n';
        }
        if !self.look.screen.terminal {
            return self.styled(text);
        }
        let text = screen::printable(text);
        match (self.width)().filter(|_| self.look.wrap) {
            Some(width) => {
                let now = self.wrap.push(&text, width);
                self.styled(&now)
            }
            None => {
                let mut held = self.wrap.finish(0);
                held.push_str(&text);
                self.styled(&held)
            }
        }
    }

    fn flush(&mut self) -> Result<()> {
        let held = self.wrap.finish((self.width)().unwrap_or(0));
        self.styled(&held)
    }

    /// Each piece has its own style: an end at any moment leaves the terminal as it was.
    fn styled(&mut self, text: &str) -> Result<()> {
        match text {
            "" => Ok(()),
            _ if self.part == Part::Thinking && self.look.screen.styled => {
                (self.write)(&format!("\u{1b}[2m{text}\u{1b}[22m"))
            }
            _ => (self.write)(text),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(look: Look, pieces: &[Piece]) -> String {
        let mut out = String::new();
        let mut write = |text: &str| {
            out.push_str(text);
            Ok(())
        };
        let mut view = View::new(look, &mut write, &|| Some(24));
        for piece in pieces {
            view.piece(piece).unwrap();
        }
        view.end().unwrap();
        out
    }

    fn answer() -> Vec<Piece> {
        let text = |t: &str| Piece::Text(t.to_owned());
        vec![
            Piece::Thinking("They ask for a\u{1b}[31m colour, I ".to_owned()),
            Piece::Thinking("think.".to_owned()),
            text("The sky is bl"),
            text("ue because of\u{9b} scattering."),
        ]
    }

    #[test]
    fn thinking_is_told_apart() {
        let screen = |terminal, styled| Screen { terminal, styled };
        let look = |screen, wrap, hide_thinking| Look { screen, wrap, hide_thinking };
        let mut told = String::new();
        for (name, look) in [
            ("a terminal", look(screen(true, true), true, false)),
            ("without styles", look(screen(true, false), true, false)),
            ("without wrapping", look(screen(true, false), false, false)),
            ("thinking hidden", look(screen(true, true), true, true)),
            ("a file", look(screen(false, false), true, false)),
        ] {
            let shown = shown(look, &answer());
            told.push_str(&format!(
                "{name}\n{}---\n",
                shown.replace('\u{1b}', "ESC").replace('\u{9b}', "CSI")
            ));
        }
        insta::with_settings!({
            snapshot_path => concat!(env!("CARGO_MANIFEST_DIR"), "/snapshots"),
            prepend_module_to_snapshot => false,
        }, {
            insta::assert_snapshot!("terminal_view", told);
        });
    }

    #[test]
    fn an_answer_that_only_thinks_is_ended() {
        let look =
            Look { screen: Screen { terminal: true, styled: false }, wrap: true, hide_thinking: false };
        assert_eq!(
            shown(look, &[Piece::Thinking("Hm\n".to_owned())]),
            "Thinking...\nHm\n...done thinking.\n\n"
        );
        assert_eq!(shown(look, &[]), "\n");
    }
}
