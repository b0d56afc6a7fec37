//! The error of a search.

use std::path::{Path, PathBuf};

use crate::eval::EvalError;
use crate::gguf::GgufError;
use crate::model::ModelError;
use crate::quant::importance::ImportanceError;
use crate::quant::pipeline::QuantizeError;
use crate::quant::plan::PlanError;
use crate::support::input_file::InputError;
use crate::support::interrupt::Interrupted;

/// Why there is no plan.
#[derive(Debug, thiserror::Error)]
pub enum SearchError {
    /// The options ask for what cannot be; the text says what to do.
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
    /// The model file cannot be read.
    #[error(transparent)]
    Gguf(#[from] GgufError),
    /// The model cannot be run.
    #[error(transparent)]
    Model(#[from] ModelError),
    /// The model or a tensor cannot be quantized.
    #[error(transparent)]
    Quantize(#[from] QuantizeError),
    /// The text cannot be used, or the model fails on it.
    #[error(transparent)]
    Eval(#[from] EvalError),
    /// The importance file cannot be read.
    #[error(transparent)]
    Importance(#[from] ImportanceError),
    /// The plan cannot be written.
    #[error(transparent)]
    Plan(#[from] PlanError),
    /// An input that a result depends on could not be read, or changed meanwhile.
    #[error(transparent)]
    Input(#[from] InputError),
    /// Ctrl-C; what was measured is kept.
    #[error(transparent)]
    Interrupted(#[from] Interrupted),
}

impl SearchError {
    /// What is wrong with a file.
    pub(super) fn unusable(path: &Path, problem: &str) -> Self {
        Self::Unusable(format!("{}: {problem}", path.display()))
    }
}
