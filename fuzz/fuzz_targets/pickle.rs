//! Any bytes as the pickle of a PyTorch file: nothing is called, and what is read is bounded.
#![no_main]

use std::collections::HashSet;
use std::path::Path;

use libfuzzer_sys::fuzz_target;
use mdl::formats::torch::pickle;

fuzz_target!(|data: &[u8]| {
    let Ok(tensors) = pickle::state_dict(Path::new("fuzz.bin"), data) else { return };
    assert!(!tensors.is_empty());
    let mut names = HashSet::new();
    for (name, tensor) in &tensors {
        assert!(!name.is_empty() && names.insert(name));
        assert!(tensor.shape.len() <= 8 && tensor.strides.len() <= 8);
        assert!(tensor.storage.len() <= data.len());
    }
});
