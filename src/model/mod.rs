//! The decoder, which runs the layers that families describe; and its KV cache.

mod cache;
mod decoder;
mod embedding;
mod forward;
mod observer;
mod ops;
pub mod profile;
mod rotary;
mod spec;
mod weights;

#[cfg(test)]
mod tests;

use std::path::{Path, PathBuf};

use crate::gguf::GgufError;

pub use cache::{BatchItem, SequenceCache};
pub use decoder::{Decoder, Residual, StandIn};
pub use observer::ActivationObserver;
pub use ops::KernelOptions;
pub use rotary::RopeFrequencies;
pub use spec::DecoderSpec;

/// An error of a model.
#[derive(Debug, thiserror::Error)]
pub enum ModelError {
    /// The file cannot be read.
    #[error(transparent)]
    Gguf(#[from] GgufError),
    /// The file is sound, but holds no model that quantkit can run.
    #[error("{}: {problem}", path.display())]
    Unsupported {
        /// The file.
        path: PathBuf,
        /// What was expected and what was found.
        problem: String,
    },
    /// A sequence that was begun as a short one becomes a long one, which the model computes otherwise.
    #[error(
        "a sequence of {length} tokens was begun for {begun_for}: this model (LongRoPE) computes sequences \
         of more than {original_context} tokens otherwise, from their first token on; begin the sequence \
         for the length that it will have"
    )]
    Outgrown {
        /// The length up to which a sequence is a short one.
        original_context: usize,
        /// The length that the sequence was begun for.
        begun_for: usize,
        /// The length that it was to have.
        length: usize,
    },
    /// A tensor operation failed.
    #[error(transparent)]
    Tensor(#[from] candle_core::Error),
}

impl ModelError {
    fn unsupported(path: &Path, problem: impl Into<String>) -> Self {
        Self::Unsupported { path: path.to_path_buf(), problem: problem.into() }
    }
}
