//! What is compared, and what becomes of it meanwhile.

use std::path::PathBuf;

use crate::bench::Workload;
use crate::engine::EngineOptions;
use crate::eval::{Earlier, Protocol};

/// What to compare, and where the results go.
#[derive(Debug, Clone)]
pub struct CompareOptions {
    /// The GGUF models.
    pub models: Vec<PathBuf>,
    /// The model that the others are compared with; it joins the models if it is not among them.
    pub baseline: PathBuf,
    /// The question set: a Parquet file, or a directory with its splits.
    pub set: PathBuf,
    /// How to ask.
    pub protocol: Protocol,
    /// Examples before each question.
    pub shots: usize,
    /// At most this many questions of each subject.
    pub limit: Option<usize>,
    /// At most this many questions, those that llama.cpp's `--multiple-choice-tasks` draws.
    pub limit_seeded: Option<usize>,
    /// Only rows 0, K, 2K, …
    pub every: usize,
    /// Only these subjects; all when empty.
    pub subjects: Vec<String>,
    /// The text on which perplexity and divergence are measured, if any.
    pub text: Option<TextOptions>,
    /// The load of the benchmark; none is run when absent.
    pub workload: Option<Workload>,
    /// Where and how the model runs.
    pub engine: EngineOptions,
    /// Measure everything anew.
    pub fresh: bool,
    /// Directory for the report; each variant's own results go into a directory in it.
    pub output: PathBuf,
    /// What the reader should know about the models, as sentences.
    pub notes: Vec<String>,
    /// Commands that repeat the comparison.
    pub commands: Vec<String>,
}

impl CompareOptions {
    /// What is done with what an interrupted comparison has left.
    pub(super) fn earlier(&self) -> Earlier {
        if self.fresh { Earlier::Discard } else { Earlier::ResumeIfSame }
    }
}

/// The text that all variants read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TextOptions {
    /// A text file in UTF-8.
    pub path: PathBuf,
    /// Tokens in a window.
    pub context: usize,
    /// At most this many windows.
    pub chunks: Option<usize>,
}

/// A finished part of the work.
#[derive(Debug, Clone, PartialEq)]
pub struct Step {
    /// What was done: `mmlu-eval model.Q4_0`.
    pub what: String,
    /// Whether an earlier result was still valid.
    pub reused: bool,
    /// How long it took.
    pub seconds: f64,
}
