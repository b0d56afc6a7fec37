//! Matrix products: `cargo bench --bench matmul -- 'Q4_0/576x1536'`; multiply-adds count as two
//! operations. On all cores unless `RAYON_NUM_THREADS` says otherwise; `QUANTKIT_ISA` picks the
//! kernels.

use std::hint::black_box;
use std::time::Duration;

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use half::f16;
use quantkit::gguf::GgmlType;
use quantkit::kernels::elementwise::Rows;
use quantkit::kernels::matmul::{PackedMatrix, Source, Target, Workspace, multiply_many};
use quantkit::quant::formats::quantize_row;
use quantkit::support::team::Team;

const TYPES: [GgmlType; 7] = [
    GgmlType::F16,
    GgmlType::Q4_0,
    GgmlType::Q4_1,
    GgmlType::Q5_0,
    GgmlType::Q8_0,
    GgmlType::Q4_K,
    GgmlType::Q6_K,
];

/// Input × output features: SmolLM2-135M's, then those of a model of one to two billion weights.
const SHAPES: [(usize, usize); 4] = [(576, 576), (576, 1536), (2048, 5632), (5632, 2048)];

const TOKENS: [usize; 3] = [1, 8, 512];

fn values(count: usize) -> Vec<f32> {
    (0..count).map(|i| ((i * 2_654_435_761) % 20_011) as f32 / 10_000.0 - 1.0).collect()
}

fn packed(ggml_type: GgmlType, rows: usize, columns: usize) -> PackedMatrix {
    let row_bytes = ggml_type.row_bytes(columns).expect("whole blocks");
    let mut row = vec![0; row_bytes];
    quantize_row(ggml_type, &values(columns), &mut row).expect("a format that can be written");
    PackedMatrix::pack(ggml_type, rows, columns, &row.repeat(rows)).expect("a known format")
}

fn products(criterion: &mut Criterion) {
    for ggml_type in TYPES {
        for (columns, rows) in SHAPES {
            if ggml_type.row_bytes(columns).is_none() {
                continue;
            }
            let matrix = packed(ggml_type, rows, columns);
            let mut group = criterion.benchmark_group(format!("{ggml_type}/{columns}x{rows}"));
            group.warm_up_time(Duration::from_millis(200));
            group.measurement_time(Duration::from_millis(800));
            group.sample_size(10);
            for tokens in TOKENS {
                let inputs = values(tokens * columns);
                let mut output = vec![0.0; tokens * rows];
                let mut workspace = Workspace::default();
                group.throughput(Throughput::Elements((2 * tokens * rows * columns) as u64));
                group.bench_function(BenchmarkId::from_parameter(tokens), |bencher| {
                    bencher.iter(|| {
                        let rows = Rows::new(black_box(&inputs), tokens, columns, columns);
                        let targets = &mut [Target::new(&mut output)];
                        let source = Source::Rows(rows);
                        let workspace = &mut workspace;
                        multiply_many(Team::global(), &[&matrix], &source, targets, workspace);
                    });
                });
            }
            group.finish();
        }
    }
}

/// Packing happens once, at load; bytes are those of the file.
fn packing(criterion: &mut Criterion) {
    let (rows, columns) = (2048, 2048);
    let mut group = criterion.benchmark_group("pack");
    group.sample_size(10).measurement_time(Duration::from_millis(800));
    for ggml_type in TYPES {
        let row_bytes = ggml_type.row_bytes(columns).expect("whole blocks");
        let bytes = f16::ONE.to_le_bytes().repeat(rows * row_bytes / 2);
        group.throughput(Throughput::Bytes(bytes.len() as u64));
        group.bench_function(BenchmarkId::from_parameter(ggml_type), |bencher| {
            bencher.iter(|| PackedMatrix::pack(ggml_type, rows, columns, black_box(&bytes)));
        });
    }
    group.finish();
}

criterion_group!(benches, products, packing);
criterion_main!(benches);
