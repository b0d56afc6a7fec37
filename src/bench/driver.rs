//! The closed loop of clients: as many requests in flight as the level asks for, a new one as soon
//! as one is finished.

use std::collections::HashMap;
use std::hash::Hash;
use std::time::Duration;

use super::BenchError;
use crate::engine::EngineError;
use crate::support::interrupt;

/// What the driver needs from an engine: requests go in, steps bring tokens.
pub(super) trait Server {
    /// A handle to a request.
    type Id: Copy + Eq + Hash;

    /// Queues a request for exactly `output_tokens` tokens.
    fn submit(&mut self, prompt: Vec<u32>, output_tokens: usize) -> Result<Self::Id, EngineError>;

    /// How many tokens of its prompt a request that waits for its first token has behind it.
    fn prompt_progress(&self, request: Self::Id) -> usize;

    /// Works on all requests in flight for one step.
    fn step(&mut self) -> Result<Step<Self::Id>, EngineError>;
}

/// What one step brought.
#[derive(Debug)]
pub(super) struct Step<Id> {
    /// The requests that got a token, once for each token.
    pub tokens: Vec<Id>,
    /// The requests that will get no more.
    pub finished: Vec<Id>,
}

/// The clock readings of one request, from the start of its repeat.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct RequestTrace {
    /// When it was submitted.
    pub submitted: Duration,
    /// When each of its tokens came.
    pub tokens: Vec<Duration>,
}

/// The clock readings of one repeat.
#[derive(Debug, Default)]
pub(super) struct Trace {
    /// All requests, in the order of submission.
    pub requests: Vec<RequestTrace>,
    /// Time in which at least one request was waiting for its first token.
    pub prefill: Duration,
    /// Time in which every request in flight had its first token.
    pub decode: Duration,
    /// Tokens that came in `decode`.
    pub decode_tokens: u64,
    /// The part of `decode` in which as many requests as the concurrency were in flight.
    pub full_decode: Duration,
    /// Tokens that came in `full_decode`.
    pub full_decode_tokens: u64,
}

/// Runs one repeat: sends all `prompts`, `concurrency` of them in flight at once.
///
/// `clock` gives the time since any fixed moment, `count` is told how many tokens of prompts and
/// outputs are done.
///
/// # Errors
/// What the server says, an interruption, and a request that ends before its last token.
pub(super) fn drive<S: Server>(
    server: &mut S,
    clock: &impl Fn() -> Duration,
    prompts: Vec<Vec<u32>>,
    output_tokens: usize,
    concurrency: usize,
    count: &mut impl FnMut(u64),
) -> Result<Trace, BenchError> {
    let mut trace = Trace::default();
    let mut in_flight: HashMap<S::Id, usize> = HashMap::new();
    let mut waiting_for_first: HashMap<S::Id, usize> = HashMap::new();
    let mut done = 0;
    let mut prompts = prompts.into_iter();
    let started = clock();
    let mut now = Duration::ZERO;
    loop {
        interrupt::check()?;
        while in_flight.len() < concurrency {
            let Some(prompt) = prompts.next() else { break };
            let submitted = clock() - started;
            let prompt_tokens = prompt.len();
            let id = server.submit(prompt, output_tokens)?;
            in_flight.insert(id, trace.requests.len());
            let tokens = Vec::with_capacity(output_tokens);
            trace.requests.push(RequestTrace { submitted, tokens });
            waiting_for_first.insert(id, prompt_tokens);
        }
        if in_flight.is_empty() {
            return Ok(trace);
        }
        let prefilling = !waiting_for_first.is_empty();
        let step = server.step()?;
        let before = std::mem::replace(&mut now, clock() - started);
        if prefilling {
            trace.prefill += now - before;
        } else {
            trace.decode += now - before;
            trace.decode_tokens += step.tokens.len() as u64;
            if in_flight.len() == concurrency {
                trace.full_decode += now - before;
                trace.full_decode_tokens += step.tokens.len() as u64;
            }
        }
        for id in &step.tokens {
            trace.requests[in_flight[id]].tokens.push(now);
            done += 1 + waiting_for_first.remove(id).unwrap_or(0);
        }
        for id in &step.finished {
            let Some(index) = in_flight.remove(id) else { continue };
            let found = trace.requests[index].tokens.len();
            if found != output_tokens {
                return Err(BenchError::Unusable(format!(
                    "request {index} ended after {found} of {output_tokens} tokens"
                )));
            }
        }
        let reading: usize = waiting_for_first.keys().map(|&id| server.prompt_progress(id)).sum();
        count((done + reading) as u64);
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use super::*;

    /// An engine on a clock of its own: a step first reads one waiting prompt (1 ms a token, and
    /// gives its first token), or else gives each request a token (10 ms a step).
    struct Simulated<'a> {
        clock: &'a Cell<Duration>,
        queue: Vec<(u64, usize, usize)>,
        running: Vec<(u64, usize)>,
        submitted: u64,
        most_in_flight: usize,
    }

    impl Server for Simulated<'_> {
        type Id = u64;

        fn submit(&mut self, prompt: Vec<u32>, output_tokens: usize) -> Result<u64, EngineError> {
            self.submitted += 1;
            self.queue.push((self.submitted, prompt.len(), output_tokens));
            self.most_in_flight = self.most_in_flight.max(self.queue.len() + self.running.len());
            Ok(self.submitted)
        }

        fn prompt_progress(&self, _: u64) -> usize {
            0
        }

        fn step(&mut self) -> Result<Step<u64>, EngineError> {
            let mut step = Step { tokens: Vec::new(), finished: Vec::new() };
            let mut cost = 10;
            if self.queue.is_empty() {
                for (id, left) in &mut self.running {
                    step.tokens.push(*id);
                    *left -= 1;
                }
            } else {
                let (id, prompt, output) = self.queue.remove(0);
                cost = prompt as u64;
                step.tokens.push(id);
                self.running.push((id, output - 1));
            }
            self.clock.set(self.clock.get() + Duration::from_millis(cost));
            step.finished =
                self.running.iter().filter(|(_, left)| *left == 0).map(|r| r.0).collect();
            self.running.retain(|(_, left)| *left > 0);
            Ok(step)
        }
    }

    fn simulate(prompts: usize, output_tokens: usize, concurrency: usize) -> (Trace, usize, u64) {
        let clock = Cell::new(Duration::from_secs(77));
        let mut server = Simulated {
            clock: &clock,
            queue: Vec::new(),
            running: Vec::new(),
            submitted: 0,
            most_in_flight: 0,
        };
        let mut counted = 0;
        let trace = drive(
            &mut server,
            &|| clock.get(),
            vec![vec![1; 100]; prompts],
            output_tokens,
            concurrency,
            &mut |done| {
                assert!(done >= counted, "the count never goes back");
                counted = done;
            },
        )
        .unwrap();
        (trace, server.most_in_flight, counted)
    }

    #[test]
    fn requests_submitted_together_split_into_a_prefill_and_a_decode_phase() {
        let (trace, most, counted) = simulate(4, 11, 4);
        assert_eq!((trace.requests.len(), most, counted), (4, 4, 444));
        // Four prompts of 100 ms one after the other, then ten steps of four tokens.
        assert_eq!(trace.prefill, Duration::from_millis(400));
        assert_eq!(trace.decode, Duration::from_millis(100));
        assert_eq!(trace.decode_tokens, 40);
        let first: Vec<u128> = trace.requests.iter().map(|r| r.tokens[0].as_millis()).collect();
        assert_eq!(first, [100, 200, 300, 400]);
        assert!(trace.requests.iter().all(|r| r.tokens.len() == 11));
    }

    #[test]
    fn a_longer_queue_keeps_the_concurrency_and_never_exceeds_it() {
        let (trace, most, counted) = simulate(7, 5, 3);
        assert_eq!((trace.requests.len(), most, counted), (7, 3, 735));
        assert_eq!(trace.prefill, Duration::from_millis(700), "seven prompts of 100 ms");
        let last = trace.requests.iter().flat_map(|r| r.tokens.last()).max().unwrap();
        assert_eq!(trace.prefill + trace.decode, *last, "the phases add up to the whole");
        for pair in trace.requests.windows(2) {
            assert!(pair[0].submitted <= pair[1].submitted);
        }
    }

    #[test]
    fn only_steps_of_all_requests_count_as_full() {
        // Three prompts of one concurrency of three are through at 100, 200 and 300 ms; none decodes
        // before. Two more come in as these end, so that the last two decode alone.
        let (trace, ..) = simulate(5, 5, 3);
        assert_eq!((trace.full_decode, trace.full_decode_tokens), (Duration::from_millis(40), 12));
        assert_eq!((trace.decode, trace.decode_tokens), (Duration::from_millis(80), 20));
    }

    #[test]
    fn one_output_token_leaves_no_decode_phase() {
        let (trace, _, counted) = simulate(2, 1, 1);
        assert_eq!((trace.decode, trace.decode_tokens, counted), (Duration::ZERO, 0, 202));
    }

    #[test]
    fn a_request_that_ends_early_is_an_error() {
        struct Early;
        impl Server for Early {
            type Id = u64;
            fn submit(&mut self, _: Vec<u32>, _: usize) -> Result<u64, EngineError> {
                Ok(1)
            }
            fn prompt_progress(&self, _: u64) -> usize {
                0
            }
            fn step(&mut self) -> Result<Step<u64>, EngineError> {
                Ok(Step { tokens: vec![1], finished: vec![1] })
            }
        }
        let error = drive(&mut Early, &|| Duration::ZERO, vec![vec![1]], 3, 1, &mut |_| ());
        assert_eq!(error.unwrap_err().to_string(), "request 0 ended after 1 of 3 tokens");
    }
}
