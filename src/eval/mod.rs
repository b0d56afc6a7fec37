//! Question sets, prompts, scoring and statistics; perplexity; how far one model's predictions are
//! from another's.

mod asking;
mod base_logits;
mod baseline;
pub mod calibration;
mod candidates;
pub mod divergence;
mod endpoint;
mod journal;
mod line_journal;
mod log_softmax;
pub mod paired;
pub mod perplexity;
mod plan;
mod prompts;
pub mod question_results;
pub mod question_set;
mod record;
mod results;
mod run;
mod runs;
mod scoring;
mod selection;
mod session;
pub mod starter_set;
pub mod statistics;
pub mod subjects;
pub mod text_windows;
mod window_journal;
mod window_run;

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::engine::Build;
use crate::engine::{EngineError, EngineOptions};
use crate::storage::StorageError;
pub use asking::{AskedText, OtherReadings, asked_texts};
pub use baseline::{ChangedAnswer, ComparedRun, RunComparison, compare_runs};
pub use endpoint::EndpointOptions;
pub use line_journal::Earlier;
pub use plan::Shard;
pub use record::{Part, RunRecord, Settings};
pub use runs::{
    Finished, FoundRun, Unfinished, find_runs, merge, read_comparison, read_run, unfinished,
};
pub use window_journal::WindowJournalOptions;

/// Version of the fields of `run.json`, `summary.json` and `questions.parquet`.
pub const SCHEMA_VERSION: u32 = 2;

/// How a question is asked and scored.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Protocol {
    /// lm-evaluation-harness's `mmlu`: description, shots, lettered choices, one-token answers.
    Letter,
    /// The letter question through the model's chat template.
    Chat,
    /// llama.cpp's `--multiple-choice`: mean log-probability of question + " " + choice.
    Cloze,
    /// lm-evaluation-harness's tasks that complete a text: log-probability of the choice by bytes,
    /// beside the sum (its `acc`) and by characters (its `acc_norm`).
    ClozeNormalized,
}

impl Protocol {
    /// Its name on the command line and in records.
    pub fn name(self) -> &'static str {
        match self {
            Self::Letter => "letter",
            Self::Chat => "chat",
            Self::Cloze => "cloze",
            Self::ClozeNormalized => "cloze-normalized",
        }
    }

    /// Its name with the shots, if it takes any: `letter, 5 shots`.
    pub fn described(self, shots: usize) -> String {
        let name = self.name();
        if self.takes_shots() { format!("{name}, {shots} shots") } else { name.to_string() }
    }

    /// Whether questions can be asked with shots at all.
    pub fn takes_shots(self) -> bool {
        self != Self::Cloze
    }

    /// The shots where nobody says otherwise.
    pub fn default_shots(self) -> usize {
        match self {
            Self::Letter | Self::Chat => 5,
            Self::Cloze | Self::ClozeNormalized => 0,
        }
    }
}

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
    /// At most this many questions.
    pub limit: Option<usize>,
    /// At most this many questions, those that llama.cpp's `--multiple-choice-tasks` draws.
    pub limit_seeded: Option<usize>,
    /// Only rows 0, K, 2K, …
    pub every: usize,
    /// Only these subjects; all when empty.
    pub subjects: Vec<String>,
    /// Only this part of the questions.
    pub shard: Option<Shard>,
    /// At most so many bytes of keys and values at a time.
    pub cache_bytes: u64,
    /// What becomes of the results of an unfinished run.
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

/// A question that the model could not be asked.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Unscored {
    /// Row in the test split.
    pub row: usize,
    /// Its subject.
    pub subject: String,
    /// Why.
    pub reason: String,
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
    /// SHA-256 of the model file; empty for a model that a server runs.
    pub model_sha256: String,
    /// The address of the server that ran the model.
    pub endpoint: Option<String>,
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
    /// `--limit-seeded`.
    pub limit_seeded: Option<usize>,
    /// `--every`.
    pub every: usize,
    /// `--subjects`.
    pub subjects: Vec<String>,
    /// `--shard`: which part of the questions this is.
    pub shard: Option<Shard>,
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
    /// Over all questions by other measures that the protocol has, by their names in
    /// lm-evaluation-harness; empty for most protocols.
    pub other_scores: Vec<Score>,
    /// Questions that the model could not be asked; no score counts them.
    pub unscored: Vec<Unscored>,
    /// Questions that lost their left end to fit the model's context; `dropped_tokens` of
    /// `questions.parquet` says which and by how much.
    #[serde(default)]
    pub shortened: usize,
    /// Tokens that went through the model. What an interruption or another shard made necessary a
    /// second time is not counted again.
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

/// What a run has found.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Evaluated {
    /// The content of `summary.json`.
    #[serde(flatten)]
    pub summary: EvalSummary,
    /// The content of `comparison.json`; absent without a baseline.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub comparison: Option<RunComparison>,
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
    /// What is in storage could not be read or written.
    #[error(transparent)]
    Storage(#[from] StorageError),
    /// Ctrl-C.
    #[error(transparent)]
    Interrupted(#[from] crate::support::interrupt::Interrupted),
}

/// Scores the model, writes `run.json`, `questions.parquet` and `summary.json` into the output
/// directory, and with a baseline `comparison.json`, and returns the last two. Results are kept in a
/// journal there as they come; a run that was stopped goes on from it.
///
/// # Errors
/// A model, set, baseline or output that cannot be used, a journal of other settings, an
/// interruption.
pub fn evaluate(options: &EvalOptions) -> Result<Evaluated, EvalError> {
    run::evaluate(options)
}

/// [`evaluate`] for a model that a server runs. Of the options, `model`, `cache_bytes` and `engine`
/// are not used.
///
/// # Errors
/// A set, baseline or output that cannot be used, a server that cannot be reached or tells no
/// log-probabilities, a journal of other settings, an interruption.
pub fn evaluate_at(
    options: &EvalOptions,
    server: &EndpointOptions,
) -> Result<Evaluated, EvalError> {
    endpoint::evaluate(options, server)
}

/// The results of the questions of a finished run, of which the summary is at hand.
///
/// # Errors
/// A file that is missing or damaged, or of another run than the summary.
pub fn read_questions(
    directory: &Path,
    summary: &EvalSummary,
) -> Result<Vec<question_results::QuestionResult>, EvalError> {
    results::read_questions(directory, summary)
}
