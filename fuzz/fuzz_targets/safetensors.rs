//! Any bytes: the safetensors reader refuses them, or every tensor that it lists lies in them.

#![no_main]

use std::path::Path;

use libfuzzer_sys::fuzz_target;
use quantkit::checkpoint::SafetensorsHeader;

fuzz_target!(|bytes: &[u8]| {
    let path = Path::new("fuzz.safetensors");
    let Ok(header) = SafetensorsHeader::parse(path, bytes) else {
        return;
    };
    let tensors = header.tensors(path, bytes);
    let data: usize = tensors.map(|tensor| tensor.bytes.len()).sum();
    assert!(data < bytes.len());
});
