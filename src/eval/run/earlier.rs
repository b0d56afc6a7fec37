//! A finished run that lies where the results of another would go.

use std::borrow::Cow;
use std::path::Path;

use super::baseline::Baseline;
use super::comparison::RunComparison;
use super::found::{copied, is_of_a_run};
use super::journal;
use super::options::EvalOptions;
use super::record::{RunRecord, Settings, differences};
use super::results::{self, Results};
use super::session::{Evaluated, against};
use super::summary::EvalSummary;
use crate::eval::EvalError;
use crate::eval::line_journal::{Earlier, OTHER_BUILD};
use crate::storage::{Output, StorageError};
use crate::support::finished::refusal;

/// The finished run in the output, if it is the one that is asked for; it is compared with the
/// baseline, if there is one. `None` where nothing is in the way: no run, one that may be replaced,
/// or one that is being replaced by this very run, whose journal is there.
///
/// # Errors
/// A finished run of other settings or of another build, or one that cannot be read.
pub(super) fn finished(
    options: &EvalOptions,
    output: &Output,
    settings: &Settings,
    baseline: Option<&Baseline>,
) -> Result<Option<Evaluated>, EvalError> {
    if options.earlier != Earlier::Resume || journal::peek(output.directory())?.is_some() {
        return Ok(None);
    }
    let place = &options.output;
    let Some((directory, run, summary)) = same_run(place, settings)? else { return Ok(None) };
    let questions = results::read_questions(&directory, &summary);
    let questions = questions.map_err(|error| unreadable(place, &error))?;
    let results = Results { run, questions, summary };
    if !results.summary.build.is_current() {
        return Err(EvalError::Unusable(refusal(place, OTHER_BUILD)));
    }
    let comparison = match baseline {
        None => results::read_comparison(&directory)?,
        Some(baseline) => compare(baseline, options, &results, output)?,
    };
    Ok(Some(Evaluated { summary: results.summary, comparison, reused: true }))
}

/// Finds out whether a run of these settings may be written to a place: it may not where a finished
/// run of others is.
///
/// # Errors
/// There is one, or one that cannot be read.
pub(super) fn check_replaceable(place: &Path, settings: &Settings) -> Result<(), EvalError> {
    same_run(place, settings).map(drop)
}

/// The finished run of a place, if there is one: the directory here that holds it, and its records.
/// One of other settings is an error.
fn same_run<'a>(
    place: &'a Path,
    wanted: &Settings,
) -> Result<Option<(Cow<'a, Path>, RunRecord, EvalSummary)>, EvalError> {
    let Some(directory) = finished_directory(place)? else { return Ok(None) };
    let records = results::read_records(&directory);
    let (run, summary) = records.map_err(|error| unreadable(place, &error))?;
    match differences(&run.settings, wanted).first() {
        None => Ok(Some((directory, run, summary))),
        Some(difference) => Err(EvalError::Unusable(refusal(place, difference))),
    }
}

fn unreadable(place: &Path, error: &EvalError) -> EvalError {
    EvalError::Unusable(refusal(place, &format!("it cannot be read ({error})")))
}

/// The directory here that holds the finished run of a place, if there is one.
fn finished_directory(place: &Path) -> Result<Option<Cow<'_, Path>>, EvalError> {
    match copied(place, &is_of_a_run) {
        Ok(directory) => Ok(results::are_in(&directory).then_some(directory)),
        Err(EvalError::Storage(StorageError::NothingBelow { .. })) => Ok(None),
        Err(error) => Err(error),
    }
}

/// Compares an earlier run with a baseline that it may not have had, and keeps the comparison.
fn compare(
    baseline: &Baseline,
    options: &EvalOptions,
    results: &Results,
    output: &Output,
) -> Result<Option<RunComparison>, EvalError> {
    let comparison = against(baseline, options, results);
    if comparison.is_some() {
        results.write(output, comparison.as_ref())?;
    }
    Ok(comparison)
}
