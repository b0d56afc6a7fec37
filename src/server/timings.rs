//! What an answer took, in llama-server's words.

use std::time::Duration;

use serde_json::{Value, json};

use crate::engine::Timings;

/// How far an answer is, and when what happened.
#[derive(Debug, Clone, Copy)]
pub struct Taken {
    /// Tokens of the prompt.
    pub prompt_tokens: usize,
    /// Those of them that an earlier request had computed.
    pub cached_tokens: usize,
    /// Tokens that were generated.
    pub generated: usize,
    /// When what happened.
    pub timings: Timings,
}

impl Taken {
    /// `prompt_progress`: so many tokens of the prompt are done.
    pub fn progress(&self, done: usize) -> Value {
        let time = self.timings.started.map_or(Duration::ZERO, |started| started.elapsed());
        json!({
            "total": self.prompt_tokens,
            "cache": self.cached_tokens,
            "processed": done,
            "time_ms": milliseconds(time).round(),
        })
    }

    /// `timings`. The first new token comes with the prompt, so that the rate of the others is that of one
    /// token less. What took no time has the rate 0.
    pub fn document(&self) -> Value {
        let computed = self.prompt_tokens.saturating_sub(self.cached_tokens);
        let (prompt, generation) = (self.timings.prompt(), self.timings.generation());
        let (prompt_each, prompt_rate) = pace(computed, prompt);
        let (each, rate) = pace(self.generated.saturating_sub(1), generation);
        json!({
            "cache_n": self.cached_tokens,
            "prompt_n": computed,
            "prompt_ms": milliseconds(prompt),
            "prompt_per_token_ms": prompt_each,
            "prompt_per_second": prompt_rate,
            "predicted_n": self.generated,
            "predicted_ms": milliseconds(generation),
            "predicted_per_token_ms": each,
            "predicted_per_second": rate,
        })
    }
}

/// Milliseconds for each of `count`, and how many there are in a second.
fn pace(count: usize, time: Duration) -> (f64, f64) {
    if count == 0 || time.is_zero() {
        return (0.0, 0.0);
    }
    let count = count as f64;
    (milliseconds(time) / count, count / time.as_secs_f64())
}

fn milliseconds(time: Duration) -> f64 {
    time.as_secs_f64() * 1e3
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use super::*;

    #[test]
    fn cached_tokens_took_no_time_and_nothing_is_divided_by_nothing() {
        let start = Instant::now();
        let after = |ms| Some(start + Duration::from_millis(ms));
        let timings = Timings {
            started: after(10),
            first: after(30),
            last: after(60),
            ..Timings::new(start)
        };
        let taken = Taken { prompt_tokens: 12, cached_tokens: 2, generated: 4, timings };
        let document = taken.document();
        assert_eq!((&document["cache_n"], &document["prompt_n"]), (&json!(2), &json!(10)));
        assert_eq!(document["prompt_per_token_ms"], 2.0);
        assert_eq!(document["prompt_per_second"], 500.0);
        assert_eq!(document["predicted_per_token_ms"], 10.0);
        let nothing = Taken { generated: 0, timings: Timings::new(start), ..taken }.document();
        assert_eq!(nothing["predicted_per_second"], 0.0);
        assert_eq!(nothing["prompt_per_second"], 0.0);
    }
}
