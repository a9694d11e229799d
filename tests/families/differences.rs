//! Where our GGUF metadata is not what llama.cpp's converter writes, and why. Whatever is not listed is equal.

/// A key, and why it differs.
pub struct Difference {
    /// The key, or its beginning where it ends in `*`.
    pub key: &'static str,
    pub why: &'static str,
}

const fn differs(key: &'static str, why: &'static str) -> Difference {
    Difference { key, why }
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
pub const DIFFERENCES: &[Difference] = &[
    differs(
        "general.name",
        "made of the directory's name: the same weights would not be the same file everywhere",
    ),
    differs("general.basename", "as general.name"),
    differs("general.finetune", "as general.name"),
    differs("general.version", "as general.name"),
    differs("general.size_label", "as general.name, and the store has the number of parameters"),
    differs("general.type", "every reader takes a file without it for a model"),
    differs("general.sampling.*", "a Modelfile's PARAMETERs are where sampling is said"),
    differs("tokenizer.ggml.eos_token_ids", "generation_config names several ends; the converter keeps one"),
    differs("tokenizer.ggml.eot_token_id", "as eos_token_ids: one of them ends a turn; GLM's is its EOS"),
    differs("tokenizer.ggml.eom_token_id", "as eos_token_ids: one of them ends a message"),
    differs(
        "tokenizer.ggml.unknown_token_id",
        "the converter gives GLM one, which byte-level BPE never writes",
    ),
    differs("tokenizer.ggml.add_space_prefix", "written for byte-level BPE too, to which it means nothing"),
    differs(
        "mdl.*",
        "what Hugging Face's tokenizer does and GGUF has no key for; other readers pass over it",
    ),
    differs(
        "gemma2.attention.scale",
        "the converter drops query_pre_attn_scalar where it is not the usual one",
    ),
    differs("gemma3.attention.scale", "as gemma2.attention.scale"),
    differs(
        "*.attention.sliding_window",
        "the converter drops Mistral's window; without it long texts differ",
    ),
    differs(
        "*.attention.sliding_window_pattern",
        "written where it is not the pattern every reader takes for granted",
    ),
];

impl Difference {
    /// True for a key that it speaks of.
    pub fn is_of(&self, key: &str) -> bool {
        match (self.key.strip_prefix('*'), self.key.strip_suffix('*')) {
            (Some(end), _) => key.ends_with(end),
            (_, Some(start)) => key.starts_with(start),
            _ => self.key == key,
        }
    }
}
