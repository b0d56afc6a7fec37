//! The columns that question sets have in Parquet files, and what they mean.

use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, RecordBatch};
use arrow::datatypes::{DataType, Field, Int64Type, Schema, SchemaRef};

use super::draft::{Draft, MOST_CHOICES, bounded};
use super::hellaswag;
use crate::eval::questions::question::Form;

/// The column that pandas puts in for the rows' numbers.
const INDEX: &str = "__index_level_0__";

/// Whose columns a Parquet file has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::eval::questions) enum Layout {
    /// `cais/mmlu`, and what quantkit writes.
    Mmlu,
    /// `TIGER-Lab/MMLU-Pro`.
    MmluPro,
    /// `allenai/ai2_arc`.
    Arc,
    /// `Rowan/hellaswag`.
    HellaSwag,
    /// `truthfulqa/truthful_qa`, `multiple_choice`; the answers of which one is right.
    TruthfulQa,
    /// `allenai/winogrande`.
    WinoGrande,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum ColumnType {
    Text,
    Integer,
    Texts,
    Integers,
}

impl ColumnType {
    fn name(self) -> &'static str {
        match self {
            Self::Text => "string",
            Self::Integer => "integer",
            Self::Texts => "list of strings",
            Self::Integers => "list of integers",
        }
    }

    fn fits(self, found: &DataType) -> bool {
        let item = match found {
            DataType::List(item) | DataType::LargeList(item) | DataType::FixedSizeList(item, _) => {
                Some(item.data_type())
            }
            _ => None,
        };
        match self {
            Self::Text => is_text(found),
            Self::Integer => values(found).is_integer(),
            Self::Texts => item.is_some_and(is_text),
            Self::Integers => item.is_some_and(|item| values(item).is_integer()),
        }
    }
}

fn is_text(found: &DataType) -> bool {
    matches!(values(found), DataType::Utf8 | DataType::LargeUtf8 | DataType::Utf8View)
}

/// The type of a column's values; those of a dictionary are its entries.
fn values(found: &DataType) -> &DataType {
    match found {
        DataType::Dictionary(_, values) => values,
        plain => plain,
    }
}

/// The columns with their texts as views, which share the bytes of a text that a file repeats: else a
/// short file could unpack to gigabytes.
pub(super) fn text_as_views(schema: &Schema) -> SchemaRef {
    let fields: Vec<Field> = schema.fields().iter().map(|field| with_views(field)).collect();
    Arc::new(Schema::new_with_metadata(fields, schema.metadata().clone()))
}

fn with_views(field: &Field) -> Field {
    let inner = |field: &Arc<Field>| Arc::new(with_views(field));
    let to = match field.data_type() {
        text if is_text(text) => DataType::Utf8View,
        DataType::Dictionary(_, values) => values.as_ref().clone(),
        DataType::List(item) => DataType::List(inner(item)),
        DataType::LargeList(item) => DataType::LargeList(inner(item)),
        DataType::FixedSizeList(item, length) => DataType::FixedSizeList(inner(item), *length),
        DataType::Struct(fields) => DataType::Struct(fields.iter().map(inner).collect()),
        other => other.clone(),
    };
    field.clone().with_data_type(to)
}

/// Whether a column holds bytes that are no text: pictures, sounds.
fn holds_bytes(found: &DataType) -> bool {
    match found {
        DataType::Binary
        | DataType::LargeBinary
        | DataType::BinaryView
        | DataType::FixedSizeBinary(_) => true,
        DataType::List(item) | DataType::LargeList(item) | DataType::FixedSizeList(item, _) => {
            holds_bytes(item.data_type())
        }
        DataType::Struct(fields) => fields.iter().any(|field| holds_bytes(field.data_type())),
        other => matches!(other, DataType::Dictionary(_, values) if holds_bytes(values)),
    }
}

impl Layout {
    const ALL: [Self; 6] =
        [Self::Mmlu, Self::MmluPro, Self::Arc, Self::HellaSwag, Self::TruthfulQa, Self::WinoGrande];

    /// The layout of a file's columns; else what is there and what was expected.
    pub fn detect(schema: &Schema) -> Result<Self, String> {
        let fits = |layout: &Self| {
            layout.columns().iter().all(|(path, wanted)| {
                field(schema, path).is_some_and(|field| wanted.fits(field.data_type()))
            })
        };
        Self::ALL.into_iter().find(fits).ok_or_else(|| {
            let found: Vec<String> = schema.fields().iter().map(|field| described(field)).collect();
            let found = if found.is_empty() { "none".to_string() } else { found.join(", ") };
            format!("not a question set: found the columns {found}; expected {}", Self::expected())
        })
    }

    /// The columns of all layouts, as a sentence.
    pub fn expected() -> String {
        let one = |layout: &Self| {
            let columns: Vec<String> = layout
                .columns()
                .iter()
                .map(|(path, column)| format!("{path} ({})", column.name()))
                .collect();
            format!("{} for {}", columns.join(", "), layout.name())
        };
        let all: Vec<String> = Self::ALL.iter().map(one).collect();
        all.join("; or ")
    }

    fn name(self) -> &'static str {
        match self {
            Self::Mmlu => "MMLU",
            Self::MmluPro => "MMLU-Pro",
            Self::Arc => "ARC",
            Self::HellaSwag => "HellaSwag",
            Self::TruthfulQa => "TruthfulQA",
            Self::WinoGrande => "WinoGrande",
        }
    }

    /// Whether the test split is published without its answers.
    pub fn keeps_test_answers(self) -> bool {
        matches!(self, Self::HellaSwag | Self::WinoGrande)
    }

    fn columns(self) -> &'static [(&'static str, ColumnType)] {
        use ColumnType::{Integer, Integers, Text, Texts};
        match self {
            Self::Mmlu => {
                &[("question", Text), ("subject", Text), ("choices", Texts), ("answer", Integer)]
            }
            Self::MmluPro => &[
                ("question", Text),
                ("category", Text),
                ("options", Texts),
                ("answer_index", Integer),
            ],
            Self::Arc => &[
                ("question", Text),
                ("choices.text", Texts),
                ("choices.label", Texts),
                ("answerKey", Text),
            ],
            Self::HellaSwag => &[
                ("activity_label", Text),
                ("ctx_a", Text),
                ("ctx_b", Text),
                ("endings", Texts),
                ("label", Text),
            ],
            Self::TruthfulQa => &[
                ("question", Text),
                ("mc1_targets.choices", Texts),
                ("mc1_targets.labels", Integers),
            ],
            Self::WinoGrande => {
                &[("sentence", Text), ("option1", Text), ("option2", Text), ("answer", Text)]
            }
        }
    }

    /// The columns to read: the layout's own and the optional ones, as far as they are there.
    pub fn wanted_columns(self, schema: &Schema) -> Vec<&'static str> {
        let own = self.columns().iter().map(|(path, _)| path.split('.').next().unwrap_or(path));
        let optional = self.optional_columns().iter().copied();
        let mut wanted: Vec<&str> = own.chain(optional).collect();
        wanted.dedup();
        wanted.retain(|name| schema.field_with_name(name).is_ok());
        wanted
    }

    /// What is to be said of the columns that are not read: nothing where they are those of the
    /// published set.
    ///
    /// # Errors
    /// A column that may hold what a question is about, such as a picture.
    pub fn unread_columns(self, schema: &Schema) -> Result<Option<String>, String> {
        let wanted = self.wanted_columns(schema);
        let is_foreign = |name: &str| {
            !wanted.contains(&name) && !self.published_columns().contains(&name) && name != INDEX
        };
        let fields = schema.fields().iter().filter(|field| is_foreign(field.name()));
        let fields: Vec<&Field> = fields.map(AsRef::as_ref).collect();
        if let Some(bytes) = fields.iter().find(|field| holds_bytes(field.data_type())) {
            return Err(format!(
                "the column {} may be a part of the questions, such as a picture, and models are \
                 asked with text alone: if the questions can be answered without it, take it out of \
                 the file",
                described(bytes)
            ));
        }
        let names: Vec<String> = fields.iter().map(|field| described(field)).collect();
        Ok((!names.is_empty()).then(|| {
            format!("not read, and so no part of the questions: the columns {}", names.join(", "))
        }))
    }

    /// Columns of the published sets that are of no use here.
    fn published_columns(self) -> &'static [&'static str] {
        match self {
            Self::MmluPro => &["answer", "cot_content", "src"],
            Self::HellaSwag => &["ind", "ctx", "source_id", "split", "split_type"],
            Self::TruthfulQa => &["mc2_targets"],
            Self::Mmlu | Self::Arc | Self::WinoGrande => &[],
        }
    }

    fn optional_columns(self) -> &'static [&'static str] {
        match self {
            Self::Mmlu => &["id", "form"],
            Self::MmluPro => &["question_id"],
            Self::Arc => &["id"],
            Self::HellaSwag | Self::TruthfulQa | Self::WinoGrande => &[],
        }
    }

    /// The question in one row of a batch.
    pub(super) fn draft(self, batch: &Columns, row: usize) -> Result<Draft, String> {
        let draft = |question: String, subject: &str, choices, answer, form| Draft {
            id: None,
            question,
            subject: subject.to_string(),
            choices,
            answer,
            counts_from_0: matches!(self, Self::Mmlu | Self::MmluPro),
            form,
        };
        Ok(match self {
            Self::Mmlu => {
                let form = batch.optional_text("form", row)?;
                let form = form.map_or(Ok(Form::Exam), |name| {
                    Form::from_name(&name).map_err(|error| {
                        format!("column form: {error}; correct it, or take the column out")
                    })
                })?;
                let (question, subject) =
                    (batch.text("question", row)?, batch.text("subject", row)?);
                let answer = batch.integer("answer", row)?;
                let choices = batch.texts("choices", row)?;
                Draft {
                    id: batch.optional_text("id", row)?,
                    ..draft(question, &subject, choices, answer, form)
                }
            }
            Self::MmluPro => {
                let (question, subject) =
                    (batch.text("question", row)?, batch.text("category", row)?);
                let answer = batch.integer("answer_index", row)?;
                let choices = batch.texts("options", row)?;
                let id = batch.optional_text("question_id", row)?;
                Draft { id, ..draft(question, &subject, choices, answer, Form::Exam) }
            }
            Self::Arc => {
                let labels = batch.texts("choices.label", row)?;
                let key = batch.text("answerKey", row)?;
                let answer = labels.iter().position(|label| *label == key).ok_or_else(|| {
                    format!("the answer is {key:?}; expected one of {}", labels.join(", "))
                })?;
                let choices = batch.texts("choices.text", row)?;
                let question = batch.text("question", row)?;
                let id = batch.optional_text("id", row)?;
                Draft { id, ..draft(question, "arc", choices, answer as i64, Form::Arc) }
            }
            Self::HellaSwag => {
                let context = hellaswag::context(
                    &batch.text("activity_label", row)?,
                    &batch.text("ctx_a", row)?,
                    &batch.text("ctx_b", row)?,
                );
                let choices = batch.texts("endings", row)?;
                let choices = choices.iter().map(|ending| hellaswag::clean(ending)).collect();
                let answer = digit(&batch.text("label", row)?, 0)?;
                draft(context, "hellaswag", choices, answer, Form::Continuation)
            }
            Self::TruthfulQa => {
                let labels = batch.integers("mc1_targets.labels", row)?;
                let right: Vec<usize> = (0..labels.len()).filter(|&i| labels[i] == 1).collect();
                let &[answer] = right.as_slice() else {
                    return Err(format!(
                        "{} answers are labelled right; expected one",
                        right.len()
                    ));
                };
                let choices = batch.texts("mc1_targets.choices", row)?;
                let question = batch.text("question", row)?;
                draft(question, "truthfulqa_mc1", choices, answer as i64, Form::TruthfulQa)
            }
            Self::WinoGrande => {
                let choices = vec![batch.text("option1", row)?, batch.text("option2", row)?];
                let answer = digit(&batch.text("answer", row)?, 1)?;
                let sentence = batch.text("sentence", row)?;
                draft(sentence, "winogrande", choices, answer, Form::Blank)
            }
        })
    }
}

/// An answer that is written as a number from `first`.
fn digit(text: &str, first: i64) -> Result<i64, String> {
    match text.trim().parse::<i64>() {
        Ok(number) => Ok(number - first),
        Err(_) if text.trim().is_empty() => {
            Err("the answer is not given, as in the test split: score the validation split".into())
        }
        Err(_) => Err(format!("the answer is {text:?}; expected a number from {first}")),
    }
}

/// A column's name and type.
fn described(field: &Field) -> String {
    format!("{} ({})", field.name(), field.data_type())
}

/// The field of a path such as `choices.text`.
fn field<'a>(schema: &'a Schema, path: &str) -> Option<&'a Field> {
    let mut parts = path.split('.');
    let first = schema.field_with_name(parts.next()?).ok()?;
    parts.try_fold(first, |field, part| match field.data_type() {
        DataType::Struct(fields) => fields.find(part).map(|(_, field)| field.as_ref()),
        _ => None,
    })
}

/// The columns of a batch by path.
pub(super) struct Columns(Vec<(String, ArrayRef)>);

impl Columns {
    /// Takes apart the batch of a file with this layout.
    pub fn new(layout: Layout, batch: &RecordBatch) -> Result<Self, String> {
        let mut columns = Vec::new();
        for (path, wanted) in layout.columns() {
            let to = match wanted {
                ColumnType::Text => DataType::Utf8View,
                ColumnType::Integer => DataType::Int64,
                ColumnType::Texts => DataType::new_list(DataType::Utf8View, true),
                ColumnType::Integers => DataType::new_list(DataType::Int64, true),
            };
            let found = at(batch, path).ok_or_else(|| format!("the column {path} is missing"))?;
            columns.push((path.to_string(), cast(path, &found, &to)?));
        }
        for name in layout.optional_columns() {
            if let Some(found) = at(batch, name) {
                columns.push((name.to_string(), cast(name, &found, &DataType::Utf8View)?));
            }
        }
        Ok(Self(columns))
    }

    fn get(&self, path: &str) -> Option<&ArrayRef> {
        self.0.iter().find(|(name, _)| name == path).map(|(_, array)| array)
    }

    fn present(&self, path: &str, row: usize) -> Result<&ArrayRef, String> {
        self.get(path)
            .filter(|array| array.is_valid(row))
            .ok_or_else(|| format!("the {path} is missing"))
    }

    fn text(&self, path: &str, row: usize) -> Result<String, String> {
        bounded(self.present(path, row)?.as_string_view().value(row))
    }

    fn optional_text(&self, path: &str, row: usize) -> Result<Option<String>, String> {
        let array = self.get(path).filter(|array| array.is_valid(row));
        array.map(|array| bounded(array.as_string_view().value(row))).transpose()
    }

    fn integer(&self, path: &str, row: usize) -> Result<i64, String> {
        Ok(self.present(path, row)?.as_primitive::<Int64Type>().value(row))
    }

    fn texts(&self, path: &str, row: usize) -> Result<Vec<String>, String> {
        let list = self.present(path, row)?.as_list::<i32>().value(row);
        let texts = list.as_string_view();
        if texts.len() > MOST_CHOICES {
            return Err(format!("{path} has {} items; expected 2 to {MOST_CHOICES}", texts.len()));
        }
        let text = |index| {
            if texts.is_null(index) {
                return Err(format!("item {index} of {path} is missing"));
            }
            bounded(texts.value(index))
        };
        (0..texts.len()).map(text).collect()
    }

    fn integers(&self, path: &str, row: usize) -> Result<Vec<i64>, String> {
        let list = self.present(path, row)?.as_list::<i32>().value(row);
        Ok(list.as_primitive::<Int64Type>().values().to_vec())
    }
}

fn at(batch: &RecordBatch, path: &str) -> Option<ArrayRef> {
    let mut parts = path.split('.');
    let first = batch.column_by_name(parts.next()?)?.clone();
    parts.try_fold(first, |array, part| array.as_struct_opt()?.column_by_name(part).cloned())
}

fn cast(path: &str, array: &ArrayRef, to: &DataType) -> Result<ArrayRef, String> {
    arrow::compute::cast(array, to).map_err(|error| format!("column {path}: {error}"))
}
