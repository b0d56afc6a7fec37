//! What is under construction: it stands beside its place as `<name>.partial-<8 hexadecimal digits>`.
//!
//! The digits are random and the file must be new, so that the name is neither that of another
//! process, which may have the same number in another container, nor a link that somebody has put
//! there. Whoever is at work holds a lock, which ends with the process. What nobody has locked was
//! left by a process that was killed, and is removed when the same place is written again.

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};

use super::directory::directory_of;

const MARK: &[u8] = b".partial-";
const DIGITS: usize = 8;
/// Names that are tried. Chance alone hardly ever takes a second one.
const ATTEMPTS: usize = 100;

/// Makes a new, locked file beside `target`, whose directory is there. What killed processes have
/// left of the same target is removed.
pub(super) fn create_file(target: &Path) -> io::Result<(PathBuf, File)> {
    create(target, |path| File::options().read(true).write(true).create_new(true).open(path))
}

/// The same for a directory. Where directories cannot be opened, nothing comes back to hold the lock.
pub(super) fn create_directory(target: &Path) -> io::Result<(PathBuf, Option<File>)> {
    #[cfg(unix)]
    let make = |path: &Path| fs::create_dir(path).and_then(|()| File::open(path)).map(Some);
    #[cfg(not(unix))]
    let make = |path: &Path| fs::create_dir(path).map(|()| None);
    create(target, make)
}

fn create<T: Lock>(
    target: &Path,
    make: impl Fn(&Path) -> io::Result<T>,
) -> io::Result<(PathBuf, T)> {
    let name = target.file_name().unwrap_or_default().as_encoded_bytes();
    remove_leftovers(directory_of(target), |left| left == name);
    for _ in 0..ATTEMPTS {
        let path = partial_path(target)?;
        match make(&path) {
            Ok(made) if made.claim(&path) => return Ok((path, made)),
            // Another process has found it before the lock was there, and removes it.
            Ok(_) => {}
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
            Err(error) => return Err(error),
        }
    }
    let problem = "no temporary name beside it is free";
    Err(io::Error::new(io::ErrorKind::AlreadyExists, problem))
}

fn partial_path(target: &Path) -> io::Result<PathBuf> {
    let name = target
        .file_name()
        .ok_or_else(|| io::Error::new(io::ErrorKind::InvalidInput, "the path names no file"))?;
    let mut name = name.to_os_string();
    name.push(format!(".partial-{:0DIGITS$x}", rand::random::<u32>()));
    Ok(target.with_file_name(name))
}

/// What says that somebody is at work.
trait Lock {
    /// Takes the lock of what has just been made. False where somebody has taken it for a leftover.
    fn claim(&self, path: &Path) -> bool;
}

impl Lock for File {
    fn claim(&self, path: &Path) -> bool {
        match self.try_lock() {
            Ok(()) => path.exists(),
            Err(fs::TryLockError::WouldBlock) => false,
            // Where there are no locks, nobody takes anything for a leftover.
            Err(fs::TryLockError::Error(_)) => true,
        }
    }
}

impl Lock for Option<File> {
    fn claim(&self, path: &Path) -> bool {
        self.as_ref().is_none_or(|file| file.claim(path))
    }
}

/// Removes what killed processes have left in a directory of targets that are told by their names.
pub fn remove_leftovers(directory: &Path, is_target: impl Fn(&[u8]) -> bool) {
    let Ok(entries) = fs::read_dir(directory) else { return };
    for entry in entries.flatten() {
        let is_leftover = target_of(entry.file_name().as_encoded_bytes()).is_some_and(&is_target);
        if is_leftover && remove_unlocked(&entry.path()).is_ok() {
            tracing::info!("{}: removed, left by a run that was killed", entry.path().display());
        }
    }
}

/// The name of the target, if [`partial_path`] gives names like this one.
fn target_of(name: &[u8]) -> Option<&[u8]> {
    let (rest, digits) = name.split_at_checked(name.len().checked_sub(DIGITS)?)?;
    let is_digit = |byte: &u8| matches!(byte, b'0'..=b'9' | b'a'..=b'f');
    rest.strip_suffix(MARK).filter(|_| digits.iter().all(is_digit))
}

/// Removes a file or directory that nobody has locked.
fn remove_unlocked(path: &Path) -> io::Result<()> {
    let kind = fs::symlink_metadata(path)?;
    if !kind.is_file() && !kind.is_dir() {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    File::open(path)?.try_lock()?;
    if kind.is_dir() { fs::remove_dir_all(path) } else { fs::remove_file(path) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_names_of_ours_are_leftovers() {
        let is_leftover = |name: &str| target_of(name.as_bytes()) == Some(&b"m.gguf"[..]);
        assert!(is_leftover("m.gguf.partial-0123abcd"));
        let others = [
            "m.gguf",
            "m.gguf.partial-1234",
            "m.gguf.partial-0123ABCD",
            "a.m.gguf.partial-0123abcd",
        ];
        for other in others {
            assert!(!is_leftover(other), "{other}");
        }
    }

    #[test]
    fn what_is_left_goes_and_what_is_worked_on_stays() {
        let directory = tempfile::tempdir().unwrap();
        let target = directory.path().join("m.gguf");
        let (left, file) = create_file(&target).unwrap();
        drop(file);
        let (worked_on, _file) = create_file(&target).unwrap();
        assert!(!left.exists());
        let (other, _other_file) = create_file(&target).unwrap();
        assert!(worked_on.exists() && other.exists() && worked_on != other);
    }

    #[cfg(unix)]
    #[test]
    fn a_left_directory_goes_with_what_is_in_it() {
        let directory = tempfile::tempdir().unwrap();
        let target = directory.path().join("model");
        let (left, lock) = create_directory(&target).unwrap();
        fs::write(left.join("config.json"), "{}").unwrap();
        let (worked_on, _lock) = create_directory(&target).unwrap();
        assert!(left.exists());
        drop(lock);
        let (_, _third) = create_directory(&target).unwrap();
        assert!(!left.exists() && worked_on.exists());
    }

    #[cfg(unix)]
    #[test]
    fn links_and_pipes_of_others_are_left_alone() {
        let directory = tempfile::tempdir().unwrap();
        let target = directory.path().join("m.gguf");
        let victim = directory.path().join("victim");
        fs::write(&victim, "kept").unwrap();
        let link = directory.path().join("m.gguf.partial-00000000");
        std::os::unix::fs::symlink(&victim, &link).unwrap();
        let (path, _file) = create_file(&target).unwrap();
        assert!(link.is_symlink() && path != link);
        assert_eq!(fs::read(victim).unwrap(), b"kept");
    }
}
