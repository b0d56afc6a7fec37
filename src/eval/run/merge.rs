//! Joining the shards of a run.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use super::assemble::{Totals, assemble};
use super::earlier::check_replaceable;
use super::found::{Unfinished, copied, is_of_a_run, unfinished_in};
use super::plan::Shard;
use super::record::{RunRecord, Settings, differences};
use super::results::{self, Results};
use super::summary::EvalSummary;
use crate::eval::EvalError;
use crate::storage::{self, Output};
use crate::support::interrupt;

/// Joins the shards of a run, given by their directories in any order, and writes the whole run
/// into `output`: the same files as if it had not been sharded, but for times and for the parts
/// that `run.json` lists. A finished run of other settings there is replaced only with `overwrite`.
///
/// # Errors
/// A shard that is missing, given twice, unfinished, no shard at all, or of other settings than the
/// first; an output that is one of them or cannot be written.
pub fn merge(
    output: &Path,
    directories: &[PathBuf],
    overwrite: bool,
) -> Result<EvalSummary, EvalError> {
    let shards = read_shards(directories)?;
    check_complete(&shards, directories.len())?;
    if let Some(same) = directories.iter().find(|directory| is_same_run(directory, output)) {
        let problem = "is one of the shards: give the whole run a directory of its own";
        return Err(EvalError::unusable(same, problem));
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
    if !overwrite {
        check_replaceable(output, &settings)?;
    }
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
    fs::create_dir_all(directory).map_err(|source| EvalError::io(directory, source))?;
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
        let problem = |text: String| EvalError::unusable(directory, text);
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
