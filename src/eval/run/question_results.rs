//! What became of each question: the rows of `questions.parquet`.

use std::fs::File;
use std::io;
use std::path::Path;
use std::sync::Arc;

use arrow::array::{
    Array, ArrayRef, AsArray, BooleanArray, Float64Builder, Int64Array, Int64Builder, ListBuilder,
    PrimitiveArray, RecordBatch, StringArray,
};
use arrow::datatypes::{Float64Type, Int64Type};
use arrow::error::ArrowError;
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;

use crate::eval::questions::subjects::Category;
use crate::eval::scoring::OtherReadings;
use crate::eval::statistics::Outcome;
use crate::eval::statistics::paired::Answer;
use crate::eval::statistics::reliability::Reliability;
use crate::support::contain::contain_panics;
use crate::support::parquet_file::write_parquet;

/// What became of one question, in full.
#[derive(Debug, Clone, PartialEq)]
pub struct QuestionResult {
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
    pub(super) fn outcome(&self) -> Outcome {
        Outcome { correct: self.answer().correct(), choices: self.log_probabilities.len() }
    }

    /// What a comparison needs of it.
    pub fn answer(&self) -> Answer<'_> {
        Answer {
            subject: &self.subject,
            answer: self.answer,
            prediction: self.prediction,
            log_probabilities: &self.log_probabilities,
        }
    }
}

/// The results of the questions that both runs have, pair by pair; both are sorted by row.
pub fn in_both<'a>(
    left: &'a [QuestionResult],
    right: &'a [QuestionResult],
) -> Vec<(&'a QuestionResult, &'a QuestionResult)> {
    let found = |own: &QuestionResult| right.binary_search_by_key(&own.row, |other| other.row).ok();
    left.iter().filter_map(|own| Some((own, &right[found(own)?]))).collect()
}

/// How well the model's confidence tells how often it is right; `None` for no questions.
pub fn reliability(questions: &[QuestionResult]) -> Option<Reliability> {
    let answers = questions.iter().map(QuestionResult::answer);
    Reliability::of(answers.map(|answer| (answer.confidence(), answer.correct())))
}

/// Writes `questions.parquet`.
///
/// # Errors
/// I/O errors.
pub(super) fn write(path: &Path, results: &[QuestionResult]) -> io::Result<()> {
    to_batch(results).map_err(io::Error::other).and_then(|batch| write_parquet(path, &batch))
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

/// Reads `questions.parquet`.
///
/// # Errors
/// What is wrong with a file that is damaged or that no evaluation writes.
pub(super) fn read(file: File) -> Result<Vec<QuestionResult>, String> {
    // The Parquet reader panics on some damaged files.
    contain_panics(|| read_rows(file)).unwrap_or_else(Err)
}

fn read_rows(file: File) -> Result<Vec<QuestionResult>, String> {
    let reader = ParquetRecordBatchReaderBuilder::try_new(file)
        .and_then(ParquetRecordBatchReaderBuilder::build)
        .map_err(|error| format!("is no Parquet file: {error}"))?;
    let mut questions: Vec<QuestionResult> = Vec::new();
    for batch in reader {
        let batch = batch.map_err(|error| error.to_string())?;
        append(&batch, &mut questions).ok_or("lacks the columns of an evaluation")?;
    }
    if !questions.is_sorted_by(|before, after| before.row < after.row) {
        return Err("its rows are not in order".to_string());
    }
    Ok(questions)
}

/// Appends a batch's rows; `None` where a column is missing, of another type or not all there, where
/// a choice is none of those that have a log-probability, or where `correct` contradicts the answer.
fn append(batch: &RecordBatch, questions: &mut Vec<QuestionResult>) -> Option<()> {
    let column =
        |name: &str| batch.column_by_name(name).filter(|column| column.logical_null_count() == 0);
    let integers = |name: &str| column(name)?.as_primitive_opt::<Int64Type>();
    let counts = |values: &Int64Array| -> Option<Vec<usize>> {
        let whole = values.null_count() == 0;
        values.values().iter().map(|&v| usize::try_from(v).ok().filter(|_| whole)).collect()
    };
    let rows = counts(integers("row")?)?;
    let (answers, predictions) = (integers("answer")?, integers("prediction")?);
    let correct = column("correct")?.as_boolean_opt()?;
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
        let list = log_probabilities.value(index);
        let list = list.as_primitive_opt::<Float64Type>().filter(|list| list.null_count() == 0)?;
        let choice = |column: &PrimitiveArray<Int64Type>| {
            let choice = usize::try_from(column.value(index)).ok()?;
            (choice < list.len()).then_some(choice)
        };
        let others = optional("prediction_by_sum", index)
            .zip(optional("prediction_by_characters", index))
            .map(|(by_sum, by_characters)| OtherReadings { by_sum, by_characters });
        let question = QuestionResult {
            others,
            row: rows[index],
            id: ids.is_valid(index).then(|| ids.value(index).to_string()),
            subject: subjects.value(index).to_string(),
            log_probabilities: list.values().to_vec(),
            prediction: choice(predictions)?,
            answer: choice(answers)?,
            context_tokens: context_tokens[index],
            choice_tokens: counts(choice_tokens.value(index).as_primitive_opt::<Int64Type>()?)?,
            dropped_tokens: dropped_tokens[index],
        };
        if question.outcome().correct != correct.value(index) {
            return None;
        }
        questions.push(question);
    }
    Some(())
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    /// A question of four choices, of which 1 is right.
    pub(in crate::eval::run) fn result(
        row: usize,
        subject: &str,
        prediction: usize,
    ) -> QuestionResult {
        let mut log_probabilities = vec![-2.0; 4];
        log_probabilities[prediction] = -0.5;
        QuestionResult {
            row,
            id: (row > 0).then(|| format!("q{row}")),
            subject: subject.to_string(),
            log_probabilities,
            prediction,
            others: None,
            answer: 1,
            context_tokens: 10,
            choice_tokens: vec![1; 4],
            dropped_tokens: 0,
        }
    }

    fn written(directory: &Path, results: &[QuestionResult]) -> std::path::PathBuf {
        let path = directory.join("questions.parquet");
        write(&path, results).unwrap();
        path
    }

    fn read_at(path: &Path) -> Result<Vec<QuestionResult>, String> {
        read(File::open(path).unwrap())
    }

    #[test]
    fn results_come_back_as_written() {
        let directory = tempfile::tempdir().unwrap();
        let mut results = [result(0, "anatomy", 1), result(14, "astronomy", 2)];
        results[1].others = Some(OtherReadings { by_sum: 3, by_characters: 0 });
        assert_eq!(read_at(&written(directory.path(), &results)).unwrap(), results);
    }

    #[test]
    fn only_what_both_have_is_paired() {
        let left = [0, 3, 4, 9].map(|row| result(row, "anatomy", 0));
        let right = [1, 3, 9].map(|row| result(row, "anatomy", 1));
        let rows: Vec<(usize, usize)> =
            in_both(&left, &right).iter().map(|(left, right)| (left.row, right.row)).collect();
        assert_eq!(rows, [(3, 3), (9, 9)]);
    }

    #[test]
    fn nulls_and_contradictions_are_refused() {
        let directory = tempfile::tempdir().unwrap();
        let results = [result(0, "anatomy", 1), result(14, "astronomy", 2)];
        let good = to_batch(&results).unwrap();
        let holes: ArrayRef = Arc::new(Int64Array::from(vec![Some(1), None]));
        let wrong: ArrayRef = Arc::new(BooleanArray::from(vec![true, true]));
        let beyond: ArrayRef = Arc::new(Int64Array::from(vec![1, 4]));
        let unsorted: ArrayRef = Arc::new(Int64Array::from(vec![14, 0]));
        for (name, column) in
            [("answer", holes), ("correct", wrong), ("prediction", beyond), ("row", unsorted)]
        {
            let columns = good.schema().fields().clone();
            let columns = columns.iter().zip(good.columns()).map(|(field, old)| {
                let new = if field.name() == name { &column } else { old };
                (field.name().clone(), new.clone())
            });
            let path = directory.path().join("questions.parquet");
            write_parquet(&path, &RecordBatch::try_from_iter(columns).unwrap()).unwrap();
            assert!(read_at(&path).is_err(), "{name}");
        }
    }

    #[test]
    fn a_file_with_any_byte_damaged_never_panics() {
        let directory = tempfile::tempdir().unwrap();
        let path = written(directory.path(), &[result(0, "anatomy", 1), result(1, "law", 0)]);
        let good = std::fs::read(&path).unwrap();
        for index in 0..good.len() {
            let mut bad = good.clone();
            bad[index] ^= 0xFF;
            std::fs::write(&path, &bad).unwrap();
            // Some bytes do not matter, and some only change a value.
            let _ = read_at(&path);
        }
        std::fs::write(&path, b"PAR1 but not really").unwrap();
        assert!(read_at(&path).unwrap_err().contains("no Parquet file"));
    }
}
