//! Files of multiple-choice questions, of many origins, through one door: [`read_questions`] and
//! [`write_questions`].
//!
//! | kind | what it is |
//! |---|---|
//! | `.parquet` | `cais/mmlu`, MMLU-Pro, ARC, HellaSwag, TruthfulQA (MC1) and WinoGrande, told apart by their columns |
//! | `.csv` | a subject of MMLU's original release: question, four choices, letter; no header |
//! | `.jsonl` | an object a line; see [`write_questions`] |
//! | `.bin` | llama.cpp's tasks for `llama-perplexity --multiple-choice` |

mod collected;
mod csv;
mod draft;
mod hellaswag;
mod json_lines;
mod layouts;
mod parquet;
mod task_file;

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use super::question::Question;
use crate::eval::EvalError;
use collected::Collected;
pub(super) use draft::Reading;
pub use draft::Split;
pub(super) use layouts::Layout;
pub(super) use parquet::layout;

/// What a file holds, by its extension.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Parquet,
    Csv,
    JsonLines,
    TaskFile,
}

impl Kind {
    pub fn of(path: &Path) -> Result<Self, EvalError> {
        match path.extension().and_then(|extension| extension.to_str()) {
            Some("parquet") => Ok(Self::Parquet),
            Some("csv") => Ok(Self::Csv),
            Some("jsonl") => Ok(Self::JsonLines),
            Some("bin") => Ok(Self::TaskFile),
            _ => Err(EvalError::Unusable(format!(
                "{}: no known kind of question set: expected a name that ends in .parquet, .csv \
                 (MMLU's original release), .jsonl or .bin (llama.cpp)",
                path.display()
            ))),
        }
    }
}

/// Reads one file of questions.
///
/// # Errors
/// As for [`super::QuestionSet::test_questions`], and a file of no known kind.
pub fn read_questions(path: &Path) -> Result<Vec<Question>, EvalError> {
    read_files(&[path.to_path_buf()], |_| Reading::Role(Split::Test))
}

/// Writes questions, atomically; the same questions give the same bytes. The name's extension says
/// as what:
///
/// - `.parquet`: the `cais/mmlu` schema; columns id (string) and form (string) follow where the
///   questions have an id, or another form than an exam's;
/// - `.jsonl`: an object a line with question, subject, choices and answer (an index), and id and
///   form as above;
/// - `.bin`: llama.cpp's task file. It has texts and their continuations only: subjects and ids do
///   not go into it, and questions with a blank cannot.
///
/// # Errors
/// Another extension, a set that the kind cannot hold, or a file that cannot be written.
pub fn write_questions(path: &Path, questions: &[Question]) -> Result<(), EvalError> {
    match Kind::of(path)? {
        Kind::Parquet => parquet::write(path, questions),
        Kind::JsonLines => json_lines::write(path, questions),
        Kind::TaskFile => task_file::write(path, questions),
        Kind::Csv => Err(EvalError::Unusable(format!(
            "{}: CSV files of questions are read and not written: expected a name that ends in \
             .parquet, .jsonl or .bin",
            path.display()
        ))),
    }
}

/// Reads the questions of several files, as one after the other.
pub(super) fn read_files(
    paths: &[PathBuf],
    reading: impl Fn(&PathBuf) -> Reading,
) -> Result<Vec<Question>, EvalError> {
    let mut collected = Collected::new();
    for path in paths {
        match Kind::of(path)? {
            Kind::Parquet => parquet::read(path, &mut collected)?,
            Kind::Csv => csv::read(path, &mut collected)?,
            Kind::JsonLines => json_lines::read(path, reading(path), &mut collected)?,
            Kind::TaskFile => task_file::read(path, &mut collected)?,
        }
    }
    if let Some(first) = paths.first() {
        if let Some(twice) = id_that_is_there_twice(&collected.questions) {
            return Err(EvalError::unusable(first, twice));
        }
        if collected.may_count_from_1() && reading(first) == Reading::Role(Split::Test) {
            tracing::warn!(
                "{}: no answer of {} questions is 0, and answers count from 0: if these count from \
                 1, every question is scored wrongly; take 1 off each answer",
                first.display(),
                collected.questions.len()
            );
        }
    }
    Ok(collected.questions)
}

fn id_that_is_there_twice(questions: &[Question]) -> Option<String> {
    let mut rows = HashMap::new();
    questions.iter().find_map(|question| {
        let id = question.id.as_deref()?;
        let first: usize = rows.insert(id, question.row)?;
        Some(format!(
            "rows {first} and {} have the same id, {id:?}: give each question an id of its own, or \
             take the column id (in MMLU-Pro question_id) out",
            question.row
        ))
    })
}
