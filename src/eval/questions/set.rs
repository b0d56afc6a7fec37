//! A question set: its files, its questions to score and those for shots.

use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};

use super::files::{Reading, Split, read_files};
use super::locate;
use super::question::Question;
use crate::eval::EvalError;
use crate::support::hash::sha256_reader;
use crate::support::input_file::FileState;

/// The files of a set: those of the questions to score, and those of the questions for shots where
/// there are any.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct QuestionSet {
    path: PathBuf,
    test: Vec<PathBuf>,
    dev: Vec<PathBuf>,
    /// What its files were when it was found: all that is read of them has to be of the same ones.
    found: Vec<FileState>,
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
        let (test, dev) = locate::find(path)?;
        let mut set = Self { path: path.to_path_buf(), test, dev, found: Vec::new() };
        set.found = set.files().map(FileState::at).collect::<Result<_, _>>()?;
        Ok(set)
    }

    /// Reads the questions to score.
    ///
    /// # Errors
    /// A damaged file, unknown columns, a row that is no question, or an id that is there twice;
    /// names the file and the row. A file that is no longer what it was when the set was found.
    pub fn test_questions(&self) -> Result<Vec<Question>, EvalError> {
        self.unchanged(read_files(&self.test, |_| Reading::Role(Split::Test)))
    }

    /// Reads the questions to take shots from; empty when the set has none.
    ///
    /// # Errors
    /// As for [`QuestionSet::test_questions`].
    pub fn dev_questions(&self) -> Result<Vec<Question>, EvalError> {
        self.unchanged(read_files(&self.dev, |path| {
            if self.test.contains(path) { Reading::MarkedDev } else { Reading::Role(Split::Dev) }
        }))
    }

    /// What has been read, if the files still are those that were found.
    fn unchanged<T>(&self, read: Result<T, EvalError>) -> Result<T, EvalError> {
        self.files().zip(&self.found).try_for_each(|(path, found)| found.check(path))?;
        read
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
    /// A file that cannot be read, or is no longer what it was when the set was found.
    pub fn sha256(&self) -> Result<String, EvalError> {
        let mut all: Box<dyn Read> = Box::new(std::io::empty());
        for path in self.files() {
            let file = File::open(path).map_err(|source| EvalError::io(path, source))?;
            all = Box::new(all.chain(file));
        }
        let first = self.test.first().map_or(Path::new(""), PathBuf::as_path);
        self.unchanged(sha256_reader(all).map_err(|source| EvalError::io(first, source)))
    }
}

#[cfg(test)]
mod tests;
