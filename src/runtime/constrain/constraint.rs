//! How far one text has come in its grammar.

use llguidance::Matcher;

use crate::diagnostic::{Diagnostic, Errors, Result};

/// How far one text has come in its grammar.
pub struct Constraint {
    matcher: Matcher,
    /// The text that has to come before the grammar begins, and the end of what came so far.
    after: Option<(Vec<u8>, Vec<u8>)>,
}

impl Constraint {
    pub(super) fn new(matcher: Matcher, after: Option<&str>) -> Constraint {
        let after = after.filter(|a| !a.is_empty()).map(|a| (a.as_bytes().to_vec(), Vec::new()));
        Constraint { matcher, after }
    }

    /// Rules out (`-inf`) every token that may not come next; end-of-generation tokens are ruled out
    /// until the text is complete.
    ///
    /// # Errors
    /// The grammar is too expensive to follow.
    pub fn mask(&mut self, logits: &mut [f32]) -> Result<()> {
        if self.after.is_some() {
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
        if let Some((end, seen)) = &mut self.after {
            seen.extend_from_slice(bytes);
            let found = seen.windows(end.len()).any(|w| w == end.as_slice());
            let keep = seen.len().saturating_sub(end.len());
            seen.drain(..keep);
            if found {
                self.after = None;
            }
            return Ok(());
        }
        self.matcher.consume_token(token).map_err(failed)
    }

    /// True when nothing but the end may follow: the generation is done.
    pub fn is_complete(&self) -> bool {
        self.after.is_none() && self.matcher.is_stopped()
    }
}

fn failed(error: impl std::fmt::Display) -> Errors {
    let text = error.to_string();
    let line: String = text.lines().next().unwrap_or("").chars().take(300).collect();
    Diagnostic::error(format!("the grammar cannot be followed: {line}")).code("grammar").into()
}
