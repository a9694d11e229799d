//! How hidden states become an embedding: what a Sentence Transformers directory says beside the model.

use serde_json::Value;

use crate::diagnostic::{Diagnostic, Result};
use crate::formats::hf_config::Config;
use crate::ir::{Module, SourceText};

/// Which hidden states make an embedding.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Pooling {
    Mean,
    First,
    Last,
}

impl Pooling {
    /// As GGUF numbers it.
    pub(super) fn number(self) -> u32 {
        match self {
            Pooling::Mean => 1,
            Pooling::First => 2,
            Pooling::Last => 3,
        }
    }
}

/// The settings of the module, of which one is true, and its name where there is one for all.
const MODES: [(&str, &str, Pooling); 3] = [
    ("pooling_mode_mean_tokens", "mean", Pooling::Mean),
    ("pooling_mode_cls_token", "cls", Pooling::First),
    ("pooling_mode_lasttoken", "lasttoken", Pooling::Last),
];

/// The modes that no runtime here has.
const OTHERS: [&str; 3] =
    ["pooling_mode_max_tokens", "pooling_mode_mean_sqrt_len_tokens", "pooling_mode_weightedmean_tokens"];

/// The pooling of a directory with `modules.json`; `None` for a model that makes no embeddings.
///
/// # Errors
/// A file is malformed, or the pooling is none that is known.
pub(super) fn read(module: &Module) -> Result<Option<Pooling>> {
    let Some(modules) = module.text("modules.json") else { return Ok(None) };
    let Some(directory) = directory(modules)? else { return Ok(None) };
    let Some(text) = module.text(&format!("{directory}/config.json")) else {
        return Err(Diagnostic::error(format!(
            "the configuration of the pooling is missing: {directory}/config.json"
        ))
        .code("missing-file")
        .in_file(&modules.path, "")
        .help("download the whole repository again")
        .into());
    };
    let config = Config::parse(&text.path, &text.bytes)?;
    if let Some(mode) = config.optional_str("pooling_mode")? {
        let known = MODES.iter().find(|(_, name, _)| *name == mode);
        let (_, _, pooling) = known.ok_or_else(|| {
            config.error("pooling_mode", format!("the pooling \"{mode}\" is not supported"))
        })?;
        return Ok(Some(*pooling));
    }
    for name in OTHERS {
        config.require(name, &[false.into()])?;
    }
    let mut found = None;
    for (key, _, pooling) in MODES {
        if config.optional_bool(key)?.unwrap_or(false) {
            if found.is_some() {
                return Err(config.error(key, "a pooling of several kinds together is not supported").into());
            }
            found = Some(pooling);
        }
    }
    found.map(Some).ok_or_else(|| config.error("pooling_mode_mean_tokens", "no pooling is chosen").into())
}

/// The directory of the module that pools.
fn directory(modules: &SourceText) -> Result<Option<String>> {
    let list: Vec<Value> = serde_json::from_slice(&modules.bytes).map_err(|e| {
        Diagnostic::error(format!("not a list of modules: {e}")).code("bad-json").in_file(&modules.path, "")
    })?;
    let text = |module: &Value, key: &str| module.get(key).and_then(Value::as_str).map(str::to_owned);
    let pools = |module: &&Value| text(module, "type").is_some_and(|kind| kind.ends_with("Pooling"));
    Ok(list.iter().find(pools).and_then(|module| text(module, "path")))
}
