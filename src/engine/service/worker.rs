//! The engine's thread: takes what was submitted, steps, and tells.

use std::collections::HashMap;
use std::sync::{Arc, PoisonError};
use std::thread::JoinHandle;
use std::time::Instant;

use super::{
    EventSink, Finish, Interest, Observer, ServiceEvent, Shared, Slot, Status, Submission, Timings,
    Totals,
};
use crate::engine::{EndToken, EngineError, Event, FinishReason, Progress, RequestId, Scheduler};
use crate::support::contain::contain_panics;
use crate::support::turns::Turns;

/// The services of a process share its cores: their steps take turns.
static STEPS: Turns = Turns::new();

pub(super) fn start(
    scheduler: Scheduler,
    shared: Arc<Shared>,
    observer: Option<Arc<dyn Observer>>,
) -> Result<JoinHandle<()>, EngineError> {
    let clients = HashMap::new();
    let worker = Worker { scheduler, shared, observer, clients, totals: Totals::default() };
    std::thread::Builder::new()
        .name("quantkit-engine".to_string())
        .spawn(move || worker.run())
        .map_err(|error| EngineError::Unusable(format!("the system starts no thread: {error}")))
}

struct Worker {
    scheduler: Scheduler,
    shared: Arc<Shared>,
    observer: Option<Arc<dyn Observer>>,
    clients: HashMap<RequestId, Client>,
    totals: Totals,
}

/// Who waits for a request.
struct Client {
    id: u64,
    sink: Box<dyn EventSink>,
    interest: Arc<Interest>,
    timings: Timings,
    /// How far the request was when it was last told.
    told: Option<Progress>,
    max_new_tokens: usize,
    /// Whether its prompt might be found computed.
    looks: bool,
}

impl Worker {
    fn run(mut self) {
        while self.take_in() {
            self.drop_unwanted();
            if self.clients.is_empty() {
                self.publish();
                continue;
            }
            let started = Instant::now();
            let turn = STEPS.take();
            let stepped = contain_panics(|| self.scheduler.step());
            drop(turn);
            let events = match stepped {
                Ok(events) => events,
                Err(panic) => return self.give_up(&panic),
            };
            self.count_step(started);
            self.tell_progress(&events, started);
            let over = Instant::now();
            for event in events {
                self.tell(event, over);
            }
            self.publish();
        }
        self.publish();
        self.shared.inbox().is_over = true;
    }

    /// Takes what was submitted, and waits for it if there is nothing else to do. False when there never
    /// will be.
    fn take_in(&mut self) -> bool {
        let submitted = {
            let mut inbox = self.shared.inbox();
            while self.clients.is_empty() && inbox.submitted.is_empty() {
                if inbox.is_closed {
                    return false;
                }
                inbox = self.shared.arrived.wait(inbox).unwrap_or_else(PoisonError::into_inner);
            }
            std::mem::take(&mut inbox.submitted)
        };
        for submission in submitted {
            self.enter(submission);
        }
        true
    }

    fn enter(&mut self, submission: Submission) {
        let Submission { id, request, mut sink, interest, submitted } = submission;
        let max_new_tokens = request.max_new_tokens;
        let looks = request.may_reuse();
        match self.scheduler.submit(request) {
            Ok(request) => {
                let (timings, told) = (Timings::new(submitted), None);
                let client = Client { id, sink, interest, timings, told, max_new_tokens, looks };
                self.clients.insert(request, client);
            }
            Err(error) => {
                self.totals.failed += 1;
                sink.send(ServiceEvent::Failed { error: error.to_string() });
                self.shared.inbox().in_flight -= 1;
            }
        }
    }

    /// Ends the requests that nobody waits for any more.
    fn drop_unwanted(&mut self) {
        let waits = |client: &Client| client.interest.now() == Interest::WAITS;
        let unwanted = self.clients.iter().filter(|(_, client)| !waits(client));
        let unwanted: Vec<RequestId> = unwanted.map(|(&request, _)| request).collect();
        for request in unwanted {
            self.drop_request(request);
        }
    }

    /// Ends a request that nobody waits for: it is complete if the client has all that it wants, and
    /// cancelled otherwise.
    fn drop_request(&mut self, request: RequestId) {
        let Some(client) = self.clients.get(&request) else { return };
        let running = self.scheduler.running().find(|progress| progress.request == request);
        match running.or(client.told) {
            Some(progress) if client.interest.now() == Interest::HAS_ENOUGH => {
                self.complete(request, progress);
            }
            _ => self.cancel(request),
        }
    }

    fn complete(&mut self, request: RequestId, progress: Progress) {
        self.scheduler.cancel(request);
        let Some(client) = self.clients.remove(&request) else { return };
        self.totals.finished += 1;
        self.shared.inbox().in_flight -= 1;
        if let Some(observer) = &self.observer {
            let finish = finish(FinishReason::Stopped, None, progress, client.timings);
            observer.event(&ServiceEvent::Finished(finish), &client.timings);
        }
    }

    fn cancel(&mut self, request: RequestId) {
        self.scheduler.cancel(request);
        if let Some(client) = self.clients.remove(&request) {
            self.totals.cancelled += 1;
            self.shared.inbox().in_flight -= 1;
            if let Some(observer) = &self.observer {
                observer.cancelled(&client.timings);
            }
        }
    }

    fn count_step(&mut self, started: Instant) {
        self.totals.steps += 1;
        let is_reading = self.clients.values().any(|client| client.timings.first.is_none());
        let time = started.elapsed();
        if is_reading {
            self.totals.prompt_time += time;
        } else {
            self.totals.generation_time += time;
        }
    }

    /// Tells the requests that have begun, and those that read their prompts how far they are.
    fn tell_progress(&mut self, events: &[Event], step_started: Instant) {
        let over = events.iter().filter_map(|event| match event {
            Event::Finished { progress, .. } | Event::Failed { progress, .. } => Some(*progress),
            _ => None,
        });
        let progress: Vec<Progress> = self.scheduler.running().chain(over).collect();
        self.totals.busy += progress.len() as u64;
        for progress in progress {
            let length = (progress.prompt_done + progress.generated) as u64;
            self.totals.longest = self.totals.longest.max(length);
            let Some(client) = self.clients.get_mut(&progress.request) else { continue };
            let before = client.told.replace(progress);
            if before.is_none() {
                let started = step_started.max(client.timings.submitted);
                client.timings.started = Some(started);
                self.count_start(progress);
                let cached_tokens = progress.cached_tokens;
                self.send(progress.request, ServiceEvent::Started { cached_tokens, started });
            }
            let before = before.map_or(progress.cached_tokens, |before| before.prompt_done);
            if progress.prompt_done > before {
                self.totals.prompt_tokens += (progress.prompt_done - before) as u64;
                let (done, total) = (progress.prompt_done, progress.prompt_tokens);
                self.send(progress.request, ServiceEvent::Prompt { done, total });
            }
        }
    }

    fn count_start(&mut self, progress: Progress) {
        self.totals.started += 1;
        let looks = self.clients.get(&progress.request).is_some_and(|client| client.looks);
        self.totals.cache_queries += if looks { progress.prompt_tokens as u64 } else { 0 };
        self.totals.cached_tokens += progress.cached_tokens as u64;
        self.totals.cache_hits += u64::from(progress.cached_tokens > 0);
    }

    /// Passes on what a step brought that is over `now`.
    fn tell(&mut self, event: Event, now: Instant) {
        let request = event.request();
        let Some(client) = self.clients.get_mut(&request) else { return };
        let event = match event {
            Event::PromptProbabilities { tokens, .. } => ServiceEvent::PromptProbabilities(tokens),
            Event::Token { token, bytes, probabilities, .. } => {
                client.timings.first.get_or_insert(now);
                client.timings.before_last = client.timings.last.replace(now);
                self.totals.generated += 1;
                ServiceEvent::Token { token, bytes, probabilities, at: now }
            }
            Event::Finished { reason, end, progress, .. } => {
                client.timings.first.get_or_insert(now);
                client.timings.last.get_or_insert(now);
                self.totals.finished += 1;
                ServiceEvent::Finished(finish(reason, end, progress, client.timings))
            }
            Event::Failed { error, .. } => {
                self.totals.failed += 1;
                ServiceEvent::Failed { error }
            }
        };
        if event.is_last() {
            self.end(request, event);
        } else {
            self.send(request, event);
        }
    }

    /// Sends a request's last event. Whoever has seen it finds the request in the status, too.
    fn end(&mut self, request: RequestId, event: ServiceEvent) {
        let Some(mut client) = self.clients.remove(&request) else { return };
        self.shared.inbox().in_flight -= 1;
        if let Some(observer) = &self.observer {
            observer.event(&event, &client.timings);
        }
        self.publish();
        client.sink.send(event);
    }

    /// Sends an event; if nobody listens, the request ends.
    fn send(&mut self, request: RequestId, event: ServiceEvent) {
        let Some(client) = self.clients.get_mut(&request) else { return };
        if let Some(observer) = &self.observer {
            observer.event(&event, &client.timings);
        }
        if !client.sink.send(event) {
            self.drop_request(request);
        }
    }

    /// Lets others see what is going on.
    fn publish(&self) {
        let slots = self.scheduler.running().filter_map(|progress| {
            let client = self.clients.get(&progress.request)?;
            Some(Slot {
                id: client.id,
                prompt_tokens: progress.prompt_tokens,
                prompt_done: progress.prompt_done,
                cached_tokens: progress.cached_tokens,
                generated: progress.generated,
                max_new_tokens: client.max_new_tokens,
            })
        });
        let (running_bytes, held_bytes) = self.scheduler.held_bytes();
        let (kept_sequences, kept_bytes) = self.scheduler.kept();
        let mut status = self.shared.status();
        status.slots.clear();
        status.slots.extend(slots);
        status.held_tokens =
            status.slots.iter().map(|slot| slot.prompt_done + slot.generated).sum();
        status.waiting = self.scheduler.waiting();
        status.reserved_bytes = self.scheduler.reserved_bytes();
        (status.running_bytes, status.held_bytes) = (running_bytes, held_bytes);
        (status.kept_sequences, status.kept_bytes) = (kept_sequences, kept_bytes);
        status.totals = self.totals;
    }

    /// Ends all requests after a fault of ours: what the engine holds cannot be relied on any more.
    fn give_up(mut self, panic: &str) {
        tracing::error!("the engine has failed and takes no more requests: {panic}");
        let error = format!("the engine has failed: {panic}");
        let submitted = {
            let mut inbox = self.shared.inbox();
            (inbox.is_closed, inbox.is_over, inbox.in_flight) = (true, true, 0);
            std::mem::take(&mut inbox.submitted)
        };
        let waiting = submitted.into_iter().map(|submission| submission.sink);
        let running = self.clients.drain().map(|(_, client)| client.sink);
        for mut sink in running.chain(waiting) {
            self.totals.failed += 1;
            sink.send(ServiceEvent::Failed { error: error.clone() });
        }
        // What the scheduler holds is not looked at any more.
        let mut status = self.shared.status();
        *status = Status { totals: self.totals, ..Status::default() };
    }
}

fn finish(
    reason: FinishReason,
    end: Option<EndToken>,
    progress: Progress,
    timings: Timings,
) -> Finish {
    Finish {
        reason,
        end,
        prompt_tokens: progress.prompt_tokens,
        cached_tokens: progress.cached_tokens,
        generated: progress.generated,
        timings,
    }
}
