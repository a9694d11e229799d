//! Any bytes as a GGUF file: refused, or read, written again and read as the same.
#![no_main]

use std::path::Path;
use std::sync::Arc;

use libfuzzer_sys::fuzz_target;
use mdl::formats::gguf::{Gguf, Layout};

fuzz_target!(|data: &[u8]| {
    let file: Arc<[u8]> = data.into();
    let Ok(gguf) = Gguf::read(Path::new("fuzz.gguf"), &file) else { return };
    for tensor in &gguf.tensors {
        assert!(tensor.offset + tensor.len <= data.len() as u64);
    }
    let tensors = gguf.tensors.iter().map(|t| (t.name.clone(), t.shape.clone(), t.dtype)).collect();
    let layout = Layout::new(&gguf.metadata, tensors).expect("what was read can be written");
    // Tensors may lie anywhere in the file that was read; the layout puts them in order.
    let mut bytes = layout.header().to_vec();
    bytes.resize(layout.total_len() as usize, 0);
    let file: Arc<[u8]> = bytes.into();
    let again = Gguf::read(Path::new("again.gguf"), &file).expect("what was written can be read");
    assert_eq!(again.tensors, layout.tensors());
    // NaN is not equal to itself; its printed form is.
    assert_eq!(format!("{:?}", again.metadata), format!("{:?}", gguf.metadata));
});
