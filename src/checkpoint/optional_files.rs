//! The small files that a checkpoint may have or lack.

use std::path::Path;

use serde_json::{Map, Value};

use super::config::ConfigError;
use crate::support::regular_file::read_regular;

/// The content of a file; `None` where there is none.
///
/// # Errors
/// A file that the system refuses to read.
pub fn read_optional(path: &Path) -> Result<Option<Vec<u8>>, ConfigError> {
    match read_regular(path) {
        Ok(bytes) => Ok(Some(bytes)),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(source) => Err(ConfigError::Io { path: path.to_path_buf(), source }),
    }
}

/// The JSON object in a file; `None` where there is no file.
///
/// # Errors
/// A file that cannot be read, or holds something else.
pub fn read_object(path: &Path) -> Result<Option<Map<String, Value>>, ConfigError> {
    let Some(bytes) = read_optional(path)? else { return Ok(None) };
    serde_json::from_slice(&bytes).map(Some).map_err(|error| ConfigError::Unusable {
        path: path.to_path_buf(),
        problem: format!("no JSON object: {error}"),
    })
}
