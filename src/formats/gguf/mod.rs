//! GGUF: key-values and tensors in one file, or in shards.
//!
//! Layout of a file (version 3, little endian): `GGUF`, version u32, tensor count u64, key count
//! u64; the key-values; for each tensor its name, dimensions (innermost first), type and offset;
//! padding to the alignment; the tensors' bytes, each at a multiple of the alignment. Version 2 is
//! the same.

mod geometry;
mod layout;
mod read;
mod split;
mod write;

use std::path::Path;

pub use layout::Layout;
pub use split::{Shard, read_shards, take_metadata};
pub use write::GgufWriter;

use super::TensorInfo;
use crate::diagnostic::Result;
use crate::ir::Metadata;
use crate::world::File;

/// The alignment of tensors where a file does not say another one.
pub const DEFAULT_ALIGNMENT: u64 = 32;

/// The key that says the alignment.
pub const ALIGNMENT_KEY: &str = "general.alignment";

/// The first four bytes of every GGUF file.
pub const MAGIC: [u8; 4] = *b"GGUF";

/// The header of a GGUF file: all of it, checked.
#[derive(Clone, Debug, PartialEq)]
pub struct Gguf {
    /// 2 or 3.
    pub version: u32,
    /// The key-values, in the file's order.
    pub metadata: Metadata,
    /// The tensors, in the file's order. Each lies within the file, and none overlaps another.
    pub tensors: Vec<TensorInfo>,
    /// What tensors' offsets, counted from `data_offset`, are multiples of.
    pub alignment: u64,
    /// The first byte after the header and its padding.
    pub data_offset: u64,
}

impl Gguf {
    /// Reads the header of `file`, which errors call `path`. No weight is read.
    ///
    /// # Errors
    /// The file is no GGUF of version 2 or 3, or a field of its header is wrong; the diagnostic
    /// names the key or the tensor, and the byte.
    pub fn read(path: &Path, file: &dyn File) -> Result<Gguf> {
        read::read(path, file)
    }

    /// The tensor with this name.
    pub fn tensor(&self, name: &str) -> Option<&TensorInfo> {
        self.tensors.iter().find(|t| t.name == name)
    }
}
