//! Load generation and its metrics.
//!
//! A benchmark puts closed-loop load on one model inside this process: at concurrency *c*, *c*
//! clients each submit a request, wait for its last token, and submit the next at once, until the
//! level's number of requests is reached. The requests go to the service that `quantkit serve` asks, too,
//! whose scheduler batches whatever is in flight.
//! Prompts have an exact number of tokens, share no prefix, and generation goes on to an exact
//! number of tokens whatever the model says.
//!
//! # Definitions
//! All times are wall time on a monotonic clock, read after each step of the engine. Time in which no
//! request was in flight counts as neither prefill nor decode.
//!
//! | figure | definition |
//! |---|---|
//! | TTFT | first token − submission; waiting behind other prompts is part of it |
//! | TPOT | (end-to-end latency − TTFT) / (output tokens − 1), a request's average |
//! | inter-token latency | each token − the one before it, over all tokens of all requests |
//! | end-to-end latency | last token − submission |
//! | prefill tokens/s | prompt tokens / time in which at least one request waited for its first token |
//! | decode tokens/s | tokens that came in the remaining time / that time |
//! | full decode tokens/s | the same of the part of that time in which as many requests as the concurrency decoded |
//! | output tokens/s | all generated tokens / time from the first submission to the last token |
//! | requests/s | requests / the same time |
//!
//! TTFT, TPOT, inter-token and end-to-end latency, output tokens/s and requests/s are defined as in
//! NVIDIA's AIPerf (GenAI-Perf) and in GuideLLM. With as many requests as the concurrency (the
//! default), all prompts are submitted together, and prefill and decode tokens/s are
//! llama-batched-bench's `S_PP` and `S_TG`, with two differences: sequences whose prompt is through
//! already decode while the others' prompts are being read, which counts as prefill time; and the
//! decode phase ends with fewer sequences than it began with, as the early ones finish first, which
//! full decode tokens/s leave out.
//!
//! Before the first level an untimed warm-up of short requests at the largest concurrency touches
//! all weights.

mod driver;
mod error;
mod export;
mod limits;
mod metrics;
pub mod profile;
mod record;
mod trace;
mod wanted;
mod workload;

use std::path::PathBuf;
use std::time::Instant;

use crate::engine::{
    Build, Engine, EngineError, EngineOptions, Request, SchedulerOptions, Service, ServiceEvent,
    ServiceOptions, Ticket,
};
use crate::gguf::{self, GgufFile};
use crate::support::progress::{Progress, Unit};
use crate::support::{machine, units};
use driver::{Reply, Target};
pub use error::BenchError;
pub use record::{
    BenchSummary, Distribution, LevelSummary, PeakMemory, PeakScope, RepeatSummary, RequestRecord,
    SCHEMA_VERSION, Spread, Workload,
};
use trace::Trace;
pub use wanted::WantedBench;
use workload::Prompts;

/// Prompt and output tokens of a warm-up request, at most.
const WARM_UP: (usize, usize) = (128, 8);

/// What to measure, and where the results go.
#[derive(Debug, Clone)]
pub struct BenchOptions {
    /// The GGUF model.
    pub model: PathBuf,
    /// The load.
    pub workload: Workload,
    /// Directory for `bench.json`, `levels.csv`, `requests.csv` and `requests.parquet`.
    pub output: PathBuf,
    /// Where and how the model runs.
    pub engine: EngineOptions,
}

/// Measures the model. The output directory's files are rewritten after each level, so that a later
/// failure loses nothing.
///
/// # Errors
/// A workload without levels or tokens, or one that does not fit the model's context; a model that
/// cannot be loaded or run; an output directory that cannot be written; an interruption.
pub fn run(options: &BenchOptions) -> Result<BenchSummary, BenchError> {
    let workload = &options.workload;
    check_workload(workload)?;
    let load_average_before = machine::load_average();
    let model = GgufFile::open(&options.model).map_err(EngineError::from)?;
    let identity = gguf::identify(&model)?;
    export::check_writable(&options.output)?;
    let started = Instant::now();
    let engine = Engine::load_file(model, options.engine)?;
    let load_seconds = started.elapsed().as_secs_f64();
    check_fit(workload, &engine)?;

    let mut summary = BenchSummary {
        schema_version: SCHEMA_VERSION,
        quantkit_version: env!("CARGO_PKG_VERSION").to_string(),
        build: Build::current(),
        model: options.model.display().to_string(),
        model_sha256: identity.sha256,
        model_bytes: identity.bytes,
        device: options.engine.device.to_string(),
        kv_type: options.engine.kv_type_name().to_string(),
        activations: options.engine.activations.bits(),
        threads: rayon::current_num_threads(),
        machine: machine::Machine::detect(),
        load_average_before,
        workload: workload.clone(),
        complete: false,
        load_seconds,
        levels: Vec::new(),
        requests: Vec::new(),
    };
    let mut bench = Bench::new(engine, workload)?;
    bench.warm_up()?;
    for &concurrency in &workload.concurrency {
        let (level, requests) = bench.level(concurrency)?;
        summary.levels.push(level);
        summary.requests.extend(requests);
        summary.complete = summary.levels.len() == workload.concurrency.len();
        identity.inputs.check()?;
        export::write(&summary, &options.output)?;
    }
    Ok(summary)
}

fn check_workload(workload: &Workload) -> Result<(), BenchError> {
    let requests_are_missing = workload.requests == Some(0);
    let problem = if workload.input_tokens == 0 || workload.output_tokens == 0 {
        "each request needs at least one input token and one output token"
    } else if workload.concurrency.is_empty() || workload.concurrency.contains(&0) {
        "each level of concurrency must be at least 1"
    } else if workload.repeats == 0 || requests_are_missing {
        "the number of requests and of repeats must be at least 1"
    } else {
        return check_requests(workload);
    };
    Err(BenchError::Unusable(problem.to_string()))
}

/// Fewer requests than the concurrency would measure another concurrency than they claim.
fn check_requests(workload: &Workload) -> Result<(), BenchError> {
    let most = workload.concurrency.iter().copied().max().unwrap_or(1);
    match workload.requests.filter(|&requests| requests < most) {
        None => Ok(()),
        Some(requests) => Err(BenchError::Unusable(format!(
            "{requests} requests cannot keep {most} in flight at once: raise --requests or lower \
             --concurrency"
        ))),
    }
}

/// Refuses requests that outgrow the context, and warns where the caches will not fit in memory.
fn check_fit(workload: &Workload, engine: &Engine) -> Result<(), BenchError> {
    let Workload { input_tokens, output_tokens, .. } = *workload;
    let context = engine.context_length();
    let needed = input_tokens.saturating_add(output_tokens);
    if needed > context {
        return Err(BenchError::Unusable(format!(
            "{input_tokens} input + {output_tokens} output tokens make {needed}, but the model's \
             context holds {context}: lower --input-tokens or --output-tokens"
        )));
    }
    let most = workload.concurrency.iter().copied().max().unwrap_or(1);
    let caches = engine.cache_bytes_per_token().saturating_mul(needed).saturating_mul(most) as u64;
    if let Some(available) = machine::available_memory().filter(|&available| caches > available) {
        tracing::warn!(
            "{most} requests of {needed} tokens need {} for keys and values, but only {} of memory \
             are available",
            units::bytes(caches),
            units::bytes(available)
        );
    }
    Ok(())
}

/// A loaded model under load.
struct Bench<'a> {
    service: Service,
    prompts: Prompts,
    workload: &'a Workload,
}

impl<'a> Bench<'a> {
    fn new(engine: Engine, workload: &'a Workload) -> Result<Self, BenchError> {
        let vocabulary = engine.vocabulary();
        let mut forbidden = vocabulary.end_of_generation.clone();
        forbidden.extend(vocabulary.bos);
        let prompts = Prompts::new(vocabulary.size, forbidden, workload.seed);
        let most = workload.concurrency.iter().copied().max().unwrap_or(1);
        let scheduler = SchedulerOptions { max_batch: most, ..SchedulerOptions::default() };
        let options = ServiceOptions { scheduler, ..ServiceOptions::default() };
        Ok(Self { service: Service::start(engine, options)?, prompts, workload })
    }

    fn warm_up(&mut self) -> Result<(), BenchError> {
        let input_tokens = self.workload.input_tokens.min(WARM_UP.0);
        let output_tokens = self.workload.output_tokens.min(WARM_UP.1);
        let most = self.workload.concurrency.iter().copied().max().unwrap_or(1);
        let total = most.saturating_mul(input_tokens + output_tokens) as u64;
        let progress = Progress::new("warm-up", total, Unit::Items("tokens"));
        self.repeat(most, most, input_tokens, output_tokens, &mut |done| progress.set(done))?;
        progress.finish();
        Ok(())
    }

    fn level(
        &mut self,
        concurrency: usize,
    ) -> Result<(LevelSummary, Vec<RequestRecord>), BenchError> {
        let Workload { input_tokens, output_tokens, requests, repeats, .. } = *self.workload;
        let requests = requests.unwrap_or(concurrency);
        tracing::info!("concurrency {concurrency}: {repeats} × {requests} requests begin");
        let started = Instant::now();
        let tokens = requests.saturating_mul(input_tokens.saturating_add(output_tokens)) as u64;
        let total = tokens.saturating_mul(repeats as u64);
        let progress =
            Progress::new(&format!("concurrency {concurrency}"), total, Unit::Items("tokens"));
        let scope =
            if machine::reset_peak_memory() { PeakScope::Level } else { PeakScope::Process };
        let mut traces = Vec::with_capacity(repeats);
        for repeat in 0..repeats as u64 {
            let count = &mut |done| progress.set(repeat * tokens + done);
            traces.push(self.repeat(requests, concurrency, input_tokens, output_tokens, count)?);
        }
        progress.finish();
        tracing::info!("concurrency {concurrency}: done in {}", units::duration(started.elapsed()));
        let peak_memory = machine::peak_memory().map(|bytes| PeakMemory { bytes, scope });
        Ok(metrics::level(self.workload, concurrency, &traces, peak_memory))
    }

    fn repeat(
        &mut self,
        requests: usize,
        concurrency: usize,
        input_tokens: usize,
        output_tokens: usize,
        count: &mut impl FnMut(u64),
    ) -> Result<Trace, BenchError> {
        let prompts = (0..requests).map(|_| self.prompts.next(input_tokens)).collect();
        driver::drive(&mut self.service, prompts, output_tokens, concurrency, count)
    }
}

impl Target for Service {
    type Ticket = Ticket;

    fn send(
        &mut self,
        prompt: Vec<u32>,
        output_tokens: usize,
        mut reply: Reply,
    ) -> Result<Ticket, BenchError> {
        let request = Request { ignore_end: true, ..Request::new(prompt, output_tokens) };
        let sink = move |event| {
            match event {
                ServiceEvent::Prompt { done, .. } => reply.prompt(done),
                ServiceEvent::Token { at, .. } => reply.token(at),
                ServiceEvent::Finished(_) => reply.finish(),
                ServiceEvent::Failed { error } => reply.fail(error),
                ServiceEvent::Started { .. } | ServiceEvent::PromptProbabilities(_) => {}
            }
            true
        };
        Ok(self.submit(request, sink).map_err(EngineError::from)?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_empty_workload_is_refused() {
        let good = Workload::default();
        assert!(check_workload(&good).is_ok());
        for bad in [
            Workload { input_tokens: 0, ..good.clone() },
            Workload { output_tokens: 0, ..good.clone() },
            Workload { concurrency: vec![], ..good.clone() },
            Workload { concurrency: vec![1, 0], ..good.clone() },
            Workload { requests: Some(0), ..good.clone() },
            Workload { requests: Some(7), ..good.clone() },
            Workload { repeats: 0, ..good.clone() },
        ] {
            assert!(check_workload(&bad).is_err(), "{bad:?}");
        }
    }
}
