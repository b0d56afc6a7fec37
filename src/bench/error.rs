//! The error of a benchmark.

use std::path::{Path, PathBuf};

use crate::engine::EngineError;
use crate::support::input_file::InputError;
use crate::support::interrupt::Interrupted;

/// An error of a benchmark.
#[derive(Debug, thiserror::Error)]
pub enum BenchError {
    /// The options or the results cannot be used; the text says what to do.
    #[error("{0}")]
    Unusable(String),
    /// A file could not be read or written.
    #[error("{}: {source}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// The model failed.
    #[error(transparent)]
    Engine(#[from] EngineError),
    /// An input that a result depends on could not be read, or changed meanwhile.
    #[error(transparent)]
    Input(#[from] InputError),
    /// Ctrl-C.
    #[error(transparent)]
    Interrupted(#[from] Interrupted),
}

impl BenchError {
    pub(super) fn io(path: &Path, source: std::io::Error) -> Self {
        Self::Io { path: path.to_path_buf(), source }
    }
}
