//! What is scored, how, and where the results go.

use std::path::PathBuf;

use super::plan::Shard;
use crate::engine::EngineOptions;
use crate::eval::asking::Protocol;
use crate::eval::line_journal::Earlier;

/// What to score, and where the results go.
#[derive(Debug, Clone)]
pub struct EvalOptions {
    /// The GGUF model; it may be in storage.
    pub model: PathBuf,
    /// A Parquet file, or a directory with its splits; it may be in storage.
    pub set: PathBuf,
    /// How to ask.
    pub protocol: Protocol,
    /// Examples from the dev split before each question, if the protocol takes shots.
    pub shots: usize,
    /// At most this many questions of each subject.
    pub limit: Option<usize>,
    /// At most this many questions, those that llama.cpp's `--multiple-choice-tasks` draws.
    pub limit_seeded: Option<usize>,
    /// Only rows 0, K, 2K, …
    pub every: usize,
    /// Only these subjects; all when empty.
    pub subjects: Vec<String>,
    /// Only this part of the questions.
    pub shard: Option<Shard>,
    /// The most memory, in bytes, that keys and values may take at a time.
    pub cache_bytes: u64,
    /// What becomes of the results that an earlier run has left in the output.
    pub earlier: Earlier,
    /// The directory of a finished run of the same questions, to compare this one with.
    pub baseline: Option<PathBuf>,
    /// The command line, for the record.
    pub command: String,
    /// Directory for `run.json`, `questions.parquet` and `summary.json`, and with a baseline for
    /// `comparison.json`; it may be in storage.
    pub output: PathBuf,
    /// Where and how the model runs.
    pub engine: EngineOptions,
}

/// [`EvalOptions::cache_bytes`] where nobody says otherwise.
pub const DEFAULT_CACHE_BYTES: u64 = 1 << 30;
