//! Question sets as Parquet.

mod pages;

use std::fmt::Display;
use std::path::Path;
use std::sync::Arc;

use arrow::array::{
    Array, ArrayRef, Int64Array, ListBuilder, RecordBatch, StringArray, StringBuilder,
};
use arrow::datatypes::{DataType, Field, Schema};
use bytes::Bytes;
use parquet::arrow::ProjectionMask;
use parquet::arrow::arrow_reader::{
    ArrowReaderMetadata, ArrowReaderOptions, ParquetRecordBatchReaderBuilder,
};

use super::collected::{Collected, read_bytes};
use super::layouts::{Columns, Layout, text_as_views};
use crate::eval::EvalError;
use crate::eval::questions::question::{Form, Question};
use crate::support::contain::contain_panics;
use crate::support::parquet_file::write_parquet;

/// Rows decoded at a time.
const BATCH_ROWS: usize = 1024;

pub(super) fn read(path: &Path, questions: &mut Collected) -> Result<(), EvalError> {
    // The Parquet reader panics on some damaged files.
    contain_panics(|| read_file(path, questions))
        .unwrap_or_else(|panic| Err(not_parquet(path, panic)))
}

/// Whose columns a file has.
pub(in crate::eval::questions) fn layout(path: &Path) -> Result<Layout, EvalError> {
    contain_panics(|| {
        let (_, metadata) = open(path)?;
        Layout::detect(metadata.schema()).map_err(|error| EvalError::unusable(path, error))
    })
    .unwrap_or_else(|panic| Err(not_parquet(path, panic)))
}

fn open(path: &Path) -> Result<(Bytes, ArrowReaderMetadata), EvalError> {
    let bytes = Bytes::from(read_bytes(path)?);
    let metadata = ArrowReaderMetadata::load(&bytes, ArrowReaderOptions::new())
        .map_err(|error| not_parquet(path, error))?;
    Ok((bytes, metadata))
}

fn read_file(path: &Path, questions: &mut Collected) -> Result<(), EvalError> {
    let (bytes, metadata) = open(path)?;
    let unusable = |error: String| EvalError::unusable(path, error);
    let layout = Layout::detect(metadata.schema()).map_err(unusable)?;
    let wanted = layout.wanted_columns(metadata.schema());
    if let Some(unread) = layout.unread_columns(metadata.schema()).map_err(unusable)? {
        tracing::warn!("{}: {unread}", path.display());
    }
    pages::check(metadata.metadata(), &bytes, &wanted).map_err(unusable)?;
    let mask = ProjectionMask::columns(metadata.parquet_schema(), wanted);
    let reader = ArrowReaderMetadata::try_new(
        metadata.metadata().clone(),
        ArrowReaderOptions::new().with_schema(text_as_views(metadata.schema())),
    )
    .and_then(|metadata| {
        ParquetRecordBatchReaderBuilder::new_with_metadata(bytes, metadata)
            .with_projection(mask)
            .with_batch_size(BATCH_ROWS)
            .build()
    })
    .map_err(|error| not_parquet(path, error))?;
    let mut row = 0;
    for batch in reader {
        let batch = batch.map_err(|error| not_parquet(path, error))?;
        let columns = Columns::new(layout, &batch).map_err(unusable)?;
        for index in 0..batch.num_rows() {
            layout
                .draft(&columns, index)
                .and_then(|draft| questions.add(draft))
                .map_err(|error| unusable(format!("row {row}: {error}")))?;
            row += 1;
        }
    }
    Ok(())
}

pub(super) fn write(path: &Path, questions: &[Question]) -> Result<(), EvalError> {
    let batch = to_batch(questions).map_err(|error| EvalError::unusable(path, error))?;
    write_parquet(path, &batch).map_err(|source| EvalError::io(path, source))
}

fn to_batch(questions: &[Question]) -> Result<RecordBatch, arrow::error::ArrowError> {
    let text = |of: fn(&Question) -> &str| -> ArrayRef {
        Arc::new(StringArray::from_iter_values(questions.iter().map(of)))
    };
    let mut choices = ListBuilder::new(StringBuilder::new());
    for question in questions {
        choices.append_value(question.choices.iter().map(Some));
    }
    let choices = choices.finish();
    let answers = Int64Array::from_iter_values(questions.iter().map(|q| q.answer as i64));
    let mut fields = vec![
        Field::new("question", DataType::Utf8, true),
        Field::new("subject", DataType::Utf8, true),
        Field::new("choices", choices.data_type().clone(), true),
        Field::new("answer", DataType::Int64, true),
    ];
    let mut columns = vec![
        text(|q| &q.question),
        text(|q| &q.subject),
        Arc::new(choices) as ArrayRef,
        Arc::new(answers) as ArrayRef,
    ];
    if questions.iter().any(|question| question.id.is_some()) {
        fields.push(Field::new("id", DataType::Utf8, true));
        let ids: StringArray = questions.iter().map(|question| question.id.as_deref()).collect();
        columns.push(Arc::new(ids));
    }
    if questions.iter().any(|question| question.form != Form::Exam) {
        fields.push(Field::new("form", DataType::Utf8, true));
        columns.push(text(|q| q.form.name()));
    }
    RecordBatch::try_new(Arc::new(Schema::new(fields)), columns)
}

fn not_parquet(path: &Path, error: impl Display) -> EvalError {
    let expected = Layout::expected();
    let found = format!("cannot be read as Parquet ({error}); expected the columns {expected}");
    EvalError::unusable(path, found)
}
