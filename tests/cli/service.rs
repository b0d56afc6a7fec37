//! The engine on a thread of its own, and sequences that are kept for later prompts.

use std::sync::mpsc::{Receiver, channel};
use std::time::Duration;

use quantkit::engine::{
    Engine, EngineOptions, Finish, FinishReason, LogitsFor, Refusal, Request, SchedulerOptions,
    Service, ServiceEvent, ServiceOptions, StepItem, Ticket,
};
use quantkit::kernels::elementwise::log_sum_exp;

use crate::support::TinyModel;

fn engine() -> Engine {
    engine_of(&TinyModel::default())
}

fn engine_of(model: &TinyModel) -> Engine {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("tiny.gguf");
    model.write(&path);
    Engine::load(&path, EngineOptions::default()).unwrap()
}

fn service(limits: SchedulerOptions, max_queue: usize) -> Service {
    let options = ServiceOptions { scheduler: limits, max_queue, observer: None };
    Service::start(engine(), options).unwrap()
}

fn request(prompt: &[u32], new_tokens: usize) -> Request {
    Request { ignore_end: true, ..Request::new(prompt.to_vec(), new_tokens) }
}

fn submit(service: &Service, request: Request) -> (Ticket, Receiver<ServiceEvent>) {
    let (sender, receiver) = channel();
    let ticket = service.submit(request, move |event| sender.send(event).is_ok()).unwrap();
    (ticket, receiver)
}

/// The new tokens and the end of a request.
fn collect(events: &Receiver<ServiceEvent>) -> (Vec<u32>, Finish) {
    let mut tokens = Vec::new();
    loop {
        match events.recv_timeout(Duration::from_secs(20)).unwrap() {
            ServiceEvent::Token { token, .. } => tokens.push(token),
            ServiceEvent::Finished(finish) => return (tokens, finish),
            ServiceEvent::Failed { error } => panic!("{error}"),
            _ => {}
        }
    }
}

fn cached() -> SchedulerOptions {
    SchedulerOptions { cache_bytes: 64 << 20, ..SchedulerOptions::default() }
}

fn prompt(length: usize) -> Vec<u32> {
    (0..length as u32).map(|index| 3 + index * 7 % 50).collect()
}

#[test]
fn a_chat_of_ten_turns_computes_each_turn_once() {
    let service = service(cached(), 8);
    let plain = self::service(SchedulerOptions::default(), 8);
    let mut text = prompt(12);
    let mut new = text.len();
    for turn in 0..10 {
        let (_ticket, events) = submit(&service, request(&text, 4));
        let (tokens, finish) = collect(&events);
        let (_other, events) = submit(&plain, request(&text, 4));
        assert_eq!(tokens, collect(&events).0, "turn {turn}");
        // The last token of an answer was never run.
        assert_eq!(finish.prompt_tokens - finish.cached_tokens, new, "turn {turn}");
        text.extend(tokens);
        text.extend([5 + turn, 9, 11]);
        new = 4;
    }
    let totals = service.status().totals;
    assert_eq!((totals.cache_hits, totals.started), (9, 10));
    assert_eq!(totals.prompt_tokens + totals.cached_tokens, totals.cache_queries);
    assert!(service.status().kept_bytes <= 64 << 20 && service.status().kept_sequences == 1);
}

#[test]
fn prompts_fork_from_kept_and_from_running_ones_and_give_what_fresh_ones_give() {
    let (service, plain) = (service(cached(), 8), service(SchedulerOptions::default(), 8));
    let base = prompt(40);
    let branch = |at: usize| [&base[..at], &[60, 61, 62, 63]].concat();
    let (_running, events) = submit(&service, request(&base, 60));
    let branches: Vec<_> =
        [30, 9, 17, 39].map(|at| submit(&service, request(&branch(at), 8))).into();
    for ((_, events), at) in branches.iter().zip([30, 9, 17, 39]) {
        let (tokens, finish) = collect(events);
        assert_eq!(finish.cached_tokens, at, "at {at}");
        let (_ticket, alone) = submit(&plain, request(&branch(at), 8));
        assert_eq!(tokens, collect(&alone).0, "at {at}");
    }
    let (_ticket, alone) = submit(&plain, request(&base, 60));
    assert_eq!(collect(&events).0, collect(&alone).0, "the one that they forked from");
}

#[test]
fn the_cache_stays_within_its_bytes() {
    let token = engine().cache_bytes_per_token() as u64;
    let limits = SchedulerOptions { cache_bytes: token * 100, ..SchedulerOptions::default() };
    let service = service(limits, 8);
    for index in 0..6 {
        let prompt: Vec<u32> = (0..30).map(|token| 3 + (token * 3 + index * 11) % 60).collect();
        let (_ticket, events) = submit(&service, request(&prompt, 2));
        assert_eq!(collect(&events).1.cached_tokens, 0);
        // The status is that of the end of the step.
        let (_ticket, events) = submit(&service, request(&[3], 1));
        collect(&events);
        let status = service.status();
        assert!(status.kept_bytes <= token * 100, "{status:?}");
        assert!(status.kept_sequences > 0);
    }
}

#[test]
fn prompt_probabilities_are_those_of_scoring_and_use_no_cache() {
    let (service, prompt) = (service(cached(), 8), prompt(25));
    for _ in 0..2 {
        let asked = Request { prompt_log_probabilities: Some(2), ..request(&prompt, 0) };
        let (_ticket, events) = submit(&service, asked);
        let mut told = Vec::new();
        let finish = loop {
            match events.recv_timeout(Duration::from_secs(20)).unwrap() {
                ServiceEvent::PromptProbabilities(tokens) => told.extend(tokens),
                ServiceEvent::Finished(finish) => break finish,
                ServiceEvent::Started { cached_tokens, .. } => assert_eq!(cached_tokens, 0),
                ServiceEvent::Prompt { .. } => {}
                event => panic!("{event:?}"),
            }
        };
        assert_eq!((finish.reason, finish.generated), (FinishReason::Length, 0));
        let mut engine = engine();
        let sequence = engine.start(prompt.len());
        let item = StepItem { sequence, tokens: &prompt, logits: LogitsFor::All };
        let logits = engine.step(&[item]).unwrap().item(0);
        assert_eq!(told.len(), prompt.len() - 1);
        for (index, told) in told.iter().enumerate() {
            let row = logits.row(index);
            let expected = f64::from(row[prompt[index + 1] as usize]) - log_sum_exp(row);
            assert_eq!((told.token, told.log_probability), (prompt[index + 1], expected));
            assert_eq!(told.top.len(), 2);
        }
    }
}

#[test]
fn who_stops_listening_is_cancelled_within_a_step() {
    let service = service(SchedulerOptions::default(), 8);
    // The engine waits at the first token until the ticket is gone.
    let ((told, events), (go, wait)) = (channel(), channel::<()>());
    let sink = move |event: ServiceEvent| {
        let is_token = matches!(event, ServiceEvent::Token { .. });
        told.send(event).unwrap();
        if is_token {
            wait.recv().unwrap();
        }
        true
    };
    let ticket = service.submit(request(&prompt(4), 100), sink).unwrap();
    while !matches!(events.recv().unwrap(), ServiceEvent::Token { .. }) {}
    drop(ticket);
    go.send(()).unwrap();
    let rest: Vec<ServiceEvent> = events.iter().collect();
    let _ticket = service.submit(request(&prompt(4), 100), |_| false).unwrap();
    service.finish();
    let status = service.status();
    assert_eq!((status.totals.cancelled, status.totals.finished), (2, 0));
    assert!(rest.is_empty() && status.slots.is_empty(), "{rest:?}");
}

#[test]
fn what_cannot_be_served_is_refused_before_it_waits() {
    let token = engine().cache_bytes_per_token() as u64;
    let limits = SchedulerOptions {
        max_batch: 1,
        context: 100,
        memory_bytes: token * 60,
        ..SchedulerOptions::default()
    };
    let service = service(limits, 1);
    let refusal = |prompt: &[u32], count| {
        service.submit(request(prompt, count), |_| true).map(|_| ()).unwrap_err()
    };
    assert_eq!(refusal(&[], 1), Refusal::EmptyPrompt);
    assert_eq!(refusal(&[4; 101], 1), Refusal::TooLong { tokens: 101, context: 100 });
    assert!(matches!(refusal(&[1 << 30], 1), Refusal::UnknownToken { token: 0x4000_0000, .. }));
    let (needed, available) = (token * 100, token * 60);
    assert_eq!(refusal(&[4; 10], usize::MAX), Refusal::NoMemory { needed, available });
    assert_eq!(service.room_behind(10), 50);
    let (_first, events) = submit(&service, request(&[4; 10], 50));
    let (_second, more) = submit(&service, request(&[4; 10], 50));
    assert_eq!(refusal(&[4; 10], 1), Refusal::QueueFull { waiting: 1 });
    assert_eq!(collect(&events).0.len(), 50);
    service.close();
    assert_eq!(refusal(&[4; 10], 1), Refusal::Closing);
    // What was taken is finished.
    assert_eq!(collect(&more).0.len(), 50);
    service.finish();
}

/// Remembers what it sees.
#[derive(Debug, Default)]
struct Seen(std::sync::Mutex<std::collections::BTreeMap<usize, Vec<f32>>>);

impl quantkit::engine::LogitsWatcher for Seen {
    fn see(&self, position: usize, logits: &[f32]) {
        let earlier = self.0.lock().unwrap().insert(position, logits.to_vec());
        assert_eq!(earlier, None, "position {position} came twice");
    }
}

#[test]
fn a_watcher_sees_the_logits_of_the_positions_that_it_asks_for() {
    let text = prompt(60);
    let mut engine = engine();
    let sequence = engine.start(text.len());
    let item = StepItem { sequence, tokens: &text, logits: LogitsFor::All };
    let logits = engine.step(&[item]).unwrap();
    let rows: Vec<Vec<f32>> = (0..60).map(|row| logits.item(0).row(row).to_vec()).collect();
    // In steps of 7 tokens, and after an earlier request for the same prompt.
    let service = service(SchedulerOptions { prefill_chunk: 7, ..cached() }, 8);
    for (from, cached_tokens) in [(1, 0), (25, 24), (59, 58), (60, 59)] {
        let seen = std::sync::Arc::new(Seen::default());
        let watch = quantkit::engine::Watch { from, watcher: seen.clone() };
        let (_ticket, events) =
            submit(&service, Request { watch: Some(watch), ..request(&text, 0) });
        let (_, finish) = collect(&events);
        assert_eq!(finish.cached_tokens, cached_tokens, "from {from}");
        let seen = seen.0.lock().unwrap();
        assert_eq!(seen.keys().copied().collect::<Vec<_>>(), (from..60).collect::<Vec<_>>());
        for (position, row) in seen.iter() {
            let expected = &rows[position - 1];
            let difference = |(a, b): (&f32, &f32)| (a - b).abs();
            let largest = row.iter().zip(expected).map(difference).fold(0.0, f32::max);
            assert!(largest < 0.1, "position {position} is off by {largest}");
        }
    }
}

#[test]
fn who_has_enough_has_not_cancelled() {
    let engine = engine_of(&TinyModel { context: 1 << 20, ..TinyModel::default() });
    let service = Service::start(engine, ServiceOptions::default()).unwrap();
    let endless = request(&prompt(8), 1_000_000);
    let (ticket, events) = submit(&service, endless.clone());
    while !matches!(events.recv().unwrap(), ServiceEvent::Token { .. }) {}
    ticket.finish();
    let (ticket, other) = submit(&service, endless);
    while !matches!(other.recv().unwrap(), ServiceEvent::Token { .. }) {}
    drop((events, ticket, other));
    let start = std::time::Instant::now();
    loop {
        let totals = service.status().totals;
        if totals.finished + totals.cancelled == 2 {
            assert_eq!((totals.finished, totals.cancelled), (1, 1));
            return;
        }
        assert!(start.elapsed() < Duration::from_secs(20), "{totals:?}");
        std::thread::sleep(Duration::from_millis(1));
    }
}
