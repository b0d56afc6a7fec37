//! Question sets: Parquet files in the schema of `cais/mmlu`, with the columns question (string),
//! subject (string), choices (list of strings) and answer (integer, from 0).

use std::fmt::Display;
use std::fs::{self, File};
use std::io::Read;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use arrow::array::{
    Array, ArrayRef, AsArray, Int64Array, ListBuilder, RecordBatch, StringArray, StringBuilder,
};
use arrow::datatypes::{DataType, Field, Int64Type, Schema};
use parquet::arrow::ProjectionMask;
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;

use super::EvalError;
use crate::support::contain::contain_panics;
use crate::support::hash::sha256_reader;
use crate::support::parquet_file::write_parquet;

/// The columns that a question set has.
const COLUMNS: [&str; 4] = ["question", "subject", "choices", "answer"];
const EXPECTED: &str =
    "question (string), subject (string), choices (list of strings), answer (integer)";
/// Choices are lettered A, B, C, …
const MOST_CHOICES: usize = 26;
/// Rows decoded at a time.
const BATCH_ROWS: usize = 1024;

/// One multiple-choice question.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Question {
    /// Its row in its split, from 0, counted over all files of the split.
    pub row: usize,
    /// The question.
    pub question: String,
    /// The subject, as MMLU spells it: `high_school_physics`.
    pub subject: String,
    /// The choices; from 2 to 26.
    pub choices: Vec<String>,
    /// The index of the right choice.
    pub answer: usize,
}

/// The files of a set: its test split, and its dev split where there is one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct QuestionSet {
    test: Vec<PathBuf>,
    dev: Vec<PathBuf>,
}

impl QuestionSet {
    /// Finds the files of a set.
    ///
    /// A directory holds `test.parquet` or the shards `test-*.parquet`, and the same for dev,
    /// directly or in a folder `all` (the layout of `cais/mmlu`). A file is the test split itself;
    /// the dev split is looked for beside it.
    ///
    /// # Errors
    /// Nothing there, no test split, or a missing shard.
    pub fn find(path: &Path) -> Result<Self, EvalError> {
        let metadata = fs::metadata(path).map_err(|source| io_error(path, source))?;
        if metadata.is_dir() {
            let nested = path.join("all");
            for directory in [path, nested.as_path()] {
                let test = split_files(directory, "test")?;
                if !test.is_empty() {
                    return Ok(Self { test, dev: split_files(directory, "dev")? });
                }
            }
            return Err(EvalError::Unusable(format!(
                "{}: no question set here: expected test.parquet or test-*.parquet",
                path.display()
            )));
        }
        let directory = match path.parent() {
            Some(parent) if !parent.as_os_str().is_empty() => parent,
            _ => Path::new("."),
        };
        Ok(Self { test: vec![path.to_path_buf()], dev: split_files(directory, "dev")? })
    }

    /// Reads the questions to score.
    ///
    /// # Errors
    /// Not Parquet, wrong columns, or a row that is no question; names the file and the row.
    pub fn test_questions(&self) -> Result<Vec<Question>, EvalError> {
        read_split(&self.test)
    }

    /// Reads the questions to take shots from; empty when the set has no dev split.
    ///
    /// # Errors
    /// As for [`QuestionSet::test_questions`].
    pub fn dev_questions(&self) -> Result<Vec<Question>, EvalError> {
        read_split(&self.dev)
    }

    /// SHA-256 over the contents of the set's files, test before dev.
    ///
    /// # Errors
    /// A file that cannot be read.
    pub fn sha256(&self) -> Result<String, EvalError> {
        let mut all: Box<dyn Read> = Box::new(std::io::empty());
        for path in self.test.iter().chain(&self.dev) {
            let file = File::open(path).map_err(|source| io_error(path, source))?;
            all = Box::new(all.chain(file));
        }
        let first = self.test.first().map_or(Path::new(""), PathBuf::as_path);
        sha256_reader(all).map_err(|source| io_error(first, source))
    }
}

/// Reads one Parquet file of questions.
///
/// # Errors
/// Not Parquet, wrong columns, or a row that is no question; names the file and the row.
pub fn read_questions(path: &Path) -> Result<Vec<Question>, EvalError> {
    read_split(&[path.to_path_buf()])
}

/// Writes questions as Parquet in the `cais/mmlu` schema, atomically. The same questions give the
/// same bytes.
///
/// # Errors
/// The file cannot be written.
pub fn write_questions(path: &Path, questions: &[Question]) -> Result<(), EvalError> {
    let unusable = |error: String| EvalError::Unusable(format!("{}: {error}", path.display()));
    let batch = to_batch(questions).map_err(|error| unusable(error.to_string()))?;
    write_parquet(path, &batch).map_err(|source| io_error(path, source))
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
    let schema = Schema::new(vec![
        Field::new("question", DataType::Utf8, true),
        Field::new("subject", DataType::Utf8, true),
        Field::new("choices", choices.data_type().clone(), true),
        Field::new("answer", DataType::Int64, true),
    ]);
    let columns = vec![
        text(|q| &q.question),
        text(|q| &q.subject),
        Arc::new(choices) as ArrayRef,
        Arc::new(answers) as ArrayRef,
    ];
    RecordBatch::try_new(Arc::new(schema), columns)
}

/// The Parquet files of one split in a directory, in order.
fn split_files(directory: &Path, split: &str) -> Result<Vec<PathBuf>, EvalError> {
    let entries = match fs::read_dir(directory) {
        Ok(entries) => entries,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(source) => return Err(io_error(directory, source)),
    };
    let mut names = Vec::new();
    for entry in entries {
        let name = entry.map_err(|source| io_error(directory, source))?.file_name();
        if let Some(name) = name.to_str().filter(|name| is_split_file(name, split)) {
            names.push(name.to_string());
        }
    }
    names.sort_unstable();
    let expected = names.iter().find_map(|name| shard_count(name)).unwrap_or(names.len());
    if names.len() != expected {
        return Err(EvalError::Unusable(format!(
            "{}: the {split} split says it has {expected} files, and {} are here ({}): fetch the \
             missing ones or remove the extra ones",
            directory.display(),
            names.len(),
            names.join(", ")
        )));
    }
    Ok(names.into_iter().map(|name| directory.join(name)).collect())
}

fn is_split_file(name: &str, split: &str) -> bool {
    name.strip_prefix(split)
        .and_then(|rest| rest.strip_suffix(".parquet"))
        .is_some_and(|middle| middle.is_empty() || middle.starts_with('-'))
}

/// 3 for `test-00000-of-00003.parquet`.
fn shard_count(name: &str) -> Option<usize> {
    let (_, count) = name.strip_suffix(".parquet")?.rsplit_once("-of-")?;
    count.parse().ok()
}

fn read_split(paths: &[PathBuf]) -> Result<Vec<Question>, EvalError> {
    let mut questions = Vec::new();
    for path in paths {
        // The Parquet reader panics on some damaged files.
        contain_panics(|| read_file(path, &mut questions))
            .unwrap_or_else(|panic| Err(not_parquet(path, panic)))?;
    }
    Ok(questions)
}

fn read_file(path: &Path, questions: &mut Vec<Question>) -> Result<(), EvalError> {
    let unusable = |error: String| EvalError::Unusable(format!("{}: {error}", path.display()));
    let file = File::open(path).map_err(|source| io_error(path, source))?;
    let builder =
        ParquetRecordBatchReaderBuilder::try_new(file).map_err(|error| not_parquet(path, error))?;
    check_columns(builder.schema()).map_err(unusable)?;
    let mask = ProjectionMask::columns(builder.parquet_schema(), COLUMNS);
    let reader = builder
        .with_projection(mask)
        .with_batch_size(BATCH_ROWS)
        .build()
        .map_err(|error| not_parquet(path, error))?;
    for batch in reader {
        let batch = batch.map_err(|error| not_parquet(path, error))?;
        read_batch(&batch, questions).map_err(unusable)?;
    }
    Ok(())
}

/// Whether the four columns are there with usable types; else what was expected and found.
fn check_columns(schema: &Schema) -> Result<(), String> {
    let usable = |name: &str, fits: fn(&DataType) -> bool| {
        schema.field_with_name(name).is_ok_and(|field| fits(field.data_type()))
    };
    if usable("question", is_text)
        && usable("subject", is_text)
        && usable("choices", is_list_of_text)
        && usable("answer", DataType::is_integer)
    {
        return Ok(());
    }
    let found: Vec<String> = schema
        .fields()
        .iter()
        .map(|field| format!("{} ({})", field.name(), field.data_type()))
        .collect();
    let found = if found.is_empty() { "none".to_string() } else { found.join(", ") };
    Err(format!("not a question set: expected the columns {EXPECTED}; found {found}"))
}

fn is_text(data_type: &DataType) -> bool {
    matches!(data_type, DataType::Utf8 | DataType::LargeUtf8 | DataType::Utf8View)
}

fn is_list_of_text(data_type: &DataType) -> bool {
    match data_type {
        DataType::List(item) | DataType::LargeList(item) | DataType::FixedSizeList(item, _) => {
            is_text(item.data_type())
        }
        _ => false,
    }
}

fn read_batch(batch: &RecordBatch, questions: &mut Vec<Question>) -> Result<(), String> {
    let column = |name: &str, to: &DataType| -> Result<ArrayRef, String> {
        let column = batch.column_by_name(name).ok_or(format!("the column {name} is missing"))?;
        arrow::compute::cast(column, to).map_err(|error| format!("column {name}: {error}"))
    };
    let list = DataType::new_list(DataType::Utf8, true);
    let (question, subject) =
        (column("question", &DataType::Utf8)?, column("subject", &DataType::Utf8)?);
    let (choices, answer) = (column("choices", &list)?, column("answer", &DataType::Int64)?);
    let (question, subject) = (question.as_string::<i32>(), subject.as_string::<i32>());
    let (choices, answer) = (choices.as_list::<i32>(), answer.as_primitive::<Int64Type>());
    for index in 0..batch.num_rows() {
        let row = questions.len();
        let named = |error: String| format!("row {row}: {error}");
        let question = non_blank(question, index, "question").map_err(named)?;
        let subject = non_blank(subject, index, "subject").map_err(named)?;
        if choices.is_null(index) {
            return Err(named("choices are missing".to_string()));
        }
        let list = choices.value(index);
        let choices = read_choices(list.as_string::<i32>()).map_err(named)?;
        let answer = if answer.is_null(index) { None } else { Some(answer.value(index)) };
        let answer = read_answer(answer, choices.len()).map_err(named)?;
        questions.push(Question { row, question, subject, choices, answer });
    }
    Ok(())
}

fn non_blank(column: &StringArray, index: usize, name: &str) -> Result<String, String> {
    if column.is_null(index) {
        return Err(format!("the {name} is missing"));
    }
    let text = column.value(index);
    if text.trim().is_empty() {
        return Err(format!("the {name} is empty"));
    }
    Ok(text.to_string())
}

fn read_choices(list: &StringArray) -> Result<Vec<String>, String> {
    if !(2..=MOST_CHOICES).contains(&list.len()) {
        return Err(format!("{} choices; expected 2 to {MOST_CHOICES}", list.len()));
    }
    (0..list.len())
        .map(|choice| {
            non_blank(list, choice, "choice").map_err(|e| format!("choice {choice}: {e}"))
        })
        .collect()
}

fn read_answer(answer: Option<i64>, choices: usize) -> Result<usize, String> {
    let answer = answer.ok_or("the answer is missing")?;
    usize::try_from(answer).ok().filter(|&answer| answer < choices).ok_or_else(|| {
        format!("the answer is {answer}; expected 0 to {} for {choices} choices", choices - 1)
    })
}

fn not_parquet(path: &Path, error: impl Display) -> EvalError {
    EvalError::Unusable(format!(
        "{}: cannot be read as Parquet ({error}); expected the columns {EXPECTED}",
        path.display()
    ))
}

fn io_error(path: &Path, source: std::io::Error) -> EvalError {
    EvalError::Io { path: path.display().to_string(), source }
}

#[cfg(test)]
mod tests {
    use arrow::array::Int32Array;

    use super::*;

    fn question(row: usize) -> Question {
        Question {
            row,
            question: format!("What is {row} + 1?\nThink."),
            subject: "elementary_mathematics".to_string(),
            choices: (0..4).map(|choice| (row + choice).to_string()).collect(),
            answer: 1,
        }
    }

    fn write_batch(path: &Path, columns: Vec<(&str, ArrayRef)>) {
        let batch = RecordBatch::try_from_iter(columns).unwrap();
        write_parquet(path, &batch).unwrap();
    }

    fn texts(values: &[&str]) -> ArrayRef {
        Arc::new(StringArray::from(values.to_vec()))
    }

    fn lists(values: &[&[&str]]) -> ArrayRef {
        let mut lists = ListBuilder::new(StringBuilder::new());
        for value in values {
            lists.append_value(value.iter().map(Some));
        }
        Arc::new(lists.finish())
    }

    fn error_of(columns: Vec<(&str, ArrayRef)>) -> String {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("set.parquet");
        write_batch(&path, columns);
        let error = read_questions(&path).unwrap_err().to_string();
        assert!(error.contains("set.parquet"), "{error}");
        error
    }

    #[test]
    fn questions_come_back_as_written_and_bytes_repeat() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("test.parquet");
        let questions: Vec<Question> = (0..3000).map(question).collect();
        write_questions(&path, &questions).unwrap();
        assert_eq!(read_questions(&path).unwrap(), questions);
        let first = fs::read(&path).unwrap();
        write_questions(&path, &questions).unwrap();
        assert_eq!(fs::read(&path).unwrap(), first);
    }

    #[test]
    fn other_integer_widths_and_extra_columns_are_welcome() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("set.parquet");
        let answer: ArrayRef = Arc::new(Int32Array::from(vec![1]));
        write_batch(
            &path,
            vec![
                ("source", texts(&["exam"])),
                ("answer", answer),
                ("choices", lists(&[&["a", "b", "c"]])),
                ("subject", texts(&["s"])),
                ("question", texts(&["q"])),
            ],
        );
        let read = read_questions(&path).unwrap();
        assert_eq!((read[0].choices.len(), read[0].answer), (3, 1));
    }

    #[test]
    fn wrong_columns_are_listed_with_the_expected_ones() {
        let error = error_of(vec![("question", texts(&["q"])), ("answer", texts(&["A"]))]);
        assert!(error.contains(EXPECTED), "{error}");
        assert!(error.contains("found question (Utf8), answer (Utf8)"), "{error}");
    }

    #[test]
    fn a_bad_row_is_named() {
        let set = |question: &str, choices: &[&str], answer: i64| {
            error_of(vec![
                ("question", texts(&["q", question])),
                ("subject", texts(&["s", "s"])),
                ("choices", lists(&[&["a", "b"], choices])),
                ("answer", Arc::new(Int64Array::from(vec![0, answer])) as ArrayRef),
            ])
        };
        let cases = [
            (set(" ", &["a", "b"], 0), "row 1: the question is empty"),
            (set("q", &["a", ""], 0), "row 1: choice 1: the choice is empty"),
            (set("q", &["a"], 0), "row 1: 1 choices; expected 2 to 26"),
            (set("q", &["a", "b"], 2), "row 1: the answer is 2; expected 0 to 1 for 2 choices"),
            (set("q", &["a", "b"], -1), "row 1: the answer is -1"),
        ];
        for (error, expected) in cases {
            assert!(error.contains(expected), "{error}");
        }
    }

    #[test]
    fn missing_values_are_named() {
        let error = error_of(vec![
            ("question", Arc::new(StringArray::from(vec![None::<&str>])) as ArrayRef),
            ("subject", texts(&["s"])),
            ("choices", lists(&[&["a", "b"]])),
            ("answer", Arc::new(Int64Array::from(vec![0])) as ArrayRef),
        ]);
        assert!(error.contains("row 0: the question is missing"), "{error}");
    }

    #[test]
    fn splits_are_found_in_directories_and_beside_files() {
        let dir = tempfile::tempdir().unwrap();
        let write = |name: &str, rows: std::ops::Range<usize>| {
            let questions: Vec<Question> = rows.map(question).collect();
            write_questions(&dir.path().join(name), &questions).unwrap();
        };
        write("all/test-00001-of-00002.parquet", 2..5);
        write("all/test-00000-of-00002.parquet", 0..2);
        write("all/dev.parquet", 0..1);
        write("all/validation.parquet", 0..1);
        let set = QuestionSet::find(dir.path()).unwrap();
        let expected: Vec<Question> = (0..5).map(question).collect();
        assert_eq!(set.test_questions().unwrap(), expected);
        assert_eq!(set.dev_questions().unwrap().len(), 1);

        let file = QuestionSet::find(&dir.path().join("all/validation.parquet")).unwrap();
        assert_eq!(file.test_questions().unwrap().len(), 1);
        assert_eq!(file.dev, set.dev);
        assert_ne!(file.sha256().unwrap(), set.sha256().unwrap());

        fs::remove_file(dir.path().join("all/test-00000-of-00002.parquet")).unwrap();
        let error = QuestionSet::find(dir.path()).unwrap_err().to_string();
        assert!(error.contains("says it has 2 files, and 1 are here"), "{error}");
    }

    #[test]
    fn places_without_a_set_are_named() {
        let dir = tempfile::tempdir().unwrap();
        let error = QuestionSet::find(dir.path()).unwrap_err().to_string();
        assert!(error.contains("expected test.parquet or test-*.parquet"), "{error}");
        let absent = dir.path().join("absent");
        let error = QuestionSet::find(&absent).unwrap_err().to_string();
        assert!(error.contains("absent"), "{error}");
    }

    /// Damaged files give an error, or questions that pass every check; never a panic.
    #[test]
    fn damaged_files_do_not_panic() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("set.parquet");
        let questions: Vec<Question> = (0..20).map(question).collect();
        write_questions(&path, &questions).unwrap();
        let whole = fs::read(&path).unwrap();
        for length in (0..whole.len()).step_by(7) {
            fs::write(&path, &whole[..length]).unwrap();
            let error = read_questions(&path).unwrap_err().to_string();
            assert!(error.contains("cannot be read as Parquet"), "{error}");
        }
        for index in 0..whole.len() {
            let mut damaged = whole.clone();
            damaged[index] ^= [0x01, 0x10, 0xff][index % 3];
            fs::write(&path, &damaged).unwrap();
            let _ = read_questions(&path);
        }
    }
}
