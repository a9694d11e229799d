//! Which tokens end a generation.

use super::vocabulary::{TokenType, Vocabulary};

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

/// Every control token whose name says that it ends a generation, by id.
pub(super) fn named(vocabulary: &Vocabulary) -> Vec<u32> {
    let control = |text: &str| {
        let id = vocabulary.id(text)?;
        (vocabulary.token_type(id) == Some(TokenType::Control)).then_some(id)
    };
    let mut ids: Vec<u32> = ENDS.iter().filter_map(|text| control(text)).collect();
    // gpt-oss ends each of its messages with `<|end|>`, and goes on: only the other two end an answer.
    if let Some(end) = control("<|end|>")
        && control("<|return|>").is_some()
        && control("<|call|>").is_some()
    {
        ids.retain(|&id| id != end);
    }
    ids
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ends(tokens: &[(&str, TokenType)]) -> Vec<u32> {
        let texts: Vec<String> = tokens.iter().map(|(t, _)| t.to_string()).collect();
        named(&Vocabulary::new(&texts, tokens.iter().map(|(_, t)| *t).collect()).unwrap())
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
