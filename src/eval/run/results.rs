//! The files of an evaluation: `run.json`, `questions.parquet`, `summary.json` and, where a baseline
//! was given, `comparison.json`; docs/evaluation.md describes their fields and columns.

use std::fs;
use std::io;
use std::path::Path;

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use super::asking::OtherReadings;
use super::baseline::RunComparison;
use super::question_results::{self, QuestionResult};
use super::record::RunRecord;
use super::statistics::Outcome;
use super::subjects::Category;
use super::{EvalError, EvalSummary, Protocol, SCHEMA_VERSION, Score};
use crate::storage::Output;
use crate::support::atomic_file::write_atomically;

/// Overall score, scores of the categories that occur, scores of the subjects by name.
///
/// The standard errors of groups of subjects are those that the protocol's own tool reports:
/// lm-evaluation-harness pools those of the subjects, llama.cpp takes all questions as one sample.
pub(super) fn scores(
    results: &[QuestionResult],
    protocol: Protocol,
) -> (Score, Vec<Score>, Vec<Score>) {
    let mut names: Vec<&str> = results.iter().map(|result| result.subject.as_str()).collect();
    names.sort_unstable();
    names.dedup();
    let group = |name: &str, belongs: &dyn Fn(&str) -> bool| {
        let outcomes = results.iter().filter(|result| belongs(&result.subject));
        Score::of(name, outcomes.map(QuestionResult::outcome))
    };
    let subjects: Vec<Score> =
        names.into_iter().map(|name| group(name, &|subject| subject == name)).collect();
    let together = |name: &str, belongs: &dyn Fn(&str) -> bool| match protocol {
        Protocol::Letter | Protocol::Chat | Protocol::ClozeNormalized => {
            let groups: Vec<&Score> = subjects.iter().filter(|s| belongs(&s.name)).collect();
            Score::pooled(name, groups)
        }
        Protocol::Cloze => group(name, belongs),
    };
    let overall = together("all", &|_| true);
    let categories = Category::ALL
        .into_iter()
        .map(|category| {
            together(category.name(), &|subject| Category::of(subject) == Some(category))
        })
        .filter(|score| score.questions > 0)
        .collect();
    (overall, categories, subjects)
}

/// Scores by the other measures of a protocol, under their names in lm-evaluation-harness; none
/// where the protocol has none.
pub(super) fn other_scores(results: &[QuestionResult]) -> Vec<Score> {
    let score = |name: &str, prediction: fn(&OtherReadings) -> usize| {
        let outcomes = results.iter().filter_map(|result| {
            let correct = prediction(result.others.as_ref()?) == result.answer;
            Some(Outcome { correct, ..result.outcome() })
        });
        Score::of(name, outcomes)
    };
    let scores =
        [score("acc", |others| others.by_sum), score("acc_norm", |others| others.by_characters)];
    scores.into_iter().filter(|score| score.questions > 0).collect()
}

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
            written.map_err(|source| io_error(&path(name), source))
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

/// Reads `questions.parquet` of the run that a summary is of.
///
/// # Errors
/// A file that is missing or damaged, or of another run than the summary.
pub(super) fn read_questions(
    directory: &Path,
    summary: &EvalSummary,
) -> Result<Vec<QuestionResult>, EvalError> {
    let path = directory.join(QUESTIONS);
    let file = fs::File::open(&path).map_err(|source| io_error(&path, source))?;
    let questions = question_results::read(file).map_err(|error| unusable(&path, &error))?;
    if !question_results::agree(&questions, summary) {
        let problem = format!("is of another run than {SUMMARY} beside it: score again");
        return Err(unusable(&path, &problem));
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
    let bytes = fs::read(path).map_err(|source| io_error(path, source))?;
    let damaged = |error: serde_json::Error| unusable(path, &format!("cannot be read: {error}"));
    let Versioned { schema_version } = serde_json::from_slice(&bytes).map_err(damaged)?;
    if schema_version != SCHEMA_VERSION {
        return Err(unusable(
            path,
            &format!(
                "has version {schema_version} of the records, this quantkit reads \
                 {SCHEMA_VERSION}: score again"
            ),
        ));
    }
    serde_json::from_slice(&bytes).map_err(damaged)
}

fn unusable(path: &Path, problem: &str) -> EvalError {
    EvalError::Unusable(format!("{}: {problem}", path.display()))
}

fn io_error(path: &Path, source: io::Error) -> EvalError {
    EvalError::Io { path: path.display().to_string(), source }
}

fn remove_if_there(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::eval::question_results::tests::result;

    #[test]
    fn scores_are_grouped_by_category_and_subject() {
        let results = [
            result(0, "virology", 1),
            result(1, "astronomy", 0),
            result(2, "anatomy", 1),
            result(3, "knitting", 1),
        ];
        let (overall, categories, subjects) = scores(&results, Protocol::Cloze);
        assert_eq!((overall.questions, overall.correct), (4, 3));
        let named = |scores: &[Score]| -> Vec<(String, usize, usize)> {
            scores.iter().map(|s| (s.name.clone(), s.questions, s.correct)).collect()
        };
        assert_eq!(named(&categories), [("STEM".into(), 2, 1), ("other".into(), 1, 1)]);
        assert_eq!(
            named(&subjects),
            [
                ("anatomy".into(), 1, 1),
                ("astronomy".into(), 1, 0),
                ("knitting".into(), 1, 1),
                ("virology".into(), 1, 1)
            ]
        );
        assert!((overall.standard_error - 0.25).abs() < 1e-12);
        // A question a subject has no variance within subjects.
        let (pooled, ..) = scores(&results, Protocol::Letter);
        assert_eq!((pooled.questions, pooled.correct, pooled.standard_error), (4, 3, 0.0));
    }
}
