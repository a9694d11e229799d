//! `import`: a checkpoint's names, metadata and tokenizer become GGUF's.
//!
//! A module that comes from a GGUF file has no texts and passes unchanged.

use std::path::Path;

use crate::diagnostic::{Diagnostic, Errors, Result};
use crate::families::{self, Family, Imported, Presence, Rows, fill_pattern};
use crate::formats::hf_config::Config;
use crate::ir::{Expr, Metadata, Module, Shape, Tensor};
use crate::tokenizer::hf;

use super::Context;
use super::quantize::block_number;

/// The most unknown tensors that are named.
const MOST_NAMED: usize = 8;

/// Runs the pass.
///
/// # Errors
/// The checkpoint is of no known family, its configuration asks for what is not implemented, or a
/// tensor is unknown.
pub fn run(mut module: Module, context: &Context<'_>) -> Result<Module> {
    if module.texts.is_empty() {
        return Ok(module);
    }
    let text = module.text("config.json").ok_or_else(|| {
        Diagnostic::error("the checkpoint has no config.json").help("copy it from the original model")
    })?;
    let config = Config::parse(&text.path, &text.bytes)?;
    let architecture = config.optional_strs("architectures")?.and_then(|all| all.first().copied());
    let architecture = architecture.ok_or_else(|| config.error("architectures", "the key is missing"))?;
    let family = families::by_checkpoint(architecture).map_err(|e| in_file(e, &text.path))?;
    let imported = (family.import)(&config)?;
    for key in config.unread() {
        context.note(
            Diagnostic::warning(format!("`{key}` in the configuration is unknown and was not looked at"))
                .in_file(&text.path, "")
                .code("unknown-config"),
        );
    }
    module.tensors = tensors(&module, family, &imported, context)?;
    module.metadata = metadata(&module, family, imported.metadata)?;
    module.texts.clear();
    Ok(module)
}

fn in_file(mut errors: Errors, path: &Path) -> Errors {
    errors.0 = errors.0.into_iter().map(|d| d.in_file(path, "architectures")).collect();
    errors
}

fn metadata(module: &Module, family: &Family, family_metadata: Metadata) -> Result<Metadata> {
    let mut metadata = Metadata::default();
    metadata.set("general.architecture", family.architecture);
    let vocabulary = family_metadata.u64(&format!("{}.vocab_size", family.architecture));
    for (key, value) in family_metadata.iter() {
        metadata.set(key, value.clone());
    }
    for (key, value) in tokenizer(module, vocabulary)?.iter() {
        metadata.set(key, value.clone());
    }
    Ok(metadata)
}

fn tokenizer(module: &Module, vocab_size: Option<u64>) -> Result<Metadata> {
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
        chat_template: bytes("chat_template.jinja"),
        vocab_size,
        pre_hint: None,
    })
}

/// The tensors under their GGUF names: block by block, the rest at the end, each in order of name.
fn tensors(
    module: &Module,
    family: &Family,
    imported: &Imported,
    context: &Context<'_>,
) -> Result<Vec<Tensor>> {
    let mut tensors = Vec::with_capacity(module.tensors.len());
    let mut unknown = Vec::new();
    for tensor in &module.tensors {
        if family.ignores(&tensor.name) {
            continue;
        }
        let Some((rule, block)) = family.by_checkpoint_name(&tensor.name) else {
            unknown.push(tensor.name.as_str());
            continue;
        };
        if rule.presence == Presence::Untied && imported.tied {
            context.note(
                Diagnostic::warning(format!(
                    "`{}` is left out: the configuration ties it to the embeddings",
                    tensor.name
                ))
                .code("tied-output"),
            );
            continue;
        }
        let of = tensor.expr.clone();
        let expr = match (rule.rows, family.heads(rule.rows, &imported.metadata)) {
            (Rows::AsTheyAre, _) | (_, None) => of,
            (_, Some(heads)) => Expr::PermuteRope { of: Box::new(of), heads },
        };
        tensors.push(Tensor { name: fill_pattern(rule.gguf, block), expr });
    }
    if !unknown.is_empty() {
        return Err(unknown_tensors(&unknown, family).into());
    }
    let untied = family.tensors.iter().find(|r| r.presence == Presence::Untied);
    if let Some(rule) = untied
        && !imported.tied
        && !tensors.iter().any(|t| t.name == rule.gguf)
    {
        return Err(Diagnostic::error(format!("the tensor `{}` is missing", rule.checkpoint))
            .code("missing-tensor")
            .help("the configuration says that it is not tied to the embeddings")
            .into());
    }
    for (name, values) in &imported.derived {
        let shape = Shape(vec![values.len() as u64]);
        let expr = Expr::Const { values: values.as_slice().into(), shape };
        tensors.push(Tensor { name: (*name).to_owned(), expr });
    }
    tensors.sort_by(|a, b| order(&a.name).cmp(&order(&b.name)));
    Ok(tensors)
}

fn order(name: &str) -> (u64, &str) {
    (block_number(name).unwrap_or(u64::MAX), name)
}

fn unknown_tensors(unknown: &[&str], family: &Family) -> Diagnostic {
    let named: Vec<String> = unknown.iter().take(MOST_NAMED).map(|n| format!("`{n}`")).collect();
    let more = unknown.len().saturating_sub(MOST_NAMED);
    let more = if more > 0 { format!(" and {more} more") } else { String::new() };
    Diagnostic::error(format!(
        "the checkpoint has tensors that a {} model does not have: {}{more}",
        family.architecture,
        named.join(", ")
    ))
    .code("unknown-tensor")
}
