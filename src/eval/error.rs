//! The error of an evaluation.

use std::fmt::Display;
use std::io;
use std::path::Path;

use crate::engine::EngineError;
use crate::quant::importance::ImportanceError;
use crate::storage::StorageError;
use crate::support::input_file::InputError;
use crate::support::interrupt::Interrupted;

/// An error of an evaluation.
#[derive(Debug, thiserror::Error)]
pub enum EvalError {
    /// The set, the options or the results cannot be used; the text says what to do.
    #[error("{0}")]
    Unusable(String),
    /// A file could not be read or written.
    #[error("{path}: {source}")]
    Io {
        /// The file.
        path: String,
        /// What the system said.
        source: io::Error,
    },
    /// An input that a result depends on could not be read, or changed meanwhile.
    #[error(transparent)]
    Input(#[from] InputError),
    /// The model failed.
    #[error(transparent)]
    Engine(#[from] EngineError),
    /// Importance could not be collected or written.
    #[error(transparent)]
    Importance(#[from] ImportanceError),
    /// What is in storage could not be read or written.
    #[error(transparent)]
    Storage(#[from] StorageError),
    /// Ctrl-C.
    #[error(transparent)]
    Interrupted(#[from] Interrupted),
}

impl EvalError {
    /// What is wrong with a file or a directory.
    pub(super) fn unusable(path: &Path, problem: impl Display) -> Self {
        Self::Unusable(format!("{}: {problem}", path.display()))
    }

    /// What the system said of a file or a directory.
    pub(super) fn io(path: &Path, source: io::Error) -> Self {
        Self::Io { path: path.display().to_string(), source }
    }
}
