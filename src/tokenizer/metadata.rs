//! Reads a tokenizer from GGUF key-values.

use super::bpe::Bpe;
use super::pre_tokenizer::PreTokenizer;
use super::special::Special;
use super::vocabulary::{BadToken, TokenType, Vocabulary, shown};
use super::{Tokenizer, end};
use crate::diagnostic::{Diagnostic, Result};
use crate::ir::{Array, Metadata, Value};

const MODEL: &str = "tokenizer.ggml.model";
const PRE: &str = "tokenizer.ggml.pre";
const TOKENS: &str = "tokenizer.ggml.tokens";
const TOKEN_TYPE: &str = "tokenizer.ggml.token_type";
const MERGES: &str = "tokenizer.ggml.merges";
const ADD_BOS: &str = "tokenizer.ggml.add_bos_token";
const ADD_EOS: &str = "tokenizer.ggml.add_eos_token";
const BOS: &str = "tokenizer.ggml.bos_token_id";
const EOS: &str = "tokenizer.ggml.eos_token_id";
/// Ids that end a generation, besides EOS.
const ENDS: [&str; 2] = ["tokenizer.ggml.eot_token_id", "tokenizer.ggml.eom_token_id"];
/// A list of them, which Ollama writes.
const EOS_LIST: &str = "tokenizer.ggml.eos_token_ids";

pub(super) fn read(metadata: &Metadata) -> Result<Tokenizer> {
    let model = string(metadata, MODEL)?;
    if model != "gpt2" {
        return Err(bad(format!("the tokenizer model {} is not supported yet", shown(model)))
            .help("only byte-level BPE (`gpt2`) is")
            .into());
    }
    let pre = string(metadata, PRE)?;
    let pre_tokenizer = PreTokenizer::from_name(pre).ok_or_else(|| {
        let known: Vec<_> = PreTokenizer::names().collect();
        bad(format!("the pre-tokenizer {} (`{PRE}`) is not supported", shown(pre)))
            .help(format!("supported are {}", known.join(", ")))
            .help("with another one the model would be fed tokens it was not trained on")
    })?;
    let tokens = strings(metadata, TOKENS)?;
    if tokens.is_empty() {
        return Err(bad(format!("`{TOKENS}` is empty")).into());
    }
    let types = token_types(metadata, tokens.len())?;
    let at = |key: &'static str| move |e: BadToken| bad(format!("`{key}[{}]`: {}", e.index, e.reason));
    let vocabulary = Vocabulary::new(tokens, types).map_err(at(TOKENS))?;
    let special = Special::new(&vocabulary).map_err(at(TOKENS))?;
    let merges = strings(metadata, MERGES)?.iter().map(String::as_str);
    let bpe = Bpe::new(&vocabulary, merges, pre_tokenizer.ignore_merges).map_err(at(MERGES))?;

    let id = |key| token_id(metadata, key, vocabulary.len());
    let (bos, eos) = (id(BOS)?, id(EOS)?);
    let add_bos = flag(metadata, ADD_BOS, bos, BOS)?.unwrap_or(pre_tokenizer.add_bos);
    let add_eos = flag(metadata, ADD_EOS, eos, EOS)?.unwrap_or(false);
    let mut end_of_generation = end::named(&vocabulary);
    end_of_generation.extend(eos);
    for key in ENDS {
        end_of_generation.extend(id(key)?);
    }
    if let Some(value) = metadata.get(EOS_LIST) {
        let ids = value
            .as_array()
            .and_then(integers)
            .ok_or_else(|| wrong_type(EOS_LIST, "an array of integers"))?;
        for (index, id) in ids.into_iter().enumerate() {
            let id = id.and_then(|id| in_vocabulary(id, vocabulary.len()));
            end_of_generation
                .push(id.ok_or_else(|| bad(format!("`{EOS_LIST}[{index}]` is no token of the vocabulary")))?);
        }
    }
    end_of_generation.sort_unstable();
    end_of_generation.dedup();
    Ok(Tokenizer { vocabulary, special, pre_tokenizer, bpe, bos, eos, add_bos, add_eos, end_of_generation })
}

fn bad(message: String) -> Diagnostic {
    Diagnostic::error(message).code("bad-tokenizer")
}

fn missing(key: &str) -> Diagnostic {
    bad(format!("the model has no `{key}`"))
}

fn wrong_type(key: &str, expected: &str) -> Diagnostic {
    bad(format!("`{key}` is not {expected}"))
}

fn string<'m>(metadata: &'m Metadata, key: &str) -> Result<&'m str> {
    let value = metadata.get(key).ok_or_else(|| missing(key))?;
    Ok(value.as_str().ok_or_else(|| wrong_type(key, "a string"))?)
}

fn strings<'m>(metadata: &'m Metadata, key: &str) -> Result<&'m [String]> {
    let value = metadata.get(key).ok_or_else(|| missing(key))?;
    match value.as_array() {
        // Nothing in it says of which type an empty array is.
        Some(array) if array.is_empty() => Ok(&[]),
        Some(array) => Ok(array.as_strings().ok_or_else(|| wrong_type(key, "an array of strings"))?),
        None => Err(wrong_type(key, "an array of strings").into()),
    }
}

/// The elements of an array of any integer type; `None` in place of one below 0.
fn integers(array: &Array) -> Option<Vec<Option<u64>>> {
    fn each<T: Copy + TryInto<u64>>(values: &[T]) -> Option<Vec<Option<u64>>> {
        Some(values.iter().map(|&v| v.try_into().ok()).collect())
    }
    match array {
        Array::U8(v) => each(v),
        Array::I8(v) => each(v),
        Array::U16(v) => each(v),
        Array::I16(v) => each(v),
        Array::U32(v) => each(v),
        Array::I32(v) => each(v),
        Array::U64(v) => each(v),
        Array::I64(v) => each(v),
        _ => None,
    }
}

fn token_types(metadata: &Metadata, tokens: usize) -> Result<Vec<TokenType>> {
    let value = metadata.get(TOKEN_TYPE).ok_or_else(|| missing(TOKEN_TYPE))?;
    let array = value.as_array().ok_or_else(|| wrong_type(TOKEN_TYPE, "an array of integers"))?;
    if array.len() != tokens {
        return Err(
            bad(format!("`{TOKEN_TYPE}` has {} entries, `{TOKENS}` has {tokens}", array.len())).into()
        );
    }
    let ids = integers(array).ok_or_else(|| wrong_type(TOKEN_TYPE, "an array of integers"))?;
    let mut types = Vec::with_capacity(ids.len());
    for (index, id) in ids.into_iter().enumerate() {
        let no_type = || bad(format!("`{TOKEN_TYPE}[{index}]` is no type of a token: those are 1 to 6"));
        types.push(id.and_then(TokenType::from_id).ok_or_else(no_type)?);
    }
    Ok(types)
}

fn in_vocabulary(id: u64, tokens: usize) -> Option<u32> {
    u32::try_from(id).ok().filter(|&id| (id as usize) < tokens)
}

fn token_id(metadata: &Metadata, key: &str, tokens: usize) -> Result<Option<u32>> {
    let Some(value) = metadata.get(key) else { return Ok(None) };
    let id = match value {
        Value::I8(_) | Value::I16(_) | Value::I32(_) | Value::I64(_) => value.as_u64(),
        _ => Some(value.as_u64().ok_or_else(|| wrong_type(key, "an integer"))?),
    };
    match id.and_then(|id| in_vocabulary(id, tokens)) {
        Some(id) => Ok(Some(id)),
        None => Err(bad(format!("`{key}` is no token of the vocabulary, which has {tokens}")).into()),
    }
}

/// A flag that asks for a token.
fn flag(metadata: &Metadata, key: &str, id: Option<u32>, id_key: &str) -> Result<Option<bool>> {
    let Some(value) = metadata.get(key) else { return Ok(None) };
    let flag = value.as_bool().ok_or_else(|| wrong_type(key, "a boolean"))?;
    if flag && id.is_none() {
        return Err(bad(format!("`{key}` is true, but there is no `{id_key}`")).into());
    }
    Ok(Some(flag))
}
