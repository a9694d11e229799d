//! Readers of model files: what they accept, what they refuse and how they say so.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod adapter;
mod archive;
mod bytes;
mod checkpoint;
mod config;
mod gguf;
mod gguf_liars;
mod gguf_malformed;
mod gguf_split;
mod imatrix;
mod interop;
mod report;
mod safetensors;
mod torch;
