//! A directory for results that may lie in storage: a run works in a directory here, what it keeps for
//! the case that it is stopped is sent as it grows, and the results when they are complete.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::mpsc::{self, RecvTimeoutError, Sender};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use super::address::Address;
use super::client::Client;
use super::{StorageError, cache, is_address};
use crate::support::atomic_file::write_atomically;
use crate::support::download::length;

/// The wait before a growing file is sent for the second time. Waits double up to [`LONGEST_WAIT`]:
/// a run that ends soon is worth as much care as the beginning of a long one.
const FIRST_WAIT: Duration = Duration::from_secs(1);

/// The longest time for which what has been computed is only on this machine.
const LONGEST_WAIT: Duration = Duration::from_secs(30);

/// Where results go.
#[derive(Debug)]
pub struct Output {
    directory: PathBuf,
    remote: Option<Remote>,
}

#[derive(Debug)]
struct Remote {
    address: Address,
    client: Client,
}

impl Output {
    /// The output of a path: that directory, or, for an address, a directory in the cache whose files
    /// go there.
    ///
    /// # Errors
    /// An address, or a configuration of storage, that cannot be.
    pub fn at(path: &Path) -> Result<Self, StorageError> {
        if !is_address(path) {
            return Ok(Self { directory: path.to_path_buf(), remote: None });
        }
        let address = Address::parse(path)?;
        let client = Client::connect(&address)?;
        let directory = cache::work_directory(&client, &address)?;
        Ok(Self { directory, remote: Some(Remote { address, client }) })
    }

    /// The directory to work in.
    pub fn directory(&self) -> &Path {
        &self.directory
    }

    /// The address that the files go to, if they go anywhere.
    pub fn address(&self) -> Option<String> {
        self.remote.as_ref().map(|remote| remote.address.to_string())
    }

    /// Brings a file that only ever grows: what is in storage, unless the file here begins with that.
    ///
    /// # Errors
    /// Storage that cannot be read, a directory that cannot be written, an interruption.
    pub fn bring(&self, name: &str) -> Result<(), StorageError> {
        let Some(Remote { address, client }) = &self.remote else { return Ok(()) };
        let Some(there) = client.read(&address.join(name))? else { return Ok(()) };
        let path = self.directory.join(name);
        if fs::read(&path).is_ok_and(|here| here.starts_with(&there)) {
            return Ok(());
        }
        tracing::info!("{}: {} bytes are there already", address.join(name), there.len());
        write_atomically(&path, &there).map_err(StorageError::io(&path))
    }

    /// Sends a file that grows, now and again and again until the mirror is stopped. Nothing happens
    /// where nothing goes to storage.
    ///
    /// # Errors
    /// The file cannot be read or sent now: no work should begin whose results could not be kept.
    pub fn mirror(&self, name: &str) -> Result<Option<Mirror>, StorageError> {
        let Some(Remote { address, .. }) = &self.remote else { return Ok(None) };
        let sent = Sent {
            client: Client::connect(address)?,
            address: address.join(name),
            path: self.directory.join(name),
            length: 0,
        };
        Mirror::start(sent).map(Some)
    }

    /// Sends files. The last one is their seal: an earlier one goes before any file changes, and the
    /// new one comes when all others are there.
    ///
    /// # Errors
    /// A file that cannot be read or sent.
    pub fn publish(&self, names: &[&str]) -> Result<(), StorageError> {
        let Some(Remote { address, client }) = &self.remote else { return Ok(()) };
        if let Some(seal) = names.last()
            && client.read(&address.join(seal))?.is_some()
        {
            client.remove(&address.join(seal))?;
        }
        for name in names {
            let path = self.directory.join(name);
            let bytes = fs::read(&path).map_err(StorageError::io(&path))?;
            client.write(&address.join(name), bytes)?;
        }
        Ok(())
    }

    /// Removes a file from storage that is of no more use, now that the results are there.
    pub fn remove(&self, name: &str) {
        let Some(Remote { address, client }) = &self.remote else { return };
        let address = address.join(name);
        if let Err(error) = client.remove(&address) {
            tracing::warn!("{error}; the results are complete, and {address} may be removed");
        }
    }

    /// Removes the directory here, if all that counts is in storage.
    pub fn close(self) {
        if self.remote.is_none() {
            return;
        }
        if let Err(error) = fs::remove_dir_all(&self.directory) {
            tracing::debug!("{}: cannot be removed: {error}", self.directory.display());
        }
    }
}

/// A file that is sent to storage as it grows, by a thread of its own. Dropping it sends the file a
/// last time and warns where that fails.
#[derive(Debug)]
pub struct Mirror {
    stop: Sender<()>,
    thread: Option<JoinHandle<Result<(), StorageError>>>,
}

impl Mirror {
    fn start(mut sent: Sent) -> Result<Self, StorageError> {
        sent.update()?;
        let (stop, stopped) = mpsc::channel::<()>();
        let thread = thread::spawn(move || {
            let mut wait = FIRST_WAIT;
            while stopped.recv_timeout(wait) == Err(RecvTimeoutError::Timeout) {
                if let Err(error) = sent.update() {
                    tracing::warn!("{error}; the run goes on and tries again");
                }
                wait = (wait * 2).min(LONGEST_WAIT);
            }
            sent.update()
        });
        Ok(Self { stop, thread: Some(thread) })
    }

    /// Sends the file a last time and ends.
    ///
    /// # Errors
    /// The file cannot be read or sent.
    pub fn stop(mut self) -> Result<(), StorageError> {
        self.end()
    }

    fn end(&mut self) -> Result<(), StorageError> {
        // A thread that is gone already has nobody to listen.
        let _ = self.stop.send(());
        let Some(thread) = self.thread.take() else { return Ok(()) };
        thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    }
}

impl Drop for Mirror {
    fn drop(&mut self) {
        if let Err(error) = self.end() {
            tracing::warn!("{error}; what was computed last is only on this machine");
        }
    }
}

/// What of a growing file is in storage.
#[derive(Debug)]
struct Sent {
    client: Client,
    address: Address,
    path: PathBuf,
    length: u64,
}

impl Sent {
    /// Sends the file, if it has grown.
    fn update(&mut self) -> Result<(), StorageError> {
        if length(&self.path) == self.length {
            return Ok(());
        }
        let bytes = fs::read(&self.path).map_err(StorageError::io(&self.path))?;
        let length = bytes.len() as u64;
        self.client.write(&self.address, bytes)?;
        self.length = length;
        Ok(())
    }
}
