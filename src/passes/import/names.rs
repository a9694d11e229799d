//! A checkpoint's names as the families know them: `model.layers.0…`, whatever the class that wrote them put in front.

/// Beginnings that stand for others. The first that fits counts.
const PREFIXES: &[(&str, &str)] = &[
    ("model.language_model.", "model."),
    ("language_model.model.", "model."),
    ("language_model.lm_head.", "lm_head."),
    ("text_model.", "model."),
    ("model.vision_tower.", "vision_tower."),
    ("model.multi_modal_projector.", "multi_modal_projector."),
    ("bert.", ""),
    // The bare model, without a head.
    ("layers.", "model.layers."),
    ("embed_tokens.", "model.embed_tokens."),
    ("norm.", "model.norm."),
];

/// Ends that stand for others: BERT's first checkpoints.
const SUFFIXES: &[(&str, &str)] = &[(".gamma", ".weight"), (".beta", ".bias")];

/// The name as the families know it.
pub(in crate::passes) fn usual(name: &str) -> String {
    let prefix = PREFIXES.iter().find_map(|(from, to)| Some((name.strip_prefix(from)?, *to)));
    let name = prefix.map_or_else(|| name.to_owned(), |(rest, to)| format!("{to}{rest}"));
    match SUFFIXES.iter().find_map(|(from, to)| Some((name.strip_suffix(from)?, *to))) {
        Some((rest, to)) => format!("{rest}{to}"),
        None => name,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn prefixes_are_exchanged() {
        for (name, expected) in [
            ("model.layers.0.mlp.up_proj.weight", "model.layers.0.mlp.up_proj.weight"),
            ("language_model.model.norm.weight", "model.norm.weight"),
            ("model.language_model.layers.1.x", "model.layers.1.x"),
            ("layers.0.input_layernorm.weight", "model.layers.0.input_layernorm.weight"),
            ("bert.embeddings.LayerNorm.gamma", "embeddings.LayerNorm.weight"),
            ("lm_head.weight", "lm_head.weight"),
        ] {
            assert_eq!(usual(name), expected);
        }
    }
}
