//! Where everything in a GGUF file goes, before any of it is written.

use std::collections::HashSet;

use mdl_kernels::TensorType;

use super::super::quote::quoted;
use super::super::{TensorInfo, limits};
use super::geometry::{align_up, alignment, tensor_bytes};
use super::{ALIGNMENT_KEY, MAGIC};
use crate::diagnostic::{Diagnostic, Result};
use crate::ir::{Array, Metadata, Shape, Value};

/// The version that is written.
const VERSION: u32 = 3;

/// The plan of a GGUF file: its header, and where each tensor goes. The same input gives the same
/// bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Layout {
    header: Vec<u8>,
    tensors: Vec<TensorInfo>,
    alignment: u64,
    total_len: u64,
}

impl Layout {
    /// Lays out a file with these key-values and tensors, in the given order.
    ///
    /// # Errors
    /// What [`Gguf::read`](super::Gguf::read) would refuse: a bad alignment, name, shape or array.
    pub fn new(metadata: &Metadata, tensors: Vec<(String, Shape, TensorType)>) -> Result<Layout> {
        let alignment = alignment(metadata)
            .map_err(|message| Diagnostic::error(format!("key `{ALIGNMENT_KEY}`: {message}")))?;
        let mut header = Vec::new();
        header.extend(MAGIC);
        header.extend(VERSION.to_le_bytes());
        header.extend((tensors.len() as u64).to_le_bytes());
        header.extend((metadata.len() as u64).to_le_bytes());

        let mut keys = HashSet::new();
        for (key, value) in metadata.iter() {
            let wrong = |message: String| Diagnostic::error(format!("key {}: {message}", quoted(key)));
            if key.is_empty() || key.len() as u64 > limits::GGUF_KEY {
                return Err(wrong(format!("a key has 1 to {} bytes", limits::GGUF_KEY)).into());
            }
            if !keys.insert(key) {
                return Err(wrong("the key is there twice".to_owned()).into());
            }
            put_text(&mut header, key);
            put_value(&mut header, value).map_err(wrong)?;
        }

        let mut names = HashSet::new();
        let mut placed = Vec::with_capacity(tensors.len());
        let mut end = 0u64;
        for (name, shape, dtype) in &tensors {
            let wrong = |message: String| Diagnostic::error(format!("tensor {}: {message}", quoted(name)));
            if name.is_empty() || name.len() as u64 > limits::GGUF_TENSOR_NAME {
                return Err(wrong(format!("a name has 1 to {} bytes", limits::GGUF_TENSOR_NAME)).into());
            }
            if !names.insert(name) {
                return Err(wrong("the tensor is there twice".to_owned()).into());
            }
            let len = tensor_bytes(shape, *dtype).map_err(wrong)?;
            put_text(&mut header, name);
            header.extend((shape.rank() as u32).to_le_bytes());
            for dimension in shape.0.iter().rev() {
                header.extend(dimension.to_le_bytes());
            }
            header.extend(dtype.id().to_le_bytes());
            header.extend(end.to_le_bytes());
            placed.push(TensorInfo {
                name: name.clone(),
                shape: shape.clone(),
                dtype: *dtype,
                offset: end,
                len,
                transposed: false,
            });
            end = end
                .checked_add(len)
                .and_then(|end| align_up(end, alignment))
                .ok_or_else(|| wrong("the file's size overflows".to_owned()))?;
        }

        let too_large = || Diagnostic::error("the file's size overflows");
        if header.len() as u64 > limits::GGUF_HEADER {
            let most = limits::GGUF_HEADER >> 20;
            return Err(Diagnostic::error(format!("the key-values take more than {most} MiB")).into());
        }
        let data_offset = align_up(header.len() as u64, alignment).ok_or_else(too_large)?;
        header.resize(data_offset as usize, 0);
        let total_len = data_offset.checked_add(end).ok_or_else(too_large)?;
        for tensor in &mut placed {
            tensor.offset += data_offset;
        }
        Ok(Layout { header, tensors: placed, alignment, total_len })
    }

    /// The header with its padding: the file's first bytes.
    pub fn header(&self) -> &[u8] {
        &self.header
    }

    /// The tensors in the order they are written, with offsets from the start of the file.
    pub fn tensors(&self) -> &[TensorInfo] {
        &self.tensors
    }

    /// What tensors begin at multiples of.
    pub fn alignment(&self) -> u64 {
        self.alignment
    }

    /// The first byte of tensor data.
    pub fn data_offset(&self) -> u64 {
        self.header.len() as u64
    }

    /// The bytes of the whole file. The last tensor is padded to the alignment, too.
    pub fn total_len(&self) -> u64 {
        self.total_len
    }
}

fn put_text(out: &mut Vec<u8>, text: &str) {
    out.extend((text.len() as u64).to_le_bytes());
    out.extend(text.as_bytes());
}

fn put_string(out: &mut Vec<u8>, text: &str) -> Result<(), String> {
    if text.len() as u64 > limits::GGUF_STRING {
        return Err(format!("a string of {} bytes; at most {} are allowed", text.len(), limits::GGUF_STRING));
    }
    put_text(out, text);
    Ok(())
}

fn put_value(out: &mut Vec<u8>, value: &Value) -> Result<(), String> {
    out.extend((value.value_type() as u32).to_le_bytes());
    match value {
        Value::U8(v) => out.extend(v.to_le_bytes()),
        Value::I8(v) => out.extend(v.to_le_bytes()),
        Value::U16(v) => out.extend(v.to_le_bytes()),
        Value::I16(v) => out.extend(v.to_le_bytes()),
        Value::U32(v) => out.extend(v.to_le_bytes()),
        Value::I32(v) => out.extend(v.to_le_bytes()),
        Value::U64(v) => out.extend(v.to_le_bytes()),
        Value::I64(v) => out.extend(v.to_le_bytes()),
        Value::F32(v) => out.extend(v.to_le_bytes()),
        Value::F64(v) => out.extend(v.to_le_bytes()),
        Value::Bool(v) => out.push((*v).into()),
        Value::String(v) => put_string(out, v)?,
        Value::Array(v) => put_array(out, v, 1)?,
    }
    Ok(())
}

fn put_array(out: &mut Vec<u8>, array: &Array, depth: usize) -> Result<(), String> {
    if depth > limits::GGUF_ARRAY_DEPTH {
        return Err(format!("arrays are nested more than {} deep", limits::GGUF_ARRAY_DEPTH));
    }
    out.extend((array.element_type() as u32).to_le_bytes());
    out.extend((array.len() as u64).to_le_bytes());
    match array {
        Array::U8(v) => out.extend(v),
        Array::I8(v) => out.extend(v.iter().flat_map(|v| v.to_le_bytes())),
        Array::U16(v) => out.extend(v.iter().flat_map(|v| v.to_le_bytes())),
        Array::I16(v) => out.extend(v.iter().flat_map(|v| v.to_le_bytes())),
        Array::U32(v) => out.extend(v.iter().flat_map(|v| v.to_le_bytes())),
        Array::I32(v) => out.extend(v.iter().flat_map(|v| v.to_le_bytes())),
        Array::U64(v) => out.extend(v.iter().flat_map(|v| v.to_le_bytes())),
        Array::I64(v) => out.extend(v.iter().flat_map(|v| v.to_le_bytes())),
        Array::F32(v) => out.extend(v.iter().flat_map(|v| v.to_le_bytes())),
        Array::F64(v) => out.extend(v.iter().flat_map(|v| v.to_le_bytes())),
        Array::Bool(v) => out.extend(v.iter().map(|v| u8::from(*v))),
        Array::String(v) => v.iter().try_for_each(|v| put_string(out, v))?,
        Array::Array(v) => v.iter().try_for_each(|v| put_array(out, v, depth + 1))?,
    }
    Ok(())
}
