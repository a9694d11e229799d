//! The CUDA kernels against the portable definitions, without a GPU: `kernels/cuda/*.cu` are compiled by a C++
//! compiler for the machine of `cuda/shim.h` and called as a driver would call them.
//!
//! Each kernel runs twice, its threads in both orders, so that a missing barrier shows. Results are compared bit
//! for bit wherever a kernel promises the order of its sums; a tolerance stands beside its reason.

#![cfg(target_os = "linux")]
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::disallowed_methods, reason = "this is all tests")]

#[path = "cuda/harness.rs"]
mod harness;
#[path = "cuda/values.rs"]
mod values;
#[path = "cuda/weights.rs"]
mod weights;

#[path = "cuda/attention.rs"]
mod attention;
#[path = "cuda/elementwise.rs"]
mod elementwise;
#[path = "cuda/experts.rs"]
mod experts;
#[path = "cuda/floats.rs"]
mod floats;
#[path = "cuda/heads.rs"]
mod heads;
#[path = "cuda/products.rs"]
mod products;
#[path = "cuda/quantize.rs"]
mod quantize;
#[path = "cuda/sample.rs"]
mod sample;
