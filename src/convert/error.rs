//! What can go wrong in a conversion.

use std::path::{Path, PathBuf};

use crate::checkpoint::SafetensorsError;
use crate::checkpoint::config::ConfigError;
use crate::gguf::GgufError;
use crate::support::input_file::InputError;
use crate::support::interrupt::Interrupted;
use crate::tokenizer::TokenizerError;

/// An error of `convert` or `export`; every one names the file.
#[derive(Debug, thiserror::Error)]
pub enum ConvertError {
    /// The GGUF side.
    #[error(transparent)]
    Gguf(#[from] GgufError),
    /// The input changed meanwhile.
    #[error(transparent)]
    Input(#[from] InputError),
    /// The checkpoint's tensors.
    #[error(transparent)]
    Checkpoint(#[from] SafetensorsError),
    /// The checkpoint's config.json.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// The tokenizer in a checkpoint's files.
    #[error(transparent)]
    Tokenizer(#[from] TokenizerError),
    /// The vocabulary in a GGUF file's metadata.
    #[error("{}: {source}", path.display())]
    Vocabulary {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        source: TokenizerError,
    },
    /// A file that is well-formed but cannot be converted.
    #[error("{}: {problem}", path.display())]
    Unusable {
        /// The file.
        path: PathBuf,
        /// What was expected, what was found, and what to do.
        problem: String,
    },
    /// The operating system refused.
    #[error("{}: {source}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// Ctrl-C.
    #[error(transparent)]
    Interrupted(#[from] Interrupted),
}

impl ConvertError {
    /// A file that cannot be converted.
    pub(super) fn unusable(path: &Path, problem: impl Into<String>) -> Self {
        Self::Unusable { path: path.to_path_buf(), problem: problem.into() }
    }

    /// An I/O error of `path`.
    pub(super) fn io(path: &Path, source: std::io::Error) -> Self {
        Self::Io { path: path.to_path_buf(), source }
    }
}
