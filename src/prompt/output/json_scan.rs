//! Finds where a JSON value ends, without looking at a byte twice.

/// Nesting of a call at most.
const MOST_DEPTH: usize = 128;

/// Bytes of a call at most.
const MOST_BYTES: usize = 1 << 20;

/// How far a value has been read.
#[derive(Clone, Debug, Default)]
pub(super) struct JsonScan {
    depth: usize,
    in_string: bool,
    escaped: bool,
    at: usize,
}

/// What is known after more text.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Scanned {
    /// The value goes on.
    More,
    /// It ends before this byte.
    End(usize),
    /// It is none, or larger than a call may be.
    Not,
}

impl JsonScan {
    /// Looks at `text`, which begins with the value's first brace or bracket and has grown since the last call.
    pub(super) fn push(&mut self, text: &str) -> Scanned {
        if text.len() > MOST_BYTES {
            return Scanned::Not;
        }
        while let Some(&byte) = text.as_bytes().get(self.at) {
            self.at += 1;
            if self.in_string {
                match byte {
                    _ if self.escaped => self.escaped = false,
                    b'\\' => self.escaped = true,
                    b'"' => self.in_string = false,
                    _ => {}
                }
                continue;
            }
            match byte {
                b'"' => self.in_string = true,
                b'{' | b'[' if self.depth == MOST_DEPTH => return Scanned::Not,
                b'{' | b'[' => self.depth += 1,
                b'}' | b']' => {
                    let Some(depth) = self.depth.checked_sub(1) else { return Scanned::Not };
                    self.depth = depth;
                    if depth == 0 {
                        return Scanned::End(self.at);
                    }
                }
                _ if self.depth == 0 => return Scanned::Not,
                _ => {}
            }
        }
        Scanned::More
    }
}
