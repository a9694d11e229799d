//! How far one text has come in its grammar.

use llguidance::Matcher;
use llguidance::toktrie::TokTrie;

use super::After;
use crate::diagnostic::{Diagnostic, Errors, Result};

/// How far one text has come in its grammar.
pub struct Constraint {
    matcher: Matcher,
    thinking: Thinking,
}

/// What comes before the grammar.
enum Thinking {
    /// The first token decides: this is what it would begin and end with.
    Perhaps { open: Vec<u8>, close: Vec<u8> },
    /// It goes on to this text; the end of what came so far.
    Until { close: Vec<u8>, seen: Vec<u8> },
    /// Nothing any more.
    Over,
}

impl Constraint {
    pub(super) fn new(matcher: Matcher, after: Option<After<'_>>) -> Constraint {
        let bytes = |text: &str| text.as_bytes().to_vec();
        let thinking = match after {
            Some(After { close, begun: true, .. }) => {
                Thinking::Until { close: bytes(close), seen: Vec::new() }
            }
            Some(After { open, close, .. }) => Thinking::Perhaps { open: bytes(open), close: bytes(close) },
            None => Thinking::Over,
        };
        Constraint { matcher, thinking }
    }

    /// True when the likeliest token begins `open`.
    fn would_think(&self, logits: &[f32], open: &[u8]) -> bool {
        let likeliest = logits.iter().enumerate().max_by(|a, b| a.1.total_cmp(b.1));
        let (Some((token, _)), Ok(env)) = (likeliest, self.matcher.tok_env()) else { return false };
        let bytes = env.tok_trie().token(token as u32);
        let bytes = bytes.strip_prefix(&[TokTrie::SPECIAL_TOKEN_MARKER]).unwrap_or(bytes).trim_ascii();
        !bytes.is_empty() && (open.starts_with(bytes) || bytes.starts_with(open))
    }

    /// Rules out (`-inf`) every token that may not come next; end-of-generation tokens are ruled out
    /// until the text is complete.
    ///
    /// # Errors
    /// The grammar is too expensive to follow.
    pub fn mask(&mut self, logits: &mut [f32]) -> Result<()> {
        if let Thinking::Perhaps { open, close } = &self.thinking {
            self.thinking = match self.would_think(logits, open) {
                true => Thinking::Until { close: close.clone(), seen: Vec::new() },
                false => Thinking::Over,
            };
        }
        if !matches!(self.thinking, Thinking::Over) {
            return Ok(());
        }
        let mask = self.matcher.compute_mask_or_eos().map_err(failed)?;
        let words = mask.as_slice();
        for (chunk, logits) in logits.chunks_mut(32).enumerate() {
            let word = words.get(chunk).copied().unwrap_or(0);
            match word {
                u32::MAX => {}
                0 => logits.fill(f32::NEG_INFINITY),
                _ => {
                    for (bit, logit) in logits.iter_mut().enumerate() {
                        if word >> bit & 1 == 0 {
                            *logit = f32::NEG_INFINITY;
                        }
                    }
                }
            }
        }
        Ok(())
    }

    /// Takes the token that was chosen; `bytes` are its text.
    ///
    /// # Errors
    /// The token breaks the grammar.
    pub fn accept(&mut self, token: u32, bytes: &[u8]) -> Result<()> {
        if let Thinking::Until { close, seen } = &mut self.thinking {
            seen.extend_from_slice(bytes);
            let found = seen.windows(close.len().max(1)).any(|w| w == close.as_slice());
            let gone = seen.len().saturating_sub(close.len());
            seen.drain(..gone);
            if found {
                self.thinking = Thinking::Over;
            }
            return Ok(());
        }
        self.matcher.consume_token(token).map_err(failed)
    }

    /// True when nothing but the end may follow: the generation is done.
    pub fn is_complete(&self) -> bool {
        matches!(self.thinking, Thinking::Over) && self.matcher.is_stopped()
    }
}

fn failed(error: impl std::fmt::Display) -> Errors {
    let text = error.to_string();
    let line: String = text.lines().next().unwrap_or("").chars().take(300).collect();
    Diagnostic::error(format!("the grammar cannot be followed: {line}")).code("grammar").into()
}
