//! The engine on a thread of its own: requests go in, events come out, and whoever stops listening
//! cancels.

mod event;
mod status;
mod worker;

use std::collections::VecDeque;
use std::sync::atomic::{AtomicU8, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::Instant;

use super::admission::{Admission, Refusal};
use super::{Engine, EngineError, Request, Scheduler, SchedulerOptions};
use crate::tokenizer::Vocabulary;

pub use event::{EventSink, Finish, Observer, ServiceEvent, Timings};
pub use status::{Slot, Status, Totals};

/// How a service runs.
#[derive(Debug, Clone)]
pub struct ServiceOptions {
    /// The batch, the context, and what keys and values may take.
    pub scheduler: SchedulerOptions,
    /// Requests that wait for room in the batch at most; more are refused.
    pub max_queue: usize,
    /// Is told of everything that happens.
    pub observer: Option<Arc<dyn Observer>>,
}

impl Default for ServiceOptions {
    fn default() -> Self {
        Self { scheduler: SchedulerOptions::default(), max_queue: 512, observer: None }
    }
}

/// What never changes about a service.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Facts {
    /// Sequences that run at once.
    pub max_batch: usize,
    /// Tokens of a sequence at most, prompt and output together.
    pub context: usize,
    /// Tokens that the model was trained for.
    pub trained_context: usize,
    /// Bytes of one token's keys and values.
    pub cache_bytes_per_token: u64,
    /// Bytes of keys and values that all running requests may need.
    pub memory_bytes: u64,
    /// Bytes of keys and values that are kept for later prompts.
    pub cache_bytes: u64,
    /// Bytes that the weight matrices take in memory.
    pub weight_bytes: u64,
}

/// A handle to a running engine; clones are handles to the same one. With the last one, the service
/// takes no more requests, finishes those that run and ends.
#[derive(Debug, Clone)]
pub struct Service {
    handle: Arc<Handle>,
}

#[derive(Debug)]
struct Handle {
    shared: Arc<Shared>,
    vocabulary: Arc<Vocabulary>,
    facts: Facts,
    admission: Admission,
    max_queue: usize,
    observer: Option<Arc<dyn Observer>>,
    worker: Mutex<Option<JoinHandle<()>>>,
}

impl Drop for Handle {
    fn drop(&mut self) {
        self.shared.close();
    }
}

/// What the handles and the engine's thread share.
#[derive(Debug, Default)]
struct Shared {
    inbox: Mutex<Inbox>,
    arrived: Condvar,
    status: Mutex<Status>,
}

#[derive(Debug, Default)]
struct Inbox {
    submitted: VecDeque<Submission>,
    /// Requests that were taken and are not over.
    in_flight: usize,
    next_id: u64,
    is_closed: bool,
    /// The engine's thread has ended.
    is_over: bool,
}

/// A request on its way to the engine's thread.
struct Submission {
    id: u64,
    request: Request,
    sink: Box<dyn EventSink>,
    interest: Arc<Interest>,
    submitted: Instant,
}

impl std::fmt::Debug for Submission {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_struct("Submission").field("id", &self.id).finish_non_exhaustive()
    }
}

/// Whether somebody still waits for a request.
#[derive(Debug, Default)]
struct Interest(AtomicU8);

impl Interest {
    const WAITS: u8 = 0;
    const IS_LOST: u8 = 1;
    const HAS_ENOUGH: u8 = 2;

    /// Ends it; the first end counts.
    fn end(&self, with: u8) {
        let _ = self.0.compare_exchange(Self::WAITS, with, Ordering::Release, Ordering::Relaxed);
    }

    fn now(&self) -> u8 {
        self.0.load(Ordering::Acquire)
    }
}

/// A request that was taken. Dropping it cancels the request within a step.
#[derive(Debug)]
pub struct Ticket {
    id: u64,
    interest: Arc<Interest>,
}

impl Ticket {
    /// The request's number, unlike any other of this service.
    pub fn id(&self) -> u64 {
        self.id
    }

    /// Ends the request within a step because what came suffices, such as a text that was to end it. Unlike
    /// a cancelled request, it counts as complete. No more events are sent.
    pub fn finish(self) {
        self.interest.end(Interest::HAS_ENOUGH);
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        self.interest.end(Interest::IS_LOST);
    }
}

impl Shared {
    /// What is locked is whole whatever happened meanwhile.
    fn inbox(&self) -> MutexGuard<'_, Inbox> {
        self.inbox.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn status(&self) -> MutexGuard<'_, Status> {
        self.status.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn close(&self) {
        self.inbox().is_closed = true;
        self.arrived.notify_all();
    }
}

impl Service {
    /// Puts an engine on a thread of its own.
    ///
    /// # Errors
    /// The system starts no thread.
    ///
    /// # Panics
    /// If a limit on the batch is 0.
    pub fn start(engine: Engine, options: ServiceOptions) -> Result<Self, EngineError> {
        let ServiceOptions { scheduler: limits, max_queue, observer } = options;
        let vocabulary = Arc::new(engine.vocabulary().clone());
        let (trained_context, weight_bytes) = (engine.context_length(), engine.packed_bytes());
        let scheduler = Scheduler::new(engine, limits);
        let admission = scheduler.admission();
        let facts = Facts {
            max_batch: limits.max_batch,
            context: admission.context,
            trained_context,
            cache_bytes_per_token: admission.bytes_per_token,
            memory_bytes: limits.memory_bytes,
            cache_bytes: limits.cache_bytes,
            weight_bytes,
        };
        let shared = Arc::new(Shared::default());
        let worker = worker::start(scheduler, Arc::clone(&shared), observer.clone())?;
        let worker = Mutex::new(Some(worker));
        let handle = Handle { shared, vocabulary, facts, admission, max_queue, observer, worker };
        Ok(Self { handle: Arc::new(handle) })
    }

    /// The model's tokenizer.
    pub fn vocabulary(&self) -> &Arc<Vocabulary> {
        &self.handle.vocabulary
    }

    /// What never changes about it.
    pub fn facts(&self) -> Facts {
        self.handle.facts
    }

    /// What it does now, and what it has done.
    pub fn status(&self) -> Status {
        let (waiting, is_closed) = {
            let inbox = self.handle.shared.inbox();
            (inbox.submitted.len(), inbox.is_closed)
        };
        let mut status = self.handle.shared.status().clone();
        status.waiting += waiting;
        status.is_closed = is_closed;
        status
    }

    /// Queues a request. Its events go to `sink`, on the engine's thread: it must not block. The request
    /// is cancelled within a step when the ticket is dropped or the sink says that nobody listens.
    ///
    /// # Errors
    /// Why the request cannot be served, now or ever.
    pub fn submit(
        &self,
        request: Request,
        sink: impl EventSink + 'static,
    ) -> Result<Ticket, Refusal> {
        let checked = self.handle.admission.check(&request);
        let taken = checked.and_then(|_| self.enter(request, Box::new(sink)));
        if let (Err(refusal), Some(observer)) = (&taken, &self.handle.observer) {
            observer.refused(refusal);
        }
        taken
    }

    /// How many tokens a prompt of so many can be continued by, at most.
    pub fn room_behind(&self, prompt_tokens: usize) -> usize {
        self.handle.admission.room_behind(prompt_tokens)
    }

    fn enter(&self, request: Request, sink: Box<dyn EventSink>) -> Result<Ticket, Refusal> {
        let interest = Arc::new(Interest::default());
        let mut inbox = self.handle.shared.inbox();
        if inbox.is_closed || inbox.is_over {
            return Err(Refusal::Closing);
        }
        let waiting = inbox.in_flight.saturating_sub(self.handle.facts.max_batch);
        if inbox.in_flight >= self.handle.facts.max_batch.saturating_add(self.handle.max_queue) {
            return Err(Refusal::QueueFull { waiting });
        }
        let id = inbox.next_id;
        inbox.next_id += 1;
        inbox.in_flight += 1;
        inbox.submitted.push_back(Submission {
            id,
            request,
            sink,
            interest: Arc::clone(&interest),
            submitted: Instant::now(),
        });
        drop(inbox);
        self.handle.shared.arrived.notify_all();
        Ok(Ticket { id, interest })
    }

    /// Takes no more requests; those that were taken go on.
    pub fn close(&self) {
        self.handle.shared.close();
    }

    /// [`Service::close`], and waits until the last request is over and the engine's thread has ended.
    pub fn finish(&self) {
        self.close();
        let worker = self.handle.worker.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(worker) = worker {
            // Its panics were told as events.
            let _ = worker.join();
        }
    }
}
