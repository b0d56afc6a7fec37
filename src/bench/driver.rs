//! The closed loop of clients: as many requests in flight as the level asks for, a new one as soon
//! as one is finished.

use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::time::{Duration, Instant};

use super::BenchError;
use super::trace::{RequestTrace, Trace};
use crate::support::interrupt;

/// How often somebody looks whether the run is to stop.
const LOOK: Duration = Duration::from_millis(100);

/// Where requests are sent.
pub(super) trait Target {
    /// Cancels its request when it is dropped.
    type Ticket;

    /// Sends a request for exactly `output_tokens` tokens, which tells what happens to it as request
    /// `index`.
    fn send(
        &mut self,
        index: usize,
        prompt: Vec<u32>,
        output_tokens: usize,
        updates: Sender<Update>,
    ) -> Result<Self::Ticket, BenchError>;
}

/// What happened to a request.
#[derive(Debug)]
pub(super) struct Update {
    /// Its index.
    pub request: usize,
    pub what: News,
}

#[derive(Debug)]
pub(super) enum News {
    /// So many tokens of its prompt are read.
    Prompt(usize),
    /// It got a token.
    Token(Instant),
    /// It will get no more.
    Finished,
    /// It cannot go on.
    Failed(String),
}

/// One repeat while it runs.
struct Drive<'a, T: Target> {
    target: &'a mut T,
    started: Instant,
    output_tokens: usize,
    prompts: std::vec::IntoIter<Vec<u32>>,
    updates: (Sender<Update>, Receiver<Update>),
    requests: Vec<RequestTrace>,
    /// Of each request: what cancels it, as long as it runs.
    tickets: Vec<Option<T::Ticket>>,
    /// Of each request: how many tokens of its prompt are read.
    read: Vec<usize>,
    /// Prompt and output tokens that are done.
    done: usize,
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
        updates: channel(),
        requests: Vec::with_capacity(total),
        tickets: Vec::with_capacity(total),
        read: Vec::with_capacity(total),
        done: 0,
    };
    for _ in 0..concurrency {
        drive.send_next()?;
    }
    let mut finished = 0;
    while finished < total {
        interrupt::check()?;
        match drive.updates.1.recv_timeout(LOOK) {
            Ok(update) => finished += usize::from(drive.take(update)?),
            Err(RecvTimeoutError::Timeout) => {}
            Err(RecvTimeoutError::Disconnected) => unreachable!("the sender is ours, too"),
        }
        count(drive.done as u64);
    }
    Ok(Trace::new(drive.requests, concurrency))
}

impl<T: Target> Drive<'_, T> {
    /// Sends the next request, if there is one left.
    fn send_next(&mut self) -> Result<(), BenchError> {
        let Some(prompt) = self.prompts.next() else { return Ok(()) };
        let tokens = Vec::with_capacity(self.output_tokens);
        let index = self.requests.len();
        self.requests.push(RequestTrace { submitted: self.started.elapsed(), tokens });
        self.read.push(0);
        let updates = self.updates.0.clone();
        self.tickets.push(Some(self.target.send(index, prompt, self.output_tokens, updates)?));
        Ok(())
    }

    /// Notes an update; true if its request is finished, and the next one sent.
    fn take(&mut self, Update { request, what }: Update) -> Result<bool, BenchError> {
        match what {
            News::Prompt(read) => {
                self.done += read - std::mem::replace(&mut self.read[request], read);
            }
            News::Token(at) => {
                self.requests[request].tokens.push(at.saturating_duration_since(self.started));
                self.done += 1;
            }
            News::Failed(error) => return Err(BenchError::Unusable(error)),
            News::Finished => {
                self.tickets[request] = None;
                let (found, wanted) = (self.requests[request].tokens.len(), self.output_tokens);
                if found != wanted {
                    return Err(BenchError::Unusable(format!(
                        "request {request} ended after {found} of {wanted} tokens"
                    )));
                }
                self.send_next()?;
                return Ok(true);
            }
        }
        Ok(false)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};

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
            request: usize,
            prompt: Vec<u32>,
            output_tokens: usize,
            updates: Sender<Update>,
        ) -> Result<(), BenchError> {
            let in_flight = Arc::clone(&self.in_flight);
            self.most_in_flight
                .fetch_max(in_flight.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
            std::thread::spawn(move || {
                let tell = |what| updates.send(Update { request, what }).unwrap();
                tell(News::Prompt(prompt.len() / 2));
                tell(News::Prompt(prompt.len()));
                for _ in 0..output_tokens {
                    std::thread::sleep(Duration::from_millis(1));
                    tell(News::Token(Instant::now()));
                }
                in_flight.fetch_sub(1, Ordering::SeqCst);
                tell(News::Finished);
            });
            Ok(())
        }
    }

    /// Sends the same news to every request.
    struct Says(fn() -> Vec<News>);

    impl Target for Says {
        type Ticket = ();

        fn send(
            &mut self,
            request: usize,
            _: Vec<u32>,
            _: usize,
            updates: Sender<Update>,
        ) -> Result<(), BenchError> {
            for what in (self.0)() {
                updates.send(Update { request, what }).unwrap();
            }
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
        let error = |news| {
            let prompts = vec![vec![1]];
            drive(&mut Says(news), prompts, 3, 1, &mut |_| ()).unwrap_err().to_string()
        };
        let early = || vec![News::Token(Instant::now()), News::Finished];
        assert_eq!(error(early), "request 0 ended after 1 of 3 tokens");
        assert_eq!(error(|| vec![News::Failed("no memory".to_string())]), "no memory");
    }
}
