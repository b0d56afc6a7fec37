//! When what happened in a repeat, and how its time divides into prefill and decode.

use std::time::Duration;

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

/// What changes at a moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Moment {
    /// A request got a token that is not its first one.
    Token,
    /// A request got its first token.
    First,
    /// A request got its last token.
    Last,
    /// A request was submitted.
    Submitted,
}

impl Trace {
    /// Divides the time of complete requests, each of at least one token. What comes at the same moment
    /// came of the same step, and belongs to the time that ends there.
    pub fn new(requests: Vec<RequestTrace>, concurrency: usize) -> Self {
        let mut trace = Self::default();
        let (mut in_flight, mut waiting) = (0, 0);
        let mut before = Duration::ZERO;
        let moments = moments(&requests);
        for step in moments.chunk_by(|one, next| one.0 == next.0) {
            let now = step[0].0;
            let tokens = step.iter().filter(|(_, what)| *what <= Moment::First).count() as u64;
            if waiting > 0 {
                trace.prefill += now - before;
            } else if in_flight > 0 {
                trace.decode += now - before;
                trace.decode_tokens += tokens;
                if in_flight == concurrency {
                    trace.full_decode += now - before;
                    trace.full_decode_tokens += tokens;
                }
            }
            for (_, what) in step {
                match what {
                    Moment::Token => {}
                    Moment::First => waiting -= 1,
                    Moment::Last => in_flight -= 1,
                    Moment::Submitted => (in_flight, waiting) = (in_flight + 1, waiting + 1),
                }
            }
            before = now;
        }
        trace.requests = requests;
        trace
    }
}

/// All that changes, in the order of time.
fn moments(requests: &[RequestTrace]) -> Vec<(Duration, Moment)> {
    let mut moments = Vec::new();
    for RequestTrace { submitted, tokens } in requests {
        moments.push((*submitted, Moment::Submitted));
        moments.extend(tokens.first().map(|&time| (time, Moment::First)));
        moments.extend(tokens.iter().skip(1).map(|&time| (time, Moment::Token)));
        moments.extend(tokens.last().map(|&time| (time, Moment::Last)));
    }
    moments.sort_unstable();
    moments
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(milliseconds: u64) -> Duration {
        Duration::from_millis(milliseconds)
    }

    /// A request whose first token comes at `first`, and the others every ten milliseconds from `next` on.
    fn request(submitted: u64, first: u64, next: u64, count: u64) -> RequestTrace {
        let others = (0..count - 1).map(|index| at(next + 10 * index));
        RequestTrace {
            submitted: at(submitted),
            tokens: [at(first)].into_iter().chain(others).collect(),
        }
    }

    #[test]
    fn requests_submitted_together_split_into_a_prefill_and_a_decode_phase() {
        // Four prompts of 100 ms one after the other, then ten steps of four tokens.
        let requests = (1..=4).map(|index| request(0, 100 * index, 410, 11)).collect();
        let trace = Trace::new(requests, 4);
        assert_eq!((trace.prefill, trace.decode), (at(400), at(100)));
        assert_eq!((trace.decode_tokens, trace.full_decode_tokens), (40, 40));
        assert_eq!(trace.requests.len(), 4);
    }

    #[test]
    fn tokens_of_a_step_that_ends_a_prompt_belong_to_the_prefill() {
        // The first request decodes while the second one's prompt is read.
        let requests = vec![request(0, 100, 150, 12), request(0, 200, 210, 5)];
        let trace = Trace::new(requests, 2);
        assert_eq!((trace.prefill, trace.decode), (at(200), at(50)));
        assert_eq!((trace.decode_tokens, trace.full_decode_tokens), (9, 8));
        assert_eq!(trace.full_decode, at(40));
    }

    #[test]
    fn a_request_that_follows_another_waits_from_its_submission() {
        let requests = vec![request(0, 50, 60, 3), request(72, 120, 130, 2)];
        let trace = Trace::new(requests, 1);
        // Between 70 and 72 ms nothing was in flight.
        assert_eq!((trace.prefill, trace.decode), (at(50 + 48), at(20 + 10)));
        assert_eq!((trace.decode_tokens, trace.full_decode), (3, at(30)));
    }

    #[test]
    fn one_output_token_leaves_no_decode_phase() {
        let trace = Trace::new(vec![request(0, 100, 0, 1), request(100, 200, 0, 1)], 1);
        assert_eq!((trace.prefill, trace.decode, trace.decode_tokens), (at(200), at(0), 0));
    }
}
