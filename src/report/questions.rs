//! The results of several evaluations side by side: `questions.parquet` of a comparison.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use arrow::array::{
    ArrayRef, BooleanArray, Float64Builder, Int64Array, ListBuilder, RecordBatch, StringArray,
};

use super::ReportError;
use crate::eval::run::question_results::QuestionResult;
use crate::support::parquet_file::write_parquet;

/// Writes one Parquet file with a row a question: `row`, `subject`, `answer`, and for each variant
/// `<label>.prediction`, `<label>.correct` and `<label>.log_probabilities`, which are null where the
/// variant could not be asked.
///
/// # Errors
/// I/O errors.
pub(super) fn write_joined(
    path: &Path,
    variants: &[(&str, &[QuestionResult])],
) -> Result<(), ReportError> {
    let all = variants.iter().flat_map(|(_, results)| *results);
    let all: BTreeMap<usize, &QuestionResult> = all.map(|result| (result.row, result)).collect();
    let subjects = StringArray::from_iter_values(all.values().map(|result| &result.subject));
    let mut columns: Vec<(String, ArrayRef)> = vec![
        ("row".to_string(), integers(all.values().map(|result| Some(result.row)))),
        ("subject".to_string(), Arc::new(subjects)),
        ("answer".to_string(), integers(all.values().map(|result| Some(result.answer)))),
    ];
    for (label, results) in variants {
        let by_row: BTreeMap<usize, &QuestionResult> =
            results.iter().map(|result| (result.row, result)).collect();
        let own: Vec<Option<&QuestionResult>> =
            all.keys().map(|row| by_row.get(row).copied()).collect();
        let own = || own.iter().copied();
        let correct: BooleanArray = own().map(|result| Some(result?.answer().correct())).collect();
        let mut lists = ListBuilder::new(Float64Builder::new());
        for result in own() {
            lists.append_option(result.map(|r| r.log_probabilities.iter().copied().map(Some)));
        }
        let predictions = integers(own().map(|result| Some(result?.prediction)));
        columns.push((format!("{label}.prediction"), predictions));
        columns.push((format!("{label}.correct"), Arc::new(correct)));
        columns.push((format!("{label}.log_probabilities"), Arc::new(lists.finish())));
    }
    RecordBatch::try_from_iter(columns)
        .map_err(std::io::Error::other)
        .and_then(|batch| write_parquet(path, &batch))
        .map_err(|error| ReportError::io(path, error))
}

fn integers(values: impl Iterator<Item = Option<usize>>) -> ArrayRef {
    Arc::new(values.map(|value| value.map(|value| value as i64)).collect::<Int64Array>())
}

#[cfg(test)]
mod tests {
    use std::fs::File;

    use arrow::array::{Array, AsArray};
    use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;

    use super::*;
    use crate::report::fixtures::result;

    #[test]
    fn joined_results_hold_every_variant_under_its_label() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("questions.parquet");
        let f16 = [result(0, 1), result(14, 2)];
        let q4 = [result(0, 1), result(14, 1), result(28, 0)];
        write_joined(&path, &[("m.F16", &f16), ("m.Q4_0", &q4)]).unwrap();

        let file = File::open(&path).unwrap();
        let mut reader = ParquetRecordBatchReaderBuilder::try_new(file).unwrap().build().unwrap();
        let batch = reader.next().unwrap().unwrap();
        assert_eq!((batch.num_rows(), batch.num_columns()), (3, 9));
        let correct = |name: &str| -> Vec<Option<bool>> {
            batch.column_by_name(name).unwrap().as_boolean().iter().collect()
        };
        assert_eq!(correct("m.Q4_0.correct"), [Some(true), Some(true), Some(false)]);
        assert_eq!(correct("m.F16.correct"), [Some(true), Some(false), None]);
        let lists = batch.column_by_name("m.F16.log_probabilities").unwrap().as_list::<i32>();
        assert!(lists.is_valid(1) && lists.is_null(2), "what was not asked has no figures");
    }
}
