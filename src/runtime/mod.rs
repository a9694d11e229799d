//! Executes a model: program, engine, KV cache, sampler.
