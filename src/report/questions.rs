//! Per-question results: reading those of one evaluation, and joining those of several.

use std::fs::File;
use std::path::Path;
use std::sync::Arc;

use arrow::array::{
    ArrayRef, AsArray, BooleanArray, Float64Builder, Int64Array, ListBuilder, RecordBatch,
    StringArray,
};
use arrow::datatypes::{Float64Type, Int64Type};
use parquet::arrow::ArrowWriter;
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;

use super::ReportError;
use super::paired::Answer;
use crate::support::atomic_file::write_atomically;

/// One question's result, as `questions.parquet` of an evaluation has it.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct QuestionResult {
    /// Row in the set's test split.
    pub row: i64,
    /// Subject.
    pub subject: String,
    /// The right choice.
    pub answer: i64,
    /// The choice that was made.
    pub prediction: i64,
    /// Log-probability of each choice.
    pub log_probabilities: Vec<f64>,
}

impl QuestionResult {
    /// What the comparison needs of it.
    pub fn answer(&self) -> Answer {
        Answer { prediction: self.prediction, correct: self.prediction == self.answer }
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
    let reader = ParquetRecordBatchReaderBuilder::try_new(file)
        .and_then(ParquetRecordBatchReaderBuilder::build)
        .map_err(|error| damaged(format!("is no Parquet file: {error}")))?;
    let mut results = Vec::new();
    for batch in reader {
        let batch = batch.map_err(|error| damaged(error.to_string()))?;
        append(&batch, &mut results)
            .ok_or_else(|| damaged("lacks the columns of an evaluation".to_string()))?;
    }
    Ok(results)
}

/// Appends a batch's rows; `None` where a column is missing or of another type.
fn append(batch: &RecordBatch, results: &mut Vec<QuestionResult>) -> Option<()> {
    let integers = |name: &str| batch.column_by_name(name)?.as_primitive_opt::<Int64Type>();
    let (rows, answers) = (integers("row")?, integers("answer")?);
    let predictions = integers("prediction")?;
    let subjects = batch.column_by_name("subject")?.as_string_opt::<i32>()?;
    let lists = batch.column_by_name("log_probabilities")?.as_list_opt::<i32>()?;
    for index in 0..batch.num_rows() {
        let list = lists.value(index);
        results.push(QuestionResult {
            row: rows.value(index),
            subject: subjects.value(index).to_string(),
            answer: answers.value(index),
            prediction: predictions.value(index),
            log_probabilities: list.as_primitive_opt::<Float64Type>()?.values().to_vec(),
        });
    }
    Some(())
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
            results.iter().map(|result| Some(result.answer().correct)).collect();
        let mut lists = ListBuilder::new(Float64Builder::new());
        for result in *results {
            lists.append_value(result.log_probabilities.iter().copied().map(Some));
        }
        columns.push((format!("{label}.prediction"), integers(results, |r| r.prediction)));
        columns.push((format!("{label}.correct"), Arc::new(correct)));
        columns.push((format!("{label}.log_probabilities"), Arc::new(lists.finish())));
    }
    let failed = |error: String| ReportError::io(path, std::io::Error::other(error));
    let batch = RecordBatch::try_from_iter(columns).map_err(|error| failed(error.to_string()))?;
    let mut bytes = Vec::new();
    let mut writer = ArrowWriter::try_new(&mut bytes, batch.schema(), None)
        .map_err(|error| failed(error.to_string()))?;
    writer.write(&batch).map_err(|error| failed(error.to_string()))?;
    writer.close().map_err(|error| failed(error.to_string()))?;
    write_atomically(path, &bytes).map_err(|error| ReportError::io(path, error))
}

fn integers(results: &[QuestionResult], of: fn(&QuestionResult) -> i64) -> ArrayRef {
    Arc::new(Int64Array::from_iter_values(results.iter().map(of)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn result(row: i64, prediction: i64) -> QuestionResult {
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
