//! Importance: how much each input channel of each weight matrix matters.
//!
//! The measure is llama.cpp's: the mean squared activation that a matrix's column is multiplied
//! with, over all tokens of a calibration text. [`ActivationSums`] is what is collected, kept in
//! files and merged; [`Importance`] is what weights the errors while a model is quantized.

mod coverage;
mod dat_file;
mod error;
mod files;
mod gguf_file;
mod merge;
mod sums;
#[cfg(test)]
mod tests;

use std::collections::HashMap;
use std::path::{Path, PathBuf};

pub use coverage::{Coverage, HARDLY_ACTIVE};
pub use error::ImportanceError;
pub use files::FileFormat;
pub use sums::{ActivationSums, DEFAULT_CHUNK_TOKENS, TensorSums};

/// The mean squared activation that each column of each matrix meets, as quantizing uses it.
#[derive(Debug, Clone, Default)]
pub struct Importance {
    path: PathBuf,
    tensors: HashMap<String, Vec<f32>>,
    datasets: Vec<String>,
    chunks: u32,
}

impl Importance {
    /// Reads a GGUF or legacy `.dat` importance file; its content decides which it is. The numbers
    /// are exactly those that llama-quantize makes of the same file.
    ///
    /// # Errors
    /// See [`ActivationSums::read`].
    pub fn read(path: &Path) -> Result<Self, ImportanceError> {
        Ok(Self::from_sums(ActivationSums::read(path)?, path))
    }

    /// The means of what was collected; `path` is the file that says where they come from.
    pub fn from_sums(sums: ActivationSums, path: &Path) -> Self {
        let (datasets, chunks) = (sums.datasets().to_vec(), sums.chunks());
        let tensors = sums.into_tensors().map(|(name, sums)| (name, sums.into_means()));
        Self { path: path.to_path_buf(), tensors: tensors.collect(), datasets, chunks }
    }

    /// A tensor's numbers: one a column, expert after expert.
    pub fn of(&self, tensor: &str) -> Option<&[f32]> {
        self.tensors.get(tensor).map(Vec::as_slice)
    }

    /// How many tensors are known.
    pub fn tensor_count(&self) -> usize {
        self.tensors.len()
    }

    /// The file that it was read from, as it was named.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The calibration texts, by the names of their files.
    pub fn datasets(&self) -> &[String] {
        &self.datasets
    }

    /// How many chunks of text it was computed on; 0 where the file does not say.
    pub fn chunks(&self) -> u32 {
        self.chunks
    }
}
