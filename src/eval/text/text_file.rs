//! A text, as it was read.

use std::path::{Path, PathBuf};

use crate::eval::EvalError;
use crate::support::hash::sha256_bytes;
use crate::support::regular_file::read_regular;

/// A text in UTF-8 that was read from a file. Its hash is of what was read, whatever the file holds by
/// now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TextFile {
    path: PathBuf,
    content: String,
    sha256: String,
}

impl TextFile {
    /// Reads a file.
    ///
    /// # Errors
    /// A file that cannot be read or is no UTF-8.
    pub fn read(path: &Path) -> Result<Self, EvalError> {
        let bytes = read_regular(path).map_err(|source| EvalError::io(path, source))?;
        let sha256 = sha256_bytes(&bytes);
        let content = String::from_utf8(bytes).map_err(|error| {
            EvalError::unusable(path, format!("expected text in UTF-8: {error}"))
        })?;
        Ok(Self { path: path.to_path_buf(), content, sha256 })
    }

    /// Its path.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// What it says.
    pub fn content(&self) -> &str {
        &self.content
    }

    /// Lower-case hexadecimal SHA-256 of its bytes.
    pub fn sha256(&self) -> &str {
        &self.sha256
    }
}
