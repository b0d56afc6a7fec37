//! SHA-256 of files, for recognising models and question sets and for checking downloads.

use std::collections::HashMap;
use std::fmt::Write as _;
use std::fs;
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use std::time::SystemTime;

use sha2::{Digest, Sha256};

use super::interrupt;
use super::progress::{Progress, Unit};
use super::regular_file::open_regular;

/// Lower-case hexadecimal SHA-256 of a whole file, read in chunks, with a progress bar.
///
/// # Errors
/// A file that cannot be read or is no regular one; an interruption.
pub fn sha256_file(path: &Path) -> io::Result<String> {
    let file = open_regular(path)?;
    let progress = Progress::new("checksum", file.metadata()?.len(), Unit::Bytes);
    progress.message(path.file_name().unwrap_or_default().to_string_lossy());
    let hash = sha256(file, |count| {
        progress.advance(count);
        interrupt::check().map_err(io::Error::other)
    });
    progress.finish();
    hash
}

/// [`sha256_file`], but a file whose length and time of modification are what they were when this
/// process last read it whole is not read again: for large files that several steps identify.
///
/// # Errors
/// As [`sha256_file`].
pub fn sha256_file_once(path: &Path) -> io::Result<String> {
    static KNOWN: Mutex<Option<HashMap<State, String>>> = Mutex::new(None);
    let known = || KNOWN.lock().unwrap_or_else(PoisonError::into_inner);
    let before = State::of(path)?;
    if let Some(hash) = known().as_ref().and_then(|known| known.get(&before)) {
        return Ok(hash.clone());
    }
    let hash = sha256_file(path)?;
    if State::of(path)? == before {
        known().get_or_insert_default().insert(before, hash.clone());
    }
    Ok(hash)
}

/// What changes when a file is written to.
#[derive(Debug, PartialEq, Eq, Hash)]
struct State {
    path: PathBuf,
    length: u64,
    modified: SystemTime,
}

impl State {
    fn of(path: &Path) -> io::Result<Self> {
        let metadata = fs::metadata(path)?;
        let (length, modified) = (metadata.len(), metadata.modified()?);
        Ok(Self { path: path.canonicalize()?, length, modified })
    }
}

/// Lower-case hexadecimal SHA-256 of some bytes.
pub fn sha256_bytes(bytes: &[u8]) -> String {
    hex(&Sha256::digest(bytes))
}

/// Lower-case hexadecimal SHA-256 of everything that a reader yields.
///
/// # Errors
/// Those of the reader.
pub fn sha256_reader(reader: impl Read) -> io::Result<String> {
    sha256(reader, |_| Ok(()))
}

/// Tells `after_chunk` how many bytes each chunk had; it may stop the work.
fn sha256(
    mut reader: impl Read,
    mut after_chunk: impl FnMut(u64) -> io::Result<()>,
) -> io::Result<String> {
    let mut hasher = Sha256::new();
    let mut buffer = vec![0u8; 1 << 20];
    loop {
        let read = reader.read(&mut buffer)?;
        if read == 0 {
            return Ok(hex(&hasher.finalize()));
        }
        hasher.update(&buffer[..read]);
        after_chunk(read as u64)?;
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::with_capacity(bytes.len() * 2), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::{sha256_file, sha256_file_once};

    #[test]
    fn a_file_that_changed_is_read_again() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("model.bin");
        for content in ["one", "one and more"] {
            fs::write(&path, content).unwrap();
            let hash = sha256_file(&path).unwrap();
            assert_eq!(sha256_file_once(&path).unwrap(), hash);
            assert_eq!(sha256_file_once(&path).unwrap(), hash);
        }
    }

    #[test]
    fn matches_the_standard_test_vector() {
        assert_eq!(
            super::sha256_reader(&b"abc"[..]).unwrap(),
            "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
        );
    }
}
