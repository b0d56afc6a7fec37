//! Throughput of every codec on one thread with every instruction set that the machine has, in
//! weights a second and in bytes of f32 (`quantize`, `weighted`, `dequantize`) or F16 (`from_f16`) a
//! second.
//!
//! `cargo bench --bench codecs`, or `-- quantize/Q4_K/avx512` for one of them.

use std::hint::black_box;
use std::time::Duration;

use criterion::measurement::WallTime;
use criterion::{
    BenchmarkGroup, BenchmarkId, Criterion, Throughput, criterion_group, criterion_main,
};
use quantkit::gguf::GgmlType;
use quantkit::quant::formats::{
    can_quantize, dequantize_row_with, heeds_importance, known, quantize_row, quantize_row_with,
    quantize_weighted_with, requantize_with,
};
use quantkit::support::processor::InstructionSet;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

/// Weights of a call: their f32 values fit a core's second cache.
const WEIGHTS: usize = 1 << 14;
/// Columns of a row where there is importance.
const COLUMNS: usize = 1 << 11;

/// Weights like a model's: nearly normal around zero.
fn weights() -> Vec<f32> {
    let mut random = StdRng::seed_from_u64(1);
    (0..WEIGHTS).map(|_| (0..4).map(|_| random.random::<f32>() - 0.5).sum::<f32>() * 0.05).collect()
}

/// Runs a benchmark for each format and instruction set, with `bytes_per_weight` as the size of what
/// is counted.
fn for_each_path(
    criterion: &mut Criterion,
    name: &str,
    bytes_per_weight: usize,
    formats: impl Iterator<Item = GgmlType>,
    mut bench: impl FnMut(&mut BenchmarkGroup<'_, WallTime>, BenchmarkId, GgmlType, InstructionSet),
) {
    let mut group = criterion.benchmark_group(name);
    group.throughput(Throughput::ElementsAndBytes {
        elements: WEIGHTS as u64,
        bytes: (WEIGHTS * bytes_per_weight) as u64,
    });
    for format in formats {
        for set in InstructionSet::ALL.into_iter().filter(|set| set.available()) {
            bench(&mut group, BenchmarkId::new(format.name(), set.name()), format, set);
        }
    }
    group.finish();
}

fn room(format: GgmlType) -> Vec<u8> {
    vec![0; format.row_bytes(WEIGHTS).expect("whole blocks")]
}

fn quantize(criterion: &mut Criterion) {
    let weights = weights();
    let formats = known().filter(|&format| can_quantize(format));
    for_each_path(criterion, "quantize", 4, formats, |group, id, format, set| {
        let mut bytes = room(format);
        group.bench_function(id, |bencher| {
            bencher.iter(|| quantize_row_with(set, format, black_box(&weights), &mut bytes));
        });
    });
}

fn weighted(criterion: &mut Criterion) {
    let weights = weights();
    let mut random = StdRng::seed_from_u64(3);
    let importance: Vec<f32> = (0..COLUMNS).map(|_| random.random::<f32>()).collect();
    let formats = known().filter(|&format| heeds_importance(format));
    for_each_path(criterion, "weighted", 4, formats, |group, id, format, set| {
        let mut bytes = room(format);
        group.bench_function(id, |bencher| {
            bencher.iter(|| {
                quantize_weighted_with(set, format, black_box(&weights), &importance, &mut bytes)
            });
        });
    });
}

fn from_f16(criterion: &mut Criterion) {
    let mut halves = room(GgmlType::F16);
    quantize_row(GgmlType::F16, &weights(), &mut halves).expect("F16 holds the weights");
    let formats = known().filter(|&format| can_quantize(format));
    for_each_path(criterion, "from_f16", 2, formats, |group, id, format, set| {
        let mut bytes = room(format);
        group.bench_function(id, |bencher| {
            let halves = black_box(&halves);
            bencher.iter(|| requantize_with(set, GgmlType::F16, halves, format, &mut bytes));
        });
    });
}

fn dequantize(criterion: &mut Criterion) {
    let mut random = StdRng::seed_from_u64(2);
    let mut output = vec![0.0; WEIGHTS];
    for_each_path(criterion, "dequantize", 4, known(), |group, id, format, set| {
        // Any bytes will do, but for the speed of subnormal numbers, which no scale should be.
        let bytes: Vec<u8> = room(format).iter().map(|_| random.random_range(0x20..0x60)).collect();
        group.bench_function(id, |bencher| {
            bencher.iter(|| dequantize_row_with(set, format, black_box(&bytes), &mut output));
        });
    });
}

criterion_group! {
    name = codecs;
    config = Criterion::default()
        .warm_up_time(Duration::from_millis(200))
        .measurement_time(Duration::from_millis(500))
        .sample_size(20);
    targets = quantize, weighted, from_f16, dequantize
}
criterion_main!(codecs);
