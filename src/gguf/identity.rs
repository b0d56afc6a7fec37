//! Which model a file holds, for results that must not be mixed up.

use std::io;
use std::path::Path;

use super::GgufFile;
use crate::support::hash::{sha256_file_once, sha256_reader};

/// What tells a model's files from all others.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ModelIdentity {
    /// SHA-256 of the file; of a split model, of its parts' hashes in order.
    pub sha256: String,
    /// Bytes of all files.
    pub bytes: u64,
}

/// Hashes a model, all parts of a split one. A file that is no model is hashed as it is: whoever
/// opens it says what is wrong with it.
///
/// # Errors
/// A file that cannot be read; an interruption.
pub fn identify(path: &Path) -> io::Result<ModelIdentity> {
    match GgufFile::open(path) {
        Ok(file) if file.part_paths().count() > 1 => {
            let hashes: Vec<String> =
                file.part_paths().map(sha256_file_once).collect::<io::Result<_>>()?;
            let sha256 = sha256_reader(hashes.concat().as_bytes())?;
            Ok(ModelIdentity { sha256, bytes: file.file_bytes() })
        }
        _ => Ok(ModelIdentity {
            sha256: sha256_file_once(path)?,
            bytes: std::fs::metadata(path)?.len(),
        }),
    }
}
