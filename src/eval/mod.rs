//! Question sets, prompts, scoring and statistics; how far one model's predictions are from another's.

mod asking;
pub mod calibration;
mod candidates;
pub mod divergence;
mod log_softmax;
pub mod paired;
mod prompts;
pub mod question_set;
mod results;
mod run;
mod scoring;
pub mod starter_set;
pub mod statistics;
pub mod subjects;
pub mod text_windows;

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::engine::Build;
use crate::engine::{EngineError, EngineOptions};
pub use run::SCHEMA_VERSION;

/// How a question is asked and scored.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Protocol {
    /// lm-evaluation-harness's `mmlu`: description, shots, lettered choices, one-token answers.
    Letter,
    /// llama.cpp's `--multiple-choice`: mean log-probability of question + " " + choice.
    Cloze,
}

/// What to score, and where the results go.
#[derive(Debug, Clone)]
pub struct EvalOptions {
    /// The GGUF model.
    pub model: PathBuf,
    /// A Parquet file, or a directory with its splits.
    pub set: PathBuf,
    /// How to ask.
    pub protocol: Protocol,
    /// Examples from the dev split before each question (letter protocol).
    pub shots: usize,
    /// At most this many questions.
    pub limit: Option<usize>,
    /// Only rows 0, K, 2K, …
    pub every: usize,
    /// Only these subjects; all when empty.
    pub subjects: Vec<String>,
    /// Directory for `summary.json` and `questions.parquet`.
    pub output: PathBuf,
    /// Where and how the model runs.
    pub engine: EngineOptions,
}

/// Accuracy over a group of questions.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Score {
    /// "all", a category or a subject.
    pub name: String,
    /// Questions scored.
    pub questions: usize,
    /// Answered right.
    pub correct: usize,
    /// `correct / questions`, from 0 to 1.
    pub accuracy: f64,
    /// Standard error of the accuracy.
    pub standard_error: f64,
    /// Accuracy of guessing: the mean of 1 / number of choices.
    pub chance: f64,
}

/// The result of scoring one model on one set: the content of `summary.json`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct EvalSummary {
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
    /// The set's path as given.
    pub set: String,
    /// SHA-256 over the set's files.
    pub set_sha256: String,
    /// How it was asked.
    pub protocol: Protocol,
    /// Shots before each question.
    pub shots: usize,
    /// `--limit`.
    pub limit: Option<usize>,
    /// `--every`.
    pub every: usize,
    /// `--subjects`.
    pub subjects: Vec<String>,
    /// Where it ran: `cpu` or `cuda:N`.
    pub device: String,
    /// Elements of the key-value cache: `i16`, `i8` or `f16`.
    pub kv_type: String,
    /// Over all questions.
    pub overall: Score,
    /// Over MMLU's four categories (those present).
    pub categories: Vec<Score>,
    /// Over each subject, in alphabetical order.
    pub subject_scores: Vec<Score>,
    /// Tokens that went through the model.
    pub tokens_run: u64,
    /// Tokens that a scorer without prefix sharing would have run.
    pub tokens_naive: u64,
    /// Wall time of the scoring, loading excluded.
    pub seconds: f64,
    /// Questions a second.
    pub questions_per_second: f64,
    /// Tokens run a second.
    pub tokens_per_second: f64,
}

/// An error of an evaluation.
#[derive(Debug, thiserror::Error)]
pub enum EvalError {
    /// The set, the options or the results cannot be used; the text says what to do.
    #[error("{0}")]
    Unusable(String),
    /// A file could not be read or written.
    #[error("{path}: {source}")]
    Io {
        /// The file.
        path: String,
        /// What the system said.
        source: std::io::Error,
    },
    /// The model failed.
    #[error(transparent)]
    Engine(#[from] EngineError),
    /// Importance could not be collected or written.
    #[error(transparent)]
    Importance(#[from] crate::quant::importance::ImportanceError),
    /// Ctrl-C.
    #[error(transparent)]
    Interrupted(#[from] crate::support::interrupt::Interrupted),
}

/// Scores the model, writes `questions.parquet` and `summary.json` into the output directory, and
/// returns the summary.
pub fn evaluate(options: &EvalOptions) -> Result<EvalSummary, EvalError> {
    run::evaluate(options)
}
