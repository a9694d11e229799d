//! Executes a model: program, engine, KV cache, sampler.

pub mod sampler;
