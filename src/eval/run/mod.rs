//! A run: choosing and dealing out its questions, scoring them with a journal at hand, and the files
//! that it leaves; finding, reading, joining and comparing finished runs.
//!
//! The doors are [`evaluate`] for a model that runs here, [`evaluate_at`] for one that a server runs,
//! [`merge`] for the shards of a run, and [`find_runs`] and [`compare_runs`] for runs on the disk.

mod assemble;
mod baseline;
mod comparison;
mod earlier;
mod evaluate;
mod evaluate_at;
mod found;
mod journal;
mod merge;
mod options;
mod plan;
pub mod question_results;
mod record;
mod results;
mod scores;
mod selected;
mod selection;
mod session;
mod summary;

pub use baseline::compare_runs;
pub use comparison::{ChangedAnswer, ComparedRun, RunComparison};
pub use evaluate::evaluate;
pub use evaluate_at::evaluate_at;
pub use found::{Finished, FoundRun, Unfinished, find_runs, read_comparison, read_run, unfinished};
pub use merge::merge;
pub use options::{DEFAULT_CACHE_BYTES, EvalOptions};
pub use plan::Shard;
pub use record::{Part, RunRecord, SCHEMA_VERSION, Settings};
pub use results::read_questions;
pub use session::Evaluated;
pub use summary::{EvalSummary, Unscored};
