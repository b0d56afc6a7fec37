//! S3-compatible storage: `s3://BUCKET/KEY` in place of a path. What is read comes to a cache on
//! this machine once; what is written is made here and sent.
//!
//! Everything blocks, and a path that is no address comes back as it is. Configuration is by the
//! usual environment variables: AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY, AWS_SESSION_TOKEN,
//! AWS_REGION, AWS_ENDPOINT_URL, AWS_ALLOW_HTTP, AWS_MAX_ATTEMPTS.

mod address;
mod cache;
#[cfg(feature = "s3")]
mod client;
#[cfg(not(feature = "s3"))]
#[path = "no_client.rs"]
mod client;
mod error;
mod object;
mod output;
#[cfg(feature = "s3")]
mod transport;

use std::path::{Path, PathBuf};

pub use error::StorageError;
pub use output::{Mirror, Output};

use address::Address;
use client::Client;
use object::Object;

/// Whether a path is the address of something in storage.
pub fn is_address(path: &Path) -> bool {
    Address::is_one(path)
}

/// Finds out whether there is an object at an address.
///
/// # Errors
/// None, or storage that cannot be reached.
pub fn check_there(path: &Path) -> Result<(), StorageError> {
    let address = Address::parse(path)?;
    Client::connect(&address)?.find(&address).map(drop)
}

/// The local paths of some files that belong together: an address's object is fetched into the cache,
/// unless it is there. Files of one prefix lie in one directory, under their own names.
///
/// # Errors
/// An object that is not there or cannot be read, a cache that cannot be written, an interruption.
pub fn fetch_files(paths: &[PathBuf]) -> Result<Vec<PathBuf>, StorageError> {
    let addresses = paths.iter().map(|path| Address::parse(path)).collect::<Result<Vec<_>, _>>()?;
    let Some(first) = addresses.first() else { return Ok(Vec::new()) };
    let client = Client::connect(first)?;
    let objects = addresses.iter().map(|one| client.find(one)).collect::<Result<Vec<_>, _>>()?;
    let directory = cache::fetch(&client, &first.parent(), &objects)?;
    Ok(addresses.iter().map(|address| directory.join(address.name())).collect())
}

/// A local directory with those objects below a prefix of which the predicate wants the name (the
/// rest of the key, with `/` between its parts); they are fetched into the cache, unless they are
/// there.
///
/// # Errors
/// No such object, called `what`; one that cannot be read, a cache that cannot be written, an
/// interruption.
pub fn fetch_below(
    prefix: &Path,
    what: &str,
    wanted: &dyn Fn(&str) -> bool,
) -> Result<PathBuf, StorageError> {
    let root = Address::parse(prefix)?;
    let client = Client::connect(&root)?;
    let found = client.list(&root)?;
    let objects: Vec<Object> = found
        .iter()
        .filter(|object| object.address.below(&root).is_some_and(wanted))
        .cloned()
        .collect();
    if objects.is_empty() {
        let (address, what) = (root.to_string(), what.to_string());
        return Err(StorageError::NothingBelow { address, what, others: found.len() });
    }
    cache::fetch(&client, &root, &objects)
}
