//! What watching costs in a step of eight sequences, each of which gets a token:
//! `cargo bench --bench metrics`. A step of the smallest models takes a few milliseconds.

use std::hint::black_box;
use std::time::{Duration, Instant};

use criterion::{Criterion, criterion_group, criterion_main};
use quantkit::engine::{
    Engine, EngineOptions, Observer, Request, Scheduler, SchedulerOptions, ServiceEvent, Timings,
};
use quantkit::server::ModelMetrics;

#[path = "../tests/cli/support.rs"]
mod support;

use support::TinyModel;

const SEQUENCES: u32 = 8;

fn observe(criterion: &mut Criterion) {
    let metrics = ModelMetrics::new(8192);
    let token = ServiceEvent::Token {
        token: 1,
        bytes: vec![b'a'; 4],
        probabilities: None,
        at: Instant::now(),
    };
    let start = Instant::now();
    let after = |milliseconds| Some(start + Duration::from_millis(milliseconds));
    let timings = Timings {
        submitted: start,
        started: after(1),
        first: after(20),
        before_last: after(60),
        last: after(90),
    };
    criterion.bench_function("tokens of a step", |bencher| {
        bencher.iter(|| {
            for _ in 0..SEQUENCES {
                metrics.event(black_box(&token), black_box(&timings));
            }
        });
    });
}

fn count_memory(criterion: &mut Criterion) {
    let directory = tempfile::tempdir().expect("a folder for the model");
    let path = directory.path().join("tiny.gguf");
    TinyModel::default().write(&path);
    let engine = Engine::load(&path, EngineOptions::default()).expect("a model of our own");
    let options = SchedulerOptions { cache_bytes: 1 << 30, ..SchedulerOptions::default() };
    let mut scheduler = Scheduler::new(engine, options);
    for index in 0..SEQUENCES {
        let prompt = (0..32).map(|position| 3 + (index + position * 7) % 200).collect();
        let request = Request { ignore_end: true, ..Request::new(prompt, 400) };
        scheduler.submit(request).expect("a prompt within the context");
    }
    scheduler.step();
    assert_eq!(scheduler.running().len(), SEQUENCES as usize);
    criterion.bench_function("memory of a step", |bencher| {
        bencher.iter(|| black_box(&scheduler).held_bytes());
    });
}

criterion_group!(benches, observe, count_memory);
criterion_main!(benches);
