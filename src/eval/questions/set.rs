//! Question sets: multiple-choice questions of many origins through one door.
//!
//! | kind | what it is |
//! |---|---|
//! | `.parquet` | `cais/mmlu`, MMLU-Pro, ARC, HellaSwag, TruthfulQA (MC1) and WinoGrande, told apart by their columns |
//! | `.csv` | a subject of MMLU's original release: question, four choices, letter; no header |
//! | `.jsonl` | an object a line; see [`write_questions`] |
//! | `.bin` | llama.cpp's tasks for `llama-perplexity --multiple-choice` |

mod csv;
mod json_lines;
mod layouts;
mod locate;
mod parquet;
mod summary;
mod task_file;

use std::collections::HashMap;
use std::fmt::{self, Display};
use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::EvalError;
use crate::support::hash::sha256_reader;
pub use summary::{SetSummary, SubjectSummary, summarize};

/// Choices are lettered A, B, C, …
const MOST_CHOICES: usize = 26;

/// One multiple-choice question.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Question {
    /// Its row in its split, from 0, counted over all files of the split.
    pub row: usize,
    /// The set's own name for it, where the set has names.
    pub id: Option<String>,
    /// The question; what else it may be, its form says.
    pub question: String,
    /// The subject, as MMLU spells it (`high_school_physics`); the set's name where it has none.
    pub subject: String,
    /// The choices; from 2 to 26.
    pub choices: Vec<String>,
    /// The index of the right choice.
    pub answer: usize,
    /// How the set words its questions.
    pub form: Form,
}

/// How a set words its questions, which decides how choices are put to a model as text.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Form {
    /// A question of an exam and its answers: MMLU.
    #[default]
    Exam,
    /// A text and its continuations: HellaSwag, llama.cpp's task files.
    Continuation,
    /// A question that is put as "Question: … Answer:": ARC.
    Arc,
    /// A question that follows TruthfulQA's six examples.
    TruthfulQa,
    /// A sentence with a blank, `_`, and what may stand there: WinoGrande.
    Blank,
}

impl Form {
    /// Its name in files.
    pub fn name(self) -> &'static str {
        match self {
            Self::Exam => "exam",
            Self::Continuation => "continuation",
            Self::Arc => "arc",
            Self::TruthfulQa => "truthful-qa",
            Self::Blank => "blank",
        }
    }

    /// The form of a name; an error lists the names.
    fn from_name(name: &str) -> Result<Self, String> {
        let all = [Self::Exam, Self::Continuation, Self::Arc, Self::TruthfulQa, Self::Blank];
        all.into_iter().find(|form| form.name() == name).ok_or_else(|| {
            let names = all.map(Self::name).join(", ");
            format!("no form is called {name:?}; expected one of {names}")
        })
    }
}

/// Which questions of a set.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Split {
    /// Those to score.
    Test,
    /// Those to take shots from.
    Dev,
}

/// What a file holds, by its extension.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Parquet,
    Csv,
    JsonLines,
    TaskFile,
}

impl Kind {
    fn of(path: &Path) -> Result<Self, EvalError> {
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

/// The files of a set: those of the questions to score, and those of the questions for shots where
/// there are any.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct QuestionSet {
    path: PathBuf,
    test: Vec<PathBuf>,
    dev: Vec<PathBuf>,
}

impl QuestionSet {
    /// Finds the files of a set.
    ///
    /// A directory holds `test.parquet` or the shards `test-*.parquet`, and the same for dev,
    /// directly or in the folders that the sets have on the Hugging Face hub (`all`, `data`, …); or
    /// the folders `test` and `dev` of MMLU's original release. The questions to score are the test
    /// split, or the validation split of sets that keep the answers of their test split to
    /// themselves. A file is the questions to score; those for shots are looked for beside it.
    ///
    /// # Errors
    /// Nothing there, a file of no known kind, or a missing shard.
    pub fn find(path: &Path) -> Result<Self, EvalError> {
        locate::find(path)
    }

    /// Reads the questions to score.
    ///
    /// # Errors
    /// A damaged file, unknown columns, a row that is no question, or an id that is there twice;
    /// names the file and the row.
    pub fn test_questions(&self) -> Result<Vec<Question>, EvalError> {
        read_files(&self.test, |_| Reading::Role(Split::Test))
    }

    /// Reads the questions to take shots from; empty when the set has none.
    ///
    /// # Errors
    /// As for [`QuestionSet::test_questions`].
    pub fn dev_questions(&self) -> Result<Vec<Question>, EvalError> {
        read_files(&self.dev, |path| {
            if self.test.contains(path) { Reading::MarkedDev } else { Reading::Role(Split::Dev) }
        })
    }

    /// The path that the set was looked for at.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The files, test before dev.
    pub fn files(&self) -> impl Iterator<Item = &Path> {
        let dev = self.dev.iter().filter(|path| !self.test.contains(path));
        self.test.iter().chain(dev).map(PathBuf::as_path)
    }

    /// SHA-256 over the contents of the set's files, test before dev.
    ///
    /// # Errors
    /// A file that cannot be read.
    pub fn sha256(&self) -> Result<String, EvalError> {
        let mut all: Box<dyn Read> = Box::new(std::io::empty());
        for path in self.files() {
            let file = File::open(path).map_err(|source| io_error(path, source))?;
            all = Box::new(all.chain(file));
        }
        let first = self.test.first().map_or(Path::new(""), PathBuf::as_path);
        sha256_reader(all).map_err(|source| io_error(first, source))
    }
}

/// Reads one file of questions.
///
/// # Errors
/// As for [`QuestionSet::test_questions`], and a file of no known kind.
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

/// Which questions of a file are wanted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Reading {
    /// All of them; a line of JSON that says it is of another split than this one is left out.
    Role(Split),
    /// Only lines of JSON that say they are for shots.
    MarkedDev,
}

fn read_files(
    paths: &[PathBuf],
    reading: impl Fn(&PathBuf) -> Reading,
) -> Result<Vec<Question>, EvalError> {
    let mut questions = Vec::new();
    for path in paths {
        match Kind::of(path)? {
            Kind::Parquet => parquet::read(path, &mut questions)?,
            Kind::Csv => csv::read(path, &mut questions)?,
            Kind::JsonLines => json_lines::read(path, reading(path), &mut questions)?,
            Kind::TaskFile => task_file::read(path, &mut questions)?,
        }
    }
    if let (Some(first), Some(twice)) = (paths.first(), id_that_is_there_twice(&questions)) {
        return Err(unusable(first, twice));
    }
    Ok(questions)
}

fn id_that_is_there_twice(questions: &[Question]) -> Option<String> {
    let mut rows = HashMap::new();
    questions.iter().find_map(|question| {
        let id = question.id.as_deref()?;
        let first: usize = rows.insert(id, question.row)?;
        Some(format!("rows {first} and {} have the same id, {id:?}", question.row))
    })
}

/// A question as a file has it, not yet checked.
#[derive(Debug)]
struct Draft {
    id: Option<String>,
    question: String,
    subject: String,
    choices: Vec<String>,
    /// Index of the right choice.
    answer: i64,
    form: Form,
}

impl Draft {
    /// The question of this row, or what is wrong with it.
    fn check(self, row: usize) -> Result<Question, String> {
        for (text, name) in [(&self.question, "question"), (&self.subject, "subject")] {
            if text.trim().is_empty() {
                return Err(format!("the {name} is empty"));
            }
        }
        let count = self.choices.len();
        if !(2..=MOST_CHOICES).contains(&count) {
            return Err(format!("{count} choices; expected 2 to {MOST_CHOICES}"));
        }
        if let Some(empty) = self.choices.iter().position(|choice| choice.trim().is_empty()) {
            return Err(format!("choice {empty} is empty"));
        }
        let answer = usize::try_from(self.answer)
            .ok()
            .filter(|&answer| answer < count)
            .ok_or_else(|| {
                let last = count - 1;
                format!("the answer is {}; expected 0 to {last} for {count} choices", self.answer)
            })?;
        let Self { id, question, subject, choices, form, .. } = self;
        if form == Form::Blank && !question.contains('_') {
            return Err("the sentence has no blank, which is written _".to_string());
        }
        Ok(Question { row, id, question, subject, choices, answer, form })
    }
}

/// The index that a letter stands for: 0 for A.
fn letter_index(text: &str) -> Option<i64> {
    match text.trim().as_bytes() {
        [letter @ b'A'..=b'Z'] => Some(i64::from(letter - b'A')),
        _ => None,
    }
}

/// The set's name where it has no subjects: the file's, without its extension.
fn stem(path: &Path) -> String {
    path.file_stem().unwrap_or_default().to_string_lossy().into_owned()
}

fn unusable(path: &Path, error: impl Display) -> EvalError {
    EvalError::Unusable(format!("{}: {error}", path.display()))
}

fn io_error(path: &Path, source: std::io::Error) -> EvalError {
    EvalError::Io { path: path.display().to_string(), source }
}

impl Display for Form {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

#[cfg(test)]
mod tests;
