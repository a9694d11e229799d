//! What a stored model is, without loading it.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError};

use serde_json::{Map, Value as Json, json};

use crate::diagnostic::Result;
use crate::ir::{Array, Module, Prompt, Value};
use crate::passes::{package, resolve};
use crate::prompt::{capabilities, template_text};
use crate::store::{Digest, Store, Stored};
use crate::world::SystemWorld;

/// Descriptions that are kept.
const MOST: usize = 512;

/// Elements of an array that is told in full without being asked for.
const SHORT: usize = 5;

/// What a stored model is.
#[derive(Clone, Debug)]
pub struct Description {
    /// `gguf`.
    pub format: String,
    /// `general.architecture`.
    pub family: String,
    /// The architectures of all parts.
    pub families: Vec<String>,
    /// The number of parameters.
    pub parameter_count: u64,
    /// The number of parameters for people.
    pub parameter_size: String,
    /// `Q4_K_M`, or `unknown`.
    pub quantization: String,
    /// Tokens that the model was trained to see.
    pub context_length: Option<u64>,
    /// Elements of an embedding.
    pub embedding_length: Option<u64>,
    /// `completion`, `embedding`, `tools`, `insert`, `thinking`.
    pub capabilities: Vec<&'static str>,
    /// SYSTEM, MESSAGEs, parameters, licenses.
    pub prompt: Prompt,
    /// The template in force, as text; empty where there is none.
    pub template: String,
    /// The metadata; of arrays only the short ones.
    pub metadata: Map<String, Json>,
    /// The tensors.
    pub tensors: Vec<TensorLine>,
}

/// A tensor.
#[derive(Clone, Debug)]
pub struct TensorLine {
    /// Its name.
    pub name: String,
    /// Its type, such as `Q4_K`.
    pub ty: &'static str,
    /// Its dimensions as GGUF has them: the contiguous one first.
    pub shape: Vec<u64>,
}

/// The descriptions of the models that were asked about last.
#[derive(Default)]
pub struct Descriptions(Mutex<VecDeque<(Digest, Arc<Description>)>>);

impl Descriptions {
    /// The description of a model. Its blobs are opened unless that was done before.
    ///
    /// # Errors
    /// A blob is missing or malformed, or the model is none that can be read.
    pub fn of(&self, store: &Store, model: &Stored) -> Result<Arc<Description>> {
        if let Some(known) = self.find(&model.id) {
            return Ok(known);
        }
        let read = Arc::new(describe(store, model)?);
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        all.retain(|(id, _)| *id != model.id);
        all.push_back((model.id, read.clone()));
        while all.len() > MOST {
            all.pop_front();
        }
        Ok(read)
    }

    /// A description that is there, which is the last to go then.
    fn find(&self, id: &Digest) -> Option<Arc<Description>> {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let at = all.iter().position(|(known, _)| known == id)?;
        let found = all.remove(at)?;
        let description = found.1.clone();
        all.push_back(found);
        Some(description)
    }
}

fn describe(store: &Store, model: &Stored) -> Result<Description> {
    let module = resolve::open_stored(&SystemWorld, store, model)?;
    let config = store.config(model)?;
    let architecture = module.architecture().unwrap_or("").to_owned();
    let number = |key: &str| module.metadata.u64(&format!("{architecture}.{key}"));
    let or = |stated: String, read: String| if stated.is_empty() { read } else { stated };
    let quantization = match package::file_type(&module.metadata) {
        unknown if unknown == "unknown" => or(config.file_type, unknown),
        known => known,
    };
    let tensors = module.tensors.iter().map(|t| TensorLine {
        name: t.name.clone(),
        ty: t.expr.dtype().name(),
        shape: t.shape().0.iter().rev().copied().collect(),
    });
    Ok(Description {
        format: or(config.model_format, "gguf".to_owned()),
        families: match config.model_families.is_empty() {
            true => vec![architecture.clone()],
            false => config.model_families,
        },
        parameter_count: module.parameter_count(),
        parameter_size: package::human_number(module.parameter_count()),
        quantization,
        context_length: number("context_length"),
        embedding_length: number("embedding_length"),
        capabilities: capabilities(&module),
        template: template_text(&module).to_owned(),
        metadata: metadata(&module, false),
        tensors: tensors.collect(),
        family: architecture,
        prompt: module.prompt,
    })
}

/// The metadata of a stored model with every array in full.
///
/// # Errors
/// A blob is missing or malformed.
pub fn full_metadata(store: &Store, model: &Stored) -> Result<Map<String, Json>> {
    Ok(metadata(&resolve::open_stored(&SystemWorld, store, model)?, true))
}

/// What Ollama tells as `model_info`: all but the name and the template, which are told elsewhere.
fn metadata(module: &Module, full: bool) -> Map<String, Json> {
    let mut all = Map::new();
    for (key, value) in module.metadata.iter() {
        if !matches!(key, "general.name" | "tokenizer.chat_template") {
            all.insert(key.to_owned(), to_json(value, full));
        }
    }
    all.insert("general.parameter_count".to_owned(), json!(module.parameter_count()));
    all
}

fn to_json(value: &Value, full: bool) -> Json {
    match value {
        Value::String(v) => json!(v),
        Value::Bool(v) => json!(v),
        Value::F32(v) => json!(v),
        Value::F64(v) => json!(v),
        Value::I8(v) => json!(v),
        Value::I16(v) => json!(v),
        Value::I32(v) => json!(v),
        Value::I64(v) => json!(v),
        Value::U8(v) => json!(v),
        Value::U16(v) => json!(v),
        Value::U32(v) => json!(v),
        Value::U64(v) => json!(v),
        // An empty list stands for one that is long.
        Value::Array(array) if array.len() > SHORT && !full => json!([]),
        Value::Array(array) => array_to_json(array, full),
    }
}

fn array_to_json(array: &Array, full: bool) -> Json {
    match array {
        Array::String(v) => v.iter().collect(),
        Array::Bool(v) => json!(v),
        Array::F32(v) => json!(v),
        Array::F64(v) => json!(v),
        Array::I8(v) => json!(v),
        Array::I16(v) => json!(v),
        Array::I32(v) => json!(v),
        Array::I64(v) => json!(v),
        Array::U8(v) => json!(v),
        Array::U16(v) => json!(v),
        Array::U32(v) => json!(v),
        Array::U64(v) => json!(v),
        // The reader bounds how deep they are.
        Array::Array(v) => v
            .iter()
            .map(|a| if a.len() > SHORT && !full { json!([]) } else { array_to_json(a, full) })
            .collect(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn long_arrays_are_told_when_asked_for() {
        let mut module = Module::default();
        module.metadata.set("general.name", "x".to_owned());
        module.metadata.set("a", Value::Array(Array::U32(vec![1, 2, 3, 4, 5, 6])));
        module.metadata.set("b", Value::Array(Array::String(vec!["x".to_owned()].into())));
        module.metadata.set("c", Value::F32(f32::NAN));
        let short = metadata(&module, false);
        assert_eq!(
            Json::Object(short),
            json!({"a": [], "b": ["x"], "c": null, "general.parameter_count": 0})
        );
        assert_eq!(metadata(&module, true)["a"], json!([1, 2, 3, 4, 5, 6]));
    }
}
