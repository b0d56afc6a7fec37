//! Runs that lie on the disk: finding them, reading them, and joining the shards of one.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use serde::Serialize;

use super::baseline::RunComparison;
use super::line_journal::Lines;
use super::plan::Shard;
use super::record::{RunRecord, Settings, differences};
use super::results::{self, Results};
use super::session::{Totals, assemble};
use super::{EvalError, EvalSummary, journal};
use crate::storage::{self, Output};
use crate::support::interrupt;

/// How deep runs are looked for below a directory.
const DEEPEST: usize = 4;

/// A run that lies in a directory.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct FoundRun {
    /// The directory.
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
fn unfinished_in(directory: &Path) -> Result<Option<Unfinished>, EvalError> {
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
    let failed = |source| EvalError::Io { path: directory.display().to_string(), source };
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

/// Joins the shards of a run, given by their directories in any order, and writes the whole run
/// into `output`: the same files as if it had not been sharded, but for times and for the parts
/// that `run.json` lists.
///
/// # Errors
/// A shard that is missing, given twice, unfinished, no shard at all, or of other settings than the
/// first; an output that is one of them or cannot be written.
pub fn merge(output: &Path, directories: &[PathBuf]) -> Result<EvalSummary, EvalError> {
    let shards = read_shards(directories)?;
    check_complete(&shards, directories.len())?;
    if let Some(same) = directories.iter().find(|directory| is_same_run(directory, output)) {
        let problem = "is one of the shards: give the whole run a directory of its own";
        return Err(EvalError::Unusable(format!("{}: {problem}", same.display())));
    }
    let mut settings = None;
    let (mut parts, mut questions, mut unscored) = (Vec::new(), Vec::new(), Vec::new());
    let mut totals = Totals::default();
    for (_, results) in shards.into_values() {
        let Results { run, questions: own, summary } = results;
        settings.get_or_insert(Settings { shard: None, ..run.settings });
        totals.tokens_run += summary.tokens_run;
        totals.tokens_naive += summary.tokens_naive;
        totals.seconds += summary.seconds;
        parts.extend(run.parts);
        questions.extend(own);
        unscored.extend(summary.unscored);
    }
    let settings = settings.ok_or_else(|| EvalError::Unusable("no shards".to_string()))?;
    let expected = settings.questions;
    let results = assemble(settings, parts, questions, unscored, totals);
    let mut rows: Vec<usize> = results.questions.iter().map(|question| question.row).collect();
    rows.extend(results.summary.unscored.iter().map(|question| question.row));
    rows.sort_unstable();
    rows.dedup();
    if rows.len() != expected {
        return Err(EvalError::Unusable(format!(
            "the shards hold {} questions, but the run has {expected}: their files were changed, \
             score them again",
            rows.len()
        )));
    }
    if results.summary.build.executable_sha256.is_none() {
        tracing::warn!(
            "the shards were scored by different builds or kernels of quantkit: their scores may \
             differ in the last digits from those of one"
        );
    }
    let output = Output::at(output)?;
    let directory = output.directory();
    fs::create_dir_all(directory)
        .map_err(|source| EvalError::Io { path: directory.display().to_string(), source })?;
    results.write(&output, None)?;
    output.close();
    Ok(results.summary)
}

/// Whether two paths, or two addresses, are one directory.
fn is_same_run(a: &Path, b: &Path) -> bool {
    let text = |path: &Path| path.to_string_lossy().trim_end_matches('/').to_string();
    let is_same_place = a.canonicalize().is_ok_and(|a| b.canonicalize().is_ok_and(|b| a == b));
    is_same_place || (storage::is_address(a) && text(a) == text(b))
}

/// The shards by their index, each with its directory.
fn read_shards(directories: &[PathBuf]) -> Result<BTreeMap<usize, (PathBuf, Results)>, EvalError> {
    let mut shards: BTreeMap<usize, (PathBuf, Results)> = BTreeMap::new();
    for directory in directories {
        interrupt::check()?;
        let problem =
            |text: String| EvalError::Unusable(format!("{}: {text}", directory.display()));
        let copy = copied(directory, &is_of_a_run)?;
        if !results::are_in(&copy)
            && let Some(Unfinished { done, questions, .. }) = unfinished_in(&copy)?
        {
            return Err(problem(format!(
                "its run is not finished ({done} of {questions} questions): run it again"
            )));
        }
        let results = Results::read(&copy)?;
        let settings = &results.run.settings;
        let Some(Shard { index, .. }) = settings.shard else {
            return Err(problem("is a whole run, no shard of one".to_string()));
        };
        if let Some((first, of_first)) = shards.values().next() {
            check_same_run(&of_first.run, &results.run).map_err(|what| {
                problem(format!("is of another run than {}: {what}", first.display()))
            })?;
        }
        if let Some((other, _)) = shards.insert(index, (directory.clone(), results)) {
            return Err(problem(format!("is the same shard as {}", other.display())));
        }
    }
    Ok(shards)
}

/// Whether two shards are of the same run; else in what they differ.
fn check_same_run(there: &RunRecord, here: &RunRecord) -> Result<(), String> {
    if there.quantkit_version != here.quantkit_version {
        let (there, here) = (&there.quantkit_version, &here.quantkit_version);
        return Err(format!("quantkit is {there} there and {here} here"));
    }
    let count = |run: &RunRecord| run.settings.shard.map(|shard| shard.count);
    let (of, wanted) = (count(there).unwrap_or(0), count(here).unwrap_or(0));
    if of != wanted {
        return Err(format!("it is cut into {of} shards there and into {wanted} here"));
    }
    let here = Settings { shard: there.settings.shard, ..here.settings.clone() };
    match differences(&there.settings, &here).into_iter().next() {
        None => Ok(()),
        Some(difference) => Err(difference),
    }
}

fn check_complete(
    shards: &BTreeMap<usize, (PathBuf, Results)>,
    given: usize,
) -> Result<(), EvalError> {
    let count = shards
        .values()
        .find_map(|(_, results)| results.run.settings.shard)
        .map_or(0, |shard| shard.count);
    let missing: Vec<String> = (0..count)
        .filter(|index| !shards.contains_key(index))
        .map(|index| Shard { index, count }.to_string())
        .collect();
    if missing.is_empty() {
        return Ok(());
    }
    Err(EvalError::Unusable(format!(
        "{given} of {count} shards are given; missing: {}",
        missing.join(", ")
    )))
}
