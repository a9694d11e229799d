//! Chat templates that many models are shipped with, and the TEMPLATE and stop texts that say the same in
//! Ollama's language.
//!
//! A GGUF file or checkpoint brings a Jinja template. Ollama gives a model made of one a TEMPLATE of its
//! own when that text is near enough to one it knows; so do we, with the names that Ollama gives them.

/// A template that is known.
#[derive(Debug)]
pub struct Known {
    /// Its name.
    pub name: &'static str,
    /// The chat template in Jinja, in the spellings that models are shipped with.
    pub jinja: &'static [&'static str],
    /// The TEMPLATE that makes the same text. BOS is left to the tokenizer.
    pub go: &'static str,
    /// The texts that end an answer.
    pub stop: &'static [&'static str],
}

/// A row of the table: the files of a template, in the folder `templates`.
macro_rules! known {
    ($name:literal, [$($jinja:literal),+], $stop:expr) => {
        Known {
            name: $name,
            jinja: &[$(include_str!(concat!("templates/", $jinja, ".jinja"))),+],
            go: include_str!(concat!("templates/", $name, ".gotmpl")),
            stop: &$stop,
        }
    };
}

/// Every known template, by name.
pub static KNOWN: [Known; 20] = [
    known!("alfred", ["alfred"], ["<start_system>", "<end_message>", "<start_user>", "<start_assistant>"]),
    known!("alpaca", ["alpaca", "alpaca-2"], ["### Instruction:", "### Response"]),
    known!("chatml", ["chatml", "chatml-2", "chatml-3", "chatml-4"], ["<|im_start|>", "<|im_end|>"]),
    known!("chatqa", ["chatqa"], ["System:", "User:", "Assistant:", "<|begin_of_text|>"]),
    known!("codellama-70b-instruct", ["codellama-70b-instruct"], ["Source:", "Destination:", "<step>"]),
    known!(
        "command-r",
        ["command-r", "command-r-2", "command-r-3"],
        ["<|START_OF_TURN_TOKEN|>", "<|END_OF_TURN_TOKEN|>"]
    ),
    known!("falcon-instruct", ["falcon-instruct"], ["User:", "Falcon:"]),
    known!("gemma-instruct", ["gemma-instruct", "gemma-instruct-2"], ["<start_of_turn>", "<end_of_turn>"]),
    known!("gemma3-instruct", ["gemma3-instruct"], ["<end_of_turn>"]),
    known!("granite-instruct", ["granite-instruct"], ["System:", "Question:", "Answer:"]),
    known!("llama2-chat", ["llama2-chat", "llama2-chat-2"], ["[INST]", "[/INST]", "<<SYS>>", "<</SYS>>"]),
    known!(
        "llama3-instruct",
        ["llama3-instruct", "llama3-instruct-2"],
        ["<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"]
    ),
    known!("magicoder", ["magicoder"], ["@@ Instruction", "@@ Response"]),
    known!("mistral-instruct", ["mistral-instruct"], ["[INST]", "[/INST]"]),
    known!("openchat", ["openchat", "openchat-2"], ["<|end_of_turn|>"]),
    known!("phi-3", ["phi-3", "phi-3-2"], ["<|end|>", "<|system|>", "<|user|>", "<|assistant|>"]),
    known!("solar-instruct", ["solar-instruct"], ["### System:", "### User:", "### Assistant"]),
    known!(
        "starcoder2-instruct",
        ["starcoder2-instruct"],
        ["### Instruction", "### Response", "<|endoftext|>"]
    ),
    known!("vicuna", ["vicuna"], ["USER:", "ASSISTANT:"]),
    known!("zephyr", ["zephyr", "zephyr-2"], ["<|system|>", "</s>", "<|user|>", "<|assistant|>"]),
];

/// Texts that are this far apart, or farther, are two templates.
const FAR: usize = 100;

/// The known template that a chat template is nearest to, unless it is far from all.
///
/// Takes time in proportion to the longest known template, whatever is asked.
pub fn nearest(chat_template: &str) -> Option<&'static Known> {
    let longest = KNOWN.iter().flat_map(|k| k.jinja).map(|j| j.len()).max().unwrap_or_default();
    let text = chat_template.trim();
    // A character has four bytes at most.
    if text.len() > (longest + FAR) * 4 {
        return None;
    }
    let text: Vec<char> = text.chars().collect();
    let mut best = (FAR, None);
    for known in &KNOWN {
        for jinja in known.jinja {
            let jinja: Vec<char> = jinja.trim().chars().collect();
            if let Some(distance) = distance_below(&text, &jinja, best.0) {
                best = (distance, Some(known));
            }
        }
    }
    best.1
}

/// The least number of characters to insert, delete or replace that make `b` of `a`, where it is less than
/// `most`: the Levenshtein distance, in a band of `most` on each side of the diagonal (Ukkonen 1985).
fn distance_below(a: &[char], b: &[char], most: usize) -> Option<usize> {
    if a.len().abs_diff(b.len()) >= most {
        return None;
    }
    // row[j]: the distance of the first i characters of a and the first j of b; `most` for that or more.
    let mut row: Vec<usize> = (0..=b.len()).map(|j| j.min(most)).collect();
    for (i, x) in a.iter().enumerate() {
        let first = (i + 1).saturating_sub(most).max(1);
        let last = (i + 1 + most).min(b.len());
        let mut diagonal = row[first - 1];
        row[first - 1] = if first == 1 { (i + 1).min(most) } else { most };
        let mut least = row[first - 1];
        for j in first..=last {
            let replaced = diagonal + usize::from(*x != b[j - 1]);
            diagonal = row[j];
            row[j] = replaced.min(row[j] + 1).min(row[j - 1] + 1).min(most);
            least = least.min(row[j]);
        }
        if least >= most {
            return None;
        }
    }
    row.last().copied().filter(|distance| *distance < most)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_template_is_nearest_to_itself() {
        for known in &KNOWN {
            for jinja in known.jinja {
                assert_eq!(nearest(jinja).map(|k| k.name), Some(known.name));
                let other = format!("{{# a comment #}}{jinja}\n");
                assert_eq!(nearest(&other).map(|k| k.name), Some(known.name));
            }
        }
    }

    #[test]
    fn a_text_that_is_far_from_all_is_near_to_none() {
        let tools = include_str!("../../../testdata/templates/jinja/meta-llama-Llama-3.1-8B-Instruct.jinja");
        assert!(nearest(tools).is_none());
        assert!(nearest("{{ messages }}").is_none() && nearest("").is_none());
        let long = KNOWN[0].jinja[0].repeat(100_000);
        assert!(nearest(&long).is_none());
    }

    proptest! {
        #[test]
        fn the_band_finds_the_whole_tables_distance(a in "[ab]{0,24}", b in "[abc]{0,24}", most in 1_usize..30) {
            let whole = strsim::levenshtein(&a, &b);
            let (a, b): (Vec<char>, Vec<char>) = (a.chars().collect(), b.chars().collect());
            prop_assert_eq!(distance_below(&a, &b, most), Some(whole).filter(|d| *d < most));
        }
    }
}
