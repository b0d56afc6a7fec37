//! What can go wrong with storage.

use std::io;
use std::path::{Path, PathBuf};

use crate::support::interrupt::Interrupted;

/// An error of storage; it names the address, says what was found and what to do.
#[derive(Debug, thiserror::Error)]
pub enum StorageError {
    /// Text that is no address.
    #[error("{address}: {problem}: expected s3://BUCKET/KEY")]
    Address {
        /// The text.
        address: String,
        /// What is wrong with it.
        problem: String,
    },
    /// The feature `s3` is off.
    #[error(
        "{address}: this quantkit was built without storage: build it with the feature s3, or copy \
         the files and give their paths"
    )]
    NotBuilt {
        /// What was asked for.
        address: String,
    },
    /// The environment variables do not make sense.
    #[error("{address}: {cause}: check the AWS_… variables")]
    Setup {
        /// What was asked for.
        address: String,
        /// What is wrong.
        cause: String,
    },
    /// Nobody says who is asking.
    #[error(
        "{address}: there are no credentials: set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or \
         AWS_SKIP_SIGNATURE=true for a public bucket"
    )]
    NoCredentials {
        /// What was asked for.
        address: String,
    },
    /// The server refuses.
    #[error(
        "{address}: {endpoint} refuses access ({found}): check AWS_ACCESS_KEY_ID, \
         AWS_SECRET_ACCESS_KEY, AWS_REGION and what this key may do there"
    )]
    Denied {
        /// What was asked for.
        address: String,
        /// The server.
        endpoint: String,
        /// What it said.
        found: String,
    },
    /// No such object or bucket.
    #[error(
        "{address}: not found at {endpoint} ({found}): check the address, and AWS_ENDPOINT_URL if \
         the storage is not Amazon's"
    )]
    NotFound {
        /// What was asked for.
        address: String,
        /// The server.
        endpoint: String,
        /// What it said.
        found: String,
    },
    /// A prefix without what is looked for.
    #[error("{address}: no {what} is here (objects found: {others}): check the address")]
    NothingBelow {
        /// The prefix.
        address: String,
        /// What was looked for.
        what: String,
        /// Objects that are something else.
        others: usize,
    },
    /// The object became another one while it was read.
    #[error("{address}: was replaced while it was fetched: run the command again")]
    Replaced {
        /// The object.
        address: String,
    },
    /// No answer.
    #[error(
        "{address}: {endpoint} cannot be reached ({cause}): check AWS_ENDPOINT_URL and the network, \
         then run the command again"
    )]
    Unreachable {
        /// What was asked for.
        address: String,
        /// The server.
        endpoint: String,
        /// Why.
        cause: String,
    },
    /// Any other answer.
    #[error(
        "{address}: {endpoint} answers: {found}: run the command again if that may pass, else check \
         the AWS_… variables"
    )]
    Failed {
        /// What was asked for.
        address: String,
        /// The server.
        endpoint: String,
        /// What it said.
        found: String,
    },
    /// No place for what is fetched.
    #[error("no directory is known for what is fetched: set QUANTKIT_CACHE to one")]
    NoCache,
    /// A local file could not be read or written.
    #[error("{path}: {source}")]
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

impl StorageError {
    /// Names the file that an input or output error is about.
    pub(super) fn io(path: &Path) -> impl FnOnce(io::Error) -> Self + '_ {
        move |source| Self::Io { path: path.to_path_buf(), source }
    }
}
