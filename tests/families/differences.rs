//! Where our GGUF metadata is not what llama.cpp's converter writes, and why. Whatever is not listed is equal.

/// A key, the fixtures it differs in, and why.
pub struct Difference {
    /// The key, or a part of it where it begins or ends with `*`.
    key: &'static str,
    /// The fixtures; all where none is named.
    fixtures: &'static [&'static str],
    pub why: &'static str,
}

const fn everywhere(key: &'static str, why: &'static str) -> Difference {
    Difference { key, fixtures: &[], why }
}

const fn within(fixtures: &'static [&'static str], key: &'static str, why: &'static str) -> Difference {
    Difference { key, fixtures, why }
}

/// Names of `tokenizer.ggml.pre`, ours and theirs, that mean the same way to cut text.
pub const SAME_CUT: &[(&str, &str, &str)] = &[
    (
        "default",
        "bert-bge",
        "WordPiece cuts text in one way; the converter names vocabularies that it knows by a hash",
    ),
    ("dbrx", "falcon3", "one expression, without `ignore_merges`"),
    ("dbrx", "glm4", "one expression, without `ignore_merges`"),
    ("smollm", "refact", "digits one by one, then GPT-2's expression"),
    ("qwen2", "stablelm2", "one expression after NFC"),
];

/// Every difference there may be.
#[rustfmt::skip]
pub const DIFFERENCES: &[Difference] = &[
    everywhere("general.name", "made of the directory's name: the same weights would not be the same file everywhere"),
    everywhere("general.basename", "as general.name"),
    everywhere("general.finetune", "as general.name"),
    everywhere("general.version", "as general.name"),
    everywhere("general.size_label", "as general.name, and the store has the number of parameters"),
    everywhere("general.type", "every reader takes a file without it for a model"),
    everywhere("general.sampling.*", "a Modelfile's PARAMETERs are where sampling is said"),
    everywhere("tokenizer.ggml.eos_token_ids", "generation_config names several ends; the converter keeps one"),
    everywhere("tokenizer.ggml.eot_token_id", "as eos_token_ids: one of them ends a turn; GLM's is its EOS"),
    everywhere("tokenizer.ggml.eom_token_id", "as eos_token_ids: one of them ends a message"),
    everywhere("mdl.*", "what Hugging Face's tokenizer does and GGUF has no key for; other readers pass over it"),
    within(&["falcon3", "granite"], "tokenizer.ggml.add_space_prefix", "means nothing to byte-level BPE"),
    within(&["mistral"], "tokenizer.ggml.add_space_prefix", "true, which its absence means for SentencePiece"),
    within(&["glm4"], "tokenizer.ggml.unknown_token_id", "byte-level BPE never writes it"),
    within(&["mistral"], "llama.attention.sliding_window", "the converter drops the window; without it long texts differ"),
    within(&["gemma2"], "gemma2.attention.scale", "the converter drops query_pre_attn_scalar where it is not the usual one"),
    within(&["gemma3"], "gemma3.attention.scale", "as gemma2.attention.scale"),
    within(&["mistral-consolidated"], "tokenizer.ggml.scores", "zeros, which byte-level BPE does not read"),
    within(&["mistral-consolidated"], "tokenizer.chat_template", "the name of a template that llama.cpp has built in"),
];

impl Difference {
    /// True for a key of a fixture that it speaks of.
    pub fn is_of(&self, fixture: &str, key: &str) -> bool {
        let named = match (self.key.strip_prefix('*'), self.key.strip_suffix('*')) {
            (Some(end), _) => key.ends_with(end),
            (_, Some(start)) => key.starts_with(start),
            _ => self.key == key,
        };
        named && (self.fixtures.is_empty() || self.fixtures.contains(&fixture))
    }
}
