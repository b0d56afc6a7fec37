//! What is told of each model, under the names that dashboards for vLLM and llama.cpp look for, and
//! under our own where those have none.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use super::exposition::{Kind, Page};
use super::histogram::Histogram;
use super::model::{ENDS, ModelMetrics, REFUSALS};
use crate::engine::{Facts, Status};
use crate::server::state::Served;

/// A model at the moment of a scrape.
struct View<'a> {
    model: &'a Served,
    metrics: &'a ModelMetrics,
    status: Status,
    facts: Facts,
}

/// A family of counters or gauges.
struct Family {
    name: &'static str,
    kind: Kind,
    help: &'static str,
    /// The label that tells several values apart; empty where there is only one.
    label: &'static str,
    /// Each value with that label's. None where a figure is unknown.
    values: fn(&View<'_>) -> Vec<(&'static str, f64)>,
}

const fn counter(name: &'static str, help: &'static str, values: Values) -> Family {
    Family { name, kind: Kind::Counter, help, label: "", values }
}

const fn gauge(name: &'static str, help: &'static str, values: Values) -> Family {
    Family { name, kind: Kind::Gauge, help, label: "", values }
}

impl Family {
    const fn by(self, label: &'static str) -> Self {
        Self { label, ..self }
    }
}

type Values = fn(&View<'_>) -> Vec<(&'static str, f64)>;

fn one(value: f64) -> Vec<(&'static str, f64)> {
    vec![("", value)]
}

fn load(counts: &[AtomicU64]) -> impl Iterator<Item = f64> {
    counts.iter().map(|count| count.load(Ordering::Relaxed) as f64)
}

impl View<'_> {
    /// Generated tokens, with those that ended a turn, as `usage` counts them.
    fn generated(&self) -> f64 {
        let ends = self.metrics.end_tokens.load(Ordering::Relaxed);
        (self.status.totals.generated + ends) as f64
    }

    /// The part of the memory for running requests that their keys and values lie in.
    fn cache_use(&self) -> Vec<(&'static str, f64)> {
        match self.facts.memory_bytes {
            u64::MAX => Vec::new(),
            limit => one(self.status.running_bytes as f64 / limit.max(1) as f64),
        }
    }
}

/// A mean, or 0 of nothing, as llama.cpp has it.
fn ratio(value: f64, by: f64) -> Vec<(&'static str, f64)> {
    one(if by > 0.0 { value / by } else { 0.0 })
}

const FAMILIES: &[Family] = &[
    gauge("vllm:num_requests_running", "Requests in the batch.", |view| {
        one(view.status.slots.len() as f64)
    }),
    gauge("vllm:num_requests_waiting", "Requests waiting for room in the batch.", |view| {
        one(view.status.waiting as f64)
    }),
    gauge(
        "vllm:kv_cache_usage_perc",
        "Share of the memory for running requests that their keys and values occupy, 0 to 1.",
        |view| view.cache_use(),
    ),
    gauge("vllm:gpu_cache_usage_perc", "The old name of vllm:kv_cache_usage_perc.", |view| {
        view.cache_use()
    }),
    counter("vllm:prefix_cache_queries", "Prompt tokens looked up in the prefix cache.", |view| {
        one(view.status.totals.cache_queries as f64)
    }),
    counter("vllm:prefix_cache_hits", "Prompt tokens found in the prefix cache.", |view| {
        one(view.status.totals.cached_tokens as f64)
    }),
    counter("vllm:prompt_tokens", "Prompt tokens, those from the prefix cache included.", |view| {
        let totals = view.status.totals;
        one((totals.prompt_tokens + totals.cached_tokens) as f64)
    }),
    counter("vllm:generation_tokens", "Generated tokens.", |view| one(view.generated())),
    counter("vllm:request_success", "Requests that have ended, by reason.", |view| {
        let [turn, stop, length, full] = &view.metrics.ends;
        let sum = |counts: [&AtomicU64; 2]| {
            counts.iter().map(|count| count.load(Ordering::Relaxed) as f64).sum()
        };
        let totals = view.status.totals;
        vec![
            ("stop", sum([turn, stop])),
            ("length", sum([length, full])),
            ("abort", totals.cancelled as f64),
            ("error", totals.failed as f64),
        ]
    })
    .by("finished_reason"),
    counter("llamacpp:prompt_tokens", "Prompt tokens computed.", |view| {
        one(view.status.totals.prompt_tokens as f64)
    }),
    counter("llamacpp:prompt_tokens_cached", "Prompt tokens found in the prefix cache.", |view| {
        one(view.status.totals.cached_tokens as f64)
    }),
    counter(
        "llamacpp:prompt_seconds",
        "Seconds spent in engine steps that computed a prompt.",
        |view| one(view.status.totals.prompt_time.as_secs_f64()),
    ),
    gauge("llamacpp:prompt_tokens_seconds", "Prompt tokens computed per second.", |view| {
        let totals = view.status.totals;
        ratio(totals.prompt_tokens as f64, totals.prompt_time.as_secs_f64())
    }),
    counter("llamacpp:tokens_predicted", "Generated tokens.", |view| one(view.generated())),
    counter(
        "llamacpp:tokens_predicted_seconds",
        "Seconds spent in engine steps that only generated.",
        |view| one(view.status.totals.generation_time.as_secs_f64()),
    ),
    gauge("llamacpp:predicted_tokens_seconds", "Tokens generated per second.", |view| {
        ratio(view.generated(), view.status.totals.generation_time.as_secs_f64())
    }),
    gauge("llamacpp:requests_processing", "Requests in the batch.", |view| {
        one(view.status.slots.len() as f64)
    }),
    gauge("llamacpp:requests_deferred", "Requests waiting for room in the batch.", |view| {
        one(view.status.waiting as f64)
    }),
    counter("llamacpp:n_decode", "Steps of the engine.", |view| {
        one(view.status.totals.steps as f64)
    }),
    gauge("llamacpp:n_tokens_max", "Tokens of the longest sequence so far.", |view| {
        one(view.status.totals.longest as f64)
    }),
    gauge("llamacpp:n_busy_slots_per_decode", "Mean number of requests per engine step.", |view| {
        ratio(view.status.totals.busy as f64, view.status.totals.steps as f64)
    }),
    gauge("quantkit_model_bytes", "Size of the model's file.", |view| {
        one(view.model.about.bytes as f64)
    }),
    gauge("quantkit_weight_bytes", "Memory that the weight matrices occupy.", |view| {
        one(view.facts.weight_bytes as f64)
    }),
    gauge("quantkit_batch_limit", "Most requests that run at once.", |view| {
        one(view.facts.max_batch as f64)
    }),
    gauge(
        "quantkit_context_tokens",
        "Most tokens of a request, prompt and output together.",
        |view| one(view.facts.context as f64),
    ),
    counter("quantkit_requests_started", "Requests that have started to run.", |view| {
        one(view.status.totals.started as f64)
    }),
    counter("quantkit_requests_finished", "Completed requests, by reason.", |view| {
        ENDS.into_iter().zip(load(&view.metrics.ends)).collect()
    })
    .by("reason"),
    counter("quantkit_requests_failed", "Requests that failed.", |view| {
        one(view.status.totals.failed as f64)
    }),
    counter("quantkit_requests_cancelled", "Requests whose client went away.", |view| {
        one(view.status.totals.cancelled as f64)
    }),
    counter(
        "quantkit_requests_refused",
        "Requests rejected before they started, by reason.",
        |view| REFUSALS.into_iter().zip(load(&view.metrics.refusals)).collect(),
    )
    .by("reason"),
    counter("quantkit_engine_seconds", "Seconds spent in engine steps, by phase.", |view| {
        let totals = view.status.totals;
        vec![
            ("prompt", totals.prompt_time.as_secs_f64()),
            ("generation", totals.generation_time.as_secs_f64()),
        ]
    })
    .by("phase"),
    gauge("quantkit_kv_bytes", KV_HELP, |view| {
        vec![
            ("running", view.status.running_bytes as f64),
            ("kept", view.status.kept_bytes as f64),
            ("all", view.status.held_bytes as f64),
            ("reserved", view.status.reserved_bytes as f64),
        ]
    })
    .by("of"),
    gauge(
        "quantkit_kv_limit_bytes",
        "The limits of quantkit_kv_bytes, where there are any.",
        |view| {
            let limits = [("reserved", view.facts.memory_bytes), ("kept", view.facts.cache_bytes)];
            let known = limits.into_iter().filter(|&(_, limit)| limit != u64::MAX);
            known.map(|(of, limit)| (of, limit as f64)).collect()
        },
    )
    .by("of"),
    gauge("quantkit_prefix_cache_sequences", "Sequences kept for later prompts.", |view| {
        one(view.status.kept_sequences as f64)
    }),
    counter(
        "quantkit_prefix_cache_hits",
        "Requests that found part of their prompt in the prefix cache.",
        |view| one(view.status.totals.cache_hits as f64),
    ),
];

const KV_HELP: &str = "Memory of keys and values: allocated to running requests, to sequences kept for later \
                       prompts, and to both together (shared memory counts once); and what running \
                       requests may need at most.";

type Of = fn(&ModelMetrics) -> &Histogram;

const HISTOGRAMS: &[(&str, &str, Of)] = &[
    ("vllm:time_to_first_token_seconds", "From submission to the first token.", |m| &m.to_first),
    ("vllm:inter_token_latency_seconds", "Between two tokens of a request.", |m| &m.between_tokens),
    (
        "vllm:time_per_output_token_seconds",
        "The old name of vllm:inter_token_latency_seconds.",
        |m| &m.between_tokens,
    ),
    (
        "vllm:request_time_per_output_token_seconds",
        "Mean time between the tokens of a request.",
        |m| &m.per_token,
    ),
    ("vllm:e2e_request_latency_seconds", "From submission to the end.", |m| &m.whole),
    ("vllm:request_queue_time_seconds", "From submission to joining the batch.", |m| &m.queue),
    ("vllm:request_prefill_time_seconds", "From joining the batch to the first token.", |m| {
        &m.prompt
    }),
    ("vllm:request_decode_time_seconds", "From the first token to the last.", |m| &m.generation),
    ("vllm:request_inference_time_seconds", "From joining the batch to the end.", |m| &m.running),
    ("vllm:request_prompt_tokens", "Prompt tokens of a request.", |m| &m.prompt_tokens),
    ("vllm:request_generation_tokens", "Generated tokens of a request.", |m| &m.generated_tokens),
];

/// Writes the families of all models.
pub fn write_models(page: &mut Page, models: &[Arc<Served>]) {
    let views: Vec<View<'_>> = models
        .iter()
        .map(|model| View {
            model,
            metrics: &model.metrics,
            status: model.service.status(),
            facts: model.service.facts(),
        })
        .collect();
    let version = [("version", env!("CARGO_PKG_VERSION"))];
    page.family("quantkit_build_info", Kind::Gauge, "The version; always 1.").sample(&version, 1.0);
    for Family { name, kind, help, label, values } in FAMILIES {
        let mut family = page.family(name, *kind, help);
        for view in &views {
            for (told, value) in values(view) {
                let labels = [("model_name", view.model.name.as_str()), (label, told)];
                let count = if label.is_empty() { 1 } else { 2 };
                family.sample(&labels[..count], value);
            }
        }
    }
    for (name, help, of) in HISTOGRAMS {
        let mut family = page.family(name, Kind::Histogram, help);
        for view in &views {
            let labels = [("model_name", view.model.name.as_str())];
            family.histogram(&labels, &of(view.metrics).snapshot());
        }
    }
}
