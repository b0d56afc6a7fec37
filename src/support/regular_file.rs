//! Reading regular files only: devices and pipes may have no end.

use std::fs::{self, File};
use std::io::{self, Read};
use std::path::Path;

/// Opens a file to read.
///
/// # Errors
/// A file that cannot be opened, or that is no regular one.
pub fn open_regular(path: &Path) -> io::Result<File> {
    let problem = match fs::metadata(path)? {
        found if found.is_file() => return File::open(path),
        found if found.is_dir() => "this is a directory; name a file to read",
        _ => "this is no regular file but a device, a pipe or a socket; name a file to read",
    };
    Err(io::Error::new(io::ErrorKind::InvalidInput, problem))
}

/// Reads a whole file.
///
/// # Errors
/// As [`open_regular`], and a file that cannot be read.
pub fn read_regular(path: &Path) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    open_regular(path)?.read_to_end(&mut bytes)?;
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_regular_files_are_read() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("file");
        fs::write(&path, "text").unwrap();
        assert_eq!(read_regular(&path).unwrap(), b"text");
        let error = read_regular(directory.path()).unwrap_err();
        assert!(error.to_string().contains("a directory"), "{error}");
        #[cfg(unix)]
        {
            let error = read_regular(Path::new("/dev/zero")).unwrap_err();
            assert!(error.to_string().contains("no regular file"), "{error}");
        }
    }
}
