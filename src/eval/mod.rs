//! Question sets, prompts, scoring and statistics; perplexity; how far one model's predictions are
//! from another's.
//!
//! An evaluation flows one way: `questions` → `asking` → `scoring` → `run`. `text` and
//! `statistics` stand beside.

pub mod asking;
mod error;
pub(crate) mod line_journal;
pub mod questions;
pub mod run;
pub mod scoring;
pub mod statistics;
pub mod text;

pub use asking::{AskedText, Protocol, asked_texts};
pub use error::EvalError;
pub use line_journal::Earlier;
pub use run::{
    ChangedAnswer, ComparedRun, DEFAULT_CACHE_BYTES, EvalOptions, EvalSummary, Evaluated, Finished,
    FoundRun, Part, RunComparison, RunRecord, SCHEMA_VERSION, Settings, Shard, Unfinished,
    Unscored, compare_runs, evaluate, evaluate_at, find_runs, merge, read_comparison,
    read_questions, read_run, unfinished,
};
pub use scoring::OtherReadings;
pub use scoring::endpoint::EndpointOptions;
pub use statistics::Score;
pub use text::WindowJournalOptions;
