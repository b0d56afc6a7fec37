//! The engine and its scheduler on a tiny model. The tiny vocabulary's tokens 0, 1 and 2 are
//! special; the others are bytes and a few merges.

use std::collections::HashMap;
use std::ops::ControlFlow;

use quantkit::engine::{
    Engine, EngineOptions, Event, FinishReason, GenerationUpdate, LogitsFor, Request, RequestId,
    Scheduler, SchedulerOptions, StepItem, generate,
};

use crate::support::TinyModel;

fn engine(context: usize) -> Engine {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("tiny.gguf");
    TinyModel { context, ..TinyModel::default() }.write(&path);
    Engine::load(&path, EngineOptions::default()).unwrap()
}

fn prompt(length: usize, seed: usize) -> Vec<u32> {
    (0..length).map(|index| 3 + ((index * 37 + seed * 101) % 256) as u32).collect()
}

fn request(prompt: Vec<u32>, max_new_tokens: usize) -> Request {
    Request { ignore_end: true, ..Request::new(prompt, max_new_tokens) }
}

/// Runs until `count` requests have finished; gives their tokens and reasons.
fn finish(scheduler: &mut Scheduler, count: usize) -> HashMap<RequestId, (Vec<u32>, FinishReason)> {
    let mut tokens: HashMap<RequestId, Vec<u32>> = HashMap::new();
    let mut finished = HashMap::new();
    while finished.len() < count {
        for event in scheduler.step() {
            match event {
                Event::Token { request, token, bytes, .. } => {
                    assert!(!finished.contains_key(&request), "a token after the end");
                    assert_eq!(bytes, scheduler.engine().vocabulary().token_bytes(token));
                    tokens.entry(request).or_default().push(token);
                }
                Event::Finished { request, reason, .. } => {
                    let tokens = tokens.remove(&request).unwrap_or_default();
                    assert!(finished.insert(request, (tokens, reason)).is_none());
                }
                event => panic!("{event:?} was not asked for"),
            }
        }
    }
    finished
}

#[test]
fn a_crowd_gets_the_tokens_that_each_gets_alone() {
    let lengths = [1, 40, 7, 100, 3, 64, 12];
    let mut scheduler = Scheduler::new(
        engine(512),
        SchedulerOptions { max_batch: 1, ..SchedulerOptions::default() },
    );
    let alone: Vec<Vec<u32>> = lengths
        .iter()
        .map(|&length| {
            let id = scheduler.submit(request(prompt(length, length), 64 + length % 4)).unwrap();
            finish(&mut scheduler, 1).remove(&id).unwrap().0
        })
        .collect();
    let options =
        SchedulerOptions { max_batch: 3, prefill_chunk: 16, ..SchedulerOptions::default() };
    let mut scheduler = Scheduler::new(engine(512), options);
    let ids = lengths
        .map(|length| scheduler.submit(request(prompt(length, length), 64 + length % 4)).unwrap());
    let mut results = finish(&mut scheduler, lengths.len());
    for (id, alone) in ids.iter().zip(alone) {
        assert_eq!(results.remove(id), Some((alone, FinishReason::Length)));
    }
}

#[test]
fn requests_start_in_their_order_and_share_the_batch() {
    let options =
        SchedulerOptions { max_batch: 2, prefill_chunk: 8, ..SchedulerOptions::default() };
    let mut scheduler = Scheduler::new(engine(512), options);
    let ids = [20, 4, 4].map(|length| scheduler.submit(request(prompt(length, 1), 4)).unwrap());
    // 8 of the first prompt's 20 tokens; then 8 more; then its last 4 and the second prompt.
    assert_eq!(scheduler.step(), []);
    assert_eq!(scheduler.prompt_progress(ids[0]), Some(8));
    assert_eq!(scheduler.prompt_progress(ids[2]), None, "the batch is full");
    assert_eq!(scheduler.step(), []);
    let requests = |events: Vec<Event>| events.iter().map(Event::request).collect::<Vec<_>>();
    assert_eq!(requests(scheduler.step()), ids[..2]);
    assert_eq!(requests(scheduler.step()), ids[..2]);
    let finished = finish(&mut scheduler, 3);
    assert!(ids.iter().all(|id| finished.contains_key(id)));
}

#[test]
fn every_end_has_its_reason() {
    let mut scheduler = Scheduler::new(engine(32), SchedulerOptions::default());
    let full = scheduler.submit(request(prompt(30, 2), 100)).unwrap();
    let exact = scheduler.submit(request(prompt(8, 2), 24)).unwrap();
    let none = scheduler.submit(request(prompt(8, 2), 0)).unwrap();
    let results = finish(&mut scheduler, 3);
    // The last token of a full context is generated, but cannot be run.
    assert_eq!((results[&full].0.len(), results[&full].1), (3, FinishReason::ContextFull));
    assert_eq!((results[&exact].0.len(), results[&exact].1), (24, FinishReason::Length));
    assert_eq!(results[&none], (vec![], FinishReason::Length));
    assert!(scheduler.step().is_empty());
}

#[test]
fn prompts_that_cannot_run_are_refused_at_once() {
    let mut scheduler = Scheduler::new(engine(32), SchedulerOptions::default());
    let mut refusal = |prompt| scheduler.submit(request(prompt, 4)).unwrap_err().to_string();
    let long = refusal(prompt(33, 0));
    assert!(long.contains("33 tokens") && long.contains("32"), "{long}");
    assert!(refusal(vec![]).contains("empty"));
    assert!(refusal(vec![3, 100_000]).contains("100000"));
    assert!(scheduler.step().is_empty(), "nothing was queued");
}

#[test]
fn a_limit_that_no_text_reaches_costs_no_memory() {
    let mut scheduler = Scheduler::new(engine(u32::MAX as usize), SchedulerOptions::default());
    let id = scheduler.submit(request(prompt(3, 1), usize::MAX)).unwrap();
    let events = scheduler.step();
    assert!(matches!(events[..], [Event::Token { request, .. }] if request == id), "{events:?}");
}

#[test]
fn an_observer_can_break_a_generation_off() {
    let mut tokens = 0;
    let generation = generate(engine(512), request(prompt(3, 1), 100), |update| match update {
        GenerationUpdate::Tokens(count) => {
            tokens = count;
            if count < 3 { ControlFlow::Continue(()) } else { ControlFlow::Break(()) }
        }
        _ => ControlFlow::Continue(()),
    });
    assert!(generation.unwrap().is_none());
    assert_eq!(tokens, 3);
}

#[test]
fn a_failed_step_changes_nothing() {
    let mut engine = engine(32);
    let tokens = prompt(10, 3);
    let item = |sequence, tokens| StepItem { sequence, tokens, logits: LogitsFor::Last };
    let (first, second) = (engine.start(10), engine.start(0));
    engine.step(&[item(first, &tokens)]).unwrap();
    let expected = {
        let fork = engine.fork(first, 1);
        engine.step(&[item(fork, &tokens[..1])]).unwrap().values().to_vec()
    };
    let long = prompt(23, 3);
    for items in [
        vec![item(second, &tokens[..]), item(first, &long)],
        vec![item(first, &tokens[..2]), item(first, &tokens[..2])],
        vec![item(first, &tokens[..2]), item(second, &[])],
        vec![item(second, &tokens[..2]), item(first, &[999_999])],
    ] {
        assert!(engine.step(&items).is_err());
        assert_eq!((engine.length(first), engine.length(second)), (10, 0));
    }
    let logits = engine.step(&[item(first, &tokens[..1])]).unwrap().item(0);
    assert_eq!((logits.rows(), logits.values), (1, &expected[..]));
    engine.end(first);
    assert_eq!(engine.length(first), 0);
    assert!(engine.step(&[item(first, &tokens[..1])]).is_err());
}

#[test]
fn a_step_gives_the_rows_that_were_asked_for() {
    let mut engine = engine(64);
    let sequences = [(); 3].map(|()| engine.start(0));
    let tokens = prompt(6, 1);
    let wanted = [LogitsFor::None, LogitsFor::Last, LogitsFor::All];
    let items: Vec<_> = sequences
        .iter()
        .zip(wanted)
        .map(|(&sequence, logits)| StepItem { sequence, tokens: &tokens, logits })
        .collect();
    let vocabulary = engine.vocabulary().size;
    let logits = engine.step(&items).unwrap();
    let rows: Vec<usize> = (0..logits.items()).map(|item| logits.item(item).rows()).collect();
    assert_eq!(rows, [0, 1, 6]);
    assert_eq!(logits.item(1).row(0), logits.item(2).row(5));
    assert_eq!(logits.values().len(), 7 * vocabulary);
    assert!((0..3).all(|item| logits.item(item).vocabulary == vocabulary));
}

#[test]
fn memory_that_running_and_kept_sequences_share_counts_once() {
    let options = SchedulerOptions { cache_bytes: 64 << 20, ..SchedulerOptions::default() };
    let mut scheduler = Scheduler::new(engine(512), options);
    assert_eq!(scheduler.held_bytes(), (0, 0));
    let beginning = prompt(100, 1);
    scheduler.submit(request(beginning.clone(), 2)).unwrap();
    finish(&mut scheduler, 1);
    let (_, kept) = scheduler.kept();
    assert_eq!(scheduler.held_bytes(), (0, kept));
    // One that begins like it and goes on otherwise, and one that has nothing in common with them.
    scheduler.submit(request([&beginning[..80], &prompt(20, 2)].concat(), 30)).unwrap();
    scheduler.submit(request(prompt(20, 3), 30)).unwrap();
    scheduler.step();
    let (running, all) = scheduler.held_bytes();
    let token = scheduler.engine().cache_bytes_per_token() as u64;
    // The shared segment is of the kept sequence's 100 tokens. Of those in common, 64 are shared and 16
    // copied, and 100 are new.
    assert!(running >= (100 + 16 + 50 + 50) * token, "{running} bytes run");
    assert_eq!(all, running, "{kept} bytes are kept");
    // Neither moves as the sequences grow within their room.
    scheduler.step();
    assert_eq!(scheduler.held_bytes(), (running, all));
    finish(&mut scheduler, 2);
    let (_, kept) = scheduler.kept();
    assert_eq!(scheduler.held_bytes(), (0, kept));
    assert_eq!(kept, all);
}
