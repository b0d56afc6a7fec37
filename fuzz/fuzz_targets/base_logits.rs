//! Any bytes: the reader of base logits refuses them, or all the rows that it counts can be decoded.

#![no_main]

mod file;

use libfuzzer_sys::fuzz_target;
use quantkit::eval::text::BaseLogits;
use quantkit::eval::text::windows::scored_positions;
use rayon::prelude::*;

fuzz_target!(|bytes: &[u8]| {
    let Ok(file) = BaseLogits::open(file::holding(bytes)) else {
        return;
    };
    let windows = file.windows(None, None);
    let positions = windows.count() * scored_positions(file.context());
    let lengths: Vec<usize> = file
        .rows(0..positions)
        .par_iter()
        .map_init(Vec::new, |values, row| {
            row.decode_into(values);
            values.len()
        })
        .collect();
    assert_eq!(lengths.len(), positions);
    let tokens = windows.iter().flatten().max().copied().unwrap_or_default();
    assert!(lengths.iter().all(|&vocabulary| vocabulary > tokens as usize));
});
