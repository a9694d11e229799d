//! The header of one file.

use std::collections::HashSet;
use std::path::Path;

use mdl_kernels::TensorType;

use super::super::cursor::Cursor;
use super::super::quote::quoted;
use super::super::{TensorInfo, limits, signature};
use super::geometry::{align_up, alignment, tensor_bytes};
use super::{ALIGNMENT_KEY, Gguf, MAGIC};
use crate::diagnostic::{Diagnostic, Result};
use crate::ir::{Array, Metadata, Shape, Strings, Value, ValueType};
use crate::world::File;

/// The least bytes of a key-value: length, one character, type, one byte.
const MIN_KEY_VALUE: u64 = 8 + 1 + 4 + 1;
/// The least bytes of a tensor's entry: length, one character, rank 0, type, offset.
const MIN_TENSOR: u64 = 8 + 1 + 4 + 4 + 8;

/// Type numbers that GGUF had once, and their names.
const REMOVED_TYPES: &[(u32, &str)] =
    &[(4, "Q4_2"), (5, "Q4_3"), (31, "Q4_0_4_4"), (32, "Q4_0_4_8"), (33, "Q4_0_8_8"), (36, "IQ4_NL_4_4")];

pub(super) fn read(path: &Path, file: &dyn File) -> Result<Gguf> {
    let mut cursor = Cursor::new(path, file, limits::GGUF_HEADER);
    let version = version(&mut cursor, path, file)?;
    let at = cursor.position();
    let tensor_count = cursor.u64()?;
    let key_count = cursor.u64()?;
    cursor.require_items(at, tensor_count, MIN_TENSOR, "tensors")?;
    cursor.require_items(at + 8, key_count, MIN_KEY_VALUE, "key-values")?;
    cursor.at_most(at, tensor_count, limits::TENSORS, "tensors")?;
    cursor.at_most(at + 8, key_count, limits::GGUF_KEY_VALUES, "key-values")?;

    let metadata = key_values(&mut cursor, key_count)?;
    let alignment = alignment(&metadata).map_err(|message| {
        Diagnostic::error(message).code("bad-alignment").in_file(path, format!("key `{ALIGNMENT_KEY}`"))
    })?;

    cursor.entry(String::new());
    cursor.require_items(cursor.position(), tensor_count, MIN_TENSOR, "tensors")?;
    let mut tensors = tensor_table(&mut cursor, tensor_count, alignment)?;
    let header = cursor.position();
    let data_offset = align_up(header, alignment).unwrap_or(header);
    place(path, &mut tensors, data_offset, file.len())?;
    Ok(Gguf { version, metadata, tensors, alignment, data_offset })
}

fn version(cursor: &mut Cursor<'_>, path: &Path, file: &dyn File) -> Result<u32> {
    if file.is_empty() {
        return Err(Diagnostic::error("the file is empty").in_file(path, "").code("truncated-file").into());
    }
    let mut start = [0; signature::SNIFFED];
    let shown = file.len().min(start.len() as u64) as usize;
    file.read_at(0, &mut start[..shown]).map_err(|e| Diagnostic::io("read", path, &e))?;
    if !start[..shown].starts_with(&MAGIC[..MAGIC.len().min(shown)]) {
        let mut error = cursor.error("not a GGUF file: it does not begin with `GGUF`").code("not-gguf");
        if signature::is_safetensors(&start[..shown]) {
            error = error.label("this is a Safetensors file").help("name the directory that holds it");
        } else if let Some((what, help)) = signature::sniff(&start[..shown]) {
            error = error.label(format!("this is {what}")).help(help);
        }
        return Err(error.into());
    }
    cursor.array::<4>()?;
    let at = cursor.position();
    match cursor.u32()? {
        version @ 2..=3 => Ok(version),
        1 => Err(cursor
            .error_at(at, "GGUF version 1 is not supported; versions 2 and 3 are")
            .code("gguf-version")
            .help("convert the original checkpoint again with a current tool")
            .into()),
        swapped if swapped.swap_bytes() <= 0xffff && swapped != 0 => Err(cursor
            .error_at(at, "the file is big-endian; only little-endian GGUF is supported")
            .code("gguf-big-endian")
            .help("convert it with `gguf-convert-endian FILE little`")
            .into()),
        other => Err(cursor
            .error_at(at, format!("GGUF version {other} is not supported; versions 2 and 3 are"))
            .code("gguf-version")
            .into()),
    }
}

fn key_values(cursor: &mut Cursor<'_>, count: u64) -> Result<Metadata> {
    let mut entries: Vec<(String, Value)> = Vec::new();
    let mut seen = HashSet::new();
    for i in 0..count {
        cursor.entry(format!("key-value {i}"));
        let at = cursor.position();
        let len = cursor.u64()?;
        if len == 0 {
            return Err(cursor.error_at(at, "the key is empty").code("bad-key").into());
        }
        let key = cursor.text(at, len, limits::GGUF_KEY, "a key")?;
        cursor.entry(format!("key {}", quoted(&key)));
        if !seen.insert(key.clone()) {
            return Err(cursor.error_at(at, "the key is there twice").code("duplicate-key").into());
        }
        let value_type = value_type(cursor)?;
        let value = value(cursor, value_type)?;
        entries.push((key, value));
    }
    Ok(Metadata::from_unique(entries))
}

fn value_type(cursor: &mut Cursor<'_>) -> Result<ValueType> {
    let at = cursor.position();
    let id = cursor.u32()?;
    ValueType::from_id(id).ok_or_else(|| {
        cursor
            .error_at(at, format!("{id} is no value type; they go from 0 to 12"))
            .code("bad-value-type")
            .into()
    })
}

fn value(cursor: &mut Cursor<'_>, value_type: ValueType) -> Result<Value> {
    Ok(match value_type {
        ValueType::U8 => Value::U8(cursor.u8()?),
        ValueType::I8 => Value::I8(i8::from_le_bytes(cursor.array()?)),
        ValueType::U16 => Value::U16(u16::from_le_bytes(cursor.array()?)),
        ValueType::I16 => Value::I16(i16::from_le_bytes(cursor.array()?)),
        ValueType::U32 => Value::U32(cursor.u32()?),
        ValueType::I32 => Value::I32(cursor.i32()?),
        ValueType::U64 => Value::U64(cursor.u64()?),
        ValueType::I64 => Value::I64(i64::from_le_bytes(cursor.array()?)),
        ValueType::F32 => Value::F32(f32::from_le_bytes(cursor.array()?)),
        ValueType::F64 => Value::F64(f64::from_le_bytes(cursor.array()?)),
        ValueType::Bool => Value::Bool(boolean(cursor)?),
        ValueType::String => Value::String(string(cursor)?),
        ValueType::Array => Value::Array(array(cursor, 1)?),
    })
}

fn boolean(cursor: &mut Cursor<'_>) -> Result<bool> {
    let at = cursor.position();
    match cursor.u8()? {
        0 => Ok(false),
        1 => Ok(true),
        n => Err(cursor
            .error_at(at, format!("a boolean is {n}; it must be 0 or 1"))
            .code("bad-boolean")
            .into()),
    }
}

fn string(cursor: &mut Cursor<'_>) -> Result<String> {
    let at = cursor.position();
    let len = cursor.u64()?;
    cursor.text(at, len, limits::GGUF_STRING, "a string")
}

fn array(cursor: &mut Cursor<'_>, depth: usize) -> Result<Array> {
    if depth > limits::GGUF_ARRAY_DEPTH {
        return Err(cursor
            .error(format!("arrays are nested more than {} deep", limits::GGUF_ARRAY_DEPTH))
            .code("array-depth")
            .into());
    }
    let element = value_type(cursor)?;
    let at = cursor.position();
    let count = cursor.u64()?;
    cursor.require_items(at, count, element.min_bytes(), "array elements")?;
    Ok(match element {
        ValueType::U8 => Array::U8(cursor.values(count, u8::from_le_bytes)?),
        ValueType::I8 => Array::I8(cursor.values(count, i8::from_le_bytes)?),
        ValueType::U16 => Array::U16(cursor.values(count, u16::from_le_bytes)?),
        ValueType::I16 => Array::I16(cursor.values(count, i16::from_le_bytes)?),
        ValueType::U32 => Array::U32(cursor.values(count, u32::from_le_bytes)?),
        ValueType::I32 => Array::I32(cursor.values(count, i32::from_le_bytes)?),
        ValueType::U64 => Array::U64(cursor.values(count, u64::from_le_bytes)?),
        ValueType::I64 => Array::I64(cursor.values(count, i64::from_le_bytes)?),
        ValueType::F32 => Array::F32(cursor.values(count, f32::from_le_bytes)?),
        ValueType::F64 => Array::F64(cursor.values(count, f64::from_le_bytes)?),
        ValueType::Bool => Array::Bool(elements(cursor, count, boolean)?),
        ValueType::String => Array::String(strings(cursor, count)?),
        ValueType::Array => Array::Array(elements(cursor, count, |cursor| array(cursor, depth + 1))?),
    })
}

/// The strings of an array. The caller has bounded `count` by the bytes that are left.
fn strings(cursor: &mut Cursor<'_>, count: u64) -> Result<Strings> {
    let mut strings = Strings::with_capacity(count as usize);
    for _ in 0..count {
        let at = cursor.position();
        let len = cursor.u64()?;
        cursor.text_with(at, len, limits::GGUF_STRING, "a string", |text| strings.push(text))?;
    }
    Ok(strings)
}

/// Elements of no fixed size. The caller has bounded `count` by the bytes that are left; in memory
/// an element is at most three times as large as its least size in the file.
fn elements<T>(
    cursor: &mut Cursor<'_>,
    count: u64,
    read: impl Fn(&mut Cursor<'_>) -> Result<T>,
) -> Result<Vec<T>> {
    let mut elements = Vec::with_capacity(count as usize);
    for _ in 0..count {
        elements.push(read(cursor)?);
    }
    Ok(elements)
}

/// The entries of the tensors, with offsets as the file counts them: from the first data byte.
fn tensor_table(cursor: &mut Cursor<'_>, count: u64, alignment: u64) -> Result<Vec<TensorInfo>> {
    let mut tensors: Vec<TensorInfo> = Vec::new();
    let mut seen = HashSet::new();
    for i in 0..count {
        cursor.entry(format!("tensor {i}"));
        let at = cursor.position();
        let len = cursor.u64()?;
        if len == 0 {
            return Err(cursor.error_at(at, "the tensor has no name").code("bad-tensor-name").into());
        }
        let name = cursor.text(at, len, limits::GGUF_TENSOR_NAME, "a tensor's name")?;
        cursor.entry(format!("tensor {}", quoted(&name)));
        if !seen.insert(name.clone()) {
            return Err(cursor.error_at(at, "the tensor is there twice").code("duplicate-tensor").into());
        }

        let at = cursor.position();
        let rank = cursor.u32()?;
        if rank > limits::GGUF_RANK {
            let message = format!("{rank} dimensions; at most {} are allowed", limits::GGUF_RANK);
            return Err(cursor.error_at(at, message).code("bad-shape").into());
        }
        let mut dimensions = Vec::with_capacity(rank as usize);
        for _ in 0..rank {
            dimensions.push(cursor.u64()?);
        }
        dimensions.reverse();
        let shape = Shape(dimensions);

        let dtype = tensor_type(cursor)?;
        let len =
            tensor_bytes(&shape, dtype).map_err(|message| cursor.error_at(at, message).code("bad-shape"))?;

        let at = cursor.position();
        let offset = cursor.u64()?;
        if offset % alignment != 0 {
            let message = format!("the tensor's offset {offset} is no multiple of the alignment {alignment}");
            return Err(cursor.error_at(at, message).code("bad-offset").into());
        }
        tensors.push(TensorInfo { name, shape, dtype, offset, len, transposed: false });
    }
    Ok(tensors)
}

fn tensor_type(cursor: &mut Cursor<'_>) -> Result<TensorType> {
    let at = cursor.position();
    let id = cursor.u32()?;
    if let Some(dtype) = TensorType::from_id(id) {
        return Ok(dtype);
    }
    let error = match REMOVED_TYPES.iter().find(|(removed, _)| *removed == id) {
        Some((_, name)) => cursor
            .error_at(at, format!("the tensor's type {id} ({name}) was removed from the format"))
            .help("convert the original checkpoint again, to a type that is still there"),
        None => cursor
            .error_at(at, format!("{id} is no tensor type that this version knows"))
            .help("the file is damaged, or newer than this program"),
    };
    Err(error.code("unknown-tensor-type").into())
}

/// Makes offsets absolute, and checks that each tensor lies in the file and on no other.
fn place(path: &Path, tensors: &mut [TensorInfo], data_offset: u64, file_len: u64) -> Result<()> {
    let error = |tensor: &TensorInfo, message: String| {
        Diagnostic::error(message).in_file(path, format!("tensor {}", quoted(&tensor.name)))
    };
    for tensor in tensors.iter_mut() {
        let start = tensor.offset.checked_add(data_offset);
        match start.and_then(|start| Some((start, start.checked_add(tensor.len)?))) {
            Some((start, end)) if end <= file_len => tensor.offset = start,
            Some((start, end)) => {
                return Err(error(
                    tensor,
                    format!("the tensor's bytes {start}..{end} are not in the file of {file_len} bytes"),
                )
                .code("tensor-outside-file")
                .help("the file is damaged or its download was cut short; fetch it again")
                .into());
            }
            None => {
                let message =
                    format!("the tensor's offset {} and its {} bytes overflow", tensor.offset, tensor.len);
                return Err(error(tensor, message).code("tensor-outside-file").into());
            }
        }
    }
    let mut by_offset: Vec<&TensorInfo> = tensors.iter().collect();
    by_offset.sort_by_key(|t| t.offset);
    for pair in by_offset.windows(2) {
        let (first, second) = (pair[0], pair[1]);
        if first.offset + first.len > second.offset {
            let message = format!(
                "the tensor begins at byte {}, inside tensor {}, which ends at byte {}",
                second.offset,
                quoted(&first.name),
                first.offset + first.len
            );
            return Err(error(second, message).code("tensor-overlap").into());
        }
    }
    Ok(())
}
