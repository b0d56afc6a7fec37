//! Reading regular files only: devices and pipes may have no end.

use std::fs::File;
use std::io::{self, Read};
use std::path::Path;

use super::lfs_pointer;

const DIRECTORY: &str = "this is a directory; name a file to read";

/// Opens a file to read.
///
/// # Errors
/// A file that cannot be opened, or that is no regular one.
pub fn open_regular(path: &Path) -> io::Result<File> {
    let file = open_without_waiting(path)?;
    let kind = file.metadata()?;
    if kind.is_file() {
        return Ok(file);
    }
    let problem = match kind.is_dir() {
        true => DIRECTORY,
        false => "this is not a regular file but a device, a pipe or a socket; name a file to read",
    };
    Err(io::Error::new(io::ErrorKind::InvalidInput, problem))
}

/// Opens a file of any kind. A pipe that nobody writes to does not keep the process waiting.
#[cfg(unix)]
fn open_without_waiting(path: &Path) -> io::Result<File> {
    use std::os::unix::fs::OpenOptionsExt;

    File::options().read(true).custom_flags(libc::O_NONBLOCK).open(path)
}

/// On other systems a directory cannot be opened like a file, so it is looked for first.
#[cfg(not(unix))]
fn open_without_waiting(path: &Path) -> io::Result<File> {
    if path.is_dir() {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, DIRECTORY));
    }
    File::open(path)
}

/// Reads a whole file.
///
/// # Errors
/// As [`open_regular`], a file that cannot be read, and one that only points to another.
pub fn read_regular(path: &Path) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    open_regular(path)?.read_to_end(&mut bytes)?;
    match lfs_pointer::problem(&bytes) {
        None => Ok(bytes),
        Some(problem) => Err(io::Error::new(io::ErrorKind::InvalidData, problem)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_regular_files_are_read() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("file");
        std::fs::write(&path, "text").unwrap();
        assert_eq!(read_regular(&path).unwrap(), b"text");
        let error = read_regular(directory.path()).unwrap_err();
        assert!(error.to_string().contains("a directory"), "{error}");
        #[cfg(unix)]
        {
            let error = read_regular(Path::new("/dev/zero")).unwrap_err();
            assert!(error.to_string().contains("not a regular file"), "{error}");
            let pipe = directory.path().join("pipe");
            let made = std::process::Command::new("mkfifo").arg(&pipe).status().unwrap();
            assert!(made.success());
            let error = read_regular(&pipe).unwrap_err();
            assert!(error.to_string().contains("not a regular file"), "{error}");
        }
    }
}
