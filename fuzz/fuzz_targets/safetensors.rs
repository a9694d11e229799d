//! Any bytes as a Safetensors file: where it is accepted, the format's own crate agrees.
#![no_main]

use std::path::Path;
use std::sync::Arc;

use libfuzzer_sys::fuzz_target;
use mdl::formats::safetensors::Safetensors;

fuzz_target!(|data: &[u8]| {
    let file: Arc<[u8]> = data.into();
    let Ok(ours) = Safetensors::read(Path::new("fuzz.safetensors"), &file) else { return };
    let mut end = None;
    for tensor in &ours.tensors {
        assert_eq!(end.unwrap_or(tensor.offset), tensor.offset);
        end = Some(tensor.offset + tensor.len);
    }
    assert!(end.unwrap_or(data.len() as u64) == data.len() as u64);
    let theirs = ::safetensors::SafeTensors::deserialize(data).expect("the reference accepts it, too");
    for tensor in &ours.tensors {
        let view = theirs.tensor(&tensor.name).expect("it has the tensor");
        let start = tensor.offset as usize;
        assert_eq!(view.data(), &data[start..start + tensor.len as usize]);
    }
});
