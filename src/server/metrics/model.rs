//! What a model's requests took, as the engine's thread tells it: a few atomic additions for each event.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use super::histogram::Histogram;
use crate::engine::{Finish, FinishReason, Observer, Refusal, ServiceEvent, Timings};

/// Seconds to the first token: vLLM's limits, so that its dashboards' quantiles mean the same.
const TO_FIRST: [f64; 22] = [
    0.001, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0,
    20.0, 40.0, 80.0, 160.0, 640.0, 2560.0,
];

/// Seconds for a token: vLLM's limits, and three below them for small models.
const PER_TOKEN: [f64; 22] = [
    0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.75, 1.0, 2.5,
    5.0, 7.5, 10.0, 20.0, 40.0, 80.0,
];

/// Seconds for a request: vLLM's limits.
pub const REQUEST: [f64; 21] = [
    0.3, 0.5, 0.8, 1.0, 1.5, 2.0, 2.5, 5.0, 10.0, 15.0, 20.0, 30.0, 40.0, 50.0, 60.0, 120.0, 240.0,
    480.0, 960.0, 1920.0, 7680.0,
];

/// Why requests end that end well, by the names of their labels.
pub const ENDS: [&str; 4] = ["end_of_turn", "stop_text", "length", "context_full"];

/// Why requests are not taken, by the names of their labels.
pub const REFUSALS: [&str; 5] = ["queue_full", "too_long", "no_memory", "invalid", "closing"];

/// The history of a model's requests.
#[derive(Debug)]
pub struct ModelMetrics {
    pub(super) to_first: Histogram,
    pub(super) between_tokens: Histogram,
    /// The mean of each request.
    pub(super) per_token: Histogram,
    pub(super) whole: Histogram,
    pub(super) queue: Histogram,
    pub(super) prompt: Histogram,
    pub(super) generation: Histogram,
    /// Prompt and generation together.
    pub(super) running: Histogram,
    pub(super) prompt_tokens: Histogram,
    pub(super) generated_tokens: Histogram,
    /// Tokens that ended a turn. The engine does not count them among the generated ones.
    pub(super) end_tokens: AtomicU64,
    pub(super) ends: [AtomicU64; ENDS.len()],
    pub(super) refusals: [AtomicU64; REFUSALS.len()],
}

impl ModelMetrics {
    /// Nothing has happened yet. `context` is the number of tokens that a request may have.
    pub fn new(context: usize) -> Self {
        let tokens = one_two_five(context);
        let counts = || Histogram::new(&tokens);
        Self {
            to_first: Histogram::new(&TO_FIRST),
            between_tokens: Histogram::new(&PER_TOKEN),
            per_token: Histogram::new(&PER_TOKEN),
            whole: Histogram::new(&REQUEST),
            queue: Histogram::new(&REQUEST),
            prompt: Histogram::new(&REQUEST),
            generation: Histogram::new(&REQUEST),
            running: Histogram::new(&REQUEST),
            prompt_tokens: counts(),
            generated_tokens: counts(),
            end_tokens: AtomicU64::new(0),
            ends: Default::default(),
            refusals: Default::default(),
        }
    }

    fn finished(&self, finish: &Finish) {
        let Finish { reason, timings, .. } = finish;
        let end = match reason {
            FinishReason::EndOfGeneration => 0,
            FinishReason::Stopped => 1,
            FinishReason::Length => 2,
            FinishReason::ContextFull => 3,
        };
        self.ends[end].fetch_add(1, Ordering::Relaxed);
        let end_tokens = usize::from(finish.end.is_some());
        self.end_tokens.fetch_add(end_tokens as u64, Ordering::Relaxed);
        let generated = finish.generated + end_tokens;
        if finish.generated == 0
            && generated > 0
            && let Some(time) = timings.to_first()
        {
            // The first token ended the turn.
            self.to_first.observe(time.as_secs_f64());
        }
        let now = Instant::now();
        let since = |start: Instant| now.saturating_duration_since(start).as_secs_f64();
        self.whole.observe(since(timings.submitted));
        self.running.observe(timings.started.map_or(0.0, since));
        self.prompt.observe(timings.prompt().as_secs_f64());
        self.generation.observe(timings.generation().as_secs_f64());
        if let Some(gaps) = finish.generated.checked_sub(1).filter(|&gaps| gaps > 0) {
            self.per_token.observe(timings.generation().as_secs_f64() / gaps as f64);
        }
        self.prompt_tokens.observe(finish.prompt_tokens as f64);
        self.generated_tokens.observe(generated as f64);
    }
}

impl Observer for ModelMetrics {
    fn event(&self, event: &ServiceEvent, timings: &Timings) {
        let observe = |histogram: &Histogram, time: Duration| {
            histogram.observe(time.as_secs_f64());
        };
        match event {
            ServiceEvent::Started { .. } => observe(&self.queue, timings.queue()),
            ServiceEvent::Token { .. } => match (timings.between_tokens(), timings.to_first()) {
                (Some(time), _) => observe(&self.between_tokens, time),
                (None, Some(time)) => observe(&self.to_first, time),
                (None, None) => {}
            },
            ServiceEvent::Finished(finish) => self.finished(finish),
            // The service's own totals count the failed ones.
            ServiceEvent::Prompt { .. }
            | ServiceEvent::PromptProbabilities(_)
            | ServiceEvent::Failed { .. } => {}
        }
    }

    /// The service's own totals count them.
    fn cancelled(&self, _: &Timings) {}

    fn refused(&self, refusal: &Refusal) {
        let reason = match refusal {
            Refusal::QueueFull { .. } => 0,
            Refusal::TooLong { .. } => 1,
            Refusal::NoMemory { .. } => 2,
            Refusal::EmptyPrompt | Refusal::UnknownToken { .. } | Refusal::Sampling(_) => 3,
            Refusal::Closing => 4,
        };
        self.refusals[reason].fetch_add(1, Ordering::Relaxed);
    }
}

/// 1, 2, 5, 10, 20, … up to `most`, as vLLM counts tokens.
fn one_two_five(most: usize) -> Vec<f64> {
    let decades = std::iter::successors(Some(1usize), |decade| decade.checked_mul(10));
    let limits = decades.flat_map(|decade| [1, 2, 5].map(|step| decade.checked_mul(step)));
    let limits = limits.map_while(|limit| limit.filter(|&limit| limit <= most));
    limits.map(|limit| limit as f64).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::EndToken;

    fn token() -> ServiceEvent {
        ServiceEvent::Token { token: 1, bytes: Vec::new(), probabilities: None, at: Instant::now() }
    }

    #[test]
    fn the_first_token_and_those_after_it_are_told_apart() {
        let metrics = ModelMetrics::new(100);
        let submitted = Instant::now();
        let after = |milliseconds| Some(submitted + Duration::from_millis(milliseconds));
        let first = Timings {
            submitted,
            started: after(3000),
            first: after(3030),
            before_last: None,
            last: after(3030),
        };
        let second = Timings { before_last: first.last, last: after(3150), ..first };
        let started = ServiceEvent::Started { cached_tokens: 0, started: submitted };
        metrics.event(&started, &first);
        metrics.event(&token(), &first);
        metrics.event(&token(), &second);
        let finish = Finish {
            reason: FinishReason::EndOfGeneration,
            end: Some(EndToken { token: 2, probabilities: None }),
            prompt_tokens: 7,
            cached_tokens: 0,
            generated: 2,
            timings: second,
        };
        metrics.event(&ServiceEvent::Finished(finish), &second);
        let sum = |histogram: &Histogram| {
            let snapshot = histogram.snapshot();
            (snapshot.count, (snapshot.sum * 1e3).round())
        };
        assert_eq!(sum(&metrics.queue), (1, 3000.0));
        assert_eq!(sum(&metrics.to_first), (1, 3030.0));
        assert_eq!(sum(&metrics.between_tokens), (1, 120.0));
        assert_eq!(sum(&metrics.per_token), (1, 120.0));
        assert_eq!(sum(&metrics.prompt), (1, 30.0));
        assert_eq!(sum(&metrics.generation), (1, 120.0));
        assert_eq!(sum(&metrics.generated_tokens), (1, 3000.0));
        assert_eq!(metrics.ends[0].load(Ordering::Relaxed), 1);
        assert_eq!(metrics.end_tokens.load(Ordering::Relaxed), 1);
    }

    #[test]
    fn a_turn_that_ends_at_once_has_a_first_token_too() {
        let metrics = ModelMetrics::new(100);
        let submitted = Instant::now();
        let timings =
            Timings { first: Some(submitted), last: Some(submitted), ..Timings::new(submitted) };
        let mut finish = Finish {
            reason: FinishReason::EndOfGeneration,
            end: Some(EndToken { token: 2, probabilities: None }),
            prompt_tokens: 1,
            cached_tokens: 0,
            generated: 0,
            timings,
        };
        metrics.event(&ServiceEvent::Finished(finish.clone()), &timings);
        assert_eq!(metrics.to_first.snapshot().count, 1);
        // One that asked for no token has none.
        (finish.reason, finish.end) = (FinishReason::Length, None);
        metrics.event(&ServiceEvent::Finished(finish), &timings);
        assert_eq!(metrics.to_first.snapshot().count, 1);
        assert_eq!(metrics.per_token.snapshot().count, 0);
    }

    #[test]
    fn limits_of_token_counts_end_at_the_context() {
        assert_eq!(one_two_five(100), [1.0, 2.0, 5.0, 10.0, 20.0, 50.0, 100.0]);
        assert_eq!(one_two_five(7), [1.0, 2.0, 5.0]);
        assert!(one_two_five(usize::MAX).windows(2).all(|pair| pair[0] < pair[1]));
    }
}
