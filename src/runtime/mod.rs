//! Executes a compiled model: a step is a program.
//!
//! A [`DecoderSpec`](crate::families::spec::DecoderSpec) and a table of tensors are lowered once, when
//! the model is loaded, to a flat list of operations over buffers of known size ([`program`]). A
//! [`backend`] executes it; prefill and decode run the same program with more or fewer columns.
//!
//! | file | what it holds |
//! |---|---|
//! | [`weights`] | the tensors of a model, checked as they are taken |
//! | [`program`] | lowering, fusion, and the memory a context takes |
//! | [`backend`] | who executes a program: the CPU |
//! | `rotation` | the angles of rotary positions |
//! | [`kv`] | the shape of the KV cache |
//! | [`sampler`] | chooses tokens, finds stop texts |
//! | [`options`] | what PARAMETER says about a generation |
//! | [`answer`] | a conversation made ready for a model: rendered, fitted into the context |
//! | [`stored`], [`loaded`] | a model of the store, opened and ready to answer |
//! | [`engine`] | [`Model`](engine::Model) and [`Session`](engine::Session) |
//! | [`generate`] | the loop from prompt to tokens |
//! | [`chunks`] | a text as it is cut to be measured |
//! | [`importance`] | which columns of each matrix matter |
//! | [`cost`] | what a step reads and multiplies, operation by operation |
//! | [`timing`] | sequences that are fed to be timed |
//! | [`perplexity`] | how well a model predicts a text |
//! | [`divergence`] | how far a model's predictions are from those of its source |

pub mod answer;
pub mod loaded;
pub mod stored;
pub mod options;
pub mod sampler;
pub mod batch;
pub mod constrain;
pub mod generate;
pub mod device;
pub mod divergence;
pub mod importance;
pub mod perplexity;
pub mod chunks;
pub mod cost;
pub mod timing;
pub mod engine;
pub mod backend;
pub mod program;
mod fuse;
mod low_rank;
mod lower;
mod rotation;
pub mod kv;
pub mod weights;

#[cfg(test)]
mod testing;
