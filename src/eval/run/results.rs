//! The files of an evaluation: `run.json`, `questions.parquet`, `summary.json` and, where a baseline
//! was given, `comparison.json`; docs/evaluation.md describes their fields and columns.

use std::fs;
use std::io;
use std::path::Path;

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use super::comparison::RunComparison;
use super::question_results::{self, QuestionResult};
use super::record::{RunRecord, SCHEMA_VERSION};
use super::summary::EvalSummary;
use crate::eval::EvalError;
use crate::storage::Output;
use crate::support::atomic_file::write_atomically;

/// A finished run, as its directory holds it.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Results {
    pub run: RunRecord,
    pub questions: Vec<QuestionResult>,
    pub summary: EvalSummary,
}

/// What was scored and how.
pub(super) const RUN: &str = "run.json";
/// A row a question.
pub(super) const QUESTIONS: &str = "questions.parquet";
/// The scores. It is written last.
pub(super) const SUMMARY: &str = "summary.json";
/// How the run compares with its baseline.
pub(super) const COMPARISON: &str = "comparison.json";

impl Results {
    /// Writes the files, each atomically, and sends them to where they go. An earlier summary goes
    /// first and the new one comes last: where there is one, what lies beside it is its own.
    pub fn write(
        &self,
        output: &Output,
        comparison: Option<&RunComparison>,
    ) -> Result<(), EvalError> {
        let directory = output.directory();
        let path = |name: &str| directory.join(name);
        let put = |name: &str, written: io::Result<()>| {
            written.map_err(|source| EvalError::io(&path(name), source))
        };
        put(SUMMARY, remove_if_there(&path(SUMMARY)))?;
        put(COMPARISON, remove_if_there(&path(COMPARISON)))?;
        put(RUN, write_json(&path(RUN), &self.run))?;
        put(QUESTIONS, question_results::write(&path(QUESTIONS), &self.questions))?;
        if let Some(comparison) = comparison {
            put(COMPARISON, write_json(&path(COMPARISON), comparison))?;
        }
        put(SUMMARY, write_json(&path(SUMMARY), &self.summary))?;
        let files = [RUN, QUESTIONS, COMPARISON, SUMMARY];
        let written = |name: &&str| *name != COMPARISON || comparison.is_some();
        let files: Vec<&str> = files.into_iter().filter(written).collect();
        Ok(output.publish(&files)?)
    }

    /// Reads a finished run.
    ///
    /// # Errors
    /// A file that is missing, damaged or of another version, and files that are not of one run.
    pub fn read(directory: &Path) -> Result<Self, EvalError> {
        let (run, summary) = read_records(directory)?;
        let questions = read_questions(directory, &summary)?;
        Ok(Self { run, questions, summary })
    }
}

/// The per-question results of a finished run whose summary has been read already.
///
/// # Errors
/// A file that is missing or damaged, or of another run than the summary.
pub fn read_questions(
    directory: &Path,
    summary: &EvalSummary,
) -> Result<Vec<QuestionResult>, EvalError> {
    let path = directory.join(QUESTIONS);
    let file = fs::File::open(&path).map_err(|source| EvalError::io(&path, source))?;
    let questions =
        question_results::read(file).map_err(|error| EvalError::unusable(&path, error))?;
    if !summary.is_of(&questions) {
        let problem = format!("is of another run than {SUMMARY} beside it: score again");
        return Err(EvalError::unusable(&path, problem));
    }
    Ok(questions)
}

/// Reads `comparison.json` of a finished run; `None` where it had no baseline.
///
/// # Errors
/// A file that is damaged or of another version.
pub(super) fn read_comparison(directory: &Path) -> Result<Option<RunComparison>, EvalError> {
    let path = directory.join(COMPARISON);
    if path.is_file() { read_json(&path).map(Some) } else { Ok(None) }
}

/// Reads `run.json` and `summary.json` of a finished run.
///
/// # Errors
/// A file that is missing, damaged or of another version.
pub(super) fn read_records(directory: &Path) -> Result<(RunRecord, EvalSummary), EvalError> {
    let run: RunRecord = read_json(&directory.join(RUN))?;
    Ok((run, read_json(&directory.join(SUMMARY))?))
}

/// Whether a directory holds a finished run.
pub(super) fn are_in(directory: &Path) -> bool {
    directory.join(RUN).is_file() && directory.join(SUMMARY).is_file()
}

fn write_json(path: &Path, record: &impl Serialize) -> io::Result<()> {
    let mut json = serde_json::to_vec_pretty(record)?;
    json.push(b'\n');
    write_atomically(path, &json)
}

fn read_json<T: DeserializeOwned>(path: &Path) -> Result<T, EvalError> {
    #[derive(Deserialize)]
    struct Versioned {
        schema_version: u32,
    }
    let bytes = fs::read(path).map_err(|source| EvalError::io(path, source))?;
    let damaged =
        |error: serde_json::Error| EvalError::unusable(path, format!("cannot be read: {error}"));
    let Versioned { schema_version } = serde_json::from_slice(&bytes).map_err(damaged)?;
    if schema_version != SCHEMA_VERSION {
        return Err(EvalError::unusable(
            path,
            format!(
                "has version {schema_version} of the records, this quantkit reads \
                 {SCHEMA_VERSION}: score again"
            ),
        ));
    }
    serde_json::from_slice(&bytes).map_err(damaged)
}

fn remove_if_there(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}
