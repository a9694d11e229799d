//! Every family: a tiny checkpoint as it is published, compiled, and held against what `transformers` computes of it
//! and what llama.cpp's converter makes of it. `testdata/families/README.md` says how the fixtures were made.

#![allow(clippy::unwrap_used, clippy::expect_used)]

mod differences;
mod embeddings;
mod fixture;
mod gguf;
mod logits;
mod table;
mod texts;
