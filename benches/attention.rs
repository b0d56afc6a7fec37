//! Attention in the shape of SmolLM2-135M: a prefill of a whole prompt, and decode steps late in a
//! long context. One iteration is one layer; the layers take turns, as in a model, so that keys and
//! values come from where they would.
//!
//! Throughput is operations for prefill (two a multiply-add), bytes of keys and values for decode.

use std::hint::black_box;

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use quantkit::kernels::attention::{
    AttentionItem, AttentionLayer, AttentionScratch, AttentionShape, KeyValues, KvLayer, KvShape,
    KvType, Span, attention_with,
};
use quantkit::kernels::elementwise::Rows;
use quantkit::support::processor::Level;
use quantkit::support::team::Team;

const SHAPE: AttentionShape = AttentionShape {
    heads: 9,
    kv_heads: 3,
    head_size: 64,
    scale: 0.125,
    softcap: None,
    alibi: None,
    window: None,
};

const LAYERS: usize = 30;

/// One sequence's keys and values, with numbers that vary.
fn store(kind: KvType, length: usize) -> KeyValues {
    let AttentionShape { kv_heads, head_size, .. } = SHAPE;
    let shape = KvShape::new([KvLayer { kv_heads, head_size }; LAYERS]);
    let mut store = KeyValues::allocate(kind, shape, length).expect("there is memory");
    for (layer, position) in (0..LAYERS * length).map(|place| (place / length, place % length)) {
        let row = |seed: usize| -> Vec<f32> {
            let first = (position * 7919 + seed) * 64;
            (first..).take(kv_heads * head_size).map(|cell| (cell % 1013) as f32 / 506.0).collect()
        };
        store.write(layer, position, &row(layer), &row(layer + 99));
    }
    store
}

/// What a case's throughput is told in.
enum Unit {
    Operations,
    Bytes,
}

/// `sequences` sequences with `tokens` new tokens at the end of `context` positions.
fn measure(
    criterion: &mut Criterion,
    unit: &Unit,
    kind: KvType,
    sequences: usize,
    tokens: usize,
    context: usize,
) {
    let stores: Vec<_> = (0..sequences).map(|_| store(kind, context)).collect();
    let spans: Vec<_> = stores.iter().map(|store| [Span { store, length: context }]).collect();
    let items = spans.iter().enumerate().map(|(index, spans)| AttentionItem {
        queries: index * tokens..(index + 1) * tokens,
        spans,
    });
    let items: Vec<_> = items.collect();
    let width = SHAPE.heads * SHAPE.head_size;
    let rows = sequences * tokens;
    let queries: Vec<f32> =
        (0..rows * width).map(|element| (element * 31 % 997) as f32 / 498.5 - 1.0).collect();
    let queries = Rows::new(&queries, rows, width, width);
    let mut output = vec![0.0; rows * width];
    let (name, throughput) = match unit {
        Unit::Operations => {
            let seen: usize = (0..tokens).map(|token| context - token).sum();
            ("prefill", Throughput::Elements((4 * sequences * seen * width) as u64))
        }
        Unit::Bytes => {
            let bytes = stores[0].shape().bytes_per_token(kind) / LAYERS;
            ("decode", Throughput::Bytes((sequences * context * bytes) as u64))
        }
    };
    let mut group = criterion.benchmark_group(format!("{name} {}", kind.name()));
    group.throughput(throughput).sample_size(10);
    for level in Level::available() {
        let name = format!("{sequences} × {tokens} of {context}");
        group.bench_function(BenchmarkId::new(level.name(), name), |bencher| {
            let (team, mut scratch) = (Team::global(), AttentionScratch::default());
            let mut layers = (0..LAYERS).cycle();
            bencher.iter(|| {
                let slot = layers.next().expect("a cycle");
                let layer = AttentionLayer::new(SHAPE, slot);
                let queries = black_box(queries);
                attention_with(level, team, layer, queries, &items, &mut output, &mut scratch);
            });
        });
    }
    group.finish();
}

fn prefill(criterion: &mut Criterion) {
    let unit = Unit::Operations;
    measure(criterion, &unit, KvType::I16, 1, 512, 512);
    measure(criterion, &unit, KvType::I16, 1, 2560, 2560);
    measure(criterion, &unit, KvType::I16, 8, 24, 160);
    measure(criterion, &unit, KvType::I8, 1, 2560, 2560);
}

fn decode(criterion: &mut Criterion) {
    let unit = Unit::Bytes;
    for kind in KvType::ALL {
        measure(criterion, &unit, kind, 1, 1, 128);
        measure(criterion, &unit, kind, 1, 1, 3000);
        measure(criterion, &unit, kind, 8, 1, 3000);
    }
}

criterion_group!(benches, prefill, decode);
criterion_main!(benches);
