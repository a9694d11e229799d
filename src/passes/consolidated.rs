//! `consolidated`: a checkpoint in Mistral's and Meta's own layout becomes one in Hugging Face's:
//! its names, its configuration, and the order of q's and k's rows. It comes before import.

use crate::diagnostic::{Diagnostic, Result};
use crate::formats::consolidated::{self, Rows};
use crate::formats::hf_config::Config;
use crate::ir::{Expr, Module, SourceText};

/// Runs the step; a module in another layout passes unchanged.
///
/// # Errors
/// `params.json`, where there is no `config.json`, is missing or has what is not known.
pub fn run(mut module: Module) -> Result<Module> {
    if module.texts.is_empty() || module.tensor(consolidated::MARK).is_none() {
        return Ok(module);
    }
    if module.text("config.json").is_none() {
        let params = module.text("params.json").ok_or_else(|| {
            Diagnostic::error("the checkpoint has neither config.json nor params.json")
                .help("download the whole repository, not the weights alone")
        })?;
        let bytes = consolidated::config(&params.path, &params.bytes)?.into();
        let (name, path) = ("config.json".to_owned(), params.path.clone());
        module.texts.push(SourceText { name, path, bytes });
    }
    let Some(text) = module.text("config.json").cloned() else { return Ok(module) };
    let config = Config::parse(&text.path, &text.bytes)?;
    let heads = config.size(["num_attention_heads", "n_head"])?;
    let kv_heads = config.optional_size("num_key_value_heads")?.unwrap_or(heads);
    module.tensors.retain(|tensor| !consolidated::IGNORED.contains(&tensor.name.as_str()));
    for tensor in &mut module.tensors {
        let Some((name, rows)) = consolidated::hf_name(&tensor.name) else { continue };
        tensor.name = name;
        let heads = match rows {
            Rows::Same => continue,
            Rows::Queries => heads,
            Rows::Keys => kv_heads,
        };
        tensor.expr = Expr::HalveRope { of: Box::new(tensor.expr.clone()), heads };
    }
    Ok(module)
}
