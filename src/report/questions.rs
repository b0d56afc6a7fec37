//! Per-question results: reading those of one evaluation, and joining those of several.

use std::collections::BTreeMap;
use std::fs::File;
use std::path::Path;
use std::sync::Arc;

use arrow::array::{
    Array, ArrayRef, AsArray, BooleanArray, Float64Builder, Int64Array, ListBuilder,
    PrimitiveArray, RecordBatch, StringArray,
};
use arrow::datatypes::{Float64Type, Int64Type};
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;

use super::ReportError;
use crate::eval::EvalSummary;
use crate::eval::paired::Answer;
use crate::support::contain::contain_panics;
use crate::support::parquet_file::write_parquet;

/// One question's result, as `questions.parquet` of an evaluation has it.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct QuestionResult {
    /// Row in the set's test split.
    pub row: usize,
    /// Subject.
    pub subject: String,
    /// The right choice.
    pub answer: usize,
    /// The choice that was made.
    pub prediction: usize,
    /// Log-probability of each choice.
    pub log_probabilities: Vec<f64>,
}

impl QuestionResult {
    /// What the comparison needs of it.
    pub fn answer(&self) -> Answer<'_> {
        Answer {
            subject: &self.subject,
            answer: self.answer,
            prediction: self.prediction,
            log_probabilities: &self.log_probabilities,
        }
    }
}

/// Reads an evaluation's `questions.parquet`.
///
/// # Errors
/// A file that is missing, damaged or lacks a column.
pub(super) fn read(path: &Path) -> Result<Vec<QuestionResult>, ReportError> {
    let damaged = |problem: String| {
        ReportError::Unusable(format!(
            "{}: {problem}; delete the file to have it made again",
            path.display()
        ))
    };
    let file = File::open(path).map_err(|error| ReportError::io(path, error))?;
    // The Parquet reader panics on some damaged files.
    contain_panics(|| read_rows(file)).unwrap_or_else(Err).map_err(damaged)
}

fn read_rows(file: File) -> Result<Vec<QuestionResult>, String> {
    let reader = ParquetRecordBatchReaderBuilder::try_new(file)
        .and_then(ParquetRecordBatchReaderBuilder::build)
        .map_err(|error| format!("is no Parquet file: {error}"))?;
    let mut results = Vec::new();
    for batch in reader {
        let batch = batch.map_err(|error| error.to_string())?;
        append(&batch, &mut results).ok_or("lacks the columns of an evaluation")?;
    }
    Ok(results)
}

/// Appends a batch's rows; `None` where a column is missing, of another type or not all there, where
/// a choice is none of those that have a log-probability, or where `correct` contradicts the answer.
fn append(batch: &RecordBatch, results: &mut Vec<QuestionResult>) -> Option<()> {
    let column =
        |name: &str| batch.column_by_name(name).filter(|column| column.logical_null_count() == 0);
    let integers = |name: &str| column(name)?.as_primitive_opt::<Int64Type>();
    let (rows, answers) = (integers("row")?, integers("answer")?);
    let predictions = integers("prediction")?;
    let correct = column("correct")?.as_boolean_opt()?;
    let subjects = column("subject")?.as_string_opt::<i32>()?;
    let lists = column("log_probabilities")?.as_list_opt::<i32>()?;
    for index in 0..batch.num_rows() {
        let list = lists.value(index);
        let log_probabilities =
            list.as_primitive_opt::<Float64Type>().filter(|list| list.null_count() == 0)?;
        let choice = |column: &PrimitiveArray<Int64Type>| {
            let choice = usize::try_from(column.value(index)).ok()?;
            (choice < log_probabilities.len()).then_some(choice)
        };
        let result = QuestionResult {
            row: usize::try_from(rows.value(index)).ok()?,
            subject: subjects.value(index).to_string(),
            answer: choice(answers)?,
            prediction: choice(predictions)?,
            log_probabilities: log_probabilities.values().to_vec(),
        };
        if result.answer().correct() != correct.value(index) {
            return None;
        }
        results.push(result);
    }
    Some(())
}

/// Whether a summary can be that of these results: as many questions and right answers, over all
/// and in each subject.
pub(super) fn agree(results: &[QuestionResult], summary: &EvalSummary) -> bool {
    let mut found: BTreeMap<&str, (usize, usize)> = BTreeMap::new();
    for result in results {
        let (questions, correct) = found.entry(&result.subject).or_default();
        *questions += 1;
        *correct += usize::from(result.answer().correct());
    }
    let told: BTreeMap<&str, (usize, usize)> = summary
        .subject_scores
        .iter()
        .map(|score| (score.name.as_str(), (score.questions, score.correct)))
        .collect();
    let correct: usize = found.values().map(|(_, correct)| correct).sum();
    (summary.overall.questions, summary.overall.correct) == (results.len(), correct)
        && found == told
}

/// Whether both hold results of the same questions in the same order.
pub(super) fn same_questions(left: &[QuestionResult], right: &[QuestionResult]) -> bool {
    let key = |result: &QuestionResult| (result.row, result.answer);
    left.iter().map(key).eq(right.iter().map(key))
}

/// Writes one Parquet file with a row a question: `row`, `subject`, `answer`, and for each variant
/// `<label>.prediction`, `<label>.correct` and `<label>.log_probabilities`.
///
/// # Errors
/// I/O errors.
pub(super) fn write_joined(
    path: &Path,
    variants: &[(&str, &[QuestionResult])],
) -> Result<(), ReportError> {
    let Some((_, first)) = variants.first() else { return Ok(()) };
    let subjects = StringArray::from_iter_values(first.iter().map(|result| &result.subject));
    let mut columns: Vec<(String, ArrayRef)> = vec![
        ("row".to_string(), integers(first, |result| result.row)),
        ("subject".to_string(), Arc::new(subjects)),
        ("answer".to_string(), integers(first, |result| result.answer)),
    ];
    for (label, results) in variants {
        let correct: BooleanArray =
            results.iter().map(|result| Some(result.answer().correct())).collect();
        let mut lists = ListBuilder::new(Float64Builder::new());
        for result in *results {
            lists.append_value(result.log_probabilities.iter().copied().map(Some));
        }
        columns.push((format!("{label}.prediction"), integers(results, |r| r.prediction)));
        columns.push((format!("{label}.correct"), Arc::new(correct)));
        columns.push((format!("{label}.log_probabilities"), Arc::new(lists.finish())));
    }
    RecordBatch::try_from_iter(columns)
        .map_err(std::io::Error::other)
        .and_then(|batch| write_parquet(path, &batch))
        .map_err(|error| ReportError::io(path, error))
}

fn integers(results: &[QuestionResult], of: fn(&QuestionResult) -> usize) -> ArrayRef {
    Arc::new(Int64Array::from_iter_values(results.iter().map(|result| of(result) as i64)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn result(row: usize, prediction: usize) -> QuestionResult {
        QuestionResult {
            row,
            subject: "astronomy".to_string(),
            answer: 1,
            prediction,
            log_probabilities: vec![-1.5, -0.5, -2.0, -3.0],
        }
    }

    #[test]
    fn joined_results_hold_every_variant_under_its_label() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("questions.parquet");
        let (f16, q4) = ([result(0, 1), result(14, 2)], [result(0, 1), result(14, 1)]);
        assert!(same_questions(&f16, &q4));
        assert!(!same_questions(&f16, &q4[..1]));
        write_joined(&path, &[("m.F16", &f16), ("m.Q4_0", &q4)]).unwrap();

        let file = File::open(&path).unwrap();
        let mut reader = ParquetRecordBatchReaderBuilder::try_new(file).unwrap().build().unwrap();
        let batch = reader.next().unwrap().unwrap();
        assert_eq!((batch.num_rows(), batch.num_columns()), (2, 9));
        let correct = batch.column_by_name("m.Q4_0.correct").unwrap().as_boolean();
        assert!(correct.value(0) && correct.value(1));
        let correct = batch.column_by_name("m.F16.correct").unwrap().as_boolean();
        assert!(correct.value(0) && !correct.value(1));
    }

    /// Columns as an evaluation writes them, of two questions: one right, one wrong.
    fn columns() -> Vec<(&'static str, ArrayRef)> {
        let mut lists = ListBuilder::new(Float64Builder::new());
        for _ in 0..2 {
            lists.append_value([-1.5, -0.5].map(Some));
        }
        vec![
            ("row", Arc::new(Int64Array::from(vec![0, 14]))),
            ("subject", Arc::new(StringArray::from(vec!["anatomy", "astronomy"]))),
            ("answer", Arc::new(Int64Array::from(vec![1, 0]))),
            ("prediction", Arc::new(Int64Array::from(vec![1, 1]))),
            ("correct", Arc::new(BooleanArray::from(vec![true, false]))),
            ("log_probabilities", Arc::new(lists.finish())),
        ]
    }

    #[test]
    fn results_are_those_of_their_summary_only() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("questions.parquet");
        write_parquet(&path, &RecordBatch::try_from_iter(columns()).unwrap()).unwrap();
        let results = read(&path).unwrap();
        assert_eq!(results.len(), 2);

        let mut summary = crate::report::fixtures::evaluation("abc", 1, 2);
        let score = |name: &str, correct| crate::eval::Score {
            name: name.to_string(),
            questions: 1,
            correct,
            ..summary.overall.clone()
        };
        let right = vec![score("anatomy", 1), score("astronomy", 0)];
        let swapped = vec![score("anatomy", 0), score("astronomy", 1)];
        summary.subject_scores = right;
        assert!(agree(&results, &summary));
        assert!(!agree(&results[..1], &summary), "a question less");
        summary.subject_scores = swapped;
        assert!(!agree(&results, &summary), "other subjects were right");
    }

    #[test]
    fn nulls_and_contradictions_are_refused() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("questions.parquet");
        let holes: ArrayRef = Arc::new(Int64Array::from(vec![Some(1), None]));
        let wrong: ArrayRef = Arc::new(BooleanArray::from(vec![true, true]));
        for (index, column) in [(2, holes), (4, wrong)] {
            let mut columns = columns();
            columns[index].1 = column;
            write_parquet(&path, &RecordBatch::try_from_iter(columns).unwrap()).unwrap();
            assert!(read(&path).unwrap_err().to_string().contains("delete the file"));
        }
    }

    #[test]
    fn a_file_with_any_byte_damaged_never_panics() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("questions.parquet");
        write_parquet(&path, &RecordBatch::try_from_iter(columns()).unwrap()).unwrap();
        let good = std::fs::read(&path).unwrap();
        for index in 0..good.len() {
            let mut bad = good.clone();
            bad[index] ^= 0xFF;
            std::fs::write(&path, &bad).unwrap();
            // Some bytes do not matter, and some only change a value.
            let _ = read(&path);
        }
    }

    #[test]
    fn a_file_without_the_columns_is_refused_by_name() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("questions.parquet");
        write_joined(&path, &[("a", &[result(0, 1)])]).unwrap();
        let error = read(&path).unwrap_err().to_string();
        assert!(error.contains("questions.parquet") && error.contains("columns"), "{error}");
        std::fs::write(&path, b"PAR1 but not really").unwrap();
        assert!(read(&path).unwrap_err().to_string().contains("no Parquet file"));
    }
}
