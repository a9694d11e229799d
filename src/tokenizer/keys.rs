//! Key-values of the types that a tokenizer wants, and what to say where they are of others.

use crate::diagnostic::{Diagnostic, Result};
use crate::ir::{Array, Metadata, Strings, Value};

pub(super) fn bad(message: String) -> Diagnostic {
    Diagnostic::error(message).code("bad-tokenizer")
}

pub(super) fn missing(key: &str) -> Diagnostic {
    bad(format!("the model has no `{key}`"))
}

pub(super) fn wrong_type(key: &str, expected: &str) -> Diagnostic {
    bad(format!("`{key}` is not {expected}"))
}

pub(super) fn optional_string<'m>(metadata: &'m Metadata, key: &str) -> Result<Option<&'m str>> {
    match metadata.get(key) {
        Some(value) => Ok(Some(value.as_str().ok_or_else(|| wrong_type(key, "a string"))?)),
        None => Ok(None),
    }
}

pub(super) fn string<'m>(metadata: &'m Metadata, key: &str) -> Result<&'m str> {
    Ok(optional_string(metadata, key)?.ok_or_else(|| missing(key))?)
}

pub(super) fn strings<'m>(metadata: &'m Metadata, key: &str) -> Result<&'m Strings> {
    static NONE: Strings = Strings::new();
    let value = metadata.get(key).ok_or_else(|| missing(key))?;
    match value.as_array() {
        // Nothing in it says of which type an empty array is.
        Some(array) if array.is_empty() => Ok(&NONE),
        Some(array) => Ok(array.as_strings().ok_or_else(|| wrong_type(key, "an array of strings"))?),
        None => Err(wrong_type(key, "an array of strings").into()),
    }
}

/// The elements of an array of any integer type; `None` in place of one below 0.
pub(super) fn integers(array: &Array) -> Option<Vec<Option<u64>>> {
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

pub(super) fn in_vocabulary(id: u64, tokens: usize) -> Option<u32> {
    u32::try_from(id).ok().filter(|&id| (id as usize) < tokens)
}

pub(super) fn token_id(metadata: &Metadata, key: &str, tokens: usize) -> Result<Option<u32>> {
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

pub(super) fn flag(metadata: &Metadata, key: &str) -> Result<Option<bool>> {
    let Some(value) = metadata.get(key) else { return Ok(None) };
    Ok(Some(value.as_bool().ok_or_else(|| wrong_type(key, "a boolean"))?))
}

/// Numbers with a fraction, or whole ones.
pub(super) fn floats(metadata: &Metadata, key: &str) -> Result<Vec<f32>> {
    let array = metadata.get(key).ok_or_else(|| missing(key))?.as_array();
    Ok(match array {
        Some(Array::F32(values)) => values.clone(),
        Some(Array::I32(values)) => values.iter().map(|&v| v as f32).collect(),
        _ => return Err(wrong_type(key, "an array of float32").into()),
    })
}

/// Bytes, which some writers call signed.
pub(super) fn bytes(metadata: &Metadata, key: &str) -> Result<Option<Vec<u8>>> {
    let Some(value) = metadata.get(key) else { return Ok(None) };
    Ok(match value.as_array() {
        Some(Array::U8(bytes)) => Some(bytes.clone()),
        Some(Array::I8(bytes)) => Some(bytes.iter().map(|&b| b.cast_unsigned()).collect()),
        Some(array) if array.is_empty() => None,
        _ => return Err(wrong_type(key, "an array of bytes").into()),
    })
}
