//! Why a download fails.

use std::io;
use std::path::{Path, PathBuf};

use crate::support::interrupt::Interrupted;

/// Why a download did not end with verified files. The addresses are shown without passwords.
#[derive(Debug, thiserror::Error)]
pub enum FetchError {
    /// Text that names no source.
    #[error("expected demo-model, mmlu or hf:ORG/NAME[@REVISION], found {0:?}")]
    UnknownSource(String),
    /// The server could not be reached.
    #[error(
        "cannot reach {url}: {cause}; check the network, the proxy (HTTPS_PROXY) and the \
         certificates (SSL_CERT_FILE), or name a mirror with {mirror}"
    )]
    Unreachable {
        /// What was asked for.
        url: String,
        /// What the transport said.
        cause: String,
        /// The environment variable that names another server.
        mirror: &'static str,
    },
    /// The connection kept breaking in the middle of a file.
    #[error(
        "{url}: the connection broke {attempts} times, {received} bytes are here ({cause}); run \
         the same command again to go on from there"
    )]
    Dropped {
        /// What was asked for.
        url: String,
        /// How often it was tried.
        attempts: u32,
        /// What is kept for the next try.
        received: u64,
        /// What the transport said last.
        cause: String,
    },
    /// The hub wants to know who is asking.
    #[error("{url}: access denied (status {status}); {advice}")]
    Denied {
        /// What was asked for.
        url: String,
        /// 401 or 403.
        status: u16,
        /// What to do about it.
        advice: &'static str,
    },
    /// The server does not have it.
    #[error("{url}: not found (status 404); check the name and the revision")]
    NotFound {
        /// What was asked for.
        url: String,
    },
    /// Any other status that is no success.
    #[error("{url}: the server answered with status {status}; try again later")]
    Status {
        /// What was asked for.
        url: String,
        /// The HTTP status.
        status: u16,
    },
    /// An answer that does not follow the protocol.
    #[error("{url}: unexpected answer: {problem}")]
    Malformed {
        /// What was asked for.
        url: String,
        /// What is wrong with it.
        problem: String,
    },
    /// A file of the wrong length.
    #[error(
        "{url}: expected {expected} bytes, found {found}; nothing was kept: try again, or use \
         another server"
    )]
    WrongSize {
        /// Where the file comes from.
        url: String,
        /// Bytes that were announced.
        expected: u64,
        /// Bytes that came.
        found: u64,
    },
    /// A file with other contents than announced.
    #[error(
        "{url}: expected SHA-256 {expected}, found {found}; nothing was kept: try again, or use \
         another server"
    )]
    WrongChecksum {
        /// Where the file comes from.
        url: String,
        /// The announced checksum.
        expected: String,
        /// The checksum of what came.
        found: String,
    },
    /// A repository that holds no checkpoint of the kind that quantkit reads.
    #[error("{repository}: expected {expected}, found {found}")]
    NoCheckpoint {
        /// The repository.
        repository: String,
        /// What a checkpoint needs.
        expected: &'static str,
        /// What is there instead.
        found: String,
    },
    /// A file could not be read or written here.
    #[error("{}: {source}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// Ctrl-C.
    #[error(transparent)]
    Interrupted(#[from] Interrupted),
}

impl FetchError {
    /// Names the file that an input or output error is about.
    pub(super) fn io(path: &Path) -> impl FnOnce(io::Error) -> Self + '_ {
        move |source| Self::Io { path: path.to_path_buf(), source }
    }
}
