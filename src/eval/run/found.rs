//! Runs that lie on the disk: finding and reading them.

use std::borrow::Cow;
use std::fs;
use std::path::{Path, PathBuf};

use serde::Serialize;

use super::comparison::RunComparison;
use super::journal;
use super::record::{RunRecord, Settings};
use super::results;
use super::summary::EvalSummary;
use crate::eval::EvalError;
use crate::eval::line_journal::Lines;
use crate::storage::{self, Output};
use crate::support::interrupt;
use crate::support::path_text;

/// How deep runs are looked for below a directory.
const DEEPEST: usize = 4;

/// A run that lies in a directory.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct FoundRun {
    /// The directory.
    #[serde(serialize_with = "path_text::one")]
    pub directory: PathBuf,
    /// Its records, where it is finished.
    pub finished: Option<Finished>,
    /// What its journal holds, where it is not, or where it has been begun again.
    pub unfinished: Option<Unfinished>,
}

/// The records of a finished run.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Finished {
    /// `run.json`.
    pub run: RunRecord,
    /// `summary.json`.
    pub summary: EvalSummary,
}

/// A run that was begun and not finished.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Unfinished {
    /// What it scores, and how.
    pub settings: Settings,
    /// When it was first started, in UTC.
    pub started: String,
    /// Questions that have their results.
    pub done: usize,
    /// Questions that it asks.
    pub questions: usize,
}

/// What the run that this machine was writing to an output has left to go on from.
///
/// # Errors
/// A journal that cannot be read.
pub fn unfinished(output: &Path) -> Result<Option<Unfinished>, EvalError> {
    unfinished_in(Output::at(output)?.directory())
}

/// The unfinished run in a directory, if there is one.
pub(super) fn unfinished_in(directory: &Path) -> Result<Option<Unfinished>, EvalError> {
    let found = journal::peek(directory)?;
    Ok(found.map(|Lines { header, entries, .. }| Unfinished {
        settings: header.settings,
        started: header.started,
        done: journal::count(&entries),
        questions: header.total,
    }))
}

/// A directory of runs on this machine: what is in storage is copied, as far as `wanted` has its
/// names.
pub(super) fn copied<'a>(
    directory: &'a Path,
    wanted: &dyn Fn(&str) -> bool,
) -> Result<Cow<'a, Path>, EvalError> {
    if !storage::is_address(directory) {
        return Ok(directory.into());
    }
    Ok(storage::fetch_below(directory, "run of mmlu-eval", wanted)?.into())
}

/// Whether a file is one of those that a run leaves.
pub(super) fn is_of_a_run(name: &str) -> bool {
    is_record(name) || [results::QUESTIONS, results::COMPARISON].contains(&name)
}

/// How a finished run compares with the baseline that it was given; `None` where it had none.
///
/// # Errors
/// A record that is damaged or of another version.
pub fn read_comparison(directory: &Path) -> Result<Option<RunComparison>, EvalError> {
    results::read_comparison(&copied(directory, &is_of_a_run)?)
}

/// Whether a file says that a run is there, and what came of it.
fn is_record(name: &str) -> bool {
    [results::RUN, results::SUMMARY, journal::FILE_NAME].contains(&name)
}

/// The run in a directory.
///
/// # Errors
/// No run there, or one that cannot be read.
pub fn read_run(directory: &Path) -> Result<FoundRun, EvalError> {
    let run = read_run_in(&copied(directory, &is_record)?)?;
    Ok(FoundRun { directory: directory.to_path_buf(), ..run })
}

fn read_run_in(directory: &Path) -> Result<FoundRun, EvalError> {
    let finished = if results::are_in(directory) {
        let (run, summary) = results::read_records(directory)?;
        Some(Finished { run, summary })
    } else {
        None
    };
    let unfinished = unfinished_in(directory)?;
    if finished.is_none() && unfinished.is_none() {
        return Err(EvalError::Unusable(format!(
            "{}: no run of mmlu-eval is here: expected run.json and summary.json",
            directory.display()
        )));
    }
    Ok(FoundRun { directory: directory.to_path_buf(), finished, unfinished })
}

/// The runs in a directory and those below it, by path. What is no run is passed over, and a run
/// that cannot be read is told to `on_error`.
///
/// # Errors
/// A directory that cannot be read; an interruption.
pub fn find_runs(
    directory: &Path,
    on_error: &mut dyn FnMut(EvalError),
) -> Result<Vec<FoundRun>, EvalError> {
    let is_deep_record = |name: &str| {
        let (below, name) = name.rsplit_once('/').unwrap_or(("", name));
        is_record(name) && below.split('/').count() <= DEEPEST
    };
    let copy = copied(directory, &is_deep_record)?;
    let mut found = Vec::new();
    collect(&copy, DEEPEST, &mut found, on_error)?;
    for run in &mut found {
        if let Ok(below) = run.directory.strip_prefix(&copy) {
            run.directory = directory.join(below);
        }
    }
    Ok(found)
}

fn collect(
    directory: &Path,
    deeper: usize,
    found: &mut Vec<FoundRun>,
    on_error: &mut dyn FnMut(EvalError),
) -> Result<(), EvalError> {
    interrupt::check()?;
    let failed = |source| EvalError::io(directory, source);
    if results::are_in(directory) || directory.join(journal::FILE_NAME).is_file() {
        match read_run_in(directory) {
            Ok(run) => found.push(run),
            Err(error) => on_error(error),
        }
    }
    let mut below = Vec::new();
    for entry in fs::read_dir(directory).map_err(failed)? {
        let entry = entry.map_err(failed)?;
        if entry.file_type().map_err(failed)?.is_dir() {
            below.push(entry.path());
        }
    }
    below.sort_unstable();
    if deeper > 0 {
        for directory in below {
            collect(&directory, deeper - 1, found, on_error)?;
        }
    }
    Ok(())
}
