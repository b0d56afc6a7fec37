//! The files that hold what is collected: which format one has, and reading and writing it.

use std::path::Path;

use super::sums::ActivationSums;
use super::{ImportanceError, dat_file, gguf_file};
use crate::gguf::has_magic;
use crate::support::mapped::map_file;

/// How a collection is kept in a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FileFormat {
    /// llama.cpp's GGUF importance file: sums and counts, so that nothing is lost.
    Gguf,
    /// llama.cpp's legacy file: means only.
    Dat,
}

impl ActivationSums {
    /// Reads a GGUF or legacy `.dat` file; its content decides which it is.
    ///
    /// # Errors
    /// A file that is neither or is damaged, sums that are no numbers, infinite or negative.
    pub fn read(path: &Path) -> Result<Self, ImportanceError> {
        let map = map_file(path).map_err(|source| ImportanceError::io(path, source))?;
        let sums = if has_magic(&map) {
            gguf_file::read(path)?
        } else {
            dat_file::read(&map).map_err(|problem| ImportanceError::malformed(path, problem))?
        };
        tracing::info!(
            "{}: importance of {} tensors, {} chunks",
            path.display(),
            sums.tensors.len(),
            sums.chunks
        );
        Ok(sums)
    }

    /// Writes the file of this format; it appears complete or not at all.
    ///
    /// # Errors
    /// I/O errors, and what the format has no room for.
    pub fn write(&self, path: &Path, format: FileFormat) -> Result<(), ImportanceError> {
        match format {
            FileFormat::Gguf => gguf_file::write(self, path),
            FileFormat::Dat => dat_file::write(self, path),
        }
    }
}
