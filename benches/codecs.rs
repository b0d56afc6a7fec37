//! Throughput of every codec on one thread, in weights a second (`elements`).
//!
//! `cargo bench --bench codecs`, or `-- quantize/Q4_K` for one of them.

use std::hint::black_box;
use std::time::Duration;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use quantkit::quant::formats::{can_quantize, dequantize_row, known, quantize_row};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

/// As many weights as the pipeline codes at a time; their f32 values fit a core's cache.
const WEIGHTS: usize = 1 << 14;

/// Weights like a model's: nearly normal around zero.
fn weights() -> Vec<f32> {
    let mut random = StdRng::seed_from_u64(1);
    (0..WEIGHTS).map(|_| (0..4).map(|_| random.random::<f32>() - 0.5).sum::<f32>() * 0.05).collect()
}

fn quantize(criterion: &mut Criterion) {
    let weights = weights();
    let mut group = criterion.benchmark_group("quantize");
    group.throughput(Throughput::Elements(WEIGHTS as u64));
    for format in known().filter(|&format| can_quantize(format)) {
        let mut bytes = vec![0; format.row_bytes(WEIGHTS).expect("whole blocks")];
        group.bench_function(format.name(), |bencher| {
            bencher.iter(|| quantize_row(format, black_box(&weights), &mut bytes));
        });
    }
    group.finish();
}

fn dequantize(criterion: &mut Criterion) {
    let mut random = StdRng::seed_from_u64(2);
    let mut output = vec![0.0; WEIGHTS];
    let mut group = criterion.benchmark_group("dequantize");
    group.throughput(Throughput::Elements(WEIGHTS as u64));
    for format in known() {
        let length = format.row_bytes(WEIGHTS).expect("whole blocks");
        // Any bytes will do, but for the speed of subnormal numbers, which no scale should be.
        let bytes: Vec<u8> = (0..length).map(|_| random.random_range(0x20..0x60)).collect();
        group.bench_function(format.name(), |bencher| {
            bencher.iter(|| dequantize_row(format, black_box(&bytes), &mut output));
        });
    }
    group.finish();
}

criterion_group! {
    name = codecs;
    config = Criterion::default()
        .warm_up_time(Duration::from_millis(300))
        .measurement_time(Duration::from_secs(1))
        .sample_size(20);
    targets = quantize, dequantize
}
criterion_main!(codecs);
