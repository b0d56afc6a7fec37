//! The error of a comparison.

use std::path::{Path, PathBuf};

use crate::bench::BenchError;
use crate::eval::EvalError;
use crate::gguf::GgufError;
use crate::support::input_file::InputError;
use crate::support::interrupt::Interrupted;

/// An error of a comparison.
#[derive(Debug, thiserror::Error)]
pub enum ReportError {
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
    /// A model file cannot be read.
    #[error(transparent)]
    Gguf(#[from] GgufError),
    /// An evaluation failed.
    #[error(transparent)]
    Eval(#[from] EvalError),
    /// A benchmark failed.
    #[error(transparent)]
    Bench(#[from] BenchError),
    /// A page could not be made.
    #[error("the report's page cannot be made: {0}")]
    Page(#[from] minijinja::Error),
    /// An input that a result depends on could not be read, or changed meanwhile.
    #[error(transparent)]
    Input(#[from] InputError),
    /// Ctrl-C.
    #[error(transparent)]
    Interrupted(#[from] Interrupted),
}

impl ReportError {
    pub(super) fn io(path: &Path, source: std::io::Error) -> Self {
        Self::Io { path: path.to_path_buf(), source }
    }
}
