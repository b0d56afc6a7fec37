//! Files that a result is made from: they are opened once, and what is hashed is what is read. A file
//! that changes meanwhile is noticed.

use std::collections::HashMap;
use std::fs::{self, File, Metadata};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::SystemTime;

use memmap2::Mmap;

use super::hash::sha256_open;
use super::mapped::map_open;
use super::regular_file::open_regular;
use super::same_file::file_identity;

/// An input that cannot be read, or is no longer what it was.
#[derive(Debug, thiserror::Error)]
#[error("{}: {source}", path.display())]
pub struct InputError {
    /// The file.
    pub path: PathBuf,
    /// What is wrong.
    pub source: io::Error,
}

impl InputError {
    fn of(path: &Path) -> impl Fn(io::Error) -> Self {
        move |source| Self { path: path.to_path_buf(), source }
    }
}

/// What tells a file from another one, and from itself once it has been written to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct FileState {
    identity: Option<(u64, u64)>,
    length: u64,
    modified: SystemTime,
}

impl FileState {
    /// The state of the file that a path leads to.
    ///
    /// # Errors
    /// A file that cannot be looked at.
    pub fn at(path: &Path) -> Result<Self, InputError> {
        fs::metadata(path).and_then(|found| Self::of(&found)).map_err(InputError::of(path))
    }

    fn of(metadata: &Metadata) -> io::Result<Self> {
        Ok(Self {
            identity: file_identity(metadata),
            length: metadata.len(),
            modified: metadata.modified()?,
        })
    }

    /// Finds out whether a path still leads to the same file, and nothing has been written to it: for
    /// those who open a file twice.
    ///
    /// # Errors
    /// Another file, or one that has been written to.
    pub fn check(&self, path: &Path) -> Result<(), InputError> {
        if Self::at(path)? == *self {
            return Ok(());
        }
        Err(InputError::of(path)(io::Error::other(
            "the file was changed or replaced while it was read: run the command again when nothing \
             writes to it",
        )))
    }
}

/// An open file that a result is made from.
#[derive(Debug)]
pub struct InputFile {
    path: PathBuf,
    file: File,
    /// When it was opened, or when it was last found to hold the same bytes.
    state: Mutex<FileState>,
    sha256: OnceLock<String>,
    /// Whether it has been said that the path leads to another file now.
    replaced: AtomicBool,
}

impl InputFile {
    /// Opens a file.
    ///
    /// # Errors
    /// What the system says, and anything that is no regular file.
    pub fn open(path: &Path) -> io::Result<Self> {
        let file = open_regular(path)?;
        let state = FileState::of(&file.metadata()?)?;
        Ok(Self {
            path: path.to_path_buf(),
            file,
            state: Mutex::new(state),
            sha256: OnceLock::new(),
            replaced: AtomicBool::new(false),
        })
    }

    /// The path that it was opened by.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Maps it.
    ///
    /// # Errors
    /// What the system says.
    pub fn map(&self) -> io::Result<Mmap> {
        map_open(&self.file)
    }

    /// Lower-case hexadecimal SHA-256 of the open file. A file that this process has hashed already, and
    /// that has not been written to since, is not read again.
    ///
    /// # Errors
    /// A file that cannot be read or is written to meanwhile; an interruption.
    pub fn sha256(&self) -> Result<&str, InputError> {
        if let Some(known) = self.sha256.get() {
            return Ok(known);
        }
        let state = self.last_state();
        let key = (self.path.clone(), state);
        let known = known_hashes(|known| known.get(&key).cloned());
        let sha256 = match known {
            Some(sha256) => sha256,
            None => {
                let sha256 = self.hash()?;
                if self.state_now()? != state {
                    return Err(self.changed());
                }
                known_hashes(|known| known.insert(key, sha256.clone()));
                sha256
            }
        };
        Ok(self.sha256.get_or_init(|| sha256))
    }

    /// Finds out whether the file still is what it was when it was opened. That its path leads to another
    /// one now is no error, as it is not that one which is read: a warning says so.
    ///
    /// # Errors
    /// A file that has been written to, unless it is known to hold the same bytes as before.
    pub fn check(&self) -> Result<(), InputError> {
        let now = self.state_now()?;
        if now != self.last_state() {
            match self.sha256.get() {
                Some(before) if *before == self.hash()? => {
                    *self.state.lock().unwrap_or_else(PoisonError::into_inner) = now;
                }
                _ => return Err(self.changed()),
            }
        }
        let at_path = fs::metadata(&self.path).map(|found| file_identity(&found)).ok();
        if at_path != Some(now.identity) && !self.replaced.swap(true, Ordering::Relaxed) {
            let sha256 = self.sha256.get().map(|sha256| format!(" (SHA-256 {sha256})"));
            tracing::warn!(
                "{}: was replaced or removed meanwhile; the results are those of the file that was \
                 there before{}",
                self.path.display(),
                sha256.unwrap_or_default()
            );
        }
        Ok(())
    }

    fn hash(&self) -> Result<String, InputError> {
        sha256_open(&self.file, &self.path).map_err(InputError::of(&self.path))
    }

    fn last_state(&self) -> FileState {
        *self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn state_now(&self) -> Result<FileState, InputError> {
        self.file
            .metadata()
            .and_then(|found| FileState::of(&found))
            .map_err(InputError::of(&self.path))
    }

    fn changed(&self) -> InputError {
        InputError::of(&self.path)(io::Error::other(
            "the file was written to while it was in use, so that nothing made from it can be \
             trusted: run the command again when nothing writes to it",
        ))
    }
}

/// The hashes of files in the states in which this process has read them whole.
fn known_hashes<T>(with: impl FnOnce(&mut HashMap<(PathBuf, FileState), String>) -> T) -> T {
    static KNOWN: Mutex<Option<HashMap<(PathBuf, FileState), String>>> = Mutex::new(None);
    with(KNOWN.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert_default())
}

/// The open files that a result is made from.
#[derive(Debug, Clone, Default)]
pub struct Inputs(Vec<Arc<InputFile>>);

impl Inputs {
    /// The files of both.
    pub fn and(mut self, others: &Self) -> Self {
        self.0.extend(others.0.iter().cloned());
        self
    }

    /// The hash of each.
    ///
    /// # Errors
    /// As [`InputFile::sha256`].
    pub fn sha256(&self) -> Result<Vec<String>, InputError> {
        self.0.iter().map(|input| input.sha256().map(str::to_string)).collect()
    }

    /// Finds out whether all still are what they were: before a result is kept.
    ///
    /// # Errors
    /// As [`InputFile::check`], of the first one.
    pub fn check(&self) -> Result<(), InputError> {
        self.0.iter().try_for_each(|input| input.check())
    }
}

impl FromIterator<Arc<InputFile>> for Inputs {
    fn from_iter<I: IntoIterator<Item = Arc<InputFile>>>(files: I) -> Self {
        Self(files.into_iter().collect())
    }
}

/// [`InputFile::sha256`] of the file that a path leads to.
///
/// # Errors
/// A file that cannot be read or is written to meanwhile; an interruption.
pub fn sha256_once(path: &Path) -> Result<String, InputError> {
    let file = InputFile::open(path).map_err(InputError::of(path))?;
    file.sha256().map(str::to_string)
}

#[cfg(test)]
mod tests {
    use std::fs::FileTimes;
    use std::time::Duration;

    use super::*;
    use crate::support::hash::sha256_bytes;

    /// A directory with a file.
    fn place(content: &str) -> (tempfile::TempDir, PathBuf) {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("model.bin");
        fs::write(&path, content).unwrap();
        (directory, path)
    }

    /// The times of writes a moment apart may be the same.
    fn touch(path: &Path) {
        let later = SystemTime::now() + Duration::from_secs(5);
        let file = File::options().write(true).open(path).unwrap();
        file.set_times(FileTimes::new().set_modified(later)).unwrap();
    }

    #[test]
    fn a_file_that_changed_is_hashed_again() {
        let (_directory, path) = place("");
        for content in ["one", "one and more"] {
            fs::write(&path, content).unwrap();
            assert_eq!(sha256_once(&path).unwrap(), sha256_bytes(content.as_bytes()));
            assert_eq!(sha256_once(&path).unwrap(), sha256_bytes(content.as_bytes()));
        }
    }

    #[test]
    fn what_is_hashed_is_the_open_file_and_not_its_successor() {
        let (directory, path) = place("first");
        let input = InputFile::open(&path).unwrap();
        let other = directory.path().join("other");
        fs::write(&other, "second").unwrap();
        fs::rename(&other, &path).unwrap();
        assert_eq!(input.sha256().unwrap(), sha256_bytes(b"first"));
        assert_eq!(&input.map().unwrap()[..], b"first");
        input.check().unwrap();
        assert!(input.replaced.load(Ordering::Relaxed), "and that is said");
    }

    #[test]
    fn a_file_that_is_written_to_is_noticed() {
        let (_directory, path) = place("first");
        let unhashed = InputFile::open(&path).unwrap();
        let input = Arc::new(InputFile::open(&path).unwrap());
        input.sha256().unwrap();
        touch(&path);
        // A new date alone is no new content, which only the one knows that has a hash.
        input.check().unwrap();
        assert!(unhashed.check().is_err());
        fs::write(&path, "other").unwrap();
        touch(&path);
        let error = Inputs::from_iter([input]).check().unwrap_err().to_string();
        assert!(error.contains("model.bin: the file was written to while"), "{error}");
    }

    #[test]
    fn a_path_that_leads_elsewhere_is_noticed() {
        let (directory, path) = place("first");
        let state = FileState::at(&path).unwrap();
        state.check(&path).unwrap();
        let other = directory.path().join("other");
        fs::copy(&path, &other).unwrap();
        fs::rename(&other, &path).unwrap();
        let error = state.check(&path).unwrap_err().to_string();
        assert!(error.contains("changed or replaced"), "{error}");
    }
}
