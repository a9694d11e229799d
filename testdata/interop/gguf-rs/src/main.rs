//! Prints the key-values and tensors of a GGUF file as gguf-rs reads them, as JSON.
//!
//! Sizes are left out: those of gguf-rs are wrong for several types (every one from number 10 on
//! has blocks of 256 there).

use anyhow::Context;
use serde_json::{Value, json};

fn main() -> anyhow::Result<()> {
    let path = std::env::args().nth(1).context("usage: read-with-gguf-rs FILE")?;
    let model = gguf_rs::get_gguf_container_array_size(&path, u64::MAX)?.decode()?;
    let tensors: Vec<Value> = model
        .tensors()
        .iter()
        .map(|tensor| {
            let shape: Vec<u64> = tensor.shape.iter().rev().copied().collect();
            let offset = model.data_offset() + tensor.offset;
            json!({"name": tensor.name, "shape": shape, "type": tensor.kind, "offset": offset})
        })
        .collect();
    let read = json!({"alignment": model.alignment(), "metadata": model.metadata(), "tensors": tensors});
    println!("{read}");
    Ok(())
}
