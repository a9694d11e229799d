//! What a model can be asked for, by its metadata and its template.

use super::{Limits, Template};
use crate::ir::Module;

/// The template in force, as text; empty where there is none.
pub fn template_text(module: &Module) -> &str {
    let own = module.prompt.template.as_deref();
    own.or_else(|| module.metadata.str("tokenizer.chat_template")).unwrap_or("")
}

/// `completion`, `embedding`, `tools`, `insert`, `thinking`.
pub fn capabilities(module: &Module) -> Vec<&'static str> {
    let architecture = module.architecture().unwrap_or("");
    let pools = module.metadata.get(&format!("{architecture}.pooling_type")).is_some();
    if pools || module.metadata.bool(&format!("{architecture}.attention.causal")) == Some(false) {
        return vec!["embedding"];
    }
    let mut all = vec!["completion"];
    let chat_template = module.metadata.str("tokenizer.chat_template");
    let own = module.prompt.template.as_deref();
    // A template that cannot be read offers nothing; to load the model says why.
    if let Ok(template) = Template::choose(own, chat_template, Limits::default()) {
        all.extend(template.supports_tools().then_some("tools"));
        all.extend(template.supports_infill().then_some("insert"));
        all.extend(template.output_syntax().thinking.is_some().then_some("thinking"));
    }
    all
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ir::Value;

    #[test]
    fn a_model_embeds_or_completes() {
        let mut module = Module::default();
        module.metadata.set("general.architecture", "llama".to_owned());
        assert_eq!(capabilities(&module), ["completion"]);
        module.prompt.template =
            Some("{{ if .Suffix }}{{ end }}{{ range .Tools }}{{ . }}{{ end }}".to_owned());
        assert_eq!(capabilities(&module), ["completion", "tools", "insert"]);
        module.metadata.set("llama.pooling_type", Value::U32(1));
        assert_eq!(capabilities(&module), ["embedding"]);
    }
}
