//! The files of an evaluation: `questions.parquet` and `summary.json`.

use std::fs;
use std::io;
use std::path::Path;
use std::sync::Arc;

use arrow::array::{
    ArrayRef, BooleanArray, Float64Builder, Int64Array, Int64Builder, ListBuilder, RecordBatch,
    StringArray,
};
use arrow::error::ArrowError;

use super::statistics::Outcome;
use super::subjects::Category;
use super::{EvalError, EvalSummary, Protocol, Score};
use crate::support::atomic_file::write_atomically;
use crate::support::parquet_file::write_parquet;

/// What became of one question, in full.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct QuestionResult {
    /// Row in the test split.
    pub row: usize,
    /// Subject.
    pub subject: String,
    /// Log-probability of each choice: of its letter, or the mean over its tokens.
    pub log_probabilities: Vec<f64>,
    /// The choice with the largest.
    pub prediction: usize,
    /// The right choice.
    pub answer: usize,
    /// Tokens before the choices.
    pub context_tokens: usize,
    /// Scored tokens of each choice.
    pub choice_tokens: Vec<usize>,
    /// Tokens that were cut off the left to fit the model's context.
    pub dropped_tokens: usize,
}

impl QuestionResult {
    pub fn outcome(&self) -> Outcome {
        Outcome { correct: self.prediction == self.answer, choices: self.log_probabilities.len() }
    }
}

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
        Protocol::Letter => {
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

/// Writes both files, each atomically. An earlier summary goes first and the new one comes last:
/// where there is one, the questions beside it are its own.
pub(super) fn write(
    directory: &Path,
    results: &[QuestionResult],
    summary: &EvalSummary,
) -> Result<(), EvalError> {
    let unusable = |error: String| {
        EvalError::Unusable(format!(
            "{}: the results cannot be encoded: {error}",
            directory.display()
        ))
    };
    let batch = to_batch(results).map_err(|error| unusable(error.to_string()))?;
    let mut json =
        serde_json::to_vec_pretty(summary).map_err(|error| unusable(error.to_string()))?;
    json.push(b'\n');
    let (summary, questions) =
        (directory.join("summary.json"), directory.join("questions.parquet"));
    let failed = |path: &Path, source| EvalError::Io { path: path.display().to_string(), source };
    remove_if_there(&summary).map_err(|error| failed(&summary, error))?;
    write_parquet(&questions, &batch).map_err(|error| failed(&questions, error))?;
    write_atomically(&summary, &json).map_err(|error| failed(&summary, error))
}

fn remove_if_there(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

fn to_batch(results: &[QuestionResult]) -> Result<RecordBatch, ArrowError> {
    let integers = |of: fn(&QuestionResult) -> usize| -> ArrayRef {
        Arc::new(Int64Array::from_iter_values(results.iter().map(|result| of(result) as i64)))
    };
    let mut log_probabilities = ListBuilder::new(Float64Builder::new());
    let mut choice_tokens = ListBuilder::new(Int64Builder::new());
    for result in results {
        log_probabilities.append_value(result.log_probabilities.iter().copied().map(Some));
        choice_tokens.append_value(result.choice_tokens.iter().map(|&count| Some(count as i64)));
    }
    let subjects = StringArray::from_iter_values(results.iter().map(|result| &result.subject));
    let categories: StringArray =
        results.iter().map(|result| Category::of(&result.subject).map(Category::name)).collect();
    let correct: BooleanArray =
        results.iter().map(|result| Some(result.outcome().correct)).collect();
    RecordBatch::try_from_iter_with_nullable([
        ("row", integers(|result| result.row), false),
        ("subject", Arc::new(subjects) as ArrayRef, false),
        ("category", Arc::new(categories) as ArrayRef, true),
        ("log_probabilities", Arc::new(log_probabilities.finish()) as ArrayRef, false),
        ("prediction", integers(|result| result.prediction), false),
        ("answer", integers(|result| result.answer), false),
        ("correct", Arc::new(correct) as ArrayRef, false),
        ("context_tokens", integers(|result| result.context_tokens), false),
        ("choice_tokens", Arc::new(choice_tokens.finish()) as ArrayRef, false),
        ("dropped_tokens", integers(|result| result.dropped_tokens), false),
    ])
}

#[cfg(test)]
mod tests {
    use super::*;

    fn result(subject: &str, prediction: usize, answer: usize) -> QuestionResult {
        QuestionResult {
            row: 0,
            subject: subject.to_string(),
            log_probabilities: vec![-1.0; 4],
            prediction,
            answer,
            context_tokens: 10,
            choice_tokens: vec![1; 4],
            dropped_tokens: 0,
        }
    }

    #[test]
    fn scores_are_grouped_by_category_and_subject() {
        let results = [
            result("virology", 1, 1),
            result("astronomy", 0, 1),
            result("anatomy", 2, 2),
            result("knitting", 0, 0),
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
