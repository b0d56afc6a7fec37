//! What can be wrong with a tokenizer.

use std::path::{Path, PathBuf};

use crate::checkpoint::config::ConfigError;

/// A tokenizer that quantkit cannot read, run or write.
#[derive(Debug, thiserror::Error)]
pub enum TokenizerError {
    /// The metadata of a GGUF file, or a text. Whoever knows the file's path puts it before.
    #[error("{0}")]
    Vocabulary(String),
    /// A file of a checkpoint that cannot be read.
    #[error(transparent)]
    File(#[from] ConfigError),
    /// A file of a checkpoint that cannot be said in a GGUF file.
    #[error("{}: {problem}", path.display())]
    Unusable {
        /// The file.
        path: PathBuf,
        /// What was expected, what was found, and what to do.
        problem: String,
    },
}

impl TokenizerError {
    /// Something wrong with a vocabulary.
    pub(super) fn vocabulary(problem: impl Into<String>) -> Self {
        Self::Vocabulary(problem.into())
    }

    /// Something wrong with a file.
    pub(super) fn unusable(path: &Path, problem: impl Into<String>) -> Self {
        Self::Unusable { path: path.to_path_buf(), problem: problem.into() }
    }
}

/// The tokenizers crate refused what a file asked for.
pub(super) fn unbuildable(error: impl std::fmt::Display) -> TokenizerError {
    TokenizerError::vocabulary(format!("the tokenizer cannot be rebuilt: {error}"))
}
