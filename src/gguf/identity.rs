//! Which model some files hold, for results that must not be mixed up.

use super::GgufFile;
use crate::support::hash::sha256_bytes;
use crate::support::input_file::{InputError, Inputs};

/// What tells a model's files from all others.
#[derive(Debug, Clone)]
pub struct ModelIdentity {
    /// SHA-256 of the file; of a split model, of its parts' hashes in order.
    pub sha256: String,
    /// Bytes of all files.
    pub bytes: u64,
    /// The open files.
    pub inputs: Inputs,
}

/// Hashes an open model, all parts of a split one: what is mapped, wherever the paths lead by now.
///
/// # Errors
/// A file that cannot be read or is written to meanwhile; an interruption.
pub fn identify(model: &GgufFile) -> Result<ModelIdentity, InputError> {
    let inputs = model.inputs();
    let mut hashes = inputs.sha256()?;
    let sha256 = match hashes.len() {
        1 => hashes.swap_remove(0),
        _ => sha256_bytes(hashes.concat().as_bytes()),
    };
    Ok(ModelIdentity { sha256, bytes: model.file_bytes(), inputs })
}
