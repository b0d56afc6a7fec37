//! What has been fetched, on this machine's disk: a directory for each version of each thing, so that
//! nothing in it ever changes, and processes that share it cannot disturb each other.

use std::fs;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::address::Address;
use super::client::Client;
use super::{Object, StorageError};
use crate::support::directory::{directory_of, sync_directory};
use crate::support::download::{beside, length, lock, open_at};
use crate::support::hash::sha256_bytes;
use crate::support::progress::{Progress, Unit};
use crate::support::retry::{Failure, Patience, resume};

/// How often in a row a connection may be lost that brought little.
const PATIENCE: Patience = Patience {
    attempts: 8,
    first_wait: Duration::from_millis(100),
    longest_wait: Duration::from_secs(5),
    stops: true,
};

/// Characters of a hash that make a directory's name.
const NAME_LENGTH: usize = 32;

/// The cache's directory: QUANTKIT_CACHE, or `quantkit` where the system keeps caches.
fn root() -> Result<PathBuf, StorageError> {
    let variable = |name: &str| std::env::var_os(name).filter(|value| !value.is_empty());
    let below = |name: &str, rest: &str| variable(name).map(|root| PathBuf::from(root).join(rest));
    variable("QUANTKIT_CACHE")
        .map(PathBuf::from)
        .or_else(|| below("XDG_CACHE_HOME", "quantkit"))
        .or_else(|| below("LOCALAPPDATA", "quantkit"))
        .or_else(|| below("HOME", ".cache/quantkit"))
        .ok_or(StorageError::NoCache)
}

/// The directory in which a run works whose results go to an address.
pub(super) fn work_directory(client: &Client, address: &Address) -> Result<PathBuf, StorageError> {
    let place = format!("{}\n{address}", client.endpoint());
    Ok(root()?.join("runs").join(name(&place)))
}

fn name(identity: &str) -> String {
    sha256_bytes(identity.as_bytes())[..NAME_LENGTH].to_string()
}

/// Fetches objects that lie below `root`; returns the directory that has them under the rest of their
/// keys.
pub(super) fn fetch(
    client: &Client,
    root_address: &Address,
    objects: &[Object],
) -> Result<PathBuf, StorageError> {
    let mut identity = format!("{}\n{root_address}\n", client.endpoint());
    for Object { address, size, tag, modified } in objects {
        // The time tells versions apart only where there is no tag.
        let version = tag.as_ref().unwrap_or(modified);
        identity += &format!("{}\t{size}\t{version}\n", address.key);
    }
    let directory = root()?.join("fetched").join(name(&identity));
    let total = objects.iter().map(|object| object.size).sum();
    let progress = Progress::new("Fetching", total, Unit::Bytes);
    let mut before = 0;
    for object in objects {
        let Some(rest) = object.address.below(root_address) else { continue };
        progress.message(object.address.name());
        fetch_one(client, object, &directory.join(rest), &|kept| progress.set(before + kept))?;
        before += object.size;
    }
    progress.finish();
    Ok(directory)
}

/// Brings one object to its place. What has come is kept beside it until it is complete, so that
/// another connection, or a later process, can go on from there.
fn fetch_one(
    client: &Client,
    object: &Object,
    target: &Path,
    on_progress: &dyn Fn(u64),
) -> Result<(), StorageError> {
    if is_complete(target, object) {
        return Ok(());
    }
    let directory = directory_of(target);
    fs::create_dir_all(directory).map_err(StorageError::io(directory))?;
    let lock_file = beside(target, "lock");
    let _lock = lock(&lock_file, StorageError::io(&lock_file))?;
    if is_complete(target, object) {
        return Ok(());
    }
    tracing::info!("{}: fetching {} bytes", object.address, object.size);
    let part = beside(target, "part");
    resume(&PATIENCE, &part, |_| append(client, object, &part, on_progress))?;
    fs::rename(&part, target).map_err(StorageError::io(target))?;
    sync_directory(directory_of(target));
    Ok(())
}

fn is_complete(target: &Path, object: &Object) -> bool {
    target.is_file() && length(target) == object.size
}

/// Appends to the partial file what it lacks; the bytes are on the disk when this returns.
fn append(
    client: &Client,
    object: &Object,
    part: &Path,
    on_progress: &dyn Fn(u64),
) -> Result<(), Failure<StorageError>> {
    let start = Some(length(part)).filter(|&kept| kept <= object.size).unwrap_or(0);
    let mut received = 0;
    let mut transfer = || {
        let mut file = open_at(part, start).map_err(StorageError::io(part))?;
        on_progress(start);
        if start < object.size {
            client.read_from(object, start, &mut |bytes| {
                file.write_all(bytes).map_err(StorageError::io(part))?;
                received += bytes.len() as u64;
                on_progress(start + received);
                Ok(())
            })?;
        }
        file.sync_all().map_err(StorageError::io(part))?;
        match length(part) {
            found if found == object.size => Ok(()),
            _ => Err(StorageError::Replaced { address: object.address.to_string() }),
        }
    };
    transfer().map_err(|error| match error {
        // The client has tried long enough to reach the storage: only what was reached, and lost, is
        // worth another connection.
        StorageError::Unreachable { .. } if received > 0 => {
            tracing::warn!("{error}; going on from byte {}", length(part));
            Failure::passing(error)
        }
        error => error.into(),
    })
}
