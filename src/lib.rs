//! `mdl` is a compiler for language models: a Modelfile is source code, a build runs passes over a
//! typed intermediate representation and emits content-addressed artifacts, and a runtime
//! executes them.
//!
//! ```text
//! Modelfile ──parse──▶ AST ──lower──▶ Recipe                      modelfile   (spans kept to the end)
//! Recipe ──resolve─▶ Module ──import─▶ ──fuse─▶ ──quantize─▶      passes      (rewrite ir, read no weight)
//! Module ──emit─▶ GGUF bytes, layers, manifest ─▶ store           codegen, store
//! name ──load──▶ Model ──prefill/decode──▶ tokens                 runtime     (mdl-kernels does the arithmetic)
//! terminal ──▶ prompt ──▶ tokens ──▶ text                         cli
//! ```
//!
//! A room imports only from rooms below it, in this order; a test holds the tree to it.
#![forbid(unsafe_code)]

pub mod cli;
pub mod terminal;
pub mod client;
pub mod server;
pub mod lsp;
pub mod doctor;
pub mod pipeline;
pub mod runtime;
pub mod prompt;
pub mod registry;
pub mod provenance;
pub mod archive;
pub mod bucket;
pub mod passes;
pub mod codegen;
pub mod signing;
pub mod store;
pub mod modelfile;
pub mod families;
pub mod tokenizer;
pub mod formats;
pub mod ir;
pub mod world;
pub mod diagnostic;
