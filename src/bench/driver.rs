//! The closed loop of clients: as many requests in flight as the level asks for, a new one as soon
//! as one is finished.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::time::{Duration, Instant};

use super::BenchError;
use super::trace::{RequestTrace, Trace};
use crate::support::interrupt;

/// How often somebody looks how far the run is, and whether it is to stop.
const LOOK: Duration = Duration::from_millis(100);

/// Where requests are sent.
pub(super) trait Target {
    /// Cancels its request when it is dropped.
    type Ticket;

    /// Sends a request for exactly `output_tokens` tokens, whose `reply` hears how it goes.
    fn send(
        &mut self,
        prompt: Vec<u32>,
        output_tokens: usize,
        reply: Reply,
    ) -> Result<Self::Ticket, BenchError>;
}

/// Collects what happens to a request. The driver is woken at its end only: whoever is woken for each
/// token takes time from what is measured.
#[derive(Debug)]
pub(super) struct Reply {
    request: usize,
    ends: Sender<End>,
    done: Arc<AtomicU64>,
    /// Tokens of the prompt that are read.
    read: usize,
    tokens: Vec<Instant>,
}

/// A request that is over.
#[derive(Debug)]
struct End {
    request: usize,
    /// When its tokens came, or what is wrong.
    tokens: Result<Vec<Instant>, String>,
}

impl Reply {
    /// So many tokens of the prompt are read.
    pub fn prompt(&mut self, read: usize) {
        let more = read - std::mem::replace(&mut self.read, read);
        self.done.fetch_add(more as u64, Ordering::Relaxed);
    }

    /// There is a token.
    pub fn token(&mut self, at: Instant) {
        self.tokens.push(at);
        self.done.fetch_add(1, Ordering::Relaxed);
    }

    /// There will be no more.
    pub fn finish(&mut self) {
        let tokens = Ok(std::mem::take(&mut self.tokens));
        // Nobody listens after an error.
        let _ = self.ends.send(End { request: self.request, tokens });
    }

    /// It cannot go on.
    pub fn fail(&mut self, error: String) {
        let _ = self.ends.send(End { request: self.request, tokens: Err(error) });
    }
}

/// One repeat while it runs.
struct Drive<'a, T: Target> {
    target: &'a mut T,
    started: Instant,
    output_tokens: usize,
    prompts: std::vec::IntoIter<Vec<u32>>,
    ends: (Sender<End>, Receiver<End>),
    requests: Vec<RequestTrace>,
    /// Of each request: what cancels it, as long as it runs.
    tickets: Vec<Option<T::Ticket>>,
    /// Prompt and output tokens that are done.
    done: Arc<AtomicU64>,
}

/// Runs one repeat: sends all `prompts`, `concurrency` of them in flight at once. `count` is told how
/// many tokens of prompts and outputs are done.
///
/// # Errors
/// What the target says, an interruption, and a request that ends before its last token.
pub(super) fn drive<T: Target>(
    target: &mut T,
    prompts: Vec<Vec<u32>>,
    output_tokens: usize,
    concurrency: usize,
    count: &mut impl FnMut(u64),
) -> Result<Trace, BenchError> {
    let total = prompts.len();
    let mut drive = Drive {
        target,
        started: Instant::now(),
        output_tokens,
        prompts: prompts.into_iter(),
        ends: channel(),
        requests: Vec::with_capacity(total),
        tickets: Vec::with_capacity(total),
        done: Arc::default(),
    };
    for _ in 0..concurrency {
        drive.send_next()?;
    }
    let mut finished = 0;
    while finished < total {
        interrupt::check()?;
        match drive.ends.1.recv_timeout(LOOK) {
            Ok(end) => {
                drive.take(end)?;
                finished += 1;
            }
            Err(RecvTimeoutError::Timeout) => {}
            Err(RecvTimeoutError::Disconnected) => unreachable!("the sender is ours, too"),
        }
        count(drive.done.load(Ordering::Relaxed));
    }
    Ok(Trace::new(drive.requests, concurrency))
}

impl<T: Target> Drive<'_, T> {
    /// Sends the next request, if there is one left.
    fn send_next(&mut self) -> Result<(), BenchError> {
        let Some(prompt) = self.prompts.next() else { return Ok(()) };
        let reply = Reply {
            request: self.requests.len(),
            ends: self.ends.0.clone(),
            done: Arc::clone(&self.done),
            read: 0,
            tokens: Vec::with_capacity(self.output_tokens),
        };
        self.requests.push(RequestTrace { submitted: self.started.elapsed(), tokens: Vec::new() });
        self.tickets.push(Some(self.target.send(prompt, self.output_tokens, reply)?));
        Ok(())
    }

    /// Notes the end of a request, and sends the next one.
    fn take(&mut self, End { request, tokens }: End) -> Result<(), BenchError> {
        self.tickets[request] = None;
        let tokens = tokens.map_err(BenchError::Unusable)?;
        let (found, wanted) = (tokens.len(), self.output_tokens);
        if found != wanted {
            return Err(BenchError::Unusable(format!(
                "request {request} ended after {found} of {wanted} tokens"
            )));
        }
        let since = |at: Instant| at.saturating_duration_since(self.started);
        self.requests[request].tokens = tokens.into_iter().map(since).collect();
        self.send_next()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicUsize;

    use super::*;

    /// Answers each request on a thread of its own.
    #[derive(Default)]
    struct Threads {
        in_flight: Arc<AtomicUsize>,
        most_in_flight: Arc<AtomicUsize>,
    }

    impl Target for Threads {
        type Ticket = ();

        fn send(
            &mut self,
            prompt: Vec<u32>,
            output_tokens: usize,
            mut reply: Reply,
        ) -> Result<(), BenchError> {
            let in_flight = Arc::clone(&self.in_flight);
            let now = in_flight.fetch_add(1, Ordering::SeqCst) + 1;
            self.most_in_flight.fetch_max(now, Ordering::SeqCst);
            std::thread::spawn(move || {
                reply.prompt(prompt.len() / 2);
                reply.prompt(prompt.len());
                for _ in 0..output_tokens {
                    std::thread::sleep(Duration::from_millis(1));
                    reply.token(Instant::now());
                }
                in_flight.fetch_sub(1, Ordering::SeqCst);
                reply.finish();
            });
            Ok(())
        }
    }

    /// Does the same with every reply.
    struct Does(fn(&mut Reply));

    impl Target for Does {
        type Ticket = ();

        fn send(&mut self, _: Vec<u32>, _: usize, mut reply: Reply) -> Result<(), BenchError> {
            (self.0)(&mut reply);
            Ok(())
        }
    }

    #[test]
    fn a_longer_queue_keeps_the_concurrency_and_never_exceeds_it() {
        let mut target = Threads::default();
        let mut counted = 0;
        let trace = drive(&mut target, vec![vec![1; 100]; 7], 5, 3, &mut |done| {
            assert!(done >= counted, "the count never goes back");
            counted = done;
        })
        .unwrap();
        assert_eq!((trace.requests.len(), counted), (7, 735));
        assert_eq!(target.most_in_flight.load(Ordering::SeqCst), 3);
        assert!(trace.requests.iter().all(|request| request.tokens.len() == 5));
        assert!(trace.requests.iter().all(|request| request.tokens[0] > request.submitted));
        for pair in trace.requests.windows(2) {
            assert!(pair[0].submitted <= pair[1].submitted);
        }
    }

    #[test]
    fn a_request_that_ends_early_or_fails_is_an_error() {
        let error = |act| {
            let prompts = vec![vec![1]];
            drive(&mut Does(act), prompts, 3, 1, &mut |_| ()).unwrap_err().to_string()
        };
        let early = |reply: &mut Reply| {
            reply.token(Instant::now());
            reply.finish();
        };
        assert_eq!(error(early), "request 0 ended after 1 of 3 tokens");
        assert_eq!(error(|reply| reply.fail("no memory".to_string())), "no memory");
    }
}
