//! What became of requests, by their paths: those too that never reached a model.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use super::exposition::{Kind, Page};
use super::histogram::Histogram;
use super::model::REQUEST;

/// Answered requests. Only the server's own threads count here.
#[derive(Debug, Default)]
pub struct HttpMetrics(Mutex<Counts>);

#[derive(Debug, Default)]
struct Counts {
    /// By the path as the router knows it, and the status.
    answered: BTreeMap<(String, u16), u64>,
    seconds: BTreeMap<String, Histogram>,
}

impl HttpMetrics {
    /// Counts a request whose answer has come to its end. `route` is one of the router's paths: clients
    /// must not be able to make up as many as they like.
    pub fn count(&self, route: &str, status: u16, time: Duration) {
        let mut counts = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        *counts.answered.entry((route.to_string(), status)).or_default() += 1;
        let seconds = &mut counts.seconds;
        if !seconds.contains_key(route) {
            seconds.insert(route.to_string(), Histogram::new(&REQUEST));
        }
        if let Some(histogram) = seconds.get(route) {
            histogram.observe(time.as_secs_f64());
        }
    }

    /// Writes what was counted.
    pub(super) fn write(&self, page: &mut Page) {
        let counts = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let help = "Answered HTTP requests, by path and status.";
        let mut family = page.family("quantkit_http_requests", Kind::Counter, help);
        for ((route, status), &count) in &counts.answered {
            family.sample(&[("path", route), ("status", &status.to_string())], count as f64);
        }
        let help = "Seconds from the headers of an HTTP request to the end of its answer.";
        let mut family = page.family("quantkit_http_request_seconds", Kind::Histogram, help);
        for (route, histogram) in &counts.seconds {
            family.histogram(&[("path", route)], &histogram.snapshot());
        }
    }
}
