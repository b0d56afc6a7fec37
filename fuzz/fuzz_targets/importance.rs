//! Any bytes: the reader of importance files refuses them, or what it has read can be used.

#![no_main]

mod file;

use libfuzzer_sys::fuzz_target;
use quantkit::quant::importance::{ActivationSums, Importance};

fuzz_target!(|bytes: &[u8]| {
    let path = file::holding(bytes);
    let Ok(sums) = ActivationSums::read(path) else {
        return;
    };
    let columns: Vec<(String, usize)> =
        sums.tensors().map(|(name, tensor)| (name.to_string(), tensor.columns())).collect();
    assert_eq!(sums.coverage().len(), columns.len());
    let importance = Importance::from_sums(sums, path);
    for (name, columns) in columns {
        let values = importance.of(&name).expect("every tensor has its importance");
        assert!(columns > 0 && values.len().is_multiple_of(columns));
        assert!(values.iter().all(|value| *value >= 0.0));
    }
});
