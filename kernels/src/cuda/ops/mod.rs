//! The operations of inference on a device. Each queues one or a few kernels of `kernels/cuda`, whose heads define what
//! they compute; most have the bits of [`crate::ops`].
//!
//! | file | what it holds |
//! |---|---|
//! | `arrays` | floats, blocks and indices in a device's memory |
//! | `weight` | a weight on a device, and how it comes there |
//! | `product` | weights times columns, gates and experts |
//! | `heads` | queries, keys and values, the cache, attention |
//! | `elementwise` | norms, rows of tables, and one value at a time |

mod arrays;
mod elementwise;
mod heads;
mod product;
mod weight;

pub use arrays::{Blocks, Field, Floats, Inputs, Kind, Output};
pub use elementwise::{
    Mixture, Norm, NormKind, add, add_bias, check_finite, embed, gate, mix, norm, quantize, route,
    scale_logits, select,
};
pub use heads::{
    Attention, Cache, HeadNorm, Heads, Moves, attention, copy_page, has_prefill, merge_parts, prepare,
    rms_scales, shift,
};
pub use product::{Activation, ExpertsOf, Input, Place, experts, gated, matmul};
pub use weight::{DeviceWeight, Loader};
