//! `import`: a checkpoint's names, metadata and tokenizer become GGUF's.
//!
//! A module that comes from a GGUF file has no texts and passes unchanged.

mod names;
mod pooling;
pub(super) mod tensors;

pub(super) use names::usual;

use std::path::Path;

use crate::diagnostic::{Diagnostic, Errors, Result};
use crate::families::{self, Family, Imported};
use crate::formats::hf_config::Config;
use crate::formats::quantization_config;
use crate::ir::{Metadata, Module};
use crate::tokenizer::hf;

use super::{Context, consolidated, dequantize};

/// Runs the pass.
///
/// # Errors
/// The checkpoint is of no known family, its configuration asks for what is not implemented, or a
/// tensor is unknown.
pub fn run(module: Module, context: &Context<'_>) -> Result<Module> {
    if module.texts.is_empty() {
        return Ok(module);
    }
    let mut module = consolidated::run(module)?;
    let text = module.text("config.json").cloned().ok_or_else(|| {
        Diagnostic::error("the checkpoint has no config.json").help("copy it from the original model")
    })?;
    let config = Config::parse(&text.path, &text.bytes)?;
    let architecture = config.optional_strs("architectures")?.and_then(|all| all.first().copied());
    let architecture = architecture.ok_or_else(|| config.error("architectures", "the key is missing"))?;
    let family = families::by_checkpoint(architecture).map_err(|e| in_file(e, &text.path))?;
    let quantization = quantization_config::read(&text.path, &text.bytes)?;
    module.tensors = dequantize::run(module.tensors, quantization)?;
    // A model that also sees or hears has the part that reads and writes in a section.
    let section = config.section("text_config")?;
    let config = section.as_ref().unwrap_or(&config);
    config.ignore(quantization_config::KEYS);
    let mut imported = (family.import)(config)?;
    for key in config.unread() {
        context.note(
            Diagnostic::warning(format!("`{key}` in the configuration is unknown and was not looked at"))
                .in_file(&text.path, "")
                .code("unknown-config"),
        );
    }
    if let Some(pooling) = pooling::read(&module)? {
        imported.metadata.set(format!("{}.pooling_type", family.architecture), pooling.number());
    }
    module.metadata = metadata(&module, family, &imported)?;
    module.tensors = tensors::import(&module, family, &imported, context)?;
    tensors::describe_projections(&mut module);
    module.texts.clear();
    Ok(module)
}

fn in_file(mut errors: Errors, path: &Path) -> Errors {
    errors.0 = errors.0.into_iter().map(|d| d.in_file(path, "architectures")).collect();
    errors
}

fn metadata(module: &Module, family: &Family, imported: &Imported) -> Result<Metadata> {
    let mut metadata = Metadata::default();
    metadata.set("general.architecture", family.architecture);
    let (own, global): (Vec<_>, Vec<_>) =
        imported.metadata.iter().partition(|(key, _)| !key.starts_with("tokenizer."));
    for (key, value) in own {
        metadata.set(key, value.clone());
    }
    for (key, value) in tokenizer(module, family, imported.vocab_size)?.iter() {
        metadata.set(key, value.clone());
    }
    // What a family knows of its tokens stands where the tokenizer's files are silent.
    for (key, value) in global {
        if metadata.get(key).is_none() {
            metadata.set(key, value.clone());
        }
    }
    Ok(metadata)
}

fn tokenizer(module: &Module, family: &Family, vocab_size: Option<u64>) -> Result<Metadata> {
    let bytes = |name: &str| module.text(name).map(|t| &*t.bytes);
    let directory = module.text("config.json").and_then(|t| t.path.parent()).unwrap_or(Path::new(""));
    hf::import(&hf::HfTokenizerFiles {
        directory,
        tokenizer_json: bytes("tokenizer.json"),
        tokenizer_model: bytes("tokenizer.model")
            .or(bytes("sentencepiece.bpe.model"))
            .or(bytes("spiece.model")),
        added_tokens: bytes("added_tokens.json"),
        vocab_json: bytes("vocab.json"),
        merges_txt: bytes("merges.txt"),
        vocab_txt: bytes("vocab.txt"),
        tokenizer_config: bytes("tokenizer_config.json"),
        special_tokens_map: bytes("special_tokens_map.json"),
        generation_config: bytes("generation_config.json"),
        tekken: bytes("tekken.json"),
        config: bytes("config.json"),
        chat_template: bytes("chat_template.jinja"),
        vocab_size,
        pre_hint: family.pre_tokenizer,
    })
}
