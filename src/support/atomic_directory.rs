//! Directories that are written beside their place and renamed when complete.

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};

use super::directory::{directory_of, sync_directory};
use super::partial;

/// A directory under construction; [`AtomicDirectory::commit`] renames it to its target, and dropping
/// it uncommitted removes it.
#[derive(Debug)]
pub struct AtomicDirectory {
    target: PathBuf,
    partial: PathBuf,
    /// Tells others that the directory is being worked on.
    _lock: Option<File>,
}

impl AtomicDirectory {
    /// Makes the temporary directory, and missing ones above it.
    ///
    /// # Errors
    /// A target that is there and no empty directory; a place that cannot be written.
    pub fn create(target: &Path) -> io::Result<Self> {
        match fs::read_dir(target).map(|mut entries| entries.next().is_some()) {
            Ok(true) => {
                let problem = "the directory is not empty; empty it or give another one";
                return Err(io::Error::new(io::ErrorKind::DirectoryNotEmpty, problem));
            }
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        fs::create_dir_all(directory_of(target))?;
        let (partial, lock) = partial::create_directory(target)?;
        Ok(Self { target: target.to_path_buf(), partial, _lock: lock })
    }

    /// Where the directory is until it is complete.
    pub fn path(&self) -> &Path {
        &self.partial
    }

    /// Renames the directory to its target.
    ///
    /// # Errors
    /// What the system says.
    pub fn commit(self) -> io::Result<()> {
        if self.target.exists() {
            fs::remove_dir(&self.target)?;
        }
        fs::rename(&self.partial, &self.target)?;
        sync_directory(directory_of(&self.target));
        Ok(())
    }
}

impl Drop for AtomicDirectory {
    fn drop(&mut self) {
        // After a commit the directory is gone and this is a no-op; a failure here must not hide
        // the error that led to the drop.
        let _ = fs::remove_dir_all(&self.partial);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_directory_appears_complete_or_not_at_all() {
        let place = tempfile::tempdir().unwrap();
        let target = place.path().join("sub/model");
        let written = || {
            let directory = AtomicDirectory::create(&target).unwrap();
            fs::write(directory.path().join("config.json"), "{}").unwrap();
            directory
        };
        drop(written());
        assert_eq!(fs::read_dir(place.path().join("sub")).unwrap().count(), 0);
        fs::create_dir(&target).unwrap();
        written().commit().unwrap();
        assert_eq!(fs::read(target.join("config.json")).unwrap(), b"{}");
        assert_eq!(fs::read_dir(place.path().join("sub")).unwrap().count(), 1);
        let error = AtomicDirectory::create(&target).unwrap_err();
        assert!(error.to_string().contains("not empty"), "{error}");
    }
}
