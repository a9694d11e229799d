//! Block formats, quantization and CPU kernels of `mdl`.
//!
//! Every `unsafe` line of the project is in this crate, behind safe functions that check lengths
//! before they touch memory. The portable code is the definition of each routine; a specialised
//! one is chosen at run time ([`level`]) and must give the same bits.
//!
//! | room | what it holds |
//! |---|---|
//! | [`tensor_type`] | the GGML tensor types: ids, names, block geometry |
//! | [`cpu`] | what the processor is called and can do |
//! | [`level`] | which instruction set runs, detected once |
//! | [`blocks`] | how each format lays out one block |
//! | [`mod@quantize`] | single precision to blocks, plain or by importance |
//! | [`mod@dequantize`] | blocks to single precision |
//! | [`low_rank`] | the product of an adapter's factors, added to rows |
//! | [`mod@check`] | blocks that could only decode to NaN |
//! | [`map`] | files as read-only memory |
//! | [`memory`] | large memory in huge pages |
//! | [`ops`] | the operations of inference: matmul, norm, rope, attention |
//! | [`cuda`] | NVIDIA GPUs: the driver, kernels, and operations on a device |
//! | [`region`] | one parallel region per step, a barrier after each operation |

pub mod cpu;
pub mod cuda;
pub mod level;
pub mod map;
pub mod memory;
pub mod ops;
pub mod region;
pub mod tensor_type;

pub mod blocks;
pub mod check;
pub mod dequantize;
pub mod low_rank;
pub mod quantize;

pub use level::Level;
pub use tensor_type::TensorType;

pub use check::{BadBlock, check};
pub use dequantize::{DequantizeError, dequantizable, dequantize, dequantize_at};
pub use low_rank::{add_low_rank, add_low_rank_at};
pub use quantize::{QuantizeError, quantizable, quantize, quantize_at};
