//! What a benchmark leaves behind. Times are milliseconds of wall time, rates are per second.

use serde::{Deserialize, Serialize};

use crate::engine::Build;
use crate::support::machine::Machine;

/// Version of the fields of [`BenchSummary`].
pub const SCHEMA_VERSION: u32 = 1;

/// The load that is put on the model.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Workload {
    /// Prompt tokens of each request, exactly.
    pub input_tokens: usize,
    /// Generated tokens of each request, exactly: the end-of-sequence token is ignored.
    pub output_tokens: usize,
    /// Requests in flight at once, a level each.
    pub concurrency: Vec<usize>,
    /// Requests of one repeat of a level; as many as are in flight at once when absent.
    pub requests: Option<usize>,
    /// How often each level is measured.
    pub repeats: usize,
    /// Seed of the prompts' tokens.
    pub seed: u64,
}

impl Default for Workload {
    fn default() -> Self {
        Self {
            input_tokens: 2560,
            output_tokens: 768,
            concurrency: vec![1, 2, 4, 8],
            requests: None,
            repeats: 1,
            seed: 0,
        }
    }
}

/// A benchmark of one model: the content of `bench.json`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct BenchSummary {
    /// Version of this record's fields.
    pub schema_version: u32,
    /// Version of quantkit.
    pub quantkit_version: String,
    /// The build that ran.
    pub build: Build,
    /// The model's path as given.
    pub model: String,
    /// SHA-256 of the model file.
    pub model_sha256: String,
    /// Size of the model file in bytes.
    pub model_bytes: u64,
    /// Where the model ran: `cpu` or `cuda:N`.
    pub device: String,
    /// Elements of the key-value cache: `i16`, `i8` or `f16`.
    pub kv_type: String,
    /// Bits that activations are rounded to in products with quantized weights: 8 or 16.
    pub activations: u8,
    /// Threads that computed.
    pub threads: usize,
    /// What it ran on.
    pub machine: Machine,
    /// The one-minute load average just before the model was loaded: a busy machine gives figures
    /// that are too low.
    pub load_average_before: Option<f64>,
    /// The load that was put on it.
    pub workload: Workload,
    /// Whether all levels have been measured.
    pub complete: bool,
    /// Time to load the model.
    pub load_seconds: f64,
    /// The levels, in the order of the workload.
    pub levels: Vec<LevelSummary>,
    /// Every request of every level.
    pub requests: Vec<RequestRecord>,
}

/// Moments and percentiles of a sample. Percentiles interpolate linearly between the two nearest
/// order statistics (Hyndman and Fan's type 7, NumPy's default); no value is binned.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[allow(missing_docs)]
pub struct Distribution {
    pub count: usize,
    pub mean: f64,
    pub min: f64,
    pub p50: f64,
    pub p90: f64,
    pub p95: f64,
    pub p99: f64,
    pub max: f64,
}

/// One figure over the repeats of a level.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[allow(missing_docs)]
pub struct Spread {
    pub min: f64,
    pub median: f64,
    pub max: f64,
}

/// What a peak of resident memory covers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum PeakScope {
    /// This level alone.
    Level,
    /// The process from its start to the end of this level, where the count cannot be reset.
    Process,
}

/// The largest resident memory of the process, model file pages included.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct PeakMemory {
    /// In bytes.
    pub bytes: u64,
    /// Since when.
    pub scope: PeakScope,
}

/// One level of concurrency. Distributions pool the requests of all repeats; spreads are over the
/// repeats. The figures are defined in [`crate::bench`].
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct LevelSummary {
    /// Requests in flight at once.
    pub concurrency: usize,
    /// Requests of one repeat.
    pub requests: usize,
    /// Time to first token.
    pub ttft_ms: Distribution,
    /// Time per output token after the first; absent when each request has one output token.
    pub tpot_ms: Option<Distribution>,
    /// Time between one token and the next of the same request; absent like `tpot_ms`.
    pub inter_token_ms: Option<Distribution>,
    /// Time from submission to the last token.
    pub end_to_end_ms: Distribution,
    /// Prompt tokens over the time in which prompts were being read.
    pub prefill_tokens_per_second: Spread,
    /// Tokens generated while no prompt was being read, over that time; absent like `tpot_ms`.
    pub decode_tokens_per_second: Option<Spread>,
    /// The same of the time in which as many requests as the concurrency were decoding; absent where
    /// there was none.
    #[serde(default)]
    pub full_decode_tokens_per_second: Option<Spread>,
    /// All generated tokens over the whole time.
    pub output_tokens_per_second: Spread,
    /// Finished requests over the whole time.
    pub requests_per_second: Spread,
    /// Largest resident memory; absent where the system does not tell.
    pub peak_memory: Option<PeakMemory>,
    /// The repeats one by one.
    pub repeats: Vec<RepeatSummary>,
}

/// One repeat of a level.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct RepeatSummary {
    /// From the first submission to the last token.
    pub seconds: f64,
    /// The part of it in which at least one request was waiting for its first token.
    pub prefill_seconds: f64,
    /// The rest of it.
    pub decode_seconds: f64,
    /// Prompt tokens read.
    pub input_tokens: u64,
    /// Tokens generated.
    pub output_tokens: u64,
    /// Those of them that were generated in `decode_seconds`.
    pub decode_tokens: u64,
    /// Median time to first token.
    pub ttft_p50_ms: f64,
    /// Median time per output token.
    pub tpot_p50_ms: Option<f64>,
    /// `input_tokens / prefill_seconds`.
    pub prefill_tokens_per_second: f64,
    /// `decode_tokens / decode_seconds`.
    pub decode_tokens_per_second: Option<f64>,
    /// The same of the time in which as many requests as the concurrency were decoding.
    #[serde(default)]
    pub full_decode_tokens_per_second: Option<f64>,
    /// `output_tokens / seconds`.
    pub output_tokens_per_second: f64,
    /// Requests over `seconds`.
    pub requests_per_second: f64,
}

/// One request.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct RequestRecord {
    /// The level's concurrency.
    pub concurrency: usize,
    /// The repeat, from 0.
    pub repeat: usize,
    /// The request within the repeat, from 0.
    pub request: usize,
    /// Prompt tokens.
    pub input_tokens: usize,
    /// Generated tokens.
    pub output_tokens: usize,
    /// Submission, from the start of the repeat.
    pub submitted_ms: f64,
    /// Time to first token.
    pub ttft_ms: f64,
    /// `(end_to_end_ms − ttft_ms) / (output_tokens − 1)`; absent for a single output token.
    pub tpot_ms: Option<f64>,
    /// Time between one token and the next; absent for a single output token.
    pub inter_token_ms: Option<Distribution>,
    /// From submission to the last token.
    pub end_to_end_ms: f64,
    /// `input_tokens / ttft`: what this request saw, waiting included.
    pub prefill_tokens_per_second: f64,
    /// `1 / tpot`: what this request saw.
    pub decode_tokens_per_second: Option<f64>,
    /// When each token came, in milliseconds from submission. In the Parquet file only.
    #[serde(skip)]
    pub token_ms: Vec<f32>,
}
