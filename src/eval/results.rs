//! The files of an evaluation: `run.json`, `questions.parquet` and `summary.json`, whose fields and
//! columns docs/evaluation.md describes.

use std::fs;
use std::io;
use std::path::Path;
use std::sync::Arc;

use arrow::array::{
    Array, ArrayRef, AsArray, BooleanArray, Float64Builder, Int64Array, Int64Builder, ListBuilder,
    RecordBatch, StringArray,
};
use arrow::datatypes::{Float64Type, Int64Type};
use arrow::error::ArrowError;
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use super::asking::OtherReadings;
use super::record::RunRecord;
use super::statistics::Outcome;
use super::subjects::Category;
use super::{EvalError, EvalSummary, Protocol, SCHEMA_VERSION, Score};
use crate::storage::Output;
use crate::support::atomic_file::write_atomically;
use crate::support::contain::contain_panics;
use crate::support::parquet_file::write_parquet;

/// What became of one question, in full.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct QuestionResult {
    /// Row in the test split.
    pub row: usize,
    /// The set's own name for the question, where it has one.
    pub id: Option<String>,
    /// Subject.
    pub subject: String,
    /// Log-probability of each choice: of its letter, or the mean over its tokens.
    pub log_probabilities: Vec<f64>,
    /// The choice with the largest.
    pub prediction: usize,
    /// What other measures of the protocol predict.
    pub others: Option<OtherReadings>,
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

impl Results {
    /// Writes the three files, each atomically, and sends them to where they go. An earlier summary
    /// goes first and the new one comes last: where there is one, what lies beside it is its own.
    pub fn write(&self, output: &Output) -> Result<(), EvalError> {
        let directory = output.directory();
        let questions = to_batch(&self.questions).map_err(|error| {
            unusable(directory, &format!("the results cannot be encoded: {error}"))
        })?;
        let path = |name: &str| directory.join(name);
        let put = |name: &str, written: io::Result<()>| {
            written.map_err(|source| io_error(&path(name), source))
        };
        put(SUMMARY, remove_if_there(&path(SUMMARY)))?;
        put(RUN, write_json(&path(RUN), &self.run))?;
        put(QUESTIONS, write_parquet(&path(QUESTIONS), &questions))?;
        put(SUMMARY, write_json(&path(SUMMARY), &self.summary))?;
        Ok(output.publish(&[RUN, QUESTIONS, SUMMARY])?)
    }

    /// Reads a finished run.
    ///
    /// # Errors
    /// A file that is missing, damaged or of another version, and files that are not of one run.
    pub fn read(directory: &Path) -> Result<Self, EvalError> {
        let (run, summary) = read_records(directory)?;
        let path = directory.join(QUESTIONS);
        let file = fs::File::open(&path).map_err(|source| io_error(&path, source))?;
        // The Parquet reader panics on some damaged files.
        let questions = contain_panics(|| read_questions(file))
            .unwrap_or_else(Err)
            .map_err(|error| unusable(&path, &error))?;
        let correct = questions.iter().filter(|question| question.outcome().correct).count();
        if (questions.len(), correct) != (summary.overall.questions, summary.overall.correct) {
            let problem = format!("is of another run than {SUMMARY} beside it: score again");
            return Err(unusable(&path, &problem));
        }
        Ok(Self { run, questions, summary })
    }
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

fn to_batch(results: &[QuestionResult]) -> Result<RecordBatch, ArrowError> {
    let integers = |of: fn(&QuestionResult) -> usize| -> ArrayRef {
        Arc::new(Int64Array::from_iter_values(results.iter().map(|result| of(result) as i64)))
    };
    let others = |of: fn(&OtherReadings) -> usize| -> ArrayRef {
        let values = results.iter().map(|result| Some(of(result.others.as_ref()?) as i64));
        Arc::new(values.collect::<Int64Array>())
    };
    let mut log_probabilities = ListBuilder::new(Float64Builder::new());
    let mut choice_tokens = ListBuilder::new(Int64Builder::new());
    for result in results {
        log_probabilities.append_value(result.log_probabilities.iter().copied().map(Some));
        choice_tokens.append_value(result.choice_tokens.iter().map(|&count| Some(count as i64)));
    }
    let ids: StringArray = results.iter().map(|result| result.id.as_deref()).collect();
    let subjects = StringArray::from_iter_values(results.iter().map(|result| &result.subject));
    let categories: StringArray =
        results.iter().map(|result| Category::of(&result.subject).map(Category::name)).collect();
    let correct: BooleanArray =
        results.iter().map(|result| Some(result.outcome().correct)).collect();
    RecordBatch::try_from_iter_with_nullable([
        ("row", integers(|result| result.row), false),
        ("id", Arc::new(ids) as ArrayRef, true),
        ("subject", Arc::new(subjects) as ArrayRef, false),
        ("category", Arc::new(categories) as ArrayRef, true),
        ("log_probabilities", Arc::new(log_probabilities.finish()) as ArrayRef, false),
        ("prediction", integers(|result| result.prediction), false),
        ("prediction_by_sum", others(|others| others.by_sum), true),
        ("prediction_by_characters", others(|others| others.by_characters), true),
        ("answer", integers(|result| result.answer), false),
        ("correct", Arc::new(correct) as ArrayRef, false),
        ("context_tokens", integers(|result| result.context_tokens), false),
        ("choice_tokens", Arc::new(choice_tokens.finish()) as ArrayRef, false),
        ("dropped_tokens", integers(|result| result.dropped_tokens), false),
    ])
}

fn read_questions(file: fs::File) -> Result<Vec<QuestionResult>, String> {
    let reader = ParquetRecordBatchReaderBuilder::try_new(file)
        .and_then(ParquetRecordBatchReaderBuilder::build)
        .map_err(|error| format!("is no Parquet file: {error}"))?;
    let mut questions = Vec::new();
    for batch in reader {
        let batch = batch.map_err(|error| error.to_string())?;
        append(&batch, &mut questions).ok_or("lacks the columns of an evaluation")?;
    }
    Ok(questions)
}

/// Appends a batch's rows; `None` where a column is missing, of another type or not all there.
fn append(batch: &RecordBatch, questions: &mut Vec<QuestionResult>) -> Option<()> {
    let column =
        |name: &str| batch.column_by_name(name).filter(|column| column.logical_null_count() == 0);
    let integers = |name: &str| column(name)?.as_primitive_opt::<Int64Type>();
    let counts = |values: &Int64Array| -> Option<Vec<usize>> {
        values.values().iter().map(|&value| usize::try_from(value).ok()).collect()
    };
    let (rows, answers) = (counts(integers("row")?)?, counts(integers("answer")?)?);
    let predictions = counts(integers("prediction")?)?;
    let context_tokens = counts(integers("context_tokens")?)?;
    let dropped_tokens = counts(integers("dropped_tokens")?)?;
    let ids = batch.column_by_name("id")?.as_string_opt::<i32>()?;
    let subjects = column("subject")?.as_string_opt::<i32>()?;
    let log_probabilities = column("log_probabilities")?.as_list_opt::<i32>()?;
    let choice_tokens = column("choice_tokens")?.as_list_opt::<i32>()?;
    // Null where the protocol has no other measures.
    let optional = |name: &str, index: usize| -> Option<usize> {
        let column = batch.column_by_name(name)?.as_primitive_opt::<Int64Type>()?;
        usize::try_from(column.is_valid(index).then(|| column.value(index))?).ok()
    };
    for index in 0..batch.num_rows() {
        let others = optional("prediction_by_sum", index)
            .zip(optional("prediction_by_characters", index))
            .map(|(by_sum, by_characters)| OtherReadings { by_sum, by_characters });
        questions.push(QuestionResult {
            others,
            row: rows[index],
            id: ids.is_valid(index).then(|| ids.value(index).to_string()),
            subject: subjects.value(index).to_string(),
            log_probabilities: log_probabilities
                .value(index)
                .as_primitive_opt::<Float64Type>()?
                .values()
                .to_vec(),
            prediction: predictions[index],
            answer: answers[index],
            context_tokens: context_tokens[index],
            choice_tokens: counts(choice_tokens.value(index).as_primitive_opt::<Int64Type>()?)?,
            dropped_tokens: dropped_tokens[index],
        });
    }
    Some(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn result(subject: &str, prediction: usize, answer: usize) -> QuestionResult {
        QuestionResult {
            row: 0,
            id: None,
            subject: subject.to_string(),
            log_probabilities: vec![-1.0; 4],
            prediction,
            others: None,
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
