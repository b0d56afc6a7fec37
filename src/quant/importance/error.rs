//! The error of importance and its files.

use std::path::{Path, PathBuf};

use crate::gguf::GgufError;
use crate::support::input_file::InputError;

/// Why importance cannot be read, written or merged.
#[derive(Debug, thiserror::Error)]
pub enum ImportanceError {
    /// The GGUF container is damaged, or cannot be written.
    #[error(transparent)]
    Gguf(#[from] GgufError),
    /// The operating system refused.
    #[error("{}: {source}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// What it is collected from changed meanwhile.
    #[error(transparent)]
    Input(#[from] InputError),
    /// The file holds no importance, or numbers that cannot be any.
    #[error("{}: {problem}", path.display())]
    Malformed {
        /// The file.
        path: PathBuf,
        /// What was expected, what was found, and what to do.
        problem: String,
    },
    /// Two collections do not belong together.
    #[error("{0}")]
    Different(String),
}

impl ImportanceError {
    pub(super) fn malformed(path: &Path, problem: impl Into<String>) -> Self {
        Self::Malformed { path: path.to_path_buf(), problem: problem.into() }
    }

    pub(super) fn io(path: &Path, source: std::io::Error) -> Self {
        Self::Io { path: path.to_path_buf(), source }
    }
}
