//! What downloads share: the partial file beside its place, and the lock that one process at a time
//! holds over both.

use std::fs::{self, File, TryLockError};
use std::io::{self, Seek};
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::interrupt::{self, Interrupted};

/// How often a lock that another process holds is tried again.
const GLANCE: Duration = Duration::from_millis(300);

/// A file's path with something added to its name.
pub fn beside(target: &Path, extension: &str) -> PathBuf {
    let mut name = target.file_name().unwrap_or_default().to_os_string();
    name.push(".");
    name.push(extension);
    target.with_file_name(name)
}

/// Bytes in a file; 0 if it is not there.
pub fn length(path: &Path) -> u64 {
    fs::metadata(path).map_or(0, |metadata| metadata.len())
}

/// Opens a file for writing from `start` on, forgetting what lies beyond.
///
/// # Errors
/// A file that cannot be written.
pub fn open_at(path: &Path, start: u64) -> io::Result<File> {
    let mut file = File::options().create(true).write(true).truncate(false).open(path)?;
    file.set_len(start)?;
    file.seek(io::SeekFrom::Start(start))?;
    Ok(file)
}

/// Holds off other processes that fetch the same file until what is returned is dropped. (hf-hub
/// locks the same file in the same way.)
///
/// # Errors
/// A file that cannot be made or locked, as `failed` puts it; an interruption while waiting.
pub fn lock<E: From<Interrupted>>(
    path: &Path,
    failed: impl FnOnce(io::Error) -> E,
) -> Result<File, E> {
    let file = match File::create(path) {
        Ok(file) => file,
        Err(error) => return Err(failed(error)),
    };
    loop {
        match file.try_lock() {
            Ok(()) => return Ok(file),
            Err(TryLockError::WouldBlock) => {
                tracing::info!("waiting for another process that holds {}", path.display());
                interrupt::check()?;
                std::thread::sleep(GLANCE);
            }
            Err(TryLockError::Error(error)) => return Err(failed(error)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_beside_a_file_keep_its_name() {
        assert_eq!(beside(Path::new("a/b.whl"), "part"), Path::new("a/b.whl.part"));
    }

    #[test]
    fn what_lies_beyond_the_start_is_forgotten() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("part");
        fs::write(&path, "kept and more").unwrap();
        io::Write::write_all(&mut open_at(&path, 4).unwrap(), b"!").unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"kept!");
        assert_eq!((length(&path), length(&directory.path().join("none"))), (5, 0));
    }
}
