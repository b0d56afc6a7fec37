//! Whole decode steps of a small random model, and what starting and ending a parallel loop costs:
//! `cargo bench --bench decode_step -- 'Q4_0/1 ×'`. The model has SmolLM2-135M's layers, but fewer
//! of them and a vocabulary of a few hundred tokens; it is made on the spot.

use std::hint::black_box;
use std::path::Path;
use std::time::{Duration, Instant};

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use quantkit::engine::{Engine, EngineOptions, LogitsFor, SequenceId, StepItem};
use quantkit::support::team::Team;

#[path = "../tests/cli/support.rs"]
mod support;

use support::{TinyModel, quantkit};

const FORMATS: [&str; 2] = ["F16", "Q4_0"];
const CONTEXTS: [usize; 3] = [16, 1024, 3072];
const SEQUENCES: [usize; 3] = [1, 2, 8];

/// Steps after which the sequences start again from where they were forked, so that the context stays
/// what it is said to be.
const STEPS: usize = 32;

fn model(directory: &Path, format: &str) -> Engine {
    let file = directory.join("F16.gguf");
    let layers = TinyModel {
        hidden: 576,
        feed_forward: 1536,
        layers: 4,
        heads: 9,
        kv_heads: 3,
        ..TinyModel::default()
    };
    TinyModel { context: 4096, ..layers }.write(&file);
    let path = directory.join(format!("{format}.gguf"));
    if path != file {
        quantkit().arg("quantize").args([&file, &path]).args(["--type", format]).assert().success();
    }
    Engine::load(&path, EngineOptions::default()).expect("a model of our own")
}

/// A sequence of `context` tokens; no two begin alike.
fn sequence(engine: &mut Engine, index: usize, context: usize) -> SequenceId {
    let tokens: Vec<u32> = (0..context).map(|i| ((index + i * 7) % 200 + 3) as u32).collect();
    let sequence = engine.start(context);
    for chunk in tokens.chunks(512) {
        let item = StepItem { sequence, tokens: chunk, logits: LogitsFor::None };
        engine.step(&[item]).expect("a prompt within the context");
    }
    sequence
}

fn decode(criterion: &mut Criterion) {
    let directory = tempfile::tempdir().expect("a folder for the model");
    for format in FORMATS {
        let mut engine = model(directory.path(), format);
        for context in CONTEXTS {
            let most = SEQUENCES.into_iter().max().unwrap_or(0);
            let parents: Vec<SequenceId> =
                (0..most).map(|index| sequence(&mut engine, index, context)).collect();
            for count in SEQUENCES {
                let mut group = criterion.benchmark_group(format!("decode/{format}"));
                group.warm_up_time(Duration::from_millis(200)).sample_size(10);
                group.measurement_time(Duration::from_millis(800));
                group.throughput(Throughput::Elements(count as u64));
                let name = format!("{count} × context {context}");
                group.bench_function(BenchmarkId::from_parameter(name), |bencher| {
                    bencher.iter_custom(|steps| run(&mut engine, &parents[..count], steps));
                });
                group.finish();
            }
            for parent in parents {
                engine.end(parent);
            }
        }
    }
}

/// The time of `steps` steps of sequences that begin with what their parents hold.
fn run(engine: &mut Engine, parents: &[SequenceId], steps: u64) -> Duration {
    let mut time = Duration::ZERO;
    let mut left = steps as usize;
    while left > 0 {
        let children: Vec<SequenceId> =
            parents.iter().map(|&parent| engine.fork(parent, STEPS)).collect();
        let item = |&sequence| StepItem { sequence, tokens: &[42], logits: LogitsFor::Last };
        let items: Vec<StepItem<'_>> = children.iter().map(item).collect();
        let started = Instant::now();
        for _ in 0..left.min(STEPS) {
            black_box(engine.step(&items).expect("a step within the context"));
        }
        time += started.elapsed();
        left = left.saturating_sub(STEPS);
        for child in children {
            engine.end(child);
        }
    }
    time
}

/// A loop of tasks that do nothing: what is left is handing them out and waiting for the end.
fn fork_join(criterion: &mut Criterion) {
    let team = Team::global();
    let mut group = criterion.benchmark_group(format!("team of {}", team.threads()));
    for tasks in [1, team.threads(), 8 * team.threads()] {
        group.bench_function(BenchmarkId::new("tasks", tasks), |bencher| {
            bencher.iter(|| team.run(black_box(tasks), |task| _ = black_box(task)));
        });
    }
    group.finish();
}

criterion_group!(benches, decode, fork_join);
criterion_main!(benches);
