//! Safetensors: the header of a file, and where each tensor lies.
//!
//! A file is the header's length u64, little endian; the header, a JSON object of
//! `name: {dtype, shape, data_offsets: [begin, end]}` and `__metadata__`; then the tensors' bytes,
//! without a gap. Names of types and their widths are those of the `safetensors` crate.

use std::collections::{BTreeMap, HashSet};
use std::fmt;
use std::path::Path;

use ::safetensors::Dtype;
use mdl_kernels::TensorType;
use serde::Deserialize;
use serde::de::value::{Error as DtypeError, StrDeserializer};
use serde::de::{Deserializer, IntoDeserializer, MapAccess, SeqAccess, Visitor};

use super::quote::quoted;
use super::{TensorInfo, json, limits, signature};
use crate::diagnostic::{Diagnostic, Result};
use crate::ir::Shape;
use crate::world::File;

/// Bytes before the header.
const PREFIX: u64 = 8;

/// The header of a Safetensors file: all of it, checked.
#[derive(Clone, Debug, PartialEq)]
pub struct Safetensors {
    /// The tensors in the order of their bytes. Together they are all of the file after the header.
    pub tensors: Vec<TensorInfo>,
    /// `__metadata__`.
    pub metadata: BTreeMap<String, String>,
}

impl Safetensors {
    /// Reads the header of `file`, which errors call `path`. No weight is read.
    ///
    /// # Errors
    /// The file is no Safetensors file, or its header is wrong: it names a type that is not
    /// supported, or tensors that overlap, leave holes or do not end with the file.
    pub fn read(path: &Path, file: &dyn File) -> Result<Safetensors> {
        let header = read_header(path, file)?;
        let data_offset = PREFIX + header.len() as u64;
        let header: Header = json::parse(path, "header", &header)?;
        let tensors = check(path, header.entries, data_offset, file.len())?;
        Ok(Safetensors { tensors, metadata: header.metadata })
    }

    /// The tensor with this name.
    pub fn tensor(&self, name: &str) -> Option<&TensorInfo> {
        self.tensors.iter().find(|t| t.name == name)
    }
}

fn read_header(path: &Path, file: &dyn File) -> Result<Vec<u8>> {
    let wrong = |place: &str, message: String| Diagnostic::error(message).in_file(path, place);
    let mut start = [0; signature::SNIFFED];
    let shown = file.len().min(start.len() as u64) as usize;
    file.read_at(0, &mut start[..shown]).map_err(|e| Diagnostic::io("read", path, &e))?;
    let foreign = signature::sniff(&start[..shown]).filter(|_| !signature::is_safetensors(&start[..shown]));
    if let Some((what, help)) = foreign {
        return Err(wrong("", "not a Safetensors file".to_owned())
            .code("not-safetensors")
            .label(format!("this is {what}"))
            .help(help)
            .into());
    }
    let truncated = |place: &str, message: String| {
        wrong(place, message)
            .code("truncated-file")
            .help("the file is damaged or its download was cut short; fetch it again")
    };
    let len = match start.first_chunk::<8>() {
        Some(prefix) if shown >= PREFIX as usize => u64::from_le_bytes(*prefix),
        _ => {
            let message = format!("the file has {shown} bytes; the header's length alone takes {PREFIX}");
            return Err(truncated("", message).into());
        }
    };
    if len > limits::SAFETENSORS_HEADER {
        let most = limits::SAFETENSORS_HEADER;
        return Err(wrong("byte 0", format!("a header of {len} bytes; at most {most} are allowed"))
            .code("header-too-large")
            .into());
    }
    if len > file.len() - PREFIX {
        let left = file.len() - PREFIX;
        return Err(truncated("byte 0", format!("a header of {len} bytes, but {left} are left")).into());
    }
    let mut header = vec![0; len as usize];
    file.read_at(PREFIX, &mut header).map_err(|e| Diagnostic::io("read", path, &e))?;
    Ok(header)
}

/// What the header says of one tensor.
#[derive(Deserialize)]
#[serde(expecting = "an object of dtype, shape and data_offsets")]
struct Entry {
    dtype: String,
    shape: Dimensions,
    data_offsets: (u64, u64),
}

/// A shape of bounded rank.
struct Dimensions(Vec<u64>);

impl<'de> Deserialize<'de> for Dimensions {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct DimensionsVisitor;
        impl<'de> Visitor<'de> for DimensionsVisitor {
            type Value = Dimensions;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a list of dimensions")
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Dimensions, A::Error> {
                let mut dimensions = Vec::new();
                while let Some(dimension) = seq.next_element()? {
                    if dimensions.len() == limits::SAFETENSORS_RANK {
                        let most = limits::SAFETENSORS_RANK;
                        return Err(serde::de::Error::custom(format_args!("more than {most} dimensions")));
                    }
                    dimensions.push(dimension);
                }
                Ok(Dimensions(dimensions))
            }
        }
        deserializer.deserialize_seq(DimensionsVisitor)
    }
}

#[derive(Default)]
struct Header {
    entries: Vec<(String, Entry)>,
    metadata: BTreeMap<String, String>,
}

impl<'de> Deserialize<'de> for Header {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct HeaderVisitor;
        impl<'de> Visitor<'de> for HeaderVisitor {
            type Value = Header;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object of tensors")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Header, A::Error> {
                let mut header = Header::default();
                let mut seen = HashSet::new();
                while let Some(name) = map.next_key::<String>()? {
                    if !seen.insert(name.clone()) {
                        return Err(json::twice(&name));
                    }
                    if name == "__metadata__" {
                        // MLX writes `null` for none.
                        let members = map.next_value::<Option<json::Members<String>>>()?;
                        header.metadata = members.into_iter().flat_map(|members| members.0).collect();
                        continue;
                    }
                    if name.is_empty() || name.len() > limits::SAFETENSORS_NAME {
                        let most = limits::SAFETENSORS_NAME;
                        return Err(serde::de::Error::custom(format_args!(
                            "a tensor's name has 1 to {most} bytes"
                        )));
                    }
                    if header.entries.len() as u64 == limits::TENSORS {
                        let most = limits::TENSORS;
                        return Err(serde::de::Error::custom(format_args!("more than {most} tensors")));
                    }
                    let entry = map.next_value().map_err(|e| {
                        serde::de::Error::custom(format_args!("tensor {}: {e}", quoted(&name)))
                    })?;
                    header.entries.push((name, entry));
                }
                Ok(header)
            }
        }
        deserializer.deserialize_map(HeaderVisitor)
    }
}

/// Checks each entry by itself and that together they cover the data; makes offsets absolute.
fn check(
    path: &Path,
    mut entries: Vec<(String, Entry)>,
    data_offset: u64,
    file_len: u64,
) -> Result<Vec<TensorInfo>> {
    let wrong = |name: &str, message: String| {
        Diagnostic::error(message).in_file(path, format!("tensor {}", quoted(name)))
    };
    entries.sort_by_key(|(_, entry)| entry.data_offsets);
    let data_len = file_len - data_offset;
    let mut end = 0u64;
    let mut tensors: Vec<TensorInfo> = Vec::with_capacity(entries.len());
    for (name, entry) in entries {
        let shape = Shape(entry.shape.0);
        let (from, to) = entry.data_offsets;
        let bytes =
            byte_len(&shape, &entry.dtype).map_err(|message| wrong(&name, message).code("bad-shape"))?;
        if to.checked_sub(from) != Some(bytes) {
            let message = format!(
                "`data_offsets` [{from}, {to}] do not hold the {bytes} bytes of {shape} in {}",
                quoted(&entry.dtype)
            );
            return Err(wrong(&name, message).code("bad-offset").into());
        }
        if from != end {
            let before = tensors.last().map_or("the header".to_owned(), |t| quoted(&t.name));
            let (what, code) = if from < end {
                ("overlaps", "tensor-overlap")
            } else {
                ("leaves a hole after", "tensor-hole")
            };
            let message = format!("the tensor {what} {before}: it begins at {from}, not at {end}");
            return Err(wrong(&name, message).code(code).into());
        }
        if to > data_len {
            let message = format!("the tensor's bytes {from}..{to} are not in the {data_len} bytes of data");
            return Err(wrong(&name, message)
                .code("tensor-outside-file")
                .help("the file is damaged or its download was cut short; fetch it again")
                .into());
        }
        let dtype = tensor_type(&entry.dtype).ok_or_else(|| {
            wrong(&name, format!("type {} is not supported yet", quoted(&entry.dtype)))
                .code("unsupported-dtype")
                .help("take the checkpoint in BF16, F16 or F32")
        })?;
        tensors.push(TensorInfo {
            name,
            shape,
            dtype,
            offset: data_offset + from,
            len: bytes,
            transposed: false,
        });
        end = to;
    }
    if end != data_len {
        let message = format!("the file must end here, after the last tensor; it has {file_len} bytes");
        return Err(Diagnostic::error(message)
            .code("trailing-bytes")
            .in_file(path, format!("byte {}", data_offset + end))
            .into());
    }
    Ok(tensors)
}

/// The bytes of a tensor, or what is wrong with its type or shape.
fn byte_len(shape: &Shape, dtype: &str) -> Result<u64, String> {
    let name: StrDeserializer<'_, DtypeError> = dtype.into_deserializer();
    let Ok(known) = Dtype::deserialize(name) else {
        return Err(format!("{} is no type of the format", quoted(dtype)));
    };
    if shape.0.contains(&0) {
        return Err(format!("a dimension of shape {shape} is 0"));
    }
    let values = shape.0.iter().try_fold(1u64, |n, d| n.checked_mul(*d));
    let bits = values.and_then(|n| n.checked_mul(known.bitsize() as u64));
    match bits {
        None => Err(format!("the size of shape {shape} in {dtype} overflows")),
        Some(bits) if bits % 8 != 0 => Err(format!("shape {shape} in {dtype} is no whole number of bytes")),
        Some(bits) => Ok(bits / 8),
    }
}

/// The tensor type of a Safetensors type, where there is one.
fn tensor_type(dtype: &str) -> Option<TensorType> {
    use TensorType::*;
    let shared = [F64, F32, F16, BF16, I64, I32, I16, I8].into_iter();
    shared.chain(TensorType::CHECKPOINT_ONLY.iter().copied()).find(|t| t.name() == dtype)
}
