//! A decode step in the middle of a generation allocates no memory.

use std::alloc::{GlobalAlloc, Layout, System};
use std::sync::atomic::{AtomicUsize, Ordering};

use quantkit::engine::{Engine, EngineOptions, LogitsFor, SequenceId, StepItem};

#[path = "cli/support.rs"]
mod support;

use support::TinyModel;

/// The system's allocator, which counts.
struct Counting;

static ALLOCATIONS: AtomicUsize = AtomicUsize::new(0);

// SAFETY: everything is left to the system's allocator.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        ALLOCATIONS.fetch_add(1, Ordering::Relaxed);
        // SAFETY: the caller's.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, memory: *mut u8, layout: Layout) {
        // SAFETY: the caller's.
        unsafe { System.dealloc(memory, layout) }
    }

    unsafe fn realloc(&self, memory: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        ALLOCATIONS.fetch_add(1, Ordering::Relaxed);
        // SAFETY: the caller's.
        unsafe { System.realloc(memory, layout, size) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// One step of all sequences by a token each; gives the number of allocations.
fn step(engine: &mut Engine, sequences: [SequenceId; 3], token: u32) -> usize {
    let before = ALLOCATIONS.load(Ordering::Relaxed);
    let tokens = [token];
    let items =
        sequences.map(|sequence| StepItem { sequence, tokens: &tokens, logits: LogitsFor::Last });
    let logits = engine.step(&items).unwrap();
    assert_eq!(logits.item(2).rows(), 1);
    ALLOCATIONS.load(Ordering::Relaxed) - before
}

#[test]
fn a_decode_step_allocates_nothing() {
    // Other threads would come to their own memory at any time.
    rayon::ThreadPoolBuilder::new().num_threads(1).build_global().unwrap();
    let directory = tempfile::tempdir().unwrap();
    let [float, quantized] = ["f16", "q8_0"].map(|name| directory.path().join(name));
    TinyModel::default().write(&float);
    let mut quantize = support::quantkit();
    quantize.arg("quantize").args([&float, &quantized]).args(["--type", "Q8_0"]).assert().success();
    for model in [float, quantized] {
        let mut engine = Engine::load(&model, EngineOptions::default()).unwrap();
        let sequences = [(); 3].map(|()| engine.start(300));
        for (sequence, length) in sequences.into_iter().zip([1, 20, 170]) {
            let tokens: Vec<u32> = (0..length).map(|index| 3 + index % 100).collect();
            engine
                .step(&[StepItem { sequence, tokens: &tokens, logits: LogitsFor::None }])
                .unwrap();
        }
        let first: usize = (0..5).map(|token| step(&mut engine, sequences, 10 + token)).sum();
        assert!(first > 0, "the counter counts");
        for token in 0..100 {
            assert_eq!(step(&mut engine, sequences, 3 + token), 0, "step {token}");
        }
    }
}
