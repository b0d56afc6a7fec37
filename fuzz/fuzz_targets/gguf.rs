//! Any bytes: the GGUF reader refuses them, or every tensor that it lists lies in them.

#![no_main]

use std::path::Path;

use libfuzzer_sys::fuzz_target;
use quantkit::gguf::Directory;

fuzz_target!(|bytes: &[u8]| {
    let Ok(directory) = Directory::parse(Path::new("fuzz.gguf"), bytes) else {
        return;
    };
    for tensor in &directory.tensors {
        let start = (directory.data_start + tensor.offset) as usize;
        let data = &bytes[start..start + tensor.bytes() as usize];
        assert_eq!(data.len() as u64 % tensor.ggml_type.block_bytes() as u64, 0);
        assert_eq!(tensor.columns() as u64 * tensor.rows() as u64, tensor.weights());
        assert_eq!(directory.tensor(&tensor.name), Some(tensor));
    }
});
