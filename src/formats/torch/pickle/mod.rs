//! A pickle read as data: the few instructions that a state dict of tensors takes.
//!
//! A pickle is a program for a stack machine that may name any Python function and have it called.
//! This machine calls nothing. A name that is not in `globals` ends it with an error, and so does
//! an instruction that PyTorch does not write for tensors. It never recurses, makes at most one
//! value for each instruction, and refers to values instead of copying them: its memory is bounded
//! by the pickle's length, whatever the pickle refers to how often.
//!
//! Sources: Python's `pickletools` (what each instruction does); `torch/_utils.py` and
//! `torch/serialization.py` (what is called, with which arguments).

mod globals;
mod machine;

use std::collections::HashMap;
use std::path::Path;

use mdl_kernels::TensorType;

use super::with_conversion;
use crate::diagnostic::{Diagnostic, Result};
use crate::formats::limits;
use crate::formats::quote::quoted;
use globals::Global;
use machine::Machine;

/// A value on the machine: its number in [`Machine::values`].
type Id = u32;

/// One tensor of a state dict. Counts are in elements of `dtype`, and nothing is checked against
/// the storage yet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PickledTensor {
    /// The storage's name: the file `data/KEY` of the archive.
    pub storage: String,
    /// Bytes of the storage.
    pub storage_len: u64,
    /// How the bytes encode values.
    pub dtype: TensorType,
    /// The first element, counted from the storage's start.
    pub offset: u64,
    /// Dimensions, outermost first.
    pub shape: Vec<u64>,
    /// Elements from one index of a dimension to the next.
    pub strides: Vec<u64>,
}

/// A value. A collection holds the numbers of other values.
#[derive(Debug)]
enum Value<'a> {
    /// None, a float, bytes, a long integer: there, and of no use here.
    Other,
    Int(i64),
    Text(&'a str),
    Tuple(Box<[Id]>),
    List(Vec<Id>),
    Dict(Vec<(Id, Id)>),
    Global(Global),
    Storage {
        dtype: Option<TensorType>,
        key: &'a str,
        count: u64,
    },
    Tensor(Box<PickledTensor>),
}

impl Value<'_> {
    fn kind(&self) -> &'static str {
        match self {
            Value::Other => "a value that is no tensor",
            Value::Int(_) => "a number",
            Value::Text(_) => "a text",
            Value::Tuple(_) => "a tuple",
            Value::List(_) => "a list",
            Value::Dict(_) => "a dictionary",
            Value::Global(_) => "a class or function",
            Value::Storage { .. } => "a storage",
            Value::Tensor(_) => "a tensor",
        }
    }
}

/// Reads a pickle that must be a dictionary from names to tensors. Entries that are single values,
/// such as an epoch, are left out. `path` names the file in errors.
///
/// # Errors
/// The pickle names or does what no state dict does, is damaged, or is no state dict.
pub fn state_dict(path: &Path, bytes: &[u8]) -> Result<Vec<(String, PickledTensor)>> {
    if bytes.len() as u64 > limits::PICKLE {
        let message = format!("a pickle of {} bytes; at most {} are read", bytes.len(), limits::PICKLE);
        return Err(Diagnostic::error(message).code("pickle-too-large").in_file(path, "").into());
    }
    let mut machine = Machine::new(path, bytes);
    let top = machine.run()?;
    tensors(&machine, path, top)
}

/// The tensors of the dictionary `top`.
fn tensors(machine: &Machine<'_>, path: &Path, top: Id) -> Result<Vec<(String, PickledTensor)>> {
    let whole = |message: String| {
        with_conversion(Diagnostic::error(message).code("no-state-dict").in_file(path, "data.pkl"), path)
    };
    let Value::Dict(entries) = machine.value(top) else {
        let kind = machine.value(top).kind();
        return Err(whole(format!("the file holds {kind}, no state dict")).into());
    };
    // As in Python, a key set again keeps its place and gets the new value.
    let mut places: HashMap<&str, usize> = HashMap::new();
    let mut tensors: Vec<(String, PickledTensor)> = Vec::new();
    for (key, value) in entries {
        let Value::Text(name) = machine.value(*key) else {
            let kind = machine.value(*key).kind();
            return Err(whole(format!("a key of the state dict is {kind}")).into());
        };
        match machine.value(*value) {
            Value::Tensor(tensor) => {
                if name.is_empty() || name.len() > limits::SAFETENSORS_NAME {
                    let most = limits::SAFETENSORS_NAME;
                    return Err(whole(format!("a tensor's name has 1 to {most} bytes")).into());
                }
                if let Some(place) = places.get(name) {
                    tensors[*place].1 = (**tensor).clone();
                    continue;
                }
                if tensors.len() as u64 == limits::TENSORS {
                    return Err(whole(format!("more than {} tensors", limits::TENSORS)).into());
                }
                places.insert(name, tensors.len());
                tensors.push(((*name).to_owned(), (**tensor).clone()));
            }
            // An epoch, a version: no weights.
            Value::Other | Value::Int(_) | Value::Text(_) => {}
            other => {
                let message = format!("{} holds {}, no tensor", quoted(name), other.kind());
                return Err(whole(message).into());
            }
        }
    }
    if tensors.is_empty() {
        return Err(whole("the file holds no tensor".to_owned()).into());
    }
    Ok(tensors)
}
