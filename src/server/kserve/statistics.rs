//! How many requests of this protocol there were, and what they took, as Triton counts them.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use serde_json::{Value, json};

use crate::engine::Timings;
use crate::support::calendar::unix_seconds;

/// The figures of all models, by their names.
#[derive(Debug, Default)]
pub struct Statistics(Mutex<BTreeMap<String, Figures>>);

#[derive(Debug, Clone, Copy, Default)]
struct Figures {
    success: Count,
    fail: Count,
    queue: Count,
    compute: Count,
    /// Milliseconds since 1970.
    last: u64,
}

#[derive(Debug, Clone, Copy, Default)]
struct Count {
    count: u64,
    time: Duration,
}

impl Count {
    fn add(&mut self, time: Duration) {
        self.count += 1;
        self.time += time;
    }

    fn document(self) -> Value {
        let nanoseconds = u64::try_from(self.time.as_nanos()).unwrap_or(u64::MAX);
        json!({ "count": self.count, "ns": nanoseconds })
    }
}

impl Statistics {
    /// Counts an answer that was begun at `started`; without its timings, it failed.
    pub(super) fn count(&self, model: &str, started: Instant, timings: Option<Timings>) {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let figures = all.entry(model.to_string()).or_default();
        match timings {
            None => figures.fail.add(started.elapsed()),
            Some(timings) => {
                figures.success.add(started.elapsed());
                figures.queue.add(timings.queue());
                figures.compute.add(timings.prompt() + timings.generation());
            }
        }
        figures.last = unix_seconds(SystemTime::now()) * 1000;
    }

    /// The entry in `model_stats` of a model and its version.
    pub(super) fn document(&self, model: &str, version: &str) -> Value {
        let all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let figures = all.get(model).copied().unwrap_or_default();
        let nothing = Count::default().document();
        json!({
            "name": model,
            "version": version,
            "last_inference": figures.last,
            "inference_count": figures.success.count,
            "execution_count": figures.success.count,
            "inference_stats": {
                "success": figures.success.document(),
                "fail": figures.fail.document(),
                "queue": figures.queue.document(),
                "compute_input": nothing,
                "compute_infer": figures.compute.document(),
                "compute_output": nothing,
                "cache_hit": nothing,
                "cache_miss": nothing,
            },
            "batch_stats": [],
        })
    }
}
