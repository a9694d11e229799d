//! Any bytes as a ZIP archive of PyTorch's: entries lie in the file and share no byte, and so do
//! the tensors that are read from it.
#![no_main]

use std::path::Path;
use std::sync::Arc;

use libfuzzer_sys::fuzz_target;
use mdl::formats::torch::{self, zip::Archive};

fuzz_target!(|data: &[u8]| {
    let file: Arc<[u8]> = data.into();
    let Ok(archive) = Archive::read(Path::new("fuzz.bin"), &file) else { return };
    let mut end = 0;
    for entry in &archive.entries {
        assert!(entry.offset >= end, "{} begins before the one before it ends", entry.name);
        end = entry.offset.checked_add(entry.len).expect("it lies in the file");
        assert_eq!(archive.entries.iter().filter(|other| other.name == entry.name).count(), 1);
    }
    assert!(end <= data.len() as u64);
    let Ok(tensors) = torch::read(Path::new("fuzz.bin"), &file) else { return };
    for tensor in &tensors {
        let inside = |entry: &&torch::zip::Entry| {
            entry.offset <= tensor.offset && tensor.offset + tensor.len <= entry.offset + entry.len
        };
        assert!(archive.entries.iter().any(|entry| inside(&entry)), "{} lies in no entry", tensor.name);
        assert_eq!(tensor.len, tensor.shape.len() * tensor.dtype.block_bytes() as u64);
    }
});
