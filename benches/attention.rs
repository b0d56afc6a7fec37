//! Attention in the shape of SmolLM2-135M: a prefill of a whole prompt, and decode steps late in
//! a long context. One iteration is one layer.

use std::hint::black_box;

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use quantkit::kernels::attention::{
    AttentionItem, AttentionShape, CacheRows, CacheSpan, attention_with,
};
use quantkit::support::processor::InstructionSet;

const SHAPE: AttentionShape = AttentionShape { heads: 9, kv_heads: 3, head_size: 64, scale: 0.125 };

/// One sequence's keys or values, with numbers that vary.
fn cache(length: usize) -> (Vec<i16>, Vec<f32>) {
    let rows = SHAPE.kv_heads * length;
    let elements = (0..rows * SHAPE.head_size).map(|cell| (cell * 7919 % 1013) as i16 - 506);
    (elements.collect(), vec![1.0 / 506.0; rows])
}

fn rows((elements, scales): &(Vec<i16>, Vec<f32>)) -> CacheRows<'_> {
    CacheRows { elements, scales }
}

/// `sequences` sequences with `tokens` new tokens at the end of `context` positions.
fn measure(
    criterion: &mut Criterion,
    group: &str,
    sequences: usize,
    tokens: usize,
    context: usize,
) {
    let caches: Vec<_> = (0..sequences).map(|_| (cache(context), cache(context))).collect();
    let items: Vec<_> = caches
        .iter()
        .enumerate()
        .map(|(index, (keys, values))| AttentionItem {
            queries: index * tokens..(index + 1) * tokens,
            spans: vec![CacheSpan {
                keys: rows(keys),
                values: rows(values),
                length: context,
                capacity: context,
            }],
        })
        .collect();
    let elements = sequences * tokens * SHAPE.heads * SHAPE.head_size;
    let queries: Vec<f32> =
        (0..elements).map(|element| (element * 31 % 997) as f32 / 498.5 - 1.0).collect();
    let mut output = vec![0.0; elements];
    let seen: usize = (0..tokens).map(|token| context - token).sum();
    let multiplications = 2 * sequences * seen * SHAPE.heads * SHAPE.head_size;
    let mut group = criterion.benchmark_group(group);
    group.throughput(Throughput::Elements(2 * multiplications as u64)).sample_size(10);
    for set in InstructionSet::ALL.into_iter().filter(|set| set.available()) {
        let name = format!("{sequences} × {tokens} of {context}");
        group.bench_function(BenchmarkId::new(set.name(), name), |bencher| {
            bencher.iter(|| {
                attention_with(set, SHAPE, black_box(&queries), &items, &mut output);
            });
        });
    }
    group.finish();
}

fn prefill(criterion: &mut Criterion) {
    measure(criterion, "prefill", 1, 512, 512);
    measure(criterion, "prefill", 1, 2560, 2560);
    measure(criterion, "prefill", 8, 24, 160);
}

fn decode(criterion: &mut Criterion) {
    measure(criterion, "decode", 1, 1, 128);
    measure(criterion, "decode", 1, 1, 3000);
    measure(criterion, "decode", 8, 1, 3000);
}

criterion_group!(benches, prefill, decode);
criterion_main!(benches);
