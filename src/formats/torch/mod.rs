//! PyTorch's files of weights (`pytorch_model.bin`, `.pth`, `.pt`), read as data.
//!
//! Such a file is a ZIP archive of stored entries: `NAME/data.pkl` says which tensors there are,
//! `NAME/data/KEY` are the bytes of a storage, which tensors may share. So a tensor is a range of
//! the file, as in Safetensors. The pickle is never executed ([`pickle`]).

pub mod pickle;
pub mod zip;

use std::collections::HashMap;
use std::path::Path;

use super::quote::quoted;
use super::{TensorInfo, limits, signature};
use crate::diagnostic::{Diagnostic, Result};
use crate::ir::Shape;
use crate::world::File;
use pickle::PickledTensor;
use zip::{Archive, Entry};

/// How the older format, pickles one after the other, begins: a protocol and a magic number.
const LEGACY: &[u8] = b"\x80\x02\x8a\x0a\x6c\xfc\x9c\x46\xf9\x20\x6a\xa8\x50\x19.";

/// The tensors of the PyTorch file `file`, which errors call `path`, in the order of its state
/// dict. Tensors may share bytes. No weight is read.
///
/// # Errors
/// The file is none that PyTorch writes for a state dict of tensors, or is damaged; a tensor's
/// elements do not lie one after the other.
pub fn read(path: &Path, file: &dyn File) -> Result<Vec<TensorInfo>> {
    require_archive(path, file)?;
    let archive = Archive::read(path, file)?;
    let (prefix, pickle) = find_pickle(path, &archive)?;
    if let Some(order) = archive.entry(&format!("{prefix}byteorder")) {
        let bytes = contents(path, file, order, 16)?;
        if bytes != b"little" {
            let message = format!("the bytes are in the order {}", quoted(&String::from_utf8_lossy(&bytes)));
            let error = Diagnostic::error(message).code("byte-order").in_file(path, "byteorder");
            return Err(with_conversion(error, path).into());
        }
    }
    let pickled = pickle::state_dict(path, &contents(path, file, pickle, limits::PICKLE)?)?;
    let entries = archive.entries.iter();
    let storages: HashMap<&str, &Entry> =
        entries.filter_map(|e| Some((e.name.strip_prefix(&*prefix)?.strip_prefix("data/")?, e))).collect();
    pickled.into_iter().map(|(name, tensor)| place(path, name, tensor, &storages)).collect()
}

/// Adds what to do with a file that is not read as it is: the one command that converts it.
pub(super) fn with_conversion(error: Diagnostic, path: &Path) -> Diagnostic {
    let name = path.file_name().and_then(|n| n.to_str()).unwrap_or("pytorch_model.bin");
    // Where nothing has to be escaped, the command can be run as it stands.
    let plain = |c: char| c.is_ascii_alphanumeric() || "._-".contains(c);
    let name = if name.chars().all(plain) { name } else { "FILE" };
    // A shard stays a shard.
    let stem = name.rsplit_once('.').map_or(name, |(stem, _)| stem);
    let converted = format!("model{}.safetensors", stem.strip_prefix("pytorch_model").unwrap_or_default());
    error
        .label("a pickle is a program; it is read as data, and nothing in it is executed")
        .help(
            "convert the file where it lies, with Python, which reads more and still executes nothing \
             (`weights_only`):",
        )
        .help(format!(
            "python -c \"import torch, safetensors.torch as s; t = torch.load('{name}', map_location='cpu', \
             weights_only=True); s.save_file({{k: v.clone().contiguous() for k, v in t.items() if torch.is_tensor(v)}}, \
             '{converted}')\""
        ))
}

fn require_archive(path: &Path, file: &dyn File) -> Result<()> {
    let mut start = [0; signature::SNIFFED];
    let shown = file.len().min(start.len() as u64) as usize;
    let start = &mut start[..shown];
    file.read_at(0, start).map_err(|e| Diagnostic::io("read", path, &e))?;
    if start.starts_with(signature::ZIP) {
        return Ok(());
    }
    let error = |message: &str| Diagnostic::error(message).code("not-pytorch").in_file(path, "");
    if start.starts_with(LEGACY) || start.starts_with(b"\x80\x02") {
        let error = error("the file has PyTorch's format from before version 1.6, which is not read");
        return Err(with_conversion(error, path).into());
    }
    let error = error("not a PyTorch file");
    Err(match signature::sniff(start) {
        Some((what, help)) => error.label(format!("this is {what}")).help(help).into(),
        None => error.help("the file is damaged or its download went wrong; fetch it again").into(),
    })
}

/// The one `data.pkl`, and the folder it is in, with its `/`.
fn find_pickle<'a>(path: &Path, archive: &'a Archive) -> Result<(String, &'a Entry)> {
    let mut found = archive.entries.iter().filter_map(|entry| {
        let prefix = entry.name.strip_suffix("data.pkl")?;
        let folder = prefix.strip_suffix('/')?;
        (!folder.contains('/')).then(|| (prefix.to_owned(), entry))
    });
    match (found.next(), found.next()) {
        (Some(one), None) => Ok(one),
        _ => Err(Diagnostic::error("the archive has no data.pkl of PyTorch's, or several")
            .code("not-pytorch")
            .in_file(path, "")
            .help("FROM takes a directory with weights, not a packed one; unpack it first")
            .into()),
    }
}

/// The whole of an entry of at most `limit` bytes.
fn contents(path: &Path, file: &dyn File, entry: &Entry, limit: u64) -> Result<Vec<u8>> {
    if entry.len > limit {
        let message = format!("{} bytes; at most {limit} are read", entry.len);
        let place = format!("entry {}", quoted(&entry.name));
        return Err(Diagnostic::error(message).code("file-too-large").in_file(path, place).into());
    }
    let mut bytes = vec![0; entry.len as usize];
    file.read_at(entry.offset, &mut bytes).map_err(|e| Diagnostic::io("read", path, &e))?;
    Ok(bytes)
}

/// Where a tensor lies in the file.
fn place(
    path: &Path,
    name: String,
    tensor: PickledTensor,
    storages: &HashMap<&str, &Entry>,
) -> Result<TensorInfo> {
    let wrong = |code: &'static str, message: String| {
        Diagnostic::error(message).code(code).in_file(path, format!("tensor {}", quoted(&name)))
    };
    let storage = storages.get(tensor.storage.as_str()).ok_or_else(|| {
        wrong("missing-storage", format!("its storage {} is missing", quoted(&tensor.storage)))
    })?;
    if storage.len != tensor.storage_len {
        let message = format!("its storage has {} bytes, not {}", storage.len, tensor.storage_len);
        return Err(wrong("bad-storage", message).into());
    }
    let shape = Shape(tensor.shape);
    if shape.0.contains(&0) {
        return Err(wrong("bad-shape", format!("a dimension of shape {shape} is 0")).into());
    }
    let width = tensor.dtype.block_bytes() as u64;
    let values = shape.0.iter().try_fold(1u64, |n, d| n.checked_mul(*d));
    let len = values.and_then(|n| n.checked_mul(width));
    let start = tensor.offset.checked_mul(width);
    let end = start.zip(len).and_then(|(start, len)| start.checked_add(len));
    let (Some(start), Some(len), Some(end)) = (start, len, end) else {
        return Err(wrong("bad-shape", format!("the size of shape {shape} overflows")).into());
    };
    let transposed = match order(&shape.0, &tensor.strides) {
        Some(Order::Rows) => false,
        Some(Order::Columns) => true,
        None => {
            let message =
                format!("its elements do not lie one after the other: strides {:?}", tensor.strides);
            return Err(with_conversion(wrong("strides", message), path).into());
        }
    };
    if end > storage.len {
        let message = format!("its bytes {start}..{end} are not in the {} bytes of its storage", storage.len);
        return Err(wrong("tensor-outside-file", message).into());
    }
    // The storage lies in the file, so this does not overflow.
    let offset = storage.offset + start;
    Ok(TensorInfo { name, shape, dtype: tensor.dtype, offset, len, transposed })
}

#[derive(Debug, PartialEq)]
enum Order {
    /// The last dimension is contiguous.
    Rows,
    /// A matrix whose columns are contiguous: a transposed view.
    Columns,
}

/// How elements lie; `None` where they are not one after the other, or in another order. A
/// dimension of 1 has any stride.
fn order(shape: &[u64], strides: &[u64]) -> Option<Order> {
    if shape.len() != strides.len() {
        return None;
    }
    let dimensions = shape.iter().copied().zip(strides.iter().copied());
    if one_after_another(dimensions.clone().rev()) {
        return Some(Order::Rows);
    }
    (shape.len() == 2 && one_after_another(dimensions)).then_some(Order::Columns)
}

/// True when sizes and strides, the fastest dimension first, leave no gap.
fn one_after_another(mut dimensions: impl Iterator<Item = (u64, u64)>) -> bool {
    let mut expected = 1u64;
    dimensions.all(|(size, stride)| {
        let good = size == 1 || stride == expected;
        // `place` has found that the product fits.
        expected = expected.saturating_mul(size);
        good
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_conversion_keeps_a_shard_a_shard() {
        let help = |name: &str| {
            let path = Path::new("/m").join(name);
            with_conversion(Diagnostic::error("x"), &path).help.join(" ")
        };
        assert!(help("pytorch_model.bin").ends_with("'model.safetensors')\""));
        let shard = help("pytorch_model-00001-of-00002.bin");
        assert!(shard.contains("'pytorch_model-00001-of-00002.bin'"), "{shard}");
        assert!(shard.ends_with("'model-00001-of-00002.safetensors')\""), "{shard}");
        assert!(help("consolidated.00.pth").ends_with("'model.safetensors')\""));
        assert!(help("it's.bin").contains("torch.load('FILE'"));
    }

    #[test]
    fn strides_say_how_elements_lie() {
        assert_eq!(order(&[], &[]), Some(Order::Rows));
        assert_eq!(order(&[2, 3, 4], &[12, 4, 1]), Some(Order::Rows));
        assert_eq!(order(&[2, 1, 4], &[4, 99, 1]), Some(Order::Rows));
        assert_eq!(order(&[2, 3], &[1, 2]), Some(Order::Columns));
        assert_eq!(order(&[2, 3], &[4, 1]), None, "a part of wider rows");
        assert_eq!(order(&[2, 3], &[0, 1]), None, "one row, seen twice");
        assert_eq!(order(&[2, 3, 4], &[1, 2, 6]), None);
        assert_eq!(order(&[2], &[1, 1]), None);
    }
}
