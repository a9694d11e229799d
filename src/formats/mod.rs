//! Untrusted bytes in, checked values out.
//!
//! | room | what it reads |
//! |---|---|
//! | [`gguf`] | GGUF, one file or shards; it also writes GGUF |
//! | [`safetensors`] | the header of a Safetensors file |
//! | [`torch`] | PyTorch's files: a ZIP archive of tensors and a pickle that is read as data |
//! | [`checkpoint`] | a Hugging Face directory: which files count, and that they agree |
//! | [`hf_config`] | `config.json`, `generation_config.json` |
//! | [`consolidated`] | names and settings of Mistral's and Meta's own layout |
//! | [`quantization_config`] | how a checkpoint's weights are quantized already, if they are |
//! | [`adapter`] | LoRA adapters: PEFT, MLX, GGUF |
//! | [`imatrix`] | importance matrices |
//! | [`limits`] | every bound, in one table |
//!
//! A reader reads headers, never weights: it returns where each tensor lies, after it has checked
//! that it lies there. What a file says about its own sizes is compared with the file before
//! anything is allocated.

pub mod adapter;
pub mod checkpoint;
pub mod consolidated;
pub mod gguf;
pub mod hf_config;
pub mod imatrix;
pub mod limits;
pub mod quantization_config;
pub mod safetensors;
pub mod torch;
mod cursor;
mod directory;
mod json;
mod quote;
mod signature;

use mdl_kernels::TensorType;

use crate::ir::{Expr, FileId, Shape};

/// Where a tensor lies in its file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TensorInfo {
    /// Its name in the file.
    pub name: String,
    /// Dimensions, outermost first; the last one is contiguous.
    pub shape: Shape,
    /// How its bytes encode values.
    pub dtype: TensorType,
    /// Its first byte, counted from the start of the file.
    pub offset: u64,
    /// Its bytes.
    pub len: u64,
    /// True when the bytes are those of the transposed matrix: columns one after the other.
    pub transposed: bool,
}

impl TensorInfo {
    /// The expression that loads the tensor from `file`.
    pub fn load(&self, file: FileId) -> Expr {
        let mut shape = self.shape.clone();
        if self.transposed {
            shape.0.reverse();
        }
        let load = Expr::Load { file, offset: self.offset, len: self.len, dtype: self.dtype, shape };
        if self.transposed { Expr::Transpose(Box::new(load)) } else { load }
    }
}
