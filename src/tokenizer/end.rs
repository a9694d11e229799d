//! Which tokens end a generation.

use super::vocabulary::{TokenType, Vocabulary};
use crate::ir::Strings;

/// Control tokens that end a turn or a text by their name, whatever the metadata says.
const ENDS: &[&str] = &[
    "<|eot_id|>",            // Llama 3: end of turn
    "<|eom_id|>",            // Llama 3.1: end of message, a tool is to answer
    "<|end_of_text|>",       // Llama 3, Granite
    "<|im_end|>",            // ChatML: Qwen, SmolLM, ...
    "<|endoftext|>",         // GPT-2 and its successors
    "<|end|>",               // Phi 3, gpt-oss
    "<|return|>",            // gpt-oss: end of the answer
    "<|call|>",              // gpt-oss: a tool is to answer
    "<|eot|>",               // Llama 4
    "<end_of_turn>",         // Gemma
    "<eos>",                 // Gemma
    "</s>",                  // Llama 2, Mistral
    "<EOT>",                 // Code Llama
    "_<EOT>",                // Code Llama, as some vocabularies spell it
    "[EOT]",                 // Kimi
    "[EOS]",                 // Kimi
    "<｜end▁of▁sentence｜>", // DeepSeek
    "<end_of_utterance>",    // SmolVLM
    "<|END_OF_TURN_TOKEN|>", // Command R
    "<|flush|>",             // Solar Open
    "<|calls|>",             // Solar Open: a tool is to answer
    "<turn|>",               // Gemma 4
    "[e~[",                  // MiniMax
];

/// Those of the names above that end a user's or assistant's turn rather than a text: what
/// `tokenizer.ggml.eot_token_id` is for.
const ENDS_OF_TURN: &[&str] =
    &["<|eot_id|>", "<|im_end|>", "<|end|>", "<|eot|>", "<end_of_turn>", "[EOT]", "<|END_OF_TURN_TOKEN|>"];

/// The name of Llama 3.1's end of message: what `tokenizer.ggml.eom_token_id` is for.
pub(super) const END_OF_MESSAGE: &str = "<|eom_id|>";

/// True if the token's name says that it ends a turn.
pub(super) fn ends_turn(text: &str) -> bool {
    ENDS_OF_TURN.contains(&text)
}

/// Makes control tokens of those that end a generation by their name but are called user-defined, or plain
/// though written `<|...|>`, which some converters do: what a user writes must not end a turn.
pub(super) fn retype(tokens: &Strings, types: &mut [TokenType]) {
    for (text, kind) in tokens.iter().zip(types) {
        let other = match kind {
            TokenType::UserDefined => true,
            TokenType::Normal => text.starts_with("<|"),
            _ => false,
        };
        if other && ENDS.contains(&text) {
            *kind = TokenType::Control;
        }
    }
}

/// Every control token whose name says that it ends a generation, by id.
pub(super) fn named(vocabulary: &Vocabulary) -> Vec<u32> {
    let control = |text: &str| {
        let id = vocabulary.id(text)?;
        (vocabulary.token_type(id) == Some(TokenType::Control)).then_some(id)
    };
    let mut ids: Vec<u32> = ENDS.iter().filter_map(|text| control(text)).collect();
    // These end each of their messages with `<|end|>`, and go on: only the other two end an answer.
    let goes_on = [["<|return|>", "<|call|>"], ["<|flush|>", "<|calls|>"]];
    if let Some(end) = control("<|end|>")
        && goes_on.iter().any(|ends| ends.iter().all(|text| control(text).is_some()))
    {
        ids.retain(|&id| id != end);
    }
    ids
}

#[cfg(test)]
mod tests {
    use super::super::vocabulary::Alphabet;
    use super::*;

    fn ends(tokens: &[(&str, TokenType)]) -> Vec<u32> {
        let texts = tokens.iter().map(|(t, _)| t).collect();
        let types = tokens.iter().map(|(_, t)| *t).collect();
        named(&Vocabulary::new(texts, types, Alphabet::ByteLevel).unwrap())
    }

    #[test]
    fn names_end_a_generation_if_they_are_control_tokens() {
        use TokenType::*;
        assert_eq!(ends(&[("<|im_start|>", Control), ("<|im_end|>", Control), ("</s>", Normal)]), [1]);
        assert_eq!(ends(&[("<|end|>", Control), ("<|return|>", Control)]), [0, 1]);
        assert_eq!(ends(&[("<|end|>", Control), ("<|return|>", Control), ("<|call|>", Control)]), [1, 2]);
    }

    #[test]
    fn what_ends_a_turn_ends_a_generation() {
        assert!(ENDS_OF_TURN.iter().all(|text| ENDS.contains(text)));
        assert!(ENDS.contains(&END_OF_MESSAGE));
    }
}
