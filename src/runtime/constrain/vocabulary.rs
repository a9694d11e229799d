//! A tokenizer's tokens, as the library wants them.

use std::sync::Arc;

use llguidance::ParserFactory;
use llguidance::earley::SlicedBiasComputer;
use llguidance::toktrie::{ApproximateTokEnv, InferenceCapabilities, TokEnv, TokRxInfo, TokTrie};

use crate::diagnostic::{Diagnostic, Result};
use crate::tokenizer::{TokenType, Tokenizer};

/// The parsers of a vocabulary.
pub(super) fn factory(tokenizer: &Tokenizer) -> Result<ParserFactory> {
    let wrong = |why: &str| Diagnostic::error(format!("the vocabulary cannot be constrained: {why}"));
    let size = u32::try_from(tokenizer.vocab_size()).map_err(|_| wrong("it is too large"))?;
    let ids = || 0..size;
    let end = tokenizer.eos().filter(|id| *id < size);
    let end = end.or_else(|| ids().find(|id| tokenizer.is_end_of_generation(*id)));
    let end = end.ok_or_else(|| wrong("no token ends a text"))?;
    let words: Vec<Vec<u8>> = ids().map(|id| word(tokenizer, id)).collect();
    let trie = TokTrie::from(&TokRxInfo::new(size, end), &words);
    let env: TokEnv = Arc::new(ApproximateTokEnv::new(trie));
    let slices = SlicedBiasComputer::json_slices();
    let mut factory = ParserFactory::new(&env, InferenceCapabilities::default(), &slices)
        .map_err(|e| wrong(&format!("{e:#}")))?;
    factory.quiet();
    factory.limits_mut().verbose_errors = false;
    Ok(factory)
}

/// The bytes of a token; one that is no text begins with the marker of special tokens.
fn word(tokenizer: &Tokenizer, id: u32) -> Vec<u8> {
    let bytes = tokenizer.decode_bytes(id);
    let is_text = matches!(
        tokenizer.token_type(id),
        Some(TokenType::Normal | TokenType::UserDefined | TokenType::Byte)
    );
    match is_text && !bytes.is_empty() && !tokenizer.is_end_of_generation(id) {
        true => bytes.to_vec(),
        false => {
            let mut word = vec![TokTrie::SPECIAL_TOKEN_MARKER];
            word.extend_from_slice(tokenizer.token_text(id).unwrap_or("").as_bytes());
            word
        }
    }
}
