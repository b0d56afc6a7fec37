//! What a comparison leaves behind: the content of `compare.json`.

use serde::{Deserialize, Serialize};

use super::sizes::ModelSize;
use crate::bench::{LevelSummary, Workload};
use crate::eval::statistics::paired::Paired;
use crate::eval::statistics::reliability::Reliability;
use crate::eval::text::divergence::Divergence;
use crate::eval::{EvalSummary, Protocol};
use crate::support::machine::Machine;

/// Version of the fields of [`Comparison`].
pub const SCHEMA_VERSION: u32 = 3;

/// Several variants of a model, measured in the same way.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Comparison {
    /// Version of this record's fields.
    pub schema_version: u32,
    /// Version of quantkit.
    pub quantkit_version: String,
    /// When the comparison was made: `2026-11-20 14:03 UTC`.
    pub created: String,
    /// What the variants' names have in common.
    pub title: String,
    /// The label of the variant that the others are compared with.
    pub baseline: String,
    /// What it ran on.
    pub machine: Machine,
    /// Where the models ran: `cpu` or `cuda:N`.
    pub device: String,
    /// Elements of the key-value cache: `i16`, `i8` or `f16`.
    pub kv_type: String,
    /// Bits that activations are rounded to in products with quantized weights: 8 or 16.
    pub activations: u8,
    /// Threads that computed.
    pub threads: usize,
    /// How accuracy was measured.
    pub evaluation: EvaluationSettings,
    /// The text on which perplexity and divergence were measured; absent without `--text`.
    pub text: Option<TextSettings>,
    /// How speed was measured; absent with `--no-bench`.
    pub workload: Option<Workload>,
    /// The comparison in plain sentences.
    pub headline: Vec<String>,
    /// What to keep in mind when reading it.
    pub caveats: Vec<String>,
    /// Commands that repeat it.
    pub commands: Vec<String>,
    /// The variants, in the order given.
    pub variants: Vec<Variant>,
}

impl Comparison {
    /// The variant that the others are compared with.
    pub fn baseline_variant(&self) -> Option<&Variant> {
        self.variants.iter().find(|variant| variant.label == self.baseline)
    }

    /// The baseline's perplexity on the text; absent without one.
    pub fn base_perplexity(&self) -> Option<f64> {
        let text = self.variants.iter().find_map(|variant| variant.text.as_ref())?;
        Some(text.divergence.base_perplexity)
    }
}

/// The questions and how they were asked.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct EvaluationSettings {
    /// The set's path as given.
    pub set: String,
    /// SHA-256 over the set's files.
    pub set_sha256: String,
    /// How questions were asked.
    pub protocol: Protocol,
    /// Shots before each question.
    pub shots: usize,
    /// At most this many questions of each subject.
    pub limit: Option<usize>,
    /// At most this many questions, those that llama.cpp's `--multiple-choice-tasks` draws.
    pub limit_seeded: Option<usize>,
    /// Only rows 0, K, 2K, …
    pub every: usize,
    /// Only these subjects; all when empty.
    pub subjects: Vec<String>,
}

/// The text that all variants read, and how.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TextSettings {
    /// The text's path as given.
    pub text: String,
    /// SHA-256 of the text.
    pub text_sha256: String,
    /// Tokens in a window, of which the second half is scored.
    pub context: usize,
    /// At most this many windows.
    pub chunk_limit: Option<usize>,
    /// Windows that were read.
    pub chunks: usize,
}

/// A variant's predictions on the text.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct VariantText {
    /// Whether the result is an earlier one that was still valid.
    pub reused: bool,
    /// Its perplexity, and its divergence from the baseline.
    pub divergence: Divergence,
}

/// One variant of the model.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Variant {
    /// The file's stem, with as much of the path as tells it from the others.
    pub label: String,
    /// The file's path as given.
    pub model: String,
    /// SHA-256 of the file.
    pub model_sha256: String,
    /// The directory of its own results, from the comparison's output directory.
    pub directory: String,
    /// How large it is.
    pub size: ModelSize,
    /// File size of the baseline / file size of this variant.
    pub times_smaller: f64,
    /// How well it answers.
    pub evaluation: EvalSummary,
    /// Whether the evaluation is an earlier one that was still valid.
    pub evaluation_reused: bool,
    /// Against the baseline on a text; absent for the baseline itself and without `--text`.
    pub text: Option<VariantText>,
    /// 95 % Wilson interval of the accuracy.
    pub accuracy_interval: [f64; 2],
    /// Whether it is right as often as it is sure; absent without questions.
    pub reliability: Option<Reliability>,
    /// Against the baseline; absent for the baseline itself.
    pub paired: Option<Paired>,
    /// How fast it is; absent with `--no-bench`.
    pub speed: Option<Speed>,
}

/// The speed of one variant.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Speed {
    /// Whether the benchmark is an earlier one that was still valid.
    pub reused: bool,
    /// Time to load the model.
    pub load_seconds: f64,
    /// The one-minute load average before the benchmark.
    pub load_average_before: Option<f64>,
    /// The levels of concurrency.
    pub levels: Vec<LevelSummary>,
    /// Against the baseline, level by level; all 1 for the baseline itself.
    pub ratios: Vec<SpeedRatio>,
}

/// This variant / the baseline at one level of concurrency, by medians.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct SpeedRatio {
    /// Requests in flight at once.
    pub concurrency: usize,
    /// Time to first token; below 1 is faster.
    pub ttft: f64,
    /// Time per output token; below 1 is faster.
    pub tpot: Option<f64>,
    /// Prefill tokens/s.
    pub prefill: f64,
    /// Decode tokens/s.
    pub decode: Option<f64>,
    /// All output tokens/s.
    pub output: f64,
}

impl SpeedRatio {
    /// Compares two measurements of the same level.
    pub fn of(level: &LevelSummary, baseline: &LevelSummary) -> Self {
        let optional = |own: Option<f64>, other: Option<f64>| Some(ratio(own?, other?));
        let decode = |level: &LevelSummary| level.decode_tokens_per_second.map(|s| s.median);
        Self {
            concurrency: level.concurrency,
            ttft: ratio(level.ttft_ms.p50, baseline.ttft_ms.p50),
            tpot: optional(level.tpot_ms.map(|d| d.p50), baseline.tpot_ms.map(|d| d.p50)),
            prefill: ratio(
                level.prefill_tokens_per_second.median,
                baseline.prefill_tokens_per_second.median,
            ),
            decode: optional(decode(level), decode(baseline)),
            output: ratio(
                level.output_tokens_per_second.median,
                baseline.output_tokens_per_second.median,
            ),
        }
    }
}

/// `own / other`; 1 where the other is 0, which a real measurement never gives.
pub(super) fn ratio(own: f64, other: f64) -> f64 {
    if other == 0.0 { 1.0 } else { own / other }
}
