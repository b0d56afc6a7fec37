//! Directories: bringing their entries to the disk, and letting in one writer at a time.

use std::fs::{File, TryLockError};
use std::path::Path;
use std::time::Duration;

/// How often a lock that another process holds is tried again, and how many times.
const GLANCE: Duration = Duration::from_millis(100);
const GLANCES: usize = 600;

/// The directory that holds a path's last component.
pub fn directory_of(path: &Path) -> &Path {
    match path.parent() {
        Some(directory) if directory != Path::new("") => directory,
        _ => Path::new("."),
    }
}

/// Brings a directory's entries to the disk, where the system can: files that were renamed or removed
/// stay so after a crash.
pub fn sync_directory(directory: &Path) {
    if let Err(error) = File::open(directory).and_then(|directory| directory.sync_all()) {
        tracing::debug!("{}: cannot be synced: {error}", directory.display());
    }
}

/// Keeps other processes that ask for the same lock waiting until what is returned is dropped.
/// `None` where the system has no such locks, or another process holds it for a minute.
pub fn lock_directory(directory: &Path) -> Option<File> {
    let file = File::open(directory).ok()?;
    for _ in 0..GLANCES {
        match file.try_lock() {
            Ok(()) => return Some(file),
            Err(TryLockError::WouldBlock) => std::thread::sleep(GLANCE),
            Err(TryLockError::Error(_)) => return None,
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_without_a_directory_lies_in_the_current_one() {
        assert_eq!(directory_of(Path::new("a/b")), Path::new("a"));
        assert_eq!(directory_of(Path::new("b")), Path::new("."));
    }

    #[cfg(unix)]
    #[test]
    fn a_directory_is_locked_once_at_a_time() {
        let directory = tempfile::tempdir().unwrap();
        let lock = lock_directory(directory.path()).unwrap();
        let waiting = std::thread::scope(|scope| {
            let waiting = scope.spawn(|| lock_directory(directory.path()).is_some());
            std::thread::sleep(GLANCE / 4);
            assert!(!waiting.is_finished());
            drop(lock);
            waiting.join().unwrap()
        });
        assert!(waiting);
    }
}
